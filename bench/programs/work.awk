# Word counts, fields and associative arrays.
{
	for (i = 1; i <= NF; i++) {
		gsub(/[^A-Za-z_]/, "", $i)
		if (length($i) > 2)
			count[tolower($i)]++
	}
	lines[length($0) % 80] += NR
}
END {
	for (w in count)
		sum += count[w] * length(w)
	for (l in lines)
		sum += lines[l] % 1000
	printf "sum=%016x\n", sum
}
