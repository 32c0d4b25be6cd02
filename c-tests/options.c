/* Socket options: what getsockopt says at first, which values and lengths setsockopt takes, and what getsockopt says then; on a
 * fresh socket, a listener and a connection. What accept(2) passes on from the listener. */
#include "t.h"
#include <linux/filter.h>

struct option {
    int level, name;
    const char *text;
    int values[6], count;
};
#define O(level, name, ...) {level, name, #name, {__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int)}
#ifndef TCP_NOTSENT_LOWAT
#define TCP_NOTSENT_LOWAT 25
#endif
#ifndef TCP_INQ
#define TCP_INQ 36
#endif
#ifndef TCP_TX_DELAY
#define TCP_TX_DELAY 37
#endif

static const struct option options[] = {
    O(SOL_SOCKET, SO_REUSEADDR, 1, 7, 0),
    O(SOL_SOCKET, SO_REUSEPORT, 1, 0),
    O(SOL_SOCKET, SO_KEEPALIVE, 1, 5, 0),
    O(SOL_SOCKET, SO_BROADCAST, 1, 0),
    O(SOL_SOCKET, SO_OOBINLINE, 1, 0),
    O(SOL_SOCKET, SO_DONTROUTE, 1, 0),
    O(SOL_SOCKET, SO_RCVLOWAT, 1, 100, 0, -1),
    O(SOL_SOCKET, SO_SNDLOWAT, 1),
    O(SOL_SOCKET, SO_SNDBUF, 4096, 20000, 0, -1),
    O(SOL_SOCKET, SO_RCVBUF, 4096, 20000, 0, -1),
    O(SOL_SOCKET, SO_PRIORITY, 0, 3, 6),
    O(SOL_SOCKET, SO_TIMESTAMP, 1, 0),
    O(SOL_SOCKET, SO_NO_CHECK, 1, 0),
    O(SOL_SOCKET, SO_PASSCRED, 1, 0),
    O(SOL_SOCKET, SO_TYPE, 1),
    O(SOL_SOCKET, SO_DOMAIN, 1),
    O(SOL_SOCKET, SO_PROTOCOL, 1),
    O(SOL_SOCKET, SO_ACCEPTCONN, 1),
    O(SOL_SOCKET, SO_ERROR, 1),
    O(SOL_SOCKET, SO_PEEK_OFF, 0, -1),
    O(SOL_SOCKET, SO_LOCK_FILTER, 0),
    O(SOL_SOCKET, SO_BUSY_POLL, 0),
    O(SOL_SOCKET, 9999, 1),
    O(IPPROTO_IP, IP_TOS, 0x10, 0xb8, 0, 256),
    O(IPPROTO_IP, IP_TTL, 1, 255, 64, -1, 0, 256),
    O(IPPROTO_IP, IP_MINTTL, 0, 5, 256),
    O(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_WANT, 99),
    O(IPPROTO_IP, IP_RECVTTL, 1, 0),
    O(IPPROTO_IP, IP_FREEBIND, 1, 0),
    O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1, 0),
    O(IPPROTO_IP, IP_RECVERR, 1, 0),
    O(IPPROTO_IP, IP_PKTINFO, 1, 0),
    O(IPPROTO_IP, 9999, 1),
    O(IPPROTO_TCP, TCP_NODELAY, 1, 2, 0),
    O(IPPROTO_TCP, TCP_CORK, 1, 0),
    O(IPPROTO_TCP, TCP_MAXSEG, 536, 88, 87, 32767, 32768, 0),
    O(IPPROTO_TCP, TCP_KEEPIDLE, 10, 32767, 32768, 0, -1),
    O(IPPROTO_TCP, TCP_KEEPINTVL, 10, 32768, 0),
    O(IPPROTO_TCP, TCP_KEEPCNT, 3, 127, 128, 0),
    O(IPPROTO_TCP, TCP_SYNCNT, 3, 127, 128, 0),
    O(IPPROTO_TCP, TCP_LINGER2, 10, -1, 100000, 0),
    O(IPPROTO_TCP, TCP_DEFER_ACCEPT, 1, 5, 100, 0),
    O(IPPROTO_TCP, TCP_QUICKACK, 0, 1),
    O(IPPROTO_TCP, TCP_USER_TIMEOUT, 1000, 0, -1),
    O(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1000, 0),
    O(IPPROTO_TCP, TCP_INQ, 1, 2, 0),
    O(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 0),
    O(IPPROTO_TCP, TCP_SAVE_SYN, 0, 3),
    O(IPPROTO_TCP, TCP_TIMESTAMP, 0),
    O(IPPROTO_TCP, TCP_REPAIR_QUEUE, 1),
    O(IPPROTO_TCP, TCP_QUEUE_SEQ, 1),
    O(IPPROTO_TCP, TCP_WINDOW_CLAMP, 5000, 1, -1, 0),
    O(IPPROTO_TCP, TCP_MD5SIG, 1),
    O(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1, 0),
    O(IPPROTO_TCP, TCP_THIN_DUPACK, 1, 0),
    O(IPPROTO_TCP, 9999, 1),
    O(IPPROTO_IPV6, IPV6_V6ONLY, 1),
    O(IPPROTO_UDP, 1, 1),
    O(SOL_RAW, 1, 1),
};
enum { OPTIONS = sizeof options / sizeof options[0] };

