/* Calls on wrong descriptors, with wrong pointers, and in every state of a socket that is the wrong one. */
#include "t.h"
#include <sys/mman.h>
#include <sys/sendfile.h>

static void *forbidden; /* a page that may not be touched */

/* One socket in each of the states that a program can bring about. */
enum { FRESH, BOUND, LISTENING, REFUSED, CONNECTED, SHUT_WRITE, SHUT_READ, SHUT_BOTH, AT_END, RESET, STATES };
static const char *names[] = {"fresh", "bound", "listening", "refused", "connected", "shut for writing",
                              "shut for reading", "shut for both", "at the end", "reset"};

struct made {
    int fd, other, listener;
};

static struct made make(int state) {
    struct made m = {-1, -1, -1};
    struct sockaddr_in a = ADDR(0);
    struct linger now = {1, 0};
    if (state == FRESH || state == BOUND || state == LISTENING || state == REFUSED) {
        m.fd = tcp();
        if (state == BOUND || state == LISTENING)
            MUST(bind(m.fd, SA(a)));
        if (state == LISTENING)
            MUST(listen(m.fd, 3));
        if (state == REFUSED) {
            int l = listener(1);
            a = ADDR(port_of(l));
            close(l);
            connect(m.fd, SA(a));
        }
        return m;
    }
    struct pair p = pair();
    m = (struct made){p.c, p.s, p.l};
    if (state == SHUT_WRITE)
        MUST(shutdown(m.fd, SHUT_WR));
    if (state == SHUT_READ)
        MUST(shutdown(m.fd, SHUT_RD));
    if (state == SHUT_BOTH)
        MUST(shutdown(m.fd, SHUT_RDWR));
    if (state == AT_END || state == RESET) {
        if (state == RESET)
            MUST(setsockopt(m.other, SOL_SOCKET, SO_LINGER, &now, sizeof now));
        close(m.other);
        m.other = -1;
        ready(m.fd, POLLIN | 0x2000, 1000);
    }
    return m;
}

static void unmake(struct made m) {
    if (m.fd >= 0)
        close(m.fd);
    if (m.other >= 0)
        close(m.other);
    if (m.listener >= 0)
        close(m.listener);
}

static const char *result(long r) {
    static char text[4][40];
    static int at;
    int e = errno;
    char *t = text[at++ % 4];
    if (r < 0)
        snprintf(t, 40, "%s", errname(e));
    else
        snprintf(t, 40, "%ld", r);
    return t;
}

static void matrix(void) {
    struct sockaddr_in a;
    char b[16];
    for (int state = 0; state < STATES; state++) {
#define TRY(what, call)                                                                                                \
    do {                                                                                                               \
        struct made m = make(state);                                                                                   \
        int fd = m.fd;                                                                                                 \
        (void)fd;                                                                                                      \
        errno = 0;                                                                                                     \
        long r_ = (call);                                                                                              \
        printf("%s, %s: %s\n", names[state], what, result(r_));                                                        \
        unmake(m);                                                                                                     \
    } while (0)
        a = ADDR(0);
        socklen_t len = sizeof a;
        TRY("bind", bind(fd, SA(a)));
        if (state != FRESH && state != BOUND && state != LISTENING && state != REFUSED)
            TRY("listen", listen(fd, 1));
        TRY("accept4, SOCK_NONBLOCK", (nonblocking(fd), accept4(fd, NULL, NULL, SOCK_NONBLOCK)));
        TRY("getpeername", (len = sizeof a, getpeername(fd, (struct sockaddr *)&a, &len)));
        TRY("recv", recv(fd, b, sizeof b, MSG_DONTWAIT));
        TRY("recv nothing", recv(fd, b, 0, MSG_DONTWAIT));
        TRY("recv MSG_PEEK", recv(fd, b, sizeof b, MSG_PEEK | MSG_DONTWAIT));
        TRY("recv MSG_OOB", recv(fd, b, 1, MSG_OOB | MSG_DONTWAIT));
        TRY("recv MSG_ERRQUEUE", recv(fd, b, 1, MSG_ERRQUEUE | MSG_DONTWAIT));
        TRY("send", send(fd, "x", 1, MSG_NOSIGNAL));
        TRY("send nothing", send(fd, "", 0, MSG_NOSIGNAL));
        TRY("read nothing", read(fd, b, 0));
        TRY("shutdown RD", shutdown(fd, SHUT_RD));
        TRY("shutdown WR", shutdown(fd, SHUT_WR));
        TRY("shutdown RDWR", shutdown(fd, SHUT_RDWR));
        TRY("poll", ready(fd, POLLIN | POLLOUT | 0x2000, 0));
        TRY("FIONREAD", ({
                int n = -1;
                int r = ioctl(fd, FIONREAD, &n);
                r < 0 ? r : n;
            }));
        TRY("SO_ERROR", ({
                int e = -1;
                socklen_t l = sizeof e;
                int r = getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &l);
                r < 0 ? r : e;
            }));
        TRY("SO_ACCEPTCONN", ({
                int e = -1;
                socklen_t l = sizeof e;
                int r = getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &e, &l);
                r < 0 ? r : e;
            }));
    }
}

