/* The life of a connection in blocking calls, and what calls in the wrong state answer. */
#include "t.h"

static void life(void) {
    char buf[100];
    int l = SAYFD("socket", socket(DOMAIN, SOCK_STREAM, 0));
    struct sockaddr_in a = ADDR(0), b;
    SAY("bind", bind(l, SA(a)));
    SAY("listen", listen(l, 5));
    int c = tcp();
    a = ADDR(port_of(l));
    SAY("connect", connect(c, SA(a)));
    socklen_t len = sizeof b;
    int s = SAYFD("accept", accept(l, (struct sockaddr *)&b, &len));
    printf("peer of accept: length %d, family %d, its port is the client's: %d\n", len, b.sin_family, ntohs(b.sin_port) == port_of(c));
    len = sizeof b;
    SAY("getpeername", getpeername(c, (struct sockaddr *)&b, &len));
    printf("is the listener's: %d %s\n", ntohs(b.sin_port) == port_of(l), host_of(&b));
    len = 4;
    SAY("getsockname, short buffer", getsockname(c, (struct sockaddr *)&b, &len));
    printf("length %d\n", len);
    SAY("send", send(c, "hello", 5, 0));
    SAY("recv", recv(s, buf, sizeof buf, 0));
    SAY("write", write(s, "answer", 6));
    SAY("read", readn(c, buf, 6));
    printf("%.6s\n", buf);
    SAY("send nothing", send(c, "", 0, 0));
    SAY("close", close(c));
    SAY("read at the end", read(s, buf, sizeof buf));
    SAY("again", read(s, buf, sizeof buf));
    sayready("poll at the end", s, 0);
    SAY("close", close(s));
    SAY("close twice", close(s));
    SAY("close", close(l));
}

static void wrong(void) {
    char buf[10];
    struct sockaddr_in a = ADDR(0);
    socklen_t len = sizeof a;
    int fd = tcp();
    SAY("accept without listen", accept(fd, NULL, NULL));
    SAY("recv without connection", recv(fd, buf, sizeof buf, 0));
    SAY("send without connection", send(fd, "x", 1, MSG_NOSIGNAL));
    SAY("shutdown without connection", shutdown(fd, SHUT_RDWR));
    SAY("getpeername without connection", getpeername(fd, (struct sockaddr *)&a, &len));
    sayready("poll of a fresh socket", fd, 0);
    SAY("bind, length 3", bind(fd, (struct sockaddr *)&a, 3));
    a = address(0x08080808, 0);
    SAY("bind to a foreign address", bind(fd, SA(a)));
    a = ADDR(0);
    SAY("bind", bind(fd, SA(a)));
    SAY("bind twice", bind(fd, SA(a)));
    SAY("connect, length 3", connect(fd, (struct sockaddr *)&a, 3));
    a.sin_family = 99;
    SAY("connect, family 99", connect(fd, SA(a)));
    SAY("listen", listen(fd, 1));
    SAY("listen again", listen(fd, 2));
    SAY("bind a listener", bind(fd, SA(a)));
    a = ADDR(port_of(fd));
    SAY("connect a listener", connect(fd, SA(a)));
    SAY("recv on a listener", recv(fd, buf, sizeof buf, 0));
    SAY("send on a listener", send(fd, "x", 1, MSG_NOSIGNAL));
    SAY("getpeername of a listener", getpeername(fd, (struct sockaddr *)&a, &len));
    sayready("poll of a listener", fd, 0);
    int second = tcp();
    a = ADDR(port_of(fd));
    SAY("bind to a port in use", bind(second, SA(a)));
    int port = port_of(fd);
    close(fd);
    a = ADDR(port);
    SAY("connect where nobody listens", connect(second, SA(a)));
    SAY("SO_ERROR afterwards", ({
            int e = -1;
            len = sizeof e;
            MUST(getsockopt(second, SOL_SOCKET, SO_ERROR, &e, &len));
            e;
        }));
    SAY("connect once more", connect(second, SA(a)));
    close(second);
    SAY("recv of a closed descriptor", recv(second, buf, sizeof buf, 0));
    SAY("socket of a wrong type", socket(DOMAIN, 77, 0));
    SAY("socket of a wrong protocol", socket(DOMAIN, SOCK_STREAM, IPPROTO_UDP));
}

