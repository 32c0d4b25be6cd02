/* Sockets as files: sendfile, splice, preadv2, stdio, ioctl, fcntl, close_range, passing by SCM_RIGHTS, exec. */
#include "t.h"
#include <spawn.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <linux/sockios.h>

static int file_of(const char *text) {
    int fd = MUST(memfd_create("file", 0));
    MUST(write(fd, text, strlen(text)));
    return fd;
}

static void copying(void) {
    struct pair p = pair();
    char b[64] = {0};
    int f = file_of("0123456789abcdefghij");
    off_t at = 5;
    SAY("sendfile with an offset", sendfile(p.c, f, &at, 10));
    printf("offset %ld\n", (long)at);
    SAY("read", readn(p.s, b, 10));
    printf("%.10s\n", b);
    MUST(lseek(f, 15, SEEK_SET));
    SAY("sendfile from the position", sendfile(p.c, f, NULL, 100));
    SAY("read", readn(p.s, b, 5));
    printf("%.5s, position %ld\n", b, (long)lseek(f, 0, SEEK_CUR));
    SAY("sendfile at the end", sendfile(p.c, f, NULL, 100));
    SAY("sendfile from a socket", sendfile(f, p.s, NULL, 10));
    int fds[2];
    MUST(pipe(fds));
    MUST(write(fds[1], "through a pipe", 14));
    SAY("splice into a socket", splice(fds[0], NULL, p.c, NULL, 100, 0));
    SAY("read", readn(p.s, b, 14));
    printf("%.14s\n", b);
    MUST(send(p.c, "and out", 7, 0));
    ready(p.s, POLLIN, 1000);
    SAY("splice out of a socket", splice(p.s, NULL, fds[1], NULL, 100, 0));
    SAY("read", read(fds[0], b, 64));
    printf("%.7s\n", b);
    nonblocking(p.s);
    SAY("splice with nothing there", splice(p.s, NULL, fds[1], NULL, 100, SPLICE_F_NONBLOCK));
    MUST(fcntl(p.s, F_SETFL, 0));
    SAY("splice, an offset of a socket", splice(p.s, &(loff_t){0}, fds[1], NULL, 1, 0));
    struct iovec v[2] = {{"pw", 2}, {"ritev2", 6}};
    SAY("pwritev2, offset -1", pwritev2(p.c, v, 2, -1, 0));
    SAY("read", readn(p.s, b, 8));
    struct iovec r = {b, 4};
    MUST(send(p.c, "pre", 3, 0));
    ready(p.s, POLLIN, 1000);
    SAY("preadv2, offset -1", preadv2(p.s, &r, 1, -1, 0));
    SAY("preadv2, offset 0", preadv2(p.s, &r, 1, 0, 0));
    SAY("pread", pread(p.s, b, 1, 0));
    SAY("pwrite", pwrite(p.s, b, 1, 0));
    SAY("preadv", preadv(p.s, &r, 1, 0));
    SAY("pwritev", pwritev(p.s, &r, 1, 0));
    SAY("lseek", lseek(p.s, 0, SEEK_CUR));
    SAY("ftruncate", ftruncate(p.s, 0));
    SAY("fsync", fsync(p.s));
    SAY("isatty", isatty(p.s));
    SAY("mmap", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, p.s, 0) == MAP_FAILED ? -1 : 0);
    close(f), close(fds[0]), close(fds[1]);
    unpair(p);
}

static void streams(void) {
    struct pair p = pair();
    char line[64] = "";
    FILE *in = fdopen(p.s, "r"), *out = fdopen(dup(p.c), "w");
    fprintf(out, "hello %d\nsecond line\n", 42);
    SAY("fflush", fflush(out));
    fgets(line, sizeof line, in);
    printf("fgets: %s", line);
    SAY("dprintf", dprintf(p.c, "by dprintf %s\n", "too"));
    fgets(line, sizeof line, in);
    printf("fgets: %s", line);
    fgets(line, sizeof line, in);
    printf("fgets: %s", line);
    printf("fileno is the socket's: %d\n", fileno(in) == p.s);
    SAY("fclose", fclose(out));
    SAY("close", close(p.c));
    printf("fgets at the end: %s\n", fgets(line, sizeof line, in) ? line : "NULL");
    printf("feof %d, ferror %d\n", !!feof(in), !!ferror(in));
    SAY("fclose closes the socket", fclose(in));
    SAY("which is gone", fcntl(p.s, F_GETFD));
    close(p.l);
}

