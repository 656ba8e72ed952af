/* calls [--native] PATH: system calls on the path and the descriptor of the `mem` device
 * for which devices seldom are the object: what each answers, as a check where a device
 * of the kernel's and one of devmap must agree, else as a note.
 *
 * With --native, PATH is made as a plain file; nothing but notes is left then. */
#include "check.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sys/acct.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/quota.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <utime.h>

#define RW (PROT_READ | PROT_WRITE)

static const char *path;
static int native;
static int fd;

/* A check on a device, a note elsewhere. */
static void answers(const char *name, int expected, int result_is_error)
{
	if (native)
		note_error(name, result_is_error);
	else
		check_error(name, expected, result_is_error);
}

#define ANSWERS(name, expected, call) answers(name, expected, (call) < 0)
#define NOTE(name, call) note_error(name, (call) < 0)

static void transfers(void)
{
	char byte = 'x', text[8] = "";
	struct iovec part = { text, sizeof(text) };
	int ends[2], file = memfd_create("file", 0), zero = 0;
	aio_context_t context = 0;
	struct iocb block = { .aio_fildes = (unsigned)fd, .aio_lio_opcode = IOCB_CMD_PREAD,
			      .aio_buf = (uintptr_t)text, .aio_nbytes = 4 };
	struct iocb *blocks[] = { &block };
	struct io_event event = { .res = -1 };
	loff_t from = 0, to = 0;

	/* A pipe of a user who has many takes as little as two packets. */
	if (pipe2(ends, O_NONBLOCK) || file < 0 || ftruncate(file, page))
		die("files");
	check("preadv2", 8, preadv2(fd, &part, 1, 0, 0));
	check("pwritev2", 8, pwritev2(fd, &part, 1, 0, 0));
	NOTE("preadv2_nowait", preadv2(fd, &part, 1, 0, RWF_NOWAIT));
	NOTE("pwritev2_dsync", pwritev2(fd, &part, 1, 0, RWF_DSYNC));
	ANSWERS("sendfile_from", EINVAL, sendfile(ends[1], fd, &from, 4));
	from = 0;
	ANSWERS("sendfile_to", EINVAL, sendfile(fd, file, &from, 4));
	from = 0;
	ANSWERS("splice_from", EINVAL, splice(fd, &from, ends[1], NULL, 4, SPLICE_F_NONBLOCK));
	(void)!write(ends[1], "xxxx", 4);
	ANSWERS("splice_to", EINVAL, splice(ends[0], NULL, fd, &to, 4, SPLICE_F_NONBLOCK));
	ANSWERS("tee", EINVAL, tee(fd, ends[1], 1, SPLICE_F_NONBLOCK));
	ANSWERS("vmsplice", EBADF, vmsplice(fd, &part, 1, 0));
	from = to = 0;
	ANSWERS("copy_file_range_from", EINVAL, copy_file_range(fd, &from, file, &to, 4, 0));
	from = to = 0;
	ANSWERS("copy_file_range_to", EINVAL, copy_file_range(file, &from, fd, &to, 4, 0));
	NOTE("fadvise", -posix_fadvise(fd, 0, page, POSIX_FADV_RANDOM));
	NOTE("readahead", readahead(fd, 0, page));
	CALL("io_setup", 0, syscall(SYS_io_setup, 1, &context));
	/* A driver with a plain read method has none for this. */
	if (syscall(SYS_io_submit, context, 1, blocks) == 1) {
		syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
		note("io_submit", "%s", event.res == 4 ? "reads" : "fails later");
	} else {
		note_error("io_submit", 1);
	}
	block.aio_lio_opcode = IOCB_CMD_FSYNC;
	NOTE("io_submit_fsync", syscall(SYS_io_submit, context, 1, blocks));
	CALL("io_destroy", 0, syscall(SYS_io_destroy, context));
	ANSWERS("fsync", EINVAL, fsync(fd));
	ANSWERS("fdatasync", EINVAL, fdatasync(fd));
	NOTE("sync_file_range", sync_file_range(fd, 0, page, SYNC_FILE_RANGE_WRITE));
	NOTE("syncfs", syncfs(fd));
	NOTE("fallocate", fallocate(fd, 0, 0, page));
	NOTE("fallocate_punch_hole",
	     fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page));
	ANSWERS("ftruncate", EINVAL, ftruncate(fd, 0));
	ANSWERS("truncate", EINVAL, truncate(path, 0));
	ANSWERS("getdents", ENOTDIR, syscall(SYS_getdents64, fd, text, sizeof(text)));
	ANSWERS("recvfrom", ENOTSOCK, recv(fd, &byte, 1, 0));
	ANSWERS("sendto", ENOTSOCK, send(fd, &byte, 1, 0));
	ANSWERS("listen", ENOTSOCK, listen(fd, 1));
	ANSWERS("getsockopt", ENOTSOCK,
		getsockopt(fd, SOL_SOCKET, SO_TYPE, text, (socklen_t[]){ sizeof(text) }));
	NOTE("fionread", ioctl(fd, FIONREAD, &zero));
	NOTE("fioasync", ioctl(fd, FIOASYNC, &zero));
	NOTE("fioqsize", ioctl(fd, FIOQSIZE, text));
	NOTE("figetbsz", ioctl(fd, FIGETBSZ, &zero));
	NOTE("setlease", fcntl(fd, F_SETLEASE, F_WRLCK));
	NOTE("setpipe_sz", fcntl(fd, F_SETPIPE_SZ, page));
	NOTE("add_seals", fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	close(ends[0]);
	close(ends[1]);
	close(file);
}

