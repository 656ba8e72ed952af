/* Part of events.c: devices that are waited for beside other descriptors. */

/* An empty pipe, and one with something in it. */
static int quiet[2], ready[2];

static long by_poll_beside(uint32_t mask)
{
	struct pollfd all[] = {
		{ .fd = ready[0], .events = POLLIN },
		{ .fd = fd, .events = POLLIN | POLLPRI | POLLOUT },
		{ .fd = quiet[0], .events = POLLIN },
	};

	return poll(all, 3, 0) != 1 + (mask != 0) || all[0].revents != POLLIN ||
	       (uint32_t)all[1].revents != mask || all[2].revents != 0;
}

static long by_select_beside(uint32_t mask, fd_set *exceptions)
{
	int low = fcntl(fd, F_DUPFD, 0), last = low > ready[0] ? low : ready[0], count = 1;
	struct timeval now = { 0, 0 };
	fd_set readers, writers;
	long bad;

	FD_ZERO(&readers);
	FD_SET(low, &readers);
	FD_SET(ready[0], &readers);
	FD_SET(quiet[0], &readers);
	FD_ZERO(&writers);
	FD_SET(low, &writers);
	if (exceptions)
		*exceptions = writers;
	count += !!(mask & (POLLIN | POLLHUP | POLLERR));
	count += !!(mask & (POLLOUT | POLLERR)) + (exceptions && mask & POLLPRI);
	bad = select(last + 1, &readers, &writers, exceptions, &now) != count;
	bad += !FD_ISSET(ready[0], &readers) || FD_ISSET(quiet[0], &readers);
	bad += !!FD_ISSET(low, &readers) != !!(mask & (POLLIN | POLLHUP | POLLERR));
	bad += !!FD_ISSET(low, &writers) != !!(mask & (POLLOUT | POLLERR));
	bad += exceptions && !!FD_ISSET(low, exceptions) != !!(mask & POLLPRI);
	close(low);
	return bad;
}

/* How many events of `epoll`; those of the device in `events`. */
static int epoll_now(int epoll, int timeout, uint32_t *events)
{
	struct epoll_event found[4];
	int count = epoll_wait(epoll, found, 4, timeout);

	*events = 0;
	for (int i = 0; i < count; i++)
		if (found[i].data.fd == fd)
			*events = found[i].events;
	return count;
}

static void add(int epoll, int what, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = what };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, what, &event))
		die("epoll_ctl");
}

static long by_epoll_beside(int epoll, uint32_t mask)
{
	uint32_t events;

	return epoll_now(epoll, 0, &events) != 1 + (mask != 0) || events != mask;
}

/* Waits for exceptions of the device, and for the empty pipe: what the device said. */
static int waits_beside(void *argument)
{
	struct pollfd both[] = {
		{ .fd = quiet[0], .events = POLLIN },
		{ .fd = fd, .events = POLLPRI },
	};
	uint32_t events = EPOLLPRI;
	int low, epoll, last;
	fd_set readers, others;
	sigset_t none;

	sigemptyset(&none);
	switch ((enum how)(intptr_t)argument) {
	case BY_POLL:
		return poll(both, 2, -1) == 1 ? both[1].revents : 100;
	case BY_PPOLL:
		return ppoll(both, 2, &(struct timespec){ 1000, 0 }, &none) == 1 ?
			       both[1].revents :
			       100;
	case BY_SELECT_ALL:
	case BY_PSELECT_ALL:
		low = fcntl(fd, F_DUPFD, 0);
		last = low > quiet[0] ? low : quiet[0];
		FD_ZERO(&readers);
		FD_SET(quiet[0], &readers);
		FD_ZERO(&others);
		FD_SET(low, &others);
		if ((intptr_t)argument == BY_SELECT_ALL)
			select(last + 1, &readers, NULL, &others, NULL);
		else
			pselect(last + 1, &readers, NULL, &others, NULL, &none);
		close(low);
		if (FD_ISSET(quiet[0], &readers))
			return 100;
		return FD_ISSET(low, &others) ? POLLPRI : 101;
	default:
		epoll = epoll_create1(0);
		add(epoll, quiet[0], EPOLLIN);
		add(epoll, fd, (intptr_t)argument == BY_EPOLL ? events : events | EPOLLET);
		last = epoll_now(epoll, -1, &events);
		close(epoll);
		return last == 1 ? (int)events : 100;
	}
}

static void *epoll_thread(void *epoll)
{
	uint32_t events;

	reader_thread = (pid_t)syscall(SYS_gettid);
	return (void *)(intptr_t)(epoll_now((int)(intptr_t)epoll, -1, &events) == 1 ?
					  (long)events :
					  -1);
}

