/* Policies and requests against a proxy with a list, forked where it may not go; then the kernel is asked.
 *
 * Two namespaces: `in` is on the list, `out` is where the proxy was forked. `out` has marks: names and addresses.
 * Whatever is sent, no answer may hold a mark, and `out` is afterwards what it was.
 */
#include "boundary.h"

#include <linux/if_addr.h>
#include <linux/net_namespace.h>
#include <linux/pkt_cls.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

enum { REQUESTS = 150, OUT_NSID = 7, STATE_MAX = 1 << 20 };

static const char mark_name[] = "fnsmark";
static const uint8_t mark_address[] = {10, 222, 173, 190};
static const uint8_t mark_address6[] = {0x20, 0x01, 0x0d, 0xb8, 0xde, 0xad, 0, 0, 0, 0, 0, 0, 0, 0xad, 0xbe, 0xef};

/* ---- Requests --------------------------------------------------------------------------------------- */

struct writer {
    uint8_t bytes[4096];
    uint32_t len;
    uint32_t places[64];     /* values of attributes that take a descriptor */
    uint32_t place_count;
};

static void put(struct writer *w, const void *data, uint32_t len)
{
    if (w->len + len + 8 > sizeof(w->bytes))
        return;
    memset(w->bytes + w->len, 0, (len + 3u) & ~3u);
    memcpy(w->bytes + w->len, data, len);
    w->len += (len + 3u) & ~3u;
}

static uint32_t nest(struct writer *w, uint32_t type)
{
    struct nlattr attribute = {sizeof(attribute), (uint16_t)type};
    uint32_t at = w->len;

    put(w, &attribute, sizeof(attribute));
    return at;
}

static void unnest(struct writer *w, uint32_t at)
{
    uint16_t len = (uint16_t)(w->len - at);

    memcpy(w->bytes + at, &len, sizeof(len));
}

static void put_attribute(struct writer *w, uint32_t type, const void *data, uint32_t len)
{
    uint32_t at = nest(w, type);
    uint16_t size = (uint16_t)(sizeof(struct nlattr) + len);

    put(w, data, len);
    memcpy(w->bytes + at, &size, sizeof(size));
}

static uint32_t message_begin(struct writer *w, uint32_t type, uint32_t flags, uint32_t header)
{
    static const uint8_t zeros[32];
    struct nlmsghdr h = {0, (uint16_t)type, (uint16_t)(NLM_F_REQUEST | flags), 1, 0};
    uint32_t at = w->len;

    put(w, &h, sizeof(h));
    put(w, zeros, header);
    return at;
}

static void message_end(struct writer *w, uint32_t at)
{
    uint32_t len = w->len - at;

    memcpy(w->bytes + at, &len, sizeof(len));
}

/* An attribute that names a namespace in one of the ways, or something else. */
static void any_attribute(struct writer *w, int depth)
{
    static const char *const kinds[] = {"veth", "vxcan", "netkit", "gtp", "ppp", "dummy", "vlan", "fnsnew"};
    int32_t value;
    uint32_t at, inner;
    struct ifinfomsg peer = {.ifi_family = 0};

    switch (rnd(depth > 2 ? 5 : 8)) {
    case 0: case 1:          /* a descriptor: to be patched, or guessed */
        value = (int32_t)rnd(24);
        at = rnd(3) ? IFLA_NET_NS_FD : NETNSA_FD;
        if (w->place_count < 64 && w->len + 16 < sizeof(w->bytes))
            w->places[w->place_count++] = w->len + (uint32_t)sizeof(struct nlattr);
        put_attribute(w, at | (rnd(4) ? 0 : 0x8000), &value, rnd(8) ? sizeof(value) : rnd(4));
        break;
    case 2:                  /* an id, or a process */
        value = rnd(3) ? OUT_NSID : (int32_t)getpid();
        at = rnd(3) ? (uint32_t[]){IFLA_NET_NS_PID, 37, 46, 10, 2, 4}[rnd(6)] : 1 + rnd(80);
        put_attribute(w, at, &value, sizeof(value));
        break;
    case 3:
        put_attribute(w, IFLA_IFNAME, (const char *[]){"fnsx0", "fnsx1", "lo\0\0\0"}[rnd(3)], rnd(2) ? 6 : 3);
        break;
    case 4:
        value = (int32_t)rnd(0xffffffff);
        put_attribute(w, rnd(75), &value, rnd(5));
        break;
    case 5: case 6:          /* a link of a kind, whose peer is one as well */
        at = nest(w, IFLA_LINKINFO | (rnd(2) ? 0 : 0x8000));
        for (uint32_t i = 1 + (rnd(6) == 0); i > 0; i--) {
            const char *kind = kinds[rnd(3) ? rnd(2) : rnd(8)];
            put_attribute(w, IFLA_INFO_KIND, kind, (uint32_t)strlen(kind) + rnd(2));
        }
        inner = nest(w, IFLA_INFO_DATA);
        {
            uint32_t link = nest(w, rnd(8) ? VETH_INFO_PEER : rnd(5));
            put(w, &peer, sizeof(peer));
            for (uint32_t i = rnd(4); i > 0; i--)
                any_attribute(w, depth + 1);
            unnest(w, link);
        }
        unnest(w, inner);
        unnest(w, at);
        break;
    default:
        at = nest(w, rnd(70));
        any_attribute(w, depth + 1);
        unnest(w, at);
    }
    if (rnd(60) == 0 && w->len > 40)
        w->bytes[rnd(w->len)] = (uint8_t)rnd(256);
}

