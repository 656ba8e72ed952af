/* mem [--native] PATH [BYTES]: the `mem` device of BYTES (default 1048576).
 *
 * With --native, PATH is made as a plain file of that length; what a file's end does
 * otherwise is left out. The block holds zeros before and after. */
#include "check.h"

#define RW (PROT_READ | PROT_WRITE)

static const char *path;
static int native;
static int fd;
static size_t size;

static void *map(size_t len, int prot, int flags, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

/* How many 64-bit words differ from their offset in the block. */
static long wrong(const void *start, size_t len, size_t offset)
{
	const volatile uint64_t *words = start;
	long count = 0;

	for (size_t i = 0; i < len / 8; i++)
		count += words[i] != offset + i * 8;
	return count;
}

static void block(void)
{
	volatile uint64_t *whole = map(size, RW, MAP_SHARED, 0);
	size_t pages = size / page;
	long bad = 0;
	char *at;

	MAPS("whole", 0, whole);
	for (size_t i = 0; i < size / 8; i++)
		bad += whole[i] != 0;
	check("zeros_at_first", 0, bad);
	for (size_t i = 0; i < size / 8; i++)
		whole[i] = i * 8;
	bad = 0;
	for (size_t first = 0; first < pages; first++) {
		at = map(size - first * page, PROT_READ, MAP_SHARED, first * page);
		bad += at == MAP_FAILED || wrong(at, size - first * page, first * page);
		munmap(at, size - first * page);
	}
	check("every_offset", 0, bad);
	bad = 0;
	for (size_t first = 0; first < pages; first++) {
		at = map(page, PROT_READ, MAP_PRIVATE, first * page);
		bad += at == MAP_FAILED || wrong(at, page, first * page);
		munmap(at, page);
	}
	check("every_page_private", 0, bad);
	at = map(size, RW, MAP_PRIVATE, 0);
	*(uint64_t *)(at + page) = 1;
	check("private_store_stays", 0, wrong((char *)whole + page, page, page));
	munmap(at, size);
	munmap((void *)whole, size);
	if (native)
		return;
	MAPS("at_the_end", EINVAL, map(page, RW, MAP_SHARED, size));
	MAPS("past_the_end", EINVAL, map(page, RW, MAP_SHARED, size + 10 * page));
	MAPS("far_past_the_end", EINVAL, map(page, RW, MAP_SHARED, (off_t)1 << 45));
	MAPS("one_byte_too_long", EINVAL, map(size + 1, RW, MAP_SHARED, 0));
	MAPS("last_page_and_one", EINVAL, map(page + 1, RW, MAP_SHARED, size - page));
	MAPS("private_too_long", EINVAL, map(size + 1, RW, MAP_PRIVATE, 0));
}

/* Whether the flag stands in the area's VmFlags. */
static int has_flag(void *start, const char *flag)
{
	unsigned long long low, high;
	char line[512], spaced[8];
	FILE *file = fopen("/proc/self/smaps", "r");
	int inside = 0, found = 0;

	snprintf(spaced, sizeof(spaced), " %s ", flag);
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%llx-%llx ", &low, &high) == 2)
			inside = low == (uintptr_t)start;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, spaced) != NULL;
	}
	if (file)
		fclose(file);
	return found;
}

