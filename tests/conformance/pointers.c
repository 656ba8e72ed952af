/* pointers [--native] PATH: bad pointers, lengths, commands and descriptors, given to
 * the `events` device: an errno each, and nothing else happens.
 *
 * With --native, PATH is made as a FIFO; the device's own ioctls are left out. */
#include "check.h"
#include "devmap.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static const char *path;
static int native;
static int fd;

/* A page that can be read and written, then one that cannot be touched. */
static char *edge;
static char *read_only;
static char *closed;
static char *unmapped;

static struct {
	const char *name;
	void *pointer;
} bad[8];
static int bads;

static void add(const char *name, void *pointer)
{
	bad[bads].name = name;
	bad[bads++].pointer = pointer;
}

static void prepare(void)
{
	edge = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(edge + page, page, PROT_NONE);
	closed = edge + page;
	read_only = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unmapped = window(page);
	add("null", NULL);
	add("low", (void *)8);
	add("unmapped", unmapped);
	add("closed", closed);
	add("crossing", closed - 2);
	add("kernel", (void *)0xffff800000001000);
	add("noncanonical", (void *)0x8000000000001000);
	add("wrapping", (void *)-4L);
}

static void commands(void)
{
	static const struct {
		const char *name;
		unsigned long command;
	} all[] = {
		{ "set_mask", EVENTS_SET_MASK }, { "get_mask", EVENTS_GET_MASK },
		{ "wait_mask", EVENTS_WAIT_MASK }, { "invert", EVENTS_INVERT },
		{ "copy", EVENTS_COPY }, { "stats", EVENTS_STATS },
	};
	uint32_t mask = 0;
	char name[64];

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		for (int j = 0; j < bads; j++) {
			snprintf(name, sizeof(name), "%s_%s", all[i].name, bad[j].name);
			CALL(name, EFAULT, ioctl(fd, all[i].command, bad[j].pointer));
		}
	}
	CALL("get_mask_read_only", EFAULT, ioctl(fd, EVENTS_GET_MASK, read_only));
	CALL("invert_read_only", EFAULT, ioctl(fd, EVENTS_INVERT, read_only));
	CALL("stats_read_only", EFAULT, ioctl(fd, EVENTS_STATS, read_only));
	CALL("get_mask", 0, ioctl(fd, EVENTS_GET_MASK, &mask));
	check("mask_is_unchanged", 0x104, mask);
	memset(edge, 0, page);
	CALL("misaligned", 0, ioctl(fd, EVENTS_GET_MASK, edge + 1));
	memcpy(&mask, edge + 1, 4);
	check("misaligned_value", 0x104, mask);
	CALL("up_to_the_edge", 0, ioctl(fd, EVENTS_INVERT, closed - 88));
	check("up_to_the_edge_value", 0xff, (unsigned char)closed[-1]);
	/* The mask is 0 there: an all-zero page that can only be read will do. */
	CALL("set_mask_read_only", 0, ioctl(fd, EVENTS_SET_MASK, read_only));
	CALL("get_mask_after", 0, ioctl(fd, EVENTS_GET_MASK, &mask));
	check("mask_is_set", 0, mask);
	CALL("reset", 0, ioctl(fd, EVENTS_RESET));
}

static int copy(void *from, void *to, uint32_t len)
{
	struct events_copy call = { (uintptr_t)from, (uintptr_t)to, len, 0 };

	return ioctl(fd, EVENTS_COPY, &call);
}

static void embedded(void)
{
	char bytes[64] = "abc", name[64];
	struct events_copy *call = (struct events_copy *)edge;

	for (int i = 0; i < bads; i++) {
		snprintf(name, sizeof(name), "copy_from_%s", bad[i].name);
		CALL(name, EFAULT, copy(bad[i].pointer, bytes, 8));
		snprintf(name, sizeof(name), "copy_to_%s", bad[i].name);
		CALL(name, EFAULT, copy(bytes, bad[i].pointer, 8));
		snprintf(name, sizeof(name), "copy_nothing_%s", bad[i].name);
		CALL(name, 0, copy(bad[i].pointer, bad[i].pointer, 0));
	}
	CALL("copy_to_read_only", EFAULT, copy(bytes, read_only, 8));
	CALL("copy_too_long", EINVAL, copy(edge, edge, EVENTS_MAX_COPY + 1));
	CALL("copy_far_too_long", EINVAL, copy(bytes, bytes, 0xffffffff));
	CALL("copy_in_place", 0, copy(bytes, bytes, 3));
	check_text("copied_in_place", "bcd", bytes);
	memset(call, 0, sizeof(*call));
	call->from = call->to = (uintptr_t)call;
	call->len = sizeof(*call);
	CALL("copy_over_its_own_argument", 0, ioctl(fd, EVENTS_COPY, call));
}

static void unknown(void)
{
	static char big[1 << 14];

	CALL("command_0", ENOTTY, ioctl(fd, 0));
	CALL("command_minus_1", ENOTTY, ioctl(fd, -1, big));
	CALL("unknown_number", ENOTTY, ioctl(fd, _IO('E', 200)));
	CALL("unknown_type", ENOTTY, ioctl(fd, _IOWR('e', 5, struct events_buffer), big));
	CALL("wrong_size", ENOTTY, ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'E', 5, 96), big));
	CALL("largest_size", ENOTTY, ioctl(fd, _IOC(_IOC_READ, 'E', 5, _IOC_SIZEMASK), big));
	CALL("wrong_direction", ENOTTY, ioctl(fd, _IOW('E', 5, struct events_buffer), big));
	note_error("unknown_with_a_bad_pointer", ioctl(fd, _IOWR('E', 200, long), bad_address));
	check("high_half_of_a_command", 0, syscall(SYS_ioctl, fd, 0x1234500000000 | EVENTS_COUNT, 0));
	CALL("bad_pointer_of_a_command_without_one", 0, ioctl(fd, EVENTS_COUNT, bad_address));
}

