/* plans PATH: every kind of plan and fault in the kernel, by the device of
 * devmap_checks (whose main.rs says what stands at which page). */
#include "check.h"

#include <sys/ioctl.h>
#include <sys/uio.h>

#define SUM _IOR('P', 1, uint64_t[2])
#define MAPPED _IO('P', 2)
#define OPENS _IO('P', 3)
#define FAULTS _IO('P', 4)

#define RW (PROT_READ | PROT_WRITE)
#define CONTIGUOUS 1
#define SCATTERED 2

static const char *path;
static int fd;

static void *map(long pages, int flags, long at)
{
	return mmap(NULL, pages * page, RW, flags, fd, at * page);
}

static uint64_t sum(int memory)
{
	uint64_t sums[2] = { 0 };

	if (ioctl(fd, SUM, sums))
		die("SUM");
	return sums[memory - 1];
}

/* An area of 6 pages by both methods, from both memories. */
static void mixed(void)
{
	unsigned char *at = map(6, MAP_SHARED, 0);
	unsigned char *contiguous = map(8, MAP_SHARED, 100), *scattered = map(8, MAP_SHARED, 200);
	int faults = ioctl(fd, FAULTS);

	MAPS("mixed", 0, at);
	contiguous[page] = 11;
	contiguous[2 * page] = 12;
	scattered[3 * page] = 13;
	scattered[4 * page + 7] = 14;
	check("mixed_contiguous", 11, at[0]);
	check("mixed_contiguous_next", 12, at[page]);
	check("mixed_scattered", 13, at[2 * page]);
	check("mixed_scattered_next", 14, at[3 * page + 7]);
	check("remapped_pages_do_not_fault", faults, ioctl(fd, FAULTS));
	check("mixed_filled_nothing_is_zeros", 0, at[4 * page]);
	check("mixed_filled", 5, at[5 * page + 1]);
	at[5 * page + 1] = 99;
	at[2 * page] = 15;
	check("mixed_store_is_shared", 15, scattered[3 * page]);
	CALL("dontneed_of_all", 0, madvise(at, 6 * page, MADV_DONTNEED));
	check("remapped_page_comes_back", 11, at[0]);
	check("scattered_page_comes_back", 15, at[2 * page]);
	check("filled_page_is_cached", 99, at[5 * page + 1]);
	munmap(at + page, 3 * page);
	check("hole_in_the_middle", SIGSEGV, loads(at + 2 * page));
	check("before_the_hole", 11, at[0]);
	check("after_the_hole", 99, at[5 * page + 1]);
	munmap(at, page);
	at = mremap(at + 4 * page, 2 * page, 3 * page, MREMAP_MAYMOVE);
	MAPS("mixed_area_grows", 0, at);
	check("moved_filled_page", 99, at[page + 1]);
	check("past_the_plan", SIGBUS, loads(at + 2 * page));
	munmap(at, 3 * page);
	memset(contiguous, 0, 8 * page);
	memset(scattered, 0, 8 * page);
	munmap(contiguous, 8 * page);
	munmap(scattered, 8 * page);
	at = map(6, MAP_PRIVATE, 0);
	MAPS("mixed_private", 0, at);
	memset(at, 1, 6 * page);
	check("private_store_stays_private", 0, (long long)(sum(CONTIGUOUS) + sum(SCATTERED)));
	munmap(at, 6 * page);
}

static int child_stores(void *argument)
{
	unsigned char *bytes = argument;

	bytes[1] = 2;
	return bytes[0] == 1 && sum(CONTIGUOUS) == 3 ? 42 : 1;
}

static int child_opens(void *argument)
{
	(void)argument;
	fd = open(path, O_RDWR);
	unsigned char *bytes = map(1, MAP_SHARED, 100);

	bytes[page - 1] = 4;
	return bytes[0] == 1 && bytes[1] == 2 && sum(CONTIGUOUS) == 7 ? 42 : 1;
}

/* The same bytes, seen by two programs and by the driver. */
static void shared(void)
{
	unsigned char *bytes = map(8, MAP_SHARED, 100);

	check("sum_before", 0, (long long)sum(CONTIGUOUS));
	bytes[0] = 1;
	check("driver_sees_the_store", 1, (long long)sum(CONTIGUOUS));
	check("child_and_driver_agree", 42, in_child(child_stores, bytes));
	check("other_program_and_driver_agree", 42, in_child(child_opens, NULL));
	check("parent_sees_both", 6, bytes[1] + bytes[page - 1]);
	memset(bytes, 0, 8 * page);
	check("sum_after", 0, (long long)sum(CONTIGUOUS));
	munmap(bytes, 8 * page);
}

static int holds_map(void *argument)
{
	(void)argument;
	return ioctl(fd, MAPPED);
}

static void mapped(void)
{
	unsigned char *one = map(4, MAP_SHARED, 100), *two = map(1, MAP_PRIVATE, 200);

	check("both_are_mapped", CONTIGUOUS | SCATTERED, ioctl(fd, MAPPED));
	munmap(two, page);
	check("one_is_mapped", CONTIGUOUS, ioctl(fd, MAPPED));
	munmap(one + page, page);
	munmap(one, page);
	check("the_tail_is_mapped", CONTIGUOUS, ioctl(fd, MAPPED));
	check("in_a_child_too", CONTIGUOUS, in_child(holds_map, NULL));
	munmap(one + 2 * page, 2 * page);
	check("none_is_mapped", 0, ioctl(fd, MAPPED));
	/* Page 301 is answered by a page of the scattered memory. */
	one = map(2, MAP_SHARED, 300);
	check("untouched_is_not_mapped", 0, ioctl(fd, MAPPED));
	one[page] = 5;
	check("a_supplied_page_is_mapped", SCATTERED, ioctl(fd, MAPPED));
	check("driver_sees_the_supplied_page", 5, (long long)sum(SCATTERED));
	one[page] = 0;
	munmap(one, 2 * page);
	check("then_no_longer", 0, ioctl(fd, MAPPED));
}