static void descriptors(void) {
    char b[8];
    struct sockaddr_in a = ADDR(1);
    socklen_t len = sizeof a;
    int fds[2];
    MUST(pipe(fds));
    int bad[2] = {999, fds[0]};
    for (int i = 0; i < 2; i++) {
        int fd = bad[i];
        puts(i ? "a pipe" : "no descriptor");
        SAY("bind", bind(fd, SA(a)));
        SAY("listen", listen(fd, 1));
        SAY("accept", accept(fd, NULL, NULL));
        SAY("accept4", accept4(fd, NULL, NULL, 0));
        SAY("connect", connect(fd, SA(a)));
        SAY("shutdown", shutdown(fd, SHUT_WR));
        SAY("getsockname", getsockname(fd, (struct sockaddr *)&a, &len));
        SAY("getpeername", getpeername(fd, (struct sockaddr *)&a, &len));
        SAY("recv", recv(fd, b, 1, 0));
        SAY("recvfrom", recvfrom(fd, b, 1, 0, NULL, NULL));
        SAY("send", send(fd, b, 1, 0));
        SAY("sendto", sendto(fd, b, 1, 0, SA(a)));
        SAY("getsockopt", getsockopt(fd, SOL_SOCKET, SO_TYPE, &a, &len));
        SAY("setsockopt", setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, 4));
    }
    SAY("-1: read", read(-1, b, 1));
    SAY("-1: close", close(-1));
    SAY("-1: fcntl", fcntl(-1, F_GETFL));
    SAY("-1: dup", dup(-1));
    SAY("-1: shutdown", shutdown(-1, 0));
    SAY("-1: epoll_wait", epoll_wait(-1, &(struct epoll_event){0}, 1, 0));
    close(fds[0]), close(fds[1]);
    SAY("AF 200", socket(200, SOCK_STREAM, 0));
    SAY("stream of UDP", socket(DOMAIN, SOCK_STREAM, IPPROTO_UDP));
    SAY("protocol 255", socket(DOMAIN, SOCK_STREAM, 255));
    SAY("datagram of TCP", socket(DOMAIN, SOCK_DGRAM, IPPROTO_TCP));
    SAY("unknown flags", socket(DOMAIN, SOCK_STREAM | 0x10000000, 0));
    int fd = SAYFD("TCP by name", socket(DOMAIN, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    printf("%d %d\n", fcntl(fd, F_GETFD), (fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE)) == (O_NONBLOCK | O_RDWR));
    close(fd);
}

static void pointers(void) {
    struct pair p = pair();
    socklen_t len = sizeof(struct sockaddr_in);
    void *bad[3] = {NULL, (void *)8, forbidden};
    const char *what[3] = {"NULL", "8", "a forbidden page"};
    for (int i = 0; i < 3; i++) {
        printf("%s\n", what[i]);
        int fd = tcp();
        SAY("bind", bind(fd, bad[i], sizeof(struct sockaddr_in)));
        SAY("connect", connect(fd, bad[i], sizeof(struct sockaddr_in)));
        SAY("getsockname", getsockname(p.c, bad[i], &len));
        SAY("getsockname, length", getsockname(p.c, (struct sockaddr *)&(struct sockaddr_in){0}, bad[i]));
        SAY("getpeername", getpeername(p.c, bad[i], &len));
        SAY("send", send(p.c, bad[i], 4, 0));
        SAY("send nothing", send(p.c, bad[i], 0, 0));
        SAY("write", write(p.c, bad[i], 4));
        MUST(send(p.c, "abcd", 4, 0));
        ready(p.s, POLLIN, 1000);
        SAY("recv", recv(p.s, bad[i], 4, 0));
        SAY("read", read(p.s, bad[i], 4));
        SAY("writev, array", writev(p.c, bad[i], 1));
        SAY("readv, array", readv(p.s, bad[i], 1));
        struct iovec v = {bad[i], 4};
        SAY("writev, base", writev(p.c, &v, 1));
        SAY("readv, base", readv(p.s, &v, 1));
        SAY("sendmsg", sendmsg(p.c, bad[i], 0));
        SAY("recvmsg", recvmsg(p.s, bad[i], 0));
        SAY("setsockopt", setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, bad[i], 4));
        SAY("getsockopt", getsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, bad[i], &len));
        SAY("getsockopt, length", getsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &(int){0}, bad[i]));
        SAY("FIONREAD", ioctl(p.s, FIONREAD, bad[i]));
        SAY("poll", poll(bad[i], 1, 0));
        int ep = epoll_create1(0);
        SAY("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, p.s, bad[i]));
        struct epoll_event e = {.events = EPOLLIN};
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.s, &e));
        SAY("epoll_wait", epoll_wait(ep, bad[i], 1, 0));
        close(ep);
        char b[8];
        SAY("nothing was lost", recv(p.s, b, 8, MSG_DONTWAIT));
        close(fd);
    }
    /* The first half may be touched, the second not. */
    char *edge = (char *)forbidden - 2, b[8];
    memcpy(edge, "ab", 2);
    SAY("send over the edge", send(p.c, edge, 4, 0));
    SAY("what arrives", recv(p.s, b, 8, MSG_DONTWAIT));
    MUST(send(p.c, "wxyz", 4, 0));
    ready(p.s, POLLIN, 1000);
    SAY("recv over the edge", recv(p.s, edge, 4, 0));
    SAY("accept, address", ({
            int c = connected_to(p.l);
            len = 16;
            int s = accept(p.l, bad[2], &len);
            int e = errno;
            close(c);
            errno = e;
            s < 0 ? s : 0;
        }));
    len = -1;
    SAY("getsockname, negative length", getsockname(p.c, (struct sockaddr *)b, &len));
    len = 0;
    SAY("getsockname, length 0", getsockname(p.c, (struct sockaddr *)b, &len));
    printf("%d\n", (int)len);
    unpair(p);
}

