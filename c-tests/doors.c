/* The other doors to the same calls: syscall(2), the reserved names, what _FORTIFY_SOURCE makes of a call; sockets that are
 * passed to another process in a message. */
#include "t.h"
#include <linux/sched.h>
#include <sys/syscall.h>
#include <sys/mman.h>

extern ssize_t __read(int, void *, size_t), __write(int, const void *, size_t), __send(int, const void *, size_t, int);
extern int __close(int), __connect(int, const struct sockaddr *, socklen_t), __dup2(int, int), __fcntl(int, int, ...);
extern int __poll(struct pollfd *, nfds_t, int), __select(int, fd_set *, fd_set *, fd_set *, struct timeval *);
extern pid_t __fork(void);
extern ssize_t __read_chk(int, void *, size_t, size_t), __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

static void by_number(void) {
    struct sockaddr_in a = ADDR(0), got, named;
    socklen_t len = sizeof a;
    char b[64] = "";
    int l = MUST(syscall(SYS_socket, DOMAIN, SOCK_STREAM, 0));
    SAY("bind", syscall(SYS_bind, l, &a, sizeof a));
    SAY("listen", syscall(SYS_listen, l, 5));
    SAY("getsockname", syscall(SYS_getsockname, l, &a, &len));
    named = a;
    int c = MUST(syscall(SYS_socket, DOMAIN, SOCK_STREAM, 0));
    SAY("connect", syscall(SYS_connect, c, &a, sizeof a));
    len = sizeof got;
    SAY("getpeername", syscall(SYS_getpeername, c, &got, &len));
    printf("the same port %d\n", got.sin_port == a.sin_port);
    len = sizeof a;
    int s = SAYFD("accept4", syscall(SYS_accept4, l, &a, &len, SOCK_CLOEXEC));
    len = sizeof got;
    SAY("getsockname", syscall(SYS_getsockname, c, &got, &len));
    printf("the same port %d\n", got.sin_port && got.sin_port == a.sin_port);
    SAY("sendto", syscall(SYS_sendto, c, "hello", 5, 0, NULL, 0));
    SAY("recvfrom", syscall(SYS_recvfrom, s, b, 64, 0, NULL, NULL));
    SAY("write", syscall(SYS_write, s, "back", 4));
    SAY("read", syscall(SYS_read, c, b, 64));
    struct iovec v = {b, 3};
    SAY("writev", syscall(SYS_writev, c, &v, 1));
    SAY("readv", syscall(SYS_readv, s, &v, 1));
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    SAY("sendmsg", syscall(SYS_sendmsg, c, &m, 0));
    SAY("recvmsg", syscall(SYS_recvmsg, s, &m, 0));
    struct mmsghdr mm = {.msg_hdr = m};
    SAY("sendmmsg", syscall(SYS_sendmmsg, c, &mm, 1, 0));
    SAY("recvmmsg", syscall(SYS_recvmmsg, s, &mm, 1, 0, NULL));
    SAY("pwritev2", syscall(SYS_pwritev2, c, &v, 1, -1L, -1L, 0));
    SAY("preadv2", syscall(SYS_preadv2, s, &v, 1, -1L, -1L, 0));
    int n = 1, file = MUST(memfd_create("file", 0));
    MUST(write(file, "of a file", 9));
    off_t at = 3;
    SAY("sendfile", syscall(SYS_sendfile, c, file, &at, 6));
    SAY("read", syscall(SYS_recvfrom, s, b, 6, MSG_WAITALL, NULL, NULL));
    printf("%.6s\n", b);
    int fds[2];
    MUST(pipe(fds));
    MUST(write(fds[1], "through a pipe", 14));
    SAY("splice", syscall(SYS_splice, fds[0], NULL, c, NULL, 100, 0));
    SAY("read", syscall(SYS_recvfrom, s, b, 14, MSG_WAITALL, NULL, NULL));
    printf("%.14s\n", b);
    SAY("setsockopt", syscall(SYS_setsockopt, c, IPPROTO_TCP, TCP_NODELAY, &n, sizeof n));
    n = 0, len = sizeof n;
    SAY("getsockopt", syscall(SYS_getsockopt, c, IPPROTO_TCP, TCP_NODELAY, &n, &len));
    printf("TCP_NODELAY %d\n", n);
    MUST(syscall(SYS_write, c, "12345", 5));
    struct pollfd f = {s, POLLIN | POLLOUT, 0};
    SAY("ppoll", syscall(SYS_ppoll, &f, 1, NULL, NULL, 8));
    printf("%s\n", events(f.revents));
    fd_set r;
    FD_ZERO(&r);
    FD_SET(s, &r);
    struct timespec ts = {1, 0};
    SAY("pselect6", syscall(SYS_pselect6, s + 1, &r, NULL, NULL, &ts, NULL));
    FD_ZERO(&r);
    FD_SET(c, &r);
    SAY("nothing to read", syscall(SYS_pselect6, c + 1, &r, NULL, NULL, &(struct timespec){0, 0}, NULL));
    SAY("FIONREAD", syscall(SYS_ioctl, s, FIONREAD, &n));
    printf("%d\n", n);
    int ep = SAYFD("epoll_create1", syscall(SYS_epoll_create1, 0));
    struct epoll_event e = {.events = EPOLLIN, .data.fd = s};
    SAY("epoll_ctl", syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, s, &e));
    memset(&e, 0, sizeof e);
    SAY("epoll_pwait", syscall(SYS_epoll_pwait, ep, &e, 1, 1000, NULL, 8));
    printf("%s, its own %d\n", events(e.events), e.data.fd == s);
    SAY("epoll_pwait2", syscall(SYS_epoll_pwait2, ep, &e, 1, &ts, NULL, 8));
