/* storm PATH ROUNDS SEED: processes that open, map, store, fork, move and unmap all the time,
 * each killed at a random moment. What is mapped is the page of reach.c. */
#include "check.h"

#include <pthread.h>

#define GIVEN 0x5ec2e704u
#define CHILDREN 4

static const char *path;
static uint64_t random_state;

static unsigned choose(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state % below);
}

static void once(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	volatile uint32_t *area;

	if (fd < 0)
		_exit(1);
	area = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	/* A signal that kills may have come; else there is a map. */
	if (area == MAP_FAILED || area[0] != GIVEN)
		_exit(2);
	area[1] = area[1];
	if (mremap((void *)area, page, 2 * page, MREMAP_MAYMOVE) != MAP_FAILED)
		_exit(3);
	if (choose(2)) {
		close(fd);
		fd = -1;
	}
	if (choose(4) == 0 && fork() == 0)
		_exit(area[0] == GIVEN ? 0 : 4);
	munmap((void *)area, page);
	close(fd);
}

static void *thread(void *unused)
{
	for (;;)
		once();
	return unused;
}

/* Some with a second thread, which stands in calls of its own when the end comes. */
static void child(void)
{
	pthread_t other;

	signal(SIGCHLD, SIG_IGN);
	if (choose(2))
		pthread_create(&other, NULL, thread, NULL);
	for (;;)
		once();
}

int main(int argc, char **argv)
{
	int rounds;

	start();
	if (argc != 4) {
		fprintf(stderr, "usage: storm PATH ROUNDS SEED\n");
		return 2;
	}
	path = argv[1];
	rounds = atoi(argv[2]);
	for (int round = 0; round < rounds; round++) {
		pid_t children[CHILDREN];
		int status, wrong = 0;

		for (int i = 0; i < CHILDREN; i++) {
			random_state = 0x9e3779b97f4a7c15 * (strtoul(argv[3], NULL, 0) + 1) +
				       (uint64_t)(round * CHILDREN + i);
			choose(2);
			children[i] = fork();
			if (children[i] == 0)
				child();
		}
		usleep(choose(20000));
		for (int i = 0; i < CHILDREN; i++)
			kill(children[i], SIGKILL);
		for (int i = 0; i < CHILDREN; i++) {
			while (waitpid(children[i], &status, 0) < 0 && errno == EINTR)
				;
			/* Nothing but the kill ends it. */
			wrong += !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
		}
		if (wrong) {
			check("killed", 0, wrong);
			note("round", "%d, status %x", round, status);
		}
	}
	return finish();
}
