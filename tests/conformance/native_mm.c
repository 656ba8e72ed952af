/*
 * Carries out memory operations on the kernel, for the differential tests of the
 * simulated home. Reads batches from standard input, runs each in a fresh process on an
 * empty window of addresses, and answers with what every operation gave.
 *
 * On its start it says the size of a page, and whether all of a process's memory may be
 * locked. A batch is a count, and that many struct op. The answer to each is a struct answer
 * and its bytes. Addresses are relative to the window. Process 0 is the fresh one; a
 * fork makes the process that the operation names.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAP, UNMAP, PROTECT, REMAP, SYNC, ADVISE, MINCORE, LOCK, UNLOCK, LOAD, STORE, FORK,
       EXIT, TRUNCATE, MAPS, CONTENTS, LOCK_ALL };
enum { PROCESSES = 4, FILES = 3, MOST_BYTES = 1 << 16 };

struct op {
    uint64_t kind, process, address, len, x, y, z;
};

struct answer {
    int64_t result;
    uint64_t len;
};

static uint64_t window = 0x100000000000, window_len;
static uint64_t file_pages[2];
static int files[FILES];
static int channels[PROCESSES][2];
static char bytes[MOST_BYTES];

static void die(const char *what)
{
    perror(what);
    _exit(1);
}

static int read_all(int fd, void *to, size_t len)
{
    char *at = to;

    while (len > 0) {
        ssize_t count = read(fd, at, len);

        if (count <= 0)
            return 0;
        at += count;
        len -= count;
    }
    return 1;
}

static void write_all(int fd, const void *from, size_t len)
{
    const char *at = from;

    while (len > 0) {
        ssize_t count = write(fd, at, len);

        if (count <= 0)
            die("write");
        at += count;
        len -= count;
    }
}

static sigjmp_buf landing;
static volatile int cause;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)context;
    cause = sig == SIGBUS ? 1003 : info->si_code == SEGV_MAPERR ? 1001 : 1002;
    siglongjmp(landing, 1);
}

/* 0, or what the access would have died of. */
static int64_t load(uint64_t address, void *to, size_t len)
{
    if (sigsetjmp(landing, 0))
        return -cause;
    for (size_t i = 0; i < len; i++)
        ((char *)to)[i] = ((volatile char *)address)[i];
    return 0;
}

static int64_t load_words(uint64_t address, uint64_t *to, size_t count)
{
    if (sigsetjmp(landing, 0))
        return -cause;
    for (size_t i = 0; i < count; i++)
        to[i] = ((volatile uint64_t *)address)[i];
    return 0;
}

static int64_t store(uint64_t address, uint64_t value, size_t len)
{
    if (sigsetjmp(landing, 0))
        return -cause;
    for (size_t i = 0; i < len; i++)
        ((volatile char *)address)[i] = value >> (8 * (i % 8));
    return 0;
}

/* Every page of the window: what a load of it gives, and a sum of its words. */
static uint64_t contents(void)
{
    uint64_t page = sysconf(_SC_PAGESIZE), sum = 0;
    static uint64_t words[1 << 13];

    for (uint64_t at = 0; at < window_len; at += page) {
        int64_t result = load_words(window + at, words, page / 8);

        sum = (sum ^ (uint64_t)result) * 0x100000001b3;
        if (result == 0)
            for (uint64_t i = 0; i < page / 8; i++)
                sum = (sum ^ words[i]) * 0x100000001b3;
    }
    return sum;
}

/* The lines of /proc/self/maps that lie in the window. */
static size_t maps(void)
{
    static char text[1 << 17];
    size_t len = 0, used = 0;
    int fd = open("/proc/self/maps", O_RDONLY);

    for (;;) {
        ssize_t count = read(fd, text + len, sizeof(text) - 1 - len);

        if (count <= 0)
            break;
        len += count;
    }
    close(fd);
    text[len] = 0;
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n') + 1;
        uint64_t start = strtoull(line, NULL, 16);

        if (start >= window && start < window + window_len) {
            memcpy(bytes + used, line, end - line);
            used += end - line;
        }
        line = end;
    }
    return used;
}

static int64_t result_of(long value)
{
    return value == -1 ? -errno : value;
}

/* Where a map came to lie in the window. One that was put elsewhere is undone. */
static int64_t place(int64_t at, uint64_t len)
{
    if (at < 0)
        return at;
    if ((uint64_t)at >= window && (uint64_t)at < window + window_len)
        return at - (int64_t)window;
    munmap((void *)at, len);
    return -2000;
}

static void serve(int channel);

static struct answer run(const struct op *op)
{
    uint64_t address = window + op->address;
    struct answer answer = { 0, 0 };

