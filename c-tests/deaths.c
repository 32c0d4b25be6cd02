/* What the peer sees when a process ends: by exit, _exit, a signal; with data unsent, with data unread. */
#include "t.h"

enum { BYTES = 200000 };

/* A server that writes more than the network holds at once, and ends in some way. */
static void end_with_data(const char *how, int kind) {
    int l = listener(4);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        static char b[BYTES];
        int s = MUST(accept(l, NULL, NULL));
        MUST(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, 4));
        memset(b, 'd', sizeof b);
        MUST(write(s, b, sizeof b));
        if (kind == 0)
            exit(0);
        if (kind == 1)
            _exit(0);
        if (kind == 2)
            kill(getpid(), SIGTERM);
        if (kind == 3)
            kill(getpid(), SIGKILL);
        abort();
    }
    int c = tcp();
    /* A small window, so that the data cannot be gone before the process is. */
    MUST(setsockopt(c, SOL_SOCKET, SO_RCVBUF, &(int){8192}, 4));
    struct sockaddr_in a = ADDR(port_of(l));
    MUST(connect(c, SA(a)));
    close(l);
    int status;
    waitpid(child, &status, 0);
    nap(100);
    struct timeval tv = {10, 0};
    MUST(setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    static char b[BYTES];
    long got = 0, n;
    while ((n = recv(c, b, sizeof b, 0)) > 0)
        got += n;
    printf("%s: status %#x, %ld of %d bytes, then %s\n", how, status, got, BYTES, n == 0 ? "the end" : errname(errno));
    fflush(stdout);
    close(c);
}

static void end_unread(void) {
    int l = listener(4);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int s = MUST(accept(l, NULL, NULL));
        ready(s, POLLIN, 1000);
        kill(getpid(), SIGKILL);
    }
    int c = connected_to(l);
    MUST(send(c, "unread", 6, 0));
    waitpid(child, NULL, 0);
    char b;
    struct timeval tv = {5, 0};
    MUST(setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    SAY("killed with data unread", recv(c, &b, 1, 0));
    close(c);
    SAY("the listener lives on", ({
            c = connected_to(l);
            close(MUST(accept(l, NULL, NULL)));
            close(c);
        }));
    close(l);
}

static void end_while_waiting(void) {
    struct pair p = pair();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char b;
        close(p.c);
        recv(p.s, &b, 1, 0);
        _exit(0);
    }
    nap(100);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    char b;
    SAY("a reader was killed, its data is ours", send(p.c, "x", 1, 0));
    SAY("read", recv(p.s, &b, 1, 0));
    unpair(p);
}

static void listeners_end(void) {
    int l = listener(4);
    struct sockaddr_in a = ADDR(port_of(l));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            close(MUST(accept(l, NULL, NULL)));
    close(l);
    int c = tcp();
    SAY("a child listens alone", connect(c, SA(a)));
    close(c);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    nap(100);
    c = tcp();
    SAY("and is killed: refused", connect(c, SA(a)));
    close(c);
}

int main(int argc, char **argv) {
    (void)argv;
    end_with_data("exit", 0);
    end_with_data("_exit", 1);
    if (argc == 1)
        return 0;
    end_with_data("SIGTERM", 2);
    end_with_data("SIGKILL", 3);
    end_with_data("abort", 4);
    end_unread();
    end_while_waiting();
    listeners_end();
    return 0;
}
