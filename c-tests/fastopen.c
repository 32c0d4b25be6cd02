/* TCP Fast Open (RFC 7413): its options, MSG_FASTOPEN and TCP_FASTOPEN_CONNECT with a cookie and without, keys that change, a
 * listener that does not take part. With the argument "off": where net.ipv4.tcp_fastopen does not allow it. */
#include "t.h"
#include <sys/sendfile.h>

#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#define TCP_FASTOPEN_KEY 33
#define TCP_FASTOPEN_NO_COOKIE 34
#endif

static char big[300000];

static int fast_listener(int queue) {
    int l = listener(16);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN, &queue, sizeof queue));
    return l;
}

/* A cookie is for a pair of addresses: each destination has its own. */
static struct address host(int n, int l) {
    struct address a = ADDR(port_of(l));
    if (n)
        set_host(&a, INADDR_LOOPBACK + n);
    return a;
}

static int wide_listener(int queue) {
    int l = tcp();
    struct address a = ADDR(0);
    set_host(&a, INADDR_ANY);
    MUST(bind(l, SA(a)));
    MUST(listen(l, 16));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN, &queue, sizeof queue));
    return l;
}

static void sayinfo(const char *what, int fd) {
    struct tcp_info i;
    socklen_t len = sizeof i;
    memset(&i, 0, sizeof i);
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len));
    printf("%s: state %d, data in the SYN %d, client's failure %d\n", what, i.tcpi_state, i.tcpi_options >> 5 & 1,
           ((unsigned char *)&i)[7] >> 1 & 3);
}

static void sayerror(const char *what, int fd) {
    int e;
    socklen_t len = sizeof e;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len));
    printf("%s: %s\n", what, e ? errname(e) : "no error");
}

static void sayoption(const char *what, int fd, int name) {
    int v = -77;
    socklen_t len = sizeof v;
    if (getsockopt(fd, IPPROTO_TCP, name, &v, &len) < 0)
        printf(" %s %s", what, errname(errno));
    else
        printf(" %s %d", what, v);
}

static void options_of(const char *state, int fd) {
    static const struct {
        const char *text;
        int name;
    } names[] = {{"FASTOPEN", TCP_FASTOPEN}, {"FASTOPEN_CONNECT", TCP_FASTOPEN_CONNECT}, {"FASTOPEN_NO_COOKIE", TCP_FASTOPEN_NO_COOKIE}};
    static const int values[] = {-1, 1, 2, 5, 100000, 0};
    for (int n = 0; n < 3; n++) {
        printf("%s %s:", state, names[n].text);
        sayoption("at first", fd, names[n].name);
        for (int i = 0; i < 6; i++) {
            int r = setsockopt(fd, IPPROTO_TCP, names[n].name, &values[i], 4);
            printf("; %d: %s", values[i], r ? errname(errno) : "0");
            sayoption("->", fd, names[n].name);
        }
        puts("");
    }
}

static void saykey(const char *what, int fd, int room) {
    unsigned char key[80];
    socklen_t len = room;
    memset(key, 0xee, sizeof key);
    printf("%s, room %d: ", what, room);
    if (getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, &len) < 0) {
        puts(errname(errno));
        return;
    }
    printf("%d bytes", len);
    for (int i = 0; i < 34; i++)
        printf(" %02x", key[i]);
    puts("");
}

static void options(void) {
    struct pair p = pair();
    int fresh = tcp();
    options_of("fresh", fresh);
    options_of("listening", p.l);
    options_of("connected", p.c);
    options_of("accepted", p.s);
    unsigned char key[40];
    for (int i = 0; i < 40; i++)
        key[i] = i;
    saykey("no key", fresh, 16);
    static const int sizes[] = {0, 1, 4, 15, 16, 17, 31, 33, 32, 16, -1};
    for (int i = 0; i < 11; i++) {
        printf("set a key of %d bytes: %s\n", sizes[i],
               setsockopt(fresh, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, sizes[i]) ? errname(errno) : "0");
        saykey("then", fresh, 64);
    }
    SAY("two keys", setsockopt(p.l, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 32));
    saykey("listener", p.l, 64), saykey("listener", p.l, 20), saykey("listener", p.l, 0), saykey("listener", p.l, -1);
    SAY("a key from nowhere", setsockopt(fresh, IPPROTO_TCP, TCP_FASTOPEN_KEY, NULL, 16));
    SAY("a key for a connection", setsockopt(p.c, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 16));
    int c = connected_to(p.l), s = MUST(accept(p.l, NULL, NULL));
    saykey("what accept gives", s, 16);
    /* The queue is kept when the listener is no more, and again a listener. */
    int queue = 7;
    MUST(setsockopt(p.l, IPPROTO_TCP, TCP_FASTOPEN, &queue, 4));
    SAY("shutdown", shutdown(p.l, SHUT_RD));
    printf("no listener:"), sayoption("FASTOPEN", p.l, TCP_FASTOPEN), puts("");
    SAY("listen", listen(p.l, 3));
    printf("a listener:"), sayoption("FASTOPEN", p.l, TCP_FASTOPEN), puts("");
    close(c), close(s), close(fresh), unpair(p);
}

