# What ordinary Perl programs do: hashes, regular expressions, split, join, sort.
use strict;
my ($turns, $path) = @ARGV;
my $sum = 0;
while ($turns--) {
	my (%count, %after, $last);
	open my $f, '<', $path or die "$path: $!";
	while (<$f>) {
		next if /^\s*(#|$)/;
		s/\s+/ /g;
		for (split /\W+/) {
			next unless /^[A-Za-z_]\w*$/;
			$count{lc $_}++;
			$after{$last}{$_}++ if defined $last;
			$last = $_;
		}
		last if $. > 8000;
	}
	my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 99];
	$sum += length(join ',', map { "$_=$count{$_}" } @top) + keys %after;
}
printf "sum=%016x\n", $sum;
