/* bind, listen, accept, connect and their kin in every state of a socket: one line for each call in each state, with what
 * the socket says of itself afterwards. */
#include "t.h"

enum { FRESH, BOUND, LISTENING, REFUSED, CONNECTED, SHUT_WRITE, SHUT_READ, SHUT_BOTH, AT_END, RESET, STATES };
static const char *states[] = {"fresh", "bound", "listening", "refused", "connected", "shut for writing",
                               "shut for reading", "shut for both", "at the end", "reset"};

struct made {
    int fd, other, listener;
};

static struct made make(int state) {
    struct made m = {-1, -1, -1};
    struct sockaddr_in a = ADDR(0);
    if (state <= REFUSED) {
        m.fd = tcp();
        if (state == BOUND || state == LISTENING)
            MUST(bind(m.fd, SA(a)));
        if (state == LISTENING)
            MUST(listen(m.fd, 3));
        if (state == REFUSED) {
            int l = listener(1);
            a = ADDR(port_of(l));
            close(l);
            connect(m.fd, SA(a));
        }
        nonblocking(m.fd);
        return m;
    }
    struct pair p = pair();
    m = (struct made){p.c, p.s, p.l};
    if (state >= SHUT_WRITE && state <= SHUT_BOTH)
        MUST(shutdown(m.fd, state == SHUT_WRITE ? SHUT_WR : state == SHUT_READ ? SHUT_RD : SHUT_RDWR));
    if (state == AT_END || state == RESET) {
        if (state == RESET)
            MUST(setsockopt(m.other, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
        close(m.other);
        m.other = -1;
        ready(m.fd, POLLIN | 0x2000, 1000);
    }
    nonblocking(m.fd);
    return m;
}

static void unmake(struct made m) {
    close(m.fd);
    if (m.other >= 0)
        close(m.other);
    if (m.listener >= 0)
        close(m.listener);
}

static int option(int fd, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, name, &value, &len));
    return value;
}

enum { UNKNOWN_FAMILY, SHORT, ONE_BYTE, TOO_LONG, NOWHERE, CALLS_OF_ADDRESSES };
static const char *addresses[] = {"family 99", "length 8", "length 1", "length 200", "NULL"};

static long with_address(int (*call)(int, const struct sockaddr *, socklen_t), int fd, int which) {
    struct sockaddr_storage room[2] = {0};
    struct sockaddr_in a = ADDR(9);
    memcpy(room, &a, sizeof a);
    if (which == UNKNOWN_FAMILY)
        room[0].ss_family = 99;
    socklen_t len = which == SHORT ? 8 : which == ONE_BYTE ? 1 : which == TOO_LONG ? 200 : 28;
    return call(fd, which == NOWHERE ? NULL : (struct sockaddr *)room, len);
}

static int bind_(int fd, const struct sockaddr *a, socklen_t len) { return bind(fd, a, len); }
static int connect_(int fd, const struct sockaddr *a, socklen_t len) { return connect(fd, a, len); }

enum { LISTEN = 2 * CALLS_OF_ADDRESSES, LISTEN_NEGATIVE, ACCEPT, ACCEPT_FLAGS, SHUT_0, SHUT_1, SHUT_2, SHUT_3, DISSOLVE, CALLS };

static long act(int fd, int call, char *what, size_t room) {
    static const char *others[] = {"listen 1",   "listen -1",  "accept",     "accept4, unknown flags", "shutdown 0",
                                   "shutdown 1", "shutdown 2", "shutdown 3", "connect AF_UNSPEC"};
    if (call < LISTEN) {
        int connects = call >= CALLS_OF_ADDRESSES, which = call % CALLS_OF_ADDRESSES;
        snprintf(what, room, "%s, %s", connects ? "connect" : "bind", addresses[which]);
        return with_address(connects ? connect_ : bind_, fd, which);
    }
    snprintf(what, room, "%s", others[call - LISTEN]);
    switch (call) {
    case LISTEN: return listen(fd, 1);
    case LISTEN_NEGATIVE: return listen(fd, -1);
    case ACCEPT: return accept(fd, NULL, NULL);
    case ACCEPT_FLAGS: return accept4(fd, NULL, NULL, 0x10000000);
    case DISSOLVE: return connect(fd, (struct sockaddr *)&(struct sockaddr_storage){.ss_family = AF_UNSPEC}, 28);
    default: return shutdown(fd, call - SHUT_0);
    }
}

static void observe(int state, int call) {
    struct made m = make(state);
    char what[64];
    long r = act(m.fd, call, what, sizeof what);
    const char *error = r < 0 ? errname(errno) : "ok";
    struct sockaddr_in name = {0}, peer = {0};
    socklen_t len = sizeof name;
    MUST(getsockname(m.fd, (struct sockaddr *)&name, &len));
    len = sizeof peer;
    const char *peered = getpeername(m.fd, (struct sockaddr *)&peer, &len) < 0 ? errname(errno) : "peer";
    /* What a FIN has brought about is there by then. */
    struct pollfd p = {m.fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    if ((call >= SHUT_0 && call <= SHUT_3) || state == SHUT_WRITE || state == SHUT_BOTH)
        nap(20);
    poll(&p, 1, 0);
    printf("%s | %s | %s | %s port %d, %s, poll %x, listens %d, error %d\n", states[state], what, error, host_of(&name),
           name.sin_port != 0, peered, p.revents, option(m.fd, SO_ACCEPTCONN), option(m.fd, SO_ERROR));
    fflush(stdout);
    unmake(m);
}

static int tcp_option(int fd, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, IPPROTO_TCP, name, &value, &len));
    return value;
}

/* What listen(2) resets, and what a child has of its listener's options. */
static void inheritance(void) {
    struct sockaddr_in a = ADDR(0);
    int l = tcp();
    MUST(bind(l, SA(a)));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){5}, sizeof(int)));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_QUICKACK, &(int){0}, sizeof(int)));
    SAY("TCP_QUICKACK off", tcp_option(l, TCP_QUICKACK));
    MUST(listen(l, 5));
    SAY("TCP_QUICKACK after listen", tcp_option(l, TCP_QUICKACK));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_QUICKACK, &(int){0}, sizeof(int)));
    MUST(listen(l, 6));
    SAY("TCP_QUICKACK after another listen", tcp_option(l, TCP_QUICKACK));
    SAY("TCP_DEFER_ACCEPT of the listener", tcp_option(l, TCP_DEFER_ACCEPT));
    int c = connected_to(l);
    MUST(send(c, "x", 1, 0));
    int s = MUST(accept(l, NULL, NULL));
    SAY("TCP_DEFER_ACCEPT of the child", tcp_option(s, TCP_DEFER_ACCEPT));
    close(s), close(c), close(l);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    for (int state = 0; state < STATES; state++)
        for (int call = 0; call < CALLS; call++)
            observe(state, call);
    inheritance();
    return 0;
}
