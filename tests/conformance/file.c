/* file PATH: the `file` device, of a file that may be written; or a plain file, on which
 * every check holds too. The content is replaced.
 *
 * What is left at the end is the same in both. */
#include "check.h"

#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#define RW (PROT_READ | PROT_WRITE)
#define PAGES 5
#define TAIL 100

static const char *path;
static int fd;
/* Five pages and a piece of a sixth. */
static size_t size;

static char byte_at(size_t offset)
{
	return (char)('a' + (offset / 7 + offset / 4096) % 26);
}

/* How many of the bytes that `from` holds differ from those made for the offset. */
static long wrong(const char *from, size_t len, size_t offset)
{
	long count = 0;

	for (size_t i = 0; i < len; i++)
		count += from[i] != byte_at(offset + i);
	return count;
}

static char *map(size_t len, int prot, int flags, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

static long long size_now(void)
{
	struct stat st;

	return fstat(fd, &st) ? -1 : st.st_size;
}

/* The byte that the file has at an offset, by a descriptor of its own. */
static int stored(size_t offset)
{
	unsigned char byte;
	int other = open(path, O_RDONLY);
	ssize_t count = pread(other, &byte, 1, (off_t)offset);

	close(other);
	return count == 1 ? byte : count == 0 ? -1 : -2;
}

/* The content that every part begins with. */
static void fill(void)
{
	static char bytes[1 << 16];

	for (size_t i = 0; i < size; i++)
		bytes[i] = byte_at(i);
	if (ftruncate(fd, 0) || pwrite(fd, bytes, size, 0) != (ssize_t)size)
		die("fill");
}

static void a_regular_file(void)
{
	struct stat st;

	CALL("stat", 0, stat(path, &st));
	check("is_regular", 1, S_ISREG(st.st_mode));
	check("stat_size", (long long)size, st.st_size);
	CALL("fstat", 0, fstat(fd, &st));
	check("fstat_regular", 1, S_ISREG(st.st_mode));
	check("fstat_size", (long long)size, st.st_size);
	check("one_name", 1, (long long)st.st_nlink);
	check("seek_end", (long long)size, lseek(fd, 0, SEEK_END));
	check("seek_back", (long long)size - 10, lseek(fd, -10, SEEK_CUR));
	CALL("seek_before_start", EINVAL, lseek(fd, -1, SEEK_SET));
	check("seek_past_end", (long long)size + 5, lseek(fd, (off_t)size + 5, SEEK_SET));
	check("seek_data", 7, lseek(fd, 7, SEEK_DATA));
	check("seek_hole", (long long)size, lseek(fd, 7, SEEK_HOLE));
	CALL("seek_data_past_end", ENXIO, lseek(fd, (off_t)size, SEEK_DATA));
	CALL("ioctl_unknown", ENOTTY, ioctl(fd, 0x1234, 0));
	CALL("no_directory", ENOTDIR, open(path, O_RDONLY | O_DIRECTORY));
	CALL("exclusive_create", EEXIST, open(path, O_RDWR | O_CREAT | O_EXCL, 0600));
	CALL("readable", 0, access(path, R_OK));
	CALL("writable", 0, access(path, W_OK));
	CALL("not_executable", EACCES, access(path, X_OK));
}

static void reads_and_writes(void)
{
	char bytes[9000], other[100];
	struct iovec parts[] = { { bytes, 10 }, { bytes + 10, 5000 } };
	int again;

	check("read_at_start", 9000, pread(fd, bytes, sizeof(bytes), 0));
	check("read_content", 0, wrong(bytes, sizeof(bytes), 0));
	check("read_across_the_end", 30, pread(fd, bytes, 100, (off_t)size - 30));
	check("read_tail", 0, wrong(bytes, 30, size - 30));
	check("read_at_end", 0, pread(fd, bytes, 100, (off_t)size));
	check("read_past_end", 0, pread(fd, bytes, 100, 1 << 20));
	lseek(fd, 4090, SEEK_SET);
	check("readv", 5010, readv(fd, parts, 2));
	check("readv_content", 0, wrong(bytes, 5010, 4090));
	check("position", 9100, lseek(fd, 0, SEEK_CUR));
	check("write", 5, pwrite(fd, "WORDS", 5, 4094));
	check("write_seen", 'W', stored(4094));
	check("write_seen_next_page", 'R', stored(4096));
	again = open(path, O_RDWR | O_APPEND);
	check("append", 4, write(again, "tail", 4));
	check("append_size", (long long)size + 4, size_now());
	check("append_seen", 't', stored(size));
	check("write_past_end", 3, pwrite(fd, "far", 3, (off_t)size + 5000));
	check("grown", (long long)size + 5003, size_now());
	check("hole_is_zeros", 0, stored(size + 100));
	check("read_own_append", 4, pread(again, other, 4, (off_t)size));
	close(again);
	again = open(path, O_RDONLY);
	CALL("write_read_only", EBADF, write(again, "x", 1));
	CALL("truncate_read_only", EINVAL, ftruncate(again, 0));
	close(again);
	again = open(path, O_WRONLY | O_TRUNC);
	check("opened_empty", 0, size_now());
	check("empty_reads_nothing", 0, pread(fd, other, 1, 0));
	close(again);
	fill();
}

static void shared_maps(void)
{
	size_t len = (PAGES + 1) * (size_t)page;
	char *at = map(len, RW, MAP_SHARED, 0), *second;
	char got[8] = { 0 };
	long long before = (long long)size;

	if (!MAPS("shared", 0, at))
		exit(finish());
	check("mapped_content", 0, wrong(at, size, 0));
	check("zeros_past_end", 0, at[size]);
	memcpy(at + 100, "STORE", 5);
	check("read_sees_store", 5, pread(fd, got, 5, 100));
	check_text("stored_text", "STORE", got);
	check("write_through", 4, pwrite(fd, "BACK", 4, 2 * page));
	check("map_sees_write", 0, memcmp(at + 2 * page, "BACK", 4));
	second = map((size_t)page, RW, MAP_SHARED, 2 * page);
	check("second_map_agrees", 0, memcmp(second, "BACK", 4));
	second[9] = '!';
	check("first_map_agrees", '!', at[2 * page + 9]);
	CALL("msync_sync", 0, msync(at, len, MS_SYNC));
	CALL("msync_async", 0, msync(at, len, MS_ASYNC));
	CALL("msync_invalidate", 0, msync(at, len, MS_SYNC | MS_INVALIDATE));
	CALL("msync_both", EINVAL, msync(at, len, MS_SYNC | MS_ASYNC));
	CALL("msync_unaligned", EINVAL, msync(at + 1, len, MS_SYNC));
	/* The length never changes, whatever is stored. */
	memset(at + size, 'z', 50);
	CALL("msync_past_end", 0, msync(at, len, MS_SYNC));
	check("same_size", before, size_now());
	check("nothing_past_end", -1, stored(size));
	check("last_byte", byte_at(size - 1), stored(size - 1));
	CALL("fsync", 0, fsync(fd));
	CALL("fdatasync", 0, fdatasync(fd));
	CALL("munmap_middle", 0, munmap(at + page, (size_t)page));
	check("hole_in_the_map", SIGSEGV, loads(at + page));
	check("head_stays", 'S', at[100]);
	at[101] = 's';
	CALL("munmap", 0, munmap(at, len));
	CALL("munmap_second", 0, munmap(second, (size_t)page));
	check("after_munmap", 's', stored(101));
	MAPS("unaligned_offset", EINVAL, map(1, PROT_READ, MAP_SHARED, 1));
	MAPS("no_length", EINVAL, map(0, PROT_READ, MAP_SHARED, 0));
}

static void past_the_end(void)
{
	size_t len = (PAGES + 4) * (size_t)page;
	char *at = map(len, RW, MAP_SHARED, 0);
	char *copy = map(len, RW, MAP_PRIVATE, 0);

	check("last_page_loads", 0, loads(at + PAGES * page));
	check("next_page", SIGBUS, loads(at + (PAGES + 1) * page));
	check("next_page_store", SIGBUS, stores(at + (PAGES + 1) * page));
	check("private_next_page", SIGBUS, loads(copy + (PAGES + 1) * page));
	check("private_next_page_store", SIGBUS, stores(copy + (PAGES + 1) * page));
	check("same_length", (long long)size, size_now());
	/* The file grows under the map. */
	CALL("grow", 0, ftruncate(fd, (PAGES + 2) * page + 1));
	check("grown_page", 0, loads(at + (PAGES + 1) * page));
	check("grown_page_is_zeros", 0, at[(PAGES + 1) * page + 5]);
	check("page_of_the_last_byte", 0, loads(at + (PAGES + 2) * page));
	check("past_that", SIGBUS, loads(at + (PAGES + 3) * page));
	at[(PAGES + 2) * page] = 'E';
	check("store_in_grown", 'E', stored((size_t)((PAGES + 2) * page)));
	/* And becomes shorter. */
	copy[page] = 'P';
	copy[3 * page] = 'P';
	at[2 * page + 60] = 'k';
	CALL("shrink", 0, ftruncate(fd, 2 * page + 50));
	check("cut_page", SIGBUS, loads(at + 3 * page));
	check("cut_copy", SIGBUS, loads(copy + 3 * page));
	check("kept_copy", 'P', copy[page]);
	check("kept_page", byte_at(2 * (size_t)page + 49), at[2 * page + 49]);
	check("rest_is_zeros", 0, at[2 * page + 60]);
	check("shrunk_size", 2 * page + 50, size_now());
	CALL("grow_again", 0, ftruncate(fd, 4 * page));
	check("zeros_again", 0, at[3 * page + 10]);
	check("zeros_in_the_page", 0, stored(2 * (size_t)page + 60));
	CALL("truncate_path", 0, truncate(path, page));
	check("cut_by_path", SIGBUS, loads(at + page));
	munmap(at, len);
	munmap(copy, len);
	fill();
}

static void private_maps(void)
{
	char *at = map((size_t)(2 * page), RW, MAP_PRIVATE, page);
	int only = open(path, O_RDONLY);
	char *read_only;

	check("private_content", 0, wrong(at, (size_t)page, (size_t)page));
	at[5] = '#';
	check("copy_is_own", byte_at((size_t)page + 5), stored((size_t)page + 5));
	pwrite(fd, "%", 1, 2 * page + 5);
	check("untouched_page_follows", '%', at[page + 5]);
	pwrite(fd, "%", 1, page + 6);
	check("copied_page_does_not", byte_at((size_t)page + 6), at[6]);
	CALL("msync_private", 0, msync(at, (size_t)(2 * page), MS_SYNC));
	check("still_own", byte_at((size_t)page + 5), stored((size_t)page + 5));
	CALL("dontneed", 0, madvise(at, (size_t)page, MADV_DONTNEED));
	check("copy_is_gone", byte_at((size_t)page + 5), at[5]);
	CALL("munmap_private", 0, munmap(at, (size_t)(2 * page)));
	read_only = mmap(NULL, (size_t)page, RW, MAP_SHARED, only, 0);
	check_error("shared_writable_of_read_only", EACCES, read_only == MAP_FAILED);
	read_only = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, only, 0);
	check_error("shared_of_read_only", 0, read_only == MAP_FAILED);
	check("store_is_refused", SIGSEGV, stores(read_only));
	CALL("mprotect_refused", EACCES, mprotect(read_only, (size_t)page, RW));
	munmap(read_only, (size_t)page);
	read_only = mmap(NULL, (size_t)page, RW, MAP_PRIVATE, only, 0);
	check_error("private_writable_of_read_only", 0, read_only == MAP_FAILED);
	check("private_store", 0, stores(read_only));
	munmap(read_only, (size_t)page);
	close(only);
	only = open(path, O_WRONLY);
	read_only = mmap(NULL, (size_t)page, PROT_WRITE, MAP_SHARED, only, 0);
	check_error("map_of_write_only", EACCES, read_only == MAP_FAILED);
	close(only);
	fill();
}