#ifdef SYS_epoll_wait
    SAY("epoll_wait", syscall(SYS_epoll_wait, ep, &e, 1, 1000));
    SAY("poll", syscall(SYS_poll, &f, 1, 1000));
    printf("%s\n", events(f.revents));
    FD_ZERO(&r);
    FD_SET(s, &r);
    SAY("select", syscall(SYS_select, s + 1, &r, NULL, NULL, &(struct timeval){1, 0}));
    FD_ZERO(&r);
    FD_SET(c, &r);
    SAY("nothing to read", syscall(SYS_select, c + 1, &r, NULL, NULL, &(struct timeval){0, 0}));
    int d2 = SAYFD("dup2", syscall(SYS_dup2, c, 500));
    SAY("close of the duplicate", syscall(SYS_close, d2));
#endif
    int d = SAYFD("dup", syscall(SYS_dup, c)), d3 = SAYFD("dup3", syscall(SYS_dup3, c, 501, O_CLOEXEC));
    int df = SAYFD("F_DUPFD", syscall(SYS_fcntl, c, F_DUPFD, 600));
    SAY("close", syscall(SYS_close, c));
    MUST(syscall(SYS_recvfrom, s, b, 64, 0, NULL, NULL));
    SAY("F_SETFL", syscall(SYS_fcntl, s, F_SETFL, O_NONBLOCK));
    SAY("the end is not yet", syscall(SYS_read, s, b, 1));
    n = 0;
    SAY("FIONBIO", syscall(SYS_ioctl, s, FIONBIO, &n));
    SAY("close", syscall(SYS_close, d));
    SAY("shutdown", syscall(SYS_shutdown, df, SHUT_WR));
    SAY("the end", syscall(SYS_read, s, b, 1));
    int c2 = MUST(syscall(SYS_socket, DOMAIN, SOCK_STREAM, 0));
    MUST(syscall(SYS_connect, c2, &named, sizeof named));
    int s2 = SAYFD("accept", syscall(SYS_accept, l, NULL, NULL));
    MUST(syscall(SYS_write, s2, "x", 1));
    SAY("it works", syscall(SYS_read, c2, b, 8));
    SAY("close_range", syscall(SYS_close_range, s2, s2, 0));
    SAY("the end", syscall(SYS_read, c2, b, 8));
    close(c2);
    SAY("close_range", syscall(SYS_close_range, d3, d3, 0));
    SAY("close_range", syscall(SYS_close_range, df, df + 5, 0));
    close(s), close(ep), close(l), close(file), close(fds[0]), close(fds[1]);
}

/* A duplicate holds the connection by itself. */
static void duplicates(const char *what, long number, long argument, long more) {
    struct pair p = pair();
    char b;
    int d = SAYFD(what, syscall(number, p.c, argument, more));
    syscall(SYS_close, p.c);
    SAY("not the end", recv(p.s, &b, 1, MSG_DONTWAIT));
    syscall(SYS_close, d);
    SAY("the end", recv(p.s, &b, 1, 0));
    close(p.s), close(p.l);
}

/* Children. */
static void clones(const char *what, long number, void *how, size_t size) {
    struct pair p = pair();
    char b[8];
    pid_t child = how ? syscall(number, how, size) : syscall(number, SIGCHLD, 0, 0, 0, 0);
    /* Where it is not there, or forbidden (containers). */
    if (child < 0 && errno == ENOSYS)
        child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        syscall(SYS_close, p.c);
        syscall(SYS_write, p.s, "child", 5);
        syscall(SYS_exit_group, 0);
    }
    SAY(what, readn(p.c, b, 5));
    MUST(waitpid(child, NULL, 0));
    SAY("the parent's goes on", send(p.s, "x", 1, MSG_NOSIGNAL));
    SAY("and arrives", recv(p.c, b, 1, 0));
    close(p.s);
    SAY("and was the last", recv(p.c, b, 1, 0));
    close(p.c), close(p.l);
}