/* A kind of traffic, its options, and in them a list of actions at a place that is one for some kinds of filter. */
static void any_traffic(struct writer *w)
{
    static const char *const kinds[] = {"htb", "prio", "teql0", "atm", "u32", "basic", "bpf", "fnsnew"};
    static const char *const actions[] = {"mirred", "gact", "simple", "bpf", "ipt", "fnsnew"};
    uint32_t options, list, at;

    for (uint32_t i = rnd(6) ? 1 : rnd(3); i > 0; i--) {
        const char *kind = kinds[rnd(8)];
        put_attribute(w, TCA_KIND, kind, (uint32_t)strlen(kind) + rnd(2));
    }
    options = nest(w, rnd(6) ? TCA_OPTIONS : TCA_KIND);
    list = nest(w, 1 + rnd(11));
    for (uint32_t i = rnd(4); i > 0; i--) {
        const char *kind = actions[rnd(6)];
        at = nest(w, i | (rnd(2) ? 0 : 0x8000));
        put_attribute(w, TCA_ACT_KIND, kind, (uint32_t)strlen(kind) + rnd(2));
        any_attribute(w, 2);
        unnest(w, at);
    }
    unnest(w, list);
    unnest(w, options);
}

static void any_message(struct writer *w)
{
    static const struct tcmsg root = {.tcm_ifindex = 1, .tcm_parent = TC_H_ROOT, .tcm_info = 3 << 8};
    static const uint8_t headers[] = {16, 16, 16, 8, 8, 4, 12, 20, 1, 0};
    static const uint8_t types[] = {16, 16, 16, 18, 19, 20, 22, 58, 62, 88, 90, 108, 24, 36, 40, 44, 48, 100, 104};
    uint32_t type = rnd(3) ? types[rnd(sizeof(types))] : rnd(140);
    uint32_t flags = rnd(2) ? NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL : rnd(2) ? NLM_F_DUMP : NLM_F_ACK;
    uint32_t header = headers[rnd(10)], at, group = type & ~3u;
    int traffic = (group >= RTM_NEWQDISC && group <= RTM_NEWACTION) || group == RTM_NEWCHAIN;

    if (rnd(4))
        header = group == 16 || group == 108 ? 16 : group == 20 || group == 56 || group == 60 || group == 104 ? 8
            : group == 88 || group == RTM_NEWACTION ? 4 : traffic ? sizeof(root) : 12;
    at = message_begin(w, type, flags, header);
    if (header == sizeof(root))
        memcpy(w->bytes + at + sizeof(struct nlmsghdr), &root, sizeof(root));
    if (header >= 4)
        w->bytes[at + sizeof(struct nlmsghdr)] = (uint8_t)(rnd(2) ? 0 : rnd(2) ? AF_INET6 : rnd(130));
    for (uint32_t i = rnd(5); i > 0; i--)
        traffic ? any_traffic(w) : any_attribute(w, 0);
    message_end(w, at);
    if (rnd(40) == 0)
        w->bytes[at + rnd(4)] = (uint8_t)rnd(256);
}

static void place_put(struct writer *w, uint32_t type)
{
    int32_t value = (int32_t)rnd(24);

    w->places[w->place_count++] = w->len + (uint32_t)sizeof(struct nlattr);
    put_attribute(w, type, &value, sizeof(value));
}

