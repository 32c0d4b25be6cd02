/* Every door by itself: a small play for each function through which a program can come to its sockets. `entries NAME ...` plays
 * those, `entries` all of them. python-tests/doors.py takes each door out of the library in its turn, and sees its play differ. */
#include "t.h"
#include <dirent.h>
#include <netdb.h>
#include <pty.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>

/* The names that compilers and older headers put in. Those that libc keeps for itself are looked up. */
extern ssize_t __read(int, void *, size_t), __write(int, const void *, size_t), __send(int, const void *, size_t, int);
extern int __close(int), __connect(int, const struct sockaddr *, socklen_t), __dup2(int, int), __fcntl(int, int, ...);
extern int __poll(struct pollfd *, nfds_t, int), __select(int, fd_set *, fd_set *, fd_set *, struct timeval *);
extern pid_t __fork(void);
extern ssize_t __read_chk(int, void *, size_t, size_t), __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
extern ssize_t __pread_chk(int, void *, size_t, off_t, size_t), __pread64_chk(int, void *, size_t, off64_t, size_t);
extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
extern int __open_2(const char *, int), __open64_2(const char *, int);
extern int __openat_2(int, const char *, int), __openat64_2(int, const char *, int);
extern int __dprintf_chk(int, int, const char *, ...), __vdprintf_chk(int, int, const char *, va_list);
extern pid_t _Fork(void);
extern int __sendmmsg(int, struct mmsghdr *, unsigned, int) __attribute__((weak));
extern ssize_t __recv(int, void *, size_t, int) __attribute__((weak));
extern int __socket(int, int, int) __attribute__((weak));

static struct {
    const char *name;
    void (*play)(void);
} all[200];
static int count;
static const char *self;

#define ENTRY(name_)                                                                                                   \
    static void play_##name_(void);                                                                                    \
    __attribute__((constructor)) static void enter_##name_(void) {                                                     \
        all[count].name = #name_;                                                                                      \
        all[count++].play = play_##name_;                                                                              \
    }                                                                                                                  \
    static void play_##name_(void)

/* ---- what the plays have in common ---- */

/* A byte each way. */
static void talk(const char *what, int c, int s) {
    char b = 0;
    long sent = send(c, "x", 1, MSG_NOSIGNAL), got = sent == 1 ? recv(s, &b, 1, 0) : -1;
    long back = got == 1 ? send(s, "y", 1, MSG_NOSIGNAL) : -1, came = back == 1 ? recv(c, &b, 1, 0) : -1;
    printf("%s: %s\n", what, came == 1 && b == 'y' ? "talks" : "does not talk");
}

/* A connection in which `n` bytes wait to be read. */
static struct pair filled(int n) {
    struct pair p = pair();
    MUST(send(p.c, "abcdefghijklmnopqrstuvwxyz", n, 0));
    ready(p.s, POLLIN, 1000);
    return p;
}

/* Whether the other end has closed: waits for it up to a second. */
static void ended(const char *what, int fd) {
    char b;
    struct pollfd f = {fd, POLLIN, 0};
    long n = poll(&f, 1, 1000) == 1 ? recv(fd, &b, 1, MSG_DONTWAIT) : -2;
    printf("%s: %s\n", what, n == 0 ? "the end" : n == -2 ? "nothing" : n > 0 ? "data" : errname(errno));
}

/* Nothing comes, and no end either. */
static void goes_on(const char *what, int fd) {
    struct pollfd f = {fd, POLLIN, 0};
    printf("%s: %s\n", what, poll(&f, 1, 100) == 0 ? "goes on" : "something came");
}

static void arrives(int fd, int n) {
    char b[64] = "";
    struct pollfd f = {fd, POLLIN, 0};
    if (poll(&f, 1, 1000) != 1) {
        puts("nothing arrives");
        return;
    }
    long got = recv(fd, b, n, MSG_DONTWAIT);
    printf("%ld arrive: %.*s\n", got, got > 0 ? (int)got : 0, b);
}

static void finished(pid_t child) {
    int status;
    MUST(waitpid(child, &status, 0));
    if (WIFSIGNALED(status))
        printf("the child: signal %d\n", WTERMSIG(status));
    else
        printf("the child: %d\n", WEXITSTATUS(status));
}

static int memory(const char *text) {
    int fd = MUST(memfd_create("file", 0));
    MUST(write(fd, text, strlen(text)));
    MUST(lseek(fd, 0, SEEK_SET));
    return fd;
}

/* ---- 1. socket calls ---- */

ENTRY(socket) {
    int l = MUST(socket(DOMAIN, SOCK_STREAM, 0)), c = MUST(socket(DOMAIN, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP));
    struct sockaddr_in a = ADDR(0);
    MUST(bind(l, SA(a)));
    MUST(listen(l, 1));
    a = ADDR(port_of(l));
    SAY("connect", connect(c, SA(a)));
    int s = MUST(accept(l, NULL, NULL));
    ready(c, POLLOUT, 1000);
    MUST(fcntl(c, F_SETFL, 0));
    talk("socket", c, s);
    close(c), close(s), close(l);
}

ENTRY(bind) {
    int l = tcp();
    struct sockaddr_in a = ADDR(0), again = ADDR(0);
    SAY("bind", bind(l, SA(a)));
    printf("a port: %d\n", port_of(l) != 0);
    SAY("again", bind(l, SA(again)));
    MUST(listen(l, 1));
    int c = connected_to(l), s = MUST(accept(l, NULL, NULL));
    talk("bind", c, s);
    close(c), close(s), close(l);
}

ENTRY(listen) {
    int l = tcp(), c = tcp();
    struct sockaddr_in a = ADDR(0);
    MUST(bind(l, SA(a)));
    a = ADDR(port_of(l));
    SAY("listen", listen(l, 1));
    SAY("connect", connect(c, SA(a)));
    int s = MUST(accept(l, NULL, NULL));
    talk("listen", c, s);
    close(c), close(s), close(l);
}