static void children(void) {
    struct clone_args how = {.exit_signal = SIGCHLD};
    clones("a child of clone", SYS_clone, NULL, 0);
    clones("a child of clone3", SYS_clone3, &how, sizeof how);
#ifdef SYS_fork
    clones("a child of fork", SYS_fork, NULL, 0);
#endif
    /* Two write at the same time, and the parent reads: each has to know its locks from the others'. */
    struct pair p = pair();
    pid_t child[2];
    char b[16];
    for (int n = 0; n < 2; n++) {
        child[n] = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (child[n] == 0) {
            write(p.s, "child", 5);
            _exit(0);
        }
    }
    SAY("two children of clone", readn(p.c, b, 10));
    for (int n = 0; n < 2; n++)
        MUST(waitpid(child[n], NULL, 0));
    /* A child that never was holds nothing. */
    SAY("a clone that cannot be", syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0));
    close(p.s);
    SAY("and it was the last", recv(p.c, b, 1, 0));
    close(p.c), close(p.l);

    /* The new program has the socket as its standard input and output. */
    p = pair();
    pid_t shell = MUST(fork());
    if (shell == 0) {
        char *words[] = {"sh", "-c", "read line; echo \"got $line\"", NULL}, *none[] = {NULL};
        dup2(p.s, 0), dup2(p.s, 1);
        close(p.s), close(p.c), close(p.l);
        syscall(SYS_execve, "/bin/sh", words, none);
        _exit(127);
    }
    close(p.s);
    MUST(send(p.c, "a line\n", 7, 0));
    SAY("execve", readn(p.c, b, 11));
    SAY("its end", recv(p.c, b, 1, 0));
    MUST(waitpid(shell, NULL, 0));
    close(p.c), close(p.l);
}

/* What gives a number: nothing that has it is taken for the socket that had it before. */
static void given(const char *what, int gives_two, long number, long a, long b, long c, long d) {
    int old, fds[2] = {-1, -1}, n = 1;
    struct pair p = closed_unseen(&old);
    long two[4] = {a, b, c, d};
    if (gives_two)
        two[gives_two - 1] = (long)fds;
    long fd = syscall(number, two[0], two[1], two[2], two[3]);
    if (gives_two)
        fd = fds[0];
    printf("%s: %s, %s\n", what, fd == old ? "the number" : fd < 0 ? errname(errno) : "another one",
           setsockopt(old, IPPROTO_TCP, TCP_NODELAY, &n, sizeof n) ? errname(errno) : "a socket");
    char byte;
    SAY("the connection has ended", recv(p.c, &byte, 1, 0));
    close(fd), close(fds[1]), close(p.c), close(p.l);
}

