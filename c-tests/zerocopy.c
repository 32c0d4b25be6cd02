/* MSG_ZEROCOPY: what the error queue tells of it, when, and in which ranges; recvmsg with MSG_ERRQUEUE in all its shapes. With the
 * argument "few": where net.core.optmem_max leaves room for one notification. */
#include "t.h"
#include <linux/errqueue.h>

#ifndef SO_EE_ORIGIN_ZEROCOPY
#define SO_EE_ORIGIN_ZEROCOPY 5
#endif

static char big[4000000];

static int zerocopy(int fd) {
    MUST(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)));
    return fd;
}

static struct pair zpair(void) {
    struct pair p = pair();
    zerocopy(p.c), zerocopy(p.s);
    return p;
}

static void saycontrol(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        printf("; level %d type %d length %d", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len);
        if (c->cmsg_level == SOL_SOCKET) {
            struct timeval t, now;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            gettimeofday(&now, NULL);
            printf(", a time %s", labs(t.tv_sec - now.tv_sec) < 60 ? "just now" : "of old");
            continue;
        }
        struct sock_extended_err e = {0};
        size_t room = (char *)m->msg_control + m->msg_controllen - (char *)CMSG_DATA(c);
        memcpy(&e, CMSG_DATA(c), room < sizeof e ? room : sizeof e);
        printf(", errno %d origin %d type %d code %d pad %d calls %u to %u", e.ee_errno, e.ee_origin, e.ee_type, e.ee_code,
               e.ee_pad, e.ee_info, e.ee_data);
        for (unsigned char *b = CMSG_DATA(c) + sizeof e; b < (unsigned char *)c + c->cmsg_len; b++)
            if (*b)
                printf(", an offender");
    }
}

/* One entry of the queue. */
static int told(const char *what, int fd, int flags) {
    char control[300], data[50];
    struct sockaddr_in from;
    struct iovec v = {data, sizeof data};
    struct msghdr m = {&from, sizeof from, &v, 1, control, sizeof control, -1};
    long r = recvmsg(fd, &m, MSG_ERRQUEUE | flags);
    if (r < 0) {
        printf("%s: %s\n", what, errname(errno));
        return 0;
    }
    printf("%s: %ld, flags %#x, name %d, control %d", what, r, m.msg_flags, (int)m.msg_namelen, (int)m.msg_controllen);
    saycontrol(&m);
    puts("");
    return 1;
}

/* Until all is acknowledged, and a moment longer. */
static void settle(int fd) {
    int left = 1;
    for (int n = 0; left > 0 && n < 400; n++) {
        MUST(ioctl(fd, TIOCOUTQ, &left));
        nap(5);
    }
    if (left)
        puts("NOT ACKNOWLEDGED");
}

static void all(const char *what, int fd) {
    settle(fd);
    sayready(what, fd, 0);
    while (told(what, fd, 0))
        ;
}

static void zsend(const char *what, int fd, size_t n) { SAY(what, send(fd, big, n, MSG_ZEROCOPY | MSG_NOSIGNAL)); }

static void option(const char *what, int fd) {
    int values[] = {-1, 1, 2, 7, 0, 1};
    printf("%s:", what);
    for (int i = 0; i < 6; i++) {
        int r = setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &values[i], 4), now = 99;
        socklen_t len = sizeof now;
        printf(" %d: %s", values[i], r ? errname(errno) : "0");
        MUST(getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &now, &len));
        printf(" -> %d,", now);
    }
    printf(" a byte: %s\n", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, values, 1) ? errname(errno) : "0");
}

static void options(void) {
    int fresh = tcp();
    option("fresh", fresh), close(fresh);
    struct pair p = pair();
    option("connected", p.c), option("listening", p.l);
    int c = connected_to(p.l), s = MUST(accept(p.l, NULL, NULL)), v = 9;
    socklen_t len = sizeof v;
    MUST(getsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &v, &len));
    printf("what accept gives: %d\n", v);
    zsend("it sends", s, 10), all("and is told", s);
    close(c), close(s), unpair(p);
}

