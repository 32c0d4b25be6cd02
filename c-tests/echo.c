/* An epoll server: `echo server PORT` answers with what it got, `echo server PORT REPLY` with that many bytes. */
#include "t.h"

enum { LARGEST = 4096 };

static void add(int ep, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static void server(int port, int reply) {
    int l = tcp(), on = 1, ep = epoll_create1(0);
    struct sockaddr_in a = address(INADDR_ANY, port);
    MUST(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    MUST(bind(l, SA(a)));
    MUST(listen(l, 1024));
    add(ep, nonblocking(l));
    puts("listening");
    fflush(stdout);
    for (;;) {
        struct epoll_event out[256];
        int n = epoll_wait(ep, out, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = out[i].data.fd;
            if (fd == l) {
                int s;
                while ((s = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    add(ep, s);
                }
                continue;
            }
            char b[LARGEST];
            ssize_t got = read(fd, b, sizeof b);
            ssize_t answer = reply ? reply : got;
            if (got > 0 && write(fd, b, answer) != answer)
                got = 0;
            if (got == 0 || (got < 0 && errno != EAGAIN))
                close(fd);
        }
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    int reply = argc == 4 ? atoi(argv[3]) : 0;
    if (argc < 3 || argc > 4 || strcmp(argv[1], "server") || reply < 0 || reply > LARGEST)
        return 2;
    server(atoi(argv[2]), reply);
    return 0;
}
