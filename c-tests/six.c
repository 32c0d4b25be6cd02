/* What is IPv6's own: sockets for both families, IPv4 addresses on them, who may bind beside whom, the options of level
 * IPPROTO_IPV6, link-local addresses, the choice of a source address. It takes a network of its own: python-tests/cases.py
 * makes an interface six0 with several addresses. */
#include "t.h"
#include <net/if.h>

#define ADDRFORM 1
#define MINHOPCOUNT 73
#define PREFER_TEMPORARY 1
#define PREFER_PUBLIC 2
#define SIX(text, port_) address_of(text, port_)

static int six(void) { return MUST(socket(AF_INET6, SOCK_STREAM, 0)); }

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, name, &value, &len) < 0 ? -errno : value;
}

static const char *result(long r) {
    static char text[4][40];
    static int at;
    char *t = text[at++ % 4];
    if (r < 0)
        snprintf(t, 40, "%s", errname(errno));
    else
        snprintf(t, 40, "%ld", r);
    return t;
}

static const char *value(int v) {
    static char text[4][40];
    static int at;
    char *t = text[at++ % 4];
    if (v < -1)
        snprintf(t, 40, "%s", errname(-v));
    else
        snprintf(t, 40, "%d", v);
    return t;
}

/* A bound socket, or -1; `only` is IPV6_V6ONLY. */
static int bound(const char *host, int port, int only, int reuse) {
    struct address a = SIX(host, port);
    int fd = MUST(socket(a.sin_family, SOCK_STREAM, 0));
    if (only >= 0)
        MUST(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, only));
    if (reuse)
        MUST(set(fd, SOL_SOCKET, reuse, 1));
    if (bind(fd, SA(a)) == 0)
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

static void name(const char *what, int fd, int known) {
    for (int peer = 0; peer < 2; peer++) {
        struct address a;
        socklen_t len = sizeof a;
        memset(&a, 0, sizeof a);
        if ((peer ? getpeername : getsockname)(fd, &a.sa, &len) < 0)
            printf("%s, %s: %s\n", what, peer ? "peer" : "own", errname(errno));
        else
            printf("%s, %s: family %d, %d bytes, %s, port %s, scope %s\n", what, peer ? "peer" : "own", a.sin_family, len,
                   host_of(&a), ntohs(a.sin_port) == known ? "known" : a.sin_port ? "another" : "0",
                   a.sin_family != AF_INET6 || !a.v6.sin6_scope_id ? "0"
                   : a.v6.sin6_scope_id == if_nametoindex("six0")  ? "six0"
                                                                    : "another");
    }
    fflush(stdout);
}