ENTRY(accept) {
    int l = listener(1), c = connected_to(l);
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    int s = SAYFD("accept", accept(l, (struct sockaddr *)&a, &len));
    printf("from the client: %d\n", ntohs(a.sin_port) == port_of(c));
    talk("accept", c, s);
    close(c), close(s), close(l);
}

ENTRY(accept4) {
    int l = listener(1), c = connected_to(l);
    int s = SAYFD("accept4", accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    char b;
    SAY("recv", recv(s, &b, 1, 0));
    printf("close on exec: %d\n", fcntl(s, F_GETFD));
    MUST(fcntl(s, F_SETFL, 0));
    talk("accept4", c, s);
    close(c), close(s), close(l);
}

ENTRY(connect) {
    int l = listener(1), c = tcp();
    struct sockaddr_in a = ADDR(port_of(l));
    SAY("connect", connect(c, SA(a)));
    int s = MUST(accept(l, NULL, NULL));
    talk("connect", c, s);
    close(c), close(s), close(l);
}

ENTRY(shutdown) {
    struct pair p = pair();
    SAY("shutdown", shutdown(p.c, SHUT_WR));
    ended("the other end", p.s);
    unpair(p);
}

ENTRY(close) {
    struct pair p = pair();
    SAY("close", close(p.c));
    ended("the other end", p.s);
    close(p.s), close(p.l);
}

ENTRY(getsockname) {
    struct pair p = pair();
    struct sockaddr_in a = {0}, z = {0};
    socklen_t len = sizeof a;
    SAY("getsockname", getsockname(p.c, (struct sockaddr *)&a, &len));
    len = sizeof z;
    SAY("getpeername", getpeername(p.s, (struct sockaddr *)&z, &len));
    printf("%s, the same port: %d\n", host_of(&a), a.sin_port && a.sin_port == z.sin_port);
    unpair(p);
}

ENTRY(getpeername) {
    struct pair p = pair();
    struct sockaddr_in a = {0};
    socklen_t len = sizeof a;
    SAY("getpeername", getpeername(p.c, (struct sockaddr *)&a, &len));
    printf("%s, the listener's port: %d\n", host_of(&a), ntohs(a.sin_port) == port_of(p.l));
    unpair(p);
}

ENTRY(getsockopt) {
    struct pair p = pair();
    int n = 1;
    socklen_t len = sizeof n;
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &n, sizeof n));
    n = -1;
    SAY("getsockopt", getsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &n, &len));
    printf("TCP_NODELAY %d\n", n);
    struct tcp_info i = {0};
    len = sizeof i;
    SAY("getsockopt", getsockopt(p.c, IPPROTO_TCP, TCP_INFO, &i, &len));
    printf("state %d\n", i.tcpi_state);
    unpair(p);
}

ENTRY(setsockopt) {
    struct pair p = pair();
    struct timeval tv = {0, 20000};
    char b;
    SAY("setsockopt", setsockopt(p.c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    SAY("recv", recv(p.c, &b, 1, 0));
    unpair(p);
}

ENTRY(sockatmark) {
    struct pair p = pair();
    SAY("sockatmark", sockatmark(p.s));
    MUST(send(p.c, "u", 1, MSG_OOB));
    ready(p.s, POLLPRI, 1000);
    SAY("sockatmark", sockatmark(p.s));
    unpair(p);
}

ENTRY(isfdtype) {
    struct pair p = pair();
    SAY("a socket", isfdtype(p.c, S_IFSOCK));
    SAY("a file", isfdtype(p.c, S_IFREG));
    unpair(p);
}

/* ---- 2. data ---- */

ENTRY(read) {
    struct pair p = filled(5);
    char b[8] = "";
    SAY("read", read(p.s, b, 8));
    printf("%s\n", b);
    unpair(p);
}

ENTRY(readv) {
    struct pair p = filled(5);
    char b[8] = "", d[8] = "";
    struct iovec v[2] = {{b, 2}, {d, 8}};
    SAY("readv", readv(p.s, v, 2));
    printf("%s %s\n", b, d);
    unpair(p);
}

ENTRY(write) {
    struct pair p = pair();
    SAY("write", write(p.c, "written", 7));
    arrives(p.s, 7);
    unpair(p);
}

ENTRY(writev) {
    struct pair p = pair();
    struct iovec v[2] = {{"wri", 3}, {"tten", 4}};
    SAY("writev", writev(p.c, v, 2));
    arrives(p.s, 7);
    unpair(p);
}

ENTRY(recv) {
    struct pair p = filled(5);
    char b[8] = "";
    SAY("recv", recv(p.s, b, 8, MSG_PEEK));
    SAY("recv", recv(p.s, b, 8, 0));
    printf("%s\n", b);
    unpair(p);
}

ENTRY(recvfrom) {
    struct pair p = filled(5);
    char b[8] = "";
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    SAY("recvfrom", recvfrom(p.s, b, 8, 0, (struct sockaddr *)&a, &len));
    printf("%s, an address of %u bytes\n", b, len);
    unpair(p);
}

ENTRY(recvmsg) {
    struct pair p = filled(5);
    char b[8] = "";
    struct iovec v = {b, 8};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    SAY("recvmsg", recvmsg(p.s, &m, 0));
    printf("%s\n", b);
    unpair(p);
}

ENTRY(recvmmsg) {
    struct pair p = filled(5);
    char b[8] = "";
    struct iovec v[2] = {{b, 2}, {b + 2, 3}};
    struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = &v[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &v[1], .msg_iovlen = 1}}};
    SAY("recvmmsg", recvmmsg(p.s, m, 2, MSG_DONTWAIT, NULL));
    printf("%s: %u and %u\n", b, m[0].msg_len, m[1].msg_len);
    unpair(p);
}

ENTRY(send) {
    struct pair p = pair();
    SAY("send", send(p.c, "sent", 4, MSG_NOSIGNAL));
    arrives(p.s, 4);
    unpair(p);
}

