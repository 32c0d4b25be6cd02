/* Waiting for sockets together with everything else that can be waited for, in every variant of the calls. */
#include "t.h"
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static long ms_since(const struct timespec *t) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - t->tv_sec) * 1000 + (now.tv_nsec - t->tv_nsec) / 1000000;
}

static void add(int ep, int fd, uint32_t events, int data) {
    struct epoll_event e = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

/* Which of the set's members are ready, by their numbers. */
static void collect(const char *what, int ep, int ms) {
    struct epoll_event out[16];
    int n = epoll_wait(ep, out, 16, ms);
    unsigned long mask = 0;
    printf("%s: %d", what, n);
    for (int i = 0; i < n; i++)
        mask |= 1ul << out[i].data.u64;
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            for (int k = 0; k < n; k++)
                if ((int)out[k].data.u64 == i)
                    printf(" [%d %s]", i, events(out[k].events));
    puts("");
    fflush(stdout);
}

static void everything(void) {
    struct pair p = pair();
    int ep = epoll_create1(0), pipes[2], unix_[2], ev = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0),
        udp = MUST(socket(DOMAIN, SOCK_DGRAM, 0));
    uint64_t count = 1;
    char b[64];
    MUST(pipe(pipes));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, unix_));
    struct sockaddr_in a = ADDR(0);
    MUST(bind(udp, SA(a)));
    add(ep, p.s, EPOLLIN, 1), add(ep, pipes[0], EPOLLIN, 2), add(ep, unix_[0], EPOLLIN, 3), add(ep, ev, EPOLLIN, 4);
    add(ep, timer, EPOLLIN, 5), add(ep, udp, EPOLLIN, 6), add(ep, p.l, EPOLLIN, 7);
    collect("nothing", ep, 0);
    MUST(write(ev, &count, 8));
    collect("the eventfd", ep, 1000);
    struct itimerspec in = {.it_value = {0, 20000000}};
    MUST(timerfd_settime(timer, 0, &in, NULL));
    MUST(read(ev, &count, 8));
    collect("the timer", ep, 1000);
    MUST(read(timer, &count, 8));
    MUST(write(pipes[1], "x", 1)), MUST(write(unix_[1], "x", 1));
    a = ADDR(port_of(udp));
    MUST(sendto(udp, "x", 1, 0, SA(a)));
    MUST(send(p.c, "x", 1, 0));
    int c = connected_to(p.l);
    ready(p.s, POLLIN, 1000), ready(p.l, POLLIN, 1000);
    collect("all others", ep, 1000);
    struct pollfd set[4] = {{p.s, POLLIN, 0}, {pipes[0], POLLIN, 0}, {ev, POLLIN, 0}, {ep, POLLIN, 0}};
    SAY("poll", poll(set, 4, 1000));
    for (int i = 0; i < 4; i++)
        printf(" %s", events(set[i].revents));
    puts("");
    MUST(read(p.s, b, 1));
    SAY("UDP beside it", recv(udp, b, sizeof b, 0));
    collect("fewer", ep, 1000);
    close(ep), close(pipes[0]), close(pipes[1]), close(unix_[0]), close(unix_[1]), close(ev), close(timer), close(udp), close(c);
    unpair(p);
}

