/* Many threads: `crowd [N]`, N (64) blocking connections, as many acceptors, one socket used by several threads. */
#include "t.h"

enum { ROUNDS = 50 };
static int l, port, clients = 64;

static void *serve(void *arg) {
    (void)arg;
    for (;;) {
        int s = accept(l, NULL, NULL);
        char b[512];
        long n;
        if (s < 0)
            return NULL;
        while ((n = recv(s, b, sizeof b, 0)) > 0)
            if (send(s, b, n, MSG_NOSIGNAL) != n)
                break;
        close(s);
    }
}

static void *client(void *arg) {
    long id = (long)(intptr_t)arg, good = 0;
    for (int turn = 0; turn < 5; turn++) {
        int c = tcp();
        struct sockaddr_in a = ADDR(port);
        MUST(connect(c, SA(a)));
        for (int i = 0; i < ROUNDS / 5; i++) {
            unsigned char out[256], in[256];
            size_t len = 1 + (id * 13 + i * 29) % 256;
            memset(out, id + i, len);
            MUST(send(c, out, len, 0));
            good += readn(c, in, len) == (long)len && !memcmp(in, out, len);
        }
        close(c);
    }
    return (void *)(intptr_t)good;
}

static void crowd(void) {
    /* All may come at once: none is to depend on what becomes of those that find the queue full. */
    l = listener(clients > 128 ? clients : 128), port = port_of(l);
    /* As many servers as clients may be there at a time, or they would wait for each other. */
    pthread_t s[clients], c[clients];
    for (int i = 0; i < clients; i++)
        pthread_create(&s[i], NULL, serve, NULL);
    for (long i = 0; i < clients; i++)
        pthread_create(&c[i], NULL, client, (void *)(intptr_t)i);
    long good = 0;
    for (int i = 0; i < clients; i++) {
        void *r;
        pthread_join(c[i], &r);
        good += (long)(intptr_t)r;
    }
    printf("%d blocking clients, as many acceptors: %ld of %d\n", clients, good, clients * ROUNDS);
    MUST(shutdown(l, SHUT_RDWR));
    for (int i = 0; i < clients; i++)
        pthread_join(s[i], NULL);
    puts("all acceptors were woken by shutdown");
    close(l);
}

static struct pair p;
static long total;

static void *reader(void *arg) {
    (void)arg;
    char b[100];
    long n;
    while ((n = recv(p.s, b, sizeof b, 0)) > 0)
        __atomic_add_fetch(&total, n, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *writer(void *arg) {
    (void)arg;
    char b[64] = {0};
    for (int i = 0; i < 500; i++)
        MUST(send(p.c, b, 1 + i % 64, 0));
    return NULL;
}

static void shared(void) {
    p = pair();
    pthread_t r[4], w[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&r[i], NULL, reader, NULL), pthread_create(&w[i], NULL, writer, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(w[i], NULL);
    MUST(shutdown(p.c, SHUT_WR));
    for (int i = 0; i < 4; i++)
        pthread_join(r[i], NULL);
    long want = 0;
    for (int i = 0; i < 500; i++)
        want += 1 + i % 64;
    printf("four writers and four readers of one connection: all bytes %d\n", total == 4 * want);
    unpair(p);
}

static void *opener(void *arg) {
    long good = 0;
    (void)arg;
    for (int i = 0; i < 100; i++) {
        int a = tcp(), b = MUST(open("/dev/null", O_RDONLY)), c = MUST(dup(a));
        good += fcntl(a, F_GETFD) == 0 && read(b, &c, 0) == 0;
        close(a), close(b), close(c);
    }
    return (void *)(intptr_t)good;
}

static void numbers(void) {
    pthread_t t[8];
    long good = 0;
    for (int i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, opener, NULL);
    for (int i = 0; i < 8; i++) {
        void *r;
        pthread_join(t[i], &r);
        good += (long)(intptr_t)r;
    }
    printf("descriptors opened and closed by eight threads: %ld\n", good);
}

int main(int argc, char **argv) {
    if (argc > 1)
        clients = atoi(argv[1]);
    crowd();
    shared();
    numbers();
    return 0;
}