/* Values that the state of the machine decides. */
static int is_vague(const struct option *o, int connected) {
    return (o->name == TCP_TIMESTAMP && o->level == IPPROTO_TCP) ||
           (connected && o->level == SOL_SOCKET && (o->name == SO_SNDBUF || o->name == SO_RCVBUF)) ||
           (connected && o->level == IPPROTO_TCP &&
            (o->name == TCP_MAXSEG || o->name == TCP_QUICKACK || o->name == TCP_WINDOW_CLAMP));
}

static const char *value_of(int fd, const struct option *o, int vague) {
    static char text[4][64];
    static int at;
    char *t = text[at++ % 4];
    int v = 0x55555555;
    socklen_t len = sizeof v;
    int r = getsockopt(fd, o->level, o->name, &v, &len);
    if (r < 0)
        snprintf(t, 64, "%s", errname(errno));
    else if (vague)
        snprintf(t, 64, "some (%d bytes)", len);
    else
        snprintf(t, 64, "%d (%d bytes)", v, len);
    return t;
}

static void walk(const char *state, int fd, int connected) {
    printf("-- %s\n", state);
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        /* What a buffer is at first depends on the kernel's version. */
        int buffer = o->level == SOL_SOCKET && o->name == SO_RCVBUF;
        printf("%s: %s", o->text, value_of(fd, o, buffer || is_vague(o, connected)));
        for (int n = 0; n < o->count; n++) {
            int v = o->values[n], r = setsockopt(fd, o->level, o->name, &v, sizeof v);
            printf("; %d: %s", v, r < 0 ? errname(errno) : value_of(fd, o, is_vague(o, connected)));
        }
        puts("");
    }
}

static void lengths(int fd) {
    puts("-- lengths and pointers");
    int v = 1;
    char big[128] = {1};
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        printf("%s: set", o->text);
        int sizes[] = {0, 1, 3, 8, 128, -1};
        for (int n = 0; n < 6; n++) {
            memset(big, 0, sizeof big), big[0] = 1;
            printf(" %s", setsockopt(fd, o->level, o->name, big, sizes[n]) ? errname(errno) : "0");
        }
        printf(" %s", setsockopt(fd, o->level, o->name, NULL, 4) ? errname(errno) : "0");
        printf("; get");
        for (int n = 0; n < 6; n++) {
            socklen_t len = sizes[n];
            memset(big, 0x55, sizeof big);
            int r = getsockopt(fd, o->level, o->name, big, &len);
            if (r < 0)
                printf(" %s", errname(errno));
            else
                printf(" %d", len);
        }
        socklen_t len = sizeof v;
        printf(" %s", getsockopt(fd, o->level, o->name, (void *)8, &len) ? errname(errno) : "0");
        printf(" %s", getsockopt(fd, o->level, o->name, &v, NULL) ? errname(errno) : "0");
        puts("");
    }
}