static void variants(void) {
    struct pair p = pair();
    struct timespec none = {0, 0}, short_ = {0, 30000000};
    struct pollfd f = {p.s, POLLIN, 0};
    fd_set r;
    int ep = epoll_create1(0);
    struct epoll_event out;
    add(ep, p.s, EPOLLIN, 1);
    SAY("ppoll", ppoll(&f, 1, &short_, NULL));
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY("pselect", pselect(p.s + 1, &r, NULL, NULL, &short_, NULL));
    printf("time left is not told: %ld\n", short_.tv_nsec);
    SAY("epoll_pwait", epoll_pwait(ep, &out, 1, 10, NULL));
    SAY("epoll_pwait2", epoll_pwait2(ep, &out, 1, &short_, NULL));
    MUST(send(p.c, "x", 1, 0));
    SAY("ppoll", ppoll(&f, 1, NULL, NULL));
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY("pselect", pselect(p.s + 1, &r, NULL, NULL, &none, NULL));
    SAY("epoll_pwait", epoll_pwait(ep, &out, 1, -1, NULL));
    SAY("epoll_pwait2", epoll_pwait2(ep, &out, 1, NULL, NULL));
    SAY("select with room for nothing", select(0, NULL, NULL, NULL, &(struct timeval){0, 1000}));
    SAY("select, negative", select(-1, NULL, NULL, NULL, &(struct timeval){0, 0}));
    SAY("select, a bad time", select(0, NULL, NULL, NULL, &(struct timeval){-1, 0}));
    SAY("ppoll, a bad time", ppoll(&f, 1, &(struct timespec){0, 2000000000}, NULL));
    SAY("epoll_wait of a socket", epoll_wait(p.s, &out, 1, 0));
    volatile int negative = -1;
    SAY("epoll_wait, no room", epoll_wait(ep, &out, negative, 0));
    /* A descriptor that select cannot name. */
    int high = MUST(fcntl(p.s, F_DUPFD, 1500));
    f.fd = high;
    SAY("poll of descriptor 1500", poll(&f, 1, 0));
    close(high), close(ep);
    unpair(p);
}

static volatile sig_atomic_t caught;
static void on_signal(int s) { caught = s; }

static void masks(void) {
    struct pair p = pair();
    sigset_t block, open;
    struct sigaction sa = {.sa_handler = on_signal};
    struct epoll_event out;
    struct pollfd f = {p.s, POLLIN, 0};
    fd_set r;
    int ep = epoll_create1(0);
    add(ep, p.s, EPOLLIN, 1);
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, &open);
    raise(SIGUSR1);
    SAY("blocked: poll", poll(&f, 1, 20));
    SAY("the mask lets it in: ppoll", ppoll(&f, 1, &(struct timespec){1, 0}, &open));
    printf("caught %d\n", caught == SIGUSR1), caught = 0;
    raise(SIGUSR1);
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY("pselect", pselect(p.s + 1, &r, NULL, NULL, &(struct timespec){1, 0}, &open));
    printf("caught %d\n", caught == SIGUSR1), caught = 0;
    raise(SIGUSR1);
    SAY("epoll_pwait", epoll_pwait(ep, &out, 1, 1000, &open));
    printf("caught %d\n", caught == SIGUSR1), caught = 0;
    raise(SIGUSR1);
    SAY("epoll_pwait2", epoll_pwait2(ep, &out, 1, &(struct timespec){1, 0}, &open));
    printf("caught %d\n", caught == SIGUSR1), caught = 0;
    sigprocmask(SIG_SETMASK, NULL, &block);
    printf("the mask is as before: %d\n", sigismember(&block, SIGUSR1));
    int sfd = MUST(signalfd(-1, &block, SFD_NONBLOCK));
    add(ep, sfd, EPOLLIN, 2);
    raise(SIGUSR1);
    collect("signalfd", ep, 1000);
    struct signalfd_siginfo info;
    SAY("read", read(sfd, &info, sizeof info));
    sigprocmask(SIG_SETMASK, &open, NULL);
    close(sfd), close(ep);
    unpair(p);
}

struct waiter {
    int ep, fd, got;
};

static void *wait_once(void *arg) {
    struct waiter *w = arg;
    struct epoll_event out;
    w->got = epoll_wait(w->ep, &out, 1, 3000);
    return NULL;
}