/* What is told of changes, and what is told once. */
static void edges_beside(void)
{
	struct epoll_event event = { .events = EPOLLPRI | EPOLLONESHOT, .data.fd = fd };
	int epoll = epoll_create1(0);
	uint32_t events;
	pthread_t thread;
	void *got;

	set_mask(0);
	add(epoll, quiet[0], EPOLLIN);
	add(epoll, fd, EPOLLPRI | EPOLLET);
	check("edge_beside_empty", 0, epoll_now(epoll, 0, &events));
	set_mask(POLLPRI);
	check("edge_beside", 1, epoll_now(epoll, -1, &events));
	check("edge_beside_events", EPOLLPRI, events);
	check("edge_beside_once", 0, epoll_now(epoll, 20, &events));
	set_mask(POLLPRI | POLLHUP);
	check("edge_beside_again", 1, epoll_now(epoll, -1, &events));
	check("edge_beside_more_events", EPOLLPRI | EPOLLHUP, events);
	CALL("oneshot_beside", 0, epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
	check("oneshot_beside_ready", 1, epoll_now(epoll, -1, &events));
	set_mask(POLLPRI);
	check("oneshot_beside_over", 0, epoll_now(epoll, 20, &events));
	CALL("oneshot_beside_anew", 0, epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
	check("oneshot_beside_ready_again", 1, epoll_now(epoll, -1, &events));
	CALL("delete_beside", 0, epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
	check("delete_beside_empty", 0, epoll_now(epoll, 0, &events));
	reader_thread = 0;
	if (pthread_create(&thread, NULL, epoll_thread, (void *)(intptr_t)epoll))
		die("pthread_create");
	eventually(thread_began, NULL);
	until_polling(reader_thread);
	add(epoll, fd, EPOLLPRI);
	pthread_join(thread, &got);
	check("added_while_a_thread_waits", EPOLLPRI, (intptr_t)got);
	close(epoll);
	reset();
}

static const enum how hows_of_threads[] = { BY_POLL, BY_PSELECT_ALL, BY_EPOLL };
#define THREADS 3
#define ROUNDS 300

static struct {
	/* The change that is waited for, and the last that each thread has heard of. */
	int round, heard[THREADS];
} turns;

static int all_heard(void *round)
{
	for (int i = 0; i < THREADS; i++)
		if (__atomic_load_n(&turns.heard[i], __ATOMIC_SEQ_CST) != *(int *)round)
			return 0;
	return 1;
}

static void *hears_rounds(void *which)
{
	long bad = 0;

	for (int round = 1; round <= ROUNDS; round++) {
		bad += waits_beside((void *)(intptr_t)hows_of_threads[(intptr_t)which]) != POLLPRI;
		__atomic_store_n(&turns.heard[(intptr_t)which], round, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&turns.round, __ATOMIC_SEQ_CST) == round)
			usleep(10);
	}
	return (void *)bad;
}

/* Nobody misses a change, whenever it comes. */
static void rounds_beside(void)
{
	pthread_t threads[THREADS];
	long bad = 0;
	void *got;

	set_mask(0);
	turns.round = 1;
	for (intptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, hears_rounds, (void *)i))
			die("pthread_create");
	for (int round = 1; round <= ROUNDS; round++) {
		usleep((useconds_t)(round * 37 % 200));
		set_mask(POLLPRI);
		if (!eventually(all_heard, &round)) {
			check("a_change_is_heard", ROUNDS, round);
			die("a thread waits on");
		}
		set_mask(0);
		__atomic_store_n(&turns.round, round + 1, __ATOMIC_SEQ_CST);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &got);
		bad += (intptr_t)got;
	}
	check("each_change_is_heard", 0, bad);
	reset();
}

/* A stack as small as a coroutine's may be, and what lies below it. */
static unsigned char arena[1 << 16] __attribute__((aligned(4096)));
static ucontext_t whole, small;
static struct pollfd asked[2];
static long said;

static void asks_on_a_small_stack(void)
{
	said = poll(asked, 2, 0);
}

/* How many bytes of the arena a call has left alone. */
static size_t untouched_by(struct pollfd first, struct pollfd second)
{
	size_t count = 0;

	asked[0] = first;
	asked[1] = second;
	memset(arena, 0xab, sizeof(arena));
	getcontext(&small);
	small.uc_stack.ss_sp = arena;
	small.uc_stack.ss_size = sizeof(arena);
	small.uc_link = &whole;
	makecontext(&small, asks_on_a_small_stack, 0);
	swapcontext(&whole, &small);
	while (arena[count] == 0xab)
		count++;
	return count;
}

/* Nothing below the stack of who asks is changed. */
static void below_the_stack(void)
{
	struct pollfd device = { .fd = fd, .events = POLLPRI };
	struct pollfd pipe = { .fd = ready[0], .events = POLLIN }, none = { .fd = -1 };
	size_t plainly;

	set_mask(POLLPRI);
	/* The first call may have the linker look for it. */
	untouched_by(none, none);
	plainly = untouched_by(none, none);
	check("nothing_below_the_stack_changes", 0, plainly > untouched_by(device, pipe));
	check("both_are_ready", 2, said);
	reset();
}

