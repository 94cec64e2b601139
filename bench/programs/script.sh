# A shell script that starts $1 processes, most of them through pipes and substitutions.
left=$1 sum=0
while [ "$left" -gt 0 ]; do
	/bin/true
	echo "$left" | /bin/grep -q 1 && sum=$((sum + 1))
	word=$(/bin/basename "/usr/share/thing.$left" ".$left")
	sum=$((sum + ${#word}))
	left=$((left - 5))
done
echo "sum=$sum"
