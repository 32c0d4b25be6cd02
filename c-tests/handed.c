/* Connections that are handed to a program which nothing can be preloaded into (tool.c, its path is the argument): by every door
 * of exec and posix_spawn, as what a server of inetd's kind, or a shell on a socket, does. */
#include "t.h"

#include <dirent.h>
#include <spawn.h>

extern char **environ;
static const char *tool;
static char script[200], directory[200];

/* The ways of starting it. */
enum way { EXECVE, EXECV, EXECVP, EXECL, FEXECVE, EXECVEAT, SPAWN, SPAWNP, VFORK, SCRIPT, CLEANED, UNLOADED, WAYS };
static const char *const NAMES[] = {"execve",  "execv",  "execvp", "execl",        "fexecve",     "execveat",
                                    "posix_spawn", "posix_spawnp", "vfork", "a script", "an empty environment", "LD_PRELOAD="};

static void becomes(enum way way, char **argv) {
    static char *none[] = {NULL}, *off[] = {"LD_PRELOAD=", NULL};
    switch (way) {
    case EXECV:
        execv(tool, argv);
        break;
    case EXECVP:
        setenv("PATH", directory, 1);
        execvp("tool", argv);
        break;
    case EXECL:
        execl(tool, argv[0], argv[1], argv[2], argv[3], NULL);
        break;
    case FEXECVE:
        fexecve(open(tool, O_RDONLY | O_CLOEXEC), argv, environ);
        break;
    case EXECVEAT:
        execveat(open(directory, O_RDONLY | O_CLOEXEC), "tool", argv, environ, 0);
        break;
    case SCRIPT:
        /* The interpreter is the tool, with the word of the first line, the script's name, and the rest of these. */
        execve(script, argv, environ);
        break;
    case CLEANED:
        execve(tool, argv, none);
        break;
    case UNLOADED:
        execve(tool, argv, off);
        break;
    default:
        execve(tool, argv, environ);
    }
    _exit(98);
}

/* Starts it with `s` as its standard input and output; `report` is its standard error. */
static pid_t start(enum way way, int s, int report, const char *what, const char *arg, const char *more) {
    char *argv[] = {"tool", (char *)what, (char *)arg, (char *)more, NULL};
    pid_t pid;
    if (way == SPAWN || way == SPAWNP) {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, s, 0);
        posix_spawn_file_actions_adddup2(&actions, s, 1);
        posix_spawn_file_actions_adddup2(&actions, report, 2);
        posix_spawn_file_actions_addclosefrom_np(&actions, 3);
        int failed = (way == SPAWN ? posix_spawn : posix_spawnp)(&pid, tool, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        if (failed)
            printf("%s: %s\n", NAMES[way], errname(failed));
        return pid;
    }
    pid = way == VFORK ? vfork() : fork();
    if (pid == 0) {
        if (dup2(s, 0) < 0 || dup2(s, 1) < 0 || dup2(report, 2) < 0)
            _exit(97);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        becomes(way, argv);
    }
    return MUST(pid);
}

static void ended(const char *what, pid_t pid) {
    int status;
    pid_t got = waitpid(pid, &status, 0);
    printf("%s: %s", what, got == pid ? "waited for, " : errname(errno));
    if (WIFSIGNALED(status))
        printf("signal %d\n", WTERMSIG(status));
    else
        printf("exit %d\n", WEXITSTATUS(status));
}

/* What it has told, to the end: nobody else may have its standard error. */
static void told(int report[2]) {
    char text[2000];
    close(report[1]);
    long n = readn(report[0], text, sizeof text - 1);
    text[n < 0 ? 0 : n] = 0;
    printf("told: %s%s", text, n > 0 && text[n - 1] == '\n' ? "" : "\n");
    close(report[0]);
}

static uint8_t at(size_t i) { return i * 7 + (i >> 11); }

struct flow {
    int fd;
    size_t n;
};

static void *writer(void *arg) {
    struct flow *f = arg;
    static __thread uint8_t b[30000];
    for (size_t i = 0; i < f->n;) {
        size_t n = f->n - i < sizeof b ? f->n - i : sizeof b;
        for (size_t k = 0; k < n; k++)
            b[k] = at(i + k);
        ssize_t w = write(f->fd, b, n);
        if (w < 0)
            break;
        i += w;
    }
    shutdown(f->fd, SHUT_WR);
    return NULL;
}

