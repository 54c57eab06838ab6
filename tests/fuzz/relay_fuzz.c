/* A caller that lies, for the C of the relay alone. Built with its sources, usually under sanitizers.
 *
 *   relay_fuzz proxy SEED SECONDS     hostile frames, descriptors and ring indexes against real proxies
 *   relay_fuzz ring SEED SECONDS      corrupted rings against the reading end
 *   relay_fuzz policy SEED SECONDS    mutated requests against the policy of a proxy with a list
 *   relay_fuzz reach SEED SECONDS     generated policies and requests, and whether the kernel let anything out or in
 *   relay_fuzz filter                 the seccomp filter: what it lets through and what it kills for
 *
 * Prints nothing and exits 0 when all held; says what did not and exits 1 otherwise.
 */
#include "relay_client.h"
#include "relay_reach.h"
#include "policy.h"
#include "power.h"

/* ---- A hostile one ---------------------------------------------------------------------------------- */

enum { VICTIMS = 4, ACTIONS = 150 };

static int any_fd(void)
{
    int pair[2];

    switch (rnd(7)) {
    case 0:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 1:
        return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    case 2:
        return open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    case 3:
        return memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    case 4:
        return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
    case 5:
        if (pipe2(pair, O_CLOEXEC) < 0)
            return -1;
        close(pair[1]);
        return pair[0];
    default:
        return open("/", O_PATH | O_CLOEXEC);
    }
}

static int request_memfd(size_t size, int seals)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0 && seals != 0)
        (void)fcntl(fd, F_ADD_SEALS, seals);
    return fd;
}

static void fill(uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)rnd(256);
}

static uint32_t odd_number(void)
{
    static const uint32_t odd[] = {0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 253, 254, 255, 256, 1024, 1025, 4096, 65535,
                                   65536, 131072, 131073, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff};
    return rnd(3) == 0 ? rnd(0xffffffff) : odd[rnd(sizeof(odd) / sizeof(odd[0]))];
}

