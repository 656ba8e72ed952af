/* Part of events.c: calls of select that ask for exceptions. */

static int waits_for_an_exception(void *argument)
{
	int low = fcntl(fd, F_DUPFD, 0);
	fd_set others;

	(void)argument;
	FD_ZERO(&others);
	FD_SET(low, &others);
	if (select(low + 1, NULL, NULL, &others, NULL) != 1)
		return 100 + errno;
	return FD_ISSET(low, &others) ? 1 : 2;
}

/* Calls of select that ask for exceptions: sets, times and what is wrong. */
static void exceptions(void)
{
	int low = fcntl(fd, F_DUPFD, 0), ends[2];
	struct timeval left = { 0, 1000 }, wrong = { -1, 0 };
	struct timespec wrong_too = { 0, 1000000000 };
	sigset_t none;
	fd_set readers, others;
	pid_t child;

	sigemptyset(&none);
	FD_ZERO(&others);
	FD_SET(low, &others);
	check("exception_in_time", 0, select(low + 1, NULL, NULL, &others, &left));
	check("exception_not_set", 0, !!FD_ISSET(low, &others));
	check("no_time_is_left", 0, left.tv_sec * 1000000 + left.tv_usec);
	FD_SET(low, &others);
	left = (struct timeval){ 0, 1000000 };
	check("exception_write", 1, write(fd, "e", 1));
	readers = others;
	check("read_beside_exception", 1, select(low + 1, &readers, NULL, &others, &left));
	check("read_is_set", 1, !!FD_ISSET(low, &readers));
	check("exception_is_not_set", 0, !!FD_ISSET(low, &others));
	left = (struct timeval){ 1000, 0 };
	select(low + 1, &readers, NULL, &others, &left);
	check("time_is_left", 1, left.tv_sec > 0 && left.tv_sec < 1000);
	FD_SET(low, &others);
	CALL("negative_time", EINVAL, select(low + 1, NULL, NULL, &others, &wrong));
	CALL("time_of_too_many_ns", EINVAL, pselect(low + 1, NULL, NULL, &others, &wrong_too, NULL));
	CALL("exceptions_nowhere", EFAULT,
	     syscall(SYS_pselect6, low + 1, NULL, NULL, (void *)8, NULL, NULL));
	CALL("time_nowhere", EFAULT,
	     syscall(SYS_pselect6, low + 1, NULL, NULL, &others, (void *)8, NULL));
	CALL("negative_count", EINVAL, select(-1, NULL, NULL, &others, NULL));
	check("count_ends_before", 0, select(low, NULL, NULL, &others, &(struct timeval){ 0, 0 }));
	FD_SET(low, &others);
	readers = others;
	check("with_a_signal_mask", 1, pselect(low + 1, &readers, NULL, &others, NULL, &none));
	if (pipe(ends))
		die("pipe");
	FD_ZERO(&readers);
	FD_ZERO(&others);
	FD_SET(ends[0], &readers);
	FD_SET(low, &others);
	check("exception_pipe_write", 1, write(ends[1], "p", 1));
	check("a_pipe_beside_it", 1,
	      select((low > ends[0] ? low : ends[0]) + 1, &readers, NULL, &others, NULL));
	check("the_pipe_is_set", 1, !!FD_ISSET(ends[0], &readers));
	close(ends[0]);
	close(ends[1]);
	close(low);
	FD_ZERO(&others);
	FD_SET(low, &others);
	CALL("select_closed", EBADF, select(low + 1, NULL, NULL, &others, NULL));
	reset();
	if (!native) {
		set_mask(0);
		child = spawn(waits_for_an_exception, NULL);
		until_polling(child);
		set_mask(POLLIN | POLLPRI);
		check("an_exception_wakes", 1, reap(child));
		reset();
	}
}
