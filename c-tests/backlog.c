/* The queue of connections that wait for accept: how many it holds, and what happens to the others. */
#include "t.h"

/* A bound as the program gives it, and as the socket shows it. */
static void bounds(void) {
    static const int backlogs[] = {0, 1, 5, -1, 1 << 30, INT32_MIN};
    int l = tcp();
    struct sockaddr_in a = ADDR(0);
    struct tcp_info info;
    socklen_t len = sizeof info;
    MUST(bind(l, SA(a)));
    for (unsigned i = 0; i < sizeof backlogs / sizeof *backlogs; i++) {
        MUST(listen(l, backlogs[i]));
        MUST(getsockopt(l, IPPROTO_TCP, TCP_INFO, &info, &len));
        printf("listen(%d): %d\n", backlogs[i], info.tcpi_sacked);
    }
    close(l);
}

int main(void) {
    bounds();
    int backlog = 4, n = 10, up = 0;
    int l = listener(backlog), c[10];
    struct sockaddr_in a = ADDR(port_of(l));
    for (int i = 0; i < n; i++) {
        c[i] = nonblocking(tcp());
        connect(c[i], SA(a));
        nap(20);
    }
    nap(200);
    for (int i = 0; i < n; i++)
        up += ready(c[i], POLLOUT, 0) == POLLOUT;
    printf("listen(%d), nobody accepts: %d of %d connections\n", backlog, up, n);
    struct tcp_info info;
    socklen_t len = sizeof info;
    MUST(getsockopt(l, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("the queue holds %d, its bound is %d\n", info.tcpi_unacked, info.tcpi_sacked);
    int s = MUST(accept(l, NULL, NULL));
    puts("one is accepted");
    close(s);
    for (int i = 0; i < 5; i++) {
        s = -1;
        if (ready(l, POLLIN, 5000) & POLLIN)
            s = accept(l, NULL, NULL);
        SAY("accept", s < 0 ? -1 : 0);
        close(s);
    }
    for (int i = 0; i < n; i++)
        close(c[i]);
    close(l);
    return 0;
}