static void ranges(void) {
    struct pair p = pair();
    zsend("not asked for", p.c, 10), all("no notification", p.c);
    zerocopy(p.c);
    SAY("a plain send", send(p.c, big, 10, 0)), all("nothing", p.c);
    zsend("one", p.c, 10), all("one", p.c);
    for (int i = 0; i < 3; i++)
        zsend("of three", p.c, 10), settle(p.c);
    all("three together", p.c);
    zsend("empty", p.c, 0), all("no notification", p.c);
    SAY("bad pointer", send(p.c, (void *)8, 10, MSG_ZEROCOPY)), all("no notification", p.c);
    zsend("the next", p.c, 10), all("the next", p.c);
    struct iovec v[3] = {{big, 5}, {big, 0}, {big, 7}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
    SAY("sendmsg", sendmsg(p.c, &m, MSG_ZEROCOPY)), all("sendmsg", p.c);
    struct mmsghdr mm[2] = {{.msg_hdr = m}, {.msg_hdr = m}};
    SAY("sendmmsg", sendmmsg(p.c, mm, 2, MSG_ZEROCOPY)), all("sendmmsg", p.c);
    SAY("sendto", sendto(p.c, big, 9, MSG_ZEROCOPY, NULL, 0)), all("sendto", p.c);
    SAY("cork", setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){1}, 4));
    zsend("corked", p.c, 100), zsend("corked", p.c, 100);
    SAY("plain", send(p.c, big, 100, 0));
    zsend("corked", p.c, 100);
    sayready("not sent yet", p.c, 20);
    SAY("uncork", setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){0}, 4));
    all("corked", p.c);
    SAY("no longer", setsockopt(p.c, SOL_SOCKET, SO_ZEROCOPY, &(int){0}, 4));
    zsend("no longer", p.c, 10), all("no longer", p.c);
    zerocopy(p.c), zsend("again", p.c, 10), all("again", p.c);
    unpair(p);
}

static void *drain(void *arg) {
    char b[50000];
    while (recv(*(int *)arg, b, sizeof b, 0) > 0)
        ;
    return NULL;
}

static void large(void) {
    struct pair p = zpair();
    pthread_t t;
    nonblocking(p.c);
    int calls = 0;
    while (send(p.c, big, 100000, MSG_ZEROCOPY) > 0)
        calls++;
    printf("until it would block: %s\n", calls > 1 ? errname(errno) : "at once");
    MUST(fcntl(p.c, F_SETFL, 0));
    pthread_create(&t, NULL, drain, &p.s);
    settle(p.c);
    char control[100];
    unsigned next = 0;
    for (struct msghdr m = {.msg_control = control, .msg_controllen = sizeof control}; recvmsg(p.c, &m, MSG_ERRQUEUE) >= 0;) {
        struct sock_extended_err *e = (void *)CMSG_DATA((struct cmsghdr *)control);
        if (e->ee_info != next)
            puts("OUT OF ORDER");
        next = e->ee_data + 1;
    }
    printf("all were told of: %d\n", (int)next == calls);
    SAY("more than the buffer", send(p.c, big, sizeof big, MSG_ZEROCOPY) == sizeof big);
    settle(p.c);
    sayready("told", p.c, 0);
    SAY("once", recv(p.c, control, 10, MSG_ERRQUEUE)), SAY("and no more", recv(p.c, control, 10, MSG_ERRQUEUE));
    shutdown(p.c, SHUT_WR);
    pthread_join(t, NULL);
    unpair(p);
}