/* One that the kernel would do, and that reaches the other namespace if its descriptor or its id is let through. */
static void good_message(struct writer *w)
{
    static const uint8_t told[] = {RTM_GETADDR, RTM_GETMULTICAST, RTM_GETANYCAST, RTM_GETLINK};
    struct ifinfomsg link = {.ifi_family = 0};
    uint32_t at, info, data, peer, which = rnd(4);
    int32_t id = OUT_NSID;
    char name[IFNAMSIZ];

    switch (rnd(3)) {
    case 0:
        at = message_begin(w, told[which], NLM_F_DUMP, told[which] == RTM_GETLINK ? 16 : 8);
        w->bytes[at + sizeof(struct nlmsghdr)] = (uint8_t)(told[which] == RTM_GETLINK ? 0 : rnd(2) ? AF_INET : AF_INET6);
        put_attribute(w, told[which] == RTM_GETLINK ? 46 : 10, &id, sizeof(id));
        break;
    case 1:
        at = message_begin(w, 88, NLM_F_ACK, 4);
        place_put(w, NETNSA_FD);
        id = (int32_t)rnd(100);
        put_attribute(w, NETNSA_NSID, &id, sizeof(id));
        break;
    default:
        at = message_begin(w, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, sizeof(link));
        put_attribute(w, IFLA_IFNAME, name, (uint32_t)snprintf(name, sizeof(name), "fnsa%u", rnd(1000000)) + 1);
        if (rnd(2))
            place_put(w, IFLA_NET_NS_FD);
        info = nest(w, IFLA_LINKINFO);
        put_attribute(w, IFLA_INFO_KIND, "veth", 5);
        data = nest(w, IFLA_INFO_DATA);
        peer = nest(w, VETH_INFO_PEER);
        put(w, &link, sizeof(link));
        put_attribute(w, IFLA_IFNAME, name, (uint32_t)snprintf(name, sizeof(name), "fnsb%u", rnd(1000000)) + 1);
        if (rnd(2))
            place_put(w, IFLA_NET_NS_FD);
        unnest(w, peer);
        unnest(w, data);
        unnest(w, info);
    }
    message_end(w, at);
}

/* Sends it with descriptors of either namespace at its places, or beside, or overlapping. */
static void request_send_odd(struct channel *ch, const struct writer *w, int in, int out)
{
    struct { struct fns_message m; uint32_t rest[FNS_FDS_MAX + sizeof(w->bytes) / 4]; } frame;
    int fds[FNS_FDS_MAX];
    uint32_t count = 0;

    for (uint32_t i = 0; i < w->place_count && count < 60; i++) {
        uint32_t place = w->places[i];
        if (rnd(12) == 0)
            continue;
        if (rnd(12) == 0)
            place += rnd(9) - 4;
        fds[count] = rnd(16) ? in : out;
        frame.rest[count++] = place;
        if (rnd(24) == 0) {
            fds[count] = in;
            frame.rest[count++] = place - 1;
        }
    }
    frame.m = (struct fns_message){FNS_SEND, w->len, count, rnd(2) ? FNS_STRICT : 0};
    memcpy(frame.rest + count, w->bytes, w->len);
    (void)send_fds(ch->sock, &frame, sizeof(frame.m) + count * 4 + w->len, fds, (int)count);
}

/* ---- The two namespaces ----------------------------------------------------------------------------- */

static int kernel_socket(void)
{
    struct timeval patience = {20, 0};
    int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        fail("a socket of routes");
    return sock;
}

static void kernel_do(int sock, struct writer *w)
{
    union { struct nlmsghdr h; uint8_t bytes[8192]; } answer;
    int err;

    if (send(sock, w->bytes, w->len, 0) < 0 || recv(sock, &answer, sizeof(answer), 0) < 20)
        fail("the kernel does not answer");
    memcpy(&err, NLMSG_DATA(&answer.h), sizeof(err));
    if (answer.h.nlmsg_type != NLMSG_ERROR || err != 0) {
        errno = -err;
        fail("the namespaces cannot be made");
    }
    w->len = 0;
}

