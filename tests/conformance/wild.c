/* wild [--native] PATH [SEED [STEPS [BYTES]]]: a random sequence of mapping calls on
 * the `mem` device (of BYTES, default 1048576), against a model of what every page
 * then is and holds. It says nothing of each step; a failure names seed and step.
 *
 * With --native, PATH is made as a plain file. */
#include "check.h"

#define WINDOW 48 /* pages of addresses */
#define DEVICE 32 /* pages of the device that are used */

/* What stands at a page of the window. */
struct slot {
	enum { FREE, SHARED, PRIVATE } kind;
	int device_page;
	int prot;
	int copied; /* private, and stored to since */
	uint32_t own; /* its word then */
};

static struct slot slot[WINDOW];
/* The first word of each page of the device. */
static uint32_t device[DEVICE];
static char *base;
static int fd;
static uint64_t random_state;
static int step;
static const char *doing = "start";

static unsigned choose(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 33) % below;
}

static void wrong(const char *what, long expected, long got)
{
	printf("FAIL step %d (%s), %s: expected %ld got %ld\n", step, doing, what, expected, got);
	fflush(stdout);
	exit(1);
}

static void expect(const char *what, long expected, long got)
{
	if (expected != got)
		wrong(what, expected, got);
}

static void clear(int first, int count)
{
	memset(&slot[first], 0, (size_t)count * sizeof(*slot));
}

static int some_prot(void)
{
	static const int all[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
				   PROT_READ | PROT_WRITE };

	return all[choose(4)];
}

static void do_map(int first, int count)
{
	int from = (int)choose((unsigned)(DEVICE - count + 1)), shared = choose(2) == 0;
	int prot = some_prot();
	void *at = mmap(base + first * page, (size_t)(count * page), prot,
			MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE), fd, from * page);

	doing = "map";
	expect("address", 1, at == base + first * page);
	for (int i = 0; i < count; i++)
		slot[first + i] = (struct slot){ shared ? SHARED : PRIVATE, from + i, prot, 0, 0 };
}

static void do_noreplace(int first, int count)
{
	int taken = 0;
	void *at;

	doing = "map without replacing";
	for (int i = 0; i < count; i++)
		taken |= slot[first + i].kind != FREE;
	at = mmap(base + first * page, (size_t)(count * page), PROT_READ,
		  MAP_FIXED_NOREPLACE | MAP_SHARED, fd, 0);
	expect("refused", taken, at == MAP_FAILED);
	if (taken)
		expect("errno", EEXIST, errno);
	for (int i = 0; !taken && i < count; i++)
		slot[first + i] = (struct slot){ SHARED, i, PROT_READ, 0, 0 };
}

static void do_unmap(int first, int count)
{
	doing = "unmap";
	expect("result", 0, munmap(base + first * page, (size_t)(count * page)));
	clear(first, count);
}

static void do_protect(int first, int count)
{
	int prot = some_prot(), hole = count;

	doing = "protect";
	for (int i = count - 1; i >= 0; i--)
		if (slot[first + i].kind == FREE)
			hole = i;
	expect("result", hole < count ? -1 : 0,
	       mprotect(base + first * page, (size_t)(count * page), prot));
	/* Linux changes what stands before the hole. */
	for (int i = 0; i < hole; i++)
		slot[first + i].prot = prot;
}

static void do_move(int first, int count)
{
	int to = (int)choose((unsigned)(WINDOW - count + 1));
	struct slot moved[WINDOW];
	void *at;

	doing = "move";
	if (to < first + count && first < to + count)
		return;
	/* One area only: it must have been mapped as one, and not cut since. */
	for (int i = 0; i < count; i++) {
		if (slot[first + i].kind == FREE || slot[first + i].kind != slot[first].kind ||
		    slot[first + i].prot != slot[first].prot ||
		    slot[first + i].device_page != slot[first].device_page + i)
			return;
	}
	at = mremap(base + first * page, (size_t)(count * page), (size_t)(count * page),
		    MREMAP_MAYMOVE | MREMAP_FIXED, base + to * page);
	if (at == MAP_FAILED) {
		/* Equal neighbours that Linux did not merge are two areas. */
		expect("errno", EFAULT, errno);
		clear(to, count);
		munmap(base + to * page, (size_t)(count * page));
		return;
	}
	memcpy(moved, &slot[first], (size_t)count * sizeof(*moved));
	clear(first, count);
	memcpy(&slot[to], moved, (size_t)count * sizeof(*moved));
}