static int child_stores(void *argument)
{
	char *at = argument;

	if (at[page] != byte_at((size_t)page))
		return 1;
	at[page] = 'C';
	return 0;
}

/* Dies with a store that nothing has been said of. */
static int child_dies(void *argument)
{
	char *at = argument;

	at[page + 1] = 'D';
	raise(SIGKILL);
	return 0;
}

static int child_locks(void *argument)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1 };

	(void)argument;
	return fcntl(fd, F_SETLK, &lock) < 0 ? errno : 0;
}

static void several_processes(void)
{
	char *at = map((size_t)(2 * page), RW, MAP_SHARED, 0);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1 };
	int other = open(path, O_RDWR);

	check("child", 0, in_child(child_stores, at));
	check("parent_sees_it", 'C', at[page]);
	check("killed_child", 1000 + SIGKILL, in_child(child_dies, at));
	check("its_store_is_there", 'D', stored((size_t)page + 1));
	CALL("record_lock", 0, fcntl(fd, F_SETLK, &lock));
	check("record_lock_excludes", EAGAIN, in_child(child_locks, NULL));
	lock.l_type = F_UNLCK;
	CALL("record_unlock", 0, fcntl(fd, F_SETLK, &lock));
	CALL("flock", 0, flock(fd, LOCK_EX | LOCK_NB));
	CALL("flock_excludes", EAGAIN, flock(other, LOCK_EX | LOCK_NB));
	CALL("flock_ends", 0, flock(fd, LOCK_UN));
	close(other);
	CALL("munmap_shared", 0, munmap(at, (size_t)(2 * page)));
	fill();
}

