/* How connections end: half closes, shutdowns, resets; and what poll, select and epoll say at each step. */
#include "t.h"

static int ep;

/* What the three ways of waiting say of a descriptor, and whether they agree. */
static void look(const char *what, int fd) {
    int p = ready(fd, POLLIN | POLLPRI | POLLOUT | 0x2000, 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP}, out = {0};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    MUST(epoll_wait(ep, &out, 1, 0));
    MUST(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    fd_set r, w, x;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&x);
    FD_SET(fd, &r);
    FD_SET(fd, &w);
    FD_SET(fd, &x);
    struct timeval none = {0, 0};
    MUST(select(fd + 1, &r, &w, &x, &none));
    printf("%s: poll %s, epoll %s, select%s%s%s\n", what, events(p), events(out.events), FD_ISSET(fd, &r) ? " r" : "",
           FD_ISSET(fd, &w) ? " w" : "", FD_ISSET(fd, &x) ? " x" : "");
    fflush(stdout);
}

static void half_close(void) {
    puts("-- half close, client first");
    struct pair p = pair();
    char b[64];
    look("client, fresh", p.c);
    MUST(send(p.c, "question", 8, 0));
    MUST(shutdown(p.c, SHUT_WR));
    ready(p.s, 0x2000, 1000);
    look("client, shut for writing", p.c);
    look("server, data and the end", p.s);
    SAY("server reads", read(p.s, b, 64));
    look("server, the end", p.s);
    SAY("server reads the end", read(p.s, b, 64));
    SAY("server answers", write(p.s, "a long answer", 13));
    SAY("client reads", readn(p.c, b, 13));
    SAY("client cannot send", send(p.c, "x", 1, MSG_NOSIGNAL));
    MUST(shutdown(p.s, SHUT_WR));
    ready(p.c, POLLHUP, 1000);
    look("client, both shut", p.c);
    look("server, both shut", p.s);
    SAY("client reads the end", read(p.c, b, 64));
    SAY("shutdown once more", shutdown(p.c, SHUT_RDWR));
    SAY("getpeername", getpeername(p.c, (struct sockaddr *)b, &(socklen_t){16}));
    unpair(p);

    puts("-- half close, server first");
    p = pair();
    MUST(shutdown(p.s, SHUT_WR));
    ready(p.c, 0x2000, 1000);
    look("client", p.c);
    SAY("client reads the end", read(p.c, b, 64));
    SAY("client sends", send(p.c, "still", 5, 0));
    SAY("server reads", readn(p.s, b, 5));
    close(p.c);
    ready(p.s, POLLHUP, 1000);
    look("server", p.s);
    SAY("server reads the end", read(p.s, b, 64));
    close(p.s), close(p.l);
}

static void reading_shut(void) {
    puts("-- shut for reading");
    struct pair p = pair();
    char b[16];
    MUST(send(p.c, "before", 6, 0));
    ready(p.s, POLLIN, 1000);
    SAY("shutdown", shutdown(p.s, SHUT_RD));
    look("server", p.s);
    SAY("what came before is read", read(p.s, b, 16));
    SAY("then the end", read(p.s, b, 16));
    SAY("the client may go on", send(p.c, "after", 5, MSG_NOSIGNAL));
    nap(30);
    SAY("and it is read", recv(p.s, b, 16, MSG_DONTWAIT));
    SAY("the server may write", send(p.s, "back", 4, MSG_NOSIGNAL));
    SAY("the client reads", readn(p.c, b, 4));
    unpair(p);
}

