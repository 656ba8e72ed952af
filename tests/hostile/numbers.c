/* numbers PATH: a thread opens the device at PATH again and again, while another opens files of
 * its own, which are given the same numbers: nobody but itself closes them. */
#include "check.h"

#include <pthread.h>

#define ROUNDS 1000

static volatile int over;
static const char *path;

static void *opens(void *unused)
{
	(void)unused;
	for (int round = 0; round < ROUNDS; round++)
		close(open(path, O_RDONLY));
	over = 1;
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int bad = 0, fd;

	start();
	if (argc != 2)
		die("no path");
	path = argv[1];
	/* All numbers below those that devices have. */
	while ((fd = dup(2)) >= 0 && fd < 959)
		;
	if (pthread_create(&thread, NULL, opens, NULL))
		die("pthread_create");
	while (!over) {
		fd = memfd_create("own", 0);
		/* What no other file has. */
		for (int look = 0; look < 20 && fd >= 0; look++)
			if (fcntl(fd, F_GET_SEALS) < 0) {
				bad++;
				break;
			}
		close(fd);
	}
	pthread_join(thread, NULL);
	check("its_own_files_stay", 0, bad);
	return finish();
}
