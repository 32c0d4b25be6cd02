/* Urgent data: MSG_OOB both ways, the mark, SO_OOBINLINE, and what poll, select, epoll and ioctl say of it. With "server PORT" and
 * "client HOST PORT": between two programs, each in its turn sending and looking. */
#include "t.h"
#include <linux/sockios.h>

/* Waits until the peer's TCP has all that was sent. */
static void arrived(int fd) {
    int n = 1;
    for (int i = 0; i < 3000 && n; i++, nap(n ? 1 : 0))
        MUST(ioctl(fd, SIOCOUTQ, &n));
    if (n)
        puts("NOT ACKNOWLEDGED");
}

static void plain(int fd, const char *text) {
    MUST(send(fd, text, strlen(text), 0));
    arrived(fd);
}

static void urgent(int fd, const char *text) {
    MUST(send(fd, text, strlen(text), MSG_OOB));
    arrived(fd);
}

/* What there is to be seen from outside. */
static void state(const char *what, int fd) {
    int mark = -1, waiting = -1;
    printf("%s: %s", what, events(ready(fd, POLLIN | POLLPRI, 0)));
    if (ioctl(fd, SIOCATMARK, &mark) < 0)
        printf(", SIOCATMARK %s", errname(errno));
    else
        printf(", mark %d", mark);
    printf(" %d", sockatmark(fd));
    if (ioctl(fd, FIONREAD, &waiting) < 0)
        printf(", FIONREAD %s\n", errname(errno));
    else
        printf(", %d bytes\n", waiting);
    fflush(stdout);
}

static void take(const char *what, int fd, int room, int flags) {
    char b[64];
    memset(b, '.', sizeof b);
    long n = recv(fd, b, room, flags | MSG_DONTWAIT);
    if (n < 0)
        printf("%s: %s\n", what, errname(errno));
    else
        printf("%s: %ld '%.*s'\n", what, n, (int)(n < 64 ? n : 64), b);
    fflush(stdout);
}

static void inline_(int fd, int on) { MUST(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on)); }

