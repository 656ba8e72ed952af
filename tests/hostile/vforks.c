/* vforks PATH: threads that cannot be stopped, for each has a child by vfork that does not end,
 * beside one that registers the `events` device at PATH with an epoll again and again, so that
 * they are to be stopped as they go. Waits to be killed. */
#include "check.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#define THREADS 64

static int begun;

static void *vforks(void *spins)
{
	for (volatile intptr_t i = 0; i < (intptr_t)spins; i++)
		;
	__atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), fd;
	pthread_t thread;

	start();
	if (argc != 2 || (fd = open(argv[1], O_RDWR)) < 0)
		die("open");
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
	for (intptr_t i = 0; i < THREADS; i++) {
		if (pthread_create(&thread, NULL, vforks, (void *)(20000 + i * 977)))
			die("pthread_create");
		while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) <= i)
			if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event))
				die("epoll_ctl");
		for (int more = 0; more < 3; more++)
			if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event))
				die("epoll_ctl");
	}
	printf("ok all\n");
	fflush(stdout);
	for (;;)
		pause();
}
