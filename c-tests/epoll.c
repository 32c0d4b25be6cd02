/* epoll: levels, edges, one-shots, changes, duplicates, several sets, nesting, other threads. */
#include "t.h"

static int wait_for(int ep, int ms) {
    struct epoll_event out[8];
    int n = epoll_wait(ep, out, 8, ms);
    if (n < 0) {
        printf("  epoll_wait: %s\n", errname(errno));
        return n;
    }
    /* In the order of their data, so that the order of arrival does not matter. */
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            if (out[j].data.u64 < out[i].data.u64) {
                struct epoll_event t = out[i];
                out[i] = out[j];
                out[j] = t;
            }
    printf("  %d:", n);
    for (int i = 0; i < n; i++)
        printf(" [%d %s]", (int)out[i].data.u64, events(out[i].events));
    printf("\n");
    fflush(stdout);
    return n;
}

static int ctl(int ep, int op, int fd, uint32_t ev, int data) {
    struct epoll_event e = {.events = ev, .data.u64 = data};
    return epoll_ctl(ep, op, fd, &e);
}

static void levels(void) {
    struct pair p = pair();
    char c;
    int ep = SAYFD("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
    SAY("add the listener", ctl(ep, EPOLL_CTL_ADD, p.l, EPOLLIN, 1));
    SAY("add twice", ctl(ep, EPOLL_CTL_ADD, p.l, EPOLLIN, 1));
    SAY("add a connection", ctl(ep, EPOLL_CTL_ADD, p.s, EPOLLIN, 2));
    wait_for(ep, 0);
    int c2 = connected_to(p.l);
    MUST(send(p.c, "ab", 2, 0));
    ready(p.s, POLLIN, 1000), ready(p.l, POLLIN, 1000);
    wait_for(ep, 1000);
    puts("level: again");
    wait_for(ep, 0);
    MUST(read(p.s, &c, 1));
    puts("one byte is left");
    close(MUST(accept(p.l, NULL, NULL)));
    wait_for(ep, 0);
    SAY("modify to OUT", ctl(ep, EPOLL_CTL_MOD, p.s, EPOLLOUT, 3));
    wait_for(ep, 0);
    SAY("delete", ctl(ep, EPOLL_CTL_DEL, p.s, 0, 0));
    SAY("delete twice", ctl(ep, EPOLL_CTL_DEL, p.s, 0, 0));
    SAY("modify what is not there", ctl(ep, EPOLL_CTL_MOD, p.s, EPOLLIN, 0));
    SAY("no such descriptor", ctl(ep, EPOLL_CTL_ADD, 999, EPOLLIN, 0));
    SAY("a set into itself", ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN, 0));
    SAY("a wrong operation", ctl(ep, 9, p.s, EPOLLIN, 0));
    SAY("no set", ctl(p.l, EPOLL_CTL_ADD, p.s, EPOLLIN, 0));
    struct epoll_event e;
    SAY("room for nothing", epoll_wait(ep, &e, 0, 0));
    wait_for(ep, 20);
    close(c2), close(ep);
    unpair(p);
}

static void edges(void) {
    struct pair p = pair();
    char buf[10];
    int ep = epoll_create1(0);
    SAY("edge-triggered", ctl(ep, EPOLL_CTL_ADD, p.s, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP, 1));
    wait_for(ep, 0);
    wait_for(ep, 0);
    MUST(send(p.c, "abc", 3, 0));
    ready(p.s, POLLIN, 1000);
    wait_for(ep, 1000);
    wait_for(ep, 0);
    puts("more without reading: an edge");
    MUST(send(p.c, "d", 1, 0));
    nap(30);
    wait_for(ep, 1000);
    MUST(read(p.s, buf, 2));
    puts("reading a part is none");
    wait_for(ep, 0);
    SAY("modify is", ctl(ep, EPOLL_CTL_MOD, p.s, EPOLLIN | EPOLLET, 1));
    wait_for(ep, 0);
    wait_for(ep, 0);
    close(p.c);
    ready(p.s, 0x2000, 1000);
    wait_for(ep, 1000);
    wait_for(ep, 0);
    close(p.s), close(p.l), close(ep);

    p = pair();
    ep = epoll_create1(0);
    SAY("one-shot", ctl(ep, EPOLL_CTL_ADD, p.s, EPOLLIN | EPOLLONESHOT, 1));
    MUST(send(p.c, "a", 1, 0));
    wait_for(ep, 1000);
    wait_for(ep, 0);
    MUST(send(p.c, "b", 1, 0));
    nap(30);
    wait_for(ep, 0);
    SAY("armed again", ctl(ep, EPOLL_CTL_MOD, p.s, EPOLLIN | EPOLLONESHOT, 2));
    wait_for(ep, 0);
    wait_for(ep, 0);
    close(ep);
    unpair(p);

    /* Writable again: an edge after the buffer was full. */
    p = pair();
    ep = epoll_create1(0);
    static char big[65536];
    nonblocking(p.c), nonblocking(p.s);
    SAY("edge for writing", ctl(ep, EPOLL_CTL_ADD, p.c, EPOLLOUT | EPOLLET, 1));
    wait_for(ep, 0);
    long sent = 0, got = 0, n;
    while ((n = send(p.c, big, sizeof big, 0)) > 0)
        sent += n;
    wait_for(ep, 0);
    while (got < sent) {
        n = recv(p.s, big, sizeof big, 0);
        if (n > 0)
            got += n;
        else
            ready(p.s, POLLIN, 1000);
    }
    wait_for(ep, 1000);
    close(ep);
    unpair(p);
}

