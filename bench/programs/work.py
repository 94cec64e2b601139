# What ordinary Python programs do: dictionaries, strings, objects, sorting, generators.
import sys


class Account:
    def __init__(self, name):
        self.name, self.balance, self.log = name, 0, []

    def post(self, amount):
        self.balance += amount
        self.log.append(amount)
        return self


def numbers(count, state):
    for _ in range(count):
        state = state * 6364136223846793005 + 1442695040888963407 & 0xffffffffffffffff
        yield state >> 33


def work(turn):
    accounts, words = {}, []
    for i, n in enumerate(numbers(20000, turn)):
        name = "account-%d" % (n % 977)
        accounts.setdefault(name, Account(name)).post(n % 1000 - 300)
        if i % 3 == 0:
            words.append(name.upper().replace("-", "/")[2:9])
    best = sorted(accounts.values(), key=lambda a: (-a.balance, a.name))[:50]
    lengths = [len(w) for w in set(" ".join(words).split())]
    return sum(a.balance * len(a.log) for a in best) + sum(lengths)


print("sum=%016x" % sum(work(i) for i in range(int(sys.argv[1]))))
