/* A server with a thread for each connection, and clients in threads: what the blocking calls are made for. */
#include "t.h"

enum { CLIENTS = 16, ROUNDS = 200 };
static int port;

static void *serve(void *arg) {
    int s = (int)(intptr_t)arg;
    char b[512];
    long n;
    while ((n = read(s, b, sizeof b)) > 0)
        if (write(s, b, n) != n)
            break;
    close(s);
    return NULL;
}

static void *accepting(void *arg) {
    int l = (int)(intptr_t)arg;
    for (int i = 0; i < CLIENTS; i++) {
        pthread_t t;
        int s = MUST(accept(l, NULL, NULL));
        pthread_create(&t, NULL, serve, (void *)(intptr_t)s);
        pthread_detach(t);
    }
    return NULL;
}

static void *client(void *arg) {
    long seed = (long)(intptr_t)arg, good = 0;
    int c = tcp();
    struct sockaddr_in a = ADDR(port);
    MUST(connect(c, SA(a)));
    for (int i = 0; i < ROUNDS; i++) {
        unsigned char out[300], in[300];
        size_t len = 1 + (seed * 31 + i * 7) % 300;
        for (size_t k = 0; k < len; k++)
            out[k] = seed + i + k;
        MUST(write(c, out, len));
        good += readn(c, in, len) == (long)len && !memcmp(in, out, len);
    }
    close(c);
    return (void *)(intptr_t)good;
}

int main(void) {
    int l = listener(CLIENTS);
    port = port_of(l);
    pthread_t acceptor, t[CLIENTS];
    pthread_create(&acceptor, NULL, accepting, (void *)(intptr_t)l);
    for (long i = 0; i < CLIENTS; i++)
        pthread_create(&t[i], NULL, client, (void *)(intptr_t)i);
    long good = 0;
    for (int i = 0; i < CLIENTS; i++) {
        void *r;
        pthread_join(t[i], &r);
        good += (long)(intptr_t)r;
    }
    pthread_join(acceptor, NULL);
    printf("%ld of %d echoes\n", good, CLIENTS * ROUNDS);
    close(l);
    return 0;
}