/* Names, addresses and sizes of what is there, without counters and what comes with time. */
static uint32_t state_of(int sock, uint8_t *into)
{
    static const struct { uint8_t type, header; } dumps[] = {{RTM_GETLINK, 16}, {RTM_GETADDR, 8}, {RTM_GETROUTE, 12},
                                                           {RTM_GETRULE, 12}, {90, 4}, {RTM_GETQDISC, 20}};
    static union { struct nlmsghdr h; uint8_t bytes[65536]; } answer;
    uint32_t len = 0;

    for (size_t i = 0; i < sizeof(dumps) / sizeof(dumps[0]); i++) {
        struct writer w = {.len = 0};
        int done = 0;
        message_end(&w, message_begin(&w, dumps[i].type, NLM_F_DUMP, dumps[i].header));
        w.bytes[sizeof(struct nlmsghdr)] = dumps[i].type == RTM_GETLINK || dumps[i].type == 90 ? 0 : AF_INET;
        if (send(sock, w.bytes, w.len, 0) < 0)
            fail("a dump");
        while (!done) {
            ssize_t got = recv(sock, &answer, sizeof(answer), 0);
            if (got < 0)
                fail("a dump without an end");
            for (struct nlmsghdr *h = &answer.h; NLMSG_OK(h, (uint32_t)got) && !done; h = NLMSG_NEXT(h, got)) {
                uint32_t rest = (uint32_t)h->nlmsg_len - (uint32_t)sizeof(*h) - dumps[i].header;
                done = h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR;
                for (struct rtattr *a = (struct rtattr *)(void *)((uint8_t *)(h + 1) + dumps[i].header);
                     !done && RTA_OK(a, rest); a = RTA_NEXT(a, rest)) {
                    /* IFLA_IFNAME, _MTU, _ADDRESS; IFA_ADDRESS, _LOCAL, _LABEL; RTA_DST, _OIF; NETNSA_NSID; TCA_KIND */
                    if (a->rta_type > 4 || len + a->rta_len > STATE_MAX)
                        continue;
                    memcpy(into + len, a, a->rta_len);
                    len += a->rta_len;
                }
            }
        }
    }
    return len;
}

static int namespace_new(void)
{
    int fd;

    if (unshare(CLONE_NEWNET) < 0 || (fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) < 0)
        fail("a new namespace");
    return fd;
}

static void link_up_named(int sock, const char *name)
{
    struct writer w = {.len = 0};
    uint32_t at = message_begin(&w, RTM_NEWLINK, NLM_F_ACK, 16);
    struct ifinfomsg link = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP, .ifi_index = (int)if_nametoindex(name)};

    memcpy(w.bytes + sizeof(struct nlmsghdr), &link, sizeof(link));
    message_end(&w, at);
    kernel_do(sock, &w);
}

/* The namespace that is out of reach, entered; its marks are set. */
static int namespace_out(int *sock)
{
    struct writer w = {.len = 0};
    int fd = namespace_new();
    uint32_t at = message_begin(&w, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE, 16), info, data, peer;
    struct ifinfomsg link = {.ifi_family = 0};
    struct ifaddrmsg address = {AF_INET, 24, 0, 0, 0};

    *sock = kernel_socket();
    put_attribute(&w, IFLA_IFNAME, "fnsmark0", 9);
    info = nest(&w, IFLA_LINKINFO);
    put_attribute(&w, IFLA_INFO_KIND, "veth", 5);
    data = nest(&w, IFLA_INFO_DATA);
    peer = nest(&w, VETH_INFO_PEER);
    put(&w, &link, sizeof(link));
    put_attribute(&w, IFLA_IFNAME, "fnsmark1", 9);
    unnest(&w, peer);
    unnest(&w, data);
    unnest(&w, info);
    message_end(&w, at);
    kernel_do(*sock, &w);
    link_up_named(*sock, "fnsmark0");
    link_up_named(*sock, "fnsmark1");
    address.ifa_index = if_nametoindex("fnsmark0");
    for (int six = 0; six < 2; six++) {
        const void *mark = six ? mark_address6 : mark_address;
        uint32_t len = six ? sizeof(mark_address6) : sizeof(mark_address);
        address.ifa_family = six ? AF_INET6 : AF_INET;
        address.ifa_flags = six ? IFA_F_NODAD : 0;
        at = message_begin(&w, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, sizeof(address));
        memcpy(w.bytes + sizeof(struct nlmsghdr), &address, sizeof(address));
        put_attribute(&w, IFA_LOCAL, mark, len);
        put_attribute(&w, IFA_ADDRESS, mark, len);
        message_end(&w, at);
        kernel_do(*sock, &w);
    }
    return fd;
}