static void simple(void) {
    struct pair p = pair();
    state("nothing", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    plain(p.c, "abc");
    take("MSG_OOB, ordinary data", p.s, 1, MSG_OOB);
    urgent(p.c, "d");
    state("urgent", p.s);
    plain(p.c, "ef");
    state("and more", p.s);
    take("peek at it", p.s, 1, MSG_OOB | MSG_PEEK);
    take("and with room", p.s, 10, MSG_OOB | MSG_PEEK);
    take("a read", p.s, 2, 0);
    state("before the mark", p.s);
    take("a read up to the mark", p.s, 10, 0);
    state("at the mark", p.s);
    take("the urgent byte", p.s, 10, MSG_OOB);
    state("read", p.s);
    take("again", p.s, 1, MSG_OOB);
    take("again, peeking", p.s, 1, MSG_OOB | MSG_PEEK);
    take("a read beyond", p.s, 10, 0);
    state("beyond", p.s);
    take("MSG_OOB beyond", p.s, 1, MSG_OOB);
    urgent(p.c, "xyz");
    state("three bytes with MSG_OOB", p.s);
    take("the last is urgent", p.s, 10, MSG_OOB);
    take("the others are not", p.s, 10, 0);
    take("nothing is left", p.s, 10, 0);
    state("nothing", p.s);
    /* The other way as well. */
    urgent(p.s, "r");
    state("the other way", p.c);
    take("MSG_OOB", p.c, 1, MSG_OOB);
    unpair(p);
}

static void skipped(void) {
    struct pair p = pair();
    urgent(p.c, "u");
    state("alone", p.s);
    take("peek passes it", p.s, 10, MSG_PEEK);
    state("still there", p.s);
    take("a read passes it", p.s, 10, 0);
    state("and it is gone", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    urgent(p.c, "v");
    plain(p.c, "after");
    state("with more", p.s);
    take("peek", p.s, 3, MSG_PEEK);
    take("peek at all", p.s, 20, MSG_PEEK);
    state("still at the mark", p.s);
    take("one byte", p.s, 1, 0);
    state("passed", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    take("the rest", p.s, 20, 0);
    plain(p.c, "be");
    urgent(p.c, "w");
    plain(p.c, "fore");
    take("peek stops at the mark", p.s, 20, MSG_PEEK);
    take("MSG_TRUNC stops too", p.s, 20, MSG_TRUNC);
    take("MSG_TRUNC passes it", p.s, 3, MSG_TRUNC);
    state("one is left", p.s);
    take("it", p.s, 20, 0);
    unpair(p);
}

static void in_line(void) {
    struct pair p = pair();
    inline_(p.s, 1);
    plain(p.c, "abc");
    urgent(p.c, "d");
    plain(p.c, "ef");
    state("inline", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    take("up to the mark", p.s, 10, 0);
    state("at the mark", p.s);
    take("peek", p.s, 10, MSG_PEEK);
    take("beyond", p.s, 1, 0);
    state("passed", p.s);
    take("the rest", p.s, 10, 0);
    urgent(p.c, "u");
    state("alone", p.s);
    take("zero bytes", p.s, 0, 0);
    take("it", p.s, 10, 0);
    state("read", p.s);
    /* The option is changed while it waits. */
    urgent(p.c, "v");
    inline_(p.s, 0);
    state("not inline any more", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    inline_(p.s, 1);
    state("inline again", p.s);
    take("read twice", p.s, 10, 0);
    plain(p.c, "a");
    urgent(p.c, "w");
    inline_(p.s, 0);
    take("up to it", p.s, 10, 0);
    state("at the mark", p.s);
    inline_(p.s, 1);
    state("inline", p.s);
    take("it", p.s, 10, 0);
    unpair(p);
}

/* A second urgent byte before the first one is read. */
static void several(int in) {
    printf("- several, inline %d\n", in);
    struct pair p = pair();
    inline_(p.s, in);
    urgent(p.c, "1");
    urgent(p.c, "2");
    state("two in a row", p.s);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("a read", p.s, 10, 0);
    state("then", p.s);
    take("a read", p.s, 10, 0);
    plain(p.c, "abc");
    urgent(p.c, "3");
    plain(p.c, "def");
    urgent(p.c, "4");
    plain(p.c, "ghi");
    state("two among others", p.s);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("a read", p.s, 20, 0);
    state("then", p.s);
    take("a read", p.s, 20, 0);
    urgent(p.c, "5");
    take("the first is read", p.s, 1, MSG_OOB);
    state("then", p.s);
    urgent(p.c, "6");
    state("a second", p.s);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("a read", p.s, 20, 0);
    take("a read", p.s, 20, 0);
    plain(p.c, "ab");
    urgent(p.c, "7");
    take("up to the mark", p.s, 20, 0);
    plain(p.c, "cd");
    urgent(p.c, "8");
    state("at the first mark, a second comes", p.s);
    take("a read", p.s, 20, 0);
    state("then", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    take("a read", p.s, 20, 0);
    for (int i = 0; i < 5; i++)
        urgent(p.c, "9");
    state("five in a row", p.s);
    take("a read", p.s, 20, 0);
    take("a read", p.s, 20, 0);
    /* In one call each, without waiting for an acknowledgment. */
    MUST(send(p.c, "x", 1, MSG_OOB));
    MUST(send(p.c, "y", 1, MSG_OOB));
    arrived(p.c);
    state("two at once", p.s);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    take("a read", p.s, 20, 0);
    take("a read", p.s, 20, 0);
    unpair(p);
}

static void shapes(void) {
    struct pair p = pair();
    char a[4] = {0}, b[4] = {0}, c[8] = {0};
    struct iovec in[3] = {{a, 2}, {b, 2}, {c, 8}};
    plain(p.c, "abc");
    urgent(p.c, "d");
    plain(p.c, "efg");
    SAY("readv stops at the mark", readv(p.s, in, 3));
    printf("%.2s|%.2s|%.8s\n", a, b, c);
    SAY("readv passes it", readv(p.s, in, 3));
    printf("%.2s|%.2s|%.8s\n", a, b, c);
    plain(p.c, "ab");
    urgent(p.c, "d");
    plain(p.c, "efg");
    SAY("the mark between two", readv(p.s, in, 3));
    printf("%.2s|%.2s|%.8s\n", a, b, c);
    SAY("MSG_WAITALL after it", recv(p.s, c, 3, MSG_WAITALL));
    plain(p.c, "ab");
    urgent(p.c, "d");
    SAY("MSG_WAITALL stops at the mark", recv(p.s, c, 8, MSG_WAITALL));
    SAY("peek, MSG_WAITALL", recv(p.s, c, 1, MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT));
    plain(p.c, "xyz");
    SAY("peek, MSG_WAITALL, at the mark", recv(p.s, c, 3, MSG_PEEK | MSG_WAITALL));
    printf("%.3s\n", c);

    char control[64];
    struct sockaddr_in from;
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = in, .msg_iovlen = 3, .msg_control = control, .msg_controllen = sizeof control, .msg_flags = -1};
    SAY("recvmsg, peek", recvmsg(p.s, &m, MSG_OOB | MSG_PEEK));
    printf("'%.1s', name %d, control %d, flags %x\n", a, (int)m.msg_namelen, (int)m.msg_controllen, m.msg_flags);
    m.msg_iovlen = 0, m.msg_flags = -1;
    SAY("recvmsg, no room, peek", recvmsg(p.s, &m, MSG_OOB | MSG_PEEK));
    printf("flags %x\n", m.msg_flags);
    m.msg_iovlen = 3, m.msg_flags = -1;
    SAY("recvmsg, MSG_TRUNC, peek", recvmsg(p.s, &m, MSG_OOB | MSG_PEEK | MSG_TRUNC));
    printf("flags %x\n", m.msg_flags);
    m.msg_iovlen = 0, m.msg_flags = -1;
    SAY("recvmsg, no room", recvmsg(p.s, &m, MSG_OOB));
    printf("flags %x\n", m.msg_flags);
    m.msg_iovlen = 3, m.msg_flags = -1;
    SAY("which has taken it", recvmsg(p.s, &m, MSG_OOB));
    m.msg_flags = -1;
    SAY("recvmsg of the rest", recvmsg(p.s, &m, 0));
    printf("%.2s|%.2s flags %x\n", a, b, m.msg_flags);

    urgent(p.c, "e");
    SAY("recv of 0, MSG_OOB, peek", recv(p.s, c, 0, MSG_OOB | MSG_PEEK));
    SAY("recv of 0", recv(p.s, c, 0, MSG_DONTWAIT));
    state("at the mark", p.s);
    SAY("read of 0", read(p.s, c, 0));
    SAY("a bad place", recv(p.s, (void *)8, 1, MSG_OOB));
    SAY("which has taken it", recv(p.s, c, 1, MSG_OOB));
    urgent(p.c, "f");
    SAY("a bad place, MSG_TRUNC", recv(p.s, (void *)8, 1, MSG_OOB | MSG_TRUNC));
    SAY("which has taken it", recv(p.s, c, 1, MSG_OOB));
    urgent(p.c, "g");
    socklen_t len = sizeof from;
    SAY("recvfrom", recvfrom(p.s, c, 1, MSG_OOB, (struct sockaddr *)&from, &len));
    printf("'%.1s'\n", c);
    take("pass", p.s, 1, 0);

    struct iovec out[3] = {{"on", 2}, {"", 0}, {"tw!", 3}};
    m = (struct msghdr){.msg_iov = out, .msg_iovlen = 3};
    SAY("sendmsg", sendmsg(p.c, &m, MSG_OOB));
    arrived(p.c);
    state("then", p.s);
    struct mmsghdr rm[3] = {{.msg_hdr = {.msg_iov = in, .msg_iovlen = 3}}, {.msg_hdr = {.msg_iov = in, .msg_iovlen = 3}}, {.msg_hdr = {.msg_iov = in, .msg_iovlen = 3}}};
    SAY("recvmmsg, MSG_OOB", recvmmsg(p.s, rm, 3, MSG_OOB, NULL));
    printf("%u '%.1s' flags %x\n", rm[0].msg_len, a, rm[0].msg_hdr.msg_flags);
    SAY("recvmmsg, MSG_OOB, again", recvmmsg(p.s, rm, 3, MSG_OOB, NULL));
    SAY("recvmmsg", recvmmsg(p.s, rm, 1, 0, NULL));
    printf("%u '%.2s%.2s' flags %x\n", rm[0].msg_len, a, b, rm[0].msg_hdr.msg_flags);
    take("pass", p.s, 1, 0);
    struct mmsghdr mm[2] = {{.msg_hdr = {.msg_iov = out, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = out + 2, .msg_iovlen = 1}}};
    SAY("sendmmsg", sendmmsg(p.c, mm, 2, MSG_OOB));
    arrived(p.c);
    state("then", p.s);
    take("up to the mark", p.s, 20, 0);
    take("MSG_OOB", p.s, 20, MSG_OOB);
    SAY("send of 0", send(p.c, "", 0, MSG_OOB));
    SAY("send, MSG_MORE", send(p.c, "k", 1, MSG_OOB | MSG_MORE));
    arrived(p.c);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    int on = 1;
    MUST(setsockopt(p.c, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    MUST(send(p.c, "corked", 6, 0));
    urgent(p.c, "l");
    take("TCP_CORK does not hold it", p.s, 20, MSG_OOB);
    take("nor what comes before", p.s, 20, 0);
    unpair(p);
}

static void lowat(void) {
    struct pair p = pair();
    int n = 3;
    MUST(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof n));
    plain(p.c, "ab");
    state("SO_RCVLOWAT 3, two bytes", p.s);
    urgent(p.c, "c");
    state("and an urgent one", p.s);
    take("two", p.s, 2, 0);
    plain(p.c, "de");
    state("the urgent one and two more", p.s);
    plain(p.c, "f");
    state("and three", p.s);
    inline_(p.s, 1);
    state("inline", p.s);
    unpair(p);
}

static void selected(const char *what, int fd, int ms) {
    fd_set r, w, e;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&e);
    FD_SET(fd, &r);
    FD_SET(fd, &e);
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    int n = select(fd + 1, &r, &w, &e, &tv);
    printf("%s: select %d, readable %d, exceptional %d\n", what, n, !!FD_ISSET(fd, &r), !!FD_ISSET(fd, &e));
    fflush(stdout);
}

static void waits(void) {
    struct pair p = pair();
    selected("nothing", p.s, 0);
    urgent(p.c, "u");
    selected("urgent", p.s, 1000);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    selected("read", p.s, 0);
    plain(p.c, "abc");
    selected("more", p.s, 1000);
    take("it", p.s, 10, 0);
    /* A process that sleeps for urgent data is not woken for other. */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        nap(60);
        plain(p.c, "no");
        nap(60);
        urgent(p.c, "y");
        nap(60);
        plain(p.c, "z");
        _exit(0);
    }
    printf("poll for PRI alone: %s\n", events(ready(p.s, POLLPRI, 2000)));
    state("then", p.s);
    take("up to the mark", p.s, 10, 0);
    char c;
    fcntl(p.s, F_SETFL, 0);
    SAY("a read that waits behind the mark", recv(p.s, &c, 1, 0));
    printf("'%c'\n", c);
    waitpid(child, NULL, 0);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        nap(60);
        urgent(p.c, "v");
        _exit(0);
    }
    selected("select that waits", p.s, 2000);
    waitpid(child, NULL, 0);
    take("MSG_OOB", p.s, 1, MSG_OOB);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        nap(60);
        plain(p.c, "ab");
        nap(30);
        urgent(p.c, "w");
        _exit(0);
    }
    char b[10];
    SAY("MSG_WAITALL is cut short", recv(p.s, b, 10, MSG_WAITALL));
    waitpid(child, NULL, 0);
    state("then", p.s);
    unpair(p);
}

static int got(int ep, int ms) {
    struct epoll_event out[4];
    int n = MUST(epoll_wait(ep, out, 4, ms));
    printf("  epoll %d:", n);
    for (int i = 0; i < n; i++)
        printf(" %s", events(out[i].events));
    puts("");
    fflush(stdout);
    return n;
}

static void polled(uint32_t flags, const char *name, int room) {
    printf("- epoll %s\n", name);
    struct pair p = pair();
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = flags};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.s, &e));
    got(ep, 0);
    plain(p.c, "abc");
    puts("ordinary data"), got(ep, 0), got(ep, 0);
    urgent(p.c, "d");
    puts("urgent"), got(ep, 1000), got(ep, 0);
    plain(p.c, "efg");
    puts("more ordinary data"), got(ep, 0), got(ep, 0);
    take("MSG_OOB", p.s, 1, MSG_OOB), got(ep, 0);
    urgent(p.c, "h");
    puts("urgent again"), got(ep, 1000), got(ep, 0);
    urgent(p.c, "i");
    puts("and again"), got(ep, 1000), got(ep, 0);
    take("a read", p.s, room, 0), got(ep, 0);
    MUST(epoll_ctl(ep, EPOLL_CTL_MOD, p.s, &e));
    puts("modified"), got(ep, 0), got(ep, 0);
    take("MSG_OOB", p.s, 1, MSG_OOB), got(ep, 0);
    shutdown(p.c, SHUT_WR);
    ready(p.s, 0x2000, 1000);
    puts("the end"), got(ep, 1000), got(ep, 0);
    close(ep);
    unpair(p);
}