static void numbers(void) {
    uint64_t mask = 0;
    long path = (long)"/dev/null";
    given("openat", 0, SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
    given("eventfd2", 0, SYS_eventfd2, 0, 0, 0, 0);
    given("timerfd_create", 0, SYS_timerfd_create, CLOCK_MONOTONIC, 0, 0, 0);
    given("signalfd4", 0, SYS_signalfd4, -1, (long)&mask, 8, 0);
    given("inotify_init1", 0, SYS_inotify_init1, 0, 0, 0, 0);
    given("memfd_create", 0, SYS_memfd_create, (long)"file", 0, 0, 0);
    given("pidfd_open", 0, SYS_pidfd_open, getpid(), 0, 0, 0);
    given("epoll_create1", 0, SYS_epoll_create1, 0, 0, 0, 0);
    given("pipe2", 1, SYS_pipe2, 0, 0, 0, 0);
    given("socketpair", 4, SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, 0);
    given("dup", 0, SYS_dup, 0, 0, 0, 0);
    given("socket", 0, SYS_socket, AF_INET, SOCK_DGRAM, 0, 0);
#ifdef SYS_open
    given("open", 0, SYS_open, path, O_RDONLY, 0, 0);
    given("creat", 0, SYS_creat, path, 0600, 0, 0);
    given("eventfd", 0, SYS_eventfd, 0, 0, 0, 0);
    given("signalfd", 0, SYS_signalfd, -1, (long)&mask, 8, 0);
    given("inotify_init", 0, SYS_inotify_init, 0, 0, 0, 0);
    given("epoll_create", 0, SYS_epoll_create, 1, 0, 0, 0);
    given("pipe", 1, SYS_pipe, 0, 0, 0, 0);
#endif
}

static void by_reserved_names(void) {
    struct pair p = pair();
    char b[16];
    struct pollfd f = {p.s, POLLIN, 0};
    SAY("__write", __write(p.c, "12345678", 8));
    SAY("__poll", __poll(&f, 1, 1000));
    SAY("__poll_chk", __poll_chk(&f, 1, 1000, sizeof f));
    SAY("__ppoll_chk", __ppoll_chk(&f, 1, NULL, NULL, sizeof f));
    fd_set r;
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY("__select", __select(p.s + 1, &r, NULL, NULL, NULL));
    SAY("__read", __read(p.s, b, 2));
    SAY("__read_chk", __read_chk(p.s, b, 2, sizeof b));
    SAY("__recv_chk", __recv_chk(p.s, b, 2, sizeof b, 0));
    SAY("__recvfrom_chk", __recvfrom_chk(p.s, b, 2, sizeof b, 0, NULL, NULL));
    SAY("__send", __send(p.s, "x", 1, 0));
    SAY("read", read(p.c, b, 1));
    SAY("__fcntl", __fcntl(p.s, F_SETFL, O_NONBLOCK));
    SAY("__read", __read(p.s, b, 1));
    SAYFD("__dup2", __dup2(p.c, 510));
    SAY("__close", __close(p.c));
    SAY("not the last", __read(p.s, b, 1));
    SAY("__close", __close(510));
    sayready("the last", p.s, 1000);
    p.c = tcp();
    struct sockaddr_in a = ADDR(port_of(p.l));
    SAY("__connect", __connect(p.c, SA(a)));
    int s = MUST(accept(p.l, NULL, NULL));
    pid_t child = __fork();
    if (child == 0) {
        close(p.c);
        write(s, "y", 1);
        _exit(0);
    }
    close(s);
    SAY("a child of __fork", readn(p.c, b, 2));
    MUST(waitpid(child, NULL, 0));
    unpair(p);
}

static char control[CMSG_SPACE(2 * sizeof(int))];

static void pass(int to, const int *fds, int count) {
    struct iovec v = {"f", 1};
    memset(control, 0, sizeof control);
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    SAY("sendmsg", sendmsg(to, &m, 0));
}

static void take(int from, int *fds, int count) {
    char b;
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    MUST(recvmsg(from, &m, 0));
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), count * sizeof(int));
}

static void by_message(void) {
    struct pair p = pair();
    int u[2], status, fds[2];
    char b[8];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    pid_t child = fork();
    if (child == 0) {
        unpair(p);
        close(u[0]);
        take(u[1], fds, 2);
        long n = read(fds[1], b, 8);
        MUST(write(fds[1], b, n));
        close(fds[1]);
        int s = MUST(accept(fds[0], NULL, NULL));
        MUST(write(s, "accepted", 8));
        _exit(n == 5 ? 0 : 1);
    }
    pass(u[0], (int[]){p.l, p.s}, 2);
    struct sockaddr_in a = ADDR(port_of(p.l));
    /* Nobody but the message has them now. */
    close(p.s), close(p.l);
    SAY("send", send(p.c, "hello", 5, 0));
    SAY("the other process answers", readn(p.c, b, 5));
    SAY("and has closed it", recv(p.c, b, 1, 0));
    int c = tcp();
    SAY("connect to the listener", connect(c, SA(a)));
    SAY("it serves", readn(c, b, 8));
    waitpid(child, &status, 0);
    printf("status %d\n", status);
    SAY("it has gone: the end", recv(c, b, 1, 0));
    close(c);
    c = tcp();
    SAY("the listener has gone with it", connect(c, SA(a)));
    close(c), close(p.c);
    /* To oneself: one more descriptor of the same socket. */
    p = pair();
    pass(u[0], &p.s, 1);
    take(u[1], fds, 1);
    close(p.s);
    SAY("send", send(fds[0], "x", 1, 0));
    SAY("recv", recv(p.c, b, 1, 0));
    close(fds[0]);
    SAY("the last is closed: the end", recv(p.c, b, 1, 0));
    close(p.c), close(p.l), close(u[0]), close(u[1]);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    by_number();
    duplicates("dup", SYS_dup, 0, 0);
    duplicates("dup3", SYS_dup3, 501, 0);
    duplicates("F_DUPFD", SYS_fcntl, F_DUPFD, 600);
#ifdef SYS_dup2
    duplicates("dup2", SYS_dup2, 501, 0);
#endif
    children();
    numbers();
    /* By their numbers only: python-tests/doors.py takes them away. */
    if (argc > 1 && !strcmp(argv[1], "numbers"))
        return 0;
    by_reserved_names();
    by_message();
    return 0;
}
