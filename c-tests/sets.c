/* epoll's corners: every state of a socket, every change of it as an edge, who is woken, sets in sets, numbers that are used again,
 * children, order and fairness. c-tests/epoll.c has the plain cases. */
#include "t.h"

enum { ALL = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP };

static int ctl(int ep, int op, int fd, uint32_t ev, int data) {
    struct epoll_event e = {.events = ev, .data.u64 = data};
    return epoll_ctl(ep, op, fd, &e);
}

/* What a set with one member has to tell, after a time in which what is on its way has come. */
static const char *told(int ep, int ms) {
    struct epoll_event out[4];
    int n = epoll_wait(ep, out, 4, ms);
    return n < 0 ? errname(errno) : n == 0 ? "nothing" : n == 1 ? events(out[0].events) : "more than one";
}

static void edge(const char *what, int ep) {
    nap(30);
    printf("  %s: %s", what, told(ep, 0));
    printf(", again: %s\n", told(ep, 0));
    fflush(stdout);
}

static int set_of(int fd, uint32_t ev) {
    int ep = MUST(epoll_create1(0));
    MUST(ctl(ep, EPOLL_CTL_ADD, fd, ev, 1));
    return ep;
}

static void reset(int fd) {
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
    close(fd);
}

/* In which of its three sets select(2) leaves a descriptor. */
static const char *selected(int fd) {
    static const char *sets[] = {" none", " in", " out", " in out", " except", " in except", " out except", " all"};
    fd_set in, out, except;
    struct timeval now = {0, 0};
    FD_ZERO(&in);
    FD_SET(fd, &in);
    out = except = in;
    int n = MUST(select(fd + 1, &in, &out, &except, &now));
    int found = (FD_ISSET(fd, &in) ? 1 : 0) + (FD_ISSET(fd, &out) ? 2 : 0) + (FD_ISSET(fd, &except) ? 4 : 0);
    return n == __builtin_popcount(found) ? sets[found] : " a number that is wrong";
}

/* A set that is made when the socket is in its state already, and one that has it since it was fresh. */
static void in_states(void) {
    puts("states");
    for (int state = 0; state < 9; state++) {
        static const char *names[] = {"fresh",         "bound",   "listening", "refused", "connected",
                                      "peer finished", "shut RD", "shut WR",   "reset"};
        int fd = nonblocking(tcp()), other = -1, l = listener(4), before = set_of(fd, ALL | EPOLLET);
        struct sockaddr_in a = ADDR(0);
        if (state == 1 || state == 2)
            MUST(bind(fd, SA(a)));
        if (state == 2)
            MUST(listen(fd, 1));
        if (state >= 3) {
            a.sin_port = htons(port_of(l));
            if (state == 3)
                close(l), l = -1;
            connect(fd, SA(a));
            ready(fd, POLLOUT, 1000);
        }
        if (state >= 4)
            other = MUST(accept(l, NULL, NULL));
        if (state == 5)
            MUST(shutdown(other, SHUT_WR));
        if (state == 6 || state == 7)
            MUST(shutdown(fd, state == 6 ? SHUT_RD : SHUT_WR));
        if (state == 8)
            reset(other), other = -1;
        nap(30);
        int after = set_of(fd, ALL), silent = set_of(fd, 0);
        printf("  %s: %s,", names[state], told(after, 0));
        printf(" and again: %s;", told(after, 0));
        printf(" as edges from the start: %s,", told(before, 0));
        printf(" and again: %s;", told(before, 0));
        printf(" asked for nothing: %s; poll: %s,", told(silent, 0), events(ready(fd, ALL, 0)));
        printf(" %s; select:%s\n", events(ready(fd, 0, 0)), selected(fd));
        close(fd), close(before), close(after), close(silent);
        if (other >= 0)
            close(other);
        if (l >= 0)
            close(l);
    }
}