static void ends(void) {
    struct pair p = pair();
    plain(p.c, "ab");
    urgent(p.c, "u");
    shutdown(p.c, SHUT_WR);
    ready(p.s, 0x2000, 1000);
    state("FIN after it", p.s);
    take("a read", p.s, 10, 0);
    state("at the mark", p.s);
    take("peek", p.s, 10, MSG_PEEK);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("the end", p.s, 10, 0);
    state("at the end", p.s);
    take("MSG_OOB at the end", p.s, 10, MSG_OOB);
    unpair(p);

    p = pair();
    urgent(p.c, "u");
    shutdown(p.c, SHUT_WR), ready(p.s, 0x2000, 1000);
    shutdown(p.s, SHUT_WR), ready(p.c, 0x2000, 1000);
    state("closed both ways", p.s);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    unpair(p);

    p = pair();
    struct linger l = {1, 0};
    plain(p.c, "ab");
    urgent(p.c, "u");
    MUST(setsockopt(p.c, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    close(p.c);
    ready(p.s, 0x2000, 1000);
    state("RST after it", p.s);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("a read", p.s, 10, 0);
    take("a read", p.s, 10, 0);
    take("a read", p.s, 10, 0);
    state("then", p.s);
    close(p.s), close(p.l);

    /* The byte that was read with MSG_OOB still lies in the stream. */
    for (int how = 0; how < 3; how++) {
        p = pair();
        urgent(p.c, "u");
        take("MSG_OOB", p.s, 10, MSG_OOB);
        if (how == 1)
            take("a read", p.s, 10, 0);
        if (how == 2)
            plain(p.c, "x"), take("a read", p.s, 10, 0);
        close(p.s);
        ready(p.c, 0x2000, 1000);
        take("what its close was to the peer", p.c, 10, 0);
        close(p.c), close(p.l);
    }

    p = pair();
    shutdown(p.s, SHUT_RD);
    urgent(p.c, "u");
    state("shut down for reading", p.s);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("MSG_OOB", p.s, 10, MSG_OOB);
    take("a read", p.s, 10, 0);
    shutdown(p.c, SHUT_WR);
    SAY("send after shutdown", send(p.c, "x", 1, MSG_OOB | MSG_NOSIGNAL));
    unpair(p);
}

static void elsewhere(void) {
    struct pair p = pair();
    int fresh = tcp();
    char c;
    SAY("send, not connected", send(fresh, "x", 1, MSG_OOB | MSG_NOSIGNAL));
    SAY("recv, not connected", recv(fresh, &c, 1, MSG_OOB));
    state("not connected", fresh);
    SAY("send to a listener", send(p.l, "x", 1, MSG_OOB | MSG_NOSIGNAL));
    SAY("recv from a listener", recv(p.l, &c, 1, MSG_OOB));
    int n = -1;
    SAY("SIOCATMARK of a listener", ioctl(p.l, SIOCATMARK, &n));
    SAY("SIOCATMARK to nowhere", ioctl(p.s, SIOCATMARK, (void *)8));
    SAY("sockatmark of nothing", sockatmark(999));
    /* Before it is accepted. */
    int early = connected_to(p.l);
    plain(early, "ab");
    urgent(early, "u");
    int s = MUST(accept(p.l, NULL, NULL));
    state("accepted", s);
    take("MSG_OOB", s, 1, MSG_OOB);
    close(early), close(s);
    /* The option is the listener's. */
    inline_(p.l, 1);
    early = connected_to(p.l);
    urgent(early, "u");
    s = MUST(accept(p.l, NULL, NULL));
    state("accepted, inline", s);
    take("a read", s, 10, 0);
    close(early), close(s), close(fresh);
    unpair(p);
}

static void shared(void) {
    struct pair p = pair();
    plain(p.c, "ab");
    urgent(p.c, "u");
    plain(p.c, "cd");
    int other = MUST(dup(p.s));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        take("a child reads up to the mark", p.s, 10, 0);
        take("a child takes it", p.s, 1, MSG_OOB);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    state("then", p.s);
    state("the same by its other name", other);
    take("MSG_OOB", other, 1, MSG_OOB);
    take("a read", other, 10, 0);
    close(other);
    unpair(p);
}

static void piped(int in) {
    printf("- splice, inline %d\n", in);
    struct pair p = pair();
    int pipes[2];
    char b[20];
    MUST(pipe(pipes));
    inline_(p.s, in);
    plain(p.c, "abc");
    urgent(p.c, "u");
    plain(p.c, "def");
    SAY("splice stops at the mark", splice(p.s, NULL, pipes[1], NULL, 100, 0));
    SAY("and does not pass it", splice(p.s, NULL, pipes[1], NULL, 100, 0));
    SAY("nor without waiting", splice(p.s, NULL, pipes[1], NULL, 100, SPLICE_F_NONBLOCK));
    nonblocking(p.s);
    SAY("nor by O_NONBLOCK", splice(p.s, NULL, pipes[1], NULL, 100, 0));
    state("at the mark", p.s);
    take("one byte", p.s, 1, 0);
    SAY("splice", splice(p.s, NULL, pipes[1], NULL, 100, 0));
    SAY("all of it", read(pipes[0], b, 20));
    close(pipes[0]), close(pipes[1]);
    unpair(p);
}

/* The peer's window is shut: it is told that there is urgent data, which is not there yet. */
static void announced(void) {
    int l = listener(4), n = 4000, c, s;
    MUST(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &n, sizeof n));
    c = tcp();
    n = 200000;
    MUST(setsockopt(c, SOL_SOCKET, SO_SNDBUF, &n, sizeof n));
    struct sockaddr_in a = ADDR(port_of(l));
    MUST(connect(c, SA(a)));
    s = MUST(accept(l, NULL, NULL));
    static char big[30000];
    memset(big, 'b', sizeof big);
    SAY("more than there is room for", send(c, big, sizeof big, MSG_DONTWAIT));
    SAY("urgent", send(c, "u", 1, MSG_DONTWAIT | MSG_OOB));
    SAY("and more", send(c, "end", 3, MSG_DONTWAIT));
    long seen = 0, early = 0;
    for (int i = 0; i < 3000 && recv(s, big, 1, MSG_OOB) < 0 && errno == EINVAL; i++)
        nap(1);
    SAY("announced", recv(s, big, 1, MSG_OOB));
    SAY("peek", recv(s, big, 1, MSG_OOB | MSG_PEEK));
    printf("poll: %s\n", events(ready(s, POLLIN | POLLPRI, 0)));
    MUST(ioctl(s, SIOCATMARK, &n));
    printf("mark %d\n", n);
    while (!sockatmark(s) && seen < 40000) {
        early += ready(s, POLLPRI, 0) == 0;
        seen += MUST(recv(s, big, 1000, 0));
    }
    printf("%ld bytes before the mark, announced before: %d\n", seen, early > 0);
    printf("poll: %s\n", events(ready(s, POLLPRI, 5000)));
    take("MSG_OOB", s, 1, MSG_OOB);
    SAY("the end", recv(s, big, 3, MSG_WAITALL));
    printf("%.3s\n", big);
    close(c), close(s), close(l);
}

/* Waits until so much has come in since the connection began. */
static void received(int fd, uint64_t bytes) {
    uint64_t info[30] = {0};
    for (int i = 0; i < 5000 && info[16] < bytes; i++, nap(1)) {
        socklen_t len = sizeof info;
        MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len));
    }
    if (info[16] != bytes)
        printf("RECEIVED %lu of %lu\n", (unsigned long)info[16], (unsigned long)bytes);
}

