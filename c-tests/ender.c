/* A program that ends in some way, with something unsent or unread.
 *
 *     ender ROLE HOW PORT [ADDRESS]
 *
 * ROLE: accepted (accepts a connection on PORT), client (connects to ADDRESS), queued (listens, and never accepts). It writes what
 * the network does not hold at once, says "ready", and ends when a line comes on standard input. HOW: return, exit, _exit, or
 * the number of a signal. */
#include "t.h"

enum { BYTES = 200000 };

static void write_all(int s) {
    static char b[BYTES];
    MUST(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, 4));
    memset(b, 'd', sizeof b);
    if (MUST(write(s, b, sizeof b)) != BYTES)
        die("a part only");
}

int main(int argc, char **argv) {
    if (argc < 4)
        die("ender ROLE HOW PORT [ADDRESS]");
    const char *role = argv[1], *how = argv[2];
    struct sockaddr_in a = ADDR(atoi(argv[3]));
    if (!strcmp(role, "client")) {
        int c = tcp();
        a = address_of(argv[4], atoi(argv[3]));
        MUST(connect(c, SA(a)));
        write_all(c);
    } else {
        int l = tcp();
        set_host(&a, INADDR_ANY);
        MUST(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &(int){1}, 4));
        MUST(bind(l, SA(a)));
        MUST(listen(l, 8));
        puts("up");
        fflush(stdout);
        if (!strcmp(role, "accepted"))
            write_all(MUST(accept(l, NULL, NULL)));
    }
    puts("ready");
    fflush(stdout);
    char line[8];
    MUST(read(0, line, sizeof line));
    if (!strcmp(how, "exit"))
        exit(0);
    if (!strcmp(how, "_exit"))
        _exit(0);
    if (strcmp(how, "return"))
        raise(atoi(how));
    return 0;
}