static void shapes(void) {
    struct pair p = zpair();
    int rooms[] = {0, 8, 15, 16, 20, 31, 32, 47, 48, 60, 64, 100};
    for (int i = 0; i < 12; i++) {
        char control[128];
        struct iovec v = {big, 20};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = rooms[i], .msg_flags = -1};
        MUST(send(p.c, big, 10, MSG_ZEROCOPY));
        settle(p.c);
        printf("room for %d: %ld", rooms[i], (long)recvmsg(p.c, &m, MSG_ERRQUEUE));
        printf(" flags %#x, control %d", m.msg_flags, (int)m.msg_controllen);
        saycontrol(&m);
        puts("");
    }
    zsend("no control", p.c, 10), settle(p.c);
    struct msghdr m = {.msg_control = NULL, .msg_controllen = 100};
    SAY("recvmsg", recvmsg(p.c, &m, MSG_ERRQUEUE));
    printf("flags %#x, control %d\n", m.msg_flags, (int)m.msg_controllen);
    zsend("recv", p.c, 10), settle(p.c);
    SAY("recv", recv(p.c, big, 10, MSG_ERRQUEUE)), told("gone", p.c, 0);
    zsend("recvfrom", p.c, 10), settle(p.c);
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    SAY("recvfrom", recvfrom(p.c, big, 10, MSG_ERRQUEUE, (struct sockaddr *)&from, &len)), SAY("length", len);
    zsend("peek", p.c, 10), settle(p.c);
    told("MSG_PEEK", p.c, MSG_PEEK), told("is gone all the same", p.c, 0);
    zsend("flags", p.c, 10), settle(p.c);
    told("MSG_TRUNC, MSG_WAITALL, MSG_CMSG_CLOEXEC", p.c, MSG_TRUNC | MSG_WAITALL | MSG_CMSG_CLOEXEC);
    told("it does not wait", p.c, 0);
    char control[2][100];
    struct mmsghdr mm[2] = {{.msg_hdr = {.msg_control = control[0], .msg_controllen = 100}}, {.msg_hdr = {.msg_control = control[1], .msg_controllen = 100}}};
    zsend("recvmmsg", p.c, 10), settle(p.c);
    SAY("recvmmsg", recvmmsg(p.c, mm, 2, MSG_ERRQUEUE | MSG_WAITFORONE, NULL));
    SAY("SO_TIMESTAMP", setsockopt(p.c, SOL_SOCKET, SO_TIMESTAMP, &(int){1}, 4));
    zsend("stamped", p.c, 10), settle(p.c), told("stamped", p.c, 0);
    told("a listener", p.l, 0);
    int fresh = zerocopy(tcp());
    told("fresh", fresh, 0);
    zsend("fresh", fresh, 10), told("fresh", fresh, 0);
    SAY("data is not told of here", send(p.s, "data", 4, 0));
    sayready("data", p.c, 500);
    told("data", p.c, 0);
    SAY("recv", recv(p.c, big, 10, 0));
    close(fresh), unpair(p);
}

static void sayepoll(const char *what, int set) {
    struct epoll_event e;
    int n = epoll_wait(set, &e, 1, 200);
    printf("%s: %s\n", what, n == 1 ? events(e.events) : "silence");
}

static void waiting(void) {
    struct pair p = zpair();
    int level = MUST(epoll_create1(0)), edge = MUST(epoll_create1(0));
    MUST(epoll_ctl(level, EPOLL_CTL_ADD, p.c, &(struct epoll_event){.events = EPOLLIN}));
    MUST(epoll_ctl(edge, EPOLL_CTL_ADD, p.c, &(struct epoll_event){.events = EPOLLIN | EPOLLET}));
    sayepoll("level", level), sayepoll("edge", edge);
    zsend("one", p.c, 10), settle(p.c);
    sayepoll("level", level), sayepoll("level", level), sayepoll("edge", edge), sayepoll("edge", edge);
    zsend("two", p.c, 10), settle(p.c);
    sayepoll("edge", edge), sayepoll("edge", edge);
    told("both", p.c, 0);
    sayepoll("level", level), sayepoll("edge", edge);
    fd_set r, w, x;
    zsend("select", p.c, 10), settle(p.c);
    fd_set *sets[] = {&r, &w, &x};
    for (int i = 0; i < 3; i++) {
        FD_ZERO(sets[i]);
        FD_SET(p.c, sets[i]);
    }
    SAY("select", select(p.c + 1, &r, &w, &x, &(struct timeval){0, 100000}));
    printf("reading %d writing %d exceptional %d\n", FD_ISSET(p.c, &r) != 0, FD_ISSET(p.c, &w) != 0, FD_ISSET(p.c, &x) != 0);
    MUST(setsockopt(p.c, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){0, 150000}, sizeof(struct timeval)));
    SAY("recv does not care", recv(p.c, big, 10, 0));
    int e = -1;
    socklen_t len = sizeof e;
    SAY("SO_ERROR neither", getsockopt(p.c, SOL_SOCKET, SO_ERROR, &e, &len)), SAY("error", e);
    int twin = dup(p.c);
    pid_t child = fork();
    if (!child) {
        told("the child takes it, by another descriptor", twin, 0);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    told("so it is gone", p.c, 0);
    sayready("and quiet", p.c, 0);
    close(twin), close(level), close(edge), unpair(p);
}