static void hostile_control(struct client *c)
{
    static uint8_t buf[4096];
    struct fns_request rq = {.op = rnd(12), .id = rnd(1000000) + 1000000000u, .chan = rnd(6) | (rnd(40) << 16),
                             .len = rnd(64), .a = (int32_t)odd_number(), .b = (int32_t)odd_number()};
    struct fns_open o = {.family = (int32_t)rnd(34), .flags = rnd(20), .portid = rnd(4) == 0 ? rnd(1000) : 0,
                         .groups = rnd(4) == 0 ? rnd(0xffffffff) : 0, .rcvbuf = odd_number(), .sndbuf = odd_number(),
                         .ring_size = rnd(2) ? odd_number() % (64u << 20) : odd_number(),
                         .name_len = rnd(3) == 0 ? odd_number() : 0, .spare = rnd(6) | (rnd(40) << 16)};
    int fds[3], count = (int)rnd(4);
    size_t len = sizeof(rq);

    fill(buf, sizeof(buf));
    if (rnd(4) == 0) {
        len = rnd(sizeof(buf));
    } else {
        if (rq.op == FNS_OPEN || rnd(8) == 0) {
            if (rnd(2)) {
                rq.op = FNS_OPEN;
                o.name_len %= 300;
                rq.len = (uint32_t)sizeof(o) + o.name_len;
            }
            memcpy(buf + sizeof(rq), &o, sizeof(o));
        }
        if (rnd(8) == 0)
            rq.len = odd_number();
        memcpy(buf, &rq, sizeof(rq));
        len = sizeof(rq) + (rq.len < 1200 ? rq.len : rnd(1200));
        if (rnd(8) == 0)
            len = rnd((uint32_t)len + 1);
    }
    for (int i = 0; i < count; i++)
        if ((fds[i] = any_fd()) < 0)
            count = i;
    (void)send_fds(c->control, buf, len, fds, count);
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

static void hostile_message(struct channel *ch)
{
    static uint8_t buf[300000];
    struct fns_message m = {.op = rnd(6), .len = rnd(4) == 0 ? odd_number() : rnd(2000),
                            .patches = rnd(3) == 0 ? odd_number() : rnd(4), .flags = rnd(4) == 0 ? odd_number() : rnd(2)};
    int fds[253], count = rnd(10) == 0 ? (int)rnd(254) : (int)rnd(4);
    size_t len;

    fill(buf, 4096);
    if (rnd(3) == 0)
        count = (int)(m.patches + (m.op == FNS_SEND_MEMFD)) % 253;
    for (int i = 0; i < count; i++) {
        fds[i] = i == 0 && m.op == FNS_SEND_MEMFD && rnd(4) != 0
            ? request_memfd(rnd(2) ? m.len % 3000000 : rnd(300000),
                            (rnd(3) ? F_SEAL_SHRINK : 0) | (rnd(3) ? F_SEAL_WRITE : 0) | (rnd(3) ? F_SEAL_GROW : 0))
            : any_fd();
        if (fds[i] < 0)
            count = i;
    }
    memcpy(buf, &m, sizeof(m));
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t offset = rnd(2) ? rnd(64) : odd_number();
        memcpy(buf + sizeof(m) + i * 4, &offset, sizeof(offset));
    }
    len = sizeof(m) + (m.patches < 254 ? m.patches * 4 : 0) + (m.op == FNS_SEND && m.len < 200000 ? m.len : 0);
    if (rnd(5) == 0)
        len = rnd((uint32_t)len + 1);
    if (rnd(20) == 0)
        len = 140000 + rnd(100000);
    (void)send_fds(ch->sock, buf, len, fds, count);
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

static void hostile_ring(struct channel *ch)
{
    struct fns_ring *ring = ch->map;
    uint64_t value = rnd(2) ? odd_number() : ((uint64_t)odd_number() << 32) | odd_number();

    if (rnd(2))
        value = atomic_load(&ring->head) + (rnd(2) ? rnd(4096) * 8u : 0u - rnd(4096) * 8u);
    switch (rnd(8)) {
    case 0:
        atomic_store(&ring->head, value);
        break;
    case 1:
        atomic_store(&ring->base, value);
        break;
    case 2: case 3:
        atomic_store(&ring->tail, value);
        break;
    case 4:
        atomic_store(&ring->bell, rnd(3));
        break;
    case 5:
        atomic_store(&ring->want, rnd(3));
        break;
    case 6:
        ring->size = value;
        break;
    default:
        for (int i = 0; i < 64; i++)
            ((uint8_t *)ch->map)[FNS_RING_HEADER + rnd((uint32_t)ch->reader.size)] = (uint8_t)rnd(256);
    }
}

static void honest_dump(struct channel *ch)
{
    struct { struct fns_message m; struct nlmsghdr h; struct rtmsg r; } dump = {
        {FNS_SEND, sizeof(struct nlmsghdr) + sizeof(struct rtmsg), 0, rnd(2)},
        {sizeof(struct nlmsghdr) + sizeof(struct rtmsg), rnd(2) ? RTM_GETROUTE : RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0},
        {.rtm_family = 0}};
    struct fns_message other = {.op = rnd(2) ? FNS_SPACE : FNS_RING_BELL};

    (void)send_fds(ch->sock, &dump, sizeof(dump), NULL, 0);
    if (rnd(3) == 0)
        (void)send_fds(ch->sock, &other, sizeof(other), NULL, 0);
    for (int i = 0; i < 40 && rnd(2); i++) {
        const uint8_t *payload;
        uint32_t len, type;
        if (fns_ring_next(&ch->reader, &payload, &len, &type) != 1)
            return;
        if (fns_ring_release(&ch->reader)) {
            other.op = FNS_SPACE;
            (void)send_fds(ch->sock, &other, sizeof(other), NULL, 0);
        }
    }
}

static void round_proxy(void)
{
    struct fns_config config = {.parent = getpid(), .max_channels = rnd(3) ? 8 + rnd(50) : 6, .families = 0xffffffffu};
    struct client c = {-1, 0, 0};
    struct channel witness, victims[VICTIMS];
    uint8_t buf[FNS_REPLY_MAX];
    int fds[2], status, before, reads = 1;

    config.flags = rnd(5) == 0 ? FNS_CONFIG_RESTRICTED : 0;
    config.flags |= rnd(5) == 0 ? FNS_CONFIG_READ_ONLY : 0;
    client_start(&c, &config);
    if (config.flags & FNS_CONFIG_RESTRICTED) {
        int nsfd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        for (uint32_t i = rnd(80); i > 0; i--) {
            char name[300];
            fill((uint8_t *)name, sizeof(name));
            (void)call(&c, rnd(2) ? FNS_ALLOW : rnd(8), 0, name, rnd(300), rnd(4) ? -1 : nsfd, buf, fds);
        }
        if (call(&c, FNS_ALLOW, 0, NULL, 0, nsfd, buf, fds) != 0 || call(&c, FNS_SEAL, 0, NULL, 0, -1, buf, fds) != 0
            || call(&c, FNS_ALLOW, 0, NULL, 0, nsfd, buf, fds) == 0)
            fail("the list");
        close(nsfd);
    }
    if (channel_open(&c, &witness, 1 << 20, 0) != 0)
        fail("no witness");
    for (int i = 0; i < VICTIMS; i++)
        victims[i].sock = -1;
    before = count_fds(c.pid);
    for (int action = 0; action < ACTIONS; action++) {
        struct channel *v = &victims[rnd(VICTIMS)];
        if (v->sock < 0 && channel_open(&c, v, rnd(2) ? 65536 : 1 << 22, rnd(2) ? 1 : 0) != 0)
            v->sock = -1;
        switch (rnd(9)) {
        case 0: case 1:
            hostile_control(&c);
            break;
        case 2: case 3: case 4:
            if (v->sock >= 0)
                hostile_message(v);
            break;
        case 5:
            if (v->sock >= 0)
                hostile_ring(v);
            break;
        case 6: case 7:
            if (v->sock >= 0)
                honest_dump(v);
            break;
        default:
            if (rnd(3) == 0)
                channel_close(v);
            else
                reads = (int)rnd(2);
        }
        if (reads) {
            struct fds got;
            while (fns_proxy_receive(c.control, buf, sizeof(buf), &got) > 0)
                fds_close(&got);
        }
        if (action % 10 == 9)
            witness_check(&witness);
    }
    for (int i = 0; i < VICTIMS; i++)
        channel_close(&victims[i]);
    for (int i = 0; i < 200; i++) {
        /* Channels that hostile requests opened went with the replies thrown away. */
        (void)call(&c, FNS_STATS, 0, NULL, 0, -1, buf, fds);
        if (count_fds(c.pid) <= before)
            break;
        usleep(5000);
    }
    if (count_fds(c.pid) > before)
        fail("descriptors left in the proxy");
    witness_check(&witness);
    channel_close(&witness);
    close(c.control);
    while (waitpid(c.pid, &status, __WALL) < 0 && errno == EINTR)
        ;
    if (status != 0)
        fail("the proxy did not end well");
}

/* ---- Parts without a process ------------------------------------------------------------------------ */

static void round_ring(void)
{
    size_t size = FNS_RING_MIN, len = FNS_RING_HEADER + size;
    uint8_t *map = aligned_alloc(4096, len);   /* a red zone behind it, under the sanitizer */
    struct fns_ring *ring = (struct fns_ring *)(void *)map;
    struct fns_reader reader;
    volatile uint32_t sum = 0;
    uint64_t at = 0;

    if (map == NULL)
        fail("memory");
    memset(map, 0, len);
    ring->magic = rnd(20) ? FNS_MAGIC : rnd(0xffffffff);
    ring->size = rnd(20) ? size : rnd(0xffffffff);
    while (at + 16 < size) {
        struct fns_record r = {rnd(20) == 0 ? odd_number() : rnd(3000), rnd(7)};
        memcpy(map + FNS_RING_HEADER + at, &r, sizeof(r));
        at += fns_ring_space(r.len) % size;
    }
    atomic_store(&ring->head, rnd(4) ? (at > size ? size : at) & ~7ull : odd_number());
    atomic_store(&ring->base, rnd(4) ? 0 : odd_number());
    if (fns_ring_attach(&reader, map, len) == 0) {
        if (rnd(2)) {
            reader.tail = rnd(0x10000) * 8u;
            atomic_store(&ring->head, reader.tail + (rnd(2) ? rnd((uint32_t)size) & ~7u : odd_number()));
            atomic_store(&ring->base, rnd(2) ? 0 : reader.tail - (rnd(4096) * 8u));
        }
        for (int i = 0; i < 2000; i++) {
            const uint8_t *payload;
            uint32_t n, type;
            if (fns_ring_next(&reader, &payload, &n, &type) != 1)
                break;
            for (uint32_t k = 0; k < n; k++)
                sum += payload[k];
            (void)fns_ring_release(&reader);
        }
    } else if (ring->magic == FNS_MAGIC && ring->size == size) {
        fail("a good ring was refused");
    }
    free(map);
}

static void round_policy(void)
{
    static const uint16_t kinds[] = {RTM_NEWLINK, RTM_SETLINK, RTM_GETLINK, RTM_NEWADDR, 88, 90, RTM_NEWROUTE,
                                     RTM_NEWQDISC, RTM_NEWTFILTER, RTM_NEWACTION, 20, 0xa06, 0xa09, 0xa0c, 0xa12};
    static const uint16_t types[] = {1, 1, 2, 2, 3, 4, 7, 9, 10, 11, 17, 18, 18, 19, 21, 22, 28, 37, 43, 46};
    static const uint8_t headers[] = {4, 4, 8, 12, 16, 16, 20, 20};
    static const char names[][8] = {"veth", "gtp", "htb", "u32", "basic", "flow", "mirred", "dynset", "counter"};
    uint32_t len = rnd(400), offset = rnd(400);
    struct fns_patches patches = {&offset, &(int){-1}, rnd(2)};
    uint8_t *data = malloc(len);

    if (data == NULL)
        fail("memory");
    fill(data, len);
    for (uint32_t at = 0; at + sizeof(struct nlmsghdr) <= len;) {
        struct nlmsghdr h = {16 + rnd(200), kinds[rnd(15)], NLM_F_REQUEST, 1, 0};
        if (h.nlmsg_len > len - at && rnd(4))
            h.nlmsg_len = len - at;
        memcpy(data + at, &h, sizeof(h));
        uint32_t header = h.nlmsg_type == RTM_NEWTFILTER ? 20 : headers[rnd(8)];
        int named = 0;
        for (uint32_t a = at + 16 + header; a + 4 <= len && a + 4 <= at + h.nlmsg_len;) {
            uint16_t type = named && rnd(4) ? 2 : types[rnd(20)];    /* behind a kind, its options */
            struct nlattr t = {(uint16_t)(4 + rnd(rnd(3) ? 40 : 200)), (uint16_t)(type | (rnd(3) ? 0 : 0x8000))};
            named = type == 1 && rnd(2) && a + 12 <= len;
            if (named) {
                t.nla_len = 12;
                memcpy(data + a + sizeof(t), names[rnd(9)], 8);
            }
            memcpy(data + a, &t, sizeof(t));
            a += rnd(4) && !named ? 4 : (t.nla_len + 3u) & ~3u;
        }
        at += (h.nlmsg_len + 3u) & ~3u;
        if (h.nlmsg_len < 16)
            break;
    }
    (void)fns_boundary_holds(rnd(2) ? NETLINK_ROUTE : rnd(2) ? NETLINK_NETFILTER : (int)rnd(20), data, len, &patches);
    free(data);
}

static int child_status(int (*body)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct failure f = {0, 0};
        if (fns_power_drop(&f) < 0)
            _exit(99);
        (void)syscall(SYS_exit, body());   /* exit_group is not in the filter */
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static int allowed_calls(void)
{
    struct sockaddr_nl name = {.nl_family = AF_NETLINK};
    int fd = fns_call_open("/dev/null", O_RDONLY | O_CLOEXEC), pair[2];
    int sock = fns_call_socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct pollfd p = {sock, POLLIN, 0};

    return fd < 0 || sock < 0 || fns_call_poll(&p, 1, 0) != 0 || fns_call_close(fd) < 0
        || fns_call_bind(sock, &name, sizeof(name)) < 0
        || fns_call_socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0
        || fns_call_send(pair[0], "x", 1, MSG_DONTWAIT) != 1;
}

static int call_write(void) { return (int)write(2, "", 0); }
static int call_getuid(void) { return (int)syscall(SYS_getuid); }
static int call_kill(void) { return kill(1, 0); }
static int call_execve(void) { return execl("/bin/true", "true", (char *)NULL); }
static int call_fork(void) { return (int)syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L); }
static int call_open_to_write(void) { return open("/dev/null", O_WRONLY); }
static int call_open_to_create(void) { return open("/tmp/relay_fuzz", O_RDONLY | O_CREAT, 0600); }
static int call_unix_socket(void) { return socket(AF_UNIX, SOCK_STREAM, 0); }
static int call_executable_memory(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}
static int call_mount_namespace(void) { return setns(0, CLONE_NEWNS); }
/* A datagram socket can be sent from to any address, and a socket of files is made by binding one. */
static int call_datagram_pair(void)
{
    int pair[2];

    return fns_call_socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair);
}
static int call_other_pair(void)
{
    int pair[2];

    return fns_call_socketpair(AF_TIPC, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}
static int call_send_to(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};

    return sendto(3, "", 1, MSG_DONTWAIT, (struct sockaddr *)&name, sizeof(name)) < 0;
}
static int call_bind_file(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/tmp/relay_fuzz"};

    return fns_call_bind(3, &name, sizeof(name));
}
static int call_connect(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};

    return connect(3, (struct sockaddr *)&name, sizeof(name));
}
static int call_protect(void) { return fns_call_mprotect(NULL, 0, PROT_READ | PROT_EXEC); }
static int call_ioctl(void) { return syscall(SYS_ioctl, 0, 0x5401, 0) < 0; }

