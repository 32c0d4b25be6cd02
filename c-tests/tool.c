/* A program that is started with a connection as its standard input and output, and knows nothing of it: linked statically, so
 * that nothing can be preloaded. What it finds it tells on standard error. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *errname(void) {
    switch (errno) {
    case ECONNRESET:
        return "ECONNRESET";
    case EPIPE:
        return "EPIPE";
    case ECHILD:
        return "ECHILD";
    case EAGAIN:
        return "EAGAIN";
    case ENOTCONN:
        return "ENOTCONN";
    default:
        return strerror(errno);
    }
}

static void put(const char *p, size_t n) {
    while (n > 0) {
        ssize_t w = write(1, p, n);
        if (w < 0)
            exit(77);
        p += w, n -= w;
    }
}

/* Reads to the end and tells what came. */
static void drain(void) {
    char b[4096];
    for (;;) {
        ssize_t n = read(0, b, sizeof b);
        if (n <= 0) {
            dprintf(2, "read: %s\n", n < 0 ? errname() : "the end");
            return;
        }
        dprintf(2, "read: %.*s\n", (int)n, b);
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    const char *arg = argc > 2 ? argv[2] : "";
    static char b[65536];
    ssize_t n;
    if (!strcmp(what, "echo")) {
        while ((n = read(0, b, sizeof b)) > 0)
            put(b, n);
        return 3;
    }
    if (!strcmp(what, "say")) {
        put(arg, strlen(arg));
        return 0;
    }
    if (!strcmp(what, "line")) {
        /* As a shell reads: one byte at a time, so that the rest is there for others. */
        char c = 0;
        for (n = 0; c != '\n' && read(0, &c, 1) == 1;)
            b[n++] = c;
        put("<", 1), put(b, n - 1), put(">", 1);
        return 0;
    }
    if (!strcmp(what, "take")) {
        size_t want = atoi(arg), got = 0;
        while (got < want && (n = read(0, b + got, want - got)) > 0)
            got += n;
        put(b, got);
        return 0;
    }
    if (!strcmp(what, "drain")) {
        put("up", 2);
        drain();
        return 0;
    }
    if (!strcmp(what, "pour")) {
        for (size_t i = 0, all = atoi(arg); i < all; i += n) {
            n = all - i < sizeof b ? all - i : sizeof b;
            for (ssize_t k = 0; k < n; k++)
                b[k] = (i + k) * 7 + ((i + k) >> 11);
            put(b, n);
        }
        return 0;
    }
    if (!strcmp(what, "forks")) {
        /* The child goes on when the parent has ended: a line of its own, and an echo. */
        pid_t parent = getpid();
        if (fork())
            return 0;
        setsid();
        while (getppid() == parent)
            usleep(1000);
        put("child", 5);
        while ((n = read(0, b, sizeof b)) > 0)
            put(b, n);
        return 0;
    }
    if (!strcmp(what, "half")) {
        put("bye", 3);
        dprintf(2, "shutdown: %d\n", shutdown(1, SHUT_WR));
        drain();
        return 0;
    }
    if (!strcmp(what, "closes")) {
        /* Lives on without it. */
        put("bye", 3);
        close(0), close(1);
        read(3, b, 1);
        dprintf(2, "went on\n");
        return 0;
    }
    if (!strcmp(what, "broken")) {
        signal(SIGPIPE, SIG_IGN);
        put("up", 2);
        drain();
        n = write(1, "x", 1);
        dprintf(2, "write: %s\n", n < 0 ? errname() : "ok");
        return 0;
    }
    if (!strcmp(what, "accept")) {
        n = accept(0, NULL, NULL);
        dprintf(2, "accept: %s\n", n < 0 ? strerror(errno) : "a connection");
        return 0;
    }
    if (!strcmp(what, "state")) {
        struct stat st;
        fstat(0, &st);
        int same = st.st_ino, open = 0;
        fstat(1, &st);
        for (int fd = 3; fd < 256; fd++)
            open += fstat(fd, &st) == 0;
        struct sigaction pipe;
        sigaction(SIGPIPE, NULL, &pipe);
        sigset_t pending;
        sigpending(&pending);
        fstat(1, &st);
        dprintf(2, "a socket %d, both the same %d, others open %d, SIGPIPE %s, SIGCHLD pending %d, ", S_ISSOCK(st.st_mode),
                same == (int)st.st_ino, open, pipe.sa_handler == SIG_DFL ? "default" : "not default",
                sigismember(&pending, SIGCHLD));
        n = waitpid(-1, NULL, WNOHANG);
        dprintf(2, "children: %s, my number %s, called %s %s\n", n < 0 ? errname() : "some",
                atoi(arg) == (int)getpid() || !*arg ? "is right" : "is wrong", argv[0], argc > 3 ? argv[3] : "");
        put("x", 1);
        return 0;
    }
    return 0;
}