static void resets(void) {
    puts("-- unread data at close");
    struct pair p = pair();
    char b[16];
    MUST(send(p.c, "unread", 6, 0));
    ready(p.s, POLLIN, 1000);
    close(p.s);
    ready(p.c, POLLERR, 1000);
    look("client", p.c);
    SAY("recv", recv(p.c, b, 16, 0));
    look("after the error was told", p.c);
    SAY("recv", recv(p.c, b, 16, 0));
    SAY("send", send(p.c, "x", 1, MSG_NOSIGNAL));
    close(p.c), close(p.l);

    puts("-- SO_LINGER 0, with data of the client's still to be read");
    p = pair();
    struct linger now = {1, 0};
    MUST(send(p.s, "early", 5, 0));
    ready(p.c, POLLIN, 1000);
    MUST(setsockopt(p.s, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(p.s);
    ready(p.c, POLLERR, 1000);
    look("client", p.c);
    SAY("SO_ERROR", ({
            int e = -1;
            socklen_t len = sizeof e;
            getsockopt(p.c, SOL_SOCKET, SO_ERROR, &e, &len);
            e;
        }));
    look("SO_ERROR was read", p.c);
    SAY("recv", recv(p.c, b, 16, 0));
    close(p.c), close(p.l);

    puts("-- data for a closed socket");
    p = pair();
    close(p.s);
    ready(p.c, 0x2000, 1000);
    SAY("the first send", send(p.c, "x", 1, MSG_NOSIGNAL));
    ready(p.c, POLLERR, 1000);
    look("client", p.c);
    SAY("the second", send(p.c, "x", 1, MSG_NOSIGNAL));
    SAY("the third", send(p.c, "x", 1, MSG_NOSIGNAL));
    SAY("recv", recv(p.c, b, 16, 0));
    close(p.c), close(p.l);

    puts("-- refused");
    int l = listener(1);
    struct sockaddr_in a = ADDR(port_of(l));
    close(l);
    int c = nonblocking(tcp());
    connect(c, SA(a));
    ready(c, POLLERR, 1000);
    look("client", c);
    SAY("connect tells", connect(c, SA(a)));
    look("then", c);
    close(c);
}

static int signals;
static void count(int s) { signals += s == SIGPIPE; }

static void pipes(void) {
    puts("-- SIGPIPE");
    struct sigaction sa = {.sa_handler = count};
    sigaction(SIGPIPE, &sa, NULL);
    struct pair p = pair();
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    MUST(shutdown(p.c, SHUT_WR));
    SAY("write", write(p.c, "x", 1));
    SAY("writev", writev(p.c, &v, 1));
    SAY("send", send(p.c, "x", 1, 0));
    SAY("sendmsg", sendmsg(p.c, &m, 0));
    printf("signals: %d\n", signals);
    SAY("send, MSG_NOSIGNAL", send(p.c, "x", 1, MSG_NOSIGNAL));
    SAY("sendmsg, MSG_NOSIGNAL", sendmsg(p.c, &m, MSG_NOSIGNAL));
    printf("signals: %d\n", signals);
    unpair(p);
}

static void *shut_later(void *arg) {
    nap(100);
    MUST(shutdown(*(int *)arg, SHUT_RDWR));
    return NULL;
}

static void woken(void) {
    puts("-- calls that wait when their socket is shut");
    struct pair p = pair();
    char b;
    pthread_t t;
    pthread_create(&t, NULL, shut_later, &p.c);
    SAY("recv", recv(p.c, &b, 1, 0));
    pthread_join(t, NULL);
    pthread_create(&t, NULL, shut_later, &p.l);
    SAY("accept", accept(p.l, NULL, NULL));
    pthread_join(t, NULL);
    SAY("accept again", accept(p.l, NULL, NULL));
    struct sockaddr_in a = ADDR(port_of(p.l));
    int c = tcp();
    SAY("nobody listens any more", connect(c, SA(a)));
    SAY("listen again", listen(p.l, 3));
    close(c);
    c = tcp();
    a = ADDR(port_of(p.l));
    SAY("and it does", connect(c, SA(a)));
    close(c);
    unpair(p);
}

static void lingering(void) {
    puts("-- SO_LINGER with a time: close waits until the data is there");
    struct pair p = pair();
    struct linger on = {1, 5};
    char b[8];
    MUST(setsockopt(p.c, SOL_SOCKET, SO_LINGER, &on, sizeof on));
    MUST(send(p.c, "last", 4, 0));
    SAY("close", close(p.c));
    SAY("read", readn(p.s, b, 4));
    SAY("the end", read(p.s, b, 4));
    close(p.s), close(p.l);
}

int main(void) {
    ep = epoll_create1(0);
    half_close();
    reading_shut();
    resets();
    pipes();
    woken();
    lingering();
    return 0;
}
