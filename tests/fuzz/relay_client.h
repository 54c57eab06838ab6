/* A client of the proxy in C, for the programs that test it without an interpreter. */
#include "ring.h"
#include "start.h"
#include "proxy.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;
static uint64_t seed;
static int number_of_round;

__attribute__((unused)) static uint32_t rnd(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below == 0 ? 0 : (uint32_t)(state >> 16) % below;
}

static void fail(const char *what)
{
    fprintf(stderr, "relay_fuzz: seed %llu round %d: %s (errno %d)\n", (unsigned long long)seed, number_of_round, what,
            errno);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- An honest client ------------------------------------------------------------------------------- */

struct client {
    int control;
    pid_t pid;
    uint32_t id;
};

struct channel {
    int sock;
    uint32_t number;
    void *map;
    size_t map_len;
    struct fns_reader reader;
};

static ssize_t send_fds(int sock, const void *data, size_t len, const int *fds, int count)
{
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int) * FNS_FDS_MAX)]; } c;
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (count > 0) {
        memset(&c, 0, sizeof(c));
        msg.msg_control = c.bytes;
        msg.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(h), fds, (size_t)count * sizeof(int));
    }
    return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The reply with that id into *reply, its payload after it; 0 when there is none in time. */
static int reply_get(struct client *c, uint32_t id, uint8_t *buf, int fds[2], int timeout_ms)
{
    double end = now() + timeout_ms / 1000.0;

    fds[0] = fds[1] = -1;
    for (;;) {
        struct fds got_fds;
        struct pollfd p = {c->control, POLLIN, 0};
        ssize_t got;
        struct fns_reply *reply = (struct fns_reply *)(void *)buf;
        int left = (int)((end - now()) * 1000);
        if (poll(&p, 1, left > 0 ? left : 0) <= 0)
            return 0;
        got = fns_proxy_receive(c->control, buf, FNS_REPLY_MAX, &got_fds);
        if (got == -EAGAIN)
            continue;
        if (got <= 0) {
            int status = 0;
            usleep(200000);
            (void)waitpid(c->pid, &status, __WALL | WNOHANG);
            fprintf(stderr, "relay_fuzz: wait status 0x%x\n", (unsigned int)status);
            fail("the proxy ended");
        }
        if (got < (ssize_t)sizeof(*reply) || (size_t)got != sizeof(*reply) + reply->len)
            fail("a reply of the wrong size");
        if (reply->id == id) {
            for (uint32_t i = 0; i < got_fds.count && i < 2; i++)
                fds[i] = got_fds.fd[i];
            return 1;
        }
        fds_close(&got_fds);
    }
}

static int call(struct client *c, uint32_t op, uint32_t chan, const void *data, uint32_t len, int fd, uint8_t *buf,
                int fds[2])
{
    uint8_t out[sizeof(struct fns_request) + FNS_OPT_MAX];
    struct fns_request rq = {.op = op, .id = ++c->id, .chan = chan, .len = len};
    double end = now() + 20;

    memcpy(out, &rq, sizeof(rq));
    if (len != 0)
        memcpy(out + sizeof(rq), data, len);
    while (send_fds(c->control, out, sizeof(rq) + len, &fd, fd >= 0) < 0) {
        uint8_t drop[FNS_REPLY_MAX];
        struct fds got;
        if (errno != EAGAIN || now() > end)
            fail("the control socket takes nothing");
        while (fns_proxy_receive(c->control, drop, sizeof(drop), &got) > 0)
            fds_close(&got);
        usleep(200);
    }
    if (!reply_get(c, rq.id, buf, fds, 20000))
        fail("no reply");
    return ((struct fns_reply *)(void *)buf)->err;
}

/* In the namespace of that descriptor. */
static int channel_open_in(struct client *c, struct channel *ch, int nsfd, uint32_t ring_size, uint32_t groups)
{
    uint8_t buf[FNS_REPLY_MAX];
    struct fns_open o = {.flags = FNS_OPEN_EXT_ACK, .ring_size = ring_size, .groups = groups, .rcvbuf = 1 << 20};
    struct fns_reply reply;
    int fds[2], err = call(c, FNS_OPEN, 0, &o, sizeof(o), nsfd, buf, fds);

    ch->sock = -1;
    if (err != 0)
        return err;
    memcpy(&reply, buf, sizeof(reply));
    ch->sock = fds[0];
    ch->number = reply.chan;
    ch->map_len = FNS_RING_HEADER + reply.size;
    ch->map = mmap(NULL, ch->map_len, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
    close(fds[1]);
    if (ch->map == MAP_FAILED || fns_ring_attach(&ch->reader, ch->map, ch->map_len) < 0)
        fail("a ring that cannot be attached");
    return 0;
}

__attribute__((unused)) static int channel_open(struct client *c, struct channel *ch, uint32_t ring_size, uint32_t groups)
{
    int nsfd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int err = channel_open_in(c, ch, nsfd, ring_size, groups);

    close(nsfd);
    return err;
}

static void channel_close(struct channel *ch)
{
    if (ch->sock < 0)
        return;
    close(ch->sock);
    ch->sock = -1;
    munmap(ch->map, ch->map_len);
}

/* A proxy that looks names up in the run directory and has said that it serves. */
__attribute__((unused)) static void client_start(struct client *c, struct fns_config *config)
{
    uint8_t buf[FNS_REPLY_MAX];
    int pair[2], fds[2];

    strcpy(config->run_dir, "/var/run/netns");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        fail("socketpair");
    config->control = pair[1];
    c->control = pair[0];
    c->pid = fns_start_fork(config);
    close(pair[1]);
    if (c->pid <= 0 || !reply_get(c, FNS_MAGIC, buf, fds, 20000) || ((struct fns_reply *)(void *)buf)->err != 0)
        fail("no proxy");
}

static const struct { struct fns_message m; struct nlmsghdr h; struct ifinfomsg i; } get_link = {
    {FNS_SEND, sizeof(struct nlmsghdr) + sizeof(struct ifinfomsg), 0, 0},
    {sizeof(struct nlmsghdr) + sizeof(struct ifinfomsg), RTM_GETLINK, NLM_F_REQUEST, 1, 0},
    {.ifi_index = 1}};

/* The honest channel is served whatever the others do. */
static void witness_check(struct channel *ch)
{
    double end = now() + 20;

    if (send_fds(ch->sock, &get_link, sizeof(get_link), NULL, 0) < 0)
        fail("the witness cannot send");
    for (;;) {
        const uint8_t *payload;
        uint32_t len, type;
        int got = fns_ring_next(&ch->reader, &payload, &len, &type);
        struct pollfd p = {ch->sock, POLLIN, 0};
        char byte;
        if (got < 0)
            fail("the witness's ring is corrupted");
        if (got == 1) {
            if (type != FNS_DATA || len < sizeof(struct nlmsghdr))
                fail("the witness got something else");
            (void)fns_ring_release(&ch->reader);
            return;
        }
        if (fns_ring_arm(&ch->reader))
            continue;
        if (now() > end)
            fail("the witness got nothing");
        if (poll(&p, 1, 1000) == 1 && recv(ch->sock, &byte, 1, MSG_DONTWAIT) == 0)
            fail("the witness's channel was closed");
    }
}

__attribute__((unused)) static int count_fds(pid_t pid)
{
    char path[64];
    int n = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    if (dir == NULL)
        fail("the proxy is gone");
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}
