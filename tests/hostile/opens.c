/* opens PATH COUNT: opens and closes a device; then opens it as often as its limit of
 * descriptors allows, up to COUNT, maps the last ones, and leaves it all to its end. */
#include "check.h"

#include <sys/resource.h>

/* Descriptors of devices lie from here on. */
#define FIRST 960

int main(int argc, char **argv)
{
	struct rlimit limit;
	int count, held = 0, room;

	start();
	if (argc != 3) {
		fprintf(stderr, "usage: opens PATH COUNT\n");
		return 2;
	}
	count = atoi(argv[2]);
	for (int i = 0; i < count / 10; i++) {
		int fd = open(argv[1], O_RDWR);

		if (fd < 0 || close(fd))
			die("open and close");
	}
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	room = limit.rlim_max > (rlim_t)count + FIRST ? count : (int)limit.rlim_max - FIRST;
	while (held < room && open(argv[1], O_RDWR) >= 0)
		held++;
	/* In trapped mode devmap holds one for each of them too, by the same limit. */
	check("at_once", 1, held == room || ((errno == ENFILE || errno == EMFILE) && held > 1000));
	for (int i = 0; i < 10; i++)
		MAPS("mapped", 0, mmap(NULL, page, PROT_READ, MAP_SHARED, FIRST + held - 1 - i, 0));
	return finish();
}
