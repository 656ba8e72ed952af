/* events [--native] PATH: waiting, on the `events` device.
 *
 * With --native, PATH is made as a FIFO, open for both, and what only the device's
 * ioctls can bring about is left out. */
#include "check.h"
#include "devmap.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>

static const char *path;
static int native;
static int fd;
/* What a signal handler of any process of this client counts. */
static volatile int *handled;

static struct events_stats stats(void)
{
	struct events_stats now = { 0 };

	if (!native)
		ioctl(fd, EVENTS_STATS, &now);
	return now;
}

static void set_mask(uint32_t mask)
{
	if (ioctl(fd, EVENTS_SET_MASK, &mask))
		die("EVENTS_SET_MASK");
}

/* Empties the queue and makes the mask automatic. */
static void reset(void)
{
	char bytes[4096];
	int flags = fcntl(fd, F_GETFL);

	if (!native && ioctl(fd, EVENTS_RESET))
		die("EVENTS_RESET");
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	while (read(fd, bytes, sizeof(bytes)) > 0)
		;
	fcntl(fd, F_SETFL, flags);
}

static int count_is(void *count)
{
	return stats().waiting == (uintptr_t)count;
}

static int in_system_call(void *thread)
{
	char name[64], text[64] = "";
	FILE *file;
	long number;
	int wanted;

	snprintf(name, sizeof(name), "/proc/%d/syscall", (int)(intptr_t)thread);
	file = fopen(name, "r");
	if (!file)
		return 0;
	if (!fgets(text, sizeof(text), file))
		text[0] = 0;
	fclose(file);
	wanted = sscanf(text, "%ld", &number) == 1;
	return wanted && (number == SYS_read || number == SYS_write || number == SYS_ppoll ||
			  number == SYS_pselect6 || number == SYS_epoll_pwait ||
			  number == SYS_epoll_pwait2
#ifdef SYS_poll
			  || number == SYS_poll || number == SYS_select || number == SYS_epoll_wait
#endif
			 );
}

/* Returns once `thread` waits in the driver, the `count`th to do so. */
static void until_waiting(pid_t thread, uintptr_t count)
{
	if (native ? !eventually(in_system_call, (void *)(intptr_t)thread) :
		     !eventually(count_is, (void *)count))
		check("a_call_waits", 1, 0);
}

/* Returns once `thread` waits in poll, select or epoll_wait. */
static void until_polling(pid_t thread)
{
	if (!eventually(in_system_call, (void *)(intptr_t)thread))
		check("a_poll_waits", 1, 0);
}

static pid_t spawn(int (*body)(void *), void *argument)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0)
		_exit(body(argument));
	return child;
}

