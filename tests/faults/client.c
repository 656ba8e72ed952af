/* client DEMO EVENTS: uses the `demo` device and the `events` device once, in every way. Prints
 * "right" and ends with 0; or the call that failed, with 1. Ends with 3 where data was wrong. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devmap.h"

static void failed(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void wrong(const char *what)
{
	printf("WRONG %s\n", what);
	exit(3);
}

int main(int argc, char **argv)
{
	struct events_buffer buffer = { { 1, 2, 3 } };
	size_t len = DEMO_PAGES * (size_t)sysconf(_SC_PAGESIZE);
	struct pollfd polled = { .events = POLLIN | POLLOUT };
	uint32_t *area, *again;
	struct stat stat;
	int fd;

	if (argc != 3)
		return 2;
	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		failed("open");
	if (fstat(fd, &stat))
		failed("fstat");
	/* What devmap says of a descriptor that it could not move. */
	if (!S_ISCHR(stat.st_mode)) {
		errno = ENODEV;
		failed("fstat");
	}
	area = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	again = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, (off_t)len);
	if (area == MAP_FAILED || again == MAP_FAILED)
		failed("mmap");
	for (uint32_t i = 0; i < len / 4; i += 2)
		if (area[i] != (DEMO_SCATTERED << 16) + i || again[i] != (DEMO_CONTIGUOUS << 16) + i)
			wrong("content");
	area[0] = area[0];
	if (munmap(area, len) || munmap(again, len) || close(fd))
		failed("munmap, close");
	fd = open(argv[2], O_RDWR);
	if (fd < 0)
		failed("open");
	if (ioctl(fd, EVENTS_INVERT, &buffer))
		failed("ioctl");
	if (buffer.bytes[0] != 0xfe || buffer.bytes[87] != 0xff)
		wrong("ioctl");
	if (write(fd, "data", 4) != 4)
		failed("write");
	polled.fd = fd;
	if (poll(&polled, 1, 0) < 0)
		failed("poll");
	if (read(fd, &buffer, 4) != 4)
		failed("read");
	if (memcmp(&buffer, "data", 4))
		wrong("read");
	close(fd);
	printf("right\n");
	return 0;
}