static void changes(void) {
    puts("a connection, edge by edge");
    int l = listener(4), fd = nonblocking(tcp()), lep = set_of(l, EPOLLIN | EPOLLET), ep = set_of(fd, ALL | EPOLLET);
    struct sockaddr_in a = ADDR(port_of(l));
    char b[100];
    edge("fresh", ep);
    connect(fd, SA(a));
    edge("connected", ep);
    edge("the listener", lep);
    int second = connected_to(l);
    edge("the listener, one more", lep);
    int s = MUST(accept(l, NULL, NULL));
    edge("the listener, one taken", lep);
    close(MUST(accept(l, NULL, NULL)));
    edge("the listener, both taken", lep);
    close(second);
    MUST(send(s, "abcdef", 6, 0));
    edge("six bytes", ep);
    MUST(recv(fd, b, 2, 0));
    edge("two read", ep);
    MUST(recv(fd, b, 2, MSG_PEEK));
    edge("peeked", ep);
    MUST(send(s, "gh", 2, 0));
    edge("two more", ep);
    MUST(recv(fd, b, 100, 0));
    edge("all read", ep);
    printf("  read: %s\n", recv(fd, b, 1, 0) < 0 ? errname(errno) : "bytes");
    edge("after EAGAIN", ep);
    MUST(send(fd, "x", 1, 0));
    edge("sent and acknowledged", ep);
    int n = 5;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof n));
    MUST(send(s, "123", 3, 0));
    edge("three of five that are wanted", ep);
    MUST(send(s, "45", 2, 0));
    edge("five of five", ep);
    n = 1;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof n));
    MUST(recv(fd, b, 100, 0));
    SAY("modify", ctl(ep, EPOLL_CTL_MOD, fd, ALL | EPOLLET, 1));
    edge("modified", ep);
    MUST(shutdown(s, SHUT_WR));
    edge("the peer is finished", ep);
    MUST(shutdown(fd, SHUT_WR));
    edge("so am I", ep);
    close(s), close(fd);
    printf("  closed: %s\n", told(ep, 0));
    close(l), close(lep), close(ep);

    for (int way = 0; way < 4; way++) {
        static const char *names[] = {"shut for reading", "shut for writing", "shut for both", "reset by the peer"};
        struct pair p = pair();
        ep = set_of(p.c, ALL | EPOLLET);
        edge("a connection", ep);
        MUST(send(p.s, "data", 4, 0));
        edge("with data", ep);
        if (way < 3)
            MUST(shutdown(p.c, way));
        else
            reset(p.s);
        edge(names[way], ep);
        if (way < 3) {
            MUST(send(p.s, "more", 4, 0));
            edge("more data", ep);
            reset(p.s);
            edge("then reset", ep);
        }
        int error = 0;
        socklen_t len = sizeof error;
        MUST(getsockopt(p.c, SOL_SOCKET, SO_ERROR, &error, &len));
        printf("  SO_ERROR %s\n", error ? errname(error) : "0");
        edge("after SO_ERROR", ep);
        SAY("modify", ctl(ep, EPOLL_CTL_MOD, p.c, ALL | EPOLLET, 1));
        edge("modified", ep);
        close(p.c), close(p.l), close(ep);
    }

    puts("refused");
    l = listener(1), a = ADDR(port_of(l));
    close(l);
    fd = nonblocking(tcp()), ep = set_of(fd, ALL | EPOLLET);
    edge("fresh", ep);
    connect(fd, SA(a));
    edge("refused", ep);
    printf("  connect again: %s\n", connect(fd, SA(a)) < 0 ? errname(errno) : "0");
    edge("and again", ep);
    close(fd), close(ep);
}

static void one_shots(void) {
    puts("one-shots");
    struct pair p = pair();
    int ep = set_of(p.c, ALL | EPOLLONESHOT);
    edge("a connection", ep);
    reset(p.s);
    edge("reset while off", ep);
    SAY("armed for nothing", ctl(ep, EPOLL_CTL_MOD, p.c, EPOLLONESHOT, 1));
    edge("armed for nothing", ep);
    SAY("armed", ctl(ep, EPOLL_CTL_MOD, p.c, ALL | EPOLLONESHOT | EPOLLET, 1));
    edge("armed", ep);
    close(p.c), close(p.l), close(ep);
}

struct waiter {
    int ep, woken, ms;
};

static void *wait_in(void *arg) {
    struct waiter *w = arg;
    struct epoll_event e;
    w->woken = epoll_wait(w->ep, &e, 1, w->ms);
    return NULL;
}