static void connected(void) {
    struct pair p = pair();
    struct sockaddr_in a = ADDR(port_of(p.l));
    SAY("connect twice", connect(p.c, SA(a)));
    SAY("listen on a connection", listen(p.c, 1));
    SAY("accept on a connection", accept(p.c, NULL, NULL));
    SAY("bind a connection", bind(p.c, SA(a)));
    SAY("sendto an address", sendto(p.c, "x", 1, 0, SA(a)));
    SAY("lseek", lseek(p.c, 0, SEEK_SET));
    SAY("pread", pread(p.c, &a, 1, 0));
    struct stat st;
    SAY("fstat", fstat(p.c, &st));
    printf("a socket: %d\n", S_ISSOCK(st.st_mode));
    SAY("recv into nowhere", recv(p.s, (void *)1, 1, 0));
    char c = 0;
    SAY("what was sent is there still", recv(p.s, &c, 1, 0));
    SAY("send from nowhere", send(p.c, (void *)1, 1, 0));
    int n = -1;
    SAY("FIONREAD", ioctl(p.s, FIONREAD, &n));
    printf("%d bytes\n", n);
    SAY("send", send(p.c, "0123456789", 10, 0));
    ready(p.s, POLLIN, 1000);
    SAY("FIONREAD", ioctl(p.s, FIONREAD, &n));
    printf("%d bytes\n", n);
    unpair(p);
}

static volatile int pipes;
static void on_pipe(int s) { pipes += s == SIGPIPE; }

static void broken(void) {
    struct pair p = pair();
    signal(SIGPIPE, on_pipe);
    SAY("shutdown for writing", shutdown(p.c, SHUT_WR));
    SAY("send", send(p.c, "x", 1, 0));
    printf("SIGPIPE: %d\n", pipes);
    SAY("send MSG_NOSIGNAL", send(p.c, "x", 1, MSG_NOSIGNAL));
    printf("SIGPIPE: %d\n", pipes);
    SAY("shutdown again", shutdown(p.c, SHUT_WR));
    SAY("shutdown of a wrong kind", shutdown(p.c, 7));
    char buf[4];
    SAY("the other end reads", recv(p.s, buf, 4, 0));
    SAY("and may still write", send(p.s, "back", 4, 0));
    SAY("which arrives", readn(p.c, buf, 4));
    /* Unread data at close: the peer gets a reset. */
    SAY("send", send(p.s, "unread", 6, 0));
    ready(p.c, POLLIN, 1000);
    SAY("close with unread data", close(p.c));
    ready(p.s, POLLHUP, 1000);
    sayready("poll after the reset", p.s, 0);
    SAY("recv after the reset", recv(p.s, buf, 4, 0));
    SAY("recv again", recv(p.s, buf, 4, 0));
    SAY("send after the reset", send(p.s, "x", 1, MSG_NOSIGNAL));
    close(p.s);
    close(p.l);
}

static void lingering(void) {
    struct pair p = pair();
    struct linger on = {1, 0};
    char buf[4];
    SAY("SO_LINGER 0", setsockopt(p.c, SOL_SOCKET, SO_LINGER, &on, sizeof on));
    SAY("close", close(p.c));
    ready(p.s, POLLIN, 1000);
    SAY("the peer is reset", recv(p.s, buf, 4, 0));
    close(p.s);
    close(p.l);
    p = pair();
    SAY("close a listener with a connection that waits", ({
            int c = connected_to(p.l);
            close(p.l);
            ready(c, POLLIN, 1000);
            int r = recv(c, buf, 4, 0);
            int e = errno;
            close(c);
            errno = e;
            r;
        }));
    SAY("connections that were accepted live on", send(p.c, "x", 1, 0));
    SAY("and arrive", recv(p.s, buf, 1, 0));
    close(p.c);
    close(p.s);
}

int main(void) {
    life();
    wrong();
    connected();
    broken();
    lingering();
    return 0;
}