static uint32_t model(int at)
{
	return slot[at].copied ? slot[at].own : device[slot[at].device_page];
}

static void do_load(int at)
{
	volatile uint32_t *word = (uint32_t *)(base + at * page);
	int can = slot[at].kind != FREE && slot[at].prot & PROT_READ;

	doing = "load";
	expect("signal", can ? 0 : SIGSEGV, loads(word));
	if (can)
		expect("value", model(at), *word);
}

static void do_store(int at)
{
	volatile uint32_t *word = (uint32_t *)(base + at * page);
	int can = slot[at].kind != FREE && slot[at].prot & PROT_WRITE;
	uint32_t value = choose(1 << 30);

	doing = "store";
	expect("signal", can ? 0 : SIGSEGV, stores(word));
	if (!can)
		return;
	*word = value;
	if (slot[at].kind == SHARED) {
		device[slot[at].device_page] = value;
	} else {
		slot[at].copied = 1;
		slot[at].own = value;
	}
}

static void do_pwrite(void)
{
	int at = (int)choose(DEVICE);

	doing = "pwrite";
	device[at] = choose(1 << 30);
	expect("result", 4, pwrite(fd, &device[at], 4, at * page));
}

static void do_pread(void)
{
	int at = (int)choose(DEVICE);
	uint32_t got = 0;

	doing = "pread";
	expect("result", 4, pread(fd, &got, 4, at * page));
	expect("value", device[at], got);
}

static void check_all(void)
{
	for (int i = 0; i < WINDOW; i++)
		do_load(i);
}

static int child_checks(void *argument)
{
	(void)argument;
	check_all();
	return 0;
}

int main(int argc, char **argv)
{
	int native, steps;
	size_t size;
	unsigned long seed;

	start();
	native = take_native(&argc, argv);
	if (argc < 2 || argc > 5) {
		fprintf(stderr, "usage: wild [--native] PATH [SEED [STEPS [BYTES]]]\n");
		return 2;
	}
	seed = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
	steps = argc > 3 ? atoi(argv[3]) : 1000;
	size = argc > 4 ? strtoul(argv[4], NULL, 0) : 1 << 20;
	random_state = 0x9e3779b97f4a7c15 * (seed + 1);
	fd = open(argv[1], native ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR, 0600);
	if (fd < 0 || (native && ftruncate(fd, (off_t)size)))
		die("open");
	base = window(WINDOW * page);
	for (int i = 0; i < DEVICE; i++) {
		device[i] = (uint32_t)i;
		expect("preparation", 4, pwrite(fd, &device[i], 4, i * page));
	}
	for (step = 1; step <= steps; step++) {
		int first = (int)choose(WINDOW), most = WINDOW - first < 9 ? WINDOW - first : 9;
		int count = 1 + (int)choose((unsigned)most);

		switch (choose(16)) {
		case 0: case 1: case 2: case 3:
			do_map(first, count);
			break;
		case 4:
			do_noreplace(first, count);
			break;
		case 5: case 6:
			do_unmap(first, count);
			break;
		case 7: case 8:
			do_protect(first, count);
			break;
		case 9:
			do_move(first, count);
			break;
		case 10:
			do_pwrite();
			break;
		case 11:
			do_pread();
			break;
		case 12: case 13:
			do_load(first);
			break;
		default:
			do_store(first);
			break;
		}
		if (step % 100 == 0) {
			check_all();
			expect("child", 0, in_child(child_checks, NULL));
		}
	}
	printf("ok seed %lu, %d steps\n", seed, steps);
	for (int i = 0; i < DEVICE; i++) {
		device[i] = 0;
		pwrite(fd, &device[i], 4, i * page);
	}
	return finish();
}