static int reap(pid_t child)
{
	int status = 0;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void queue(void)
{
	static char bytes[EVENTS_CAPACITY + 100];
	int other = open(path, O_RDWR | O_NONBLOCK), copy, value = 1;

	CALL("empty_nonblocking_read", EAGAIN, read(other, bytes, 1));
	check("write", 5, write(fd, "12345", 5));
	check("read_part", 2, read(other, bytes, 2));
	check("read_rest", 3, read(other, bytes + 2, 10));
	check_text("in_order", "12345", bytes);
	CALL("setfl_nonblock", 0, fcntl(fd, F_SETFL, O_NONBLOCK));
	check("getfl", O_NONBLOCK, fcntl(fd, F_GETFL) & O_NONBLOCK);
	CALL("read_after_setfl", EAGAIN, read(fd, bytes, 1));
	copy = dup(fd);
	CALL("dup_shares_the_flag", EAGAIN, read(copy, bytes, 1));
	close(copy);
	CALL("setfl_blocking", 0, fcntl(fd, F_SETFL, 0));
	CALL("fionbio", 0, ioctl(fd, FIONBIO, &value));
	CALL("read_after_fionbio", EAGAIN, read(fd, bytes, 1));
	value = 0;
	CALL("fionbio_off", 0, ioctl(fd, FIONBIO, &value));
	check("read_nothing", 0, read(fd, bytes, 0));
	CALL("lseek", ESPIPE, lseek(fd, 0, SEEK_SET));
	CALL("pread", ESPIPE, pread(fd, bytes, 1, 0));
	CALL("pwrite", ESPIPE, pwrite(fd, bytes, 1, 0));
	if (!native) {
		check("fill", EVENTS_CAPACITY, write(other, bytes, sizeof(bytes)));
		CALL("full_nonblocking_write", EAGAIN, write(other, bytes, 1));
		check("count", EVENTS_CAPACITY, ioctl(fd, EVENTS_COUNT));
		check("drain", EVENTS_CAPACITY, read(other, bytes, sizeof(bytes)));
		check("count_empty", 0, ioctl(fd, EVENTS_COUNT));
	}
	close(other);
	other = open(path, O_WRONLY | O_NONBLOCK);
	CALL("writer_reads", EBADF, read(other, bytes, 1));
	close(other);
	other = open(path, O_RDONLY | O_NONBLOCK);
	CALL("reader_writes", EBADF, write(other, bytes, 1));
	close(other);
}

static void commands(void)
{
	struct events_buffer buffer;
	struct events_copy copy = { 0 };
	unsigned char from[300], to[300];
	uint32_t sum = 0;
	long bad = 0;

	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 88; i++)
			buffer.bytes[i] = (unsigned char)(round + i);
		bad += ioctl(fd, EVENTS_INVERT, &buffer) != 0;
		for (int i = 0; i < 88; i++)
			bad += buffer.bytes[i] != (unsigned char)~(round + i);
	}
	check("invert_88_bytes", 0, bad);
	for (int i = 0; i < 300; i++) {
		from[i] = (unsigned char)(i * 7);
		sum += from[i];
	}
	copy.from = (uintptr_t)from;
	copy.to = (uintptr_t)to;
	copy.len = sizeof(from);
	CALL("embedded_pointers", 0, ioctl(fd, EVENTS_COPY, &copy));
	check("embedded_sum", sum, copy.sum);
	bad = 0;
	for (int i = 0; i < 300; i++)
		bad += to[i] != (unsigned char)(from[i] + 1);
	check("embedded_copy", 0, bad);
	check("write_three", 3, write(fd, "abc", 3));
	check("a_command_returns_a_value", 3, ioctl(fd, EVENTS_COUNT));
	CALL("reset", 0, ioctl(fd, EVENTS_RESET));
	check("reset_empties", 0, ioctl(fd, EVENTS_COUNT));
	check("no_call_waited", 0, stats().waits);
}

#define ALL (POLLIN | POLLPRI | POLLOUT | POLLERR | POLLHUP)