ENTRY(sendto) {
    struct pair p = pair();
    SAY("sendto", sendto(p.c, "sent", 4, MSG_NOSIGNAL, NULL, 0));
    arrives(p.s, 4);
    unpair(p);
}

ENTRY(sendmsg) {
    struct pair p = pair();
    struct iovec v = {"sent", 4};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    SAY("sendmsg", sendmsg(p.c, &m, MSG_NOSIGNAL));
    arrives(p.s, 4);
    unpair(p);
}

static void sends_many(const char *name, int (*call)(int, struct mmsghdr *, unsigned, int)) {
    struct pair p = pair();
    struct iovec v[2] = {{"se", 2}, {"nt", 2}};
    struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = &v[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &v[1], .msg_iovlen = 1}}};
    SAY(name, call(p.c, m, 2, MSG_NOSIGNAL));
    char b[5] = "";
    SAY("both arrive", readn(p.s, b, 4));
    unpair(p);
}
static int sendmmsg_(int fd, struct mmsghdr *m, unsigned n, int flags) { return sendmmsg(fd, m, n, flags | MSG_NOSIGNAL); }
static int sendmmsg_reserved(int fd, struct mmsghdr *m, unsigned n, int flags) { return __sendmmsg(fd, m, n, flags); }
ENTRY(sendmmsg) { sends_many("sendmmsg", sendmmsg_); }
ENTRY(__sendmmsg) {
    if (__sendmmsg)
        sends_many("__sendmmsg", sendmmsg_reserved);
}

static void sends_file(const char *name, ssize_t (*call)(int, int, off_t *, size_t)) {
    struct pair p = pair();
    int f = memory("0123456789");
    off_t at = 5;
    SAY(name, call(p.c, f, &at, 4));
    arrives(p.s, 10);
    SAY("and from its position", call(p.c, f, NULL, 3));
    arrives(p.s, 10);
    unpair(p), close(f);
}
ENTRY(sendfile) { sends_file("sendfile", sendfile); }
ENTRY(sendfile64) { sends_file("sendfile64", sendfile64); }

ENTRY(splice) {
    struct pair p = filled(5);
    int fds[2];
    char b[8] = "";
    MUST(pipe(fds));
    SAY("out of a socket", splice(p.s, NULL, fds[1], NULL, 8, 0));
    SAY("read", read(fds[0], b, 8));
    MUST(write(fds[1], "back", 4));
    SAY("into a socket", splice(fds[0], NULL, p.s, NULL, 8, 0));
    arrives(p.c, 8);
    unpair(p), close(fds[0]), close(fds[1]);
}

/* A socket is no pipe. */
ENTRY(tee) {
    struct pair p = filled(5);
    int fds[2];
    MUST(pipe(fds));
    SAY("tee out of a socket", tee(p.s, fds[1], 5, 0));
    SAY("tee into a socket", tee(fds[0], p.s, 5, 0));
    unpair(p), close(fds[0]), close(fds[1]);
}

ENTRY(vmsplice) {
    struct pair p = pair();
    struct iovec v = {"spliced", 7};
    SAY("vmsplice", vmsplice(p.c, &v, 1, 0));
    unpair(p);
}

static void positioned_in(const char *name, ssize_t (*call)(int, const struct iovec *, int, off_t, int)) {
    struct pair p = filled(5);
    char b[8] = "";
    struct iovec v = {b, 8};
    SAY(name, call(p.s, &v, 1, 0, 0));
    SAY(name, call(p.s, &v, 1, -1, 0));
    printf("%s\n", b);
    unpair(p);
}
static void positioned_out(const char *name, ssize_t (*call)(int, const struct iovec *, int, off_t, int)) {
    struct pair p = pair();
    struct iovec v = {"written", 7};
    SAY(name, call(p.c, &v, 1, 0, 0));
    SAY(name, call(p.c, &v, 1, -1, 0));
    arrives(p.s, 7);
    unpair(p);
}
ENTRY(preadv2) { positioned_in("preadv2", preadv2); }
ENTRY(preadv64v2) { positioned_in("preadv64v2", preadv64v2); }
ENTRY(pwritev2) { positioned_out("pwritev2", pwritev2); }
ENTRY(pwritev64v2) { positioned_out("pwritev64v2", pwritev64v2); }

/* A socket has no position. */
ENTRY(pread) {
    struct pair p = filled(5);
    char b[8];
    struct iovec v = {b, 8};
    SAY("pread", pread(p.s, b, 8, 0));
    SAY("pread64", pread64(p.s, b, 8, 0));
    SAY("preadv", preadv(p.s, &v, 1, 0));
    SAY("preadv64", preadv64(p.s, &v, 1, 0));
    SAY("pwrite", pwrite(p.s, b, 1, 0));
    SAY("pwrite64", pwrite64(p.s, b, 1, 0));
    SAY("pwritev", pwritev(p.s, &v, 1, 0));
    SAY("pwritev64", pwritev64(p.s, &v, 1, 0));
    SAY("__pread_chk", __pread_chk(p.s, b, 8, 0, 8));
    SAY("__pread64_chk", __pread64_chk(p.s, b, 8, 0, 8));
    unpair(p);
}

ENTRY(copy_file_range) {
    struct pair p = filled(5);
    int f = memory("0123456789");
    SAY("out of a socket", copy_file_range(p.s, NULL, f, NULL, 5, 0));
    SAY("into a socket", copy_file_range(f, NULL, p.s, NULL, 5, 0));
    unpair(p), close(f);
}

/* ---- 3. reserved names, and what _FORTIFY_SOURCE makes of a call ---- */

ENTRY(__read) {
    struct pair p = filled(5);
    char b[8] = "";
    SAY("__read", __read(p.s, b, 8));
    unpair(p);
}

ENTRY(__read_chk) {
    struct pair p = filled(5);
    char b[8] = "";
    SAY("__read_chk", __read_chk(p.s, b, 8, 8));
    unpair(p);
}