static void moved_maps_and_descriptors(void)
{
	char *at = map((size_t)page, RW, MAP_SHARED, 0), *moved;
	int copy = dup(fd), low = dup2(fd, 0);
	char bytes[16];

	moved = mremap(at, (size_t)page, (size_t)(3 * page), MREMAP_MAYMOVE);
	MAPS("mremap_grows", 0, moved);
	check("moved_content", 0, wrong(moved, (size_t)(3 * page), 0));
	moved[2 * page] = 'M';
	CALL("munmap_moved", 0, munmap(moved, (size_t)(3 * page)));
	check("moved_store", 'M', stored(2 * (size_t)page));
	at = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, copy, 0);
	MAPS("map_of_a_copy", 0, at);
	close(copy);
	check("copy_closed", 0, wrong(at, (size_t)page, 0));
	munmap(at, (size_t)page);
	at = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, low, 0);
	MAPS("map_of_standard_input", 0, at);
	munmap(at, (size_t)page);
	check("shared_position", 3, lseek(fd, 3, SEEK_SET));
	check("position_of_input", 3, lseek(0, 0, SEEK_CUR));
	check("read_input", 4, read(0, bytes, 4));
	check("input_content", 0, wrong(bytes, 4, 3));
	/* A map holds the file open. */
	at = map((size_t)page, RW, MAP_SHARED, 0);
	close(0);
	close(fd);
	at[50] = 'H';
	check("store_after_close", 'H', stored(50));
	CALL("munmap_last", 0, munmap(at, (size_t)page));
	fd = open(path, O_RDWR);
	check("opened_again", 1, fd >= 0);
	check("store_is_kept", 'H', stored(50));
}

int main(int argc, char **argv)
{
	start();
	if (argc < 2) {
		fprintf(stderr, "use: file PATH\n");
		return 2;
	}
	path = argv[1];
	size = (size_t)(PAGES * page + TAIL);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	fill();
	a_regular_file();
	reads_and_writes();
	shared_maps();
	past_the_end();
	private_maps();
	several_processes();
	moved_maps_and_descriptors();
	return finish();
}