static void duplicates(void) {
    struct pair p = pair();
    int a = epoll_create1(0), b = epoll_create1(0), outer = epoll_create1(0);
    int d = MUST(dup(p.s));
    SAY("into one set", ctl(a, EPOLL_CTL_ADD, p.s, EPOLLIN, 1));
    SAY("its duplicate as well", ctl(a, EPOLL_CTL_ADD, d, EPOLLIN, 2));
    SAY("into another set", ctl(b, EPOLL_CTL_ADD, p.s, EPOLLIN, 3));
    SAY("one set into another", ctl(outer, EPOLL_CTL_ADD, b, EPOLLIN, 4));
    wait_for(outer, 0);
    MUST(send(p.c, "x", 1, 0));
    ready(p.s, POLLIN, 1000);
    wait_for(a, 1000);
    wait_for(b, 0);
    wait_for(outer, 1000);
    printf("poll of a set: %s\n", events(ready(b, POLLIN, 1000)));
    close(d);
    puts("the duplicate is closed, the socket is not");
    wait_for(a, 0);
    char c;
    MUST(read(p.s, &c, 1));
    wait_for(a, 0);
    wait_for(outer, 0);
    printf("poll of a set: %s\n", events(ready(b, POLLIN, 0)));
    MUST(send(p.c, "x", 1, 0));
    ready(p.s, POLLIN, 1000);
    close(p.s);
    puts("closed: gone from every set");
    wait_for(a, 0);
    wait_for(b, 0);
    wait_for(outer, 0);
    close(p.c), close(p.l), close(a), close(b), close(outer);
}

static void mixed(void) {
    struct pair p = pair();
    int fds[2], ep = epoll_create(1), u = MUST(socket(DOMAIN, SOCK_DGRAM, 0));
    MUST(pipe(fds));
    SAY("a pipe", ctl(ep, EPOLL_CTL_ADD, fds[0], EPOLLIN, 1));
    SAY("UDP", ctl(ep, EPOLL_CTL_ADD, u, EPOLLOUT, 2));
    SAY("a connection", ctl(ep, EPOLL_CTL_ADD, p.s, EPOLLIN | EPOLLRDHUP, 3));
    wait_for(ep, 1000);
    MUST(write(fds[1], "x", 1));
    MUST(send(p.c, "y", 1, 0));
    ready(p.s, POLLIN, 1000);
    wait_for(ep, 1000);
    SAY("no UDP", ctl(ep, EPOLL_CTL_DEL, u, 0, 0));
    char c;
    MUST(read(fds[0], &c, 1));
    wait_for(ep, 1000);
    MUST(shutdown(p.c, SHUT_WR));
    ready(p.s, 0x2000, 1000);
    wait_for(ep, 1000);
    MUST(shutdown(p.s, SHUT_WR));
    ready(p.s, POLLHUP, 1000);
    wait_for(ep, 1000);
    /* A fresh socket is ready from the start, and says so as HUP. */
    int fresh = tcp();
    SAY("a fresh socket", ctl(ep, EPOLL_CTL_ADD, fresh, EPOLLIN, 4));
    wait_for(ep, 0);
    close(fresh), close(u), close(fds[0]), close(fds[1]), close(ep);
    unpair(p);
}

struct job {
    int ep, fd;
};

static void *add_later(void *arg) {
    struct job *j = arg;
    nap(100);
    ctl(j->ep, EPOLL_CTL_ADD, j->fd, EPOLLIN, 7);
    return NULL;
}

static void *send_later(void *arg) {
    struct job *j = arg;
    nap(100);
    MUST(send(j->fd, "x", 1, 0));
    return NULL;
}

static void threads(void) {
    struct pair p = pair();
    int ep = epoll_create1(0);
    pthread_t t;
    struct job add = {ep, p.s}, later = {ep, p.c};
    MUST(send(p.c, "x", 1, 0));
    ready(p.s, POLLIN, 1000);
    pthread_create(&t, NULL, add_later, &add);
    puts("added by another thread while this one waits");
    wait_for(ep, 2000);
    pthread_join(t, NULL);
    char c;
    MUST(read(p.s, &c, 1));
    pthread_create(&t, NULL, send_later, &later);
    puts("and data while it waits");
    wait_for(ep, -1);
    pthread_join(t, NULL);
    close(ep);
    unpair(p);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    levels();
    edges();
    duplicates();
    mixed();
    threads();
    return 0;
}
