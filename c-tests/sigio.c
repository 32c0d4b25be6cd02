/* Signals of sockets: O_ASYNC and FIOASYNC, F_SETOWN and its relatives, F_SETSIG; SIGURG; which events send one, to whom, and what it
 * says. With the argument "goes on": what an exec keeps. */
#include "t.h"
#include <sys/resource.h>
#include <sys/syscall.h>
#ifndef SIOCSPGRP
#define SIOCSPGRP 0x8902
#define FIOSETOWN 0x8901
#define SIOCGPGRP 0x8904
#define FIOGETOWN 0x8903
#endif
#ifndef F_SETSIG
#define F_SETSIG 10
#define F_GETSIG 11
#endif

enum { RT = 40 };
static char big[6000000];

static struct {
    int fd;
    const char *name;
} names[16];
static int named;

static int name(int fd, const char *text) {
    names[named].fd = fd, names[named].name = text;
    named++;
    return fd;
}

static const char *name_of(int fd) {
    for (int i = named - 1; i >= 0; i--)
        if (names[i].fd == fd)
            return names[i].name;
    return "no socket";
}

static const char *code_of(int code) {
    static const char *const codes[] = {"IN", "OUT", "MSG", "ERR", "PRI", "HUP"};
    static char text[20];
    if (code >= 1 && code <= 6)
        return codes[code - 1];
    if (code == SI_KERNEL || code == SI_SIGIO || code == SI_USER || code == SI_TKILL || code == SI_QUEUE)
        return code == SI_KERNEL ? "KERNEL" : code == SI_SIGIO ? "SIGIO" : code == SI_USER ? "USER" : code == SI_TKILL ? "TKILL" : "QUEUE";
    snprintf(text, sizeof text, "%d", code);
    return text;
}

static void block(int how) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(how, &all, NULL);
}

static int next(siginfo_t *i, int ms) {
    sigset_t all;
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    sigfillset(&all);
    sigdelset(&all, SIGCHLD), sigdelset(&all, SIGALRM);
    memset(i, 0, sizeof *i);
    return sigtimedwait(&all, i, &t);
}

/* All that come until there is silence: each socket's in their order. */
static void signals(const char *what) {
    siginfo_t got[64];
    int n = 0;
    /* Those that are not queued become one. */
    nap(40);
    while (n < 64 && next(&got[n], n ? 80 : 200) > 0)
        n++;
    printf("%s:", what);
    for (int k = 0; k < n; k++)
        if (got[k].si_code == SI_KERNEL)
            printf(" [%d KERNEL pid %d uid %d]", got[k].si_signo, got[k].si_pid, got[k].si_uid);
    for (int socket = 0; socket <= named; socket++) {
        const char *of = socket < named ? names[socket].name : "no socket";
        int first = 1;
        for (int k = 0; k < n; k++) {
            siginfo_t *i = &got[k];
            if (i->si_code == SI_KERNEL || strcmp(name_of(i->si_fd), of))
                continue;
            printf("%s%s %d %s %#lx", first ? " " : "", first ? of : "", i->si_signo, code_of(i->si_code), (long)i->si_band);
            first = 0;
        }
    }
    puts(n ? "" : " none");
    fflush(stdout);
}

static int async(int fd, const char *text, int sig) {
    name(fd, text);
    MUST(fcntl(fd, F_SETOWN, getpid()));
    MUST(fcntl(fd, F_SETSIG, sig));
    MUST(fcntl(fd, F_SETFL, MUST(fcntl(fd, F_GETFL)) | O_ASYNC));
    return fd;
}

static struct pair apair(void) {
    struct pair p = pair();
    named = 0;
    async(p.c, "client", RT), async(p.s, "server", RT), async(p.l, "listener", RT);
    signals("two ends and a listener");
    return p;
}