ENTRY(__recv) {
    struct pair p = filled(5);
    char b[8] = "";
    if (__recv)
        SAY("__recv", __recv(p.s, b, 8, 0));
    unpair(p);
}

ENTRY(__recv_chk) {
    struct pair p = filled(5);
    char b[8] = "";
    SAY("__recv_chk", __recv_chk(p.s, b, 8, 8, MSG_PEEK));
    unpair(p);
}

ENTRY(__recvfrom_chk) {
    struct pair p = filled(5);
    char b[8] = "";
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    SAY("__recvfrom_chk", __recvfrom_chk(p.s, b, 8, 8, 0, (struct sockaddr *)&a, &len));
    printf("an address of %u bytes\n", len);
    unpair(p);
}

ENTRY(__write) {
    struct pair p = pair();
    SAY("__write", __write(p.c, "written", 7));
    arrives(p.s, 7);
    unpair(p);
}

ENTRY(__send) {
    struct pair p = pair();
    SAY("__send", __send(p.c, "sent", 4, MSG_NOSIGNAL));
    arrives(p.s, 4);
    unpair(p);
}

ENTRY(__close) {
    struct pair p = pair();
    SAY("__close", __close(p.c));
    ended("the other end", p.s);
    close(p.s), close(p.l);
}

ENTRY(__connect) {
    int l = listener(1), c = tcp();
    struct sockaddr_in a = ADDR(port_of(l));
    SAY("__connect", __connect(c, SA(a)));
    int s = MUST(accept(l, NULL, NULL));
    talk("__connect", c, s);
    close(c), close(s), close(l);
}

ENTRY(__socket) {
    if (!__socket)
        return;
    int l = listener(1), c = MUST(__socket(DOMAIN, SOCK_STREAM, 0));
    struct sockaddr_in a = ADDR(port_of(l));
    SAY("connect", connect(c, SA(a)));
    int s = MUST(accept(l, NULL, NULL));
    talk("__socket", c, s);
    close(c), close(s), close(l);
}

ENTRY(__poll) {
    struct pair p = filled(5);
    struct pollfd f = {p.s, POLLIN | POLLOUT, 0};
    SAY("__poll", __poll(&f, 1, 1000));
    puts(events(f.revents));
    unpair(p);
}

ENTRY(__poll_chk) {
    struct pair p = filled(5);
    struct pollfd f = {p.s, POLLIN | POLLOUT, 0};
    SAY("__poll_chk", __poll_chk(&f, 1, 1000, sizeof f));
    puts(events(f.revents));
    unpair(p);
}

ENTRY(__ppoll_chk) {
    struct pair p = filled(5);
    struct pollfd f = {p.s, POLLIN | POLLOUT, 0};
    SAY("__ppoll_chk", __ppoll_chk(&f, 1, &(struct timespec){1, 0}, NULL, sizeof f));
    puts(events(f.revents));
    unpair(p);
}

/* ---- 4. waiting ---- */

ENTRY(poll) {
    struct pair p = filled(5);
    struct pollfd f[2] = {{p.s, POLLIN | POLLOUT, 0}, {p.c, POLLIN, 0}};
    SAY("poll", poll(f, 2, 1000));
    printf("%s, %s\n", events(f[0].revents), events(f[1].revents));
    unpair(p);
}

ENTRY(ppoll) {
    struct pair p = filled(5);
    struct pollfd f[2] = {{p.s, POLLIN | POLLOUT, 0}, {p.c, POLLIN, 0}};
    SAY("ppoll", ppoll(f, 2, &(struct timespec){1, 0}, NULL));
    printf("%s, %s\n", events(f[0].revents), events(f[1].revents));
    unpair(p);
}

static void selects(const char *name, int (*call)(int, fd_set *, fd_set *)) {
    struct pair p = filled(5);
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p.s, &r), FD_SET(p.c, &r), FD_SET(p.s, &w);
    SAY(name, call((p.s > p.c ? p.s : p.c) + 1, &r, &w));
    printf("%d %d %d\n", FD_ISSET(p.s, &r), FD_ISSET(p.c, &r), FD_ISSET(p.s, &w));
    unpair(p);
}
static int select_(int n, fd_set *r, fd_set *w) { return select(n, r, w, NULL, &(struct timeval){1, 0}); }
static int select_reserved(int n, fd_set *r, fd_set *w) { return __select(n, r, w, NULL, &(struct timeval){1, 0}); }
static int pselect_(int n, fd_set *r, fd_set *w) { return pselect(n, r, w, NULL, &(struct timespec){1, 0}, NULL); }
ENTRY(select) { selects("select", select_); }
ENTRY(__select) { selects("__select", select_reserved); }
ENTRY(pselect) { selects("pselect", pselect_); }

static void waits(const char *name, int (*call)(int, struct epoll_event *)) {
    struct pair p = filled(5);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.u64 = 77};
    int ep = MUST(epoll_create1(0));
    SAY("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, p.s, &e));
    memset(&e, 0, sizeof e);
    SAY(name, call(ep, &e));
    printf("%s, %d\n", events(e.events), (int)e.data.u64);
    unpair(p), close(ep);
}
static int epoll_wait_(int ep, struct epoll_event *e) { return epoll_wait(ep, e, 1, 1000); }
static int epoll_pwait_(int ep, struct epoll_event *e) { return epoll_pwait(ep, e, 1, 1000, NULL); }
static int epoll_pwait2_(int ep, struct epoll_event *e) { return epoll_pwait2(ep, e, 1, &(struct timespec){1, 0}, NULL); }
ENTRY(epoll_wait) { waits("epoll_wait", epoll_wait_); }
ENTRY(epoll_pwait) { waits("epoll_pwait", epoll_pwait_); }
ENTRY(epoll_pwait2) { waits("epoll_pwait2", epoll_pwait2_); }