static const struct {
    const char *text;
    int urgent, look;
} steps[] = {{"abc", 0, 0}, {"d", 1, 1}, {"ef", 0, 1}, {"u", 1, 0}, {"v", 1, 1}, {"gh", 0, 0}, {"w", 1, 0},
             {"ij", 0, 0}, {"xyz", 1, 0}, {"kl", 0, 1}, {"m", 1, 0}, {"n", 1, 0}, {"o", 1, 1}};
#define STEPS (sizeof steps / sizeof *steps)

/* Does the steps; after each the peer says that it has looked. */
static void tell(int fd) {
    char c;
    for (unsigned i = 0; i < STEPS; i++) {
        MUST(send(fd, steps[i].text, strlen(steps[i].text), steps[i].urgent ? MSG_OOB : 0));
        if (readn(fd, &c, 1) != 1)
            die("the peer");
    }
}

static uint64_t look(int fd, uint64_t before) {
    for (unsigned i = 0; i < STEPS; i++) {
        before += strlen(steps[i].text);
        received(fd, before);
        state(steps[i].text, fd);
        if (steps[i].look)
            take("MSG_OOB", fd, 1, MSG_OOB), take("a read", fd, 20, 0), take("a read", fd, 20, 0);
        MUST(write(fd, "k", 1));
    }
    return before;
}