/* Sends `n` bytes, and gets the same back: how many were right up to the end. */
static size_t echoed(int c, size_t n) {
    struct flow f = {c, n};
    pthread_t t;
    pthread_create(&t, NULL, writer, &f);
    uint8_t b[20000];
    size_t good = 0;
    for (ssize_t r; (r = read(c, b, sizeof b)) > 0;)
        for (ssize_t k = 0; k < r; k++)
            good += b[k] == at(good);
    pthread_join(t, NULL);
    return good;
}

static void ways(void) {
    for (enum way way = 0; way < WAYS; way++) {
        struct pair p = pair();
        int report[2];
        MUST(pipe(report));
        pid_t pid = start(way, p.s, report[1], "echo", NULL, NULL);
        close(p.s);
        printf("%s: %zu echoed\n", NAMES[way], echoed(p.c, 100000));
        ended(NAMES[way], pid);
        told(report);
        close(p.c), close(p.l);
    }
}

static void state(void) {
    static const enum way some[] = {EXECVE, SPAWN, VFORK, CLEANED};
    for (int i = 0; i < 4; i++) {
        struct pair p = pair();
        int report[2], gate[2];
        char b;
        MUST(pipe(report));
        MUST(pipe(gate));
        pid_t pid;
        if (some[i] == EXECVE) {
            if ((pid = MUST(fork())) == 0) {
                char number[20];
                sigset_t chld;
                sigemptyset(&chld);
                sigaddset(&chld, SIGCHLD);
                sigprocmask(SIG_BLOCK, &chld, NULL);
                snprintf(number, sizeof number, "%d", (int)getpid());
                char *argv[] = {"a name", "state", number, "and more", NULL};
                dup2(p.s, 0), dup2(p.s, 1), dup2(report[1], 2);
                for (int fd = 3; fd < 64; fd++)
                    close(fd);
                execv(tool, argv);
                _exit(98);
            }
        } else {
            pid = start(some[i], p.s, report[1], "state", NULL, NULL);
        }
        close(p.s), close(gate[0]), close(gate[1]);
        ended(NAMES[some[i]], pid);
        SAY("its byte", read(p.c, &b, 1));
        SAY("and the end", read(p.c, &b, 1));
        told(report);
        close(p.c), close(p.l);
    }
}

static void bulk(void) {
    struct pair p = pair();
    pid_t pid = start(EXECVE, p.s, 2, "echo", NULL, NULL);
    close(p.s);
    printf("1 MiB both ways: %zu\n", echoed(p.c, 1 << 20));
    ended("bulk", pid);
    close(p.c), close(p.l);
}

/* What is written last arrives, however slowly it is read. */
static void pours(void) {
    struct pair p = pair();
    static uint8_t b[1 << 20];
    pid_t pid = start(EXECVE, p.s, 2, "pour", "1048576", NULL);
    close(p.s);
    nap(100);
    long n = readn(p.c, b, sizeof b), good = 0;
    for (long i = 0; i < n; i++)
        good += b[i] == at(i);
    ended("pour", pid);
    printf("poured: %ld\n", good);
    SAY("its end", read(p.c, b, 1));
    close(p.c), close(p.l);

    p = pair();
    pid = start(EXECVE, p.s, 2, "pour", "150000", NULL);
    close(p.s);
    ended("before anything was read", pid);
    n = readn(p.c, b, sizeof b);
    for (long i = good = 0; i < n; i++)
        good += b[i] == at(i);
    printf("poured: %ld\n", good);
    close(p.c), close(p.l);

    p = pair();
    pid = start(EXECVE, p.s, 2, "forks", NULL, NULL);
    close(p.s);
    ended("one with a child", pid);
    SAY("the child goes on", readn(p.c, b, 5));
    printf("it echoes %zu\n", echoed(p.c, 200000));
    close(p.c), close(p.l);
}

