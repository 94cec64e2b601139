# The names of the things one does. meson does the work; tools/setup installs
# what is missing first, and says nothing when nothing is.
#
#   make                    build build/umbra
#   make run ARGS="-m 1G"   build it and boot a Debian kernel to a shell
#   make test               everything there is to check, ends with one line of counts
#   make bench              measure beside QEMU, some 20 minutes; ARGS="--rows fib"
#   make bench-quick        the same with less work in each row, some 4 minutes
#   make bench-io           disks and networks beside QEMU, in a Debian guest, some 10 minutes
#   make fuzz [TARGET=x]    fuzz with libFuzzer, SECONDS each
#   make format             rewrite the sources the way clang-format wants them
#   make clean              remove build/

BUILD   ?= build
ARGS    ?=
TARGET  ?=
SECONDS ?= 60

PROGRAMS := umbra umbra-agent

export BUILD

all: build

build: $(BUILD)/build.ninja
	@tools/setup build
	@ninja -n -C $(BUILD) $(PROGRAMS) | grep -q 'no work to do' || ninja -C $(BUILD) $(PROGRAMS)

$(BUILD)/build.ninja:
	@tools/setup build
	@meson setup $(BUILD) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

run: build
	@tools/setup guest
	@tools/guest $(BUILD)
	@exec $(BUILD)/umbra run $(ARGS)

test:
	@tools/setup build guest test
	@tools/run-tests

bench: build
	@tools/setup guest bench
	@tools/guest $(BUILD)
	@bench/run $(ARGS)

bench-quick: build
	@tools/setup guest bench
	@tools/guest $(BUILD)
	@bench/run --quick $(ARGS)

bench-io: build
	@tools/setup bench image
	@bench/io $(ARGS)

fuzz:
	@tools/setup build test
	@tools/fuzz '$(TARGET)' $(SECONDS)

format:
	@tools/setup test
	@find src tests tools -name '*.[ch]' -exec clang-format-14 -i {} +

clean:
	rm -rf $(BUILD)

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

.PHONY: all build run test bench bench-quick bench-io fuzz format clean help