/* The namespace of the list, with an id for the other one in it. */
static int namespace_in(int out)
{
    struct writer w = {.len = 0};
    int fd = namespace_new(), sock = kernel_socket();
    int32_t id = OUT_NSID;
    uint32_t at = message_begin(&w, 88, NLM_F_ACK, 4);

    put_attribute(&w, NETNSA_FD, &out, sizeof(out));
    put_attribute(&w, NETNSA_NSID, &id, sizeof(id));
    message_end(&w, at);
    kernel_do(sock, &w);
    link_up_named(sock, "lo");
    close(sock);
    if (setns(out, CLONE_NEWNET) < 0)
        fail("no way back");
    return fd;
}

/* ---- A round ---------------------------------------------------------------------------------------- */

static int holds_mark(const uint8_t *data, uint32_t len)
{
    return memmem(data, len, mark_name, strlen(mark_name)) != NULL
        || memmem(data, len, mark_address, sizeof(mark_address)) != NULL
        || memmem(data, len, mark_address6 + 12, 4) != NULL || memmem(data, len, mark_address6, 6) != NULL
        || memmem(data, len, "\xff\xad\xbe\xef", 4) != NULL;
}

static void answers_check(struct channel *ch)
{
    struct fns_message space = {.op = FNS_SPACE};
    const uint8_t *payload;
    uint32_t len, type;

    while (fns_ring_next(&ch->reader, &payload, &len, &type) == 1) {
        if (type == FNS_DATA && holds_mark(payload, len))
            fail("a mark of the other namespace was told");
        if (fns_ring_release(&ch->reader))
            (void)send_fds(ch->sock, &space, sizeof(space), NULL, 0);
    }
}

static void round_reach(void)
{
    static uint8_t before[STATE_MAX], after[STATE_MAX];
    struct fns_config config = {.parent = getpid(), .max_channels = 8, .families = 1 | rnd(0xffffffff),
                                .flags = FNS_CONFIG_RESTRICTED | (rnd(8) ? 0u : FNS_CONFIG_READ_ONLY)};
    struct client c = {-1, 0, 0};
    struct channel ch = {.sock = -1}, witness;
    uint8_t buf[FNS_REPLY_MAX];
    int fds[2], status, sock, home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int out = namespace_out(&sock), in = namespace_in(out);
    uint32_t len = state_of(sock, before);

    client_start(&c, &config);
    if (call(&c, FNS_ALLOW, 0, NULL, 0, in, buf, fds) != 0 || call(&c, FNS_SEAL, 0, NULL, 0, -1, buf, fds) != 0)
        fail("the list");
    if (channel_open_in(&c, &witness, out, 1 << 20, 0) != EACCES)
        fail("a channel outside the list");
    if (channel_open_in(&c, &witness, in, 1 << 20, 0) != 0)
        fail("no witness");
    for (int i = 0; i < REQUESTS; i++) {
        struct writer w = {.len = 0};
        if (ch.sock < 0 && (errno = channel_open_in(&c, &ch, in, 1 << 20, rnd(2) ? 0x0fffffff : 0)) != 0)
            fail("no channel");
        for (uint32_t n = 1 + (rnd(6) == 0); n > 0; n--)
            rnd(5) ? any_message(&w) : good_message(&w);
        request_send_odd(&ch, &w, in, out);
        if (rnd(12) == 0) {
            /* An answer shows that the requests before it are done. */
            (void)call(&c, FNS_GETSOCKNAME, ch.number, NULL, 0, -1, buf, fds);
            answers_check(&ch);
            if (rnd(2) || ((struct fns_reply *)(void *)buf)->err != 0)
                channel_close(&ch);
        }
    }
    if (ch.sock >= 0) {
        (void)call(&c, FNS_GETSOCKNAME, ch.number, NULL, 0, -1, buf, fds);
        answers_check(&ch);
    }
    channel_close(&ch);
    channel_close(&witness);
    close(c.control);
    while (waitpid(c.pid, &status, __WALL) < 0 && errno == EINTR)
        ;
    if (status != 0)
        fail("the proxy did not end well");
    if (state_of(sock, after) != len || memcmp(before, after, len) != 0)
        fail("the other namespace was changed");
    close(sock);
    if (setns(home, CLONE_NEWNET) < 0)
        fail("no way home");
    close(in);
    close(out);
    close(home);
}
