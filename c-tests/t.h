/* Helpers of the test programs. Each program prints what its calls return, by names and not by numbers that change from run
 * to run, so that its output on the kernel's TCP and on tcpreload's can be compared line by line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The family that a program is run in, from the environment: FAMILY=4, FAMILY=6, or FAMILY=mapped, which is sockets of IPv6 with
 * addresses of IPv4 (::ffff:a.b.c.d). Where a program has a struct sockaddr_in, it is an address of that family. */
struct address {
    union {
        struct {
            sa_family_t sin_family;
            in_port_t sin_port;
            struct in_addr sin_addr;
        };
        struct sockaddr sa;
        struct sockaddr_in6 v6;
    };
};
#define sockaddr_in address
#define DOMAIN (in_family('4') ? AF_INET : AF_INET6)
#define ADDR(port_) address(INADDR_LOOPBACK, port_)
#define SA(a) ((struct sockaddr *)&(a)), address_bytes((struct sockaddr *)&(a), sizeof(a))

/* Whether it is the one that begins with that letter. */
static inline int in_family(char letter) {
    const char *family = getenv("FAMILY");
    return (family && *family ? *family : '4') == letter;
}

static inline socklen_t address_bytes(const struct sockaddr *a, socklen_t room) {
    return a->sa_family == AF_INET && room > sizeof(*a) ? sizeof(*a) : room;
}

/* Sets the host, which is named by an IPv4 address: what it is in IPv6, python-tests/net.py has on its loopback interfaces. */
static inline void set_host(struct address *a, uint32_t host) {
    uint8_t *b = a->v6.sin6_addr.s6_addr;
    if (in_family('4')) {
        a->sin_addr.s_addr = htonl(host);
        return;
    }
    memset(b, 0, 16);
    uint32_t last = htonl(host);
    if (host == INADDR_ANY)
        return;
    if (in_family('m'))
        b[10] = b[11] = 0xff;
    else if (host == INADDR_LOOPBACK)
        last = htonl(1);
    else if (host >> 24 == 127)
        memcpy(b, "\xfd\x77\0\x7f", 4), last = htonl(host & 0xffff);
    else if (host >> 28 >= 14)
        memcpy(b, "\xff\2", 2), last = htonl(1);
    else
        memcpy(b, "\x20\1\xd\xb8", 4);
    memcpy(b + 12, &last, 4);
}

static inline struct address address(uint32_t host, int port) {
    struct address a = {.sin_family = DOMAIN, .sin_port = htons(port)};
    set_host(&a, host);
    return a;
}

/* The host as it is written, which may be either family's. */
static inline struct address address_of(const char *text, int port) {
    struct address a = {.sin_family = strchr(text, ':') ? AF_INET6 : AF_INET, .sin_port = htons(port)};
    if (inet_pton(a.sin_family, text, a.sin_family == AF_INET ? (void *)&a.sin_addr : (void *)&a.v6.sin6_addr) != 1)
        a.sin_family = AF_UNSPEC;
    return a;
}

static inline const char *host_of(const struct address *a) {
    static char text[4][INET6_ADDRSTRLEN];
    static int at;
    char *t = text[at++ % 4];
    const void *host = a->sin_family == AF_INET6 ? (const void *)&a->v6.sin6_addr : (const void *)&a->sin_addr;
    return inet_ntop(a->sin_family == AF_INET6 ? AF_INET6 : AF_INET, host, t, INET6_ADDRSTRLEN);
}

/* Prints a line: what was called, what it gave, and errno by name where it failed. */
#define SAY(what, call) say(what, (long)(call))

static inline const char *errname(int e) {
    const char *name = strerrorname_np(e);
    return name ? name : "?";
}

static inline long say(const char *what, long r) {
    int e = errno;
    if (r < 0)
        printf("%s: %ld %s\n", what, r, errname(e));
    else
        printf("%s: %ld\n", what, r);
    fflush(stdout);
    return r;
}