static void halves(void) {
    struct pair p = pair();
    int report[2];
    char b[10];
    MUST(pipe(report));
    pid_t pid = start(EXECVE, p.s, report[1], "half", NULL, NULL);
    close(p.s);
    SAY("its last words", readn(p.c, b, 3));
    SAY("its end", read(p.c, b, 1));
    SAY("the other way is open", write(p.c, "hello", 5));
    nap(50);
    close(p.c);
    ended("half", pid);
    told(report);
    close(p.l);

    p = pair();
    MUST(pipe(report));
    int gate[2];
    MUST(pipe(gate));
    if ((pid = MUST(fork())) == 0) {
        char *argv[] = {"tool", "closes", NULL};
        dup2(p.s, 0), dup2(p.s, 1), dup2(report[1], 2), dup2(gate[0], 3);
        for (int fd = 4; fd < 64; fd++)
            close(fd);
        execv(tool, argv);
        _exit(98);
    }
    close(p.s), close(gate[0]);
    SAY("the last words of one that closes", readn(p.c, b, 3));
    SAY("its end, while it lives", read(p.c, b, 1));
    close(gate[1]);
    ended("closes", pid);
    told(report);
    close(p.c), close(p.l);
}

/* What it does not read is there for others, and what it writes comes before what they write. */
static void shared(void) {
    struct pair p = pair();
    char b[100];
    int whole = 0;
    MUST(write(p.c, "one\ntwo\nthree\n", 14));
    for (int i = 0; i < 2; i++)
        ended("line", start(EXECVE, p.s, 2, "line", NULL, NULL));
    memset(b, 0, sizeof b);
    SAY("the rest", read(p.s, b, sizeof b));
    printf("%s", b);
    SAY("answers", readn(p.c, b, 10));
    printf("%.10s\n", b);
    MUST(write(p.c, "0123456789", 10));
    ended("take", start(SPAWN, p.s, 2, "take", "3", NULL));
    MUST(write(p.s, "!", 1));
    memset(b, 0, sizeof b);
    SAY("the rest", read(p.s, b, sizeof b));
    printf("%s\n", b);
    SAY("answers", readn(p.c, b, 4));
    printf("%.4s\n", b);
    for (int i = 0; i < 20; i++) {
        char text[10];
        int status;
        snprintf(text, sizeof text, "tool%02d;", i);
        waitpid(start(i % 2 ? EXECVE : SPAWN, p.s, 2, "say", text, NULL), &status, 0);
        MUST(write(p.s, "mine;", 5));
        memset(b, 0, sizeof b);
        readn(p.c, b, 12);
        whole += !memcmp(b, text, 7) && !strcmp(b + 7, "mine;");
    }
    printf("in order: %d of 20\n", whole);
    for (int i = 0; i < 20; i++) {
        int status;
        MUST(write(p.c, "firstsecond", 11));
        waitpid(start(i % 2 ? EXECVE : SPAWN, p.s, 2, "take", "5", NULL), &status, 0);
        memset(b, 0, sizeof b);
        whole += recv(p.s, b, sizeof b, MSG_DONTWAIT) == 6 && !strcmp(b, "second");
        readn(p.c, b, 5);
    }
    printf("the second after the first: %d of 20\n", whole - 20);
    ended("nothing", start(EXECVE, p.s, 2, "", NULL, NULL));
    SAY("nothing is shut", recv(p.c, b, 1, MSG_DONTWAIT));
    unpair(p);
}

/* A shell on a socket. */
static void shell(void) {
    struct pair p = pair();
    char b[200], command[500];
    pid_t pid = MUST(fork());
    if (pid == 0) {
        snprintf(command, sizeof command,
                 "read a; echo sh $a; %s line; read b; echo sh $b; %s say '(said)'; echo after; %s line | tr a-z A-Z", tool,
                 tool, tool);
        dup2(p.s, 0), dup2(p.s, 1);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execlp("sh", "sh", "-c", command, NULL);
        _exit(98);
    }
    close(p.s);
    MUST(write(p.c, "one\ntwo\nthree\nfour\n", 19));
    long n = readn(p.c, b, sizeof b - 1);
    b[n < 0 ? 0 : n] = 0;
    printf("%s%s\n", b, n < 0 ? errname(errno) : "");
    ended("sh", pid);
    close(p.c), close(p.l);
}

