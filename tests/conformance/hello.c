/* hello [--native] PATH: the `hello` device, and everything that a program can do
 * with a character device's path and descriptor short of mapping it.
 *
 * With --native, PATH is /dev/null; what depends on the driver is left out. */
#include "check.h"
#include "devmap.h"

#include <dirent.h>
#include <libgen.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <linux/fs.h>
#include <linux/openat2.h>

#define LEN ((ssize_t)strlen(HELLO_TEXT))

static const char *path;
static char directory[512], base[512];
static int native;
static int fd;

/* Opens, checks the errno, closes. */
static void opens(const char *name, int expected, const char *what, int flags)
{
	int got = open(what, flags, 0600);

	CALL(name, expected, got);
	if (got >= 0)
		close(got);
}

/* Whether a descriptor reads the text from its start; it is closed. */
static void reads(const char *name, int descriptor)
{
	char text[64] = "";
	ssize_t got = read(descriptor, text, sizeof(text) - 1);

	if (native)
		check(name, 0, got);
	else
		check_text(name, HELLO_TEXT, text);
	close(descriptor);
}

static void reading(void)
{
	char text[64] = "", second[64] = "";
	struct iovec parts[2] = { { text, 5 }, { second, sizeof(second) } };
	int other;

	check("read_start", 5, read(fd, text, 5));
	check("read_rest", LEN - 5, read(fd, text + 5, sizeof(text) - 5));
	check_text("read_text", HELLO_TEXT, text);
	check("read_end", 0, read(fd, text, 1));
	check("pread_start", LEN, pread(fd, text, sizeof(text), 0));
	check("pread_middle", LEN - 6, pread(fd, text, sizeof(text), 6));
	check_text("pread_text", "from", (text[4] = 0, text));
	check("pread_past_the_end", 0, pread(fd, text, 1, 1000));
	CALL("pread_negative", EINVAL, pread(fd, text, 1, -1));
	check("read_still_at_the_end", 0, read(fd, text, 1));
	other = open(path, O_RDONLY);
	check("another_open_has_its_own_position", 5, read(other, text, 5));
	check("dup_shares_the_position", 1, read(dup(other), text, 1));
	check("so_it_moved", LEN - 6, read(other, text, sizeof(text)));
	close(other);
	other = open(path, O_RDONLY);
	check("readv", LEN, readv(other, parts, 2));
	check_text("readv_first", "Hello", (text[5] = 0, text));
	check_text("readv_second", HELLO_TEXT + 5, second);
	memset(second, 0, sizeof(second));
	check("preadv", LEN - 6, preadv(other, parts, 2, 6));
	check_text("preadv_second", HELLO_TEXT + 11, second);
	close(other);
	other = open(path, O_RDONLY);
	check("read_nothing", 0, read(other, text, 0));
	CALL("read_bad_address", EFAULT, read(other, bad_address, 4));
	reads("position_after_them", other);
	CALL("lseek_set", ESPIPE, lseek(fd, 0, SEEK_SET));
	CALL("lseek_cur", ESPIPE, lseek(fd, 0, SEEK_CUR));
	CALL("lseek_end", ESPIPE, lseek(fd, 0, SEEK_END));
	CALL("lseek_unknown", EINVAL, lseek(fd, 0, 99));
	CALL("write", EINVAL, write(fd, "x", 1));
	CALL("pwrite", EINVAL, pwrite(fd, "x", 1, 0));
	CALL("writev", EINVAL, writev(fd, parts, 1));
}