static void structs(const char *state, int fd) {
    printf("-- structs, %s\n", state);
    struct linger l = {9, 9};
    socklen_t len = sizeof l;
    SAY("SO_LINGER", getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len));
    printf("%d %d, %d\n", l.l_onoff, l.l_linger, len);
    SAY("set", setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){5, 7}, sizeof l));
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len));
    printf("%d %d\n", l.l_onoff, l.l_linger);
    SAY("off", setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){0, 3}, sizeof l));
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len));
    printf("%d %d\n", l.l_onoff, l.l_linger);
    SAY("short", setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, 4));
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){0, 0}, sizeof l));
    struct timeval tv = {9, 9};
    len = sizeof tv;
    for (int name = SO_RCVTIMEO; name == SO_RCVTIMEO || name == SO_SNDTIMEO; name += SO_SNDTIMEO - SO_RCVTIMEO) {
        MUST(getsockopt(fd, SOL_SOCKET, name, &tv, &len));
        printf("%ld.%06ld, %d\n", tv.tv_sec, tv.tv_usec, len);
        SAY("set", setsockopt(fd, SOL_SOCKET, name, &(struct timeval){3, 500000}, sizeof tv));
        MUST(getsockopt(fd, SOL_SOCKET, name, &tv, &len));
        printf("%ld.%06ld\n", tv.tv_sec, tv.tv_usec);
        SAY("odd", setsockopt(fd, SOL_SOCKET, name, &(struct timeval){0, 1}, sizeof tv));
        MUST(getsockopt(fd, SOL_SOCKET, name, &tv, &len));
        printf("%d\n", tv.tv_sec == 0 && tv.tv_usec > 0 && tv.tv_usec <= 10000);
        SAY("EDOM", setsockopt(fd, SOL_SOCKET, name, &(struct timeval){0, 1000000}, sizeof tv));
        SAY("off", setsockopt(fd, SOL_SOCKET, name, &(struct timeval){0, 0}, sizeof tv));
        MUST(getsockopt(fd, SOL_SOCKET, name, &tv, &len));
        printf("%ld.%06ld\n", tv.tv_sec, tv.tv_usec);
    }
    char name[32] = "";
    len = sizeof name;
    SAY("TCP_CONGESTION", getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    printf("%d\n", len);
    SAY("reno", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    len = sizeof name;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    printf("%s %d\n", name, len);
    len = 3;
    memset(name, 0, sizeof name);
    SAY("cut", getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    printf("%s %d\n", name, len);
    SAY("nonsense", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nonsense", 8));
    SAY("nothing", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "", 0));
    SAY("an empty name", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "", 1));
    SAY("cubic", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 6));
    len = sizeof name;
    SAY("SO_BINDTODEVICE", getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
    printf("%d\n", len);
    SAY("no such device", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nosuch0", 8));
    len = sizeof name;
    SAY("TCP_ULP", getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &len));
    printf("%d\n", len);
    SAY("TCP_ULP nonsense", setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nonsense", 8));
    struct tcp_info info;
    len = sizeof info;
    SAY("TCP_INFO", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("state %d, length %d\n", info.tcpi_state, len == sizeof info);
    len = 1;
    SAY("TCP_INFO, one byte", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("%d\n", len);
    struct sock_filter pass_all = {6, 0, 0, 0xffffffff};
    struct sock_fprog prog = {1, &pass_all};
    SAY("SO_ATTACH_FILTER", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog));
    SAY("SO_DETACH_FILTER", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, name, 4));
    SAY("too short", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, NULL, 0));
    for (int room = 0; room < 40; room += 4) {
        struct sockaddr_in a, b;
        socklen_t named = sizeof b;
        len = room;
        memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
        int r = getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &a, &len);
        int peer = getpeername(fd, (struct sockaddr *)&b, &named);
        printf("SO_PEERNAME, room for %d: %s %d, the peer's %d\n", room, r ? errname(errno) : "0", len, !peer && !memcmp(&a, &b, room < 28 ? room : 28));
    }
    int cpu = -2;
    len = sizeof cpu;
    SAY("SO_INCOMING_CPU", getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len));
    printf("known %d, %d\n", cpu >= 0, len);
    unsigned long long cookie[2] = {0, 0};
    len = 8;
    MUST(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie[0], &len));
    MUST(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie[1], &len));
    printf("SO_COOKIE %d, the same %d, %d\n", cookie[0] != 0, cookie[0] == cookie[1], len);
}