static int farewell = -1;
static void say_farewell(void) {
    if (farewell >= 0)
        SAY("send at exit", send(farewell, " farewell", 9, 0));
}

/* What is left in a stream, and what a handler of exit sends, goes out before the end. */
static void leaving(void) {
    char b[64] = "";
    pid_t child = fork();
    if (child == 0) {
        atexit(say_farewell);
        struct pair p = pair();
        if (fork() == 0) {
            close(p.c), close(p.l);
            farewell = p.s;
            FILE *f = fdopen(dup(p.s), "w");
            fprintf(f, "unflushed");
            exit(0);
        }
        close(p.s);
        SAY("all of it", readn(p.c, b, 18));
        SAY("the end", recv(p.c, b, 1, 0));
        wait(NULL);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void controls(void) {
    struct pair p = pair();
    int n = -1;
    MUST(send(p.c, "12345", 5, 0));
    ready(p.s, POLLIN, 1000);
    SAY("FIONREAD", ioctl(p.s, FIONREAD, &n)), printf("%d\n", n);
    SAY("SIOCINQ", ioctl(p.s, SIOCINQ, &n)), printf("%d\n", n);
    nap(60);
    SAY("SIOCOUTQ", ioctl(p.c, SIOCOUTQ, &n)), printf("%d\n", n);
    SAY("SIOCOUTQNSD", ioctl(p.c, SIOCOUTQNSD, &n)), printf("%d\n", n);
    SAY("SIOCATMARK", ioctl(p.s, SIOCATMARK, &n)), printf("%d\n", n);
    SAY("FIONREAD of a listener", ioctl(p.l, FIONREAD, &n));
    n = 1;
    SAY("FIONBIO on", ioctl(p.c, FIONBIO, &n));
    printf("O_NONBLOCK %d\n", !!(fcntl(p.c, F_GETFL) & O_NONBLOCK));
    char b;
    SAY("recv", recv(p.c, &b, 1, 0));
    n = 0;
    SAY("FIONBIO off", ioctl(p.c, FIONBIO, &n));
    printf("O_NONBLOCK %d\n", !!(fcntl(p.c, F_GETFL) & O_NONBLOCK));
    SAY("FIOCLEX", ioctl(p.c, FIOCLEX));
    printf("close on exec %d\n", fcntl(p.c, F_GETFD));
    SAY("FIONCLEX", ioctl(p.c, FIONCLEX));
    printf("close on exec %d\n", fcntl(p.c, F_GETFD));
    SAY("F_SETFD", fcntl(p.c, F_SETFD, FD_CLOEXEC));
    printf("close on exec %d\n", fcntl(p.c, F_GETFD));
    SAY("an unknown one", ioctl(p.c, 0x12345678, &n));
    SAY("TIOCGWINSZ", ioctl(p.c, TIOCGWINSZ, &n));
    SAY("F_SETFL O_APPEND", fcntl(p.c, F_SETFL, O_APPEND | O_NONBLOCK));
    printf("%d\n", fcntl(p.c, F_GETFL) == (O_RDWR | O_APPEND | O_NONBLOCK));
    SAY("F_GETOWN", fcntl(p.c, F_GETOWN));
    struct stat st;
    SAY("fstat", fstat(p.c, &st));
    printf("a socket %d, size %ld\n", S_ISSOCK(st.st_mode), (long)st.st_size);
    char path[64], to[64] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", p.c);
    MUST(readlink(path, to, sizeof to - 1));
    printf("%.8s\n", to);
    unpair(p);
}

static void ranges(void) {
    struct pair p = pair();
    char b;
    int a = 300, z = 305;
    MUST(dup2(p.c, a)), MUST(dup2(p.c, z));
    close(p.c);
    SAY("close_range, close on exec", close_range(300, 310, CLOSE_RANGE_CLOEXEC));
    printf("%d %d\n", fcntl(a, F_GETFD), fcntl(z, F_GETFD));
    SAY("close_range", close_range(301, 310, 0));
    SAY("the one in it", fcntl(z, F_GETFD));
    SAY("the one beside it", send(a, "x", 1, 0));
    SAY("arrives", recv(p.s, &b, 1, 0));
    SAY("close_range, wrong order", close_range(310, 300, 0));
    SAY("the last one", close_range(300, 300, 0));
    SAY("is the end", recv(p.s, &b, 1, 0));
    close(p.s), close(p.l);
    p = pair();
    MUST(dup2(p.c, 400));
    close(p.c);
    closefrom(390);
    SAY("closefrom is the end", recv(p.s, &b, 1, 0));
    SAY("and a new connection works", ({
            int c = connected_to(p.l);
            close(p.s);
            p.s = MUST(accept(p.l, NULL, NULL));
            MUST(send(c, "y", 1, 0));
            int n = recv(p.s, &b, 1, 0);
            close(c);
            n;
        }));
    close(p.s), close(p.l);
}

static void passing(void) {
    struct pair p = pair();
    int u[2];
    char b[8], control[CMSG_SPACE(sizeof(int))];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    pid_t child = fork();
    if (child == 0) {
        close(p.c), close(p.s), close(p.l);
        struct iovec v = {b, 1};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        MUST(recvmsg(u[1], &m, 0));
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
        long n = read(fd, b, 8);
        MUST(write(fd, b, n));
        _exit(n == 5 ? 0 : 1);
    }
    struct iovec v = {"f", 1};
    memset(control, 0, sizeof control);
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &p.s, sizeof(int));
    SAY("pass a connection", sendmsg(u[0], &m, 0));
    close(p.s);
    SAY("send", send(p.c, "hello", 5, 0));
    SAY("the other process answers", readn(p.c, b, 5));
    int status;
    waitpid(child, &status, 0);
    printf("%d\n", status);
    SAY("it has gone: the end", recv(p.c, b, 1, 0));
    close(p.c), close(p.l), close(u[0]), close(u[1]);
}

static void executing(const char *self) {
    extern char **environ;
    struct pair p = pair();
    char b[64] = "";
    /* The classic of inetd: a connection becomes the standard input and output of another program. */
    pid_t child = fork();
    if (child == 0) {
        dup2(p.s, 0), dup2(p.s, 1);
        close(p.s), close(p.c), close(p.l);
        execl("/bin/sh", "sh", "-c", "read line; echo \"got $line\"", NULL);
        _exit(127);
    }
    close(p.s);
    MUST(send(p.c, "a line\n", 7, 0));
    SAY("exec of a shell on a connection", readn(p.c, b, 11));
    printf("%s", b);
    SAY("the end", recv(p.c, b, 1, 0));
    int status;
    waitpid(child, &status, 0);
    printf("%d\n", status);
    close(p.c);
    /* A listener survives exec, by its number. */
    char number[16];
    snprintf(number, sizeof number, "%d", p.l);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    char *argv[] = {(char *)self, "serve", number, NULL};
    SAY("posix_spawn", posix_spawn(&child, self, &actions, NULL, argv, environ));
    int c = connected_to(p.l);
    MUST(send(c, "spawned", 7, 0));
    memset(b, 0, sizeof b);
    SAY("the new program serves the old listener", readn(c, b, 7));
    printf("%s\n", b);
    waitpid(child, &status, 0);
    printf("%d\n", status);
    close(c);
    /* Close-on-exec: the connection ends with the exec, for it was the last descriptor. */
    c = MUST(socket(DOMAIN, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in a = ADDR(port_of(p.l));
    MUST(connect(c, SA(a)));
    int s = MUST(accept4(p.l, NULL, NULL, SOCK_CLOEXEC));
    child = fork();
    if (child == 0) {
        close(s);
        nap(50);
        execl("/bin/true", "true", NULL);
    }
    close(c);
    SAY("a close-on-exec connection ends by exec", recv(s, b, 1, 0));
    waitpid(child, &status, 0);
    close(s), close(p.l);
    /* Programs that have nothing to do with it. */
    FILE *f = popen("echo popen", "r");
    printf("%s", fgets(b, sizeof b, f));
    printf("pclose %d, system %d\n", pclose(f), system("exit 3") >> 8);
    child = vfork();
    if (child == 0)
        _exit(5);
    waitpid(child, &status, 0);
    printf("vfork %d\n", status >> 8);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3) {
        char b[16];
        int s = MUST(accept(atoi(argv[2]), NULL, NULL));
        long n = read(s, b, sizeof b);
        MUST(write(s, b, n));
        return 0;
    }
    if (argc == 2) {
        if (!strcmp(argv[1], "stdio"))
            streams(), leaving();
        if (!strcmp(argv[1], "exec"))
            passing(), executing(argv[0]);
        return 0;
    }
    copying();
    controls();
    ranges();
    return 0;
}