ENTRY(epoll_ctl) {
    struct pair p = filled(5);
    struct epoll_event e = {.events = EPOLLIN}, out;
    int ep = MUST(epoll_create1(0));
    SAY("add", epoll_ctl(ep, EPOLL_CTL_ADD, p.s, &e));
    SAY("again", epoll_ctl(ep, EPOLL_CTL_ADD, p.s, &e));
    SAY("epoll_wait", epoll_wait(ep, &out, 1, 1000));
    SAY("delete", epoll_ctl(ep, EPOLL_CTL_DEL, p.s, &e));
    SAY("epoll_wait", epoll_wait(ep, &out, 1, 0));
    unpair(p), close(ep);
}

/* ---- 5. descriptors ---- */

/* `made` is one more descriptor of p.c: the connection goes on when that one is closed, and ends with `made`. */
static void one_more(const char *name, struct pair p, int made) {
    printf("%s: %s\n", name, made >= 0 ? "a descriptor" : errname(errno));
    close(p.c);
    goes_on("without the first", p.s);
    talk(name, made, p.s);
    close(made);
    ended("without both", p.s);
    close(p.s), close(p.l);
}

ENTRY(dup) {
    struct pair p = pair();
    one_more("dup", p, dup(p.c));
}

/* Onto a number that is free, and onto one of ours: that one is closed. */
static void onto(const char *name, int (*call)(int, int)) {
    struct pair p = pair();
    one_more(name, p, call(p.c, 150));
    p = pair();
    int f = memory("a file");
    printf("onto a socket: %d\n", call(f, p.c) == p.c);
    ended("which is closed", p.s);
    char b[8] = "";
    MUST(lseek(p.c, 0, SEEK_SET));
    SAY("and a file now", read(p.c, b, 6));
    unpair(p), close(f);
}
static int dup3_(int old, int new) { return dup3(old, new, 0); }
ENTRY(dup2) { onto("dup2", dup2); }
ENTRY(__dup2) { onto("__dup2", __dup2); }
ENTRY(dup3) { onto("dup3", dup3_); }

#define CONTROLS(name)                                                                                                 \
    ENTRY(name) {                                                                                                      \
        struct pair p = pair();                                                                                        \
        char b;                                                                                                        \
        SAY("F_SETFL", name(p.s, F_SETFL, O_NONBLOCK));                                                                \
        printf("F_GETFL: %d\n", !!(name(p.s, F_GETFL) & O_NONBLOCK));                                                  \
        struct timeval tv = {0, 300000};                                                                               \
        MUST(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));                                                \
        struct timespec a, z;                                                                                          \
        clock_gettime(CLOCK_MONOTONIC, &a);                                                                            \
        SAY("recv", recv(p.s, &b, 1, 0));                                                                              \
        clock_gettime(CLOCK_MONOTONIC, &z);                                                                            \
        printf("at once: %d\n", (z.tv_sec - a.tv_sec) * 1000 + (z.tv_nsec - a.tv_nsec) / 1000000 < 290);                \
        SAY("F_SETFL", name(p.s, F_SETFL, 0));                                                                         \
        one_more(#name, p, name(p.c, F_DUPFD_CLOEXEC, 160));                                                           \
    }
CONTROLS(fcntl)
CONTROLS(fcntl64)
CONTROLS(__fcntl)

ENTRY(ioctl) {
    struct pair p = filled(5);
    int n = -1;
    char b[8];
    SAY("FIONREAD", ioctl(p.s, FIONREAD, &n));
    printf("%d\n", n);
    n = 1;
    SAY("FIONBIO", ioctl(p.s, FIONBIO, &n));
    MUST(recv(p.s, b, 8, 0));
    SAY("recv", recv(p.s, b, 8, 0));
    unpair(p);
}

ENTRY(close_range) {
    struct pair p = pair();
    MUST(dup2(p.c, 170));
    close(p.c);
    SAY("close_range", close_range(165, 175, 0));
    ended("the other end", p.s);
    close(p.s), close(p.l);
}

ENTRY(closefrom) {
    struct pair p = pair();
    MUST(dup2(p.c, 170));
    close(p.c);
    closefrom(165);
    ended("the other end", p.s);
    int c = connected_to(p.l), s = MUST(accept(p.l, NULL, NULL));
    talk("afterwards", c, s);
    close(c), close(s), close(p.s), close(p.l);
}

/* Whatever gets the number is not taken for the socket, which has gone. */
static void not_a_socket(const char *name, struct pair p, int number, int fd, int second) {
    printf("%s: %s\n", name, fd == number || second == number ? "the number" : fd < 0 ? errname(errno) : "another number");
    int n = 1;
    printf("it is no socket of TCP: %s\n",
           setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &n, sizeof n) ? errname(errno) : "it is one");
    ended("the connection", p.c);
    close(fd);
    if (second >= 0)
        close(second);
    close(p.c), close(p.l);
}