static void data(void) {
    puts("-- data");
    struct pair p = pair();
    async(p.s, "server", 0);
    MUST(send(p.c, "x", 1, 0)), signals("SIGIO");
    MUST(send(p.c, "x", 1, 0)), nap(50), MUST(send(p.c, "x", 1, 0)), signals("twice, not taken");
    MUST(fcntl(p.s, F_SETSIG, RT));
    MUST(send(p.c, "x", 1, 0)), signals("with F_SETSIG");
    MUST(fcntl(p.s, F_SETSIG, SIGIO));
    MUST(send(p.c, "x", 1, 0)), signals("of SIGIO");
    MUST(fcntl(p.s, F_SETSIG, SIGUSR1));
    MUST(send(p.c, "x", 1, 0)), signals("of SIGUSR1");
    MUST(fcntl(p.s, F_SETSIG, SIGSEGV));
    MUST(send(p.c, "x", 1, 0)), signals("of SIGSEGV");
    unpair(p), signals("closed");
    p = apair();
    for (int i = 0; i < 3; i++)
        MUST(send(p.c, "x", 1, 0)), nap(60);
    signals("three times, not read");
    SAY("read", recv(p.s, big, 100, 0)), signals("read");
    MUST(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &(int){10}, 4));
    MUST(send(p.c, "12345", 5, 0)), signals("below SO_RCVLOWAT");
    MUST(send(p.c, "12345", 5, 0)), signals("and now enough");
    MUST(send(p.s, "back", 4, 0)), signals("the other way");
    MUST(fcntl(p.s, F_SETFL, 0)), MUST(send(p.c, big, 20, 0)), signals("without O_ASYNC");
    MUST(fcntl(p.s, F_SETFL, O_ASYNC)), signals("what waits does not count");
    MUST(ioctl(p.s, FIOASYNC, &(int){0})), MUST(send(p.c, big, 20, 0)), signals("FIOASYNC off");
    MUST(ioctl(p.s, FIOASYNC, &(int){1})), MUST(send(p.c, big, 20, 0)), signals("FIOASYNC on");
    MUST(fcntl(p.s, F_SETOWN, 0)), MUST(send(p.c, big, 20, 0)), signals("nobody's");
    unpair(p);
    signals("closed");
}

static int try_connect(int port) {
    int fd = async(tcp(), "client", RT);
    struct sockaddr_in a = ADDR(port);
    nonblocking(fd);
    SAY("connect", connect(fd, SA(a)));
    signals("connect");
    return fd;
}

static void connections(void) {
    puts("-- connections");
    named = 0;
    int l = async(listener(2), "listener", RT);
    int c = try_connect(port_of(l)), b = connected_to(l);
    signals("another client");
    int s = MUST(accept(l, NULL, NULL));
    printf("of accept: O_ASYNC %d, owner %d, signal %d\n", !!(fcntl(s, F_GETFL) & O_ASYNC), fcntl(s, F_GETOWN), fcntl(s, F_GETSIG));
    async(s, "server", RT), signals("accepted");
    int port = port_of(l);
    close(b);
    SAY("shutdown of the listener", shutdown(l, SHUT_RDWR));
    signals("the listener's end"), close(l);
    int refused = try_connect(port), error = 0;
    socklen_t len = sizeof error;
    MUST(getsockopt(refused, SOL_SOCKET, SO_ERROR, &error, &len));
    printf("%s\n", errname(error));
    struct sockaddr none = {AF_UNSPEC};
    SAY("AF_UNSPEC", connect(c, &none, sizeof none));
    signals("disconnected, and reset");
    close(refused), close(c), close(s);
    signals("closed");
}