static void transfers(void)
{
	char name[64], bytes[16];
	struct iovec parts[2] = { { bytes, 2 }, { NULL, 0 } };

	CALL("nonblocking", 0, fcntl(fd, F_SETFL, O_NONBLOCK));
	check("fill", 8, write(fd, "12345678", 8));
	for (int i = 0; i < bads; i++) {
		if (!strcmp(bad[i].name, "crossing"))
			continue;
		snprintf(name, sizeof(name), "read_%s", bad[i].name);
		CALL(name, EFAULT, read(fd, bad[i].pointer, 8));
		snprintf(name, sizeof(name), "write_%s", bad[i].name);
		CALL(name, EFAULT, write(fd, bad[i].pointer, 8));
	}
	CALL("read_into_read_only", EFAULT, read(fd, read_only, 8));
	CALL("readv_bad_vector", EFAULT, readv(fd, bad_address, 2));
	CALL("readv_negative_count", EINVAL, syscall(SYS_readv, fd, parts, -1L));
	check("readv_empty_part", 2, readv(fd, parts, 2));
	check("read_longer_than_its_memory", 6, read(fd, closed - 16, 1 << 20));
	check("nothing_was_lost", 0, memcmp(closed - 16, "345678", 6));
	CALL("and_nothing_is_left", EAGAIN, read(fd, bytes, 1));
	fcntl(fd, F_SETFL, 0);
}

static void descriptors(void)
{
	int value, gone = dup(fd);

	close(gone);
	CALL("ioctl_minus_1", EBADF, ioctl(-1, _IO('E', 7)));
	CALL("ioctl_closed", EBADF, ioctl(gone, _IO('E', 7)));
	CALL("ioctl_huge", EBADF, ioctl(1 << 30, _IO('E', 7)));
	CALL("ioctl_unused", EBADF, ioctl(1023, _IO('E', 7)));
	CALL("fstat_unused", EBADF, fcntl(1022, F_GETFD));
	CALL("read_unused", EBADF, read(1021, &value, 1));
	MAPS("mmap_unused", EBADF, mmap(NULL, page, PROT_READ, MAP_SHARED, 1020, 0));
	value = 0;
	CALL("high_half_of_a_descriptor", 0,
	     syscall(SYS_ioctl, (1L << 32) | (unsigned)fd, FIONBIO, &value));
}

/* Paths that are cut, too long, or stand at the very edge of memory. */
static void paths(void)
{
	static char endless[5000];
	struct stat status;
	size_t len = strlen(path) + 1;
	char *at = closed - len;
	int opened;

	memcpy(at, path, len);
	opened = open(at, O_RDWR | O_NONBLOCK);
	CALL("path_at_the_edge", 0, opened);
	close(opened);
	CALL("stat_at_the_edge", 0, stat(at, &status));
	memcpy(at + 1, path, len - 1);
	CALL("path_without_an_end", EFAULT, open(at + 1, O_RDWR));
	CALL("stat_without_an_end", EFAULT, stat(at + 1, &status));
	for (int i = 0; i < bads; i++) {
		char name[64];

		if (!strcmp(bad[i].name, "crossing"))
			continue;
		snprintf(name, sizeof(name), "open_%s", bad[i].name);
		CALL(name, EFAULT, syscall(SYS_openat, AT_FDCWD, bad[i].pointer, O_RDWR, 0));
		snprintf(name, sizeof(name), "stat_into_%s", bad[i].name);
		CALL(name, EFAULT, syscall(SYS_newfstatat, AT_FDCWD, path, bad[i].pointer, 0));
		snprintf(name, sizeof(name), "fstat_into_%s", bad[i].name);
		CALL(name, EFAULT, syscall(SYS_fstat, fd, bad[i].pointer));
		snprintf(name, sizeof(name), "statx_into_%s", bad[i].name);
		CALL(name, EFAULT,
		     syscall(SYS_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, bad[i].pointer));
	}
	CALL("fstat_into_read_only", EFAULT, syscall(SYS_fstat, fd, read_only));
	memset(endless, '/', sizeof(endless) - 1);
	CALL("path_too_long", ENAMETOOLONG, open(endless, O_RDONLY));
	CALL("path_empty", ENOENT, open("", O_RDONLY));
	CALL("openat_bad_directory", EBADF, openat(-5, "x", O_RDONLY));
	CALL("openat_below_a_device", ENOTDIR, openat(fd, "x", O_RDONLY));
}

int main(int argc, char **argv)
{
	start();
	native = take_native(&argc, argv);
	if (argc != 2 || strlen(argv[1]) > 1000) {
		fprintf(stderr, "usage: pointers [--native] PATH\n");
		return 2;
	}
	path = argv[1];
	if (native && mkfifo(path, 0600) && errno != EEXIST)
		die("mkfifo");
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	prepare();
	if (!native) {
		if (ioctl(fd, EVENTS_RESET))
			die("EVENTS_RESET");
		commands();
		embedded();
		unknown();
	}
	transfers();
	descriptors();
	paths();
	close(fd);
	return finish();
}