/* connect with addresses that are none: which is looked at first, the address or the socket. */
static void named(const char *state, int fd) {
    struct sockaddr_storage unix_ = {.ss_family = AF_UNIX}, inet = {.ss_family = DOMAIN};
    printf("%s\n", state);
    SAY("connect, another family", connect(fd, (struct sockaddr *)&unix_, 28));
    SAY("connect, another family, short", connect(fd, (struct sockaddr *)&unix_, 4));
    SAY("connect, short", connect(fd, (struct sockaddr *)&inet, 8));
    SAY("connect, two bytes", connect(fd, (struct sockaddr *)&inet, 2));
    SAY("connect, one byte", connect(fd, (struct sockaddr *)&inet, 1));
    SAY("connect, length 129", connect(fd, (struct sockaddr *)&inet, 129));
    SAY("connect, negative length", connect(fd, (struct sockaddr *)&inet, -1));
    SAY("connect, bad pointer", connect(fd, (struct sockaddr *)forbidden, 16));
    SAY("connect, bad pointer, one byte", connect(fd, (struct sockaddr *)forbidden, 1));
}

static void addresses(void) {
    struct pair p = pair();
    int c = nonblocking(tcp());
    /* Documentation addresses: nobody answers, or there is no route. */
    struct sockaddr_in a = ADDR(1);
    int full = listener(0);
    int first = connected_to(full);
    a = ADDR(port_of(full));
    named("fresh", c);
    connect(c, SA(a));
    int second = nonblocking(tcp());
    connect(second, SA(a));
    nap(50);
    named("connecting", second);
    named("connected", p.c);
    named("listening", p.l);
    shutdown(p.c, SHUT_RDWR);
    named("shut down", p.c);
    close(second);
    close(first);
    close(c);
    close(full);
    unpair(p);
}

/* What listen sets back, and what a connection does not have of its listener. */
static void inherited(void) {
    int l = tcp(), value = 0;
    socklen_t len = sizeof value;
    struct sockaddr_in a = ADDR(0);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_QUICKACK, &(int){0}, 4));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){3}, 4));
    MUST(bind(l, SA(a)));
    MUST(listen(l, 4));
    MUST(getsockopt(l, IPPROTO_TCP, TCP_QUICKACK, &value, &len));
    printf("TCP_QUICKACK of a listener: %d\n", value);
    int c = connected_to(l);
    MUST(send(c, "x", 1, 0));
    int s = MUST(accept(l, NULL, NULL));
    MUST(getsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &value, &len));
    printf("TCP_DEFER_ACCEPT of the listener: %d\n", value);
    MUST(getsockopt(s, IPPROTO_TCP, TCP_DEFER_ACCEPT, &value, &len));
    printf("and of its connection: %d\n", value);
    close(s);
    close(c);
    close(l);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    char *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(mprotect(two + 4096, 4096, PROT_NONE));
    forbidden = two + 4096;
    descriptors();
    matrix();
    pointers();
    addresses();
    inherited();
    return 0;
}