/* io_uring, whose threads are no program's. */
static void rings(void)
{
	struct io_uring_params parameters = { .flags = 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);

	if (ring < 0) {
		note_error("io_uring_setup", 1);
		return;
	}
	note_error("io_uring_setup", 0);
	NOTE("io_uring_register",
	     syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1));
	ANSWERS("io_uring_enter", EOPNOTSUPP, syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0));
	close(ring);
}

static void areas(void)
{
	char *area = mmap(NULL, 4 * page, RW, MAP_SHARED, fd, 0);
	static const struct {
		const char *name;
		int advice;
	} advices[] = {
		{ "madvise_normal", MADV_NORMAL },	   { "madvise_random", MADV_RANDOM },
		{ "madvise_sequential", MADV_SEQUENTIAL }, { "madvise_willneed", MADV_WILLNEED },
		{ "madvise_dontneed", MADV_DONTNEED },	   { "madvise_free", MADV_FREE },
		{ "madvise_dontfork", MADV_DONTFORK },	   { "madvise_dofork", MADV_DOFORK },
		{ "madvise_mergeable", MADV_MERGEABLE },   { "madvise_hugepage", MADV_HUGEPAGE },
		{ "madvise_nohugepage", MADV_NOHUGEPAGE }, { "madvise_dontdump", MADV_DONTDUMP },
		{ "madvise_cold", 20 },			   { "madvise_pageout", 21 },
		{ "madvise_populate_read", 22 },	   { "madvise_populate_write", 23 },
	};
	struct iovec range = { area, (size_t)page };
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	unsigned char resident[4];

	if (area == MAP_FAILED)
		die("mmap");
	area[0] = 'm';
	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++)
		NOTE(advices[i].name, madvise(area, (size_t)page, advices[i].advice));
	check("bytes_after_advice", 'm', area[0]);
	NOTE("process_madvise", syscall(SYS_process_madvise, self, &range, 1, 20, 0));
	area[0] = 'r';
	syscall(SYS_process_madvise, self, &range, 1, MADV_REMOVE, 0);
	check("bytes_after_process_madvise_remove", 'r', area[0]);
	CALL("mprotect_read", 0, mprotect(area, (size_t)page, PROT_READ));
	check("mprotect_read_takes", SIGSEGV, stores(area));
	CALL("mprotect_write", 0, mprotect(area, (size_t)page, RW));
	CALL("pkey_mprotect", 0, syscall(SYS_pkey_mprotect, area, page, RW, -1));
	NOTE("mincore", mincore(area, 4 * (size_t)page, resident));
	NOTE("mlock", mlock(area, (size_t)page));
	NOTE("munlock", munlock(area, (size_t)page));
	close(self);
	munmap(area, 4 * (size_t)page);
}

