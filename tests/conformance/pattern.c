/* pattern [--native] PATH [BYTES]: the `pattern` device of BYTES (default 16777216),
 * whose pages are supplied at first access.
 *
 * With --native, PATH is made as a plain file with the same content. */
#include "check.h"

#include <pthread.h>

#define RW (PROT_READ | PROT_WRITE)

static const char *path;
static int native;
static int fd;
static unsigned long long size;

static void *map(size_t len, int prot, int flags, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

/* How many 64-bit words differ from their offset in the device. */
static long wrong(const void *start, size_t len, unsigned long long offset)
{
	const volatile uint64_t *words = start;
	long count = 0;

	for (size_t i = 0; i < len / 8; i++)
		count += words[i] != offset + i * 8;
	return count;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void whole(void)
{
	size_t len = size < 1 << 22 ? size : 1 << 22;
	uint64_t state = 88172645463325252;
	long bad = 0;
	char *at = map(size, PROT_READ, MAP_SHARED, 0);

	if (!MAPS("whole", 0, at))
		exit(finish());
	for (int i = 0; i < 200; i++) {
		unsigned long long offset = next(&state) % (size / page) * page;

		bad += wrong(at + offset, page, offset);
	}
	check("random_pages", 0, bad);
	check("first_page", 0, wrong(at, page, 0));
	check("last_page", 0, wrong(at + size - page, page, size - page));
	check("in_sequence", 0, wrong(at, len, 0));
	CALL("munmap", 0, munmap(at, size));
	bad = 0;
	for (int i = 0; i < 50; i++) {
		unsigned long long offset = next(&state) % (size / page) * page;

		at = map(page, PROT_READ, i % 2 ? MAP_SHARED : MAP_PRIVATE, (off_t)offset);
		bad += at == MAP_FAILED || wrong(at, page, offset);
		munmap(at, page);
	}
	check("maps_of_one_page", 0, bad);
	if (native)
		return;
	MAPS("at_the_end", EINVAL, map(page, PROT_READ, MAP_SHARED, (off_t)size));
	MAPS("one_byte_too_long", EINVAL, map(size + 1, PROT_READ, MAP_SHARED, 0));
	MAPS("last_page_and_one", EINVAL, map(page + 1, PROT_READ, MAP_SHARED, (off_t)size - page));
	MAPS("far_past_the_end", EINVAL, map(page, PROT_READ, MAP_SHARED, (off_t)1 << 52));
}

static int child_checks(void *argument)
{
	char *at = argument;

	if (wrong(at + 5 * page, page, 105 * page))
		return 1;
	*(volatile uint64_t *)(at + 6 * page) = 77;
	return 42;
}

static void storing(void)
{
	char *shared = map(8 * page, RW, MAP_SHARED, 100 * page);
	char *other = map(8 * page, RW, MAP_SHARED, 100 * page);
	char *copy = map(8 * page, RW, MAP_PRIVATE, 100 * page);

	*(volatile uint64_t *)shared = 1;
	check("a_store_is_shared", 1, *(volatile uint64_t *)other);
	check("its_page_is_the_rest_of_it", 0, wrong(other + 8, page - 8, 100 * page + 8));
	*(volatile uint64_t *)(copy + page) = 2;
	check("a_private_store_is_not", 0, wrong(shared + page, page, 101 * page));
	check("a_private_store_keeps_its_page", 0, wrong(copy + page + 8, page - 8, 101 * page + 8));
	check("child_faults_a_cold_page", 42, in_child(child_checks, shared));
	check("the_childs_store_is_seen", 77, *(volatile uint64_t *)(other + 6 * page));
	*(volatile uint64_t *)shared = 100 * page;
	*(volatile uint64_t *)(shared + 6 * page) = 106 * page;
	check("restored", 0, wrong(other, 8 * page, 100 * page));
	munmap(copy, 8 * page);
	CALL("munmap_middle", 0, munmap(shared + 2 * page, page));
	check("its_access", SIGSEGV, loads(shared + 2 * page));
	check("before_it", 0, wrong(shared + page, page, 101 * page));
	check("after_it", 0, wrong(shared + 3 * page, page, 103 * page));
	munmap(shared, 8 * page);
	munmap(other, 8 * page);
}

static void changes(void)
{
	char *at = window(8 * page), *to = window(8 * page);

	mmap(at, 8 * page, RW, MAP_SHARED | MAP_FIXED, fd, 200 * page);
	CALL("mprotect_none", 0, mprotect(at, page, PROT_NONE));
	check("closed_load", SIGSEGV, loads(at));
	CALL("mprotect_read", 0, mprotect(at, page, PROT_READ));
	check("opened_content", 0, wrong(at, page, 200 * page));
	CALL("dontneed", 0, madvise(at, 8 * page, MADV_DONTNEED));
	check("faulted_again", 0, wrong(at, 8 * page, 200 * page));
	MAPS("mremap_shrink", 0, mremap(at, 8 * page, 4 * page, 0));
	check("shrunk", 0, wrong(at, 4 * page, 200 * page));
	/* Without the first page: an area of its own, and moves across areas are new in 6.17. */
	at += page;
	check("moved", 0, (char *)mremap(at, 3 * page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to) - to);
	check("moved_content", 0, wrong(to, 3 * page, 201 * page));
	check("moved_from", SIGSEGV, loads(at));
	munmap(at - page, page);
	munmap(to, 3 * page);
	at = map(2 * page, PROT_READ, MAP_SHARED, 300 * page);
	munmap(at, 2 * page);
	check("never_touched_and_gone", SIGSEGV, loads(at));
}

/* Cold pages as the buffers of system calls. */
static void buffers(void)
{
	char *cold = map(3 * page, RW, MAP_SHARED, 400 * page);
	uint64_t words[4];
	int ends[2];

	if (pipe(ends))
		die("pipe");
	check("write_from_a_cold_page", 32, write(ends[1], cold + page, 32));
	check("read_back", 32, read(ends[0], words, 32));
	check("its_content", 0, wrong(words, 32, 401 * page));
	check("write_words", 32, write(ends[1], words, 32));
	check("read_into_a_cold_page", 32, read(ends[0], cold + 2 * page, 32));
	check("it_holds_them", 0, wrong(cold + 2 * page, 32, 401 * page));
	check("and_its_own", 0, wrong(cold + 2 * page + 32, page - 32, 402 * page + 32));
	for (int i = 0; i < 4; i++)
		((volatile uint64_t *)(cold + 2 * page))[i] = 402 * page + i * 8;
	munmap(cold, 3 * page);
	close(ends[0]);
	close(ends[1]);
}

static void *thread_faults(void *argument)
{
	return (void *)(intptr_t)wrong(argument, 256 * page, 512 * page);
}

static void threads(void)
{
	char *at = map(256 * page, PROT_READ, MAP_SHARED, 512 * page);
	pthread_t thread[8];
	long bad = 0;
	void *result;

	for (int i = 0; i < 8; i++)
		if (pthread_create(&thread[i], NULL, thread_faults, at))
			die("pthread_create");
	for (int i = 0; i < 8; i++) {
		pthread_join(thread[i], &result);
		bad += (intptr_t)result;
	}
	check("threads_fault_the_same_pages", 0, bad);
	munmap(at, 256 * page);
}

static void reading(void)
{
	uint64_t words[600];
	unsigned char bytes[3];

	check("pread", sizeof(words), pread(fd, words, sizeof(words), 800));
	check("pread_content", 0, wrong(words, sizeof(words), 800));
	check("pread_odd", 3, pread(fd, bytes, 3, 0x1235));
	check("pread_odd_first", 0x00, bytes[0]);
	check("pread_odd_word", 0, bytes[2]);
	check("pread_low_bytes", 2, pread(fd, bytes, 2, 0x1230));
	check("pread_low_byte", 0x30, bytes[0]);
	check("pread_second_byte", 0x12, bytes[1]);
	check("lseek_end", (long long)size, lseek(fd, 0, SEEK_END));
	check("read_end", 0, read(fd, words, 8));
	check("pread_ends_short", 8, pread(fd, words, 100, (off_t)size - 8));
	check("pread_last_word", (long long)size - 8, (long long)words[0]);
}

static void make_native_file(void)
{
	FILE *file = fopen(path, "w");

	if (!file)
		die(path);
	for (uint64_t word = 0; word < size; word += 8)
		fwrite(&word, 8, 1, file);
	fclose(file);
}

int main(int argc, char **argv)
{
	start();
	native = take_native(&argc, argv);
	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: pattern [--native] PATH [BYTES]\n");
		return 2;
	}
	path = argv[1];
	size = argc == 3 ? strtoull(argv[2], NULL, 0) : 1 << 24;
	if (size < 1024 * (unsigned long long)page) {
		fprintf(stderr, "pattern: BYTES must be at least 1024 pages\n");
		return 2;
	}
	if (native)
		make_native_file();
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	whole();
	storing();
	changes();
	buffers();
	threads();
	reading();
	close(fd);
	return finish();
}