static void flags(void)
{
	char *at = window(3 * page);

	at = mmap(at, 2 * page, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	check("not_dumped", 1, has_flag(at, "dd"));
	note("vm_io", "%d", has_flag(at, "io"));
	note("vm_dontexpand", "%d", has_flag(at, "de"));
	MAPS("not_expandable", EFAULT, mremap(at, 2 * page, 3 * page, 0));
	MAPS("not_expandable_moving", EFAULT, mremap(at, 2 * page, 3 * page, MREMAP_MAYMOVE));
	check("still_mapped", 0, wrong(at, 2 * page, 0));
	munmap(at, 2 * page);
	at = map(page, RW, MAP_PRIVATE, 0);
	check("private_not_dumped", 1, has_flag(at, "dd"));
	munmap(at, page);
}

static void transfers(void)
{
	volatile uint64_t *at = map(2 * page, RW, MAP_SHARED, 0);
	uint64_t words[200], word = 0x1122334455667788;
	long bad = 0;

	check("pread", sizeof(words), pread(fd, words, sizeof(words), 80));
	check("pread_content", 0, wrong(words, sizeof(words), 80));
	check("pwrite", 8, pwrite(fd, &word, 8, page));
	check("pwrite_is_seen_in_the_map", word, at[page / 8]);
	at[page / 8] = page;
	pread(fd, &word, 8, page);
	check("store_is_seen_by_pread", page, word);
	check("lseek_end", size, lseek(fd, 0, SEEK_END));
	check("read_at_the_end", 0, read(fd, words, 8));
	check("lseek_back", size - 8, lseek(fd, -8, SEEK_CUR));
	check("read_ends_short", 8, read(fd, words, sizeof(words)));
	check("last_word", size - 8, words[0]);
	CALL("lseek_negative", EINVAL, lseek(fd, -1, SEEK_SET));
	check("lseek_start", 0, lseek(fd, 0, SEEK_SET));
	for (size_t done = 0; done < size; done += sizeof(words)) {
		ssize_t got = read(fd, words, sizeof(words));

		bad += got <= 0 || wrong(words, got, done);
	}
	check("read_all", 0, bad);
	munmap((void *)at, 2 * page);
	if (native)
		return;
	CALL("lseek_past_the_end", EINVAL, lseek(fd, size + 1, SEEK_SET));
	CALL("write_at_the_end", ENOSPC, pwrite(fd, &word, 8, size));
	word = size - 4;
	check("write_ends_short", 4, pwrite(fd, &word, 8, size - 4));
	word = size - 8;
	check("restore", 8, pwrite(fd, &word, 8, size - 8));
	CALL("read_bad_address", EFAULT, pread(fd, bad_address, 8, 0));
	CALL("read_past_all_offsets", EINVAL, pread(fd, words, 16, INT64_MAX - 7));
	CALL("write_past_all_offsets", EINVAL, pwrite(fd, words, 16, INT64_MAX - 7));
	CALL("write_bad_address", EFAULT, pwrite(fd, bad_address, 8, 0));
}

#define ROUNDS 20000

static int adds(void *argument)
{
	int own = open(path, O_RDWR);
	uint32_t *counter = mmap(NULL, page, RW, MAP_SHARED, own, (off_t)(uintptr_t)argument);

	if (counter == MAP_FAILED)
		return 1;
	for (int i = 0; i < ROUNDS; i++)
		__atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static void atomics(void)
{
	volatile uint32_t *counter = map(page, RW, MAP_SHARED, page);
	uint32_t before = counter[0];
	int status, failed = 0;

	fflush(stdout);
	for (int i = 0; i < 3; i++)
		if (fork() == 0)
			_exit(adds((void *)(uintptr_t)page));
	for (int i = 0; i < 3; i++)
		failed += wait(&status) < 0 || status != 0;
	check("adding_children", 0, failed);
	check("no_addition_is_lost", before + 3 * ROUNDS, counter[0]);
	counter[0] = before;
	munmap((void *)counter, page);
}

int main(int argc, char **argv)
{
	char *whole;

	start();
	native = take_native(&argc, argv);
	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: mem [--native] PATH [BYTES]\n");
		return 2;
	}
	path = argv[1];
	size = argc == 3 ? strtoul(argv[2], NULL, 0) : 1 << 20;
	fd = open(path, native ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR, 0600);
	if (fd < 0 || (native && ftruncate(fd, (off_t)size)))
		die("open");
	block();
	if (!native)
		flags();
	transfers();
	atomics();
	whole = map(size, RW, MAP_SHARED, 0);
	memset(whole, 0, size);
	CALL("munmap", 0, munmap(whole, size));
	close(fd);
	return finish();
}