/* How many of four threads, each with `ev` on one listener, are woken by `clients` connections. */
static void woken_by(const char *what, uint32_t ev, int shared, int clients) {
    int l = listener(8), c[4];
    struct waiter w[4];
    pthread_t t[4];
    int one = shared ? set_of(l, ev) : -1;
    for (int i = 0; i < 4; i++) {
        w[i] = (struct waiter){shared ? one : set_of(l, ev), 0, 400};
        pthread_create(&t[i], NULL, wait_in, &w[i]);
    }
    nap(100);
    for (int i = 0; i < clients; i++)
        c[i] = connected_to(l), nap(20);
    int woken = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        woken += w[i].woken;
        if (!shared)
            close(w[i].ep);
    }
    printf("  %s: %d of 4\n", what, woken);
    for (int i = 0; i < clients; i++)
        close(c[i]);
    close(l);
    if (shared)
        close(one);
}

static void wakers(void) {
    puts("who is woken");
    woken_by("a set each, one connection", EPOLLIN, 0, 1);
    woken_by("a set each, exclusive, one connection", EPOLLIN | EPOLLEXCLUSIVE, 0, 1);
    woken_by("a set each, exclusive edges, two connections", EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, 0, 2);
    woken_by("one set, edges, one connection", EPOLLIN | EPOLLET, 1, 1);
    woken_by("one set, edges, two connections", EPOLLIN | EPOLLET, 1, 2);
    woken_by("one set, one-shot, two connections", EPOLLIN | EPOLLONESHOT, 1, 2);
    int l = listener(1), ep = MUST(epoll_create1(0)), other = MUST(epoll_create1(0));
    SAY("exclusive", ctl(ep, EPOLL_CTL_ADD, l, EPOLLIN | EPOLLEXCLUSIVE, 1));
    SAY("exclusive, modified", ctl(ep, EPOLL_CTL_MOD, l, EPOLLIN, 1));
    SAY("modified to be exclusive", ctl(ep, EPOLL_CTL_MOD, l, EPOLLIN | EPOLLEXCLUSIVE, 1));
    SAY("deleted", ctl(ep, EPOLL_CTL_DEL, l, 0, 0));
    SAY("exclusive and one-shot", ctl(ep, EPOLL_CTL_ADD, l, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 1));
    SAY("exclusive and RDHUP", ctl(ep, EPOLL_CTL_ADD, l, EPOLLRDHUP | EPOLLEXCLUSIVE, 1));
    SAY("exclusive, edges, wake-up", ctl(ep, EPOLL_CTL_ADD, l, EPOLLIN | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE, 1));
    SAY("an exclusive set in a set", ctl(ep, EPOLL_CTL_ADD, other, EPOLLIN | EPOLLEXCLUSIVE, 1));
    close(l), close(ep), close(other);
}

static void nested(void) {
    puts("sets in sets");
    struct pair p = pair();
    int ep[8];
    for (int i = 0; i < 8; i++)
        ep[i] = MUST(epoll_create1(0));
    SAY("the socket in the innermost", ctl(ep[0], EPOLL_CTL_ADD, p.s, EPOLLIN, 1));
    for (int i = 1; i < 8; i++) {
        char text[30];
        snprintf(text, sizeof text, "set %d in set %d", i - 1, i);
        SAY(text, ctl(ep[i], EPOLL_CTL_ADD, ep[i - 1], EPOLLIN, 1));
    }
    SAY("a ring of sets", ctl(ep[0], EPOLL_CTL_ADD, ep[3], EPOLLIN, 1));
    SAY("a set in itself", ctl(ep[0], EPOLL_CTL_ADD, ep[0], EPOLLIN, 1));
    int edges = set_of(ep[2], EPOLLIN | EPOLLET);
    for (int i = 0; i < 4; i++)
        printf("  set %d: %s\n", i, told(ep[i], 0));
    MUST(send(p.c, "x", 1, 0));
    for (int i = 3; i >= 0; i--)
        printf("  with data, set %d: %s\n", i, told(ep[i], 1000));
    printf("  poll of set 1: %s\n", events(ready(ep[1], ALL, 0)));
    fd_set in;
    FD_ZERO(&in);
    FD_SET(ep[2], &in);
    struct timeval now = {0, 0};
    printf("  select of set 2: %d\n", select(ep[2] + 1, &in, NULL, NULL, &now));
    edge("edges of a set", edges);
    MUST(send(p.c, "y", 1, 0));
    edge("edges of a set, more data", edges);
    char c[4];
    MUST(recv(p.s, c, 4, 0));
    printf("  read, set 3: %s\n", told(ep[3], 0));
    edge("edges of a set, all read", edges);
    MUST(send(p.c, "z", 1, 0));
    printf("  more, set 3: %s\n", told(ep[3], 1000));
    close(ep[1]);
    printf("  set 1 closed, set 2: %s, set 0: ", told(ep[2], 0));
    printf("%s\n", told(ep[0], 0));
    for (int i = 0; i < 8; i++)
        if (i != 1)
            close(ep[i]);
    close(edges);
    unpair(p);
}