/* Who connects to a listener on `::` as whom, with and without IPV6_V6ONLY. */
static void dual(void) {
    static const char *hosts[] = {"127.0.0.1", "127.0.0.2", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "0.0.0.0",
        "fd77:6::1", "fd77:6::2",
                                  "10.66.6.1", "::ffff:10.66.6.1", "::127.0.0.1", "ff02::1", "::ffff:224.0.0.1", "fe80::1",
                                      "2001:db8::9"};
    static const char *listeners[] = {"::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "0.0.0.0", "fd77:6::2"};
    for (size_t l = 0; l < sizeof listeners / sizeof *listeners; l++)
        for (int n = 0; n < 1 + !l; n++) {
            int only = strcmp(listeners[l], "0.0.0.0") ? n : -1;
            int fd = bound(listeners[l], 0, only, 0), port = port_of(fd);
            printf("-- a listener on %s%s: %s\n", listeners[l], only > 0 ? " alone" : "", result(listen(fd, 5)));
            printf("IPV6_V6ONLY %s, when bound %s\n", value(get(fd, IPPROTO_IPV6, IPV6_V6ONLY)), result(set(fd,
                IPPROTO_IPV6, IPV6_V6ONLY, 0)));
            for (size_t h = 0; h < sizeof hosts / sizeof *hosts; h++)
                for (int family = 0; family < 2; family++) {
                    struct address a = SIX(hosts[h], port);
                    if (family == 0 && a.sin_family != AF_INET)
                        continue;
                    int c = socket(family ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
                    nonblocking(c);
                    int r = connect(c, SA(a));
                    if (r < 0 && errno == EINPROGRESS) {
                        r = ready(c, POLLOUT, 5000) & POLLERR ? -1 : 0;
                        errno = get(c, SOL_SOCKET, SO_ERROR);
                    }
                    printf("%s socket to %s: %s\n", family ? "IPv6" : "IPv4", hosts[h], result(r));
                    if (r == 0) {
                        struct address from;
                        socklen_t len = sizeof from;
                        int s = MUST(accept(fd, &from.sa, &len));
                        printf("accept tells family %d, %d bytes, %s, the client's port %d, flow %d\n", from.sin_family,
                            len, host_of(&from),
                               ntohs(from.sin_port) == port_of(c), len == sizeof from.v6 ? (int)from.v6.sin6_flowinfo : 0);
                        name("served", s, port);
                        name("client", c, port);
                        printf("V6ONLY of both %s %s, domain %d %d\n", value(get(s, IPPROTO_IPV6, IPV6_V6ONLY)),
                               value(get(c, IPPROTO_IPV6, IPV6_V6ONLY)), get(s, SOL_SOCKET, SO_DOMAIN), get(c, SOL_SOCKET,
                                   SO_DOMAIN));
                        close(s);
                    }
                    close(c);
                }
            close(fd);
        }
}

/* Two sockets, one port: who is refused. */
static void conflicts(void) {
    static const struct {
        const char *host;
        int only;
    } kinds[] = {{"::", 0}, {"::", 1}, {"0.0.0.0", -1}, {"::1", 0}, {"127.0.0.1", -1}, {"::ffff:127.0.0.1", 0},
        {"::ffff:0.0.0.0", 0}, {"fd77:6::1", 0}};
    enum { KINDS = sizeof kinds / sizeof *kinds };
    static const int options[] = {0, SO_REUSEADDR, SO_REUSEPORT};
    for (int o = 0; o < 3; o++)
        for (int listening = 0; listening < 2; listening++)
            for (int i = 0; i < KINDS; i++) {
                printf("%s%s, %s:", kinds[i].host, kinds[i].only > 0 ? " alone" : "", listening ? "listening" : "bound");
                for (int j = 0; j < KINDS; j++) {
                    int one = bound(kinds[i].host, 0, kinds[i].only, options[o]);
                    if (one < 0)
                        die("bind");
                    if (listening)
                        MUST(listen(one, 1));
                    int two = bound(kinds[j].host, port_of(one), kinds[j].only, options[o]);
                    printf(" %s%s %s", kinds[j].host, kinds[j].only > 0 ? " alone" : "", two < 0 ? errname(errno) : "ok");
                    if (two >= 0) {
                        printf("/%s", result(listen(two, 1)));
                        close(two);
                    }
                    close(one);
                }
                puts("");
            }
}

/* Two listeners on one port, each for its family. */
static void beside(void) {
    int v6 = bound("::", 0, 1, 0), port = port_of(v6), v4 = bound("0.0.0.0", port, -1, 0);
    SAY("listen for IPv6", listen(v6, 5));
    SAY("listen for IPv4", listen(v4, 5));
    struct address a = SIX("127.0.0.1", port), b = SIX("::1", port);
    int c = MUST(socket(AF_INET, SOCK_STREAM, 0)), d = six();
    SAY("a client of IPv4", connect(c, SA(a)));
    SAY("a client of IPv6", connect(d, SA(b)));
    int s = MUST(accept(v4, NULL, NULL)), t = MUST(accept(v6, NULL, NULL));
    name("in IPv4", s, port), name("in IPv6", t, port);
    close(v4);
    int e = MUST(socket(AF_INET, SOCK_STREAM, 0));
    close(s), close(c);
    SAY("IPv4's has gone", connect(e, SA(a)));
    close(d), close(t), close(e), close(v6);
}

struct option {
    int name;
    const char *text;
    int values[7], count;
};
#define O(name, ...) {name, #name, {__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int)}
/* Without those for multicast, which is nothing to TCP, and IPV6_MTU, which is forgotten when others are set. */
static const struct option options[] = {
    O(IPV6_TCLASS, 0, 0x10, 0xb8, 255, 256, -1, -2),
    O(IPV6_UNICAST_HOPS, 1, 255, 0, 256, -1, -2, 64),
    O(MINHOPCOUNT, 0, 5, 255, 256, -1, 0),
    O(IPV6_UNICAST_IF, 0, 9999),
    O(IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT, IPV6_PMTUDISC_WANT, IPV6_PMTUDISC_DO, IPV6_PMTUDISC_PROBE, 5, 9, IPV6_PMTUDISC_WANT),
    O(IPV6_DONTFRAG, 1, 2, 0),
    O(IPV6_RECVERR, 1, 7, 0),
    O(IPV6_RECVPKTINFO, 1, 2, 0),
    O(IPV6_RECVHOPLIMIT, 1, 2, 0),
    O(IPV6_RECVTCLASS, 1, 2, 0),
    O(IPV6_RECVRTHDR, 1, 2, 0),
    O(IPV6_RECVHOPOPTS, 1, 0),
    O(IPV6_RECVDSTOPTS, 1, 0),
    O(IPV6_RECVPATHMTU, 1, 0),
    O(IPV6_RECVFRAGSIZE, 1, 0),
    O(IPV6_RECVORIGDSTADDR, 1, 0),
    O(11 /* IPV6_FLOWINFO */, 1, 0),
    O(33 /* IPV6_FLOWINFO_SEND */, 1, 0),
    O(IPV6_AUTOFLOWLABEL, 0, 1, 2),
    O(IPV6_FREEBIND, 1, 0),
    O(IPV6_TRANSPARENT, 0),
    O(IPV6_ADDR_PREFERENCES, 1, 2, 3, 0x100, 0x400, 0x800, 0),
    O(IPV6_ROUTER_ALERT, 1),
    O(IPV6_CHECKSUM, 2),
    O(IPV6_V6ONLY, 1, 0),
    O(ADDRFORM, AF_INET6, AF_UNSPEC),
    O(9999, 1),
};

static void walk(const char *what, int fd) {
    printf("-- %s\n", what);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const struct option *o = &options[i];
        printf("%s: %s", o->text, value(get(fd, IPPROTO_IPV6, o->name)));
        for (int n = 0; n < o->count; n++) {
            int r = set(fd, IPPROTO_IPV6, o->name, o->values[n]);
            printf("; %d: %s", o->values[n], r < 0 ? errname(errno) : value(get(fd, IPPROTO_IPV6, o->name)));
        }
        char tiny = 1;
        socklen_t len = 1;
        printf("; one byte: %s", result(setsockopt(fd, IPPROTO_IPV6, o->name, &tiny, 1)));
        printf(" %s\n", result(getsockopt(fd, IPPROTO_IPV6, o->name, &tiny, &len)));
    }
}

static void walks(void) {
    int fd = six();
    walk("fresh", fd);
    close(fd);
    int l = bound("::", 0, 0, 0), port = port_of(l);
    MUST(listen(l, 5));
    walk("listening", l);
    static const char *hosts[] = {"::1", "::ffff:127.0.0.1"};
    for (int i = 0; i < 2; i++) {
        struct address a = SIX(hosts[i], port);
        int c = six();
        MUST(connect(c, SA(a)));
        int s = MUST(accept(l, NULL, NULL));
        int ends[] = {l, c, s};
        for (int e = 0; e < 3; e++)
            printf("IP_MTU %s, IPV6_MTU %s; set to 1279 %s, to 1400 %s\n", value(get(ends[e], IPPROTO_IP, IP_MTU)),
                   value(get(ends[e], IPPROTO_IPV6, IPV6_MTU)), result(set(ends[e], IPPROTO_IPV6, IPV6_MTU, 1279)),
                   result(set(ends[e], IPPROTO_IPV6, IPV6_MTU, 1400)));
        walk(hosts[i], c);
        walk("accepted", s);
        close(c), close(s);
    }
    close(l);
    fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    walk("a socket of IPv4", fd);
    close(fd);
}

/* A listener's options, in a connection of it. */
static void passed_on(void) {
    int l = bound("::", 0, 0, 0);
    MUST(set(l, IPPROTO_IPV6, IPV6_TCLASS, 0x28));
    MUST(set(l, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44));
    MUST(set(l, IPPROTO_IPV6, MINHOPCOUNT, 2));
    MUST(set(l, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0));
    MUST(set(l, IPPROTO_IP, IP_TOS, 0x10));
    MUST(set(l, IPPROTO_IP, IP_TTL, 33));
    MUST(listen(l, 5));
    struct address a = SIX("::1", port_of(l));
    int c = six();
    MUST(connect(c, SA(a)));
    int s = MUST(accept(l, NULL, NULL));
    printf("passed on: TCLASS %d, HOPS %d, MINHOPCOUNT %d, AUTOFLOWLABEL %d, TOS %d, TTL %d\n", get(s, IPPROTO_IPV6, IPV6_TCLASS),
           get(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS), get(s, IPPROTO_IPV6, MINHOPCOUNT), get(s, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL),
           get(s, IPPROTO_IP, IP_TOS), get(s, IPPROTO_IP, IP_TTL));
    close(c), close(s), close(l);
}

/* IPV6_ADDRFORM makes a socket of IPv4 of it. */
static void addrform(void) {
    int l = bound("::", 0, 0, 0), port = port_of(l), fd = six();
    MUST(listen(l, 5));
    printf("ADDRFORM, fresh: %s, a listener: %s\n", result(set(fd, IPPROTO_IPV6, ADDRFORM, AF_INET)), result(set(l,
        IPPROTO_IPV6, ADDRFORM, AF_INET)));
    close(fd);
    static const char *hosts[] = {"::1", "::ffff:127.0.0.1"};
    for (int i = 0; i < 2; i++) {
        struct address a = SIX(hosts[i], port);
        int c = six();
        MUST(connect(c, SA(a)));
        int s = MUST(accept(l, NULL, NULL));
        printf("ADDRFORM of %s: %s, %s\n", hosts[i], value(get(c, IPPROTO_IPV6, ADDRFORM)), result(set(c, IPPROTO_IPV6,
            ADDRFORM, AF_INET)));
        name("then", c, port);
        printf("domain %d, TCLASS %s, IP_TOS %s\n", get(c, SOL_SOCKET, SO_DOMAIN), value(get(c, IPPROTO_IPV6, IPV6_TCLASS)),
               value(get(c, IPPROTO_IP, IP_TOS)));
        printf("set: %s %s\n", result(set(c, IPPROTO_IPV6, IPV6_TCLASS, 4)), result(set(c, IPPROTO_IPV6, ADDRFORM, AF_INET)));
        char b[4];
        SAY("send", send(c, "abc", 3, 0));
        SAY("arrives", readn(s, b, 3));
        close(c), close(s);
    }
    close(l);
}

/* Addresses that mean something on one link only. */
static void scopes(void) {
    unsigned link = if_nametoindex("six0");
    struct address own = SIX("fe80::6", 0), a;
    static const char *what[] = {"without a scope", "with its scope", "with another scope", "with a scope that is none"};
    unsigned scopes[] = {0, link, if_nametoindex("lo"), 9999};
    for (int i = 0; i < 4; i++) {
        int fd = six();
        own.v6.sin6_scope_id = scopes[i];
        printf("bind %s: %s\n", what[i], result(bind(fd, SA(own))));
        name("then", fd, 0);
        close(fd);
    }
    int fd = six();
    printf("SO_BINDTODEVICE %s\n", result(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "six0", 5)));
    own.v6.sin6_scope_id = 0;
    printf("then without: %s\n", result(bind(fd, SA(own))));
    name("then", fd, 0);
    close(fd);
    own.v6.sin6_scope_id = link;
    int l = six();
    MUST(bind(l, SA(own)));
    MUST(listen(l, 5));
    int any = bound("::", 0, 0, 0);
    MUST(listen(any, 5));
    for (int to = 0; to < 2; to++)
        for (int i = 0; i < 4; i++)
            for (int device = 0; device < 2; device++) {
                int c = six(), server = to ? any : l, port = port_of(server);
                if (device)
                    MUST(setsockopt(c, SOL_SOCKET, SO_BINDTODEVICE, "six0", 5));
                a = SIX("fe80::6", port);
                a.v6.sin6_scope_id = scopes[i];
                int r = connect(c, SA(a));
                printf("connect to %s %s%s: %s\n", to ? "::" : "it", what[i], device ? ", bound to the device" : "", result(r));
                if (r == 0) {
                    struct address from;
                    socklen_t len = sizeof from;
                    int s = MUST(accept(server, &from.sa, &len));
                    printf("accept tells %s, scope %s\n", host_of(&from),
                        from.v6.sin6_scope_id == link ? "six0" : from.v6.sin6_scope_id ? "another" : "0");
                    name("client", c, port), name("served", s, port);
                    close(s);
                }
                close(c);
            }
    close(l), close(any);
}