static void errors(void) {
    struct pair p = pair();
    int fl = fast_listener(5);
    struct address a = host(0, fl), unspec = a, other = a;
    unspec.sin_family = AF_UNSPEC, other.sin_family = AF_UNIX;
    int fd = tcp();
    SAY("no address", send(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL));
    SAY("no address, a length", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, NULL, 16));
    SAY("AF_UNSPEC", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(unspec)));
    SAY("another family", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(other)));
    SAY("one byte of an address", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, &a.sa, 1));
    SAY("half an address", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, &a.sa, 8));
    SAY("an address from nowhere", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)8, 16));
    SAY("an address without the flag", sendto(fd, "x", 1, MSG_NOSIGNAL, SA(a)));
    SAY("connected", sendto(p.c, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(a)));
    SAY("connected, no address", send(p.c, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL));
    SAY("listening", sendto(p.l, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(a)));
    close(p.s), nap(50);
    SAY("the peer has closed", sendto(p.c, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(a)));
    MUST(close(tcp()));
    struct address gone = a;
    int nobody = listener(1);
    gone.sin_port = htons(port_of(nobody)), close(nobody);
    SAY("nobody there", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(gone)));
    sayerror("then", fd), sayready("and poll", fd, 0);
    SAY("the same socket again", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(a)));
    close(fd), fd = nonblocking(tcp());
    SAY("with a cookie, nobody there", sendto(fd, "hello", 5, MSG_FASTOPEN | MSG_NOSIGNAL, SA(gone)));
    sayready("poll", fd, 1000), sayerror("then", fd);
    SAY("and write", send(fd, "x", 1, MSG_NOSIGNAL));
    close(fd), fd = tcp();
    SAY("data from nowhere", sendto(fd, (void *)8, 5, MSG_FASTOPEN | MSG_NOSIGNAL | MSG_DONTWAIT, SA(a)));
    close(fd), close(p.c), close(p.l), close(fl);
}

/* What comes out of the listener's queue. */
static int take(int l, size_t expected) {
    int s = MUST(accept(l, NULL, NULL));
    char *buffer = malloc(expected + 1);
    long n = readn(s, buffer, expected);
    printf("accepted: %ld bytes, %s\n", n, n == (long)expected && !memcmp(buffer, big, n) ? "the same" : "others");
    free(buffer);
    nap(20), sayinfo("accepted", s);
    return s;
}

static void answer(int s, int c) {
    char b[8] = "";
    SAY("answer", write(s, "reply", 5));
    SAY("read", readn(c, b, 5));
    close(s);
    printf("end: %ld, \"%s\"\n", (long)read(c, b, 1), b);
    close(c);
}

static void blocking(void) {
    int l = fast_listener(5);
    struct address a = host(0, l);
    for (int round = 0; round < 3; round++) {
        printf("-- blocking, round %d\n", round);
        int c = tcp();
        SAY("sendto", sendto(c, big, 100, MSG_FASTOPEN, SA(a)));
        sayinfo("client", c);
        struct address name;
        socklen_t len = sizeof name;
        SAY("getpeername", getpeername(c, &name.sa, &len));
        SAY("connect", connect(c, SA(a)));
        answer(take(l, 100), c);
    }
    puts("-- nothing to send");
    int c = tcp();
    SAY("sendto", sendto(c, "", 0, MSG_FASTOPEN, SA(a)));
    sayinfo("client", c);
    MUST(write(c, big, 3));
    answer(take(l, 3), c);
    close(l);
}

static void *drain(void *arg) {
    int l = *(int *)arg;
    answer(take(l, sizeof big), MUST(dup(MUST(open("/dev/null", O_RDONLY)))));
    return NULL;
}