/* What changes a path or hangs something on it. All of it is refused or undone. */
static void paths(void)
{
	char other[600], value[16];
	struct utimbuf times = { 1, 1 };
	struct timeval both[2] = { { 1, 0 }, { 1, 0 } };
	struct timespec exact[2] = { { 1, 0 }, { 1, 0 } };
	struct flock lock = { .l_type = F_WRLCK };
	struct statfs system;
	int inotify = inotify_init1(IN_NONBLOCK), handle[40] = { 8 }, mount_id;

	snprintf(other, sizeof(other), "%s.other", path);
	NOTE("name_to_handle_at", syscall(SYS_name_to_handle_at, AT_FDCWD, path, handle, &mount_id, 0));
	ANSWERS("chdir", ENOTDIR, chdir(path));
	ANSWERS("chroot", ENOTDIR, chroot(path));
	ANSWERS("readlink", EINVAL, readlink(path, value, sizeof(value)));
	ANSWERS("mkdir", EEXIST, mkdir(path, 0700));
	ANSWERS("rmdir", ENOTDIR, rmdir(path));
	ANSWERS("mknod", EEXIST, mknod(path, S_IFIFO | 0600, 0));
	ANSWERS("symlink", EEXIST, symlink("x", path));
	ANSWERS("link_itself", EEXIST, link(path, path));
	if (!native) {
		/* These would go well on a device of the kernel's, for root. */
		NOTE("chmod", chmod(path, 0666));
		NOTE("fchmod", fchmod(fd, 0666));
		NOTE("chown", chown(path, geteuid(), getegid()));
		NOTE("lchown", lchown(path, geteuid(), getegid()));
		NOTE("fchown", fchown(fd, geteuid(), getegid()));
		NOTE("utime", utime(path, &times));
		NOTE("utimes", utimes(path, both));
		NOTE("utimensat", utimensat(AT_FDCWD, path, exact, 0));
		NOTE("futimens", futimens(fd, exact));
		NOTE("rename", rename(path, other));
		rename(other, path);
		NOTE("link", link(path, other));
		unlink(other);
		NOTE("mkdir_other", mkdir(other, 0700));
		rmdir(other);
		NOTE("mknod_other", mknod(other, S_IFREG | 0600, 0));
		unlink(other);
		NOTE("symlink_other", symlink("x", other));
		unlink(other);
		NOTE("create_other", open(other, O_CREAT | O_RDWR, 0600));
		unlink(other);
		/* EROFS comes before the look whether it is there. */
		snprintf(other, sizeof(other), "%s", "/dev/null");
		NOTE("mknod_null", mknod(other, S_IFREG | 0600, 0));
	}
	CALL("statfs", 0, statfs(path, &system));
	note("statfs_type", "%s", system.f_type == 0x65735546 ? "FUSE" : "another");
	CALL("fstatfs", 0, fstatfs(fd, &system));
	/* tmpfs, which devtmpfs is one of. */
	note("fstatfs_type", "%s", system.f_type == 0x01021994 ? "tmpfs" : "another");
	NOTE("setxattr", setxattr(path, "user.x", "y", 1, 0));
	NOTE("fsetxattr", fsetxattr(fd, "user.x", "y", 1, 0));
	NOTE("getxattr", getxattr(path, "user.x", value, sizeof(value)));
	NOTE("fgetxattr", fgetxattr(fd, "user.x", value, sizeof(value)));
	NOTE("listxattr", listxattr(path, value, sizeof(value)));
	NOTE("flistxattr", flistxattr(fd, value, sizeof(value)));
	NOTE("removexattr", removexattr(path, "user.x"));
	NOTE("fremovexattr", fremovexattr(fd, "user.x"));
	NOTE("inotify_add_watch", inotify_add_watch(inotify, path, IN_OPEN));
	close(open(path, O_RDONLY));
	note("inotify_sees_an_open", "%s", read(inotify, other, sizeof(other)) > 0 ? "yes" : "no");
	NOTE("setlk", fcntl(fd, F_SETLK, &lock));
	lock.l_type = F_WRLCK;
	lock.l_pid = 0;
	NOTE("ofd_setlk", fcntl(fd, F_OFD_SETLK, &lock));
	NOTE("swapon", swapon(path, 0));
	NOTE("swapoff", swapoff(path));
	ANSWERS("acct", geteuid() ? EPERM : EACCES, acct(path));
	close(inotify);
}

/* mmap2 by the call of 32-bit programs, in a child: 0, an errno, or 1000 and a signal. */
static int ia32_mmap(void *unused)
{
	long result = -ENOSYS;

	(void)unused;
#ifdef __x86_64__
	__asm__ volatile("sub $128, %%rsp\n\tpush %%rbp\n\txor %%ebp, %%ebp\n\tint $0x80\n\t"
			 "pop %%rbp\n\tadd $128, %%rsp"
			 : "=a"(result)
			 : "a"(192), "b"(0), "c"(page), "d"(PROT_READ), "S"(MAP_SHARED), "D"(fd)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	result = (int)result;
#endif
	return result < 0 && result > -200 ? (int)-result : 0;
}

int main(int argc, char **argv)
{
	static const char zeros[4096];

	start();
	native = take_native(&argc, argv);
	if (argc != 2) {
		fprintf(stderr, "usage: calls [--native] PATH\n");
		return 2;
	}
	path = argv[1];
	fd = open(path, native ? O_RDWR | O_CREAT : O_RDWR, 0600);
	if (fd < 0)
		die("open");
	if (native && ftruncate(fd, 1 << 20))
		die("ftruncate");
	transfers();
	rings();
	areas();
	paths();
	/* 1011 where the kernel has no such calls. */
	note("ia32_mmap", "%d", in_child(ia32_mmap, NULL));
	/* The block holds zeros again for the next client. */
	for (off_t at = 0; at < 4 * page; at += (off_t)sizeof(zeros))
		if (pwrite(fd, zeros, sizeof(zeros), at) != (ssize_t)sizeof(zeros))
			die("pwrite");
	return finish();
}