/* From which of several addresses: the nearest, not a deprecated one, a temporary one if that is wanted, or the bound one. */
static void sources(void) {
    static const char *hosts[] = {"::1", "fd77:6::1", "fd77:6::2", "fd77:6::dead", "fd77:66::1", "10.66.6.1", "::ffff:10.66.6.1"};
    static const int preferences[] = {0, PREFER_PUBLIC, PREFER_TEMPORARY};
    int l = bound("::", 0, 0, 0), port = port_of(l);
    MUST(listen(l, 5));
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
        for (int p = 0; p < 3; p++) {
            struct address a = SIX(hosts[i], port);
            int c = MUST(socket(a.sin_family, SOCK_STREAM, 0));
            if (a.sin_family == AF_INET6 && preferences[p])
                MUST(set(c, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, preferences[p]));
            printf("to %s, preference %d: %s\n", hosts[i], preferences[p], result(connect(c, SA(a))));
            name("client", c, port);
            close(c);
            close(MUST(accept(l, NULL, NULL)));
        }
    static const char *own[] = {"fd77:6::dead", "fd77:66::1", "::1", "::ffff:127.0.0.1", "fd77:6::5", "::"};
    static const char *to[] = {"fd77:6::1", "::ffff:10.66.6.1"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        for (int free = 0; free < 2; free++)
            for (int t = 0; t < 2; t++) {
                struct address a = SIX(own[i], 0), b = SIX(to[t], port);
                int c = six();
                if (free)
                    MUST(set(c, IPPROTO_IPV6, IPV6_FREEBIND, 1));
                printf("bind to %s%s: %s", own[i], free ? ", free" : "", result(bind(c, SA(a))));
                /* A segment from an address that is not there would wait for an answer. */
                int r = i == 4 && free ? -2 : connect(c, SA(b));
                printf(", connect to %s: %s\n", to[t], r == -2 ? "not tried" : result(r));
                if (r == 0) {
                    name("client", c, port);
                    close(MUST(accept(l, NULL, NULL)));
                }
                close(c);
            }
    close(l);
}

/* Addresses that are too short, of another family, or too strange. */
static void lengths(void) {
    int l = bound("::1", 0, 0, 0), port = port_of(l);
    MUST(listen(l, 50));
    for (int call = 0; call < 2; call++)
        for (int family = 0; family < 3; family++)
            for (int len = 0; len <= 32; len += len < 24 ? 8 : 2) {
                struct sockaddr_storage room;
                memset(&room, 0, sizeof room);
                struct address a = SIX(family ? "127.0.0.1" : "::1", call ? port : 0);
                memcpy(&room, &a, sizeof a);
                if (family == 2)
                    room.ss_family = AF_UNSPEC;
                int fd = six();
                printf("%s, family %d, %d bytes: %s\n", call ? "connect" : "bind", room.ss_family, len,
                       result((call ? connect : bind)(fd, (struct sockaddr *)&room, len)));
                close(fd);
            }
    close(l);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"dual", dual},         {"conflicts", conflicts}, {"beside", beside},   {"walks", walks},    {"passed on",
        passed_on},
                 {"addrform", addrform}, {"scopes", scopes},       {"sources", sources}, {"lengths", lengths}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (argc < 2 || !strcmp(argv[1], parts[i].name)) {
            printf("== %s\n", parts[i].name);
            parts[i].run();
        }
    return 0;
}