/* More than the peer takes in, and urgent data behind it, not too far for a pointer: it hears of that before it comes. */
static void stuff(int fd) {
    static char big[50000];
    int room = 200000;
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room));
    memset(big, 'b', sizeof big);
    MUST(send(fd, big, sizeof big, MSG_DONTWAIT));
    MUST(send(fd, "u", 1, MSG_OOB));
    MUST(send(fd, "end", 3, 0));
}

static void digest(int fd) {
    static char big[50000];
    long seen = 0;
    for (int i = 0; i < 5000 && recv(fd, big, 1, MSG_OOB) < 0 && errno == EINVAL; i++)
        nap(1);
    SAY("announced", recv(fd, big, 1, MSG_OOB));
    while (!sockatmark(fd) && seen < 100000)
        seen += MUST(recv(fd, big, sizeof big, 0));
    printf("%ld bytes before the mark\n", seen);
    printf("poll: %s\n", events(ready(fd, POLLPRI, 5000)));
    take("MSG_OOB", fd, 1, MSG_OOB);
    SAY("the end", recv(fd, big, 3, MSG_WAITALL));
    printf("%.3s\n", big);
}

static int apart(int argc, char **argv) {
    char c;
    if (argc == 3 && !strcmp(argv[1], "server")) {
        int l = tcp(), on = 1, small = 20000;
        struct sockaddr_in a = address(INADDR_ANY, atoi(argv[2]));
        MUST(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
        MUST(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
        MUST(bind(l, SA(a)));
        MUST(listen(l, 5));
        puts("listening");
        fflush(stdout);
        int s = MUST(accept(l, NULL, NULL));
        look(s, 0), tell(s), digest(s), stuff(s);
        SAY("the end", readn(s, &c, 1));
        close(s), close(l);
        return 0;
    }
    if (argc == 4 && !strcmp(argv[1], "client")) {
        int fd = tcp(), small = 20000;
        struct sockaddr_in a = address_of(argv[2], atoi(argv[3]));
        MUST(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
        MUST(connect(fd, SA(a)));
        tell(fd), look(fd, STEPS), stuff(fd), digest(fd);
        close(fd);
        return 0;
    }
    return 2;
}

int main(int argc, char **argv) {
    if (argc > 1)
        return apart(argc, argv);
    simple();
    skipped();
    in_line();
    several(0);
    several(1);
    shapes();
    lowat();
    waits();
    polled(EPOLLIN | EPOLLPRI, "IN PRI", 20);
    polled(EPOLLIN | EPOLLPRI | EPOLLET, "IN PRI ET", 20);
    polled(EPOLLPRI | EPOLLET, "PRI ET", 20);
    polled(EPOLLIN | EPOLLET, "IN ET", 20);
    polled(EPOLLPRI, "PRI", 3);
    polled(EPOLLPRI | EPOLLONESHOT, "PRI ONESHOT", 20);
    ends();
    elsewhere();
    shared();
    piped(0);
    piped(1);
    announced();
    return 0;
}