    switch (op->kind) {
    case MAP: {
        int index = op->y >> 32;
        int64_t at = result_of(syscall(SYS_mmap, address, op->len, op->x,
                                       op->y & 0xffffffff,
                                       index < FILES ? files[index] : -1, op->z));
        answer.result = place(at, op->len);
        break;
    }
    case UNMAP:
        answer.result = result_of(syscall(SYS_munmap, address, op->len));
        break;
    case PROTECT:
        answer.result = result_of(syscall(SYS_mprotect, address, op->len, op->x));
        break;
    case REMAP: {
        int64_t at = result_of(syscall(SYS_mremap, address, op->len, op->x, op->y,
                                       window + op->z));
        answer.result = place(at, op->x);
        break;
    }
    case SYNC:
        answer.result = result_of(syscall(SYS_msync, address, op->len, op->x));
        break;
    case ADVISE:
        answer.result = result_of(syscall(SYS_madvise, address, op->len, op->x));
        break;
    case MINCORE: {
        uint64_t page = sysconf(_SC_PAGESIZE);

        answer.result = result_of(syscall(SYS_mincore, address, op->len, bytes));
        if (answer.result == 0)
            answer.len = (op->len + page - 1) / page;
        break;
    }
    case LOCK:
        answer.result = result_of(op->x ? syscall(SYS_mlock2, address, op->len, MLOCK_ONFAULT)
                                        : syscall(SYS_mlock, address, op->len));
        break;
    case LOCK_ALL:
        answer.result = result_of(op->x ? mlockall(op->x) : munlockall());
        break;
    case UNLOCK:
        answer.result = result_of(syscall(SYS_munlock, address, op->len));
        break;
    case LOAD:
        answer.result = load(address, bytes, op->len);
        answer.len = answer.result == 0 ? op->len : 0;
        break;
    case STORE:
        answer.result = store(address, op->x, op->len);
        break;
    case FORK: {
        pid_t child = fork();

        if (child < 0)
            die("fork");
        if (child == 0) {
            /* So that every channel ends with process 0. */
            for (int i = 1; i < PROCESSES; i++)
                close(channels[i][0]);
            serve(channels[op->x][1]);
        }
        break;
    }
    case TRUNCATE:
        answer.result = result_of(ftruncate(files[op->x], op->len));
        break;
    case MAPS:
        answer.len = maps();
        break;
    case CONTENTS:
        answer.len = 8;
        *(uint64_t *)bytes = contents();
        break;
    }
    return answer;
}

static void reply(int fd, struct answer answer)
{
    write_all(fd, &answer, sizeof(answer));
    write_all(fd, bytes, answer.len);
}

/* A process that was forked: operations until the channel ends. */
static void serve(int channel)
{
    struct op op;

    while (read_all(channel, &op, sizeof(op))) {
        if (op.kind == EXIT) {
            reply(channel, (struct answer){ 0, 0 });
            break;
        }
        reply(channel, run(&op));
    }
    _exit(0);
}

static int memory_file(const char *name, uint64_t size)
{
    int fd = memfd_create(name, 0);

    if (fd < 0 || ftruncate(fd, size))
        die("memfd");
    return fd;
}

static void batch(const struct op *ops, uint64_t count)
{
    static char out[1 << 16];
    char path[64];
    uint64_t page = sysconf(_SC_PAGESIZE);

    setvbuf(stdout, out, _IOFBF, sizeof(out));
    files[0] = memory_file("a", file_pages[0] * page);
    files[1] = memory_file("b", file_pages[1] * page - page / 2);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", files[0]);
    files[2] = open(path, O_RDONLY);
    for (int i = 1; i < PROCESSES; i++)
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, channels[i]))
            die("socketpair");
    for (uint64_t i = 0; i < count; i++) {
        const struct op *op = &ops[i];
        struct answer answer;

        if (op->process == 0) {
            answer = run(op);
        } else {
            int channel = channels[op->process][0];

            write_all(channel, op, sizeof(*op));
            if (!read_all(channel, &answer, sizeof(answer)) ||
                !read_all(channel, bytes, answer.len))
                die("a child ended");
        }
        fwrite(&answer, sizeof(answer), 1, stdout);
        fwrite(bytes, 1, answer.len, stdout);
    }
    fflush(stdout);
    _exit(0);
}

/* argv: pages of the window, of file a, of file b. */
int main(int argc, char **argv)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    uint64_t page = sysconf(_SC_PAGESIZE), locks = mlockall(MCL_CURRENT) == 0, count;

    munlockall();
    if (argc != 4)
        return 2;
    window_len = strtoull(argv[1], NULL, 10) * page;
    file_pages[0] = strtoull(argv[2], NULL, 10);
    file_pages[1] = strtoull(argv[3], NULL, 10);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    write_all(1, &page, sizeof(page));
    write_all(1, &locks, sizeof(locks));
    while (read_all(0, &count, sizeof(count))) {
        struct op *ops = calloc(count, sizeof(*ops));

        if (!ops || !read_all(0, ops, count * sizeof(*ops)))
            return 1;
        pid_t child = fork();
        if (child == 0)
            batch(ops, count);
        int status;
        while (wait(&status) > 0)
            ;
        free(ops);
    }
    return 0;
}
