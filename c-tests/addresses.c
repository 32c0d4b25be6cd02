/* Names and ports: what bind, connect and accept make of addresses, and who may have a port. */
#include "t.h"

static void show(const char *what, int fd, int known) {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    for (int peer = 0; peer < 2; peer++) {
        memset(&a, 0, sizeof a);
        int r = (peer ? getpeername : getsockname)(fd, (struct sockaddr *)&a, &len);
        if (r < 0)
            printf("%s, %s: %s\n", what, peer ? "peer" : "own", errname(errno));
        else
            printf("%s, %s: %s, port %s\n", what, peer ? "peer" : "own", host_of(&a),
                   a.sin_port == 0 ? "0" : ntohs(a.sin_port) == known ? "the known one" : "another");
    }
}

static int at(const char *host, int port, int reuse) {
    int fd = tcp();
    struct sockaddr_in a = address(ntohl(inet_addr(host)), port);
    if (reuse)
        MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, 4));
    if (bind(fd, SA(a)) < 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

static void names(void) {
    int l = tcp();
    show("fresh", l, 0);
    struct sockaddr_in any = address(INADDR_ANY, 0);
    MUST(bind(l, SA(any)));
    int port = port_of(l);
    show("bound to any", l, port);
    MUST(listen(l, 5));
    show("listening", l, port);
    int c = tcp();
    struct sockaddr_in a = address(0x7f000102, port);
    MUST(connect(c, SA(a)));
    show("client to 127.0.1.2", c, port);
    int s = MUST(accept(l, NULL, NULL));
    show("accepted", s, port);
    close(c), close(s);
    any.sin_port = htons(port);
    c = tcp();
    SAY("connect to 0.0.0.0", connect(c, SA(any)));
    show("client to 0.0.0.0", c, port);
    close(MUST(accept(l, NULL, NULL))), close(c);
    c = at("127.0.0.9", 0, 0);
    show("bound to 127.0.0.9", c, port_of(c));
    int own = port_of(c);
    a = ADDR(port);
    MUST(connect(c, SA(a)));
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    s = MUST(accept(l, (struct sockaddr *)&from, &len));
    printf("accept tells %s, its port %d\n", host_of(&from), ntohs(from.sin_port) == own);
    show("its client", c, own);
    close(c), close(s), close(l);
    /* A listener without bind gets a port. */
    l = tcp();
    SAY("listen without bind", listen(l, 1));
    printf("a port: %d\n", port_of(l) > 0);
    c = connected_to(l);
    close(MUST(accept(l, NULL, NULL))), close(c), close(l);
    SAY("an address that is nobody's", at("10.1.2.3", 0, 0));
    SAY("a broadcast address", at("255.255.255.255", 0, 0));
    SAY("a multicast address", at("224.0.0.1", 0, 0));
}

static void conflicts(void) {
    int l = listener(5), port = port_of(l), fd;
#define OR_CLOSE(what, call)                                                                                           \
    do {                                                                                                               \
        fd = SAYFD(what, call);                                                                                        \
        if (fd >= 0)                                                                                                   \
            close(fd);                                                                                                 \
    } while (0)
    OR_CLOSE("the same address", at("127.0.0.1", port, 0));
    OR_CLOSE("the same address, reuse", at("127.0.0.1", port, 1));
    OR_CLOSE("another address", at("127.0.0.2", port, 0));
    OR_CLOSE("any address", at("0.0.0.0", port, 0));
    OR_CLOSE("any address, reuse", at("0.0.0.0", port, 1));
    int other = at("127.0.0.2", port, 0);
    SAY("two addresses, two listeners", listen(other, 5));
    int c = tcp(), s;
    struct sockaddr_in a = address(0x7f000002, port);
    MUST(connect(c, SA(a)));
    SAYFD("the right one has it", s = accept(other, NULL, NULL));
    SAY("the other has not", (nonblocking(l), accept(l, NULL, NULL)));
    close(c), close(s), close(other), close(l);

    /* Both with SO_REUSEADDR, neither listens: both may have the port; listening is for one of them. */
    int x = at("127.0.0.1", port, 1), y = at("127.0.0.1", port, 1);
    printf("two reusing sockets: %d %d\n", x >= 0, y >= 0);
    if (x >= 0 && y >= 0) {
        SAY("the first listens", listen(x, 1));
        SAY("the second", listen(y, 1));
    }
    close(x), close(y);

    /* SO_REUSEPORT: two listeners of one program. */
    x = tcp(), y = tcp();
    a = ADDR(port);
    MUST(setsockopt(x, SOL_SOCKET, SO_REUSEPORT, &(int){1}, 4));
    MUST(setsockopt(y, SOL_SOCKET, SO_REUSEPORT, &(int){1}, 4));
    SAY("bind with SO_REUSEPORT", bind(x, SA(a)));
    SAY("bind with SO_REUSEPORT", bind(y, SA(a)));
    close(x), close(y);
}

static void restarts(void) {
    /* A server goes while a connection of its lives on: the port again. */
    int l = at("127.0.0.1", 0, 1);
    MUST(listen(l, 5));
    int port = port_of(l), c = connected_to(l), s = MUST(accept(l, NULL, NULL)), fd;
    close(l);
    OR_CLOSE("a connection lives, without reuse", at("127.0.0.1", port, 0));
    l = SAYFD("with reuse", at("127.0.0.1", port, 1));
    SAY("listen", listen(l, 5));
    int c2 = connected_to(l), s2 = MUST(accept(l, NULL, NULL));
    char b[8];
    SAY("the old connection", send(c, "old", 3, 0));
    SAY("arrives", readn(s, b, 3));
    SAY("the new one", send(c2, "new", 3, 0));
    SAY("arrives", readn(s2, b, 3));
    /* The server's end closes first: TIME-WAIT is on its port. */
    close(s), close(s2);
    SAY("the end", read(c, b, 1));
    close(c), close(c2), close(l);
    nap(50);
    OR_CLOSE("TIME-WAIT, without reuse", at("127.0.0.1", port, 0));
    l = SAYFD("TIME-WAIT, with reuse", at("127.0.0.1", port, 1));
    SAY("listen", listen(l, 5));
    c = connected_to(l);
    close(MUST(accept(l, NULL, NULL)));
    close(c), close(l);
}

static void clients(void) {
    int l = listener(64), m = listener(64), good = 0;
    struct sockaddr_in a = ADDR(port_of(l)), b = ADDR(port_of(m));
    /* Many short connections in a row. */
    for (int i = 0; i < 300; i++) {
        int c = tcp();
        char x;
        if (connect(c, SA(a)) == 0) {
            int s = MUST(accept(l, NULL, NULL));
            MUST(send(s, "x", 1, 0));
            close(s);
            good += recv(c, &x, 1, 0) == 1 && recv(c, &x, 1, 0) == 0;
        }
        close(c);
    }
    printf("short connections: %d\n", good);
    /* One local port to two destinations. */
    int x = at("127.0.0.1", 0, 1), port = port_of(x), y = at("127.0.0.1", port, 1);
    SAY("connect", connect(x, SA(a)));
    SAY("from the same port to another place", connect(y, SA(b)));
    int z = at("127.0.0.1", port, 1);
    if (z >= 0)
        SAY("from the same port to the same place", connect(z, SA(a)));
    close(z), close(x), close(y);
    /* A socket that was refused may try again; AF_UNSPEC takes a connection back. */
    int gone = listener(1);
    struct sockaddr_in dead = ADDR(port_of(gone));
    close(gone);
    x = tcp();
    SAY("refused", connect(x, SA(dead)));
    SAY("once more", connect(x, SA(dead)));
    SAY("where somebody listens", connect(x, SA(a)));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    SAY("AF_UNSPEC", connect(x, &none, sizeof none));
    show("taken back", x, 0);
    SAY("connect anew", connect(x, SA(a)));
    close(x);
    /* To itself: a simultaneous open. */
    x = at("127.0.0.1", 0, 0);
    struct sockaddr_in self = ADDR(port_of(x));
    SAY("a socket connects to itself", connect(x, SA(self)));
    char t[4];
    SAY("sends", send(x, "me", 2, 0));
    SAY("receives", recv(x, t, 4, 0));
    close(x), close(l), close(m);
}

/* A port that a client had is anybody's when its connection was reset. */
static void given_back(void) {
    int l = listener(5), c = connected_to(l), port = port_of(c);
    MUST(setsockopt(c, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
    int s = MUST(accept(l, NULL, NULL));
    close(c), close(s), close(l);
    l = SAYFD("a client's port, by bind", at("127.0.0.1", port, 0));
    SAY("listen", listen(l, 5));
    c = connected_to(l);
    SAYFD("accept", s = accept(l, NULL, NULL));
    close(c), close(s), close(l);
}

int main(void) {
    names();
    given_back();
    conflicts();
    restarts();
    clients();
    return 0;
}