static void numbers(void) {
    puts("numbers used again");
    struct pair p = pair(), q = pair();
    int ep = set_of(p.s, EPOLLIN), number = p.s, kept = MUST(dup(p.s));
    close(p.s);
    MUST(send(p.c, "x", 1, 0));
    nap(30);
    printf("  closed, a duplicate is kept: %s\n", told(ep, 0));
    SAY("delete by the closed number", ctl(ep, EPOLL_CTL_DEL, number, 0, 0));
    SAY("delete by the duplicate", ctl(ep, EPOLL_CTL_DEL, kept, 0, 0));
    MUST(dup2(q.s, number));
    SAY("another socket under that number", ctl(ep, EPOLL_CTL_ADD, number, EPOLLOUT | EPOLLIN, 2));
    struct epoll_event out[4];
    printf("  %d tell\n", epoll_wait(ep, out, 4, 0));
    SAY("delete it", ctl(ep, EPOLL_CTL_DEL, number, 0, 0));
    printf("  %d tells\n", epoll_wait(ep, out, 4, 0));
    MUST(dup2(kept, number));
    SAY("the first again under its number", ctl(ep, EPOLL_CTL_ADD, number, EPOLLIN, 3));
    SAY("now it is deleted", ctl(ep, EPOLL_CTL_DEL, number, 0, 0));
    SAY("no event needed to delete", epoll_ctl(ep, EPOLL_CTL_DEL, number, NULL));
    SAY("a bad pointer", epoll_ctl(ep, EPOLL_CTL_ADD, number, NULL));
    close(kept), close(number);
    MUST(dup2(ep, number));
    SAY("the set under that number", ctl(number, EPOLL_CTL_ADD, q.c, EPOLLOUT, 4));
    SAY("and by its own", ctl(ep, EPOLL_CTL_ADD, q.c, EPOLLOUT, 4));
    close(ep);
    printf("  one name of the set closed: %s\n", told(number, 0));
    close(number), close(p.c), close(p.l);
    unpair(q);
}

/* Three are ready, one is asked for at a time. */
static void turns(void) {
    puts("one at a time");
    struct pair p[3];
    int ep = MUST(epoll_create1(0));
    struct epoll_event e;
    for (int i = 0; i < 3; i++) {
        p[i] = pair();
        MUST(ctl(ep, EPOLL_CTL_ADD, p[i].s, EPOLLIN, i));
    }
    for (int i = 2; i >= 0; i--) {
        MUST(send(p[i].c, "x", 1, 0));
        ready(p[i].s, POLLIN, 1000);
    }
    printf(" ");
    for (int i = 0; i < 7; i++)
        printf(" %d", epoll_wait(ep, &e, 1, 0) == 1 ? (int)e.data.u64 : -1);
    puts("");
    char c;
    MUST(read(p[1].s, &c, 1));
    printf("  one is read:");
    for (int i = 0; i < 5; i++)
        printf(" %d", epoll_wait(ep, &e, 1, 0) == 1 ? (int)e.data.u64 : -1);
    puts("");
    for (int i = 0; i < 3; i++)
        unpair(p[i]);
    close(ep);
}

