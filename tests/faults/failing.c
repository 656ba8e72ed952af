/* failing TASK CALL PROGRAM [ARG]...: runs a program, and has one system call of one of its
 * tasks (processes and threads, counted from 0 as they begin) fail, without being made. What a
 * task executes is left alone; the calls of the first one are counted from the `poll` on, with
 * which a Rust program begins. With "count" for TASK, none fails.
 *
 * Ends as the program does. Descriptor 9 gets a line for each task, "TASK CALLS", and one for
 * the call that failed, "failed NUMBER". */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 512
#define LOG 9

static struct task {
	pid_t tid;
	long calls;
	int counts, inside, fails, started; /* fails: with this errno */
} tasks[MOST];
static int count;

/* What the call may fail with on a machine that is out of something; 0 for one that does not
 * fail, or only with who it is about. */
static int plausible(const struct user_regs_struct *registers, long turn)
{
	switch (registers->orig_rax) {
	case SYS_exit: case SYS_exit_group: case SYS_rt_sigreturn: case SYS_restart_syscall:
	case SYS_getpid: case SYS_gettid: case SYS_getuid: case SYS_geteuid: case SYS_getgid:
	case SYS_getegid: case SYS_getppid: case SYS_uname: case SYS_prlimit64: case SYS_getrlimit:
	case SYS_rt_sigaction: case SYS_rt_sigprocmask: case SYS_sigaltstack: case SYS_munmap:
	case SYS_wait4: case SYS_waitid: case SYS_futex: case SYS_sched_yield: case SYS_tgkill:
	case SYS_sched_getaffinity: case SYS_set_robust_list: case SYS_rseq: case SYS_kill:
	case SYS_clock_nanosleep: case SYS_set_tid_address: case SYS_brk: case SYS_lseek:
	case SYS_getrandom: case SYS_arch_prctl: case SYS_getsid: case SYS_getpgid: case SYS_setpgid: case SYS_madvise:
		return 0;
	case SYS_ptrace:
		return registers->rdi == PTRACE_SEIZE ? EPERM : 0;
	case SYS_close: /* it is closed, whatever it answers */
		return 0;
	case SYS_ioctl: case SYS_poll: case SYS_ppoll: case SYS_epoll_wait:
		return EINTR;
	case SYS_open: case SYS_openat: case SYS_dup: case SYS_dup2: case SYS_dup3: case SYS_pipe2:
	case SYS_socketpair: case SYS_eventfd2: case SYS_epoll_create1: case SYS_memfd_create:
	case SYS_pidfd_open: case SYS_pidfd_getfd: case SYS_inotify_init1:
		return turn % 2 ? EMFILE : ENOMEM;
	case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork:
		return EAGAIN;
	case SYS_mmap: case SYS_mprotect: case SYS_mremap: case SYS_mlock:
		return ENOMEM;
	default:
		return turn % 3 == 0 ? EIO : turn % 3 == 1 ? ENOMEM : EPERM;
	}
}

static struct task *task_of(pid_t tid)
{
	for (int i = 0; i < count; i++)
		if (tasks[i].tid == tid)
			return &tasks[i];
	if (count == MOST)
		exit(98);
	tasks[count] = (struct task){ .tid = tid, .counts = count > 0 };
	return &tasks[count++];
}

static void call(struct task *task, long which, long at)
{
	int number;

	struct user_regs_struct registers;

	if (ptrace(PTRACE_GETREGS, task->tid, NULL, &registers))
		return;
	task->inside = !task->inside;
	if (!task->inside && task->fails) {
		registers.rax = (unsigned long long)-task->fails;
		ptrace(PTRACE_SETREGS, task->tid, NULL, &registers);
		task->fails = 0;
	}
	if (!task->inside)
		return;
	task->counts |= registers.orig_rax == SYS_poll;
	if (!task->counts)
		return;
	number = plausible(&registers, task->calls);
	if (!number)
		return;
	if (task - tasks == which && task->calls == at) {
		dprintf(LOG, "failed %lld %s\n", registers.orig_rax, strerrorname_np(number));
		registers.orig_rax = (unsigned long long)-1;
		ptrace(PTRACE_SETREGS, task->tid, NULL, &registers);
		task->fails = number;
	}
	task->calls++;
}

int main(int argc, char **argv)
{
	long which, at;
	int status, result = 97;
	pid_t first, tid;

	if (argc < 4) {
		fprintf(stderr, "usage: failing TASK|count CALL PROGRAM [ARG]...\n");
		return 2;
	}
	which = strcmp(argv[1], "count") ? atol(argv[1]) : -1;
	at = atol(argv[2]);
	first = fork();
	if (first == 0) {
		close(LOG);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		execvp(argv[3], argv + 3);
		_exit(96);
	}
	waitpid(first, &status, 0);
	task_of(first)->started = 1;
	ptrace(PTRACE_SETOPTIONS, first, NULL,
	       PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
	       PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
	ptrace(PTRACE_SYSCALL, first, NULL, NULL);
	while ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		struct task *task;
		int signal, event;

		if (tid <= 0)
			continue;
		if (!WIFSTOPPED(status)) {
			if (tid == first)
				result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		task = task_of(tid);
		signal = WSTOPSIG(status);
		event = status >> 16;
		if (event == PTRACE_EVENT_EXEC && tid != first) {
			/* The program: not devmap's. */
			ptrace(PTRACE_DETACH, tid, NULL, NULL);
			continue;
		}
		if (signal == (SIGTRAP | 0x80)) {
			call(task, which, at);
			signal = 0;
		} else if (event || (signal == SIGSTOP && !task->started)) {
			signal = 0;
		}
		task->started = 1;
		ptrace(PTRACE_SYSCALL, tid, NULL, signal);
	}
	for (int i = 0; i < count; i++)
		dprintf(LOG, "%d %ld\n", i, tasks[i].calls);
	return result;
}