/* More than a SYN holds: the call goes on when the connection is there. */
static void large(void) {
    puts("-- large");
    int l = fast_listener(5);
    struct address a = host(0, l);
    pthread_t t;
    pthread_create(&t, NULL, drain, &l);
    int c = tcp();
    long sent = sendto(c, big, sizeof big, MSG_FASTOPEN, SA(a));
    char b[8] = "";
    long got = readn(c, b, 5);
    pthread_join(t, NULL);
    SAY("sendto", sent);
    printf("read: %ld, \"%s\"\n", got, b);
    close(c), close(l);
}

static void without_blocking(void) {
    int l = wide_listener(5);
    struct address a = host(1, l);
    for (int round = 0; round < 2; round++) {
        printf("-- O_NONBLOCK, round %d\n", round);
        int c = nonblocking(tcp());
        long n = SAY("sendto", sendto(c, big, 100, MSG_FASTOPEN, SA(a)));
        sayready("poll", c, 1000);
        sayerror("SO_ERROR", c);
        sayinfo("client", c);
        if (n < 0)
            SAY("write", write(c, big, 100));
        fcntl(c, F_SETFL, 0);
        answer(take(l, 100), c);
    }
    puts("-- MSG_DONTWAIT, sendmsg");
    int c = tcp();
    struct iovec v[3] = {{big, 7}, {big + 7, 0}, {big + 7, 93}};
    struct msghdr m = {.msg_name = &a, .msg_namelen = address_bytes(&a.sa, sizeof a), .msg_iov = v, .msg_iovlen = 3};
    SAY("sendmsg", sendmsg(c, &m, MSG_FASTOPEN | MSG_DONTWAIT));
    nap(20), sayinfo("client", c);
    answer(take(l, 100), c);
    puts("-- sendmmsg");
    c = tcp();
    struct mmsghdr mm[2] = {{.msg_hdr = m}, {.msg_hdr = m}};
    mm[0].msg_hdr.msg_iovlen = 1;
    SAY("sendmmsg", sendmmsg(c, mm, 1, MSG_FASTOPEN));
    SAY("length", mm[0].msg_len);
    MUST(write(c, big + 7, 93));
    answer(take(l, 100), c);
    close(l);
}

static int deferred(struct address *a) {
    int c = tcp(), on = 1;
    MUST(setsockopt(c, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on));
    SAY("connect", connect(c, SA(*a)));
    return c;
}

static void connects(void) {
    int l = wide_listener(5);
    struct address a = host(8, l), name;
    socklen_t len = sizeof name;
    puts("-- TCP_FASTOPEN_CONNECT, no cookie");
    int c = deferred(&a);
    sayinfo("client", c), sayready("poll", c, 0);
    SAY("MSG_FASTOPEN", sendto(c, big, 10, MSG_FASTOPEN | MSG_NOSIGNAL, SA(a)));
    SAY("write", write(c, big, 100));
    answer(take(l, 100), c);
    puts("-- ... with one");
    c = deferred(&a);
    sayinfo("client", c), sayready("poll", c, 0), sayerror("SO_ERROR", c);
    SAY("getpeername", getpeername(c, &name.sa, &len));
    printf("own port: %s\n", port_of(c) ? "some" : "none");
    options_of("deferred", c);
    fcntl(c, F_SETFL, O_NONBLOCK), fcntl(l, F_SETFL, O_NONBLOCK);
    SAY("connect again", connect(c, SA(a)));
    SAY("read", read(c, &name, 1));
    int pending;
    MUST(ioctl(c, FIONREAD, &pending)), printf("unread: %d\n", pending);
    nap(100);
    SAYFD("accept", accept(l, NULL, NULL));
    int e = MUST(epoll_create1(0));
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT};
    MUST(epoll_ctl(e, EPOLL_CTL_ADD, c, &ev));
    printf("epoll: %d", epoll_wait(e, &ev, 1, 0)), printf(" %s\n", events(ev.events));
    fcntl(l, F_SETFL, 0);
    SAY("write", write(c, big, 100));
    sayready("poll", c, 1000);
    sayerror("SO_ERROR", c);
    printf("epoll: %d", epoll_wait(e, &ev, 1, 1000)), printf(" %s\n", events(ev.events));
    fcntl(c, F_SETFL, 0), close(e);
    sayinfo("client", c);
    SAY("connect again", connect(c, SA(a)));
    answer(take(l, 100), c);
    puts("-- ... and blocking calls of all kinds");
    c = deferred(&a);
    struct iovec v[2] = {{big, 50}, {big + 50, 50}};
    SAY("writev", writev(c, v, 2));
    sayinfo("client", c);
    answer(take(l, 100), c);
    c = deferred(&a);
    SAY("MSG_FASTOPEN without an address", send(c, big, 100, MSG_FASTOPEN));
    answer(take(l, 100), c);
    c = deferred(&a);
    int file = fileno(tmpfile());
    MUST(write(file, big, 100));
    off_t at = 0;
    SAY("sendfile", sendfile(c, file, &at, 100));
    answer(take(l, 100), c), close(file);
    c = deferred(&a);
    int pipes[2];
    MUST(pipe(pipes)), MUST(write(pipes[1], big, 100));
    SAY("splice", splice(pipes[0], NULL, c, NULL, 100, 0));
    answer(take(l, 100), c), close(pipes[0]), close(pipes[1]);
    c = deferred(&a);
    SAY("write nothing", write(c, "", 0));
    SAY("send nothing", send(c, "", 0, 0));
    MUST(write(c, big, 100));
    sayinfo("client", c);
    answer(take(l, 100), c);
    puts("-- ... and never written to");
    c = deferred(&a);
    close(c);
    c = deferred(&a);
    SAY("shutdown", shutdown(c, SHUT_WR));
    sayerror("SO_ERROR", c), sayinfo("client", c), close(c);
    c = deferred(&a);
    struct address unspec = {.sin_family = AF_UNSPEC};
    SAY("connect to AF_UNSPEC", connect(c, SA(unspec)));
    SAY("write", send(c, "x", 1, MSG_NOSIGNAL));
    SAY("connect", connect(c, SA(a)));
    sayinfo("client", c), close(c);
    fcntl(l, F_SETFL, O_NONBLOCK), nap(50);
    SAYFD("accept", accept(l, NULL, NULL));
    puts("-- ... in two processes");
    fcntl(l, F_SETFL, 0);
    c = deferred(&a);
    pid_t child = MUST(fork());
    if (child == 0)
        _exit(write(c, big, 100) == 100 ? 0 : 1);
    int status;
    MUST(waitpid(child, &status, 0));
    SAY("the child", WEXITSTATUS(status));
    sayinfo("client", c);
    answer(take(l, 100), c);
    close(l);
}

