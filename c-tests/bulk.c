/* Many bytes each way, with a checksum: `bulk server PORT [RCVBUF]`, `bulk client ADDRESS PORT MEGABYTES [RCVBUF]`, or
 * `bulk` for both in one process. Both sides send what a seed gives and check what the other's seed gives. */
#include "t.h"

static uint64_t next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

enum { BLOCK = 65536 };

static void fill(uint64_t *seed, uint64_t *to, size_t bytes) {
    for (size_t i = 0; i < bytes / 8; i++)
        to[i] = next(seed);
}

struct job {
    int fd;
    long bytes;
    uint64_t seed;
    long wrong;
};

static void *sender(void *arg) {
    struct job *j = arg;
    static __thread uint64_t b[BLOCK / 8];
    for (long sent = 0; sent < j->bytes; sent += BLOCK) {
        fill(&j->seed, b, BLOCK);
        for (size_t at = 0; at < BLOCK;) {
            ssize_t n = write(j->fd, (char *)b + at, BLOCK - at);
            if (n <= 0)
                die("write");
            at += n;
        }
    }
    MUST(shutdown(j->fd, SHUT_WR));
    return NULL;
}

static void receiver(struct job *j) {
    static __thread uint64_t b[BLOCK / 8], want[BLOCK / 8];
    for (long got = 0; got < j->bytes; got += BLOCK) {
        if (readn(j->fd, b, BLOCK) != BLOCK)
            die("read");
        fill(&j->seed, want, BLOCK);
        j->wrong += memcmp(b, want, BLOCK) != 0;
    }
    char c;
    if (read(j->fd, &c, 1) != 0)
        die("the end");
}

/* The first eight bytes of a client say how many follow. */
static long both(int fd, long bytes, uint64_t out, uint64_t in) {
    struct job send = {fd, bytes, out, 0}, receive = {fd, bytes, in, 0};
    pthread_t t;
    pthread_create(&t, NULL, sender, &send);
    receiver(&receive);
    pthread_join(t, NULL);
    return receive.wrong;
}

static void server(int l) {
    int s = MUST(accept(l, NULL, NULL));
    int64_t bytes;
    if (readn(s, &bytes, 8) != 8)
        die("the length");
    printf("server: wrong blocks %ld\n", both(s, bytes, 2, 1));
    close(s);
}

static int buffer; /* SO_RCVBUF; 0 leaves it to the stack */

static void buffered(int fd) {
    if (buffer)
        MUST(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer));
}

static void client(struct sockaddr_in a, int64_t bytes) {
    int c = tcp();
    buffered(c);
    MUST(connect(c, SA(a)));
    MUST(write(c, &bytes, 8));
    printf("client: wrong blocks %ld\n", both(c, bytes, 1, 2));
    close(c);
}

static void *client_thread(void *arg) {
    client(ADDR(port_of(*(int *)arg)), 32 << 20);
    return NULL;
}

int main(int argc, char **argv) {
    if ((argc == 3 || argc == 4) && !strcmp(argv[1], "server")) {
        buffer = argc == 4 ? atoi(argv[3]) : 0;
        int l = tcp(), on = 1;
        struct sockaddr_in a = address(INADDR_ANY, atoi(argv[2]));
        MUST(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
        MUST(bind(l, SA(a)));
        buffered(l);
        MUST(listen(l, 5));
        puts("listening");
        fflush(stdout);
        server(l);
    } else if ((argc == 5 || argc == 6) && !strcmp(argv[1], "client")) {
        buffer = argc == 6 ? atoi(argv[5]) : 0;
        client(address_of(argv[2], atoi(argv[3])), (int64_t)atol(argv[4]) << 20);
    } else if (argc == 1) {
        int l = listener(1);
        pthread_t t;
        pthread_create(&t, NULL, client_thread, &l);
        int s = MUST(accept(l, NULL, NULL));
        int64_t bytes;
        if (readn(s, &bytes, 8) != 8)
            die("the length");
        long wrong = both(s, bytes, 2, 1);
        pthread_join(t, NULL);
        printf("server: wrong blocks %ld\n", wrong);
        close(s), close(l);
    } else {
        return 2;
    }
    return 0;
}
