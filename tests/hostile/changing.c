/* changing PATH EVENTS ROUNDS: arguments that another thread changes while they are read: the
 * path of an open, between the device at PATH and a plain file, and the structure of an ioctl
 * of the `events` device at EVENTS. */
#include "check.h"
#include "devmap.h"

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

static char path[128];
static const char *device, *file = "/proc/self/status";
static struct events_copy copy;
static volatile int over;

static void *change(void *unused)
{
	char *unmapped = window(page);

	(void)unused;
	while (!over) {
		memcpy(path, device, strlen(device) + 1);
		*(volatile __u32 *)&copy.len = 8;
		memcpy(path, file, strlen(file) + 1);
		*(volatile __u32 *)&copy.len = 0xffffffff;
		*(volatile __u64 *)&copy.to = (uintptr_t)unmapped;
		*(volatile __u64 *)&copy.to = (uintptr_t)&copy;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int rounds, events, devices = 0, files = 0, others = 0;
	pthread_t thread;
	char bytes[16] = "abcdefgh";
	struct stat device_is, got;

	start();
	if (argc != 4) {
		fprintf(stderr, "usage: changing PATH EVENTS ROUNDS\n");
		return 2;
	}
	device = argv[1];
	rounds = atoi(argv[3]);
	events = open(argv[2], O_RDWR);
	if (events < 0 || stat(device, &device_is))
		die("open");
	copy.from = (uintptr_t)bytes;
	copy.to = (uintptr_t)&copy;
	pthread_create(&thread, NULL, change, NULL);
	for (int i = 0; i < rounds; i++) {
		int fd = open(path, O_RDONLY);

		/* It is one of the two, or there is no such path, which was half of each. */
		if (fd >= 0 && fstat(fd, &got) == 0) {
			if (S_ISCHR(got.st_mode) && got.st_rdev == device_is.st_rdev)
				devices++;
			else if (S_ISREG(got.st_mode))
				files++;
			else
				others++;
		} else if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) {
			others++;
		}
		close(fd);
		ioctl(events, EVENTS_COPY, &copy);
		copy.from = (uintptr_t)bytes;
	}
	over = 1;
	pthread_join(thread, NULL);
	check("neither", 0, others);
	note("seen", "%s", devices + files ? "some" : "none");
	copy = (struct events_copy){ (uintptr_t)bytes, (uintptr_t)(bytes + 8), 8, 0 };
	CALL("serves_on", 0, ioctl(events, EVENTS_COPY, &copy));
	return finish();
}