/* As SAY for calls that give a descriptor: its number may differ, only whether it is one is printed. */
#define SAYFD(what, call) sayfd(what, call)
static inline int sayfd(const char *what, int fd) {
    int e = errno;
    if (fd < 0)
        printf("%s: %s\n", what, errname(e));
    else
        printf("%s: a descriptor\n", what);
    fflush(stdout);
    return fd;
}

static inline void die(const char *what) {
    printf("FATAL %s: %s\n", what, errname(errno));
    fflush(stdout);
    _exit(99);
}

/* Quietly, or not at all. */
#define MUST(call)                                                                                                     \
    ({                                                                                                                 \
        __typeof__(call) r_ = (call);                                                                                  \
        if (r_ < 0)                                                                                                    \
            die(#call);                                                                                                \
        r_;                                                                                                            \
    })

static inline const char *events(int e) {
    static char text[8][80];
    static int at;
    char *t = text[at++ % 8];
    snprintf(t, 80, "%s%s%s%s%s%s%s", e ? "" : "none ", e & POLLIN ? "IN " : "", e & POLLPRI ? "PRI " : "",
             e & POLLOUT ? "OUT " : "", e & POLLERR ? "ERR " : "", e & POLLHUP ? "HUP " : "",
             e & 0x2000 ? "RDHUP " : "");
    t[strlen(t) - 1] = 0;
    return t;
}

/* What poll says of a descriptor, waiting up to `ms` for any of `want`. */
static inline int ready(int fd, int want, int ms) {
    struct pollfd p = {.fd = fd, .events = want};
    MUST(poll(&p, 1, ms));
    return p.revents;
}

static inline void sayready(const char *what, int fd, int ms) {
    printf("%s: %s\n", what, events(ready(fd, POLLIN | POLLPRI | POLLOUT | 0x2000, ms)));
    fflush(stdout);
}

static inline void nap(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) < 0)
        ;
}

static inline int nonblocking(int fd) {
    MUST(fcntl(fd, F_SETFL, MUST(fcntl(fd, F_GETFL)) | O_NONBLOCK));
    return fd;
}

static inline int tcp(void) { return MUST(socket(DOMAIN, SOCK_STREAM, 0)); }

static inline int port_of(int fd) {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    MUST(getsockname(fd, (struct sockaddr *)&a, &len));
    return ntohs(a.sin_port);
}

/* A listener on a free port of the loopback address. */
static inline int listener(int backlog) {
    int fd = tcp();
    struct sockaddr_in a = ADDR(0);
    MUST(bind(fd, SA(a)));
    MUST(listen(fd, backlog));
    return fd;
}

static inline int connected_to(int l) {
    int fd = tcp();
    struct sockaddr_in a = ADDR(port_of(l));
    MUST(connect(fd, SA(a)));
    return fd;
}

/* Both ends of a connection. */
struct pair {
    int l, c, s;
};
static inline struct pair pair(void) {
    struct pair p;
    p.l = listener(8);
    p.c = connected_to(p.l);
    p.s = MUST(accept(p.l, NULL, NULL));
    return p;
}
static inline void unpair(struct pair p) {
    close(p.c);
    close(p.s);
    close(p.l);
}

/* A connection whose end p.s was one of the given number as well, and was closed where nobody sees it: fclose(3) closes inside of
 * libc. The number is free. */
static inline struct pair closed_unseen(int *number) {
    FILE *f = fopen("/dev/null", "r");
    struct pair p = pair();
    *number = fileno(f);
    MUST(dup2(p.s, *number));
    close(p.s);
    fclose(f);
    return p;
}

/* Reads until `n` bytes are there, or the end. */
static inline long readn(int fd, void *to, size_t n) {
    size_t got = 0;
    while (got < n) {
        ssize_t r = read(fd, (char *)to + got, n - got);
        if (r < 0)
            return got ? (long)got : r;
        if (r == 0)
            break;
        got += r;
    }
    return got;
}
