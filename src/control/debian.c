/*
 * A Debian system from packages: the names in its command lines, and how it is set up.
 *
 * sources.list(5), apt.conf(5), mmdebstrap(1). The system has one ext4 without a
 * partition table, networkd and resolved, and a root who can log in on the serial console
 * only: there without a password, and by ssh with a key. No user, no boot loader. Main
 * thread.
 */
#include "control/debian.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

/* The drivers of the initrd are those of disks that a virtual machine can have; "most"
 * would make it ten times as large, and the boot slower. */
const char debian_hook[] =
	"set -eu\n"
	"r=$1\n"
	"echo debian >\"$r/etc/hostname\"\n"
	"printf '%s\\n' '127.0.0.1 localhost' '127.0.1.1 debian' \\\n"
	"	'::1 localhost ip6-localhost ip6-loopback' >\"$r/etc/hosts\"\n"
	"echo 'LABEL=root / ext4 defaults 0 1' >\"$r/etc/fstab\"\n"
	/* Empty: each copy of the image gets its own, at its first boot. */
	": >\"$r/etc/machine-id\"\n"
	"rm -f \"$r/etc/apt/apt.conf.d/99mmdebstrap\" \"$r/var/lib/dbus/machine-id\" \\\n"
	"	\"$r/etc/dpkg/dpkg.cfg.d/99mmdebstrap\"\n"
	"mkdir -p \"$r/etc/systemd/network\"\n"
	"printf '%s\\n' '[Match]' 'Name=en* eth*' '[Network]' 'DHCP=yes' \\\n"
	"	>\"$r/etc/systemd/network/80-dhcp.network\"\n"
	"d=\"$r/etc/systemd/system/serial-getty@ttyS0.service.d\"\n"
	"mkdir -p \"$d\"\n"
	"printf '%s\\n' '[Service]' 'ExecStart=' \\\n"
	"	'ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM' "
	"\\\n"
	"	>\"$d/autologin.conf\"\n"
	"chroot \"$r\" systemctl --quiet enable systemd-networkd systemd-resolved\n"
	"ln -sf ../run/systemd/resolve/stub-resolv.conf \"$r/etc/resolv.conf\"\n"
	"echo MODULES=list >\"$r/etc/initramfs-tools/conf.d/disks\"\n"
	"printf '%s\\n' virtio_pci virtio_blk virtio_scsi nvme ahci ata_piix sd_mod ext4 "
	"\\\n"
	"	>>\"$r/etc/initramfs-tools/modules\"\n"
	"chroot \"$r\" update-initramfs -u -k all\n"
	/* Host keys are each copy's own too. */
	"if [ -e \"$r/usr/sbin/sshd\" ]; then\n"
	"	rm -f \"$r\"/etc/ssh/ssh_host_*_key*\n"
	"	mkdir -p \"$r/etc/systemd/system/ssh.service.d\"\n"
	"	printf '%s\\n' '[Service]' 'ExecStartPre=' "
	"'ExecStartPre=/usr/bin/ssh-keygen -A' \\\n"
	"		'ExecStartPre=/usr/sbin/sshd -t' \\\n"
	"		>\"$r/etc/systemd/system/ssh.service.d/keys.conf\"\n"
	"fi\n";

bool debian_suite_ok(const char *suite)
{
	size_t len = strspn(suite, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return len && len < 64 && !suite[len] && islower((unsigned char)suite[0]);
}

int debian_check_packages(const char *list, struct error *err)
{
	static const char sep[] = ", \t\n";

	for (const char *s = list + strspn(list, sep); *s; s += strspn(s, sep)) {
		size_t len = strcspn(s, sep);
		size_t good = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789+.-");

		/* Debian policy 5.6.1 */
		if (good < len || len < 2 || !isalnum((unsigned char)s[0]))
			return error_set(err, -EINVAL,
					 "'%.*s' is not the name of a package",
					 (int)MIN(len, (size_t)64), s);
		s += len;
	}
	return 0;
}

/* The next line, without its newline; NULL at the end. */
static const char *next_line(const char **text, size_t *len)
{
	const char *line = *text;

	if (!*line)
		return NULL;
	*len = strcspn(line, "\n");
	*text = line + *len + (line[*len] == '\n');
	return line;
}

static bool holds_line(const char *text, const char *line, size_t len)
{
	const char *l;
	size_t n;

	while ((l = next_line(&text, &n)))
		if (n == len && !memcmp(l, line, len))
			return true;
	return false;
}

static bool of_suite(const char *release, size_t len, const char *suite)
{
	static const char *const more[] = { "", "-updates", "-security", "/updates" };
	char name[80];

	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		snprintf(name, sizeof(name), "%s%s", suite, more[i]);
		if (strlen(name) == len && !memcmp(name, release, len))
			return true;
	}
	return false;
}

/* "deb URI RELEASE COMPONENT", of this suite? */
static bool is_source(const char *line, size_t len, const char *suite)
{
	size_t at = 4, start = 0, word;

	if (len < 4 || memcmp(line, "deb ", 4))
		return false;
	for (int i = 0; i < 2; i++) {
		start = at;
		while (at < len && line[at] != ' ')
			at++;
		word = at - start;
		if (!word || at++ >= len)
			return false;
	}
	return of_suite(line + start, word, suite);
}

char *debian_sources(const char *text, const char *suite)
{
	char *out = xzalloc(strlen(text) + 2), *to = out;
	const char *line;
	size_t len;

	while ((line = next_line(&text, &len))) {
		if (!is_source(line, len, suite) || holds_line(out, line, len))
			continue;
		memcpy(to, line, len);
		to[len] = '\n';
		to += len + 1;
	}
	return out;
}

char *debian_apt_options(const char *text)
{
	static const char *const wanted[] = {
		"Acquire::http::",  "Acquire::https::", "Acquire::Check-",
		"Acquire::Retries", "Acquire::Force",
	};
	char *out = xzalloc(strlen(text) + 2), *to = out;
	const char *line;
	size_t len;

	while ((line = next_line(&text, &len)))
		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
			size_t n = strlen(wanted[i]);

			if (len <= n + 4 || memcmp(line, wanted[i], n) ||
			    !memcmp(line + len - 4, " \"\";", 4))
				continue;
			memcpy(to, line, len);
			to[len] = '\n';
			to += len + 1;
		}
	return out;
}

char *debian_quote(const char *s)
{
	char *out = xzalloc(strlen(s) * 4 + 3), *to = out;

	*to++ = '\'';
	for (; *s; s++) {
		if (*s == '\'') {
			memcpy(to, "'\\''", 4);
			to += 4;
		} else {
			*to++ = *s;
		}
	}
	*to = '\'';
	return out;
}

/* What apt says about the cause comes before and after what it says about the
 * consequence. */
static int telling(const char *line)
{
	static const char *const causes[] = { "Failed to fetch",
					      "Unable to locate package",
					      "has no installation candidate",
					      "No space left on device" };

	for (size_t i = 0; i < ARRAY_SIZE(causes); i++)
		if (strstr(line, causes[i]))
			return 2;
	return !strncmp(line, "E: ", 3);
}

bool debian_tells_more(const char *line, const char *best)
{
	return telling(line) > telling(best);
}

char *debian_beside(const char *path, const char *what)
{
	const char *name = strrchr(path, '/'), *dot = strrchr(name ? name : path, '.');
	size_t stem = dot && dot > (name ? name + 1 : path) ? (size_t)(dot - path)
							    : strlen(path);
	size_t room = stem + strlen(what) + 2;
	char *out = xzalloc(room);

	snprintf(out, room, "%.*s.%s", (int)stem, path, what);
	return out;
}
