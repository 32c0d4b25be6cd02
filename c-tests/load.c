/* Clients that keep `echo server PORT 200` busy: for measurements.
 *
 *   load client ADDRESS PORT CONNECTIONS SECONDS      prints requests a second and latencies in microseconds
 *   load visits ADDRESS PORT SECONDS                  a connection for each request: the same figures
 *   load idle ADDRESS PORT CONNECTIONS                opens them, says so, and waits for the end of its input
 *
 * Requests are 64 bytes, replies 200; each connection has one under way. */
#include "t.h"

enum { REQUEST = 64, REPLY = 200 };

static void add(int ep, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void tell(uint32_t *took, size_t samples, size_t requests, uint64_t ns) {
    qsort(took, samples, sizeof *took, by_size);
    if (samples == 0)
        die("not one answer");
    printf("%.0f %.1f %.1f\n", requests / (ns / 1e9), took[samples / 2] / 1e3, took[samples * 99 / 100] / 1e3);
}

static void client(const char *host, int port, int connections, double seconds) {
    static uint32_t took[4 << 20];
    size_t requests = 0, samples = 0;
    uint64_t *sent = calloc(65536, sizeof *sent);
    int ep = epoll_create1(0), on = 1;
    struct sockaddr_in a = address_of(host, port);
    char b[4096] = {0};
    for (int i = 0; i < connections; i++) {
        int c = tcp();
        MUST(connect(c, SA(a)));
        MUST(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
        add(ep, c);
        sent[c] = now_ns();
        MUST(write(c, b, REQUEST));
    }
    uint64_t begin = now_ns(), end = begin + seconds * 1e9, now = begin;
    while (now < end) {
        struct epoll_event out[256];
        int n = epoll_wait(ep, out, 256, 1000);
        now = now_ns();
        for (int i = 0; i < n; i++) {
            int c = out[i].data.fd;
            if (read(c, b, sizeof b) != REPLY)
                die("a reply");
            now = now_ns();
            if (samples < sizeof took / sizeof *took)
                took[samples++] = now - sent[c];
            requests++;
            sent[c] = now;
            MUST(write(c, b, REQUEST));
        }
    }
    tell(took, samples, requests, now - begin);
}

/* Four at a time, so that neither end waits for the other. */
static void visits(const char *host, int port, double seconds) {
    enum { AT_ONCE = 4 };
    static uint32_t took[4 << 20];
    uint64_t begin = now_ns(), end = begin + seconds * 1e9, now = begin;
    size_t requests = 0, samples = 0;
    struct sockaddr_in a = address_of(host, port);
    char b[4096] = {0};
    while (now < end) {
        int c[AT_ONCE];
        uint64_t started = now_ns();
        for (int i = 0; i < AT_ONCE; i++) {
            c[i] = tcp();
            MUST(connect(c[i], SA(a)));
            MUST(write(c[i], b, REQUEST));
        }
        for (int i = 0; i < AT_ONCE; i++) {
            if (readn(c[i], b, REPLY) != REPLY)
                die("a reply");
            /* A reset leaves no TIME_WAIT behind, and so the ports suffice. */
            struct linger at_once = {1, 0};
            MUST(setsockopt(c[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
            close(c[i]);
        }
        now = now_ns();
        requests += AT_ONCE;
        if (samples < sizeof took / sizeof *took)
            took[samples++] = (now - started) / AT_ONCE;
    }
    tell(took, samples, requests, now - begin);
}

static void idle(const char *host, int port, int connections) {
    struct sockaddr_in a = address_of(host, port);
    char b[REPLY] = {0};
    for (int i = 0; i < connections; i++) {
        int c = tcp();
        MUST(connect(c, SA(a)));
        MUST(write(c, b, REQUEST));
        if (readn(c, b, REPLY) != REPLY)
            die("a reply");
    }
    puts("connected");
    fflush(stdout);
    if (read(0, b, 1) < 0)
        die("read");
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc == 6 && !strcmp(argv[1], "client"))
        client(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
    else if (argc == 5 && !strcmp(argv[1], "visits"))
        visits(argv[2], atoi(argv[3]), atof(argv[4]));
    else if (argc == 5 && !strcmp(argv[1], "idle"))
        idle(argv[2], atoi(argv[3]), atoi(argv[4]));
    else
        return 2;
    return 0;
}
