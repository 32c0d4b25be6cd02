/* Bytes in one direction, as many as go: for measurements.
 *
 *   flood server PORT                                     serves one connection after the other
 *   flood send|receive ADDRESS PORT MEGABYTES             prints megabytes a second, seen by the client
 *
 * The first byte of a client says which way they go, the next eight how many. */
#include "t.h"

enum { BLOCK = 65536 };
static char block[BLOCK];

static void all(int fd, long bytes) {
    while (bytes > 0) {
        ssize_t n = write(fd, block, bytes < BLOCK ? bytes : BLOCK);
        if (n <= 0)
            die("write");
        bytes -= n;
    }
}

static void take(int fd, long bytes) {
    while (bytes > 0) {
        ssize_t n = read(fd, block, BLOCK);
        if (n <= 0)
            die("read");
        bytes -= n;
    }
}

struct order {
    char way;
    char bytes[8];
};

static void server(int port) {
    int l = tcp(), on = 1;
    struct sockaddr_in a = address(INADDR_ANY, port);
    MUST(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    MUST(bind(l, SA(a)));
    MUST(listen(l, 16));
    puts("listening");
    fflush(stdout);
    for (;;) {
        int s = MUST(accept(l, NULL, NULL));
        struct order o;
        long bytes;
        if (readn(s, &o, sizeof o) != sizeof o)
            die("an order");
        memcpy(&bytes, o.bytes, sizeof bytes);
        if (o.way == 's') {
            take(s, bytes);
            all(s, 1);
        } else {
            all(s, bytes);
        }
        close(s);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void client(char way, const char *host, int port, long megabytes) {
    struct sockaddr_in a = address_of(host, port);
    int c = tcp();
    MUST(connect(c, SA(a)));
    long bytes = megabytes << 20;
    struct order o = {.way = way};
    memcpy(o.bytes, &bytes, sizeof bytes);
    double begin = now();
    if (write(c, &o, sizeof o) != sizeof o)
        die("write");
    if (way == 's') {
        all(c, bytes);
        take(c, 1);
    } else {
        take(c, bytes);
    }
    printf("%.1f\n", megabytes / (now() - begin));
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "server"))
        server(atoi(argv[2]));
    else if (argc == 5)
        client(argv[1][0], argv[2], atoi(argv[3]), atol(argv[4]));
    else
        return 2;
    return 0;
}