#define GIVES(name, call)                                                                                              \
    ENTRY(name) {                                                                                                      \
        int number;                                                                                                    \
        struct pair p = closed_unseen(&number);                                                                        \
        not_a_socket(#name, p, number, call, -1);                                                                      \
    }
#define GIVES_TWO(name, call)                                                                                          \
    ENTRY(name) {                                                                                                      \
        int number, fds[2] = {-1, -1};                                                                                 \
        struct pair p = closed_unseen(&number);                                                                        \
        SAY(#name, call);                                                                                              \
        not_a_socket(#name, p, number, fds[0], fds[1]);                                                                \
    }
static const char nothing[] = "/dev/null";
GIVES(open, open(nothing, O_RDONLY))
GIVES(open64, open64(nothing, O_RDONLY))
GIVES(openat, openat(AT_FDCWD, nothing, O_RDONLY))
GIVES(openat64, openat64(AT_FDCWD, nothing, O_RDONLY))
GIVES(__open_2, __open_2(nothing, O_RDONLY))
GIVES(__open64_2, __open64_2(nothing, O_RDONLY))
GIVES(__openat_2, __openat_2(AT_FDCWD, nothing, O_RDONLY))
GIVES(__openat64_2, __openat64_2(AT_FDCWD, nothing, O_RDONLY))
GIVES(creat, creat(nothing, 0600))
GIVES(creat64, creat64(nothing, 0600))
GIVES(eventfd, eventfd(0, 0))
GIVES(timerfd_create, timerfd_create(CLOCK_MONOTONIC, 0))
GIVES(signalfd, signalfd(-1, &(sigset_t){0}, 0))
GIVES(inotify_init, inotify_init())
GIVES(inotify_init1, inotify_init1(IN_CLOEXEC))
GIVES(memfd_create, memfd_create("file", 0))
static int number_of_file(FILE *f) { return fileno(f); }
static int number_of_directory(DIR *d) { return dirfd(d); }
static int temporary(int (*call)(char *)) {
    char path[] = "/tmp/entries-XXXXXX";
    int fd = call(path);
    unlink(path);
    return fd;
}
static int mkostemp_(char *path) { return mkostemp(path, O_CLOEXEC); }
static int mkostemp64_(char *path) { return mkostemp64(path, O_CLOEXEC); }
static int shm_open_(char *path) {
    int fd = shm_open(path + 4, O_RDWR | O_CREAT, 0600);
    shm_unlink(path + 4);
    return fd;
}
GIVES(fopen, number_of_file(fopen(nothing, "r")))
GIVES(fopen64, number_of_file(fopen64(nothing, "r")))
GIVES(opendir, number_of_directory(opendir("/")))
GIVES(mkstemp, temporary(mkstemp))
GIVES(mkstemp64, temporary(mkstemp64))
GIVES(mkostemp, temporary(mkostemp_))
GIVES(mkostemp64, temporary(mkostemp64_))
GIVES(shm_open, temporary(shm_open_))
GIVES(posix_openpt, posix_openpt(O_RDWR))
GIVES(pidfd_open, pidfd_open(getpid(), 0))
GIVES(epoll_create, epoll_create(1))
GIVES(epoll_create1, epoll_create1(0))
/* The same of calls that have a play of their own above. */
GIVES(dup_of_a_file, dup(0))
GIVES(fcntl_of_a_file, fcntl(0, F_DUPFD, number))
GIVES(socket_for_udp, socket(AF_INET, SOCK_DGRAM, 0))
GIVES_TWO(pipe, pipe(fds))
GIVES_TWO(pipe2, pipe2(fds, O_CLOEXEC))
GIVES_TWO(socketpair, socketpair(AF_UNIX, SOCK_STREAM, 0, fds))

static int unix_connection(int *l) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "entries-%d", getpid());
    *l = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(*l, (struct sockaddr *)&a, sizeof a));
    MUST(listen(*l, 1));
    int c = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(c, (struct sockaddr *)&a, sizeof a));
    return c;
}

static void accepts_others(const char *name, int checked) {
    int number, l, c = unix_connection(&l);
    struct pair p = closed_unseen(&number);
    not_a_socket(name, p, number, checked ? accept4(l, NULL, NULL, 0) : accept(l, NULL, NULL), -1);
    close(l), close(c);
}
ENTRY(accept_of_another_family) { accepts_others("accept", 0); }
ENTRY(accept4_of_another_family) { accepts_others("accept4", 1); }

/* A number comes in a message. */
ENTRY(recvmsg_of_a_number) {
    int u[2], number, zero = 0;
    char b, control[CMSG_SPACE(sizeof(int))] = "";
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &zero, sizeof zero);
    MUST(sendmsg(u[0], &m, 0));
    struct pair p = closed_unseen(&number);
    v.iov_base = &b;
    SAY("recvmsg", recvmsg(u[1], &m, 0));
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    not_a_socket("recvmsg", p, number, fd, -1);
    close(u[0]), close(u[1]);
}

/* ---- 7. processes ---- */

/* A child serves the connection and ends; its parent has lost nothing. */
static void forks(const char *name, pid_t (*call)(void)) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = MUST(call());
    if (child == 0) {
        write(p.s, "child", 5);
        close(p.c);
        _exit(3);
    }
    printf("%s\n", name);
    arrives(p.c, 5);
    finished(child);
    goes_on("the connection", p.c);
    talk(name, p.c, p.s);
    close(p.s);
    ended("without the parent's", p.c);
    close(p.c), close(p.l);
}
static int master = -1;
static pid_t forkpty_(void) { return forkpty(&master, NULL, NULL, NULL); }
ENTRY(fork) { forks("fork", fork); }
ENTRY(__fork) { forks("__fork", __fork); }
ENTRY(_Fork) { forks("_Fork", _Fork); }
ENTRY(forkpty) {
    forks("forkpty", forkpty_);
    close(master);
}

/* The child shares its parent's memory, and must not change its tables. */
ENTRY(vfork) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = vfork();
    if (child == 0) {
        close(p.c), close(p.s);
        execl("/bin/true", "true", NULL);
        _exit(127);
    }
    finished(child);
    goes_on("the connection", p.c);
    talk("vfork", p.c, p.s);
    unpair(p);
}

ENTRY(daemon) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        char b[8];
        close(p.c), close(p.l);
        if (daemon(1, 1) == 0)
            send(p.s, b, recv(p.s, b, 8, 0), 0);
        _exit(0);
    }
    close(p.s);
    finished(child);
    goes_on("the daemon's connection", p.c);
    MUST(send(p.c, "hello", 5, 0));
    arrives(p.c, 5);
    ended("the daemon", p.c);
    close(p.c), close(p.l);
}

/* The new program has the connection by its number, whatever became of its environment. */
static char number[16];
static char *no_environment[] = {NULL};
#define WORDS (char *[]){"entries", "serve", number, NULL}

