#!/bin/sh
# The first process in QEMU: what `cargo xtask kernel` runs there. The results go to
# the second serial line, so that the kernel's own lines do not come in between.
#
# On the kernel's command line: devmap=test, supervised, camera, panic or figures.
export PATH=/bin NO_COLOR=1
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ln -s /proc/self/fd /dev/fd
stty -F /dev/ttyS1 -onlcr
exec </dev/null >/dev/ttyS1 2>&1

run() {
	echo "== run $*"
	"$@"
	echo "== exit $?"
}

# Runs devmap as root and as an ordinary user.
under() {
	run devmap "$@" </dev/null
	# shellcheck disable=SC2086 # words are what is wanted
	run $user devmap "$@" </dev/null
}

taint() {
	echo "== taint $(cat /proc/sys/kernel/tainted)"
}

task=$(sed 's/.*devmap=\([a-z]*\).*/\1/' /proc/cmdline)
case $task in
test)
	run insmod /devmap.ko
	run insmod /devmap_checks.ko
	# One program a line, with its arguments.
	while read -r line; do
		# shellcheck disable=SC2086 # words are what is wanted
		run $line
	done </programs
	run plans /dev/devmap_checks-plans
	run removal /devmap.ko /dev/devmap-
	run rmmod devmap_checks
	# The module of docs/kernel.md.
	run insmod /counter.ko
	run test -c /dev/counter-counter
	run hexdump -C /dev/counter-counter
	run rmmod counter
	taint
	;;
supervised)
	run insmod /fuse.ko
	chmod 666 /dev/fuse
	# A program's ptrace is for its descendants alone, as on most distributions.
	echo 1 >/proc/sys/kernel/yama/ptrace_scope
	# By its path, for the shell has one of its own that takes no user.
	user="/usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups"
	under doctor
	while read -r name path; do
		device=$path=${path#/dev/devmap-}
		under run --device "$device" -- "$name" "$path"
		case $name in
		# Memory, which is the same in both modes, and takes an emulated machine long.
		mem | pattern | wild) ;;
		*) under run --mode trapped --device "$device" -- "$name" "$path" ;;
		esac
	done </programs
	;;
camera)
	# The kernel's own test camera: one, with the one input of a webcam.
	while read -r module; do
		case $module in
		vivid*) run insmod "/$module" n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0 ;;
		*) run insmod "/$module" ;;
		esac
	done </packaged
	run camera /dev/video0
	;;
panic)
	run insmod /devmap_checks.ko
	run panic /dev/devmap_checks-plans
	;;
figures)
	run insmod /devmap.ko
	run insmod /peer.ko
	run figures
	taint
	;;
esac
echo "== done"
poweroff -f
