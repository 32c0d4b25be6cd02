/* Signals and waiting calls: EINTR and SA_RESTART, time-outs, handlers that use sockets, cancelled threads. */
#include "t.h"

static volatile int calls, in_handler = -1;
static void on_alarm(int s) {
    int e = errno;
    calls++;
    if (in_handler >= 0)
        send(in_handler, "h", 1, MSG_DONTWAIT);
    errno = e;
}

static void arm(int restart, int ms) {
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = restart ? SA_RESTART : 0};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval in = {.it_value = {0, ms * 1000}};
    setitimer(ITIMER_REAL, &in, NULL);
}

static void *rescue(void *arg) {
    int *fds = arg;
    nap(150);
    send(fds[0], "r", 1, MSG_NOSIGNAL);
    return NULL;
}

static void *rescue_accept(void *arg) {
    nap(150);
    return (void *)(intptr_t)connected_to(*(int *)arg);
}

static void *drain(void *arg) {
    static char b[1 << 16];
    int fd = *(int *)arg;
    nap(150);
    while (recv(fd, b, sizeof b, 0) > 0)
        ;
    return NULL;
}

/* Until nothing goes in any more, also when what is under way has arrived. */
static void fill(int fd) {
    static char b[1000];
    for (int quiet = 0; quiet < 5; quiet++) {
        while (send(fd, b, sizeof b, MSG_DONTWAIT) > 0)
            quiet = 0;
        while (send(fd, b, 1, MSG_DONTWAIT) > 0)
            quiet = 0;
        nap(10);
    }
}

static void interrupted(int restart) {
    printf("-- SA_RESTART %d\n", restart);
    struct pair p = pair();
    char b[8];
    pthread_t t;
    struct iovec v = {b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    struct pollfd f = {p.s, POLLIN, 0};
    struct epoll_event e = {.events = EPOLLIN};
    int ep = epoll_create1(0);
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.s, &e));
    calls = 0;
