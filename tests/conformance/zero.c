/* zero [--native] PATH: the `zero` device: anonymous memory, shared through fork.
 *
 * With --native, PATH is the kernel's own /dev/zero, of which all of this holds. */
#include "check.h"

#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define RW (PROT_READ | PROT_WRITE)

static const char *path;
static int fd;

static void *map(size_t len, int prot, int flags, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

static long nonzero(const void *start, size_t len)
{
	const volatile unsigned char *bytes = start;
	long count = 0;

	for (size_t i = 0; i < len; i++)
		count += bytes[i] != 0;
	return count;
}

static int child_answers(void *argument)
{
	volatile int *words = argument;

	words[1] = words[0] + 1;
	return 0;
}

static void shared(void)
{
	volatile int *one = map(4 * page, RW, MAP_SHARED, 0), *two = map(page, RW, MAP_SHARED, 0);
	char name[512];

	check("shared_zeros", 0, nonzero((void *)one, 4 * page));
	one[0] = 41;
	check("each_map_has_its_own", 0, two[0]);
	check("child", 0, in_child(child_answers, (void *)one));
	check("child_saw_and_answered", 42, one[1]);
	note_error("msync_zero", msync((void *)one, page, MS_SYNC));
	CALL("dontneed", 0, madvise((void *)one, page, MADV_DONTNEED));
	check("shared_content_stays", 42, one[1]);
	munmap((char *)one + page, page);
	check("munmap_middle", SIGSEGV, loads((char *)one + page));
	check("neighbours_stay", 0, loads((char *)one + 2 * page));
	munmap((void *)one, 4 * page);
	one = mmap(window(page), page, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	check_text("maps_shared", "rw-s", maps_line((void *)one, page, name, NULL));
	note("maps_name", "%s", name);
	munmap((void *)one, page);
	munmap((void *)two, page);
	one = map(page, RW, MAP_SHARED, 1000 * page);
	MAPS("any_offset", 0, one);
	/* The kernel's own: SIGBUS, for its memory begins at offset 0. */
	note("any_offset_load", "%s", loads((void *)one) ? "signal" : "0");
	munmap((void *)one, page);
	one = map(5, RW, MAP_SHARED, 0);
	check("odd_length", 0, stores((char *)one + page - 1));
	munmap((void *)one, page);
}

struct counter {
	sem_t semaphore, ready;
	volatile int value;
};

#define ROUNDS 5000

static int counts(void *argument)
{
	struct counter *counter = argument;

	sem_post(&counter->ready);
	for (int i = 0; i < ROUNDS; i++) {
		int value;

		while (sem_wait(&counter->semaphore))
			;
		value = counter->value;
		if (i % 64 == 0)
			sched_yield();
		counter->value = value + 1;
		sem_post(&counter->semaphore);
	}
	return 0;
}

static void semaphores(void)
{
	struct counter *counter = map(page, RW, MAP_SHARED, 0);
	int status;
	pid_t child;
	long woken = syscall(SYS_futex, counter, FUTEX_WAKE, 1, NULL, NULL, 0);

	/* The kernel has no futexes in memory that belongs to no file and no process. */
	note_error("shared_futex", woken < 0);
	if (woken < 0) {
		munmap(counter, page);
		return;
	}
	CALL("sem_init", 0, sem_init(&counter->semaphore, 1, 1));
	sem_init(&counter->ready, 1, 0);
	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(counts(counter));
	sem_wait(&counter->ready);
	counts(counter);
	waitpid(child, &status, 0);
	check("counting_child", 0, status);
	check("the_two_exclude_each_other", 2 * ROUNDS, counter->value);
	munmap(counter, page);
}

static int child_writes(void *argument)
{
	volatile int *words = argument;

	words[1] = 9;
	return words[0];
}

static void private(void)
{
	volatile int *one = map(2 * page, RW, MAP_PRIVATE, 0), *two = map(page, RW, MAP_PRIVATE, 0);

	check("private_zeros", 0, nonzero((void *)one, 2 * page));
	one[0] = 5;
	check("private_own", 0, two[0]);
	munmap((void *)two, page);
	two = map(page, RW, MAP_PRIVATE, 1000 * page);
	check("private_any_offset", 0, nonzero((void *)two, page));
	check("child_has_a_copy", 5, in_child(child_writes, (void *)one));
	check("of_its_own", 0, one[1]);
	CALL("private_dontneed", 0, madvise((void *)one, page, MADV_DONTNEED));
	check("private_is_zero_again", 0, one[0]);
	munmap((void *)one, 2 * page);
	munmap((void *)two, page);
	one = mmap(window(page), page, RW, MAP_PRIVATE | MAP_FIXED, fd, 0);
	check_text("maps_private", "rw-p", maps_line((void *)one, page, NULL, NULL));
	munmap((void *)one, page);
}

static void transfers(void)
{
	static unsigned char bytes[100000];
	struct pollfd one = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI };

	memset(bytes, 0xff, sizeof(bytes));
	check("read_small", 7, read(fd, bytes, 7));
	check("read_small_zeros", 0, nonzero(bytes, 7));
	check("read_no_more", 0xff, bytes[7]);
	check("read_large", sizeof(bytes), read(fd, bytes, sizeof(bytes)));
	check("read_large_zeros", 0, nonzero(bytes, sizeof(bytes)));
	bytes[0] = 1;
	check("pread", 1, pread(fd, bytes, 1, (off_t)1 << 40));
	check("pread_zero", 0, bytes[0]);
	check("write", sizeof(bytes), write(fd, bytes, sizeof(bytes)));
	check("pwrite", 3, pwrite(fd, bytes, 3, 12345));
	check("read_nothing", 0, read(fd, bytes, 0));
	check("lseek_set", 0, lseek(fd, 100, SEEK_SET));
	check("lseek_end", 0, lseek(fd, -5, SEEK_END));
	check("lseek_cur", 0, lseek(fd, 7, SEEK_CUR));
	CALL("lseek_bad", EINVAL, lseek(fd, 0, 99));
	CALL("read_bad_address", EFAULT, read(fd, bad_address, 8));
	check("poll", 1, poll(&one, 1, 0));
	check("poll_mask", POLLIN | POLLOUT, one.revents);
	CALL("ioctl", ENOTTY, ioctl(fd, _IO('z', 1)));
}

static void rights(void)
{
	int reader = open(path, O_RDONLY), writer = open(path, O_WRONLY);
	char *at;

	MAPS("reader_shared_write", EACCES, mmap(NULL, page, RW, MAP_SHARED, reader, 0));
	at = mmap(NULL, page, RW, MAP_PRIVATE, reader, 0);
	check("reader_private_store", 0, stores(at));
	munmap(at, page);
	at = mmap(NULL, page, PROT_READ, MAP_SHARED, reader, 0);
	check("reader_shared_load", 0, loads(at));
	CALL("reader_mprotect", EACCES, mprotect(at, page, RW));
	munmap(at, page);
	MAPS("writer", EACCES, mmap(NULL, page, PROT_WRITE, MAP_SHARED, writer, 0));
	close(reader);
	close(writer);
}

int main(int argc, char **argv)
{
	start();
	take_native(&argc, argv);
	if (argc != 2) {
		fprintf(stderr, "usage: zero [--native] PATH\n");
		return 2;
	}
	path = argv[1];
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	shared();
	semaphores();
	private();
	transfers();
	rights();
	close(fd);
	return finish();
}
