/* The flags and shapes of sending and receiving. */
#include "t.h"

static void flags(void) {
    struct pair p = pair();
    char b[20] = {0};
    MUST(send(p.c, "0123456789", 10, 0));
    ready(p.s, POLLIN, 1000);
    SAY("MSG_PEEK", recv(p.s, b, 4, MSG_PEEK));
    SAY("the same again", recv(p.s, b, 20, MSG_PEEK));
    SAY("MSG_TRUNC counts and drops", recv(p.s, NULL, 3, MSG_TRUNC));
    SAY("recv", recv(p.s, b, 4, 0));
    printf("%.4s\n", b);
    SAY("MSG_DONTWAIT", recv(p.s, b, 20, MSG_DONTWAIT));
    SAY("and again", recv(p.s, b, 20, MSG_DONTWAIT));
    MUST(send(p.c, "ab", 2, 0));
    pid_t child = fork();
    if (child == 0) {
        nap(60);
        MUST(send(p.c, "cdef", 4, 0));
        _exit(0);
    }
    SAY("MSG_WAITALL", recv(p.s, b, 6, MSG_WAITALL));
    printf("%.6s\n", b);
    waitpid(child, NULL, 0);
    SAY("MSG_OOB with nothing urgent", recv(p.s, b, 1, MSG_OOB));
    SAY("MSG_MORE", send(p.c, "more", 4, MSG_MORE));
    SAY("and the rest", send(p.c, "over", 4, 0));
    SAY("arrives as one", readn(p.s, b, 8));
    printf("%.8s\n", b);
    unpair(p);
}

static void vectors(void) {
    struct pair p = pair();
    char a[3] = {0}, b[4] = {0}, c[10] = {0};
    struct iovec out[3] = {{"one", 3}, {"", 0}, {"three", 5}};
    SAY("writev", writev(p.c, out, 3));
    ready(p.s, POLLIN, 1000);
    struct iovec in[3] = {{a, 2}, {b, 3}, {c, 10}};
    SAY("readv", readv(p.s, in, 3));
    printf("%.2s|%.3s|%s\n", a, b, c);
    struct msghdr m = {.msg_iov = out, .msg_iovlen = 3};
    SAY("sendmsg", sendmsg(p.c, &m, 0));
    ready(p.s, POLLIN, 1000);
    struct sockaddr_in from;
    char control[64];
    m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = in, .msg_iovlen = 3, .msg_control = control, .msg_controllen = sizeof control, .msg_flags = -1};
    SAY("recvmsg", recvmsg(p.s, &m, 0));
    printf("name %d, control %d, flags %d\n", (int)m.msg_namelen, (int)m.msg_controllen, m.msg_flags);
    socklen_t len = sizeof from;
    MUST(send(p.c, "z", 1, 0));
    SAY("recvfrom", recvfrom(p.s, a, 1, 0, (struct sockaddr *)&from, &len));
    SAY("readv of nothing", readv(p.s, in, 0));
    static struct iovec many[2000];
    volatile int negative = -1;
    SAY("writev, too many", writev(p.c, many, 2000));
    SAY("writev, negative", writev(p.c, many, negative));
    struct mmsghdr mm[3] = {{.msg_hdr = {.msg_iov = out, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = out + 2, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = out, .msg_iovlen = 1}}};
    SAY("sendmmsg", sendmmsg(p.c, mm, 3, 0));
    printf("%u %u %u\n", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len);
    SAY("all of it", readn(p.s, c, 10));
    struct mmsghdr rm[2] = {{.msg_hdr = {.msg_iov = in, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = in + 1, .msg_iovlen = 1}}};
    ready(p.s, POLLIN, 1000);
    SAY("recvmmsg", recvmmsg(p.s, rm, 2, MSG_DONTWAIT, NULL));
    printf("%u\n", rm[0].msg_len);
    unpair(p);
}

