/* Who may bind a port that another socket has, what listen and connect make of it, and what a socket is after shutdown,
 * AF_UNSPEC and failed attempts. */
#include "t.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define ANY INADDR_ANY
#define LO INADDR_LOOPBACK
#define LO2 0x7f000002

static struct sockaddr_in at(unsigned host, int port) {
    return address(host, port);
}

static const char *hostname(unsigned host) { return host == ANY ? "any" : host == LO ? "lo" : "lo2"; }

static void set(int fd, int name) {
    int one = 1;
    MUST(setsockopt(fd, SOL_SOCKET, name, &one, sizeof one));
}

static int bound(unsigned host, int port, int option) {
    int fd = tcp();
    if (option)
        set(fd, option);
    struct sockaddr_in a = at(host, port);
    MUST(bind(fd, SA(a)));
    return fd;
}

static const char *result(int r) { return r < 0 ? errname(errno) : "ok"; }

/* What the first socket of a port is doing. */
enum holder { BOUND, LISTENING, CLIENT, SERVED, FINISHED, HOLDERS };
static const char *holders[] = {"bound", "listening", "a client", "a connection, its listener closed", "in TIME-WAIT"};

static void quiet_close(int fd) {
    struct linger l = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(fd);
}

/* Makes the first holder of a port; up to four descriptors to be closed after. */
static int hold(enum holder what, unsigned host, int option, int fds[4]) {
    for (int i = 0; i < 4; i++)
        fds[i] = -1;
    fds[0] = bound(host, 0, option);
    int port = port_of(fds[0]);
    if (what == BOUND)
        return port;
    if (what == CLIENT) {
        fds[1] = listener(1);
        struct sockaddr_in a = ADDR(port_of(fds[1]));
        MUST(connect(fds[0], SA(a)));
        return port;
    }
    MUST(listen(fds[0], 5));
    if (what == LISTENING)
        return port;
    fds[1] = tcp();
    struct sockaddr_in a = at(host == ANY ? LO : host, port);
    MUST(connect(fds[1], SA(a)));
    fds[2] = MUST(accept(fds[0], NULL, NULL));
    close(fds[0]);
    fds[0] = -1;
    if (what == FINISHED) {
        close(fds[2]);
        char c;
        MUST(read(fds[1], &c, 1));
        close(fds[1]);
        fds[1] = fds[2] = -1;
        nap(20);
    }
    return port;
}

static void conflicts(void) {
    static const unsigned hosts[][2] = {{LO, LO}, {ANY, LO}, {LO, ANY}, {ANY, ANY}, {LO, LO2}};
    static const int options[][2] = {{0, 0}, {SO_REUSEADDR, 0}, {0, SO_REUSEADDR}, {SO_REUSEADDR, SO_REUSEADDR}};
    for (int h = 0; h < HOLDERS; h++)
        for (size_t a = 0; a < sizeof hosts / sizeof *hosts; a++)
            for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
                // The README's list of known differences: a wildcard beside connections of a specific address.
                if (h >= CLIENT && hosts[a][1] == ANY && hosts[a][0] != ANY && options[o][0] && options[o][1])
                    continue;
                int fds[4];
                int port = hold(h, hosts[a][0], options[o][0], fds);
                int second = tcp();
                if (options[o][1])
                    set(second, options[o][1]);
                struct sockaddr_in addr = at(hosts[a][1], port);
                printf("%s on %s%s, then %s%s: ", holders[h], hostname(hosts[a][0]), options[o][0] ? " reuse" : "",
                       hostname(hosts[a][1]), options[o][1] ? " reuse" : "");
                int r = bind(second, SA(addr));
                printf("bind %s", result(r));
                if (r == 0)
                    printf(", listen %s", result(listen(second, 1)));
                puts("");
                quiet_close(second);
                for (int i = 0; i < 4; i++)
                    if (fds[i] >= 0)
                        quiet_close(fds[i]);
            }
}

