/* timer PATH HZ ROUNDS: makes calls on the `mem` device at PATH while a timer without SA_RESTART
 * ticks, and counts those that fail with EINTR, by call. Other failures end it. */
#include "check.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/time.h>

static const char *const names[] = { "open", "fstat", "lseek", "mmap", "read",
				     "write", "munmap", "poll", "ioctl", "ioctl_of_terminals" };
static long counts[10], calls;

static void tick(int unused)
{
	(void)unused;
}

/* A command that the device does not know: 0, if it says so. */
static int unknown(int fd, unsigned long command)
{
	return ioctl(fd, command) == -1 && errno == ENOTTY ? 0 : -1;
}

/* Makes a call until it is not interrupted. */
#define TIMES(which, call)                                   \
	do {                                                 \
		calls++;                                     \
		while ((long)(call) == -1) {                 \
			if (errno != EINTR)                  \
				die(names[which]);           \
			counts[which]++;                     \
		}                                            \
	} while (0)

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = tick };
	struct itimerval every = { 0 };
	char byte = 'x', *area;
	struct stat stat;
	int fd, rounds, hz;

	start();
	if (argc != 4) {
		fprintf(stderr, "usage: timer PATH HZ ROUNDS\n");
		return 2;
	}
	hz = atoi(argv[2]);
	rounds = atoi(argv[3]);
	sigaction(SIGALRM, &action, NULL);
	every.it_interval.tv_usec = every.it_value.tv_usec = 1000000 / hz;
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < rounds; i++) {
		TIMES(0, fd = open(argv[1], O_RDWR));
		TIMES(1, fstat(fd, &stat));
		TIMES(2, lseek(fd, 0, SEEK_SET));
		TIMES(3, area = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
		TIMES(4, pread(fd, &byte, 1, 0));
		TIMES(5, pwrite(fd, &byte, 1, 0));
		TIMES(6, munmap(area, page));
		TIMES(7, poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 1000));
		TIMES(8, unknown(fd, _IO('E', 1)));
		TIMES(9, unknown(fd, _IO('T', 1)));
		close(fd);
	}
	/* What it says is not to be interrupted: standard output is notified in trapped mode. */
	every = (struct itimerval){ 0 };
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < 10; i++)
		note(names[i], "%ld", counts[i]);
	note("calls", "%ld", calls);
	return finish();
}
