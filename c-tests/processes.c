/* Descriptors and processes: dup, fork, exec, close-on-exec, death. */
#include "t.h"

static void duplicates(void) {
    struct pair p = pair();
    char b[8];
    int d = MUST(dup(p.c)), e = 200;
    SAY("dup2", dup2(p.c, e));
    SAY("dup2 to itself", dup2(e, e));
    SAY("dup3", dup3(p.c, 201, O_CLOEXEC));
    printf("close on exec %d\n", fcntl(201, F_GETFD));
    SAY("F_DUPFD", fcntl(p.c, F_DUPFD, 210));
    SAY("close the first", close(p.c));
    SAY("send on a duplicate", send(d, "dup", 3, 0));
    SAY("it arrives", readn(p.s, b, 3));
    SAY("dup2 of a file onto it", dup2(0, d) == d);
    SAY("send on what is now a file", send(d, "x", 1, 0));
    SAY("send on another", send(201, "more", 4, 0));
    SAY("it arrives", readn(p.s, b, 4));
    close(e), close(201), close(d);
    SAY("nothing yet", recv(p.s, b, 1, MSG_DONTWAIT));
    close(210);
    SAY("the last one is closed: the end", recv(p.s, b, 1, 0));
    SAY("O_NONBLOCK is shared", ({
            int x = MUST(dup(p.s));
            nonblocking(x);
            int on = (fcntl(p.s, F_GETFL) & O_NONBLOCK) != 0;
            close(x);
            on;
        }));
    close(p.s), close(p.l);
}

static void forks(void) {
    struct pair p = pair();
    char b[20];
    pid_t child = fork();
    if (child == 0) {
        /* The child serves the connection and the listener that it inherited. */
        long n = read(p.s, b, 5);
        MUST(write(p.s, b, n));
        int s = MUST(accept(p.l, NULL, NULL));
        n = read(s, b, 5);
        MUST(write(s, b, n));
        _exit(0);
    }
    close(p.s);
    SAY("send to the child", send(p.c, "hello", 5, 0));
    SAY("its answer", readn(p.c, b, 5));
    int c = connected_to(p.l);
    SAY("to its own connection", send(c, "again", 5, 0));
    SAY("its answer", readn(c, b, 5));
    int status;
    waitpid(child, &status, 0);
    printf("child: %d\n", status);
    SAY("the child is gone: the end", recv(p.c, b, 1, 0));
    SAY("of both", recv(c, b, 1, 0));
    close(c), close(p.c), close(p.l);

    /* The parent accepts, the child answers, the parent closes first: the classic forking server. */
    int l = listener(5);
    child = fork();
    if (child == 0) {
        close(l);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    c = connected_to(l);
    int s = MUST(accept(l, NULL, NULL));
    child = fork();
    if (child == 0) {
        close(l), close(c);
        nap(50);
        MUST(write(s, "from the child", 14));
        close(s);
        _exit(0);
    }
    close(s);
    memset(b, 0, sizeof b);
    SAY("read", readn(c, b, 14));
    printf("%s\n", b);
    SAY("the end", recv(c, b, 1, 0));
    waitpid(child, NULL, 0);
    close(c), close(l);
}

static void workers(void) {
    int l = listener(64), n = 4, each = 10;
    pid_t pid[4];
    for (int i = 0; i < n; i++)
        if ((pid[i] = fork()) == 0) {
            for (;;) {
                char b[4];
                int s = MUST(accept(l, NULL, NULL));
                long got = readn(s, b, 4);
                MUST(write(s, b, got));
                close(s);
            }
        }
    int good = 0;
    for (int i = 0; i < n * each; i++) {
        char b[4];
        int c = connected_to(l);
        MUST(send(c, "work", 4, 0));
        good += readn(c, b, 4) == 4 && !memcmp(b, "work", 4);
        close(c);
    }
    printf("answers from four workers: %d of %d\n", good, n * each);
    /* So that the last answer's descriptor is closed by its worker. */
    nap(50);
    for (int i = 0; i < n; i++) {
        kill(pid[i], SIGKILL);
        waitpid(pid[i], NULL, 0);
    }
    int c = connected_to(l);
    SAY("the workers are killed, the listener is not", send(c, "x", 1, 0));
    int s = MUST(accept(l, NULL, NULL));
    char b;
    SAY("accepted here", read(s, &b, 1));
    close(s), close(c), close(l);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    (void)argc, (void)argv;
    duplicates();
    forks();
    workers();
    return 0;
}
