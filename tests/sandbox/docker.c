/* docker PROGRAM [ARG]...: runs a program as in a container of Docker as it comes: its
 * seccomp profile, its capabilities, its /dev. Root stays root, with no more than
 * such a container's; others become what they are. For tests of what devmap can do
 * there, on machines without Docker. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What its default profile does not list, or only with a capability that it drops. The
 * profile is of moby/profiles; `ptrace` and its kin are listed since kernel 4.8. */
static const int refused[] = {
	/* with CAP_SYS_ADMIN, CAP_BPF, CAP_PERFMON or CAP_SYSLOG */
	SYS_bpf, SYS_fanotify_init, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick,
	SYS_lookup_dcookie, SYS_mount, SYS_mount_setattr, SYS_move_mount, SYS_open_tree,
	SYS_perf_event_open, SYS_quotactl, SYS_quotactl_fd, SYS_setdomainname,
	SYS_sethostname, SYS_setns, SYS_syslog, SYS_umount2, SYS_unshare,
	/* with CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_NICE and others */
	SYS_kcmp, SYS_pidfd_getfd, SYS_process_madvise, SYS_open_by_handle_at, SYS_reboot,
	SYS_delete_module, SYS_init_module, SYS_finit_module, SYS_acct, SYS_iopl, SYS_ioperm,
	SYS_settimeofday, SYS_clock_settime, SYS_vhangup, SYS_get_mempolicy, SYS_mbind,
	SYS_set_mempolicy, SYS_set_mempolicy_home_node,
	/* never */
	SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
	SYS_add_key, SYS_keyctl, SYS_request_key, SYS_kexec_load, SYS_kexec_file_load,
	SYS_pivot_root, SYS_swapon, SYS_swapoff, SYS_migrate_pages, SYS_move_pages,
	SYS_nfsservctl, SYS_sysfs, SYS__sysctl, SYS_uselib, SYS_ustat,
};

#define NAMESPACES 0x7e020000 /* CLONE_NEW* but CLONE_NEWTIME, which clone has no bit for */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define UNLESS(test, value, skip) BPF_JUMP(BPF_JMP | test | BPF_K, value, 0, skip)
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void die(const char *what)
{
	fprintf(stderr, "docker: %s: %s\n", what, strerror(errno));
	exit(99);
}

static void check(int result, const char *what)
{
	if (result < 0)
		die(what);
}

static void append(struct sock_filter **at, const struct sock_filter *more, size_t count)
{
	memcpy(*at, more, count * sizeof(*more));
	*at += count;
}

static void filter(void)
{
	static struct sock_filter program[COUNT(refused) * 2 + 32];
	struct sock_filter *at = program;
	const struct sock_filter first[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		/* The profile has the 32-bit calls too; no program of the tests here. */
		RETURN(SECCOMP_RET_ERRNO | EPERM),
		LOAD(nr),
		UNLESS(BPF_JEQ, SYS_clone3, 1),
		RETURN(SECCOMP_RET_ERRNO | ENOSYS),
		UNLESS(BPF_JEQ, SYS_clone, 3),
		LOAD(args[0]),
		UNLESS(BPF_JSET, NAMESPACES, 1),
		RETURN(SECCOMP_RET_ERRNO | EPERM),
		LOAD(nr),
	};
	const struct sock_filter last[] = { RETURN(SECCOMP_RET_ALLOW) };
	struct sock_fprog whole;

	append(&at, first, COUNT(first));
	for (size_t i = 0; i < COUNT(refused); i++) {
		const struct sock_filter one[] = {
			UNLESS(BPF_JEQ, (unsigned)refused[i], 1),
			RETURN(SECCOMP_RET_ERRNO | EPERM),
		};
		append(&at, one, COUNT(one));
	}
	append(&at, last, COUNT(last));
	whole.len = (unsigned short)(at - program);
	whole.filter = program;
	check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole), "seccomp");
}

/* Its /dev has these and no other devices, so no /dev/fuse. */
static void small_dev(void)
{
	static const char *const nodes[] = { "null", "zero", "full", "random", "urandom", "tty" };
	char old[64], new[64];

	check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount /");
	check(mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755"), "mount /mnt");
	for (size_t i = 0; i < COUNT(nodes); i++) {
		snprintf(old, sizeof(old), "/dev/%s", nodes[i]);
		snprintf(new, sizeof(new), "/mnt/%s", nodes[i]);
		check(close(open(new, O_CREAT | O_WRONLY, 0666)), new);
		check(mount(old, new, NULL, MS_BIND, NULL), old);
	}
	check(mkdir("/mnt/shm", 0777), "shm");
	check(chmod("/mnt/shm", 01777), "shm");
	check(symlink("/proc/self/fd", "/mnt/fd"), "fd");
	check(symlink("fd/0", "/mnt/stdin"), "stdin");
	check(symlink("fd/1", "/mnt/stdout"), "stdout");
	check(symlink("fd/2", "/mnt/stderr"), "stderr");
	check(mount("/mnt", "/dev", NULL, MS_MOVE, NULL), "mount /dev");
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

static void map_ids(unsigned uid, unsigned gid)
{
	char text[64];

	write_file("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "%u %u 1", uid, uid);
	write_file("/proc/self/uid_map", text);
	snprintf(text, sizeof(text), "%u %u 1", gid, gid);
	write_file("/proc/self/gid_map", text);
}

/* Leaves the capabilities of `kept`. */
static void drop(unsigned long long kept)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	for (int cap = 0; cap <= 63; cap++)
		if (!(kept & 1ULL << cap) && prctl(PR_CAPBSET_READ, cap) == 1)
			check(prctl(PR_CAPBSET_DROP, cap), "PR_CAPBSET_DROP");
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	data[0].effective = data[0].permitted = (unsigned)kept;
	data[1].effective = data[1].permitted = (unsigned)(kept >> 32);
	check((int)syscall(SYS_capset, &header, data), "capset");
}

#define CAP(name) (1ULL << CAP_##name)

int main(int argc, char **argv)
{
	unsigned uid = getuid(), gid = getgid();

	if (argc < 2) {
		fprintf(stderr, "usage: docker PROGRAM [ARG]...\n");
		return 2;
	}
	if (uid == 0) {
		check(unshare(CLONE_NEWNS), "unshare");
		small_dev();
		filter(); /* before the capability to do so without no_new_privs goes */
		drop(CAP(CHOWN) | CAP(DAC_OVERRIDE) | CAP(FSETID) | CAP(FOWNER) | CAP(MKNOD) |
		     CAP(NET_RAW) | CAP(SETGID) | CAP(SETUID) | CAP(SETFCAP) | CAP(SETPCAP) |
		     CAP(NET_BIND_SERVICE) | CAP(SYS_CHROOT) | CAP(KILL) | CAP(AUDIT_WRITE));
	} else {
		check(unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare");
		map_ids(uid, gid);
		small_dev();
		drop(0);
		check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
		filter();
	}
	/* The changes of user and namespace would keep /proc/self from its owner. */
	check(prctl(PR_SET_DUMPABLE, 1), "PR_SET_DUMPABLE");
	execvp(argv[1], argv + 1);
	die(argv[1]);
}