/* Every mask, through each of the calls that report one. */
static void masks(void)
{
	long by_poll = 0, by_epoll = 0, by_select = 0, unasked = 0, by_ioctl = 0;
	int epoll = epoll_create1(0), low = fcntl(fd, F_DUPFD, 0);
	struct epoll_event event = { .events = EPOLLIN | EPOLLPRI | EPOLLOUT };

	CALL("epoll_add", 0, epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	CALL("epoll_add_again", EEXIST, epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	for (uint32_t mask = 0; mask <= ALL; mask++) {
		struct pollfd one = { .fd = fd, .events = POLLIN | POLLPRI | POLLOUT };
		struct pollfd none = { .fd = fd };
		struct epoll_event found = { 0 };
		struct timeval now = { 0, 0 };
		fd_set readers, writers, others;
		uint32_t got = 0;

		set_mask(mask);
		by_ioctl += ioctl(fd, EVENTS_GET_MASK, &got) != 0 || got != mask;
		by_poll += poll(&one, 1, 0) != (mask != 0) || (uint32_t)one.revents != mask;
		poll(&none, 1, 0);
		unasked += (uint32_t)none.revents != (mask & (POLLERR | POLLHUP));
		by_epoll += epoll_wait(epoll, &found, 1, 0) != (mask != 0) || found.events != mask;
		FD_ZERO(&readers);
		FD_ZERO(&writers);
		FD_ZERO(&others);
		FD_SET(low, &readers);
		FD_SET(low, &writers);
		FD_SET(low, &others);
		select(low + 1, &readers, &writers, &others, &now);
		by_select += !!FD_ISSET(low, &readers) != !!(mask & (POLLIN | POLLHUP | POLLERR));
		by_select += !!FD_ISSET(low, &writers) != !!(mask & (POLLOUT | POLLERR));
		by_select += !!FD_ISSET(low, &others) != !!(mask & POLLPRI);
	}
	check("masks_by_ioctl", 0, by_ioctl);
	check("masks_by_poll", 0, by_poll);
	check("masks_not_asked_for", 0, unasked);
	check("masks_by_epoll", 0, by_epoll);
	check("masks_by_select", 0, by_select);
	set_mask(POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLRDHUP);
	{
		struct pollfd one = { .fd = fd, .events = 0x7fff };

		poll(&one, 1, 0);
		check("other_bits", POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLRDHUP,
		      one.revents);
	}
	CALL("epoll_delete", 0, epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
	CALL("epoll_delete_again", ENOENT, epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
	close(epoll);
	close(low);
	reset();
}

static void readiness(void)
{
	struct pollfd several[4] = { 0 };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET }, found;
	int ends[2], full[2], epoll = epoll_create1(0), outer = epoll_create1(0), copy;
	struct pollfd nested = { .fd = outer, .events = POLLIN };
	double begun;
	char byte;

	if (pipe(ends) || pipe(full))
		die("pipe");
	check("pipe_write", 1, write(full[1], "x", 1));
	several[0].fd = ends[0];
	several[1].fd = fd;
	several[2].fd = full[0];
	several[3].fd = -1;
	for (int i = 0; i < 4; i++)
		several[i].events = POLLIN;
	check("poll_mixed_empty", 1, poll(several, 4, 0));
	check("write_one", 1, write(fd, "y", 1));
	check("poll_mixed_ready", 2, poll(several, 4, 0));
	check("poll_mixed_device", POLLIN, several[1].revents);
	check("poll_mixed_empty_pipe", 0, several[0].revents);
	check("poll_mixed_full_pipe", POLLIN, several[2].revents);
	several[1].events = POLLIN | POLLOUT;
	poll(several, 4, 0);
	check("poll_both_ways", POLLIN | POLLOUT, several[1].revents);
	reset();

	begun = seconds();
	several[1].events = POLLIN;
	check("poll_times_out", 0, poll(&several[1], 1, 50));
	check("poll_waited", 1, seconds() - begun >= 0.045);

	/* Level: told again and again. Edge: told of each change. */
	event.events = EPOLLIN;
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	check("level_empty", 0, epoll_wait(epoll, &found, 1, 0));
	check("level_write", 1, write(fd, "1", 1));
	check("level_ready", 1, epoll_wait(epoll, &found, 1, -1));
	check("level_events", EPOLLIN, found.events);
	check("level_ready_again", 1, epoll_wait(epoll, &found, 1, 0));
	epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event);
	check("nested_epoll", 1, poll(&nested, 1, -1));
	check("level_read", 1, read(fd, &byte, 1));
	check("level_empty_again", 0, epoll_wait(epoll, &found, 1, 0));
	check("nested_epoll_empty", 0, epoll_wait(outer, &found, 1, 0));
	event.events = EPOLLIN | EPOLLET;
	CALL("edge", 0, epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
	check("edge_empty", 0, epoll_wait(epoll, &found, 1, 0));
	check("edge_write", 1, write(fd, "2", 1));
	check("edge_ready", 1, epoll_wait(epoll, &found, 1, -1));
	check("edge_told_once", 0, epoll_wait(epoll, &found, 1, 0));
	check("edge_write_more", 1, write(fd, "3", 1));
	check("edge_ready_again", 1, epoll_wait(epoll, &found, 1, -1));
	check("edge_told_once_again", 0, epoll_wait(epoll, &found, 1, 0));
	event.events = EPOLLIN | EPOLLONESHOT;
	CALL("oneshot", 0, epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
	check("oneshot_ready", 1, epoll_wait(epoll, &found, 1, -1));
	check("oneshot_write", 1, write(fd, "4", 1));
	check("oneshot_is_over", 0, epoll_wait(epoll, &found, 1, 0));
	epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
	copy = open(path, O_RDWR);
	event.events = EPOLLIN;
	CALL("add_another_open", 0, epoll_ctl(epoll, EPOLL_CTL_ADD, copy, &event));
	check("it_is_ready", 1, epoll_wait(epoll, &found, 1, -1));
	close(copy);
	check("close_takes_it_off", 0, epoll_wait(epoll, &found, 1, 0));
	several[1].fd = copy;
	poll(&several[1], 1, 0);
	check("poll_closed", POLLNVAL, several[1].revents);
	close(ends[0]);
	close(ends[1]);
	close(full[0]);
	close(full[1]);
	close(epoll);
	close(outer);
	reset();
}

enum how {
	BY_POLL,
	BY_PPOLL,
	BY_SELECT,
	BY_PSELECT,
	/* The same, asking for exceptions too. */
	BY_SELECT_ALL,
	BY_PSELECT_ALL,
	BY_EPOLL,
	BY_EPOLL_EDGE,
	WAYS
};
static const char *const ways[WAYS] = { "poll",	      "ppoll",	     "select", "pselect",
					"select_all", "pselect_all", "epoll",  "epoll_edge" };

/* Waits without end until the queue holds bytes: 1, or -1 with errno. */
static int wait_readable(enum how how)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	struct epoll_event event = { .events = EPOLLIN };
	int low, epoll, result, is_all = how == BY_SELECT_ALL || how == BY_PSELECT_ALL;
	fd_set readers, others;

	switch (how) {
	case BY_POLL:
		return poll(&one, 1, -1);
	case BY_PPOLL:
		return ppoll(&one, 1, NULL, NULL);
	case BY_SELECT:
	case BY_PSELECT:
	case BY_SELECT_ALL:
	case BY_PSELECT_ALL:
		low = fcntl(fd, F_DUPFD, 0);
		FD_ZERO(&readers);
		FD_SET(low, &readers);
		others = readers;
		if (how == BY_SELECT || how == BY_SELECT_ALL)
			result = select(low + 1, &readers, NULL, is_all ? &others : NULL, NULL);
		else
			result = pselect(low + 1, &readers, NULL, is_all ? &others : NULL, NULL,
					 NULL);
		close(low);
		return result;
	default:
		if (how == BY_EPOLL_EDGE)
			event.events |= EPOLLET;
		epoll = epoll_create1(0);
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
		result = epoll_wait(epoll, &event, 1, -1);
		close(epoll);
		return result;
	}
}

static int polls(void *argument)
{
	int result = wait_readable((enum how)(intptr_t)argument);

	return result < 0 ? 100 + errno : result;
}

static void on_signal(int signal)
{
	(void)signal;
	__atomic_fetch_add(handled, 1, __ATOMIC_SEQ_CST);
}

static void handle(int signal, int flags)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };

	sigaction(signal, &action, NULL);
}

#include "events_select.h"

/* A signal that comes before the call has begun to wait does not end it, so there are several. */
static int ends_by_signals(void *child)
{
	siginfo_t info = { 0 };
	struct timespec moment = { 0, 2000000 };

	kill((pid_t)(intptr_t)child, SIGUSR1);
	nanosleep(&moment, NULL);
	return waitid(P_PID, (id_t)(intptr_t)child, &info, WEXITED | WNOHANG | WNOWAIT) ||
	       info.si_pid;
}

static void wakes(void)
{
	char name[64];
	pid_t child, second;

	for (intptr_t how = 0; how < WAYS; how++) {
		child = spawn(polls, (void *)how);
		until_polling(child);
		check("wake", 1, write(fd, "w", 1));
		snprintf(name, sizeof(name), "%s_is_woken", ways[how]);
		check(name, 1, reap(child));
		reset();
	}
	child = spawn(polls, (void *)BY_POLL);
	second = spawn(polls, (void *)BY_EPOLL);
	until_polling(child);
	until_polling(second);
	check("wake_two", 1, write(fd, "w", 1));
	check("the_first_is_woken", 1, reap(child));
	check("the_second_is_woken", 1, reap(second));
	reset();
	/* No call of this family restarts, whatever the handler says. */
	handle(SIGUSR1, SA_RESTART);
	for (intptr_t how = 0; how < WAYS; how++) {
		child = spawn(polls, (void *)how);
		until_polling(child);
		if (!eventually(ends_by_signals, (void *)(intptr_t)child))
			kill(child, SIGKILL);
		snprintf(name, sizeof(name), "%s_is_interrupted", ways[how]);
		check(name, 100 + EINTR, reap(child));
	}
	child = spawn(polls, (void *)BY_POLL);
	until_polling(child);
	kill(child, SIGKILL);
	check("a_polling_child_is_killed", 1000 + SIGKILL, reap(child));
}

static volatile pid_t reader_thread;

static void *thread_reads(void *argument)
{
	reader_thread = (pid_t)syscall(SYS_gettid);
	return (void *)(intptr_t)read(fd, argument, 16);
}

static int thread_began(void *argument)
{
	(void)argument;
	return reader_thread != 0;
}

static pthread_t start_reader(char *into)
{
	pthread_t thread;

	reader_thread = 0;
	if (pthread_create(&thread, NULL, thread_reads, into))
		die("pthread_create");
	eventually(thread_began, NULL);
	return thread;
}

static int reads(void *argument)
{
	char bytes[16];
	ssize_t got = read(fd, bytes, sizeof(bytes));

	(void)argument;
	return got < 0 ? 100 + errno : (int)got;
}

static int writes(void *argument)
{
	ssize_t got = write(fd, "more", 4);

	(void)argument;
	return got < 0 ? 100 + errno : (int)got;
}

#include "events_beside.h"

static void blocking(void)
{
	static char bytes[1 << 17];
	char text[32] = "";
	pthread_t thread;
	pid_t child, second;
	void *got;
	int flags;

	/* The same descriptor: a blocked read does not hold up a write. */
	thread = start_reader(text);
	until_waiting(reader_thread, 1);
	check("write_past_a_blocked_read", 6, write(fd, "thread", 6));
	pthread_join(thread, &got);
	check("the_thread_is_woken", 6, (intptr_t)got);
	check_text("it_read", "thread", text);
	child = spawn(reads, NULL);
	until_waiting(child, 1);
	check("write_for_a_child", 5, write(fd, "child", 5));
	check("the_child_is_woken", 5, reap(child));
	child = spawn(reads, NULL);
	until_waiting(child, 1);
	second = spawn(reads, NULL);
	until_waiting(second, 2);
	check("write_for_one", 1, write(fd, "1", 1));
	check("one_of_two", 1, reap(-1));
	if (!native)
		check("the_other_waits_on", 1, stats().waiting);
	check("write_for_the_other", 1, write(fd, "2", 1));
	check("the_other_of_two", 1, reap(-1));
	flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	while (write(fd, bytes, 1024) > 0)
		;
	fcntl(fd, F_SETFL, flags);
	child = spawn(writes, NULL);
	until_waiting(child, 1);
	check("make_room", 1, read(fd, bytes, sizeof(bytes)) > 0);
	check("a_blocked_write_is_woken", 4, reap(child));
	reset();
}

#define STREAM 20000

static void *thread_streams(void *argument)
{
	unsigned char bytes[64];
	int sent = 0;

	(void)argument;
	while (sent < STREAM) {
		int len = 1 + sent % 61;

		if (len > STREAM - sent)
			len = STREAM - sent;
		for (int i = 0; i < len; i++)
			bytes[i] = (unsigned char)((sent + i) % 251);
		len = (int)write(fd, bytes, (size_t)len);
		if (len < 0)
			break;
		sent += len;
	}
	return NULL;
}

static void streaming(void)
{
	unsigned char bytes[100];
	pthread_t thread;
	int seen = 0, bad = 0;

	if (pthread_create(&thread, NULL, thread_streams, NULL))
		die("pthread_create");
	while (seen < STREAM) {
		int got = (int)read(fd, bytes, 1 + (size_t)seen % 97);

		if (got <= 0)
			break;
		for (int i = 0; i < got; i++)
			bad += bytes[i] != (seen + i) % 251;
		seen += got;
	}
	pthread_join(thread, NULL);
	check("stream_length", STREAM, seen);
	check("stream_order", 0, bad);
}

static int was_handled(void *times)
{
	return *handled >= (intptr_t)times;
}

/* Waits for POLLPRI: 0, or 100 and errno. */
static int waits_for_mask(void *argument)
{
	uint32_t mask = POLLPRI | POLLHUP;

	(void)argument;
	if (ioctl(fd, EVENTS_WAIT_MASK, &mask))
		return 100 + errno;
	return (int)mask;
}

static int sleeps(void *argument)
{
	(void)argument;
	return ioctl(fd, EVENTS_SLEEP) < 0 ? 100 + errno : 0;
}

/* A blocked call that gets a signal: EINTR, or it goes on until `wake`. */
static void signals(const char *call, int (*body)(void *), void (*wake)(void), int woken)
{
	unsigned long long interrupted = stats().interrupted;
	char name[64];
	sigset_t set, old;
	pid_t child;
	int status;

#define NAME(text) (snprintf(name, sizeof(name), "%s_%s", call, text), name)
	*handled = 0;
	handle(SIGUSR1, 0);
	child = spawn(body, NULL);
	until_waiting(child, 1);
	kill(child, SIGUSR1);
	check(NAME("is_interrupted"), 100 + EINTR, reap(child));
	check(NAME("handler_ran"), 1, *handled);
	if (!native)
		check(NAME("interruption_is_counted"), interrupted + 1, stats().interrupted);

	handle(SIGUSR1, SA_RESTART);
	child = spawn(body, NULL);
	until_waiting(child, 1);
	kill(child, SIGUSR1);
	check(NAME("handler_runs_at_once"), 1, eventually(was_handled, (void *)2));
	kill(child, SIGUSR1);
	check(NAME("handler_runs_again"), 1, eventually(was_handled, (void *)3));
	until_waiting(child, 1);
	if (wake) {
		wake();
		check(NAME("restarts"), woken, reap(child));
		reset();
	} else {
		kill(child, SIGTERM);
		check(NAME("restarts_and_is_terminated"), 1000 + SIGTERM, reap(child));
	}
	if (wake) {
		/* Signals that reach no handler change nothing. */
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		handle(SIGUSR1, 0);
		sigprocmask(SIG_BLOCK, &set, &old);
		child = spawn(body, NULL);
		sigprocmask(SIG_SETMASK, &old, NULL);
		until_waiting(child, 1);
		kill(child, SIGUSR1);
		kill(child, SIGCHLD);
		kill(child, SIGWINCH);
		kill(child, SIGSTOP);
		waitpid(child, &status, WUNTRACED);
		check(NAME("is_stopped"), 1, WIFSTOPPED(status));
		kill(child, SIGCONT);
		until_waiting(child, 1);
		wake();
		check(NAME("survives_blocked_ignored_and_stop"), woken, reap(child));
		reset();
	}
	child = spawn(body, NULL);
	until_waiting(child, 1);
	kill(child, SIGKILL);
	check(NAME("is_killed"), 1000 + SIGKILL, reap(child));
	if (!native)
		check(NAME("leaves_nobody_waiting"), 1, eventually(count_is, NULL));
}

static void wake_readers(void)
{
	check("wake_readers", 3, write(fd, "abc", 3));
}

static void wake_masks(void)
{
	set_mask(POLLPRI | POLLIN);
}

static void timers(void)
{
	struct itimerval often = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };
	char byte;

	handle(SIGALRM, 0);
	setitimer(ITIMER_REAL, &often, NULL);
	CALL("timer_interrupts_read", EINTR, read(fd, &byte, 1));
	if (!native)
		CALL("timer_interrupts_ioctl", EINTR, ioctl(fd, EVENTS_SLEEP));
	setitimer(ITIMER_REAL, &never, NULL);
	signal(SIGALRM, SIG_DFL);
	alarm(120);
}