static void many_waiters(void) {
    struct pair p = pair();
    pthread_t t[4];
    struct waiter w[4];
    /* Edge-triggered, four threads on one set: one of them gets the event. */
    int ep = epoll_create1(0);
    add(ep, p.s, EPOLLIN | EPOLLET, 1);
    for (int i = 0; i < 4; i++)
        w[i] = (struct waiter){ep, p.s, -2}, pthread_create(&t[i], NULL, wait_once, &w[i]);
    nap(100);
    MUST(send(p.c, "x", 1, 0));
    nap(100);
    int got = 0, first = 0;
    for (int i = 0; i < 4; i++)
        first += w[i].got == 1;
    /* The others get an event each. */
    for (int k = 1; k < 4; k++) {
        MUST(send(p.c, "x", 1, 0));
        nap(100);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL), got += w[i].got == 1;
    printf("edge-triggered, one set: first %d, in the end %d\n", first, got);
    close(ep);
    /* A set for each thread: all of them get it. */
    char b[16];
    MUST(read(p.s, b, 16));
    for (int i = 0; i < 4; i++) {
        w[i] = (struct waiter){epoll_create1(0), p.s, -2};
        add(w[i].ep, p.s, EPOLLIN, 1);
        pthread_create(&t[i], NULL, wait_once, &w[i]);
    }
    nap(50);
    MUST(send(p.c, "x", 1, 0));
    got = 0;
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL), got += w[i].got == 1, close(w[i].ep);
    printf("a set each: %d\n", got);
    /* EPOLLEXCLUSIVE: at least one. */
    got = 0;
    for (int i = 0; i < 4; i++) {
        w[i] = (struct waiter){epoll_create1(0), p.l, -2};
        add(w[i].ep, p.l, EPOLLIN | EPOLLEXCLUSIVE, 1);
        pthread_create(&t[i], NULL, wait_once, &w[i]);
    }
    nap(50);
    int c = connected_to(p.l);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL), got += w[i].got == 1, close(w[i].ep);
    printf("exclusive, somebody: %d\n", got >= 1);
    struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT};
    ep = epoll_create1(0);
    SAY("exclusive and one-shot", epoll_ctl(ep, EPOLL_CTL_ADD, p.l, &e));
    e.events = EPOLLIN | EPOLLEXCLUSIVE;
    SAY("exclusive", epoll_ctl(ep, EPOLL_CTL_ADD, p.l, &e));
    SAY("may not be modified", epoll_ctl(ep, EPOLL_CTL_MOD, p.l, &e));
    close(c), close(ep);
    unpair(p);
}

static void *close_later(void *arg) {
    nap(100);
    close(*(int *)arg);
    return NULL;
}

static void changes(void) {
    struct pair p = pair();
    pthread_t t;
    struct timespec at;
    int ep = epoll_create1(0);
    add(ep, p.s, EPOLLIN, 1);
    pthread_create(&t, NULL, close_later, &p.s);
    clock_gettime(CLOCK_MONOTONIC, &at);
    collect("closed by another thread while this one waits: silence", ep, 300);
    printf("to the end: %d\n", ms_since(&at) >= 299);
    pthread_join(t, NULL);
    struct epoll_event e = {.events = EPOLLIN};
    SAY("it is no member any more", epoll_ctl(ep, EPOLL_CTL_MOD, p.s, &e));
    close(ep), close(p.c), close(p.l);

    /* fork: the set is shared. */
    p = pair();
    ep = epoll_create1(0);
    add(ep, p.s, EPOLLIN, 3);
    pid_t child = fork();
    if (child == 0) {
        collect("child", ep, 3000);
        fflush(stdout);
        _exit(0);
    }
    MUST(send(p.c, "x", 1, 0));
    waitpid(child, NULL, 0);
    collect("parent", ep, 1000);
    close(ep);
    unpair(p);

    /* Members beyond the room of one call come with the next one. */
    int l = listener(32), c[20], s[20];
    unsigned seen = 0;
    ep = epoll_create1(0);
    for (int i = 0; i < 20; i++) {
        c[i] = connected_to(l), s[i] = MUST(accept(l, NULL, NULL));
        add(ep, s[i], EPOLLIN, i);
        MUST(send(c[i], "x", 1, 0));
        ready(s[i], POLLIN, 1000);
    }
    for (int round = 0; round < 4; round++) {
        struct epoll_event out[5];
        int n = epoll_wait(ep, out, 5, 0);
        for (int i = 0; i < n; i++)
            seen |= 1u << out[i].data.u64;
    }
    printf("20 ready, 5 at a time: each once: %d\n", seen == (1u << 20) - 1);
    for (int i = 0; i < 20; i++)
        close(c[i]), close(s[i]);
    close(l), close(ep);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    everything();
    variants();
    masks();
    many_waiters();
    changes();
    return 0;
}