static void ends(void) {
    struct pair p = zpair();
    zsend("before the end", p.c, 10), shutdown(p.c, SHUT_WR);
    zsend("after it", p.c, 10);
    all("at the end", p.c);
    unpair(p);
    p = zpair();
    zsend("and then closed by the peer", p.c, 10), settle(p.c);
    recv(p.s, big, 100, 0), close(p.s), nap(30);
    sayready("closed", p.c, 0), told("closed", p.c, 0), sayready("closed", p.c, 0);
    close(p.c), close(p.l);
    p = zpair();
    /* What the peer has no room for is never sent. */
    nonblocking(p.c);
    zsend("read", p.c, 10), settle(p.c), told("read", p.c, 0);
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){1}, 4));
    zsend("corked", p.c, 100), zsend("corked", p.c, 100);
    close(p.s), nap(50);
    sayready("reset", p.c, 0);
    while (told("reset", p.c, 0))
        ;
    zsend("reset", p.c, 10), zsend("reset", p.c, 10), told("reset", p.c, 0);
    sayready("reset", p.c, 0);
    close(p.c);
    p.c = zerocopy(connected_to(p.l)), p.s = MUST(accept(p.l, NULL, NULL));
    zsend("one", p.c, 10), settle(p.c);
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){1}, 4));
    zsend("corked", p.c, 100);
    struct sockaddr none = {AF_UNSPEC};
    SAY("disconnect", connect(p.c, &none, sizeof none));
    sayready("disconnected", p.c, 0);
    while (told("disconnected", p.c, 0))
        ;
    struct sockaddr_in a = ADDR(port_of(p.l));
    SAY("connect again", connect(p.c, SA(a)));
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){0}, 4));
    zsend("goes on counting", p.c, 10), all("goes on counting", p.c);
    unpair(p);
}

static void in_the_syn(void) {
    struct pair p = pair();
    MUST(setsockopt(p.l, IPPROTO_TCP, TCP_FASTOPEN, &(int){5}, 4));
    for (int n = 0; n < 3; n++) {
        int c = zerocopy(tcp());
        struct sockaddr_in a = ADDR(port_of(p.l));
        SAY("MSG_FASTOPEN", sendto(c, big, n == 2 ? 5000 : 10, MSG_ZEROCOPY | MSG_FASTOPEN, SA(a)));
        all("MSG_FASTOPEN", c);
        int s = MUST(accept(p.l, NULL, NULL));
        zsend("and then", c, 10), all("and then", c);
        close(c), close(s);
    }
    unpair(p);
}

/* Room for one that is not read, and not for another. */
static void few(void) {
    struct pair p = zpair();
    zsend("one", p.c, 10), settle(p.c);
    zsend("another", p.c, 10), zsend("of nothing", p.c, 0);
    SAY("plain", send(p.c, big, 10, 0));
    told("one", p.c, 0);
    zsend("another", p.c, 10), settle(p.c), told("another", p.c, 0);
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){1}, 4));
    zsend("corked", p.c, 100), zsend("in the same", p.c, 100);
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &(int){0}, 4));
    all("both", p.c);
    zsend("a third", p.c, 10), settle(p.c);
    shutdown(p.c, SHUT_WR);
    zsend("no room comes first", p.c, 10);
    told("a third", p.c, 0);
    zsend("then the end", p.c, 10);
    unpair(p);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        few();
        return 0;
    }
    options();
    ranges();
    large();
    shapes();
    waiting();
    ends();
    in_the_syn();
    return 0;
}
