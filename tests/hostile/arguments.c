/* arguments PATH EVENTS ROUNDS: calls on the device at PATH, and on the `events` device at EVENTS,
 * with arguments that make no sense: addresses, lengths and offsets at every edge, all of them
 * together, the same at each run. What they answer is the kernel's affair; that they end, and
 * that a right call is served after each, is what is tried. */
#include "check.h"

#include <sys/syscall.h>
#include <sys/uio.h>

static uint64_t random_state = 88172645463325252u;
static char *buffer;
static struct iovec *parts;

static uint64_t choose(uint64_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 11) % below;
}

static uint64_t number(void)
{
	static const uint64_t edges[] = {
		0, 1, 2, 7, 16, 88, 511, 512, 1023, 1024, 4095, 4096, 4097, 65536,
		0x7ffff000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
		0x7fffffffe000, 0x7fffffffffff, 0x800000000000,
		0x7ffffffffffff000, 0x7fffffffffffffff, 0x8000000000000000,
		0xfffffffffffff000, 0xffffffffffffff9c, 0xffffffffffffffff,
	};

	return edges[choose(sizeof(edges) / sizeof(*edges))] + choose(3) - 1;
}

/* Behind the buffer nothing is mapped: no call writes to what is not its. */
static uint64_t address(void)
{
	switch (choose(4)) {
	case 0:
		return (uintptr_t)buffer;
	case 1:
		return (uintptr_t)buffer + (uint64_t)page - choose(20);
	case 2:
		return (uintptr_t)parts;
	default:
		return number();
	}
}

static void fill(void)
{
	for (int i = 0; i < 16; i++)
		parts[i] = (struct iovec){ (void *)(uintptr_t)address(), number() };
}

static void one(int fd, const char *path)
{
	static const long calls[] = {
		SYS_read, SYS_write, SYS_pread64, SYS_pwrite64, SYS_readv, SYS_writev,
		SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_ioctl, SYS_lseek,
		SYS_fstat, SYS_newfstatat, SYS_statx, SYS_getdents64, SYS_fadvise64,
		SYS_ftruncate, SYS_fallocate, SYS_sync_file_range, SYS_fsync, SYS_readahead,
		SYS_sendfile, SYS_copy_file_range, SYS_openat, SYS_readlinkat, SYS_faccessat,
		SYS_mmap, SYS_fgetxattr, SYS_fchmod, SYS_flock, SYS_fstatfs,
	};
	long call = calls[choose(sizeof(calls) / sizeof(*calls))];
	uint64_t a = address(), b = number(), c = number(), d = number(), e = number();
	long got;

	fill();
	switch (call) {
	case SYS_mmap:
		/* Where the kernel likes, and without a gigabyte of page tables. */
		d = choose(2) ? MAP_SHARED : MAP_PRIVATE;
		got = syscall(SYS_mmap, 0, b, choose(4), d | (choose(2) ? MAP_NORESERVE : 0), fd, e);
		if (got != -1)
			syscall(SYS_munmap, got, b);
		return;
	case SYS_readv: case SYS_writev: case SYS_preadv: case SYS_pwritev: case SYS_preadv2:
	case SYS_pwritev2:
		if (choose(4))
			a = (uintptr_t)parts;
		if (choose(4))
			b = choose(17);
		break;
	case SYS_openat: case SYS_readlinkat: case SYS_faccessat:
		strcpy(buffer + 64, path);
		if (choose(2))
			a = (uintptr_t)buffer + 64;
		/* Nothing is made. */
		b = call == SYS_openat ? b & ~(uint64_t)(O_CREAT | 020000000) : b;
		got = syscall(call, fd, a, call == SYS_readlinkat ? (uintptr_t)buffer : b, c, d);
		if (call == SYS_openat && got >= 0)
			close((int)got);
		return;
	case SYS_ioctl:
		b = choose(2) ? b : (choose(4) << 30 | choose(1 << 14) << 16 | 'E' << 8 | choose(8));
		c = address();
		/* What the kernel itself does to descriptors. */
		if ((b & 0xff00) == 0x5400)
			b = 0x5401;
		break;
	case SYS_sendfile: case SYS_copy_file_range:
		b = (uint64_t)fd;
		c = address();
		break;
	}
	syscall(call, fd, a, b, c, d, e);
}

int main(int argc, char **argv)
{
	struct stat got;
	char byte;
	int rounds, fds[2];

	start();
	if (argc != 4) {
		fprintf(stderr, "usage: arguments PATH EVENTS ROUNDS\n");
		return 2;
	}
	rounds = atoi(argv[3]);
	/* Each followed by nothing. */
	buffer = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	parts = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(buffer, page, PROT_READ | PROT_WRITE);
	mprotect(parts, page, PROT_READ | PROT_WRITE);
	fds[0] = open(argv[1], O_RDWR | O_NONBLOCK);
	fds[1] = open(argv[2], O_RDWR | O_NONBLOCK);
	if (fds[0] < 0 || fds[1] < 0)
		die("open");
	for (int i = 0; i < rounds; i++) {
		int which = (int)choose(2);

		one(fds[which], argv[1 + which]);
		if (fstat(fds[which], &got) || !S_ISCHR(got.st_mode)) {
			check("fstat_after_round", -1, i);
			break;
		}
		if (read(fds[1], &byte, 1) < 0 && errno != EAGAIN) {
			check("read_after_round", -1, i);
			break;
		}
	}
	return finish();
}
