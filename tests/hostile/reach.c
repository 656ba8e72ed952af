/* reach PATH: has one page of a device's memory (see crates/cli/examples/one_page.rs) and
 * tries to reach the pages beside it, the memory's file, and the processes of devmap. */
#include "check.h"
#include "own_filter.h"

#include <dirent.h>
#include <linux/audit.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define GIVEN 0x5ec2e704u

static const char *path;
static int fd;

static volatile uint32_t *map_at(void *at, int prot, int flags)
{
	void *address = mmap(at, page, prot, flags, fd, 0);

	if (address == MAP_FAILED)
		die("mmap");
	return address;
}

static volatile uint32_t *map(void)
{
	return map_at(NULL, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void unmap(volatile void *at, size_t len)
{
	munmap((void *)at, len);
}

/* A call that shall not give a map. Where it gave one, says what is there. */
static void refused(const char *name, void *got)
{
	uint32_t word = 0;

	if (got != MAP_FAILED && !loads((char *)got + page))
		memcpy(&word, (char *)got + page, 4);
	check(name, 0, got != MAP_FAILED || word);
}

#define GROWS(name, old, new, flags, to) refused(name, mremap((void *)area, old, new, flags, to))

static void growth(void)
{
	volatile uint32_t *area = map_at(window(4 * page), PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_FIXED);
	volatile uint32_t *private = map_at(NULL, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *to = window(4 * page);

	check("given", GIVEN, area[0]);
	GROWS("grow", page, 2 * page, 0, NULL);
	GROWS("grow_elsewhere", page, 4 * page, MREMAP_MAYMOVE, NULL);
	GROWS("grow_to", page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	GROWS("second", 0, page, MREMAP_MAYMOVE, NULL);
	GROWS("second_larger", 0, 4 * page, MREMAP_MAYMOVE, NULL);
	GROWS("second_to", 0, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	GROWS("rounded_to_0", (size_t)-1, 2 * page, MREMAP_MAYMOVE, NULL);
	GROWS("keeping_the_old", page, 2 * page, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	refused("grow_private", mremap((void *)private, page, 2 * page, MREMAP_MAYMOVE));
	CALL("remap_file_pages", EINVAL, (int)syscall(SYS_remap_file_pages, area, page, 0, 5, 0));
	check("still_given", GIVEN, area[0]);
	unmap(private, page);
	unmap(area, page);
}

/* A file whose name is no text stands in /proc/self/maps beside it. */
static void odd_names(void)
{
	char name[] = "/tmp/devmap-\xff\xfe-XXXXXX";
	int file = mkstemp(name);
	volatile uint32_t *area = map();

	if (file < 0 || ftruncate(file, page) ||
	    mmap(NULL, page, PROT_READ, MAP_SHARED, file, 0) == MAP_FAILED)
		die("odd name");
	unlink(name);
	GROWS("beside_an_odd_name", page, 2 * page, MREMAP_MAYMOVE, NULL);
	unmap(area, page);
	close(file);
}

static void undumpable(void)
{
	volatile uint32_t *area = map();

	prctl(PR_SET_DUMPABLE, 0);
	GROWS("undumpable", page, 2 * page, MREMAP_MAYMOVE, NULL);
	prctl(PR_SET_DUMPABLE, 1);
	unmap(area, page);
}

#ifdef __x86_64__
static long ia32(long number, long a, long b, long c, long d, long e)
{
	long result;

	__asm__ volatile("sub $128, %%rsp\n\tpush %%rbp\n\txor %%ebp, %%ebp\n\tint $0x80\n\t"
			 "pop %%rbp\n\tadd $128, %%rsp"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	return (int)result;
}

static int ia32_grows(void *at)
{
	long got = ia32(163, (long)at, page, 2 * page, MREMAP_MAYMOVE, 0);

	return got < 0 && got > -200 ? (int)-got : 0;
}

static int ia32_remaps(void *at)
{
	return (int)-ia32(257, (long)at, page, 0, 5, 0);
}

/* The calls of other programs, made by this one. Where the kernel has none of 32 bits, the
 * child dies of it. */
static void other_calls(void)
{
	volatile uint32_t *area = map_at(NULL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_32BIT);
	int got = in_child(ia32_grows, (void *)area);

	check("ia32_mremap", 1, got == EFAULT || got == ENOSYS || got > 1000);
	got = in_child(ia32_remaps, (void *)area);
	check("ia32_remap_file_pages", 1, got == EINVAL || got == ENOSYS || got > 1000);
	refused("x32_mremap", (void *)syscall(0x40000000 | SYS_mremap, area, page, 2 * page,
					      MREMAP_MAYMOVE, 0));
	unmap(area, page);
}
#else
static void other_calls(void)
{
}
#endif

static void rights(void)
{
	int writable = fd;
	volatile uint32_t *area;

	fd = open(path, O_RDONLY);
	if (fd < 0)
		die("open for reading");
	area = map_at(NULL, PROT_READ, MAP_SHARED);
	CALL("mprotect", EACCES, mprotect((void *)area, page, PROT_READ | PROT_WRITE));
	CALL("pkey_mprotect", EACCES,
	     (int)syscall(SYS_pkey_mprotect, area, page, PROT_READ | PROT_WRITE, -1));
	MAPS("writable_map", EACCES, mmap(NULL, page, PROT_WRITE, MAP_SHARED, fd, 0));
	check("no_store", SIGSEGV, stores(area));
	unmap(area, page);
	close(fd);
	fd = writable;
}

/* Nothing of it can be cut, punched or grown, by whatever name. */
static void sizes(void)
{
	char name[64];
	volatile uint32_t *area = map();
	char *before = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char byte = 'x';

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	CALL("ftruncate", EINVAL, ftruncate(fd, 0));
	CALL("ftruncate_longer", EINVAL, ftruncate(fd, 1 << 20));
	CALL("truncate", EINVAL, truncate(path, 0));
	check("truncate_by_proc", -1, truncate(name, 0));
	CALL("punch", ENODEV, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page));
	check("collapse", -1, fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, page));
	CALL("madvise_remove", ENODEV, madvise((void *)area, page, MADV_REMOVE));
	/* The range begins in other memory. */
	map_at(before + page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED);
	CALL("madvise_remove_from_before", ENODEV, madvise(before, 2 * page, MADV_REMOVE));
	madvise((void *)area, page, MADV_DONTNEED);
	check("content_after_all_that", GIVEN, area[0]);
	check("no_write_method", -1, (int)pwrite(fd, &byte, 1, page));
	munmap(before, 2 * page);
	unmap(area, page);
}

/* No descriptor of this process is the memory's, or one that speaks for devmap. */
static int count_foreign(void)
{
	DIR *all = opendir("/proc/self/fd");
	struct dirent *entry;
	char target[256];
	int foreign = 0;

	while (all && (entry = readdir(all))) {
		ssize_t len = readlinkat(dirfd(all), entry->d_name, target, sizeof(target) - 1);

		target[len > 0 ? len : 0] = 0;
		foreign += strstr(target, "memfd:") || strstr(target, "seccomp") ||
			   strstr(target, "/dev/fuse");
	}
	closedir(all);
	return foreign;
}

static void descriptors(void)
{
	volatile uint32_t *area = map();
	char name[96];
	int got;

	check("no_foreign_descriptor", 0, count_foreign());
	snprintf(name, sizeof(name), "/proc/self/map_files/%lx-%lx", (long)area, (long)area + page);
	got = open(name, O_RDWR);
	/* Root of the machine may open anything. */
	if (got >= 0 && getuid() == 0)
		note("map_files", "root");
	else
		check("map_files", -1, got);
	unmap(area, page);
}

static int parent_of(int pid)
{
	char name[64], text[512], *after;
	int parent = 0, file;
	ssize_t len;

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	file = open(name, O_RDONLY);
	len = read(file, text, sizeof(text) - 1);
	close(file);
	text[len > 0 ? len : 0] = 0;
	after = strrchr(text, ')');
	return after && sscanf(after, ") %*c %d", &parent) == 1 ? parent : 0;
}

static void look_into(int pid, const char *who)
{
	char name[64], what[64], bytes[16];
	struct iovec here = { bytes, sizeof(bytes) }, there = { (void *)&fd, sizeof(bytes) };
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	snprintf(what, sizeof(what), "%s_memory", who);
	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	check(what, -1, open(name, O_RDWR));
	snprintf(what, sizeof(what), "%s_maps", who);
	snprintf(name, sizeof(name), "/proc/%d/maps", pid);
	check(what, -1, open(name, O_RDONLY));
	snprintf(what, sizeof(what), "%s_process_vm_readv", who);
	CALL(what, EPERM, (int)process_vm_readv(pid, &here, 1, &there, 1, 0));
	snprintf(what, sizeof(what), "%s_attach", who);
	CALL(what, EPERM, (int)ptrace(PTRACE_SEIZE, pid, NULL, NULL));
	for (int number = 3; number < 32; number++) {
		snprintf(what, sizeof(what), "%s_descriptor_%d", who, number);
		check(what, -1, (int)syscall(SYS_pidfd_getfd, pidfd, number, 0));
		snprintf(name, sizeof(name), "/proc/%d/fd/%d", pid, number);
		check(what, -1, open(name, O_RDONLY | O_NONBLOCK));
	}
	close(pidfd);
}

/* The launcher and the supervisor. Root of the machine may look into any process. */
static void processes(void)
{
	/* The test starts this program by another one. */
	const char *given = getenv("LAUNCHER");
	int launcher = given ? atoi(given) : getppid();

	if (getuid() == 0)
		return note("processes", "root");
	look_into(launcher, "launcher");
	look_into(parent_of(launcher), "supervisor");
}

/* A filter of its own judges the calls that devmap makes here: one that keeps the memory's
 * descriptor open would leave it to this process. */
static int keeps_descriptors(void *action)
{
	int file = open(path, O_RDWR);

	install(SYS_close, *(unsigned *)action);
	if (file < 0)
		return 91;
	mmap(NULL, page, PROT_READ, MAP_SHARED, file, 0);
	return count_foreign() ? 92 : 0;
}

static void *maps_and_dies(void *file)
{
	install(SYS_close, SECCOMP_RET_KILL_THREAD);
	mmap(NULL, page, PROT_READ, MAP_SHARED, *(int *)file, 0);
	return NULL;
}

/* The descriptor is its process's, whoever of it has died. */
static int outlives_who_maps(void *unused)
{
	int file = open(path, O_RDWR);
	pthread_t thread;

	(void)unused;
	if (file < 0 || pthread_create(&thread, NULL, maps_and_dies, &file))
		return 91;
	pthread_join(thread, NULL);
	for (int i = 0; i < 300 && count_foreign(); i++)
		usleep(100000);
	return count_foreign() ? 92 : 93;
}

static int maps_nothing(void *unused)
{
	(void)unused;
	install(SYS_munmap, SECCOMP_RET_ERRNO | EPERM);
	return map()[0] == GIVEN ? 0 : 1;
}

static void own_filters(void)
{
	unsigned actions[] = {
		SECCOMP_RET_ERRNO, SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_TRAP, SECCOMP_RET_TRACE,
	};

	check("an_own_filter", 0, in_child(maps_nothing, NULL));
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++)
		check("own_filter_that_keeps", 1000 + SIGKILL, in_child(keeps_descriptors, &actions[i]));
	check("own_filter_that_kills", 1000 + SIGKILL, in_child(outlives_who_maps, NULL));
}

int main(int argc, char **argv)
{
	char state[16] = "";

	start();
	if (argc != 2) {
		fprintf(stderr, "usage: reach PATH\n");
		return 2;
	}
	path = argv[1];
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	growth();
	odd_names();
	undumpable();
	other_calls();
	rights();
	sizes();
	descriptors();
	processes();
	own_filters();
	check("others", 6, (int)read(fd, state, sizeof(state)));
	check_text("others_hold", "whole\n", state);
	return finish();
}
