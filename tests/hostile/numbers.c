/* numbers PATH: a thread opens the device at PATH again and again, while another opens files of
 * its own, which are given the same numbers: nobody but itself closes them. */
#include "check.h"

#include <pthread.h>

#define ROUNDS 300

static volatile int over;
static const char *path;

static void *opens(void *unused)
{
	(void)unused;
	while (!over)
		close(open(path, O_RDONLY));
	return NULL;
}

int main(int argc, char **argv)
{
	struct stat first, now;
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
	for (int round = 0; round < ROUNDS; round++) {
		fd = memfd_create("own", 0);
		if (fd < 0 || fstat(fd, &first))
			die("memfd_create");
		for (int look = 0; look < 20; look++) {
			if (fstat(fd, &now) || now.st_ino != first.st_ino || !S_ISREG(now.st_mode)) {
				bad++;
				break;
			}
		}
		close(fd);
	}
	over = 1;
	pthread_join(thread, NULL);
	check("its_own_files_stay", 0, bad);
	return finish();
}