/* A call, and others that do the same. */
static const int kinds[][3] = {
#ifdef SYS_poll
	{ SYS_poll, SYS_ppoll, -1 },
	{ SYS_select, SYS_pselect6, -1 },
	{ SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2 },
#endif
	{ SYS_epoll_pwait2, SYS_epoll_pwait, -1 },
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

/* Waits under a filter of its own that permits the call and not the others. */
static int waits_under_a_filter(void *argument)
{
	const int *kind = kinds[(uintptr_t)argument];
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };
	struct pollfd both[] = { { .fd = quiet[0], .events = POLLIN },
				 { .fd = fd, .events = POLLPRI } };
	struct epoll_event found[2];
	int epoll = epoll_create1(0), low = fcntl(fd, F_DUPFD, 0);
	struct timespec minutes = { 1000, 0 };
	fd_set readers, others;

	add(epoll, quiet[0], EPOLLIN);
	add(epoll, fd, EPOLLPRI);
	FD_ZERO(&readers);
	FD_SET(quiet[0], &readers);
	FD_ZERO(&others);
	FD_SET(low, &others);
	filter[1].k = (uint32_t)kind[1];
	filter[2].k = (uint32_t)kind[2];
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("PR_SET_SECCOMP");
	switch (*kind) {
#ifdef SYS_poll
	case SYS_poll:
		return syscall(SYS_poll, both, 2, -1) != 1 || both[1].revents != POLLPRI;
	case SYS_select:
		return syscall(SYS_select, (low > quiet[0] ? low : quiet[0]) + 1, &readers, NULL,
			       &others, NULL) != 1 ||
		       !FD_ISSET(low, &others);
	case SYS_epoll_wait:
		return syscall(SYS_epoll_wait, epoll, found, 2, -1) != 1 ||
		       found[0].events != EPOLLPRI;
#endif
	default:
		return syscall(SYS_epoll_pwait2, epoll, found, 2, &minutes, NULL, 0) != 1 ||
		       found[0].events != EPOLLPRI;
	}
}

static void under_a_filter(void)
{
	pid_t child;
	int bad = 0;

	for (uintptr_t kind = 0; kind < KINDS; kind++) {
		set_mask(0);
		child = spawn(waits_under_a_filter, (void *)kind);
		until_polling(child);
		set_mask(POLLPRI);
		bad += reap(child);
	}
	check("a_filter_sees_the_call_itself", 0, bad);
	reset();
}

static int waits_for_seconds(void *unused)
{
	struct pollfd device = { .fd = fd, .events = POLLPRI };

	(void)unused;
	return poll(&device, 1, 3000);
}

/* Who is stopped again and again waits no longer for that. */
static void stops(void)
{
	double end = seconds() + 60;
	int status = 0;
	pid_t child;

	set_mask(0);
	child = spawn(waits_for_seconds, NULL);
	do {
		usleep(50000);
		kill(child, SIGSTOP);
		if (waitpid(child, &status, WUNTRACED) != child)
			die("waitpid");
		kill(child, SIGCONT);
	} while (WIFSTOPPED(status) && seconds() < end);
	if (WIFSTOPPED(status)) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
	check("stops_do_not_lengthen_a_wait", 0, status);
	reset();
}

static void beside(void)
{
	static const enum how hows[] = { BY_POLL,	 BY_PPOLL, BY_SELECT_ALL,
					 BY_PSELECT_ALL, BY_EPOLL, BY_EPOLL_EDGE };
	fd_set others;
	long by_poll = 0, by_select = 0, by_epoll = 0;
	int epoll = epoll_create1(0);
	char name[64];
	pid_t child;

	if (pipe(quiet) || pipe(ready) || write(ready[1], "x", 1) != 1)
		die("pipe");
	add(epoll, fd, EPOLLIN | EPOLLPRI | EPOLLOUT);
	add(epoll, quiet[0], EPOLLIN);
	add(epoll, ready[0], EPOLLIN);
	for (uint32_t mask = 0; mask <= ALL; mask++) {
		set_mask(mask);
		by_poll += by_poll_beside(mask);
		by_select += by_select_beside(mask, &others) + by_select_beside(mask, NULL);
		by_epoll += by_epoll_beside(epoll, mask);
	}
	check("masks_by_poll_beside", 0, by_poll);
	check("masks_by_select_beside", 0, by_select);
	check("masks_by_epoll_beside", 0, by_epoll);
	close(epoll);
	for (size_t i = 0; i < sizeof(hows) / sizeof(*hows); i++) {
		set_mask(0);
		child = spawn(waits_beside, (void *)(intptr_t)hows[i]);
		until_polling(child);
		set_mask(POLLPRI);
		snprintf(name, sizeof(name), "%s_beside_is_woken", ways[hows[i]]);
		check(name, POLLPRI, reap(child));
		set_mask(0);
		child = spawn(waits_beside, (void *)(intptr_t)hows[i]);
		until_polling(child);
		check("beside_pipe_write", 1, write(quiet[1], "q", 1));
		snprintf(name, sizeof(name), "%s_beside_hears_others", ways[hows[i]]);
		check(name, hows[i] == BY_SELECT_ALL || hows[i] == BY_PSELECT_ALL ? 100 : 0,
		      reap(child));
		check("beside_pipe_read", 1, read(quiet[0], name, 1));
	}
	edges_beside();
	rounds_beside();
	below_the_stack();
	under_a_filter();
	stops();
	close(quiet[0]);
	close(quiet[1]);
	close(ready[0]);
	close(ready[1]);
}