static void executes(const char *name, void (*call)(void)) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        close(p.c), close(p.l);
        snprintf(number, sizeof number, "%d", p.s);
        call();
        _exit(127);
    }
    close(p.s);
    printf("%s\n", name);
    MUST(send(p.c, "hello", 5, 0));
    arrives(p.c, 16);
    finished(child);
    ended("the new program", p.c);
    close(p.c), close(p.l);
}
#define EXECUTES(name, call)                                                                                           \
    static void do_##name(void) { call; }                                                                              \
    ENTRY(name) { executes(#name, do_##name); }
EXECUTES(execve, execve(self, WORDS, no_environment))
EXECUTES(execv, clearenv(); execv(self, WORDS))
EXECUTES(execvp, clearenv(); execvp(self, WORDS))
EXECUTES(execvpe, execvpe(self, WORDS, no_environment))
EXECUTES(execl, clearenv(); execl(self, "entries", "serve", number, NULL))
EXECUTES(execlp, clearenv(); execlp(self, "entries", "serve", number, NULL))
EXECUTES(execle, execle(self, "entries", "serve", number, NULL, no_environment))
EXECUTES(fexecve, fexecve(MUST(open(self, O_RDONLY)), WORDS, no_environment))
EXECUTES(execveat, execveat(AT_FDCWD, self, WORDS, no_environment, 0))

static void spawns(const char *name, int (*call)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                                                 char *const[], char *const[])) {
    struct pair p = pair();
    pid_t child;
    snprintf(number, sizeof number, "%d", p.s);
    MUST(fcntl(p.c, F_SETFD, FD_CLOEXEC)), MUST(fcntl(p.l, F_SETFD, FD_CLOEXEC));
    SAY(name, call(&child, self, NULL, NULL, WORDS, no_environment));
    close(p.s);
    MUST(send(p.c, "hello", 5, 0));
    arrives(p.c, 16);
    finished(child);
    ended("the new program", p.c);
    close(p.c), close(p.l);
}
ENTRY(posix_spawn) { spawns("posix_spawn", posix_spawn); }
ENTRY(posix_spawnp) { spawns("posix_spawnp", posix_spawnp); }

/* What is close-on-exec is passed on by a duplicate. */
ENTRY(posix_spawn_file_actions_adddup2) {
    struct pair p = pair();
    pid_t child;
    posix_spawn_file_actions_t actions;
    for (int *fd = &p.l; fd <= &p.s; fd++)
        MUST(fcntl(*fd, F_SETFD, FD_CLOEXEC));
    posix_spawn_file_actions_init(&actions);
    SAY("adddup2", posix_spawn_file_actions_adddup2(&actions, p.s, 180));
    strcpy(number, "180");
    SAY("posix_spawn", posix_spawn(&child, self, &actions, NULL, WORDS, no_environment));
    close(p.s);
    MUST(send(p.c, "hello", 5, 0));
    arrives(p.c, 16);
    finished(child);
    ended("the new program", p.c);
    posix_spawn_file_actions_destroy(&actions);
    close(p.c), close(p.l);
}

/* A list that is no more says nothing about the next one at its place. */
ENTRY(posix_spawn_file_actions_destroy) {
    extern char **environ;
    struct pair p = pair();
    pid_t child;
    int fds[2];
    posix_spawn_file_actions_t actions;
    MUST(pipe(fds));
    for (int *fd = &p.l; fd <= &p.s; fd++)
        MUST(fcntl(*fd, F_SETFD, FD_CLOEXEC));
    MUST(fcntl(fds[1], F_SETFD, FD_CLOEXEC));
    posix_spawn_file_actions_init(&actions);
    MUST(posix_spawn_file_actions_adddup2(&actions, p.s, 180));
    SAY("destroy", posix_spawn_file_actions_destroy(&actions));
    posix_spawn_file_actions_init(&actions);
    MUST(posix_spawn_file_actions_adddup2(&actions, fds[0], 0));
    char *argv[] = {"env", "-u", "LD_PRELOAD", "cat", NULL};
    SAY("posix_spawn", posix_spawnp(&child, "env", &actions, NULL, argv, environ));
    close(p.s);
    ended("no child has the connection", p.c);
    close(fds[1]);
    finished(child);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[0]), close(p.c), close(p.l);
}

/* The end of a process closes what it holds, and what it has sent goes out. */
static void leaves(const char *name, void (*call)(int)) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        close(p.c), close(p.l);
        send(p.s, "good-bye", 8, 0);
        call(4);
    }
    close(p.s);
    printf("%s\n", name);
    arrives(p.c, 8);
    ended("the child", p.c);
    finished(child);
    close(p.c), close(p.l);
}
ENTRY(exit) { leaves("exit", exit); }
ENTRY(_exit) { leaves("_exit", _exit); }
ENTRY(_Exit) { leaves("_Exit", _Exit); }
ENTRY(quick_exit) { leaves("quick_exit", quick_exit); }

static void exit_group(int status) { syscall(SYS_exit_group, status); }
ENTRY(SYS_exit_group) { leaves("exit_group", exit_group); }

/* What the engine needs was opened before. */
ENTRY(setuid) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        SAY("setuid", setuid(65534));
        talk("as another user", p.c, p.s);
        int c = connected_to(p.l), s = MUST(accept(p.l, NULL, NULL));
        talk("a new connection", c, s);
        _exit(0);
    }
    finished(child);
    unpair(p);
}

/* ---- 8. raw doors: doors.c has the numbers ---- */

ENTRY(syscall) {
    struct pair p = pair();
    SAY("SYS_write", syscall(SYS_write, p.c, "written", 7));
    arrives(p.s, 7);
    unpair(p);
}

/* ---- 9. streams ---- */

