/* demo [--native] PATH: the two areas of the `demo` device, and every way to map,
 * share, change and unmap them.
 *
 * With --native, PATH is made as a plain file that holds the same 32 pages. */
#include "check.h"
#include "devmap.h"

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define AREA (DEMO_PAGES * page)
#define RW (PROT_READ | PROT_WRITE)

static const char *path;
static int native;
static int fd;

static void *map(size_t len, int prot, int flags, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

/* How many of the words at `start` differ from the pattern, whose word `first`
 * stands there. */
static long wrong(const void *start, size_t len, unsigned tag, unsigned first)
{
	const volatile uint32_t *words = start;
	long count = 0;

	for (unsigned i = 0; i < len / 4; i++) {
		unsigned word = first + i;
		uint32_t expected = word % 2 ? (DEMO_ODD << 16) + word - 1 : (tag << 16) + word;

		count += words[i] != expected;
	}
	return count;
}

static void pattern(const char *name, size_t len, unsigned tag)
{
	off_t offset = tag == DEMO_CONTIGUOUS ? AREA : 0;
	void *at = map(len, PROT_READ, MAP_SHARED, offset);

	if (at == MAP_FAILED) {
		CALL(name, 0, -1);
		return;
	}
	check(name, 0, wrong(at, len, tag, 0));
	munmap(at, len);
}

static void patterns(void)
{
	char *at;

	pattern("scattered_whole", AREA, DEMO_SCATTERED);
	pattern("contiguous_whole", AREA, DEMO_CONTIGUOUS);
	pattern("scattered_one_page", page, DEMO_SCATTERED);
	pattern("contiguous_five_pages", 5 * page, DEMO_CONTIGUOUS);
	pattern("contiguous_one_page", page, DEMO_CONTIGUOUS);
	at = map(page + 1, PROT_READ, MAP_SHARED, 0);
	MAPS("odd_length", 0, at);
	check("odd_length_is_rounded_up", 0, wrong(at, 2 * page, DEMO_SCATTERED, 0));
	munmap(at, 2 * page);
	at = map(1, PROT_READ, MAP_SHARED, AREA);
	check("one_byte_is_a_page", 0, wrong(at, page, DEMO_CONTIGUOUS, 0));
	munmap(at, 1);
	check("munmap_rounds_up", SIGSEGV, loads(at));
}

static void refusals(void)
{
	long closed = dup(fd);
	int path_only = open(path, O_PATH);

	close(closed);
	if (!native) {
		MAPS("offset_1", EIO, map(page, RW, MAP_SHARED, page));
		MAPS("offset_15", EIO, map(page, RW, MAP_SHARED, 15 * page));
		MAPS("offset_17", EIO, map(page, RW, MAP_SHARED, 17 * page));
		MAPS("offset_32", EIO, map(page, RW, MAP_SHARED, 32 * page));
		MAPS("offset_far", EIO, map(page, RW, MAP_SHARED, (off_t)1 << 40));
		MAPS("scattered_17_pages", EIO, map(AREA + 1, RW, MAP_SHARED, 0));
		MAPS("contiguous_17_pages", EIO, map(17 * page, RW, MAP_SHARED, AREA));
		MAPS("private_17_pages", EIO, map(17 * page, RW, MAP_PRIVATE, AREA));
		/* What the kernel looks at before the driver is asked. */
		MAPS("before_hugetlb", EINVAL, map(17 * page, RW, MAP_SHARED | MAP_HUGETLB, AREA));
		MAPS("before_validate", EOPNOTSUPP,
		     map(17 * page, RW, MAP_SHARED_VALIDATE | 1 << 25, AREA));
		MAPS("before_growsdown", EINVAL,
		     map(17 * page, RW, MAP_PRIVATE | MAP_GROWSDOWN, AREA));
		MAPS("before_noreplace", EEXIST,
		     mmap((void *)((uintptr_t)&failures & -(uintptr_t)page), 17 * page, RW,
			  MAP_SHARED | MAP_FIXED_NOREPLACE, fd, AREA));
		MAPS("before_fixed", ENOMEM,
		     mmap((void *)-(2 * page), page, RW, MAP_SHARED | MAP_FIXED, fd, AREA));
	}
	MAPS("length_0", EINVAL, map(0, RW, MAP_SHARED, 0));
	CALL("unaligned_offset", EINVAL, syscall(SYS_mmap, 0, page, RW, MAP_SHARED, fd, 1));
	CALL("neither_shared_nor_private", EINVAL, syscall(SYS_mmap, 0, page, RW, 0, fd, 0));
	CALL("length_wraps", ENOMEM, syscall(SYS_mmap, 0, -1L, RW, MAP_SHARED, fd, 0));
	CALL("length_huge", ENOMEM, syscall(SYS_mmap, 0, 1L << 62, RW, MAP_SHARED, fd, 0));
	CALL("offset_wraps", EOVERFLOW,
	     syscall(SYS_mmap, 0, 2 * page, RW, MAP_SHARED, fd, -page));
	MAPS("fixed_unaligned", EINVAL,
	     mmap((void *)(page * 1000 + 1), page, RW, MAP_SHARED | MAP_FIXED, fd, 0));
	MAPS("shared_validate", 0, map(page, RW, MAP_SHARED_VALIDATE, 0));
	MAPS("shared_validate_unknown", EOPNOTSUPP,
	     map(page, RW, MAP_SHARED_VALIDATE | 1 << 25, 0));
	MAPS("hugetlb", EINVAL, map(page, RW, MAP_SHARED | MAP_HUGETLB, 0));
	MAPS("closed_descriptor", EBADF, mmap(NULL, page, RW, MAP_SHARED, (int)closed, 0));
	MAPS("no_descriptor", EBADF, mmap(NULL, page, RW, MAP_SHARED, -1, 0));
	MAPS("path_descriptor", EBADF, mmap(NULL, page, RW, MAP_SHARED, path_only, 0));
	close(path_only);
	MAPS("high_half_of_the_descriptor", 0,
	     syscall(SYS_mmap, 0, page, RW, MAP_SHARED, (1L << 32) | (unsigned)fd, 0L));
}

static void rights(void)
{
	int reader = open(path, O_RDONLY), writer = open(path, O_WRONLY);
	char *at;

	at = mmap(NULL, page, PROT_READ, MAP_SHARED, reader, 0);
	MAPS("reader_shared_read", 0, at);
	CALL("reader_mprotect_write", EACCES, mprotect(at, page, RW));
	check("reader_store", SIGSEGV, stores(at));
	munmap(at, page);
	MAPS("reader_shared_write", EACCES, mmap(NULL, page, RW, MAP_SHARED, reader, 0));
	MAPS("reader_shared_write_only", EACCES,
	     mmap(NULL, page, PROT_WRITE, MAP_SHARED, reader, 0));
	at = mmap(NULL, page, RW, MAP_PRIVATE, reader, 0);
	MAPS("reader_private_write", 0, at);
	check("reader_private_store", 0, stores(at));
	munmap(at, page);
	MAPS("writer_shared", EACCES, mmap(NULL, page, PROT_WRITE, MAP_SHARED, writer, 0));
	MAPS("writer_private", EACCES, mmap(NULL, page, PROT_NONE, MAP_PRIVATE, writer, 0));
	close(reader);
	close(writer);
}

static int child_stores(void *argument)
{
	volatile uint32_t *words = argument;

	words[1] = 0x12345678;
	return words[0] == 0xabcd;
}

static int child_opens(void *argument)
{
	int own = open(path, O_RDWR);
	volatile uint32_t *words = mmap(NULL, page, RW, MAP_SHARED, own, *(off_t *)argument);

	if (words == MAP_FAILED)
		return 2;
	close(own);
	words[3] = 0x99;
	return words[0] == 0xabcd;
}

static void sharing(const char *area, off_t offset, unsigned tag)
{
	char name[64];
	int other = open(path, O_RDWR);
	volatile uint32_t *one = map(page, RW, MAP_SHARED, offset);
	volatile uint32_t *two = map(page, RW, MAP_SHARED, offset);
	volatile uint32_t *three = mmap(NULL, page, RW, MAP_SHARED, other, offset);

#define NAME(text) (snprintf(name, sizeof(name), "%s_%s", area, text), name)
	one[0] = 0xabcd;
	check(NAME("two_maps_share"), 0xabcd, two[0]);
	check(NAME("two_opens_share"), 0xabcd, three[0]);
	check(NAME("child_sees_the_parents_store"), 1, in_child(child_stores, (void *)one));
	check(NAME("parent_sees_the_childs_store"), 0x12345678, three[1]);
	check(NAME("child_with_its_own_open_sees"), 1, in_child(child_opens, &offset));
	check(NAME("its_store_is_seen"), 0x99, one[3]);
	one[0] = tag << 16;
	one[1] = DEMO_ODD << 16;
	one[3] = (DEMO_ODD << 16) + 2;
	check(NAME("restored"), 0, wrong((void *)two, page, tag, 0));
	munmap((void *)one, page);
	munmap((void *)two, page);
	close(other);
	check(NAME("map_outlives_its_descriptor"), 0, wrong((void *)three, page, tag, 0));
	munmap((void *)three, page);
}

static int child_private(void *argument)
{
	volatile uint32_t *words = argument;

	words[1] = 7;
	return words[0] == 1;
}

static void copies(void)
{
	volatile uint32_t *shared = map(2 * page, RW, MAP_SHARED, AREA);
	volatile uint32_t *copy = map(2 * page, RW, MAP_PRIVATE, AREA);
	volatile uint32_t *second = copy + page / 4;

	check("private_pattern", 0, wrong((void *)copy, 2 * page, DEMO_CONTIGUOUS, 0));
	copy[0] = 1;
	check("private_store_is_kept", 1, copy[0]);
	check("private_store_is_not_shared", 0xdead0000, shared[0]);
	check("private_in_child", 1, in_child(child_private, (void *)copy));
	check("child_private_store_is_not_seen", 0xbeef0000, copy[1]);
	check("private_second_page_untouched", 0xdead0000 + page / 4, second[0]);
	check("private_leaves_the_device", 0, wrong((void *)shared, 2 * page, DEMO_CONTIGUOUS, 0));
	munmap((void *)copy, 2 * page);
	copy = map(page, RW, MAP_PRIVATE, AREA);
	check("private_again_is_fresh", 0, wrong((void *)copy, page, DEMO_CONTIGUOUS, 0));
	munmap((void *)copy, page);
	munmap((void *)shared, 2 * page);
}

/* Which of 16 pages can be loaded and hold their pattern: one letter each. */
static const char *state(char *at)
{
	static char text[DEMO_PAGES + 1];

	for (int i = 0; i < DEMO_PAGES; i++) {
		if (loads(at + i * page))
			text[i] = '.';
		else if (wrong(at + i * page, page, DEMO_SCATTERED, (unsigned)(i * page / 4)))
			text[i] = '?';
		else
			text[i] = 'x';
	}
	return text;
}

static void unmapping(void)
{
	char *at = window(AREA);

	at = mmap(at, AREA, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	check_text("mapped", "xxxxxxxxxxxxxxxx", state(at));
	CALL("munmap_head", 0, munmap(at, 2 * page));
	check_text("after_head", "..xxxxxxxxxxxxxx", state(at));
	CALL("munmap_tail", 0, munmap(at + 13 * page, 3 * page));
	check_text("after_tail", "..xxxxxxxxxxx...", state(at));
	CALL("munmap_middle", 0, munmap(at + 5 * page, 4 * page));
	check_text("after_middle", "..xxx....xxxx...", state(at));
	check_text("maps_left", "rw-s", maps_line(at + 2 * page, 3 * page, NULL, NULL));
	check_text("maps_right", "rw-s", maps_line(at + 9 * page, 4 * page, NULL, NULL));
	check("store_after_munmap", SIGSEGV, stores(at + 6 * page));
	CALL("munmap_hole", 0, munmap(at + 5 * page, 4 * page));
	CALL("munmap_unaligned", EINVAL, munmap(at + 1, page));
	CALL("munmap_length_0", EINVAL, munmap(at + 2 * page, 0));
	CALL("munmap_all", 0, munmap(at, AREA));
	check_text("after_all", "................", state(at));
}

static void protections(void)
{
	char *at = window(4 * page);

	at = mmap(at, 4 * page, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	CALL("mprotect_read", 0, mprotect(at + page, page, PROT_READ));
	check("read_only_load", 0, loads(at + page));
	check("read_only_store", SIGSEGV, stores(at + page));
	check("neighbour_store", 0, stores(at + 2 * page));
	check_text("maps_before", "rw-s", maps_line(at, page, NULL, NULL));
	check_text("maps_read_only", "r--s", maps_line(at + page, page, NULL, NULL));
	check_text("maps_after", "rw-s", maps_line(at + 2 * page, 2 * page, NULL, NULL));
	CALL("mprotect_none", 0, mprotect(at + page, page, PROT_NONE));
	check("closed_load", SIGSEGV, loads(at + page));
	check_text("maps_closed", "---s", maps_line(at + page, page, NULL, NULL));
	CALL("mprotect_back", 0, mprotect(at + page, page, RW));
	check("pattern_after_mprotect", 0, wrong(at, 4 * page, DEMO_SCATTERED, 0));
	CALL("mprotect_unaligned", EINVAL, mprotect(at + 1, page, PROT_READ));
	munmap(at, 4 * page);
	CALL("mprotect_unmapped", ENOMEM, mprotect(at, page, PROT_READ));
	at = map(page, PROT_NONE, MAP_SHARED, 0);
	check("prot_none_load", SIGSEGV, loads(at));
	CALL("prot_none_opened", 0, mprotect(at, page, PROT_READ));
	check("prot_none_pattern", 0, wrong(at, page, DEMO_SCATTERED, 0));
	munmap(at, page);
	at = map(page, PROT_WRITE, MAP_SHARED, 0);
	check("prot_write_store", 0, stores(at));
	munmap(at, page);
	/* Refused where the file system is mounted noexec. */
	note_error("prot_exec", map(page, PROT_READ | PROT_EXEC, MAP_SHARED, 0) == MAP_FAILED);
}

static void addresses(void)
{
	char *free_place = window(4 * page), *taken, *at;

	at = mmap(free_place, 2 * page, RW, MAP_SHARED, fd, 0);
	check("free_hint_is_taken", 0, at - free_place);
	at = mmap(free_place, page, RW, MAP_SHARED, fd, 0);
	check("occupied_hint_goes_elsewhere", 1, at != MAP_FAILED && at != free_place);
	munmap(at, page);
	at = mmap(free_place + 2 * page + 1, page, RW, MAP_SHARED, fd, 0);
	check("unaligned_hint_is_rounded", 1, at != MAP_FAILED && (uintptr_t)at % page == 0);
	munmap(at, page);
	MAPS("noreplace_occupied", EEXIST,
	     mmap(free_place + page, 2 * page, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0));
	at = mmap(free_place + 2 * page, page, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	check("noreplace_free", 0, at - free_place - 2 * page);
	munmap(free_place, 4 * page);
	taken = mmap(NULL, 3 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(taken, 0x55, 3 * page);
	at = mmap(taken + page, page, RW, MAP_SHARED | MAP_FIXED, fd, AREA);
	check("fixed_is_placed", 0, at - taken - page);
	check("fixed_replaces", 0, wrong(at, page, DEMO_CONTIGUOUS, 0));
	check("fixed_keeps_before", 0x55, taken[page - 1]);
	check("fixed_keeps_after", 0x55, taken[2 * page]);
	at = mmap(taken + page, page, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	check("fixed_over_a_device", 0, wrong(at, page, DEMO_SCATTERED, 0));
	at = mmap(at, page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	check("anonymous_over_a_device", 0, at[0]);
	munmap(taken, 3 * page);
	at = map(page, RW, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	check("anonymous_ignores_the_descriptor", 0, *(volatile int *)at);
	munmap(at, page);
	at = map(page, RW, MAP_SHARED | MAP_POPULATE | MAP_NORESERVE, 0);
	check("populate", 0, wrong(at, page, DEMO_SCATTERED, 0));
	munmap(at, page);
#ifdef MAP_32BIT
	at = map(page, RW, MAP_SHARED | MAP_32BIT, 0);
	check("map_32bit", 1, at != MAP_FAILED && (uintptr_t)at < (uintptr_t)1 << 32);
	munmap(at, page);
#endif
}

static void areas(void)
{
	char name[512] = "", *at = window(3 * page);
	unsigned long long offset = 0;

	mmap(at, 3 * page, RW, MAP_SHARED | MAP_FIXED, fd, AREA);
	check_text("maps_shared", "rw-s", maps_line(at, 3 * page, name, &offset));
	if (!native) {
		note("maps_offset_in_pages", "%llu", offset / page);
		note("maps_name", "%s", name);
	}
	mmap(at, 3 * page, RW, MAP_PRIVATE | MAP_FIXED, fd, 0);
	check_text("maps_private", "rw-p", maps_line(at, 3 * page, NULL, NULL));
	mmap(at, 3 * page, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	check_text("maps_shared_read", "r--s", maps_line(at, 3 * page, NULL, NULL));
	mmap(at, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_FIXED, fd, 0);
	check_text("maps_private_none", "---p", maps_line(at, 3 * page, NULL, NULL));
	munmap(at, 3 * page);
	check_text("maps_gone", "none", maps_line(at, 3 * page, NULL, NULL));
}

/* Whether a descriptor maps the contiguous area. */
static int maps_pattern(int descriptor)
{
	void *at = mmap(NULL, AREA, PROT_READ, MAP_SHARED, descriptor, AREA);
	int right;

	if (at == MAP_FAILED)
		return 0;
	right = wrong(at, AREA, DEMO_CONTIGUOUS, 0) == 0;
	munmap(at, AREA);
	return right;
}

/* What `--exec-child OPEN CLOSED` does in the program that exec starts. */
static int exec_child(int open_one, int closed_one)
{
	if (fcntl(closed_one, F_GETFD) != -1 || errno != EBADF)
		return 2;
	return maps_pattern(open_one) ? 42 : 3;
}

static int child_execs(void *argument)
{
	(void)argument;
	execl("/proc/self/exe", "demo", "--exec-child", "100", "101", (char *)NULL);
	return 1;
}

static void descriptors(void)
{
	int status, copy;
	pid_t child;

	check("dup_maps", 1, maps_pattern(copy = dup(fd)));
	close(copy);
	check("dup2_number", 100, dup2(fd, 100));
	check("dup2_maps", 1, maps_pattern(100));
	check("dup2_same", 100, dup2(100, 100));
	check("dup2_is_inherited", 0, fcntl(100, F_GETFD));
	check("dup3_number", 101, dup3(fd, 101, O_CLOEXEC));
	check("dup3_maps", 1, maps_pattern(101));
	check("dup3_cloexec", FD_CLOEXEC, fcntl(101, F_GETFD));
	CALL("dup3_same", EINVAL, dup3(101, 101, 0));
	check("dup2_over_a_device", 101, dup2(fd, 101));
	check("dup2_clears_cloexec", 0, fcntl(101, F_GETFD));
	copy = fcntl(fd, F_DUPFD, 200);
	check("dupfd_number", 200, copy);
	check("dupfd_maps", 1, maps_pattern(copy));
	close(copy);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 300);
	check("dupfd_cloexec_number", 300, copy);
	check("dupfd_cloexec_flag", FD_CLOEXEC, fcntl(copy, F_GETFD));
	check("dupfd_cloexec_maps", 1, maps_pattern(copy));
	close(copy);
	CALL("closed_copy", EBADF, fcntl(copy, F_GETFD));
	copy = open(path, O_RDWR);
	check("second_copy", 302, fcntl(copy, F_DUPFD, 302));
	close(copy);
	check("copy_outlives_the_first", 1, maps_pattern(302));
	close(302);
	copy = open("/dev/null", O_RDWR);
	check("another_file_over_a_device", 101, dup2(copy, 101));
	MAPS("then_it_is_that_file", ENODEV, mmap(NULL, page, PROT_READ, MAP_SHARED, 101, 0));
	close(copy);
	dup2(fd, 101);
	fcntl(101, F_SETFD, FD_CLOEXEC);
	check("setfd", FD_CLOEXEC, fcntl(101, F_GETFD));
	check("exec_keeps_and_closes", 42, in_child(child_execs, NULL));
	child = vfork();
	if (child == 0) {
		execl("/proc/self/exe", "demo", "--exec-child", "100", "101", (char *)NULL);
		_exit(1);
	}
	waitpid(child, &status, 0);
	check("vfork_exec", 42, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	close(100);
	close(101);
	copy = open(path, O_RDWR | O_CLOEXEC);
	check("open_cloexec", FD_CLOEXEC, fcntl(copy, F_GETFD));
	close(copy);
	copy = open("/dev/null", O_RDONLY);
	close(copy);
	status = open(path, O_RDWR);
	if (!native)
		note("open_gives_the_lowest_number", "%s", status == copy ? "yes" : "no");
	close(status);
}

static int child_unmaps(void *argument)
{
	if (wrong(argument, AREA, DEMO_SCATTERED, 0))
		return 1;
	munmap(argument, AREA);
	return loads(argument) == SIGSEGV ? 42 : 2;
}

static int child_loads(void *argument)
{
	return loads(argument);
}

static int child_maps(void *argument)
{
	(void)argument;
	return maps_pattern(fd) ? 42 : 1;
}

static volatile uint32_t *vfork_map;

static void children(void)
{
	char *at = map(AREA, RW, MAP_SHARED, 0);
	int status;
	pid_t child;

	check("child_inherits_the_map", 42, in_child(child_unmaps, at));
	check("parent_keeps_it", 0, wrong(at, AREA, DEMO_SCATTERED, 0));
	check("child_maps_the_inherited_descriptor", 42, in_child(child_maps, NULL));
	CALL("madvise_dontfork", 0, madvise(at, page, MADV_DONTFORK));
	check("dontfork_in_child", SIGSEGV, in_child(child_loads, at));
	check("dontfork_next_page", 0, in_child(child_loads, at + page));
	munmap(at, AREA);
	child = vfork();
	if (child == 0) {
		vfork_map = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0);
		_exit(vfork_map == MAP_FAILED);
	}
	waitpid(child, &status, 0);
	check("vfork_child_maps", 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	check("in_its_parents_memory", 0, wrong((void *)vfork_map, page, DEMO_SCATTERED, 0));
	munmap((void *)vfork_map, page);
}

static void *thread_maps(void *argument)
{
	long errors = 0;
	unsigned number = (unsigned)(uintptr_t)argument;

	for (unsigned i = 0; i < 100; i++) {
		size_t len = (1 + (i * 7 + number) % DEMO_PAGES) * page;
		unsigned tag = (i + number) % 2 ? DEMO_SCATTERED : DEMO_CONTIGUOUS;
		int private = i % 3 == 0;
		char *at = mmap(NULL, len, RW, private ? MAP_PRIVATE : MAP_SHARED, fd,
				tag == DEMO_CONTIGUOUS ? AREA : 0);

		if (at == MAP_FAILED) {
			errors++;
			continue;
		}
		errors += wrong(at, len, tag, 0) != 0;
		if (private)
			at[len - 1] = 0;
		errors += munmap(at, len) != 0;
	}
	return (void *)errors;
}

static void threads(void)
{
	pthread_t thread[8];
	void *errors;
	long total = 0;

	for (uintptr_t i = 0; i < 8; i++)
		if (pthread_create(&thread[i], NULL, thread_maps, (void *)i))
			die("pthread_create");
	for (int i = 0; i < 8; i++) {
		pthread_join(thread[i], &errors);
		total += (long)errors;
	}
	check("threads_map_at_once", 0, total);
}

static void moving(void)
{
	char *at = window(AREA), *to = window(AREA), *moved;

	mmap(at, AREA, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	MAPS("mremap_shrink", 0, mremap(at, AREA, 4 * page, 0));
	check("shrunk_pattern", 0, wrong(at, 4 * page, DEMO_SCATTERED, 0));
	check("shrunk_tail", SIGSEGV, loads(at + 4 * page));
	moved = mremap(at, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	check("mremap_moves", 0, moved - to);
	check("moved_pattern", 0, wrong(to, 4 * page, DEMO_SCATTERED, 0));
	check("moved_from", SIGSEGV, loads(at));
	check_text("maps_moved", "rw-s", maps_line(to, 4 * page, NULL, NULL));
	moved = mremap(to + page, 2 * page, page, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	check("mremap_moves_a_part", 0, wrong(moved, page, DEMO_SCATTERED, (unsigned)page / 4));
	check("the_rest_of_it_is_gone", SIGSEGV, loads(to + 2 * page));
	check("its_neighbour_stays", 0, wrong(to + 3 * page, page, DEMO_SCATTERED, 3 * (unsigned)page / 4));
	munmap(to, 4 * page);
	munmap(at, page);
	mmap(at, 2 * page, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	if (!native) {
		MAPS("mremap_grows", EFAULT, mremap(at, 2 * page, 3 * page, 0));
		MAPS("mremap_grows_moving", EFAULT, mremap(at, 2 * page, 3 * page, MREMAP_MAYMOVE));
		MAPS("mremap_grows_fixed", EFAULT,
		     mremap(at, 2 * page, 3 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to));
		MAPS("mremap_old_size_0", EFAULT, mremap(at, 0, 2 * page, MREMAP_MAYMOVE));
	}
	MAPS("mremap_past_the_end", EFAULT, mremap(at, 3 * page, 4 * page, MREMAP_MAYMOVE));
	check("still_there", 0, wrong(at, 2 * page, DEMO_SCATTERED, 0));
	munmap(at, 2 * page);
	MAPS("mremap_unmapped", EFAULT, mremap(at, page, 2 * page, MREMAP_MAYMOVE));
}

static void advice(void)
{
	unsigned char resident[2] = { 0 };
	char *at = map(2 * page, RW, MAP_SHARED, 0);

	CALL("madvise_normal", 0, madvise(at, page, MADV_NORMAL));
	CALL("madvise_sequential", 0, madvise(at, page, MADV_SEQUENTIAL));
	CALL("madvise_unknown", EINVAL, madvise(at, page, 9999));
	note_error("madvise_dontneed", madvise(at, page, MADV_DONTNEED));
	check("pattern_after_dontneed", 0, wrong(at, 2 * page, DEMO_SCATTERED, 0));
	note_error("madvise_willneed", madvise(at, page, MADV_WILLNEED));
	note_error("msync_sync", msync(at, page, MS_SYNC));
	CALL("msync_async", 0, msync(at, page, MS_ASYNC));
	CALL("msync_both", EINVAL, msync(at, page, MS_ASYNC | MS_SYNC));
	CALL("msync_unaligned", EINVAL, msync(at + 1, page, MS_ASYNC));
	CALL("mincore", 0, mincore(at, 2 * page, resident));
	CALL("mlock", 0, mlock(at, page));
	CALL("munlock", 0, munlock(at, page));
	munmap(at, 2 * page);
	CALL("msync_unmapped", ENOMEM, msync(at, page, MS_ASYNC));
	CALL("mincore_unmapped", ENOMEM, mincore(at, 2 * page, resident));
	CALL("mlock_unmapped", ENOMEM, mlock(at, page));
	if (native)
		return;
	/* A device has no holes to punch: the content stays. */
	at = map(page, RW, MAP_SHARED, 0);
	note_error("madvise_remove", madvise(at, page, MADV_REMOVE));
	check("pattern_after_remove", 0, wrong(at, page, DEMO_SCATTERED, 0));
	munmap(at, page);
}

/* Mapped memory as the buffer of other system calls. */
static void buffers(void)
{
	volatile uint32_t *shared = map(2 * page, RW, MAP_SHARED, AREA);
	uint32_t words[4];
	int ends[2];

	if (pipe(ends))
		die("pipe");
	check("write_from_the_map", sizeof(words), write(ends[1], (void *)shared, sizeof(words)));
	check("its_bytes", sizeof(words), read(ends[0], words, sizeof(words)));
	check("are_the_pattern", 0, wrong(words, sizeof(words), DEMO_CONTIGUOUS, 0));
	words[0] = words[1] = 0x77;
	check("pipe_write", 8, write(ends[1], words, 8));
	check("read_into_the_map", 8, read(ends[0], (void *)(shared + page / 4), 8));
	check("changes_it", 0x77, shared[page / 4]);
	shared[page / 4] = (DEMO_CONTIGUOUS << 16) + (uint32_t)page / 4;
	shared[page / 4 + 1] = (DEMO_ODD << 16) + (uint32_t)page / 4;
	mprotect((void *)shared, page, PROT_READ);
	words[0] = 0;
	check("pipe_write_again", 4, write(ends[1], words, 4));
	CALL("read_into_a_read_only_map", EFAULT, read(ends[0], (void *)shared, 4));
	munmap((void *)shared, 2 * page);
	CALL("write_from_an_unmapped_map", EFAULT, write(ends[1], (void *)shared, 4));
	close(ends[0]);
	close(ends[1]);
}

static void left_out(void)
{
	char byte = 0;

	CALL("read", EINVAL, read(fd, &byte, 1));
	CALL("write", EINVAL, write(fd, &byte, 1));
	CALL("lseek", ESPIPE, lseek(fd, 0, SEEK_SET));
	CALL("ioctl", ENOTTY, ioctl(fd, _IO('d', 1)));
}

static void make_native_file(void)
{
	uint32_t words[2];
	FILE *file = fopen(path, "w");

	if (!file)
		die(path);
	for (unsigned tag = DEMO_SCATTERED; tag; tag = tag == DEMO_SCATTERED ? DEMO_CONTIGUOUS : 0) {
		for (unsigned i = 0; i < AREA / 4; i += 2) {
			words[0] = (tag << 16) + i;
			words[1] = (DEMO_ODD << 16) + i;
			fwrite(words, sizeof(words), 1, file);
		}
	}
	fclose(file);
}

int main(int argc, char **argv)
{
	start();
	if (argc == 4 && !strcmp(argv[1], "--exec-child"))
		return exec_child(atoi(argv[2]), atoi(argv[3]));
	native = take_native(&argc, argv);
	if (argc != 2) {
		fprintf(stderr, "usage: demo [--native] PATH\n");
		return 2;
	}
	path = argv[1];
	if (native)
		make_native_file();
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	patterns();
	refusals();
	rights();
	sharing("scattered", 0, DEMO_SCATTERED);
	sharing("contiguous", AREA, DEMO_CONTIGUOUS);
	copies();
	unmapping();
	protections();
	addresses();
	areas();
	descriptors();
	children();
	threads();
	moving();
	buffers();
	if (!native)
		left_out();
	advice();
	close(fd);
	CALL("reopen", 0, fd = open(path, O_RDONLY));
	pattern("scattered_unchanged", AREA, DEMO_SCATTERED);
	pattern("contiguous_unchanged", AREA, DEMO_CONTIGUOUS);
	close(fd);
	return finish();
}
