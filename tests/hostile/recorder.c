/* recorder PATH: has a child open the memory of `mem` at PATH, map it and use it, and stops
 * it at the begin and at the end of each of its system calls, as programs do that record
 * others. */
#include "check.h"

#include <sys/ptrace.h>

#ifndef PTRACE_O_EXITKILL
#define PTRACE_O_EXITKILL (1 << 20)
#endif

static const char *path;

static int recorded(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	volatile unsigned char *area;
	unsigned char byte = 0;

	check("open", 1, fd >= 0);
	for (int i = 1; i <= 3; i++) {
		area = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, i * page);
		if (!check("map", 1, area != MAP_FAILED))
			return 1;
		area[5] = (unsigned char)(i * 16);
		munmap((void *)area, page);
		/* The next map puts back what stood for the device: see COMPAT.md. */
		fcntl(fd, F_GETFD);
	}
	area = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!check("map_all", 1, area != MAP_FAILED))
		return 1;
	for (int i = 1; i <= 3; i++)
		check("stored", i * 16, area[i * page + 5]);
	check("read", 1, pread(fd, &byte, 1, 2 * page + 5));
	check("read_what_is_mapped", 32, byte);
	CALL("close", 0, close(fd));
	check("kept", 48, area[3 * page + 5]);
	CALL("unmap", 0, munmap((void *)area, 4 * page));
	return failures != 0;
}

int main(int argc, char **argv)
{
	unsigned stops = 0;
	int status;
	pid_t child;

	start();
	if (argc != 2) {
		fprintf(stderr, "usage: recorder PATH\n");
		return 2;
	}
	path = argv[1];
	fflush(stdout);
	child = fork();
	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			die("traceme");
		raise(SIGSTOP);
		status = recorded();
		fflush(stdout);
		_exit(status);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		die("child");
	if (ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0)
		die("options");
	for (long signal = 0;;) {
		if (ptrace(PTRACE_SYSCALL, child, NULL, signal) < 0)
			die("continue");
		if (waitpid(child, &status, 0) != child)
			die("wait");
		if (!WIFSTOPPED(status))
			break;
		signal = 0;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			stops++;
		else
			signal = WSTOPSIG(status);
	}
	check("ends", 0, status);
	/* The last call does not return. */
	check("both_ends_of_each_call", 1, stops % 2);
	check("calls", 1, stops > 30);
	return finish();
}
