/* soak MEM PATTERN SECONDS SEED: twenty clients that map two devices, fault pages of one, write,
 * fork and are killed, for so long. `pattern` holds its own offsets; what the clients store
 * there stays so. */
#include "check.h"

#define CLIENTS 20
#define PAGES 256

static const char *mem, *pattern;
static uint64_t random_state;

static unsigned choose(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state % below);
}

static volatile uint64_t *map(const char *path, off_t offset)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *at = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	if (fd < 0 || at == MAP_FAILED) {
		printf("FAIL map: %s, %d, %s\n", path, fd, strerror(errno));
		_exit(1);
	}
	close(fd);
	return at;
}

static void once(void)
{
	off_t offset = choose(16) * PAGES * page;
	volatile uint64_t *faulted = map(pattern, offset), *shared = map(mem, 0);

	for (int i = 0; i < 20; i++) {
		off_t at = choose(PAGES) * page;

		if (faulted[at / 8] != (uint64_t)(offset + at))
			_exit(2);
		if (choose(2))
			faulted[at / 8] = (uint64_t)(offset + at);
		shared[at / 8] = (uint64_t)at;
		if (shared[at / 8] != (uint64_t)at)
			_exit(3);
	}
	if (choose(8) == 0 && fork() == 0)
		_exit(faulted[0] == (uint64_t)offset ? 0 : 4);
	if (choose(4) == 0)
		msync((void *)faulted, PAGES * page, MS_SYNC);
	munmap((void *)faulted, PAGES * page);
	munmap((void *)shared, PAGES * page);
}

static pid_t client(unsigned seed)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	random_state = 0x9e3779b97f4a7c15 * (seed + 1);
	signal(SIGCHLD, SIG_IGN);
	for (;;)
		once();
}

int main(int argc, char **argv)
{
	pid_t clients[CLIENTS];
	unsigned seed, killed = 0;
	double end;
	int status;

	start();
	alarm(0);
	if (argc != 5) {
		fprintf(stderr, "usage: soak MEM PATTERN SECONDS SEED\n");
		return 2;
	}
	mem = argv[1];
	pattern = argv[2];
	seed = (unsigned)atoi(argv[4]);
	random_state = seed + 1;
	end = seconds() + atoi(argv[3]);
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = client(seed++);
	while (seconds() < end) {
		int which = (int)choose(CLIENTS);

		usleep(1000);
		kill(clients[which], SIGKILL);
		while (waitpid(clients[which], &status, 0) < 0 && errno == EINTR)
			;
		/* Nothing else ends it. */
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
			check("status", SIGKILL, status);
			break;
		}
		clients[which] = client(seed++);
		killed++;
	}
	for (int i = 0; i < CLIENTS; i++) {
		kill(clients[i], SIGKILL);
		waitpid(clients[i], NULL, 0);
	}
	check("killed_some", 1, killed > 0);
	return finish();
}