static void *thread_sleeps(void *argument)
{
	(void)argument;
	reader_thread = (pid_t)syscall(SYS_gettid);
	return (void *)(intptr_t)(ioctl(fd, EVENTS_SLEEP) < 0 ? errno : 0);
}

/* Others go on while calls wait in the driver. */
static void others(void)
{
	uint32_t mask = POLLPRI;
	pthread_t sleeper[6];
	int bad = 0;
	void *got;

	handle(SIGUSR1, 0);
	for (int i = 0; i < 6; i++)
		if (pthread_create(&sleeper[i], NULL, thread_sleeps, NULL))
			die("pthread_create");
	check("six_threads_wait", 1, eventually(count_is, (void *)6));
	check("others_write", 2, write(fd, "ab", 2));
	check("others_count", 2, ioctl(fd, EVENTS_COUNT));
	fcntl(fd, F_SETFL, O_NONBLOCK);
	CALL("others_wait_nonblocking", EAGAIN, ioctl(fd, EVENTS_WAIT_MASK, &mask));
	fcntl(fd, F_SETFL, 0);
	for (int i = 0; i < 6; i++) {
		pthread_kill(sleeper[i], SIGUSR1);
		pthread_join(sleeper[i], &got);
		bad += (intptr_t)got != EINTR;
	}
	check("each_thread_is_interrupted", 0, bad);
	check("nobody_waits", 0, stats().waiting);
	mask = POLLPRI | POLLOUT;
	CALL("a_mask_that_is_there", 0, ioctl(fd, EVENTS_WAIT_MASK, &mask));
	check("is_answered_at_once", POLLOUT, mask);
	reset();
}

int main(int argc, char **argv)
{
	start();
	native = take_native(&argc, argv);
	if (argc != 2) {
		fprintf(stderr, "usage: events [--native] PATH\n");
		return 2;
	}
	path = argv[1];
	handled = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (native && (mkfifo(path, 0600) && errno != EEXIST))
		die("mkfifo");
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open");
	reset();
	queue();
	if (!native) {
		commands();
		masks();
		beside();
	}
	readiness();
	exceptions();
	wakes();
	blocking();
	streaming();
	signals("read", reads, wake_readers, 3);
	if (!native) {
		signals("wait_mask", waits_for_mask, wake_masks, POLLPRI);
		signals("sleep", sleeps, NULL, 0);
	}
	timers();
	if (!native)
		others();
	close(fd);
	return finish();
}
