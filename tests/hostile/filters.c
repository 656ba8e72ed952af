/* filters PATH: has seccomp filters of its own, which judge the calls that devmap makes in it,
 * and maps that come to no end; other programs map on, and install filters. */
#include "check.h"
#include "own_filter.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static const char *path;

static volatile sig_atomic_t trapped;

static void on_trap(int signal)
{
	(void)signal;
	trapped++;
}

/* Whether its own handler is called for what its filter traps. */
static int has_handler(unsigned number)
{
	trapped = 0;
	syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
	return trapped == 1;
}

struct action {
	unsigned number, action;
};

/* A filter that refuses, or traps, one of the calls behind a map. */
static int maps_under(void *given)
{
	struct sigaction handler = { .sa_handler = on_trap };
	const struct action *action = given;
	int fd = open(path, O_RDWR);
	volatile char *at;

	sigaction(SIGSYS, &handler, NULL);
	install(action->number, action->action);
	at = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return 1;
	if (strcmp(maps_line((void *)at, (size_t)page, NULL, NULL), "rw-s"))
		return 2;
	if (trapped)
		return 3;
	if (action->action == SECCOMP_RET_TRAP && !has_handler(action->number))
		return 4;
	return 0;
}

/* The same of the call that gives the descriptor its number. */
static int opens_under(void *given)
{
	struct sigaction handler = { .sa_handler = on_trap };
	const struct action *action = given;
	int fd;

	sigaction(SIGSYS, &handler, NULL);
	install(action->number, action->action);
	fd = open(path, O_RDWR);
	if (fd < 0 || trapped)
		return 1;
	if (action->action == SECCOMP_RET_TRAP && !has_handler(action->number))
		return 4;
	return 0;
}

static int maps(void *unused)
{
	int fd = open(path, O_RDWR);

	(void)unused;
	return mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED;
}

static int installs(void *unused)
{
	(void)unused;
	install(SYS_uname, SECCOMP_RET_ERRNO | EPERM);
	return 0;
}

/* Maps over memory whose unmapping has to be heard of by somebody, and nobody hears. */
static int maps_for_ever(int ready)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP };
	char *at = window((size_t)page);
	struct uffdio_register whole = { .range = { (uintptr_t)at, (uint64_t)page },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = open(path, O_RDWR);

	at = mmap(at, (size_t)page, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &whole))
		return 1;
	if (write(ready, "", 1) != 1)
		return 1;
	mmap(at, (size_t)page, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	return 1;
}

/* Whether a thread is in its call for good: it has been for a while. */
static int is_in_mmap(void *process)
{
	char name[64], text[64] = "";
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/syscall", *(pid_t *)process);
	file = fopen(name, "r");
	if (file) {
		if (!fgets(text, sizeof(text), file))
			text[0] = 0;
		fclose(file);
	}
	usleep(10000);
	return atoi(text) == SYS_mmap;
}

static void stuck(void)
{
	int ready[2], status;
	char byte;
	pid_t child;

	if (pipe(ready))
		die("pipe");
	fflush(stdout);
	child = fork();
	if (child == 0) {
		close(ready[0]);
		_exit(maps_for_ever(ready[1]));
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) == 1) {
		check("a_map_that_does_not_end", 1, eventually(is_in_mmap, &child));
		usleep(200000);
		check("another_installs_a_filter", 0, in_child(installs, NULL));
		check("another_maps", 0, in_child(maps, NULL));
	} else {
		note("a_map_that_does_not_end", "no userfaultfd");
	}
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
}

int main(int argc, char **argv)
{
	const unsigned actions[] = { SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_TRAP };

	start();
	if (argc != 2) {
		fprintf(stderr, "usage: filters PATH\n");
		return 2;
	}
	path = argv[1];
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++) {
		struct action advice = { SYS_madvise, actions[i] };
		struct action control = { SYS_fcntl, actions[i] };

		check(i ? "traps_madvise" : "refuses_madvise", 0, in_child(maps_under, &advice));
		check(i ? "traps_fcntl" : "refuses_fcntl", 0, in_child(opens_under, &control));
	}
	stuck();
	return finish();
}