static void passed_on(void) {
    puts("-- what a connection has from its listener");
    static const struct {
        int level, name, value;
        const char *text;
    } set[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"},      {SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"},
        {SOL_SOCKET, SO_PRIORITY, 3, "SO_PRIORITY"},        {SOL_SOCKET, SO_RCVLOWAT, 9, "SO_RCVLOWAT"},
        {SOL_SOCKET, SO_OOBINLINE, 1, "SO_OOBINLINE"},      {IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"},
        {IPPROTO_TCP, TCP_CORK, 1, "TCP_CORK"},             {IPPROTO_TCP, TCP_KEEPIDLE, 77, "TCP_KEEPIDLE"},
        {IPPROTO_TCP, TCP_KEEPINTVL, 66, "TCP_KEEPINTVL"},  {IPPROTO_TCP, TCP_KEEPCNT, 5, "TCP_KEEPCNT"},
        {IPPROTO_TCP, TCP_SYNCNT, 4, "TCP_SYNCNT"},         {IPPROTO_TCP, TCP_LINGER2, 11, "TCP_LINGER2"},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 9999, "TCP_USER_TIMEOUT"},
        {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4321, "TCP_NOTSENT_LOWAT"},
        {IPPROTO_TCP, TCP_INQ, 1, "TCP_INQ"},               {IPPROTO_IP, IP_TOS, 0x28, "IP_TOS"},
        {IPPROTO_IP, IP_TTL, 44, "IP_TTL"},                 {IPPROTO_IP, IP_MINTTL, 2, "IP_MINTTL"},
    };
    int l = listener(5);
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++)
        MUST(setsockopt(l, set[i].level, set[i].name, &set[i].value, sizeof(int)));
    MUST(setsockopt(l, SOL_SOCKET, SO_LINGER, &(struct linger){1, 6}, sizeof(struct linger)));
    MUST(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval)));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    int c = connected_to(l), s = MUST(accept(l, NULL, NULL));
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        int v = -1;
        socklen_t len = sizeof v;
        MUST(getsockopt(s, set[i].level, set[i].name, &v, &len));
        printf("%s %d\n", set[i].text, v);
    }
    struct linger g;
    socklen_t len = sizeof g;
    MUST(getsockopt(s, SOL_SOCKET, SO_LINGER, &g, &len));
    printf("SO_LINGER %d %d\n", g.l_onoff, g.l_linger);
    struct timeval tv;
    len = sizeof tv;
    MUST(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
    printf("SO_RCVTIMEO %ld\n", tv.tv_sec);
    char name[16];
    len = sizeof name;
    MUST(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    printf("TCP_CONGESTION %s\n", name);
    MUST(setsockopt(s, SOL_SOCKET, SO_LINGER, &(struct linger){0, 0}, sizeof(struct linger)));
    close(s), close(c), close(l);
}

int main(void) {
    int fd = tcp();
    walk("fresh", fd, 0);
    close(fd);
    fd = listener(5);
    walk("listening", fd, 0);
    structs("listening", fd);
    close(fd);
    struct pair p = pair();
    walk("connected", p.s, 1);
    structs("connected", p.c);
    unpair(p);
    fd = tcp();
    structs("fresh", fd);
    lengths(fd);
    close(fd);
    passed_on();
    return 0;
}
