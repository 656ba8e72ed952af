/* faulted PATH: catches the file of a device's faulted pages, by a filter that keeps devmap from
 * closing it at once, and tries to store in pages that no plan gave to it. The device is one of
 * filled pages, of 16 at least. */
#include "check.h"
#include "own_filter.h"

#include <pthread.h>
#include <sys/syscall.h>

enum { WRITTEN = 10, MAPPED = 12, PAGES = 16 };

/* What came of each, for the parent: the thief is killed. */
struct caught {
	volatile int is_over, written, written_far, read_far, synced;
};

static const char *path;
/* What is there, and was. */
static char *area, *before;
static struct caught *caught;

static int error_of(ssize_t result)
{
	return result < 0 ? errno : 0;
}

/* The kernel forgets what the thief has stored there. */
static int is_as_before(void *unused)
{
	(void)unused;
	return !memcmp(area, before, PAGES * page);
}

static int catches(void)
{
	char name[64], target[256];

	for (;;)
		for (int number = 3; number < 32; number++) {
			ssize_t len;

			snprintf(name, sizeof(name), "/proc/self/fd/%d", number);
			len = readlink(name, target, sizeof(target) - 1);
			target[len > 0 ? len : 0] = 0;
			if (strstr(target, ".devmap-faulted"))
				return number;
		}
}

static void *thief(void *unused)
{
	int number = catches();
	char *bytes = malloc(page), *map;

	(void)unused;
	memset(bytes, 0x77, page);
	caught->written = error_of(pwrite(number, bytes, page, WRITTEN * page));
	caught->written_far = error_of(pwrite(number, bytes, page, 1L << 40));
	caught->read_far = error_of(pread(number, bytes, page, 1L << 40));
	map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, number, MAPPED * page);
	if (map == MAP_FAILED)
		return NULL;
	memset(map, 0x77, page);
	caught->synced = error_of(msync(map, page, MS_SYNC));
	caught->is_over = 1;
	return NULL;
}

static int steals(void *unused)
{
	int file = open(path, O_RDWR);
	pthread_t thread;

	(void)unused;
	if (file < 0 || pthread_create(&thread, NULL, thief, NULL))
		return 91;
	install(SYS_close, SECCOMP_RET_ERRNO | EPERM);
	mmap(NULL, page, PROT_READ, MAP_SHARED, file, 0);
	return 93;
}

int main(int argc, char **argv)
{
	size_t len;
	int file, ended = 0;

	start();
	if (argc != 2) {
		fprintf(stderr, "usage: faulted PATH\n");
		return 2;
	}
	path = argv[1];
	len = PAGES * page;
	caught = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	file = open(path, O_RDONLY);
	/* For reading: so the plans give no page for writing but the first, to the child. */
	area = mmap(NULL, len, PROT_READ, MAP_SHARED, file, 0);
	before = malloc(len);
	if (caught == MAP_FAILED || area == MAP_FAILED || !before)
		die("map");
	memcpy(before, area, len);
	/* The descriptor stays for a second, in which the thief may not come to run. */
	for (int round = 0; round < 30 && !caught->is_over; round++)
		ended = in_child(steals, NULL);
	check("killed", 1000 + SIGKILL, ended);
	check("caught", 1, caught->is_over);
	check_text("written", "EACCES", error_name(caught->written));
	check_text("written_far", "EACCES", error_name(caught->written_far));
	check_text("read_far", "EIO", error_name(caught->read_far));
	check("synced", 1, caught->synced != 0);
	check("unwritten", 1, eventually(is_as_before, NULL));
	munmap(area, len);
	close(file);
	/* Nor is it kept for later. */
	file = open(path, O_RDONLY);
	area = mmap(NULL, len, PROT_READ, MAP_SHARED, file, 0);
	if (area == MAP_FAILED)
		die("map again");
	check("as_before", 0, memcmp(area, before, len));
	return finish();
}