/* A set of sockets and a pipe, with less room than there are events: none is lost, and none starves. */
static void both_kinds(void) {
    puts("sockets and a pipe");
    for (int room = 1; room <= 3; room++) {
        struct pair p[3];
        int ep = MUST(epoll_create1(0)), twin = MUST(epoll_create1(0)), ways[2], seen = 0, pipes = 0, other = 0;
        struct epoll_event e[3];
        MUST(pipe(ways));
        MUST(write(ways[1], "x", 1));
        MUST(ctl(ep, EPOLL_CTL_ADD, ways[0], EPOLLIN, 3));
        MUST(ctl(twin, EPOLL_CTL_ADD, ways[0], EPOLLIN, 3));
        for (int i = 0; i < 3; i++) {
            p[i] = pair();
            MUST(send(p[i].c, "x", 1, 0));
            ready(p[i].s, POLLIN, 1000);
            MUST(ctl(ep, EPOLL_CTL_ADD, p[i].s, EPOLLIN | (i ? EPOLLET : EPOLLONESHOT), i));
            MUST(ctl(twin, EPOLL_CTL_ADD, p[i].s, EPOLLIN, i));
        }
        for (int turn = 0; turn < 8; turn++) {
            for (int n = epoll_wait(ep, e, room, 0), i = 0; i < n; i++) {
                seen |= 1 << e[i].data.u64;
                pipes += e[i].data.u64 == 3;
            }
            for (int n = epoll_wait(twin, e, room, 0), i = 0; i < n; i++)
                other |= 1 << e[i].data.u64;
        }
        printf("  room for %d: seen %x, the pipe %s; in another set, all of them as levels: %x\n", room, seen,
               pipes >= 4 ? "often" : "seldom", other);
        for (int i = 0; i < 3; i++)
            unpair(p[i]);
        close(ep), close(twin), close(ways[0]), close(ways[1]);
    }
}

static void children(void) {
    puts("children");
    fflush(stdout);
    struct pair p = pair(), q = pair();
    int ep = set_of(p.s, EPOLLIN), ways[2], status;
    MUST(pipe(ways));
    pid_t child = MUST(fork());
    if (child == 0) {
        char c;
        MUST(read(ways[0], &c, 1));
        printf("  the child sees: %s\n", told(ep, 1000));
        SAY("the child adds one", ctl(ep, EPOLL_CTL_ADD, q.s, EPOLLOUT, 9));
        _exit(0);
    }
    MUST(send(p.c, "x", 1, 0));
    ready(p.s, POLLIN, 1000);
    printf("  the parent sees: %s\n", told(ep, 1000));
    fflush(stdout);
    MUST(write(ways[1], "x", 1));
    MUST(waitpid(child, &status, 0));
    struct epoll_event out[4];
    printf("  the parent sees %d\n", epoll_wait(ep, out, 4, 0));
    SAY("the parent deletes the child's", ctl(ep, EPOLL_CTL_DEL, q.s, 0, 0));
    fflush(stdout);
    child = MUST(fork());
    if (child == 0) {
        nap(100);
        close(p.s), close(ep);
        MUST(send(q.c, "x", 1, 0));
        _exit(0);
    }
    MUST(ctl(ep, EPOLL_CTL_MOD, p.s, EPOLLOUT | EPOLLET, 1));
    told(ep, 0);
    MUST(ctl(ep, EPOLL_CTL_ADD, q.s, EPOLLIN, 2));
    printf("  sent by the child while the parent waits: %s\n", told(ep, 2000));
    MUST(waitpid(child, &status, 0));
    printf("  the child's closing changes nothing: %s\n", told(ep, 0));
    close(ep), close(ways[0]), close(ways[1]);
    unpair(p), unpair(q);
}

static void ignore(int sig) { (void)sig; }

/* What the compiler is not to know. */
static struct epoll_event *volatile nowhere = (void *)8;
static volatile int few = -1;