static void options(void) {
    struct pair p = pair();
    struct {
        int level, name;
        const char *text;
    } o[] = {
        {SOL_SOCKET, SO_TYPE, "SO_TYPE"},
        {SOL_SOCKET, SO_DOMAIN, "SO_DOMAIN"},
        {SOL_SOCKET, SO_PROTOCOL, "SO_PROTOCOL"},
        {SOL_SOCKET, SO_ACCEPTCONN, "SO_ACCEPTCONN"},
        {SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR"},
        {SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE"},
        {SOL_SOCKET, SO_ERROR, "SO_ERROR"},
        {SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT"},
        {SOL_SOCKET, SO_OOBINLINE, "SO_OOBINLINE"},
        {IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"},
        {IPPROTO_TCP, TCP_CORK, "TCP_CORK"},
        {IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE"},
        {IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL"},
        {IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT"},
        {IPPROTO_TCP, TCP_SYNCNT, "TCP_SYNCNT"},
        {IPPROTO_TCP, TCP_LINGER2, "TCP_LINGER2"},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"},
        {IPPROTO_IP, IP_TOS, "IP_TOS"},
        {IPPROTO_IP, IP_TTL, "IP_TTL"},
        {IPPROTO_IP, IP_MINTTL, "IP_MINTTL"},
        {IPPROTO_TCP, 9999, "an unknown one"},
    };
    for (unsigned i = 0; i < sizeof o / sizeof *o; i++)
        for (int which = 0; which < 2; which++) {
            int v = -1, fd = which ? p.c : p.l;
            socklen_t len = sizeof v;
            long r = getsockopt(fd, o[i].level, o[i].name, &v, &len);
            printf("%s of a %s: ", o[i].text, which ? "connection" : "listener");
            if (r < 0)
                printf("%s\n", errname(errno));
            else
                printf("%d, length %d\n", v, len);
        }
    struct {
        int level, name, value;
        const char *text;
    } s[] = {
        {SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR 1"},
        {SOL_SOCKET, SO_KEEPALIVE, 5, "SO_KEEPALIVE 5"},
        {SOL_SOCKET, SO_SNDBUF, 100000, "SO_SNDBUF 100000"},
        {SOL_SOCKET, SO_RCVBUF, 100000, "SO_RCVBUF 100000"},
        {SOL_SOCKET, SO_RCVBUF, 1, "SO_RCVBUF 1"},
        {SOL_SOCKET, SO_RCVLOWAT, 10, "SO_RCVLOWAT 10"},
        {SOL_SOCKET, SO_TYPE, 1, "SO_TYPE 1"},
        {SOL_SOCKET, SO_ERROR, 1, "SO_ERROR 1"},
        {IPPROTO_TCP, TCP_NODELAY, 7, "TCP_NODELAY 7"},
        {IPPROTO_TCP, TCP_CORK, 1, "TCP_CORK 1"},
        {IPPROTO_TCP, TCP_KEEPIDLE, 0, "TCP_KEEPIDLE 0"},
        {IPPROTO_TCP, TCP_KEEPIDLE, 33, "TCP_KEEPIDLE 33"},
        {IPPROTO_TCP, TCP_KEEPCNT, 200, "TCP_KEEPCNT 200"},
        {IPPROTO_TCP, TCP_MAXSEG, 10, "TCP_MAXSEG 10"},
        {IPPROTO_TCP, TCP_SYNCNT, 3, "TCP_SYNCNT 3"},
        {IPPROTO_TCP, TCP_LINGER2, 20, "TCP_LINGER2 20"},
        {IPPROTO_TCP, TCP_QUICKACK, 0, "TCP_QUICKACK 0"},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 5000, "TCP_USER_TIMEOUT 5000"},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, -1, "TCP_USER_TIMEOUT -1"},
        {IPPROTO_IP, IP_TOS, 0x10, "IP_TOS 16"},
        {IPPROTO_IP, IP_TTL, 300, "IP_TTL 300"},
        {IPPROTO_IP, IP_TTL, 40, "IP_TTL 40"},
        {IPPROTO_TCP, 9999, 1, "an unknown one"},
    };
    for (unsigned i = 0; i < sizeof s / sizeof *s; i++) {
        int v = s[i].value;
        socklen_t len = sizeof v;
        printf("set %s: %s", s[i].text, setsockopt(p.c, s[i].level, s[i].name, &v, len) < 0 ? errname(errno) : "0");
        v = -1;
        /* The segment size itself is the path's. */
        if (s[i].name != TCP_MAXSEG && getsockopt(p.c, s[i].level, s[i].name, &v, &len) == 0)
            printf(", now %d", v);
        puts("");
    }
    int v = 1;
    SAY("a short value", setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &v, 1));
    SAY("no value", setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, NULL, 4));
    socklen_t len = 1;
    SAY("a short buffer", getsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &v, &len));
    printf("length %d\n", len);
    char name[20] = {0};
    len = sizeof name;
    SAY("a congestion control that there is not", setsockopt(p.c, IPPROTO_TCP, TCP_CONGESTION, "nonsense", 8));
    SAY("reno", setsockopt(p.c, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    SAY("TCP_CONGESTION", getsockopt(p.c, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    printf("%s\n", name);
    struct tcp_info info;
    len = sizeof info;
    SAY("TCP_INFO", getsockopt(p.c, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("state %d, mss at least 536: %d, rto at least 200 ms: %d, cwnd %d\n", info.tcpi_state, info.tcpi_snd_mss >= 536, info.tcpi_rto >= 200000, info.tcpi_snd_cwnd);
    len = sizeof info;
    SAY("TCP_INFO of a listener", getsockopt(p.l, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("state %d, %d of %d\n", info.tcpi_state, info.tcpi_unacked, info.tcpi_sacked);
    int fresh = tcp();
    SAY("TCP_INFO of a fresh socket", getsockopt(fresh, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("state %d\n", info.tcpi_state);
    close(fresh);
    unpair(p);
}

static void inherited(void) {
    int l = listener(4), v = 1, c, s;
    socklen_t len = sizeof v;
    MUST(setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &v, len));
    MUST(setsockopt(l, SOL_SOCKET, SO_KEEPALIVE, &v, len));
    v = 44;
    MUST(setsockopt(l, IPPROTO_TCP, TCP_KEEPIDLE, &v, len));
    struct timeval tv = {7, 0};
    MUST(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    nonblocking(l);
    c = connected_to(l);
    ready(l, POLLIN, 1000);
    s = MUST(accept(l, NULL, NULL));
    MUST(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &v, &len));
    printf("accepted: nodelay %d", v);
    MUST(getsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &v, &len));
    printf(", keepalive %d", v);
    MUST(getsockopt(s, IPPROTO_TCP, TCP_KEEPIDLE, &v, &len));
    printf(", keepidle %d", v);
    socklen_t tlen = sizeof tv;
    MUST(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &tlen));
    printf(", timeout %ld, non-blocking %d\n", (long)tv.tv_sec, (fcntl(s, F_GETFL) & O_NONBLOCK) != 0);
    close(c);
    close(s);
    close(l);
}

int main(void) {
    flags();
    vectors();
    options();
    inherited();
    return 0;
}
