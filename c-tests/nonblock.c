/* Non-blocking calls, and poll and select beside them. */
#include "t.h"

static void connecting(void) {
    int l = listener(5);
    int c = nonblocking(tcp());
    struct sockaddr_in a = ADDR(port_of(l));
    SAY("connect", connect(c, SA(a)));
    printf("writable: %s\n", events(ready(c, POLLOUT, 1000)));
    SAY("connect again", connect(c, SA(a)));
    SAY("and again", connect(c, SA(a)));
    nonblocking(l);
    int s = SAYFD("accept", accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    printf("close on exec %d, non-blocking %d\n", fcntl(s, F_GETFD), (fcntl(s, F_GETFL) & O_NONBLOCK) != 0);
    SAY("accept with nobody there", accept(l, NULL, NULL));
    SAY("accept4 with wrong flags", accept4(l, NULL, NULL, 1));
    char buf[8];
    SAY("recv with nothing there", recv(c, buf, sizeof buf, 0));
    sayready("poll", c, 0);
    close(s);
    ready(c, POLLIN, 1000);
    SAY("recv at the end", recv(c, buf, sizeof buf, 0));
    close(c);
    int port = port_of(l);
    close(l);
    a = ADDR(port);
    c = nonblocking(tcp());
    SAY("connect where nobody listens", connect(c, SA(a)) < 0 && errno != EINPROGRESS && errno != ECONNREFUSED);
    nap(50);
    sayready("poll", c, 1000);
    int e = -1;
    socklen_t len = sizeof e;
    SAY("SO_ERROR", getsockopt(c, SOL_SOCKET, SO_ERROR, &e, &len));
    printf("%s, length %d\n", errname(e), len);
    SAY("SO_ERROR again", getsockopt(c, SOL_SOCKET, SO_ERROR, &e, &len));
    printf("%d\n", e);
    sayready("poll", c, 0);
    close(c);
}

static void filling(void) {
    struct pair p = pair();
    static char buf[65536];
    nonblocking(p.c);
    long sent = 0, got = 0, n;
    while ((n = send(p.c, buf, sizeof buf, 0)) > 0)
        sent += n;
    SAY("send until it would block", n);
    printf("at least 100 KB went: %d\n", sent > 100000);
    printf("writable: %s\n", events(ready(p.c, POLLOUT, 0)));
    nonblocking(p.s);
    int rounds = 0;
    while (got < sent && rounds++ < 10000) {
        n = recv(p.s, buf, sizeof buf, 0);
        if (n > 0)
            got += n;
        else
            ready(p.s, POLLIN, 1000);
    }
    printf("all of it arrives: %d\n", got == sent);
    printf("writable: %s\n", events(ready(p.c, POLLOUT, 1000)));
    unpair(p);
}

static long ms_since(struct timespec *t) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - t->tv_sec) * 1000 + (now.tv_nsec - t->tv_nsec) / 1000000;
}

static void mixed(void) {
    struct pair p = pair();
    int fds[2], u = MUST(socket(DOMAIN, SOCK_DGRAM, 0));
    MUST(pipe(fds));
    struct pollfd set[5] = {{p.s, POLLIN, 0}, {fds[0], POLLIN, 0}, {u, POLLOUT | POLLIN, 0}, {-1, POLLIN, 0}, {999, POLLIN, 0}};
    SAY("poll of a socket, a pipe, UDP, -1 and a closed one", poll(set, 5, 0));
    for (int i = 0; i < 5; i++)
        printf("%d: %s%s\n", i, events(set[i].revents), set[i].revents & POLLNVAL ? " NVAL" : "");
    MUST(write(fds[1], "x", 1));
    SAY("a byte in the pipe", poll(set, 2, 1000));
    printf("%s, %s\n", events(set[0].revents), events(set[1].revents));
    MUST(send(p.c, "y", 1, 0));
    ready(p.s, POLLIN, 1000);
    SAY("and one in the socket", poll(set, 2, 1000));
    printf("%s, %s\n", events(set[0].revents), events(set[1].revents));
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p.s, &r);
    FD_SET(fds[0], &r);
    FD_SET(p.c, &r);
    FD_SET(p.c, &w);
    SAY("select", select(100, &r, &w, NULL, NULL));
    printf("%d %d %d %d\n", !!FD_ISSET(p.s, &r), !!FD_ISSET(fds[0], &r), !!FD_ISSET(p.c, &r), !!FD_ISSET(p.c, &w));
    char c;
    MUST(read(fds[0], &c, 1)), MUST(read(p.s, &c, 1));
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    SAY("poll that times out", poll(set, 2, 100));
    long ms = ms_since(&t);
    printf("after 100 ms: %d\n", ms >= 100 && ms < 200);
    struct timeval tv = {0, 50000};
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY("select that times out", select(p.s + 1, &r, NULL, NULL, &tv));
    printf("set %d, time left %ld\n", !!FD_ISSET(p.s, &r), (long)tv.tv_usec);
    SAY("poll without descriptors", poll(NULL, 0, 10));
    FD_ZERO(&r);
    /* Below 64: Linux passes over what is beyond the end of the process's table, and that has 64 places at least. */
    FD_SET(50, &r);
    tv = (struct timeval){0, 0};
    SAY("select of a closed descriptor", select(60, &r, NULL, NULL, &tv));
    unpair(p);
    close(u), close(fds[0]), close(fds[1]);
}

static void *writer(void *arg) {
    nap(100);
    MUST(send(*(int *)arg, "z", 1, 0));
    return NULL;
}

static void waking(void) {
    struct pair p = pair();
    pthread_t t;
    char c;
    pthread_create(&t, NULL, writer, &p.c);
    printf("poll without end: %s\n", events(ready(p.s, POLLIN, -1)));
    pthread_join(t, NULL);
    MUST(read(p.s, &c, 1));
    pthread_create(&t, NULL, writer, &p.c);
    SAY("read that blocks", read(p.s, &c, 1));
    pthread_join(t, NULL);
    struct timeval tv = {0, 60000};
    SAY("SO_RCVTIMEO", setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    SAY("read that times out", read(p.s, &c, 1));
    long ms = ms_since(&at);
    printf("after 60 ms: %d\n", ms >= 60 && ms < 160);
    SAY("MSG_DONTWAIT", recv(p.s, &c, 1, MSG_DONTWAIT));
    SAY("SO_RCVTIMEO of the listener", setsockopt(p.l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    SAY("accept that times out", accept(p.l, NULL, NULL));
    unpair(p);
}

static void on_alarm(int s) { (void)s; }

static void interrupted(void) {
    struct pair p = pair();
    char c;
    struct itimerval in = {.it_value = {0, 50000}};
    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &in, NULL);
    SAY("read, interrupted", read(p.s, &c, 1));
    setitimer(ITIMER_REAL, &in, NULL);
    SAY("accept, interrupted", accept(p.l, NULL, NULL));
    struct pollfd f = {p.s, POLLIN, 0};
    setitimer(ITIMER_REAL, &in, NULL);
    SAY("poll, interrupted", poll(&f, 1, 1000));
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    pthread_t t;
    pthread_create(&t, NULL, writer, &p.c);
    setitimer(ITIMER_REAL, &in, NULL);
    SAY("read, interrupted and restarted", read(p.s, &c, 1));
    setitimer(ITIMER_REAL, &in, NULL);
    SAY("poll is never restarted", poll(&f, 1, 1000));
    pthread_join(t, NULL);
    unpair(p);
}

int main(void) {
    connecting();
    filling();
    mixed();
    waking();
    interrupted();
    return 0;
}