static void times(void) {
    puts("times and masks");
    struct pair p = pair();
    int ep = set_of(p.s, EPOLLIN);
    struct epoll_event e;
    struct timespec t = {0, 20000000}, bad = {0, 1000000000}, past = {-1, 0}, none = {0, 0};
    SAY("epoll_pwait2, 20 ms", epoll_pwait2(ep, &e, 1, &t, NULL));
    SAY("none", epoll_pwait2(ep, &e, 1, &none, NULL));
    SAY("a billion nanoseconds", epoll_pwait2(ep, &e, 1, &bad, NULL));
    SAY("negative", epoll_pwait2(ep, &e, 1, &past, NULL));
    SAY("no room", epoll_wait(ep, &e, 0, 0));
    SAY("less than none", epoll_wait(ep, &e, few, 0));
    SAY("not a set", epoll_wait(p.s, &e, 1, 0));
    SAY("closed", epoll_wait(999, &e, 1, 0));
    SAY("nowhere to put it, and nothing", epoll_wait(ep, nowhere, 1, 0));
    struct sigaction sa = {.sa_handler = ignore};
    MUST(sigaction(SIGUSR1, &sa, NULL));
    sigset_t blocked, open;
    sigemptyset(&open), sigemptyset(&blocked), sigaddset(&blocked, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
    MUST(raise(SIGUSR1));
    SAY("a signal that is blocked", epoll_wait(ep, &e, 1, 20));
    SAY("and let in", epoll_pwait(ep, &e, 1, 1000, &open));
    SAY("it is gone", epoll_pwait(ep, &e, 1, 20, &open));
    MUST(raise(SIGUSR1));
    MUST(send(p.c, "x", 1, 0));
    ready(p.s, POLLIN, 1000);
    SAY("a signal let in, but data", epoll_pwait(ep, &e, 1, 1000, &open));
    MUST(sigprocmask(SIG_UNBLOCK, &blocked, NULL));
    SAY("nowhere to put it", epoll_wait(ep, nowhere, 1, 0));
    SAY("it is not lost", epoll_wait(ep, &e, 1, 0));
    close(ep);
    unpair(p);
}

static void *wait_long(void *arg) {
    struct waiter *w = arg;
    struct epoll_event e;
    w->woken = epoll_wait(w->ep, &e, 1, w->ms);
    return w->woken == 1 ? (void *)(long)e.data.u64 : NULL;
}

/* What another thread does to the set in which one waits. */
static void meddling(void) {
    puts("changes while a thread waits");
    for (int way = 0; way < 5; way++) {
        static const char *names[] = {"a ready one is added", "one is modified to be ready", "one is deleted, then comes data",
                                      "the member is closed, then comes data", "one becomes ready in a set inside"};
        struct pair p = pair();
        int ep = MUST(epoll_create1(0)), inner = -1;
        if (way)
            MUST(ctl(ep, EPOLL_CTL_ADD, p.s, way == 4 ? 0 : EPOLLIN, 5));
        if (way == 4) {
            inner = MUST(epoll_create1(0));
            MUST(ctl(ep, EPOLL_CTL_ADD, inner, EPOLLIN, 6));
        }
        struct waiter w = {ep, 0, 300};
        pthread_t t;
        void *data;
        pthread_create(&t, NULL, wait_long, &w);
        nap(60);
        if (way == 0)
            MUST(ctl(ep, EPOLL_CTL_ADD, p.s, EPOLLOUT, 7));
        if (way == 1)
            MUST(ctl(ep, EPOLL_CTL_MOD, p.s, EPOLLOUT, 8));
        if (way == 2)
            MUST(ctl(ep, EPOLL_CTL_DEL, p.s, 0, 0));
        if (way == 3)
            close(p.s);
        if (way == 4)
            MUST(ctl(inner, EPOLL_CTL_ADD, p.s, EPOLLIN, 1));
        if (way >= 2)
            send(p.c, "x", 1, MSG_NOSIGNAL);
        pthread_join(t, &data);
        printf("  %s: %d, %ld\n", names[way], w.woken, (long)data);
        close(ep), close(p.c), close(p.l);
        if (way != 3)
            close(p.s);
        if (inner >= 0)
            close(inner);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    in_states();
    changes();
    one_shots();
    wakers();
    nested();
    numbers();
    turns();
    both_kinds();
    children();
    times();
    meddling();
    return 0;
}
