/* Checks that print one line each, and what several clients need to make them.
 *
 *   ok NAME
 *   FAIL NAME: expected WHAT got WHAT
 *   note NAME VALUE       observed, and known to differ between homes
 *
 * The output says the same on every run: no addresses, no process numbers. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define UNUSED __attribute__((unused))

static int failures;
static long page;
/* Never mapped; volatile, so that the compiler does not warn of its use. */
UNUSED static void *volatile bad_address = (void *)8;

static const char *error_name(int number)
{
	static char unknown[16];
	static const struct {
		int number;
		const char *name;
	} names[] = {
		{ 0, "0" }, { ENOENT, "ENOENT" }, { EINTR, "EINTR" },
		{ EIO, "EIO" }, { ENXIO, "ENXIO" }, { EBADF, "EBADF" }, { EAGAIN, "EAGAIN" },
		{ ENOMEM, "ENOMEM" }, { EACCES, "EACCES" }, { EFAULT, "EFAULT" },
		{ EBUSY, "EBUSY" }, { EEXIST, "EEXIST" }, { ENODEV, "ENODEV" },
		{ ENOTDIR, "ENOTDIR" }, { EINVAL, "EINVAL" }, { ENOTTY, "ENOTTY" },
		{ ENOSPC, "ENOSPC" }, { ESPIPE, "ESPIPE" }, { EROFS, "EROFS" },
		{ EPIPE, "EPIPE" }, { ENOSYS, "ENOSYS" }, { ELOOP, "ELOOP" },
		{ EOVERFLOW, "EOVERFLOW" }, { EOPNOTSUPP, "EOPNOTSUPP" },
		{ ENODATA, "ENODATA" }, { EXDEV, "EXDEV" }, { EPERM, "EPERM" }, { ERANGE, "ERANGE" },
		{ EBADR, "EBADR" }, { ENOBUFS, "ENOBUFS" }, { ENOTCONN, "ENOTCONN" },
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].number == number)
			return names[i].name;
	snprintf(unknown, sizeof(unknown), "E%d", number);
	return unknown;
}

/* A number that is right or wrong. */
UNUSED static int check(const char *name, long long expected, long long got)
{
	if (expected == got) {
		printf("ok %s\n", name);
		return 1;
	}
	failures++;
	printf("FAIL %s: expected %lld got %lld\n", name, expected, got);
	return 0;
}

UNUSED static int check_text(const char *name, const char *expected, const char *got)
{
	if (!strcmp(expected, got)) {
		printf("ok %s\n", name);
		return 1;
	}
	failures++;
	printf("FAIL %s: expected %s got %s\n", name, expected, got);
	return 0;
}

/* A call's errno: 0 when it shall succeed. `result` is -1 where it failed. */
UNUSED static int check_error(const char *name, int expected, int result_is_error)
{
	int got = result_is_error ? errno : 0;
	char text[16];

	snprintf(text, sizeof(text), "%s", error_name(expected));
	return check_text(name, text, error_name(got));
}

/* CALL answers a number that is negative where it failed. */
#define CALL(name, expected, call) check_error(name, expected, (call) < 0)

/* CALL answers MAP_FAILED where it failed. */
#define MAPS(name, expected, call) check_error(name, expected, (void *)(call) == MAP_FAILED)

UNUSED static void note(const char *name, const char *format, ...)
{
	va_list arguments;

	printf("note %s ", name);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
}

/* The errno that a call left, as a note. */
UNUSED static void note_error(const char *name, int result_is_error)
{
	note(name, "%s", error_name(result_is_error ? errno : 0));
}

/* Begins a client. A client that hangs is ended by SIGALRM. */
UNUSED static void start(void)
{
	page = sysconf(_SC_PAGESIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
}

UNUSED static int finish(void)
{
	if (!failures)
		printf("ok all\n");
	fflush(stdout);
	return failures ? 1 : 0;
}

/* Ends the client at once where nothing further makes sense. */
UNUSED static void die(const char *what)
{
	printf("FAIL %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static sigjmp_buf fault_return;

static void on_fault(int signal)
{
	siglongjmp(fault_return, signal);
}

/* Loads (or stores `*byte` to) one byte: 0, or the signal that it raised. */
UNUSED static int touch(volatile void *address, int store, unsigned char *byte)
{
	struct sigaction fault = { .sa_handler = on_fault }, old_segv, old_bus;
	int caught;

	sigaction(SIGSEGV, &fault, &old_segv);
	sigaction(SIGBUS, &fault, &old_bus);
	caught = sigsetjmp(fault_return, 1);
	if (!caught) {
		if (store)
			*(volatile unsigned char *)address = *byte;
		else
			*byte = *(volatile unsigned char *)address;
	}
	sigaction(SIGSEGV, &old_segv, NULL);
	sigaction(SIGBUS, &old_bus, NULL);
	return caught;
}

UNUSED static int loads(volatile void *address)
{
	unsigned char byte;

	return touch(address, 0, &byte);
}

/* Stores the byte that is there already, where it can be loaded. */
UNUSED static int stores(volatile void *address)
{
	unsigned char byte = 0;

	touch(address, 0, &byte);
	return touch(address, 1, &byte);
}

/* Runs `body` in a child: its exit status, or 1000 and the signal. */
UNUSED static int in_child(int (*body)(void *), void *argument)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0)
		_exit(body(argument));
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

UNUSED static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Polls a condition for up to 30 seconds: whether it came true. */
UNUSED static int eventually(int (*condition)(void *), void *argument)
{
	double end = seconds() + 30;

	while (seconds() < end) {
		if (condition(argument))
			return 1;
		sched_yield();
	}
	return 0;
}

/* The line of /proc/self/maps whose range is exactly this: its permissions (such as
 * rw-s), or "none". `name` (or NULL) gets the name, `offset` (or NULL) the offset. */
UNUSED static const char *maps_line(void *start, size_t len, char *name, unsigned long long *offset)
{
	static char perms[8];
	unsigned long long low, high, at;
	char line[512], path[512];
	FILE *file = fopen("/proc/self/maps", "r");
	const char *result = "none";

	if (!file)
		return "no /proc/self/maps";
	while (fgets(line, sizeof(line), file)) {
		path[0] = 0;
		if (sscanf(line, "%llx-%llx %7s %llx %*s %*s %511[^\n]", &low, &high, perms, &at, path) < 4)
			continue;
		if (low == (uintptr_t)start && high == (uintptr_t)start + len) {
			result = perms;
			if (name)
				strcpy(name, path);
			if (offset)
				*offset = at;
			break;
		}
	}
	fclose(file);
	return result;
}

/* A free stretch of addresses between two pages that stay closed, so that nothing
 * merges with what is mapped there. */
UNUSED static char *window(size_t len)
{
	char *start = mmap(NULL, len + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		die("window");
	munmap(start + page, len);
	return start + page;
}

/* Takes "--native" off the arguments: the path is a plain file or a device of the
 * kernel's own, and only what holds there too is checked. */
UNUSED static int take_native(int *argc, char **argv)
{
	if (*argc < 2 || strcmp(argv[1], "--native"))
		return 0;
	memmove(argv + 1, argv + 2, (size_t)(*argc - 1) * sizeof(*argv));
	--*argc;
	return 1;
}

#endif
