/* What a call on a descriptor costs that is not TCP, in a process that has TCP sockets as well: nanoseconds a read. */
#include "t.h"

int main(void) {
    enum { CALLS = 1000000 };
    MUST(tcp());
    int zero = MUST(open("/dev/zero", O_RDONLY));
    struct timespec a, b;
    char c;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < CALLS; i++)
        if (read(zero, &c, 1) != 1)
            die("read");
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%.1f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / CALLS);
    return 0;
}
