/* panic PATH: makes the driver of devmap_checks panic. Never comes back. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;

	if (fd < 0) {
		perror("panic");
		return 2;
	}
	ioctl(fd, _IO('P', 5));
	printf("FAIL panic: the ioctl came back\n");
	return 1;
}
