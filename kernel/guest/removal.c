/* removal MODULE PREFIX: inserts and removes the module devmap, whose file is
 * MODULE and whose devices are PREFIX and their names, while it is used and while it is not.
 * The module is inserted at first, and is not at the end. */
#include "check.h"
#include "devmap.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>

#define RW (PROT_READ | PROT_WRITE)

static const char *module, *prefix;

static int insert(const char *options)
{
	int fd = open(module, O_RDONLY | O_CLOEXEC);
	long result = syscall(SYS_finit_module, fd, options, 0);
	int error = errno;

	close(fd);
	errno = error;
	return (int)result;
}

static int removed(void)
{
	return (int)syscall(SYS_delete_module, "devmap", O_NONBLOCK);
}

static int open_device(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s", prefix, name);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void busy(void)
{
	int fd = open_device("demo");
	uint32_t *words;

	CALL("open", 0, fd);
	CALL("busy_while_open", EAGAIN, removed());
	words = mmap(NULL, 16 * page, RW, MAP_SHARED, fd, 16 * page);
	close(fd);
	CALL("busy_while_mapped", EAGAIN, removed());
	munmap(words + page / 4, page);
	CALL("busy_while_partly_mapped", EAGAIN, removed());
	check("the_map_still_works", 0xdead0000, words[0]);
	munmap(words, 16 * page);
	CALL("removed", 0, removed());
	CALL("then_it_is_gone", ENOENT, open_device("demo"));
	CALL("removed_twice", ENOENT, removed());
}

static void options(void)
{
	int mem, pattern;
	void *at;

	CALL("size_0", EINVAL, insert("mem_size=0"));
	CALL("size_junk", EINVAL, insert("mem_size=1.5M"));
	CALL("size_of_the_second", EINVAL, insert("pattern_size=2T"));
	CALL("size_too_long_for_alloc_pages", ENOMEM, insert("mem_size=64M"));
	CALL("size_too_long_for_anything", ENOMEM, insert("mem_size=8388608T"));
	CALL("limit_too_low", ENOMEM, insert("memory_limit=4096"));
	CALL("nothing_is_left", ENOENT, open_device("hello"));
	CALL("sizes", 0, insert("mem_size=64K pattern_size=8K"));
	CALL("inserted_twice", EEXIST, insert(""));
	mem = open_device("mem");
	pattern = open_device("pattern");
	at = mmap(NULL, 16 * page, RW, MAP_SHARED, mem, 0);
	MAPS("mem_whole", 0, at);
	munmap(at, 16 * page);
	MAPS("mem_past_its_end", EINVAL, mmap(NULL, 17 * page, RW, MAP_SHARED, mem, 0));
	at = mmap(NULL, 2 * page, RW, MAP_SHARED, pattern, 0);
	MAPS("pattern_whole", 0, at);
	munmap(at, 2 * page);
	MAPS("pattern_past_its_end", EINVAL, mmap(NULL, 3 * page, RW, MAP_SHARED, pattern, 0));
	close(mem);
	close(pattern);
}

/* The module's limit on pages: `pages` more than its devices hold now. */
static void limit(long pages)
{
	FILE *file = fopen("/sys/module/devmap/parameters/memory_limit", "w");

	/* demo has two areas of 16 pages, mem one. */
	if (!file || fprintf(file, "%ld\n", pages < 0 ? 0 : (3 * 16 + pages) * page) < 0 ||
	    fclose(file))
		die("memory_limit");
}

static void limits(void)
{
	int zero = open_device("zero"), pattern = open_device("pattern");
	char *at = mmap(NULL, 2 * page, RW, MAP_SHARED, pattern, 0);

	limit(1);
	check("a_page_within_the_limit", 0, loads(at));
	check("a_page_past_the_limit", SIGBUS, loads(at + page));
	MAPS("memory_past_the_limit", ENOMEM, mmap(NULL, page, RW, MAP_SHARED, zero, 0));
	limit(2);
	check("raised", 0, loads(at + page));
	munmap(at, 2 * page);
	close(pattern);
	at = mmap(NULL, 2 * page, RW, MAP_SHARED, zero, 0);
	MAPS("release_gives_the_pages_back", 0, at);
	munmap(at, 2 * page);
	at = mmap(NULL, 2 * page, RW, MAP_SHARED, zero, 0);
	MAPS("so_does_munmap", 0, at);
	munmap(at, 2 * page);
	limit(-1);
	MAPS("a_map_longer_than_the_machine", ENOMEM,
	     mmap(NULL, 1L << 40, RW, MAP_SHARED | MAP_NORESERVE, zero, 0));
	close(zero);
}

static int sleeps(void *argument)
{
	return ioctl(*(int *)argument, EVENTS_SLEEP);
}

static int one_waits(void *argument)
{
	struct events_stats stats = { 0 };

	return ioctl(*(int *)argument, EVENTS_STATS, &stats) == 0 && stats.waiting == 1;
}

static int uses_everything(void *argument)
{
	int demo = open_device("demo"), pattern = open_device("pattern");
	char *words = mmap(NULL, 16 * page, RW, MAP_PRIVATE, demo, 0);
	char *faulted = mmap(NULL, 2 * page, RW, MAP_SHARED, pattern, 0);

	(void)argument;
	words[0] = faulted[0] = 1;
	raise(SIGKILL);
	return 0;
}

static void killed(void)
{
	int events = open_device("events"), status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(sleeps(&events));
	check("child_waits", 1, eventually(one_waits, &events));
	close(events);
	CALL("busy_while_a_call_waits", EAGAIN, removed());
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	check("killed_while_it_waits", SIGKILL, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	check("killed_with_maps", 1000 + SIGKILL, in_child(uses_everything, NULL));
	CALL("removed_after_both", 0, removed());
}

int main(int argc, char **argv)
{
	start();
	if (argc != 3) {
		fprintf(stderr, "usage: removal MODULE PREFIX\n");
		return 2;
	}
	module = argv[1];
	prefix = argv[2];
	busy();
	options();
	limits();
	killed();
	CALL("inserted_again", 0, insert(""));
	CALL("removed_again", 0, removed());
	return finish();
}