ENTRY(fdopen) {
    struct pair p = pair();
    char line[32] = "";
    FILE *in = fdopen(p.s, "r"), *out = fdopen(dup(p.c), "w");
    fprintf(out, "line %d\n", 1);
    SAY("fflush", fflush(out));
    printf("fgets: %s", fgets(line, sizeof line, in) ? line : "NULL\n");
    SAY("fclose", fclose(out));
    close(p.c);
    printf("fgets: %s\n", fgets(line, sizeof line, in) ? line : "NULL");
    SAY("fclose", fclose(in));
    close(p.l);
}

#define NUMBERS(name)                                                                                                  \
    ENTRY(name) {                                                                                                      \
        struct pair p = pair();                                                                                        \
        FILE *f = fdopen(p.s, "r+");                                                                                   \
        printf("its number: %d\n", name(f) == p.s);                                                                    \
        fclose(f), close(p.c), close(p.l);                                                                             \
    }
NUMBERS(fileno)
NUMBERS(fileno_unlocked)

static int list(int fd, int checked, const char *format, ...) {
    va_list l;
    va_start(l, format);
    int n = checked ? __vdprintf_chk(fd, 1, format, l) : vdprintf(fd, format, l);
    va_end(l);
    return n;
}
#define PRINTS(name, call)                                                                                             \
    ENTRY(name) {                                                                                                      \
        struct pair p = pair();                                                                                        \
        int fd = p.c;                                                                                                  \
        SAY(#name, call);                                                                                              \
        arrives(p.s, 32);                                                                                              \
        unpair(p);                                                                                                     \
    }
PRINTS(dprintf, dprintf(fd, "%d %s %.1f", 1, "two", 3.0))
PRINTS(__dprintf_chk, __dprintf_chk(fd, 1, "%d %s %.1f", 1, "two", 3.0))
PRINTS(vdprintf, list(fd, 0, "%d %s %.1f", 1, "two", 3.0))
PRINTS(__vdprintf_chk, list(fd, 1, "%d %s %.1f", 1, "two", 3.0))

ENTRY(getaddrinfo) {
    struct pair p = pair();
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    SAY("getaddrinfo", getaddrinfo("127.0.0.1", "80", &hints, &found));
    printf("port %d\n", found ? ntohs(((struct sockaddr_in *)found->ai_addr)->sin_port) : -1);
    talk("beside it", p.c, p.s);
    freeaddrinfo(found);
    unpair(p);
}

/* ---- 10. signals ---- */

static void on_signal(int s) { (void)s; }

static void *rescue(void *arg) {
    nap(150);
    send(*(int *)arg, "r", 1, MSG_NOSIGNAL);
    return NULL;
}

/* A signal comes while recv waits: is it restarted, or interrupted? */
static void interrupt(const char *what, struct pair p) {
    char b;
    pthread_t t;
    sigset_t usr1;
    sigemptyset(&usr1), sigaddset(&usr1, SIGUSR1);
    /* The thread does not take it. */
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    pthread_create(&t, NULL, rescue, &p.c);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    /* Again and again: on a busy machine the first may come when the call is not asleep. */
    struct itimerspec in = {{0, 20000000}, {0, 50000000}};
    MUST(timer_settime(timer, 0, &in, NULL));
    long n = recv(p.s, &b, 1, 0);
    int e = errno;
    timer_delete(timer);
    errno = e;
    SAY(what, n);
    pthread_join(t, NULL);
    while (recv(p.s, &b, 1, MSG_DONTWAIT) == 1)
        ;
}

ENTRY(sigaction) {
    struct pair p = pair();
    struct sigaction sa = {.sa_handler = on_signal};
    SAY("sigaction", sigaction(SIGUSR1, &sa, NULL));
    interrupt("interrupted", p);
    sa.sa_flags = SA_RESTART;
    SAY("sigaction, SA_RESTART", sigaction(SIGUSR1, &sa, NULL));
    interrupt("restarted", p);
    sa.sa_flags = 0;
    SAY("sigaction", sigaction(SIGUSR1, &sa, NULL));
    interrupt("interrupted", p);
    unpair(p);
}

ENTRY(signal) {
    struct pair p = pair();
    struct sigaction sa = {.sa_handler = on_signal};
    SAY("sigaction", sigaction(SIGUSR1, &sa, NULL));
    interrupt("interrupted", p);
    printf("signal: %d\n", signal(SIGUSR1, on_signal) == on_signal);
    interrupt("restarted", p);
    unpair(p);
}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
ENTRY(siginterrupt) {
    struct pair p = pair();
    signal(SIGUSR1, on_signal);
    SAY("siginterrupt", siginterrupt(SIGUSR1, 1));
    interrupt("interrupted", p);
    SAY("siginterrupt", siginterrupt(SIGUSR1, 0));
    interrupt("restarted", p);
    unpair(p);
}

static void *receive(void *arg) {
    char b;
    recv(*(int *)arg, &b, 1, 0);
    return NULL;
}

ENTRY(pthread_cancel) {
    struct pair p = pair();
    pthread_t t;
    void *result = NULL;
    struct timespec until;
    pthread_create(&t, NULL, receive, &p.s);
    nap(50);
    SAY("pthread_cancel", pthread_cancel(t));
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    printf("cancelled: %d\n", pthread_timedjoin_np(t, &result, &until) == 0 && result == PTHREAD_CANCELED);
    unpair(p);
}

/* ---- */

static int serve(int fd) {
    char b[16] = "";
    struct timeval tv = {3, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    long n = recv(fd, b, 8, 0);
    if (n <= 0 || send(fd, b, n, 0) != n)
        return 1;
    return 0;
}

int main(int argc, char **argv) {
    static char path[4096];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return serve(atoi(argv[2]));
    MUST(readlink("/proc/self/exe", path, sizeof path - 1));
    self = path;
    for (int i = 0; i < count; i++) {
        int wanted = argc < 2;
        for (int k = 1; k < argc; k++)
            wanted |= !strcmp(argv[k], all[i].name);
        if (!wanted)
            continue;
        printf("-- %s\n", all[i].name);
        /* What should not wait does not wait for ever. */
        alarm(8);
        all[i].play();
    }
    return 0;
}