static void modes(void)
{
	char byte;
	int reader = open(path, O_RDONLY), writer = open(path, O_WRONLY);

	CALL("reader_writes", EBADF, write(reader, "x", 1));
	CALL("writer_reads", EBADF, read(writer, &byte, 1));
	CALL("writer_preads", EBADF, pread(writer, &byte, 1, 0));
	check("reader_getfl", O_RDONLY, fcntl(reader, F_GETFL) & O_ACCMODE);
	check("writer_getfl", O_WRONLY, fcntl(writer, F_GETFL) & O_ACCMODE);
	close(reader);
	close(writer);
	reader = open(path, O_RDWR | O_APPEND | O_NONBLOCK);
	check("open_flags", O_RDWR | O_APPEND | O_NONBLOCK,
	      fcntl(reader, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
	CALL("setfl", 0, fcntl(reader, F_SETFL, O_APPEND));
	check("getfl_after", O_RDWR | O_APPEND,
	      fcntl(reader, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
	CALL("setfl_none", 0, fcntl(reader, F_SETFL, 0));
	check("getfl_none", O_RDWR, fcntl(reader, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
	close(reader);
	CALL("read_closed", EBADF, read(reader, &byte, 1));
	CALL("close_closed", EBADF, close(reader));
}

static void calls(void)
{
	int value = 1, ends[2], other = open(path, O_RDWR);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char text[64];

	CALL("ioctl_unknown", ENOTTY, ioctl(fd, _IO('h', 77)));
	CALL("ioctl_unknown_with_argument", ENOTTY, ioctl(fd, _IOWR('h', 78, long), &value));
	/* Those of regular files are the driver's where there is none. */
	CALL("ioctl_getflags", ENOTTY, ioctl(fd, FS_IOC_GETFLAGS, text));
	CALL("ioctl_fsgetxattr", ENOTTY, ioctl(fd, FS_IOC_FSGETXATTR, text));
	CALL("fioasync", ENOTTY, ioctl(fd, FIOASYNC, &value));
	CALL("setfl_async", 0, fcntl(fd, F_SETFL, O_ASYNC));
	check("getfl_async", 0, fcntl(fd, F_GETFL) & O_ASYNC);
	CALL("dupfd_too_far", EINVAL, fcntl(fd, F_DUPFD, -1));
	strcpy(address.sun_path, path);
	CALL("bind_at_the_path", EADDRINUSE,
	     bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, sizeof(address)));
	check("isatty", 0, isatty(fd));
	CALL("fionread", ENOTTY, ioctl(fd, FIONREAD, &value));
	value = 1;
	CALL("fionbio", 0, ioctl(other, FIONBIO, &value));
	check("fionbio_sets_nonblock", O_NONBLOCK, fcntl(other, F_GETFL) & O_NONBLOCK);
	CALL("fioclex", 0, ioctl(other, FIOCLEX));
	check("fioclex_sets_cloexec", FD_CLOEXEC, fcntl(other, F_GETFD));
	CALL("fionclex", 0, ioctl(other, FIONCLEX));
	check("fionclex_clears_it", 0, fcntl(other, F_GETFD));
	close(other);
	MAPS("mmap_shared", ENODEV, mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0));
	MAPS("mmap_private", ENODEV, mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 0));
	MAPS("mmap_length_0", EINVAL, mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0));
	other = open(path, O_RDONLY);
	MAPS("mmap_rights_first", EACCES, mmap(NULL, page, PROT_WRITE, MAP_SHARED, other, 0));
	CALL("fsync", EINVAL, fsync(fd));
	CALL("fdatasync", EINVAL, fdatasync(fd));
	CALL("ftruncate", EINVAL, ftruncate(fd, 0));
	CALL("truncate", EINVAL, truncate(path, 0));
	CALL("fallocate", ENODEV, fallocate(fd, 0, 0, 1));
	CALL("flock", 0, flock(fd, LOCK_EX));
	/* Each open of a device under devmap run has an inode of its own. */
	note_error("flock_other_open", flock(other, LOCK_EX | LOCK_NB) < 0);
	CALL("flock_unlock", 0, flock(fd, LOCK_UN));
	/* Linux takes it for regular files alone. */
	note_error("readahead", readahead(fd, 0, page) < 0);
	CALL("getdents", ENOTDIR, syscall(SYS_getdents64, fd, text, sizeof(text)));
	CALL("fchdir", ENOTDIR, fchdir(fd));
	CALL("execve", EACCES, execl(path, "x", (char *)NULL));
	close(other);
	/* A real device without splice_read says EINVAL. */
	if (pipe(ends))
		die("pipe");
	other = open(path, O_RDONLY);
	CALL("splice", EINVAL, splice(other, NULL, ends[1], NULL, 64, SPLICE_F_NONBLOCK));
	close(other);
	other = open(path, O_RDONLY);
	CALL("sendfile", EINVAL, sendfile(ends[1], other, NULL, 64));
	close(other);
	note_error("write_nothing", write(fd, "x", 0) < 0);
	close(ends[0]);
	close(ends[1]);
}

static void readiness(void)
{
	struct pollfd one = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM };
	struct epoll_event event = { .events = EPOLLIN };
	struct timeval now = { 0, 0 };
	fd_set readers, writers, others;
	int epoll = epoll_create1(0), low = fcntl(fd, F_DUPFD, 0);

	check("poll", 1, poll(&one, 1, 0));
	check("poll_mask", POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM, one.revents);
	one.events = POLLPRI;
	check("poll_for_priority_only", 0, poll(&one, 1, 0));
	FD_ZERO(&readers);
	FD_ZERO(&writers);
	FD_ZERO(&others);
	FD_SET(low, &readers);
	FD_SET(low, &writers);
	FD_SET(low, &others);
	check("select", 2, select(low + 1, &readers, &writers, &others, &now));
	check("select_read", 1, !!FD_ISSET(low, &readers));
	check("select_write", 1, !!FD_ISSET(low, &writers));
	check("select_except", 0, !!FD_ISSET(low, &others));
	/* The kernel says EPERM for a file without a poll method. */
	note_error("epoll_add", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0);
	close(low);
	close(epoll);
}

/* Compares what stat and its kin say. */
static void same(const char *name, const struct stat *one, const struct stat *two)
{
	check(name, 1,
	      one->st_mode == two->st_mode && one->st_rdev == two->st_rdev &&
		      one->st_dev == two->st_dev && one->st_ino == two->st_ino &&
		      one->st_size == two->st_size && one->st_nlink == two->st_nlink &&
		      one->st_uid == two->st_uid && one->st_gid == two->st_gid);
}

static void metadata(void)
{
	struct stat by_path, other;
	struct statx extended;
	char text[600], line[600], expected[600];
	int anything, found = 0;
	FILE *uevent;

	CALL("stat", 0, stat(path, &by_path));
	check("is_a_character_device", 1, S_ISCHR(by_path.st_mode));
	check("permissions", 0666, by_path.st_mode & 07777);
	check("has_a_number", 1, by_path.st_rdev != 0);
	check("size", 0, by_path.st_size);
	check("links", 1, by_path.st_nlink);
	CALL("lstat", 0, lstat(path, &other));
	same("lstat_agrees", &by_path, &other);
	CALL("fstat", 0, fstat(fd, &other));
	same("fstat_agrees", &by_path, &other);
	CALL("fstatat", 0, fstatat(AT_FDCWD, path, &other, AT_SYMLINK_NOFOLLOW));
	same("fstatat_agrees", &by_path, &other);
	CALL("fstatat_empty_path", 0, fstatat(fd, "", &other, AT_EMPTY_PATH));
	same("fstatat_empty_path_agrees", &by_path, &other);
	anything = dup2(fd, 150);
	CALL("fstat_dup2", 0, fstat(anything, &other));
	note("fstat_dup2_is_a_character_device", "%s", S_ISCHR(other.st_mode) ? "yes" : "no");
	close(anything);
	anything = open(path, O_PATH);
	CALL("fstat_o_path", 0, fstat(anything, &other));
	same("fstat_o_path_agrees", &by_path, &other);
	CALL("read_o_path", EBADF, read(anything, text, 1));
	CALL("ioctl_o_path", EBADF, ioctl(anything, _IO('h', 77)));
	close(anything);
	snprintf(text, sizeof(text), "/proc/self/fd/%d", fd);
	CALL("stat_proc_fd", 0, stat(text, &other));
	note("stat_proc_fd_is_a_character_device", "%s", S_ISCHR(other.st_mode) ? "yes" : "no");
	CALL("statx", 0, statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &extended));
	check("statx_mode", by_path.st_mode, extended.stx_mode);
	check("statx_number", 1,
	      makedev(extended.stx_rdev_major, extended.stx_rdev_minor) == by_path.st_rdev);
	CALL("statx_descriptor", 0, statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &extended));
	check("statx_descriptor_mode", by_path.st_mode, extended.stx_mode);
	check("statx_descriptor_number", 1,
	      makedev(extended.stx_rdev_major, extended.stx_rdev_minor) == by_path.st_rdev);
	CALL("access", 0, access(path, R_OK | W_OK));
	CALL("access_execute", EACCES, access(path, X_OK));
	CALL("faccessat", 0, faccessat(AT_FDCWD, path, F_OK, AT_EACCESS));
	snprintf(text, sizeof(text), "%s.missing", path);
	CALL("stat_missing", ENOENT, stat(text, &other));
	snprintf(text, sizeof(text), "/sys/dev/char/%u:%u/uevent", major(by_path.st_rdev),
		 minor(by_path.st_rdev));
	snprintf(expected, sizeof(expected), "DEVNAME=%s\n", base);
	uevent = fopen(text, "r");
	check("uevent_opens", 1, uevent != NULL);
	while (uevent && fgets(line, sizeof(line), uevent))
		found |= !strcmp(line, expected);
	if (uevent)
		fclose(uevent);
	check("uevent_has_devname", 1, found);
}