static void faults(void)
{
	unsigned char *at = map(10, MAP_SHARED, 300), *again;
	int before = ioctl(fd, FAULTS), other;

	check("page_of_a_memory", 0, loads(at));
	check("page_that_a_memory_lacks", SIGBUS, loads(at + 2 * page));
	check("refused_page", SIGBUS, loads(at + 3 * page));
	check("page_taken_then_refused", SIGBUS, loads(at + 6 * page));
	check("refused_in_a_system_call", -1, write(1, at + 3 * page, 0) ? 0 : -1);
	check("refusals_are_asked_again", 1, ioctl(fd, FAULTS) - before >= 4);
	check("filled_page", 7 + 300 % 256, at[7 * page + 5]);
	before = ioctl(fd, FAULTS);
	again = map(10, MAP_SHARED, 300);
	check("filled_page_in_another_map", 7 + 300 % 256, again[7 * page + 5]);
	check("is_not_asked_again", before, ioctl(fd, FAULTS));
	at[7 * page] = 200;
	check("filled_page_is_shared", 200, again[7 * page]);
	munmap(again, 10 * page);
	other = open(path, O_RDWR);
	again = mmap(NULL, 10 * page, RW, MAP_SHARED, other, 300 * page);
	check("another_open_has_its_own", 7 + 300 % 256, again[7 * page + 5]);
	check("not_the_first_ones_store", 0, again[7 * page] == 200);
	munmap(again, 10 * page);
	close(other);
	munmap(at, 10 * page);
}

static void refused(void)
{
	char name[32];

	for (int plan = 1000; plan <= 1006; plan++) {
		snprintf(name, sizeof(name), "bad_plan_%d", plan);
		MAPS(name, EIO, map(plan == 1006 ? 9 : 3, MAP_SHARED, plan));
	}
	MAPS("no_plan", ENXIO, map(1, MAP_SHARED, 500));
	check("nothing_is_left_mapped", 0, ioctl(fd, MAPPED));
}

static int child_is_killed(void *argument)
{
	unsigned char *bytes = map(2, MAP_SHARED, 100), *fresh = map(4, MAP_SHARED, 400);

	(void)argument;
	bytes[0] = fresh[0] = 0;
	raise(SIGKILL);
	return 0;
}

/* An area alone keeps its memory. */
static void fresh(void)
{
	unsigned char *one = map(4, MAP_SHARED, 400), *two = map(4, MAP_SHARED, 400);

	one[0] = 1;
	check("fresh_memory_of_each_area", 0, two[0]);
	munmap(two, 4 * page);
	munmap(one, page);
	check("rest_stays", 0, one[page]);
	munmap(one + page, 3 * page);
	check("killed_with_areas", 1000 + SIGKILL, in_child(child_is_killed, NULL));
	check("killed_leaves_nothing_mapped", 0, ioctl(fd, MAPPED));
}

/* What the kernel does with an area by its flags alone. */
static long foreign_read(void *at)
{
	char bytes[8];
	struct iovec here = { bytes, sizeof(bytes) }, there = { at, sizeof(bytes) };

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0);
}

static int child_reads(void *argument)
{
	return *(volatile char *)argument != 1;
}

static void flags(void)
{
	char *pfn = map(2, MAP_SHARED, 100), *pages = map(2, MAP_SHARED, 200);
	char *copy = map(2, MAP_PRIVATE, 100), *faulted = map(2, MAP_SHARED, 300);

	CALL("foreign_read_of_pfns", EFAULT, foreign_read(pfn));
	CALL("foreign_read_of_pages", 0, foreign_read(pages));
	CALL("foreign_read_of_a_private_area", 0, foreign_read(copy));
	CALL("foreign_read_that_faults", 0, foreign_read(faulted));
	CALL("mlock_pfns", 0, mlock(pfn, 2 * page));
	CALL("mlock_pages", 0, mlock(pages, 2 * page));
	MAPS("pfns_do_not_grow", EFAULT, mremap(pfn, 2 * page, 3 * page, MREMAP_MAYMOVE));
	MAPS("dontexpand", EFAULT, mremap(pages, 2 * page, 3 * page, MREMAP_MAYMOVE));
	CALL("pfns_cannot_be_dropped", EINVAL, madvise(pfn, page, MADV_DONTNEED));
	copy[0] = 1;
	check("fork_after_a_private_store", 0, in_child(child_reads, copy));
	munmap(pfn, 2 * page);
	munmap(pages, 2 * page);
	munmap(copy, 2 * page);
	munmap(faulted, 2 * page);
}

int main(int argc, char **argv)
{
	start();
	if (argc != 2) {
		fprintf(stderr, "usage: plans PATH\n");
		return 2;
	}
	path = argv[1];
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	mixed();
	shared();
	mapped();
	faults();
	refused();
	fresh();
	flags();
	close(fd);
	return finish();
}
