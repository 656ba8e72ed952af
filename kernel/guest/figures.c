/* figures: instructions of a call or an access, the module's against the module peer's,
 * which is the same by hand in C. Runs where the time-stamp counter counts
 * instructions (QEMU -icount shift=0). Medians. */
#include "check.h"
#include "devmap.h"

#include <sys/ioctl.h>
#include <x86intrin.h>

#define ROUNDS 301
#define RW (PROT_READ | PROT_WRITE)

static int demo, events, pattern, peer;
static char *touched[2];

static uint64_t map(int fd, long at)
{
	uint64_t begin = __rdtsc();
	void *area = mmap(NULL, 16 * page, RW, MAP_SHARED, fd, at * page);

	munmap(area, 16 * page);
	begin = __rdtsc() - begin;
	if (area == MAP_FAILED)
		die("mmap");
	return begin;
}

static uint64_t contiguous(int side, int round)
{
	(void)round;
	return map(side ? peer : demo, 16);
}

static uint64_t scattered(int side, int round)
{
	(void)round;
	return map(side ? peer : demo, 0);
}

/* The first access to a page of each round's own. */
static uint64_t fault(int side, int round)
{
	volatile char *at = touched[side] + round * page;
	uint64_t begin = __rdtsc();

	*at;
	return __rdtsc() - begin;
}

/* The page is filled already, but not in this area. */
static uint64_t fault_again(int side, int round)
{
	char *at = touched[side] + round * page;

	madvise(at, page, MADV_DONTNEED);
	return fault(side, round);
}

static uint64_t control(int side, int round)
{
	static struct events_buffer buffer;
	int fd = side ? peer : events;
	(void)round;
	uint64_t begin = __rdtsc();
	int result = ioctl(fd, EVENTS_INVERT, &buffer);

	begin = __rdtsc() - begin;
	if (result)
		die("ioctl");
	return begin;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

#define AT(side, percent) (unsigned long long)counts[side][(ROUNDS - 1) * (percent) / 100]

static void measure(const char *name, uint64_t (*run)(int side, int round))
{
	static uint64_t counts[2][ROUNDS];

	unsigned random = 1;

	/* In no fixed order: what one leaves undone (RCU, page tables) the next does. */
	for (int round = 0; round < ROUNDS; round++) {
		random = random * 1103515245 + 12345;
		for (int i = 0; i < 2; i++) {
			int side = (random >> 16 & 1) ^ i;

			counts[side][round] = run(side, round);
		}
	}
	for (int side = 0; side < 2; side++)
		qsort(counts[side], ROUNDS, sizeof(counts[0][0]), compare);
	uint64_t ours = counts[0][ROUNDS / 2], theirs = counts[1][ROUNDS / 2];
	double ratio = (double)ours / (double)theirs;

	printf("figure %-28s %6llu of %6llu instructions, ratio %.3f (0%%, 10%%, 90%%: %llu %llu %llu of %llu %llu %llu)\n",
	       name, (unsigned long long)ours, (unsigned long long)theirs, ratio,
	       AT(0, 0), AT(0, 10), AT(0, 90), AT(1, 0), AT(1, 10), AT(1, 90));
	if (ratio > 1.1) {
		printf("FAIL %s: more than 1.1\n", name);
		failures++;
	}
}

int main(void)
{
	start();
	demo = open("/dev/devmap-demo", O_RDWR);
	events = open("/dev/devmap-events", O_RDWR);
	pattern = open("/dev/devmap-pattern", O_RDWR);
	peer = open("/dev/peer", O_RDWR);
	if (demo < 0 || events < 0 || pattern < 0 || peer < 0)
		die("open");
	/* Not beside the peer's other areas: Linux 6.12 would merge them, without its mmap. */
	touched[0] = mmap(NULL, ROUNDS * page, RW, MAP_SHARED, pattern, 32 * page);
	touched[1] = mmap(NULL, ROUNDS * page, RW, MAP_SHARED, peer, 64 * page);
	measure("mmap+munmap_contiguous", contiguous);
	measure("mmap+munmap_scattered", scattered);
	measure("fault", fault);
	measure("fault_of_a_filled_page", fault_again);
	measure("ioctl_88_bytes", control);
	check("same_content", 0, memcmp(touched[0], touched[1], ROUNDS * page));
	return finish();
}