static void too_late(void) {
    puts("SO_REUSEADDR set after bind");
    int one = bound(LO, 0, 0), two = tcp();
    struct sockaddr_in a = at(LO, port_of(one));
    set(two, SO_REUSEADDR);
    printf("before: %s\n", result(bind(two, SA(a))));
    set(one, SO_REUSEADDR);
    printf("after: %s\n", result(bind(two, SA(a))));
    close(one);
    close(two);
    puts("a port is free again when its socket is closed");
    int l = listener(1);
    a = at(LO, port_of(l));
    close(l);
    l = tcp();
    SAY("bind", bind(l, SA(a)));
    close(l);
}

static void served_by_several(void) {
    puts("SO_REUSEPORT: two listeners of a port");
    int one = bound(LO, 0, SO_REUSEPORT), two = tcp();
    MUST(listen(one, 50));
    struct sockaddr_in a = at(LO, port_of(one));
    printf("without: %s\n", result(bind(two, SA(a))));
    set(two, SO_REUSEPORT);
    SAY("bind", bind(two, SA(a)));
    SAY("listen", listen(two, 50));
    int clients[40], first = 0, second = 0, s;
    for (int i = 0; i < 40; i++) {
        clients[i] = tcp();
        MUST(connect(clients[i], SA(a)));
    }
    nonblocking(one);
    nonblocking(two);
    nap(20);
    for (; (s = accept(one, NULL, NULL)) >= 0; first++)
        close(s);
    for (; (s = accept(two, NULL, NULL)) >= 0; second++)
        close(s);
    printf("all served: %s, both serve: %s\n", first + second == 40 ? "yes" : "no", first && second ? "yes" : "no");
    for (int i = 0; i < 40; i++)
        close(clients[i]);
    close(one);
    close(two);
}

static void clients_of_a_port(void) {
    puts("two clients of one port");
    int l1 = listener(5), l2 = listener(5);
    struct sockaddr_in to1 = at(LO, port_of(l1)), to2 = at(LO, port_of(l2));
    int one = bound(LO, 0, SO_REUSEADDR);
    int two = bound(LO, port_of(one), SO_REUSEADDR);
    SAY("the first connects", connect(one, SA(to1)));
    SAY("the second, elsewhere", connect(two, SA(to2)));
    int three = tcp();
    set(three, SO_REUSEADDR);
    struct sockaddr_in local = at(LO, port_of(one));
    SAY("a third binds", bind(three, SA(local)));
    SAY("and connects to where the first is", connect(three, SA(to1)));
    SAY("and to where the second is", connect(three, SA(to2)));
    int s = MUST(accept(l2, NULL, NULL));
    MUST(write(two, "x", 1));
    char c = 0;
    SAY("what the second says arrives", readn(s, &c, 1));
    close(one);
    close(two);
    close(three);
    close(s);
    close(l1);
    close(l2);
}

static void port_at_connect(void) {
    puts("IP_BIND_ADDRESS_NO_PORT");
    int one = 1, c = tcp(), l = listener(5);
    struct sockaddr_in any = at(LO2, 0), to = at(LO, port_of(l));
    MUST(setsockopt(c, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one));
    SAY("bind", bind(c, SA(any)));
    printf("the port is %s\n", port_of(c) ? "chosen" : "open");
    SAY("connect", connect(c, SA(to)));
    printf("the port is %s\n", port_of(c) ? "chosen" : "open");
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    int s = MUST(accept(l, (struct sockaddr *)&from, &len));
    printf("from the address %s, from the port %s\n", !strcmp(host_of(&from), host_of(&any)) ? "bound" : "other",
           ntohs(from.sin_port) == port_of(c) ? "same" : "other");
    close(c);
    close(s);
    close(l);
}

static void say_error(int fd) {
    int e = 0;
    socklen_t len = sizeof e;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len));
    printf("SO_ERROR: %s\n", e ? errname(e) : "none");
}

static void say_state(int fd) {
    struct tcp_info info;
    socklen_t len = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("state %d, ", info.tcpi_state);
    sayready("ready", fd, 0);
}