#define WAIT(what, call)                                                                                               \
    do {                                                                                                               \
        if (restart)                                                                                                   \
            pthread_create(&t, NULL, rescue, &p.c);                                                                    \
        arm(restart, 50);                                                                                              \
        SAY(what, call);                                                                                               \
        if (restart) {                                                                                                 \
            pthread_join(t, NULL);                                                                                     \
            recv(p.s, b, 8, MSG_DONTWAIT);                                                                             \
        }                                                                                                              \
    } while (0)
    WAIT("read", read(p.s, b, 1));
    WAIT("recv", recv(p.s, b, 1, 0));
    WAIT("recvfrom", recvfrom(p.s, b, 1, 0, NULL, NULL));
    WAIT("readv", readv(p.s, &v, 1));
    WAIT("recvmsg", recvmsg(p.s, &m, 0));
    /* These are never restarted. */
    WAIT("poll", poll(&f, 1, 1000));
    WAIT("ppoll", ppoll(&f, 1, &(struct timespec){1, 0}, NULL));
    WAIT("epoll_wait", epoll_wait(ep, &e, 1, 1000));
    fd_set r;
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    WAIT("select", select(p.s + 1, &r, NULL, NULL, &(struct timeval){1, 0}));
    /* With a time-out of its own a call is not restarted. */
    struct timeval tv = {1, 0};
    MUST(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    WAIT("recv with SO_RCVTIMEO", recv(p.s, b, 1, 0));
    printf("the handler ran: %d\n", calls);
    if (restart)
        pthread_create(&t, NULL, rescue_accept, &p.l);
    arm(restart, 50);
    int s = SAYFD("accept", accept(p.l, NULL, NULL));
    if (restart) {
        void *c;
        pthread_join(t, &c);
        close((int)(intptr_t)c), close(s);
    }
    /* A partial result is a result. */
    arm(restart, 100);
    MUST(send(p.c, "ab", 2, 0));
    tv.tv_sec = 0;
    MUST(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    if (!restart)
        SAY("MSG_WAITALL, two of four bytes", recv(p.s, b, 4, MSG_WAITALL));
    else
        recv(p.s, b, 2, MSG_WAITALL), nap(120);
    static char big[16 << 20];
    if (restart)
        pthread_create(&t, NULL, drain, &p.s);
    arm(restart, 50);
    /* Again and again: on a busy machine the first may come before the buffer is full and the call asleep. */
    struct itimerval again = {{0, 50000}, {0, 50000}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &again, NULL);
    long n = send(p.c, big, sizeof big, 0);
    setitimer(ITIMER_REAL, &off, NULL);
    printf("send of 16 MiB: %s\n", n == (long)sizeof big ? "all" : n > 0 ? "a part" : errname(errno));
    if (!restart) {
        fill(p.c);
        arm(restart, 50);
        SAY("send with no room", send(p.c, big, 1000, 0));
    }
    close(p.c);
    if (restart)
        pthread_join(t, NULL);
    close(p.s), close(p.l), close(ep);
}

static void timeouts(void) {
    puts("-- time-outs");
    struct pair p = pair();
    static char big[1 << 20];
    struct timeval tv = {0, 60000}, got;
    socklen_t len = sizeof got;
    struct timespec a, z;
    MUST(setsockopt(p.c, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
    MUST(getsockopt(p.c, SOL_SOCKET, SO_SNDTIMEO, &got, &len));
    printf("SO_SNDTIMEO %ld.%06ld\n", (long)got.tv_sec, (long)got.tv_usec);
    long n;
    while ((n = send(p.c, big, sizeof big, 0)) == sizeof big)
        ;
    printf("send: %s\n", n > 0 ? "a part" : errname(errno));
    fill(p.c);
    clock_gettime(CLOCK_MONOTONIC, &a);
    SAY("send", send(p.c, big, 10, 0));
    clock_gettime(CLOCK_MONOTONIC, &z);
    printf("after 60 ms: %d\n", (z.tv_sec - a.tv_sec) * 1000 + (z.tv_nsec - a.tv_nsec) / 1000000 >= 59);
    tv = (struct timeval){0, 2000000};
    SAY("a bad time", setsockopt(p.c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    tv = (struct timeval){-1, 0};
    SAY("a negative one", setsockopt(p.c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    SAY("a short one", setsockopt(p.c, SOL_SOCKET, SO_RCVTIMEO, &tv, 4));
    unpair(p);
}

static void handlers(void) {
    puts("-- a handler that sends");
    struct pair p = pair();
    char b[256];
    in_handler = p.c;
    calls = 0;
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval every = {.it_value = {0, 1000}, .it_interval = {0, 1000}};
    setitimer(ITIMER_REAL, &every, NULL);
    long total = 0;
    while (total < 100) {
        long n = recv(p.s, b, sizeof b, 0);
        if (n <= 0)
            break;
        total += n;
        send(p.s, b, 1, MSG_DONTWAIT);
        recv(p.c, b, sizeof b, MSG_DONTWAIT);
    }
    every = (struct itimerval){0};
    setitimer(ITIMER_REAL, &every, NULL);
    printf("at least 100 bytes came: %d\n", total >= 100);
    in_handler = -1;
    unpair(p);
}

static void *block_in_recv(void *arg) {
    char b;
    recv(*(int *)arg, &b, 1, 0);
    return NULL;
}

static void *block_in_accept(void *arg) {
    accept(*(int *)arg, NULL, NULL);
    return NULL;
}

static void *block_in_epoll(void *arg) {
    struct epoll_event e = {.events = EPOLLIN};
    int ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, *(int *)arg, &e);
    epoll_wait(ep, &e, 1, -1);
    return NULL;
}

static void *block_in_poll(void *arg) {
    struct pollfd f = {*(int *)arg, POLLIN, 0};
    poll(&f, 1, -1);
    return NULL;
}

static void *block_in_recvmsg(void *arg) {
    char b, control[64];
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    recvmsg(*(int *)arg, &m, 0);
    return NULL;
}

static int cleaned;
static void clean(void *arg) {
    (void)arg;
    cleaned++;
}

/* Cancelled with its cleanup handler still to run. */
static void *block_in_read(void *arg) {
    char b;
    pthread_cleanup_push(clean, NULL);
    if (read(*(int *)arg, &b, 1) == 1)
        puts("read ended by itself");
    pthread_cleanup_pop(0);
    return NULL;
}

/* A thread that forbids it is not cancelled: the call goes on. */
static void *block_in_read_for_long(void *arg) {
    char b = 0;
    int old;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    if (read(*(int *)arg, &b, 1) == 1)
        printf("read %c\n", b);
    pthread_setcancelstate(old, NULL);
    pthread_testcancel();
    return NULL;
}

static void cancelled(void) {
    puts("-- cancelled threads");
    struct pair p = pair();
    int u[2], pipes[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    MUST(pipe(pipes));
    struct {
        void *(*f)(void *);
        int *fd;
        const char *what;
    } all[] = {
        {block_in_recv, &p.s, "recv"},        {block_in_accept, &p.l, "accept"},
        {block_in_epoll, &p.s, "epoll_wait"}, {block_in_poll, &p.s, "poll"},
        {block_in_read, &p.s, "read"},        {block_in_recvmsg, &p.s, "recvmsg"},
        /* The same on what is no TCP socket. */
        {block_in_recv, &u[0], "recv, Unix"}, {block_in_recvmsg, &u[0], "recvmsg, Unix"},
        {block_in_read, &pipes[0], "read, a pipe"}, {block_in_poll, &pipes[0], "poll, a pipe"},
        {block_in_epoll, &pipes[0], "epoll_wait, a pipe"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        pthread_t t;
        void *r;
        pthread_create(&t, NULL, all[i].f, all[i].fd);
        nap(50);
        pthread_cancel(t);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 3;
        if (pthread_timedjoin_np(t, &r, &until))
            printf("%s: not cancelled\n", all[i].what);
        else
            printf("%s: cancelled %d\n", all[i].what, r == PTHREAD_CANCELED);
    }
    printf("cleaned up: %d\n", cleaned);
    pthread_t t;
    void *r;
    pthread_create(&t, NULL, block_in_read_for_long, &p.s);
    nap(50);
    pthread_cancel(t);
    nap(50);
    MUST(send(p.c, "y", 1, 0));
    pthread_join(t, &r);
    printf("cancelled afterwards: %d\n", r == PTHREAD_CANCELED);
    char b;
    MUST(send(p.c, "x", 1, 0));
    SAY("the socket works on", recv(p.s, &b, 1, 0));
    unpair(p);
}

int main(int argc, char **argv) {
    (void)argv;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1) {
        cancelled();
        return 0;
    }
    interrupted(0);
    interrupted(1);
    timeouts();
    handlers();
    return 0;
}