static void ends(void) {
    puts("-- ends");
    struct pair p = apair();
    shutdown(p.c, SHUT_WR), signals("the client has no more");
    shutdown(p.s, SHUT_WR), signals("nor has the server");
    unpair(p), signals("closed");
    p = apair();
    shutdown(p.s, SHUT_RD), signals("SHUT_RD");
    MUST(send(p.c, "x", 1, 0)), signals("data all the same");
    shutdown(p.s, SHUT_WR), signals("SHUT_WR");
    close(p.c), signals("closed");
    close(p.s), close(p.l);
    p = apair();
    MUST(send(p.c, "last", 4, 0)), shutdown(p.c, SHUT_WR), nap(50), close(p.c);
    signals("data and the end");
    SAY("send to one that is gone", send(p.s, "x", 1, 0));
    signals("a reset");
    SAY("a second", send(p.s, "x", 1, MSG_NOSIGNAL)), signals("no more");
    close(p.s), close(p.l);
    p = apair();
    MUST(setsockopt(p.c, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
    close(p.c), signals("a reset out of nothing");
    close(p.s), close(p.l);
}

static void writing(void) {
    puts("-- writing");
    struct pair p = apair();
    nonblocking(p.c), nonblocking(p.s);
    MUST(fcntl(p.s, F_SETFL, O_NONBLOCK));
    MUST(send(p.c, "x", 1, 0)), signals("no need to tell");
    long sent = 0, got = 0;
    for (long n; (n = send(p.c, big, 100000, 0)) > 0;)
        sent += n;
    SAY("full", -(sent == 0)), signals("full");
    for (int quiet = 0; quiet < 20;) {
        long n = recv(p.s, big, 100000, 0);
        if (n > 0)
            got += n, quiet = 0;
        else
            nap(5), quiet++;
    }
    SAY("all of it", got == sent + 1);
    signals("room again");
    ready(p.c, POLLOUT, 0);
    MUST(send(p.c, "x", 1, 0)), signals("and no more");
    MUST(setsockopt(p.c, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, 4));
    MUST(send(p.c, "x", 1, MSG_ZEROCOPY)), signals("MSG_ZEROCOPY is done");
    unpair(p);
}

static void urgent(void) {
    puts("-- urgent data");
    struct pair p = pair();
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("nobody's");
    MUST(fcntl(p.s, F_SETOWN, getpid()));
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("SIGURG");
    MUST(fcntl(p.s, F_SETSIG, RT));
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("F_SETSIG without O_ASYNC");
    unpair(p), signals("closed");
    p = apair();
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("O_ASYNC");
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("again, not read");
    MUST(send(p.c, "data", 4, MSG_OOB)), signals("behind data");
    MUST(send(p.c, "data", 4, 0)), signals("data behind it");
    MUST(setsockopt(p.s, SOL_SOCKET, SO_OOBINLINE, &(int){1}, 4));
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("in line");
    MUST(fcntl(p.s, F_SETSIG, 0));
    MUST(send(p.c, "x", 1, MSG_OOB)), signals("SIGIO");
    int child = fork();
    if (!child) {
        MUST(fcntl(p.s, F_SETOWN, getpid())), MUST(fcntl(p.s, F_SETFL, 0));
        signals("the child's"), fflush(stdout), _exit(0);
    }
    nap(80), MUST(send(p.c, "x", 1, MSG_OOB));
    waitpid(child, NULL, 0), signals("not the parent's");
    unpair(p);
}

static void *reader(void *arg) {
    char b[10];
    block(SIG_BLOCK);
    return (void *)(intptr_t)recv(*(int *)arg, b, 10, 0);
}

static void *poller(void *arg) {
    block(SIG_BLOCK);
    return (void *)(intptr_t)ready(*(int *)arg, POLLIN, 2000);
}

static void readers(void) {
    puts("-- who reads already");
    struct pair p = apair();
    pthread_t t;
    void *r;
    MUST(-pthread_create(&t, NULL, reader, &p.s));
    nap(80), MUST(send(p.c, "x", 1, 0));
    pthread_join(t, &r), SAY("read", (intptr_t)r), signals("nobody has to be told");
    MUST(-pthread_create(&t, NULL, poller, &p.s));
    nap(80), MUST(send(p.c, "x", 1, 0));
    pthread_join(t, &r), SAY("poll", (intptr_t)r & POLLIN), signals("with poll");
    unpair(p), signals("closed");
}

static void sayowner(const char *what, int fd) {
    struct f_owner_ex o = {77, 77};
    int pgrp = 0, r = fcntl(fd, F_GETOWN), by_ioctl = ioctl(fd, FIOGETOWN, &pgrp), other = 0;
    const char *kinds[] = {"thread", "process", "group"};
    MUST(ioctl(fd, SIOCGPGRP, &other));
    SAY("F_GETOWN_EX", fcntl(fd, F_GETOWN_EX, &o));
    long own = getpid();
    printf("%s: F_GETOWN %s, FIOGETOWN %d %s, %s; ex: %s, %s; signal %d, O_ASYNC %d\n", what, r == own ? "me" : r == 0 ? "nobody" : r < 0 ? errname(errno) : "other",
           by_ioctl, pgrp == own ? "me" : pgrp == 0 ? "nobody" : pgrp == -own ? "my group" : "other", other == pgrp ? "the same" : "another",
           kinds[o.type % 3], o.pid == own ? "me" : o.pid == 0 ? "nobody" : "other", fcntl(fd, F_GETSIG), !!(fcntl(fd, F_GETFL) & O_ASYNC));
}

static volatile int thread_got;
static void on_signal(int s) {
    (void)s;
    thread_got = gettid();
}

static void *owner_thread(void *arg) {
    sigset_t s;
    sigemptyset(&s), sigaddset(&s, RT + 1);
    pthread_sigmask(SIG_UNBLOCK, &s, NULL);
    *(volatile int *)arg = gettid();
    for (int n = 0; n < 200 && thread_got != -1 && !thread_got; n++)
        nap(5);
    return NULL;
}

static void owners(void) {
    puts("-- owners");
    setpgid(0, 0);
    struct pair p = pair();
    named = 0, name(p.s, "server");
    sayowner("at first", p.s);
    SAY("F_SETOWN nobody there", fcntl(p.s, F_SETOWN, 99999999));
    SAY("F_SETOWN no such group", fcntl(p.s, F_SETOWN, -99999999));
    SAY("F_SETOWN INT_MIN", fcntl(p.s, F_SETOWN, INT32_MIN));
    SAY("F_SETSIG 65", fcntl(p.s, F_SETSIG, 65)), SAY("F_SETSIG -1", fcntl(p.s, F_SETSIG, -1)), SAY("F_SETSIG 64", fcntl(p.s, F_SETSIG, 64));
    SAY("F_SETOWN_EX odd kind", fcntl(p.s, F_SETOWN_EX, &(struct f_owner_ex){5, getpid()}));
    SAY("F_SETOWN_EX nobody there", fcntl(p.s, F_SETOWN_EX, &(struct f_owner_ex){F_OWNER_PID, 99999999}));
    SAY("F_SETOWN_EX bad pointer", fcntl(p.s, F_SETOWN_EX, (void *)8));
    SAY("FIOSETOWN bad pointer", ioctl(p.s, FIOSETOWN, (void *)8));
    SAY("FIOSETOWN nobody there", ioctl(p.s, FIOSETOWN, &(int){99999999}));
    SAY("FIOASYNC bad pointer", ioctl(p.s, FIOASYNC, (void *)8));
    SAY("F_SETFL O_ASYNC", fcntl(p.s, F_SETFL, O_ASYNC));
    MUST(send(p.c, "x", 1, 0)), signals("nobody's");
    SAY("FIOSETOWN", ioctl(p.s, FIOSETOWN, &(int){getpid()})), sayowner("FIOSETOWN", p.s);
    MUST(send(p.c, "x", 1, 0)), signals("mine");
    SAY("SIOCSPGRP", ioctl(p.s, SIOCSPGRP, &(int){-getpid()})), sayowner("SIOCSPGRP", p.s);
    MUST(fcntl(p.s, F_SETSIG, RT));
    MUST(send(p.c, "x", 1, 0)), signals("my group's");
    SAY("F_SETOWN_EX group", fcntl(p.s, F_SETOWN_EX, &(struct f_owner_ex){F_OWNER_PGRP, getpid()})), sayowner("group", p.s);
    int child = fork();
    if (!child) {
        printf("in the child, of the same group:");
        signals(""), fflush(stdout), _exit(0);
    }
    nap(50), MUST(send(p.c, "x", 1, 0));
    waitpid(child, NULL, 0), signals("and in the parent");
    volatile int tid = 0;
    pthread_t t;
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(RT + 1, &sa, NULL);
    MUST(-pthread_create(&t, NULL, owner_thread, (void *)&tid));
    while (!tid)
        nap(1);
    MUST(fcntl(p.s, F_SETSIG, RT + 1));
    SAY("F_SETOWN_EX thread", fcntl(p.s, F_SETOWN_EX, &(struct f_owner_ex){F_OWNER_TID, tid})), sayowner("thread", p.s);
    MUST(send(p.c, "x", 1, 0)), pthread_join(t, NULL);
    printf("the thread has got it: %d\n", thread_got == tid);
    MUST(send(p.c, "x", 1, 0)), signals("a thread that is gone"), sayowner("gone", p.s);
    MUST(fcntl(p.s, F_SETSIG, RT));
    child = fork();
    if (!child) {
        MUST(fcntl(p.s, F_SETOWN, getpid()));
        signals("a child that has made itself the owner"), fflush(stdout), _exit(0);
    }
    nap(80), MUST(send(p.c, "x", 1, 0));
    waitpid(child, NULL, 0), signals("nothing for the parent");
    MUST(send(p.c, "x", 1, 0)), signals("a process that is gone"), sayowner("gone", p.s);
    int twin = name(dup(p.s), "its duplicate");
    MUST(fcntl(twin, F_SETOWN, getpid())), sayowner("by a duplicate", p.s);
    MUST(send(p.c, "x", 1, 0)), signals("the number that was armed");
    MUST(fcntl(p.s, F_SETFL, 0)), MUST(fcntl(twin, F_SETFL, O_ASYNC));
    MUST(send(p.c, "x", 1, 0)), signals("armed by the duplicate");
    close(twin), MUST(send(p.c, "x", 1, 0)), signals("which is closed");
    /* Another process has the socket, and this one is told. */
    child = fork();
    if (!child)
        nap(500), _exit(0);
    close(p.s), nap(50);
    MUST(send(p.c, "x", 1, 0)), signals("open in the child only");
    waitpid(child, NULL, 0);
    close(p.c), close(p.l);
}

static volatile int handled, bytes;
static int handle_fd;
static void on_io(int s, siginfo_t *i, void *u) {
    (void)s, (void)u;
    char b[100];
    int e = errno;
    long n;
    handled++;
    while ((n = recv(i->si_code == SI_KERNEL ? handle_fd : i->si_fd, b, sizeof b, MSG_DONTWAIT)) > 0)
        bytes += n;
    errno = e;
}

static void handlers(void) {
    puts("-- handlers");
    block(SIG_UNBLOCK);
    struct sigaction sa = {.sa_sigaction = on_io, .sa_flags = SA_SIGINFO};
    sigaction(SIGIO, &sa, NULL), sigaction(RT, &sa, NULL);
    struct pair p = pair(), q = pair();
    async(p.s, "server", 0);
    handle_fd = p.s;
    int child = fork();
    if (!child) {
        for (int i = 0; i < 8; i++)
            nap(100), MUST(send(p.c, "hello", 5, 0));
        _exit(0);
    }
    pause(), printf("pause: %s, %d\n", errname(errno), bytes);
    long r = recv(q.s, big, 10, 0);
    printf("recv of another: %ld %s, %d\n", r, errname(errno), bytes);
    struct pollfd f = {.fd = q.s, .events = POLLIN};
    r = poll(&f, 1, 3000), printf("poll: %ld %s, %d\n", r, errname(errno), bytes);
    r = accept(q.l, NULL, NULL), printf("accept: %ld %s, %d\n", r, errname(errno), bytes);
    MUST(fcntl(p.s, F_SETSIG, RT));
    int had = bytes;
    while (bytes == had)
        ;
    printf("while it computes: %d\n", bytes);
    sigset_t none, all;
    sigemptyset(&none), sigfillset(&all), sigprocmask(SIG_BLOCK, &all, NULL);
    sigsuspend(&none), printf("sigsuspend: %s, %d\n", errname(errno), bytes);
    sigprocmask(SIG_UNBLOCK, &all, NULL);
    r = sleep(5), printf("sleep: %d, %d\n", r > 0, bytes);
    had = bytes;
    for (int i = 0; i < 400 && bytes == had; i++)
        nap(5);
    printf("handled %d times, %d bytes\n", handled, bytes);
    waitpid(child, NULL, 0);
    unpair(p), unpair(q);
    signal(SIGIO, SIG_DFL), signal(RT, SIG_IGN);
    p = pair();
    child = fork();
    if (!child) {
        async(p.s, "server", 0), pause();
        _exit(0);
    }
    nap(80), MUST(send(p.c, "x", 1, 0));
    int status;
    waitpid(child, &status, 0);
    printf("no handler: killed %d by %d\n", WIFSIGNALED(status), WTERMSIG(status));
    unpair(p);
    block(SIG_BLOCK);
}

/* A program that is started with a socket whose owner is the one that it was started by. */
static void execs(const char *self) {
    puts("-- exec");
    struct pair p = pair();
    async(p.s, "server", RT);
    char fd[20];
    snprintf(fd, sizeof fd, "%d", p.s);
    int child = fork();
    if (!child) {
        execl(self, self, "goes on", fd, NULL);
        _exit(9);
    }
    nap(300), MUST(send(p.c, "x", 1, 0)), signals("the parent is the owner still");
    close(p.s), MUST(send(p.c, "x", 1, 0)), signals("and has no descriptor any more");
    int status;
    waitpid(child, &status, 0), printf("child: %d\n", WEXITSTATUS(status));
    close(p.c), close(p.l);
}

int main(int argc, char **argv) {
    if (argc > 2) {
        int fd = atoi(argv[2]);
        printf("started: O_ASYNC %d, owner %d, signal %d\n", !!(fcntl(fd, F_GETFL) & O_ASYNC), fcntl(fd, F_GETOWN) == getppid(), fcntl(fd, F_GETSIG));
        fflush(stdout);
        nap(1500);
        return recv(fd, big, 10, MSG_DONTWAIT);
    }
    setlinebuf(stdout);
    block(SIG_BLOCK);
    data();
    connections();
    ends();
    writing();
    urgent();
    readers();
    owners();
    handlers();
    execs(argv[0]);
    return 0;
}