static void listeners_end(void) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    puts("a listener after shutdown of writing");
    int l = listener(5);
    struct sockaddr_in a = at(LO, port_of(l));
    SAY("shutdown", shutdown(l, SHUT_WR));
    say_state(l);
    int c = connected_to(l);
    SAYFD("accept", accept(l, NULL, NULL));
    close(c);
    puts("... and of reading, with a connection in the queue");
    c = connected_to(l);
    SAY("shutdown", shutdown(l, SHUT_RD));
    say_state(l);
    SAYFD("accept", accept(l, NULL, NULL));
    char b;
    SAY("the queued client reads", read(c, &b, 1));
    close(c);
    c = tcp();
    SAY("a client", connect(c, SA(a)));
    close(c);
    SAY("listen again", listen(l, 5));
    close(l);
    puts("... and of AF_UNSPEC");
    l = bound(LO, 0, 0);
    MUST(listen(l, 5));
    a = at(LO, port_of(l));
    SAY("connect to nobody", connect(l, &none, sizeof none));
    say_state(l);
    SAYFD("accept", accept(l, NULL, NULL));
    c = tcp();
    SAY("a client", connect(c, SA(a)));
    close(c);
    SAY("listen again", listen(l, 5));
    close(l);
    puts("... that connects");
    l = listener(5);
    int other = listener(5);
    a = at(LO, port_of(other));
    SAY("connect", connect(l, SA(a)));
    close(l);
    close(other);
    puts("listen where it may not be");
    struct pair p = pair();
    SAY("connected", listen(p.c, 5));
    SAY("again", listen(p.l, 7));
    close(p.s);
    char x;
    SAY("the end", read(p.c, &x, 1));
    SAY("half closed", listen(p.c, 5));
    SAY("bind when connected", bind(p.c, SA(a)));
    unpair(p);
    int fresh = tcp();
    SAY("unbound", listen(fresh, 5));
    printf("it has %s\n", port_of(fresh) ? "a port" : "no port");
    SAY("bind a listener", bind(fresh, SA(a)));
    close(fresh);
}

static void dissolved(void) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    puts("AF_UNSPEC on a connection");
    struct pair p = pair();
    struct sockaddr_in a = at(LO, port_of(p.l)), peer;
    socklen_t len = sizeof peer;
    SAY("connect to nobody", connect(p.c, &none, sizeof none));
    say_state(p.c);
    say_error(p.c);
    say_error(p.c);
    SAY("getpeername", getpeername(p.c, (struct sockaddr *)&peer, &len));
    char b;
    SAY("the peer reads", read(p.s, &b, 1));
    SAY("again connect", connect(p.c, SA(a)));
    say_state(p.c);
    SAY("connect a third time", connect(p.c, SA(a)));
    unpair(p);
    puts("AF_UNSPEC on a fresh socket");
    int fd = tcp();
    SAY("connect to nobody", connect(fd, &none, sizeof none));
    say_state(fd);
    say_error(fd);
    close(fd);
}