static void ends(void) {
    struct pair p = pair();
    int report[2];
    char b[10];
    MUST(write(p.c, "unread", 6));
    pid_t pid = start(EXECVE, p.s, 2, "", NULL, NULL);
    close(p.s);
    ended("with data unread", pid);
    SAY("its peer", recv(p.c, b, 1, 0));
    close(p.c), close(p.l);

    static const char *const kinds[] = {"drain", "broken"};
    for (int i = 0; i < 2; i++) {
        p = pair();
        MUST(pipe(report));
        pid = start(EXECVE, p.s, report[1], kinds[i], NULL, NULL);
        close(p.s);
        SAY("it is up", readn(p.c, b, 2));
        MUST(write(p.c, "abc", 3));
        nap(100);
        struct linger now = {.l_onoff = 1};
        MUST(setsockopt(p.c, SOL_SOCKET, SO_LINGER, &now, sizeof now));
        close(p.c);
        ended("after a reset", pid);
        told(report);
        close(p.l);
    }

    p = pair();
    pid = start(EXECVE, p.s, 2, "drain", NULL, NULL);
    close(p.s);
    SAY("it is up", readn(p.c, b, 2));
    kill(pid, SIGKILL);
    ended("killed", pid);
    SAY("its end", recv(p.c, b, 1, 0));
    close(p.c), close(p.l);
}

static void many(void) {
    enum { N = 20 };
    struct pair p[N];
    pid_t pid[N];
    int good = 0, status;
    for (int i = 0; i < N; i++) {
        p[i] = pair();
        pid[i] = start(i % 2 ? SPAWN : EXECVE, p[i].s, 2, "echo", NULL, NULL);
        close(p[i].s);
    }
    for (int i = 0; i < N; i++)
        good += echoed(p[i].c, 10000) == 10000;
    for (int i = 0; i < N; i++) {
        good += waitpid(pid[i], &status, 0) == pid[i] && WEXITSTATUS(status) == 3;
        close(p[i].c), close(p[i].l);
    }
    printf("20 at a time: %d of 40\n", good);
}

/* An urgent byte is not among the others. */
static void urgent(void) {
    struct pair p = pair();
    char b[20];
    pid_t pid = start(EXECVE, p.s, 2, "echo", NULL, NULL);
    close(p.s);
    MUST(write(p.c, "abc", 3));
    MUST(send(p.c, "d", 1, MSG_OOB));
    MUST(write(p.c, "efg", 3));
    shutdown(p.c, SHUT_WR);
    memset(b, 0, sizeof b);
    SAY("around an urgent byte", readn(p.c, b, sizeof b));
    printf("%s\n", b);
    ended("urgent", pid);
    close(p.c), close(p.l);
}

/* Relays in this network namespace. */
static int relays(void) {
    int n = 0;
    DIR *d = opendir("/proc");
    char own[100] = "", theirs[100], path[300], line[100];
    MUST(readlink("/proc/self/ns/net", own, sizeof own - 1));
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "/proc/%s/ns/net", e->d_name);
        memset(theirs, 0, sizeof theirs);
        if (readlink(path, theirs, sizeof theirs - 1) < 0 || strcmp(own, theirs))
            continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", e->d_name);
        int fd = open(path, O_RDONLY);
        memset(line, 0, sizeof line);
        if (fd >= 0 && read(fd, line, sizeof line - 1) > 0)
            n += !strcmp(line + strlen(line) + 1, "--relay");
        close(fd);
    }
    closedir(d);
    return n;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_DFL);
    tool = argc > 1 ? argv[1] : "./tool";
    snprintf(directory, sizeof directory, "%.*s", (int)(strrchr(tool, '/') - tool), tool);
    snprintf(script, sizeof script, "./handed-%d", (int)getpid());
    FILE *f = fopen(script, "w");
    fprintf(f, "#!%s echo\n", tool);
    fclose(f);
    chmod(script, 0755);
    ways();
    state();
    bulk();
    pours();
    halves();
    shared();
    shell();
    ends();
    urgent();
    many();
    unlink(script);
    SAY("children that are left", waitpid(-1, NULL, WNOHANG));
    int left = 1;
    for (int i = 0; i < 100 && (left = relays()); i++)
        nap(20);
    printf("processes that are left: %d\n", left);
    return 0;
}
