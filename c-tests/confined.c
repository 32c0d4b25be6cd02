/* A process under seccomp(2) goes on with the sockets that it has: reading, writing, waiting, closing, ending. Its filter lets pass
 * what such filters let pass - what an engine in the process must do with. Anything else kills it. */
#include "t.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define LET(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

enum { BULK = 3000000 };

/* As sshd's sandbox before authentication, and nothing more. */
static void confine(int by_syscall) {
    static struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        LET(read), LET(write), LET(readv), LET(writev), LET(close), LET(futex), LET(ppoll), LET(pselect6), LET(shutdown),
        LET(clock_gettime), LET(clock_nanosleep), LET(exit), LET(exit_group), LET(getpid), LET(mmap), LET(munmap), LET(mremap),
        LET(madvise), LET(brk), LET(rt_sigprocmask), LET(rt_sigreturn),
#ifdef SYS_poll
        LET(poll), LET(select),
#endif
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    static struct sock_fprog filter = {sizeof program / sizeof *program, program};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (by_syscall)
        MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
    else
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0));
}

/* Echoes what comes in single requests, then sends a lot, then ends. */
static void serve(int s, int kind) {
    char b[4096];
    long n;
    fcntl(s, F_SETFL, kind % 2 ? O_NONBLOCK : 0);
    confine(kind / 2 % 2);
    for (int request = 0; request < 20; request++) {
        struct pollfd p = {s, POLLIN, 0};
        if (kind % 2 && poll(&p, 1, 5000) != 1)
            _exit(10);
        n = read(s, b, sizeof b);
        if (n <= 0)
            _exit(11);
        if (write(s, b, n) != n)
            _exit(12);
    }
    memset(b, 'b', sizeof b);
    for (long left = BULK; left > 0; left -= n) {
        n = write(s, b, left < (long)sizeof b ? left : (long)sizeof b);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {s, POLLOUT, 0};
            if (poll(&p, 1, 5000) != 1)
                _exit(13);
            n = 0;
        } else if (n < 0) {
            _exit(14);
        }
    }
    if (kind / 4 == 1)
        close(s);
    if (kind / 4 == 2) {
        /* The other end goes first. */
        struct pollfd p = {s, POLLIN, 0};
        shutdown(s, SHUT_WR);
        if (poll(&p, 1, 5000) != 1 || read(s, b, sizeof b) != 0)
            _exit(15);
    }
    _exit(7);
}

static void play(int kind, const char *how) {
    int l = listener(4);
    int c = connected_to(l);
    int s = MUST(accept(l, NULL, NULL));
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        close(l);
        close(c);
        serve(s, kind);
    }
    close(s);
    close(l);
    struct timeval tv = {5, 0};
    MUST(setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    char b[4096], text[64];
    int good = 0;
    for (int request = 0; request < 20; request++) {
        int len = sprintf(text, "request %d", request);
        MUST(write(c, text, len));
        if (readn(c, b, len) == len && !memcmp(b, text, len))
            good++;
    }
    long got = 0, n;
    while ((n = read(c, b, sizeof b)) > 0)
        got += n;
    printf("%s: %d answers, then %ld bytes, then %s\n", how, good, got, n == 0 ? "the end" : errname(errno));
    close(c);
    int status;
    MUST(waitpid(child, &status, 0));
    if (WIFEXITED(status))
        printf("%s: exit %d\n", how, WEXITSTATUS(status));
    else
        printf("%s: signal %d\n", how, WTERMSIG(status));
    fflush(stdout);
}

/* Nobody else is there: the parent waits for its child, and drives nothing. */
static void alone(void) {
    int l = listener(4);
    struct sockaddr_in a = ADDR(port_of(l));
    fflush(stdout);
    pid_t peer = MUST(fork());
    if (peer == 0) {
        close(l);
        int c = tcp();
        MUST(connect(c, SA(a)));
        char b[64];
        for (int n = 0; n < 50; n++) {
            if (write(c, "hello", 5) != 5 || read(c, b, sizeof b) != 5)
                _exit(20);
        }
        _exit(0);
    }
    int s = MUST(accept(l, NULL, NULL));
    close(l);
    pid_t child = MUST(fork());
    if (child == 0) {
        char b[64];
        long n, answers = 0;
        confine(0);
        while ((n = read(s, b, sizeof b)) > 0)
            answers += write(s, b, n) == n;
        _exit(n == 0 ? answers : 99);
    }
    close(s);
    int status;
    MUST(waitpid(peer, &status, 0));
    printf("the peer: %#x\n", status);
    MUST(waitpid(child, &status, 0));
    printf("the confined one: exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

/* Another thread waits for the network while this one confines itself: both are served afterwards. */
static void *echoes(void *at) {
    char b[64];
    long n, answers = 0;
    while ((n = read(*(int *)at, b, sizeof b)) > 0)
        answers += write(*(int *)at, b, n) == n;
    return (void *)answers;
}

static void beside_a_driver(void) {
    int l = listener(4), c[2], s[2];
    for (int n = 0; n < 2; n++) {
        c[n] = connected_to(l);
        s[n] = MUST(accept(l, NULL, NULL));
    }
    close(l);
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        pthread_t thread;
        void *others;
        close(c[0]);
        close(c[1]);
        if (pthread_create(&thread, NULL, echoes, &s[1]))
            _exit(98);
        nap(100);
        confine(1);
        long answers = (long)echoes(&s[0]);
        pthread_join(thread, &others);
        _exit(answers * 10 + (long)others);
    }
    close(s[0]);
    close(s[1]);
    nap(200);
    struct timeval tv = {5, 0};
    for (int n = 0; n < 10; n++) {
        char b[64];
        int fd = c[n % 2];
        MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
        if (write(fd, "hello", 5) != 5 || readn(fd, b, 5) != 5)
            printf("no answer to request %d\n", n);
    }
    close(c[0]);
    close(c[1]);
    int status;
    MUST(waitpid(child, &status, 0));
    printf("beside a driver: exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

int main(void) {
    play(0, "prctl, blocking, _exit");
    play(1, "prctl, poll, _exit");
    play(2, "seccomp, blocking, _exit");
    play(3, "seccomp, poll, _exit");
    play(4, "prctl, blocking, close");
    play(5, "prctl, poll, close");
    play(8, "prctl, blocking, shutdown");
    play(9, "prctl, poll, shutdown");
    alone();
    beside_a_driver();
    return 0;
}