static void once(const char *what, struct address *a, int l) {
    int c = tcp();
    printf("-- %s\n", what);
    SAY("sendto", sendto(c, big, 100, MSG_FASTOPEN, SA(*a)));
    sayinfo("client", c);
    answer(take(l, 100), c);
}

static void keys(void) {
    int l = wide_listener(5), none = 0, some = 5, on = 1;
    struct address a = host(1, l);
    unsigned char old[16], new[32];
    memset(old, 1, 16), memset(new, 2, 16), memcpy(new + 16, old, 16);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN_KEY, old, 16));
    once("a cookie of another key", &a, l);
    once("the same key", &a, l);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN_KEY, new, 32));
    once("the key is the older one now", &a, l);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN_KEY, new, 16));
    once("the older key is gone", &a, l);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN, &none, 4));
    once("the listener takes no part", &a, l);
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN, &some, 4));
    once("it does again", &a, l);
    /* Neither needs a cookie. */
    unsigned char third[16] = {3};
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN_KEY, third, 16));
    MUST(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &on, 4));
    once("the listener wants no cookie", &a, l);
    int c = tcp();
    MUST(setsockopt(c, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &on, 4));
    SAY("neither: sendto", sendto(c, big, 100, MSG_FASTOPEN, SA(a)));
    sayinfo("client", c);
    int s = MUST(accept(l, NULL, NULL));
    printf("what accept gives:"), sayoption("FASTOPEN_NO_COOKIE", s, TCP_FASTOPEN_NO_COOKIE), sayoption("FASTOPEN", s, TCP_FASTOPEN), puts("");
    close(s), close(c), close(l);
    /* A server that knows nothing of it. */
    l = listener(5), a = host(0, l);
    for (int i = 0; i < 3; i++)
        once("no Fast Open at the server", &a, l);
    close(l);
}

static void off(void) {
    int l = listener(5), on = 1, fd = tcp();
    struct address a = host(0, l);
    options_of("fresh", fd);
    options_of("listening", l);
    SAY("sendto", sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, SA(a)));
    SAY("TCP_FASTOPEN_CONNECT", setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, 4));
    close(fd), fd = connected_to(l);
    MUST(write(fd, big, 100));
    answer(take(l, 100), fd);
    close(l);
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = i * 7 + i / 251;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1 && !strcmp(argv[1], "off")) {
        off();
        return 0;
    }
    options();
    blocking();
    errors();
    large();
    without_blocking();
    connects();
    keys();
    return 0;
}