static void paths(void)
{
	char text[2200], temporary[] = "/tmp/hello-XXXXXX", real[PATH_MAX];
	struct open_how how = { .flags = O_RDONLY };
	struct dirent *entry;
	struct stat by_path, other;
	int at, old, type = -1;
	ssize_t len;
	DIR *listing;

	opens("open_directory", ENOTDIR, path, O_RDONLY | O_DIRECTORY);
	opens("open_create", 0, path, O_RDWR | O_CREAT);
	opens("open_create_exclusive", EEXIST, path, O_RDWR | O_CREAT | O_EXCL);
	opens("open_nofollow", 0, path, O_RDONLY | O_NOFOLLOW);
	opens("open_truncate", 0, path, O_RDWR | O_TRUNC);
	opens("open_noctty", 0, path, O_RDWR | O_NOCTTY);
	opens("open_o_path", 0, path, O_PATH);
	snprintf(text, sizeof(text), "%s/", path);
	opens("open_with_slash", ENOTDIR, text, O_RDONLY);
	snprintf(text, sizeof(text), "%s/below", path);
	opens("open_below", ENOTDIR, text, O_RDONLY);
	snprintf(text, sizeof(text), "%s/./%s", directory, base);
	reads("path_with_dot", open(text, O_RDONLY));
	snprintf(text, sizeof(text), "/%s//%s", directory, base);
	reads("path_with_slashes", open(text, O_RDONLY));
	snprintf(text, sizeof(text), "/proc/..%s/../%s/%s", directory, directory, base);
	reads("path_with_dots", open(text, O_RDONLY));
	at = open(directory, O_RDONLY | O_DIRECTORY);
	reads("openat", openat(at, base, O_RDONLY));
	close(at);
	at = open(directory, O_PATH | O_DIRECTORY);
	reads("openat_o_path", openat(at, base, O_RDONLY));
	how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
	reads("openat2", (int)syscall(SYS_openat2, at, base, &how, sizeof(how)));
	CALL("openat2_escapes", EXDEV, syscall(SYS_openat2, at, path, &how, sizeof(how)));
	stat(path, &by_path);
	CALL("fstatat_directory", 0, fstatat(at, base, &other, 0));
	same("fstatat_directory_agrees", &by_path, &other);
	CALL("faccessat_directory", 0, faccessat(at, base, R_OK, 0));
	close(at);
	reads("openat_absolute", openat(-1, path, O_RDONLY));
	old = open(".", O_PATH | O_DIRECTORY);
	CALL("chdir", 0, chdir(directory));
	reads("open_relative", open(base, O_RDONLY));
	CALL("stat_relative", 0, stat(base, &other));
	same("stat_relative_agrees", &by_path, &other);
	CALL("chdir_back", 0, fchdir(old));
	close(old);
	if (!mkdtemp(temporary))
		die("mkdtemp");
	snprintf(text, sizeof(text), "%s/link", temporary);
	CALL("symlink", 0, symlink(path, text));
	reads("open_symlink", open(text, O_RDONLY));
	opens("symlink_nofollow", ELOOP, text, O_RDONLY | O_NOFOLLOW);
	CALL("stat_symlink", 0, stat(text, &other));
	same("stat_symlink_agrees", &by_path, &other);
	CALL("lstat_symlink", 0, lstat(text, &other));
	check("lstat_symlink_is_one", 1, S_ISLNK(other.st_mode));
	unlink(text);
	snprintf(text, sizeof(text), "%s/dir", temporary);
	CALL("symlink_directory", 0, symlink(directory, text));
	snprintf(text, sizeof(text), "%s/dir/%s", temporary, base);
	reads("open_through_symlink", open(text, O_RDONLY));
	snprintf(text, sizeof(text), "%s/dir", temporary);
	unlink(text);
	rmdir(temporary);
	snprintf(text, sizeof(text), "/proc/self/fd/%d", fd);
	reads("reopen_proc_fd", open(text, O_RDONLY));
	len = readlink(text, real, sizeof(real) - 1);
	real[len < 0 ? 0 : len] = 0;
	/* The path, perhaps with " (deleted)" after it. */
	check("readlink_proc_fd_begins_with_the_path", 0, strncmp(path, real, strlen(path)));
	note("readlink_proc_fd_goes_on", "%s", strlen(real) > strlen(path) ? "yes" : "no");
	snprintf(text, sizeof(text), "/dev/fd/%d", fd);
	reads("reopen_dev_fd", open(text, O_RDONLY));
	check_text("realpath", path, realpath(path, real) ? real : "none");
	listing = opendir(directory);
	while (listing && (entry = readdir(listing)))
		if (!strcmp(entry->d_name, base))
			type = entry->d_type;
	if (listing)
		closedir(listing);
	check("listed_as_a_character_device", DT_CHR, type);
}

int main(int argc, char **argv)
{
	char copy[512];

	start();
	native = take_native(&argc, argv);
	if (argc != 2 || argv[1][0] != '/') {
		fprintf(stderr, "usage: hello [--native] ABSOLUTE-PATH\n");
		return 2;
	}
	path = argv[1];
	snprintf(copy, sizeof(copy), "%s", path);
	snprintf(directory, sizeof(directory), "%s", dirname(copy));
	snprintf(copy, sizeof(copy), "%s", path);
	snprintf(base, sizeof(base), "%s", basename(copy));
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	if (!native)
		reading();
	modes();
	calls();
	readiness();
	metadata();
	paths();
	CALL("close", 0, close(fd));
	CALL("close_again", EBADF, close(fd));
	return finish();
}