static void check_filter(void)
{
    static int (*const forbidden[])(void) = {
        call_write, call_getuid, call_kill, call_execve, call_fork, call_open_to_write, call_open_to_create,
        call_unix_socket, call_executable_memory, call_mount_namespace, call_ioctl, call_datagram_pair, call_other_pair,
        call_send_to, call_bind_file, call_connect, call_protect};
    int status = child_status(allowed_calls);

    if (status != 0)
        fail("what the filter should let through");
    for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
        status = child_status(forbidden[i]);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS) {
            number_of_round = (int)i;
            fail("what the filter should kill for");
        }
    }
}

int main(int argc, char **argv)
{
    void (*body)(void);
    double end;

    if (argc == 2 && strcmp(argv[1], "filter") == 0) {
        check_filter();
        return 0;
    }
    if (argc != 4)
        return 2;
    body = strcmp(argv[1], "ring") == 0 ? round_ring
        : strcmp(argv[1], "policy") == 0 ? round_policy
        : strcmp(argv[1], "reach") == 0 ? round_reach : round_proxy;
    seed = strtoull(argv[2], NULL, 0);
    end = now() + atof(argv[3]);
    signal(SIGPIPE, SIG_IGN);
    do {
        state = (seed + (uint64_t)number_of_round) * 0x9e3779b97f4a7c15ull + 1;
        body();
        number_of_round++;
    } while (now() < end);
    return 0;
}