static void attempts(void) {
    puts("a refused attempt");
    int gone = listener(1), fd = nonblocking(tcp());
    struct sockaddr_in nobody = at(LO, port_of(gone)), peer;
    close(gone);
    SAY("connect", connect(fd, SA(nobody)));
    nap(50);
    say_state(fd);
    say_error(fd);
    say_state(fd);
    SAY("connect", connect(fd, SA(nobody)));
    SAY("connect", connect(fd, SA(nobody)));
    nap(50);
    SAY("connect", connect(fd, SA(nobody)));
    say_state(fd);
    close(fd);
    puts("... and then one that succeeds");
    int l = listener(5);
    struct sockaddr_in a = at(LO, port_of(l));
    fd = tcp();
    SAY("connect", connect(fd, SA(nobody)));
    SAY("connect", connect(fd, SA(a)));
    say_error(fd);
    close(fd);
    puts("in the middle of an attempt");
    int full = listener(0);
    struct sockaddr_in f = at(LO, port_of(full));
    int filler[2] = {tcp(), nonblocking(tcp())};
    MUST(connect(filler[0], SA(f)));
    fd = nonblocking(tcp());
    SAY("connect", connect(fd, SA(f)));
    nap(20);
    say_state(fd);
    socklen_t len = sizeof peer;
    char b;
    SAY("connect", connect(fd, SA(f)));
    SAY("getpeername", getpeername(fd, (struct sockaddr *)&peer, &len));
    SAY("read", read(fd, &b, 1));
    SAY("write", send(fd, "x", 1, MSG_NOSIGNAL));
    SAY("listen", listen(fd, 1));
    SAY("bind", bind(fd, SA(a)));
    SAY("shutdown", shutdown(fd, SHUT_WR));
    say_state(fd);
    say_error(fd);
    SAY("read", read(fd, &b, 1));
    SAY("write", send(fd, "x", 1, MSG_NOSIGNAL));
    SAY("connect elsewhere", connect(fd, SA(a)));
    nap(20);
    SAY("connect", connect(fd, SA(a)));
    SAY("connect", connect(fd, SA(a)));
    close(fd);
    close(filler[0]);
    close(filler[1]);
    close(full);
    close(l);
}

static void never_connected(void) {
    puts("never connected");
    int fd = tcp();
    char b;
    say_state(fd);
    SAY("read", read(fd, &b, 1));
    SAY("write", send(fd, "x", 1, MSG_NOSIGNAL));
    SAY("shutdown", shutdown(fd, SHUT_RD));
    say_state(fd);
    SAY("read", read(fd, &b, 1));
    SAY("shutdown", shutdown(fd, SHUT_WR));
    say_state(fd);
    SAY("write", send(fd, "x", 1, MSG_NOSIGNAL));
    int l = listener(5);
    struct sockaddr_in a = at(LO, port_of(l));
    SAY("connect all the same", connect(fd, SA(a)));
    SAY("write", send(fd, "x", 1, MSG_NOSIGNAL));
    say_state(fd);
    close(fd);
    close(l);
}

static void over(void) {
    puts("a connection that is over, in TIME-WAIT and after LAST-ACK");
    struct pair p = pair();
    struct sockaddr_in peer, a = at(LO, port_of(p.l));
    socklen_t len = sizeof peer;
    MUST(write(p.s, "bye", 3));
    SAY("shutdown", shutdown(p.c, SHUT_WR));
    char b[8];
    SAY("the peer's end", read(p.s, b, 8));
    SAY("shutdown", shutdown(p.s, SHUT_WR));
    nap(20);
    int ends[2] = {p.c, p.s};
    for (int i = 0; i < 2; i++) {
        say_state(ends[i]);
        len = sizeof peer;
        SAY("getpeername", getpeername(ends[i], (struct sockaddr *)&peer, &len));
        SAY("shutdown", shutdown(ends[i], SHUT_RDWR));
        SAY("write", send(ends[i], "x", 1, MSG_NOSIGNAL));
        SAY("read", read(ends[i], b, 8));
        SAY("read", read(ends[i], b, 8));
        SAY("connect", connect(ends[i], SA(a)));
        SAY("listen", listen(ends[i], 1));
        say_error(ends[i]);
    }
    unpair(p);
}

static void with_itself(void) {
    puts("a socket that connects to itself");
    int fd = bound(LO, 0, 0);
    struct sockaddr_in a = at(LO, port_of(fd));
    SAY("connect", connect(fd, SA(a)));
    say_state(fd);
    MUST(write(fd, "echo", 4));
    char b[8] = "";
    SAY("read", readn(fd, b, 4));
    puts(b);
    SAY("shutdown", shutdown(fd, SHUT_WR));
    SAY("read", read(fd, b, 8));
    say_state(fd);
    close(fd);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    conflicts();
    too_late();
    served_by_several();
    clients_of_a_port();
    port_at_connect();
    listeners_end();
    dissolved();
    attempts();
    never_connected();
    over();
    with_itself();
    return 0;
}
