/* What the caller sends through a channel's socket: requests for the kernel, and its words about ring and doorbell.
 * Everything is copied, checked and asked the policy about before it is used; the channel's insides stay channel.c's.
 * loop.c calls it when a channel's socket is readable, control.c for what was sent before an operation.
 */
#include "requests.h"
#include "policy.h"

#include <fcntl.h>
#include <linux/magic.h>

enum { MESSAGES = 16, TURNS = 64 };      /* together more than the buffer of a channel's socket has room for */

static void strict_set(const struct chan *c, int on)
{
    (void)fns_call_setsockopt(c->netlink, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
}

/* A copy of the request to the kernel, the caller's descriptors in it replaced by ours. -1: not the protocol. */
static int request_send(struct chan *c, const struct fns_message *m, uint8_t *data, const uint32_t *offsets,
                        const int *fd)
{
    struct fns_patches patches = {offsets, fd, m->patches};
    uint32_t len = m->len, end = 0;
    ssize_t sent;

    for (uint32_t i = 0; i < m->patches; i++) {
        uint32_t offset;
        int number = fd[i];
        memcpy(&offset, offsets + i, sizeof(offset));
        if (offset < end || len < sizeof(number) || offset > len - sizeof(number))
            return -1;           /* they ascend, or one could write over another */
        end = offset + (uint32_t)sizeof(number);
        memcpy(data + offset, &number, sizeof(number));
    }
    if (!fns_policy_allows_request(c->family, data, len, &patches)) {
        proxy.stats[FNS_STAT_REFUSED]++;
        fns_channel_report(c, FNS_ERROR, EACCES, FNS_AT_POLICY);
        return 0;
    }
    if (len > c->largest)
        c->largest = len;
    proxy.stats[FNS_STAT_REQUESTS]++;
    proxy.stats[FNS_STAT_REQUEST_BYTES] += len;
    if ((m->flags & FNS_STRICT) != 0)
        strict_set(c, 1);
    do
        sent = fns_call_send(c->netlink, data, len, MSG_NOSIGNAL);
    while (sent == -EINTR);
    if (sent < 0) {
        proxy.stats[FNS_STAT_SEND_ERRORS]++;
        fns_channel_report(c, FNS_ERROR, (int)-sent, FNS_AT_SENDTO);
    }
    if ((m->flags & FNS_STRICT) != 0)
        strict_set(c, 0);
    return 0;
}

/* The request is in a memfd. Only one that nobody can shrink: reading past its end would kill us. */
static int request_send_memfd(struct chan *c, const struct fns_message *m, const uint32_t *offsets, struct fds *fds)
{
    uint32_t len = m->len;
    struct stat st;
    struct statfs fs;
    uint8_t *data;
    int seals, result;

    if (fds->count != m->patches + 1 || len == 0 || len > FNS_REQUEST_MAX)
        return -1;
    seals = fns_call_fcntl(fds->fd[0], F_GET_SEALS, 0);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_WRITE) == 0)
        return -1;
    if (fns_call_fstat(fds->fd[0], &st) < 0 || st.st_size < (off_t)len)
        return -1;
    if (fns_call_fstatfs(fds->fd[0], &fs) < 0 || fs.f_type != TMPFS_MAGIC)   /* huge pages may be missing when touched */
        return -1;
    data = fns_call_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds->fd[0], 0);
    if (fns_call_is_error(data)) {
        fns_channel_report(c, FNS_ERROR, (int)-(intptr_t)data, FNS_AT_MMAP);
        return 0;
    }
    result = request_send(c, m, data, offsets, fds->fd + 1);
    (void)fns_call_munmap((uintptr_t)data, len);
    return result;
}

/* One message of a channel. 1: another may wait, 0: none, -1: not the protocol, -2: end of file. */
static int message_serve(struct chan *c, struct fds *fds)
{
    static union {
        struct fns_message head;
        uint8_t bytes[sizeof(struct fns_message) + FNS_FDS_MAX * sizeof(uint32_t) + FNS_INLINE_MAX];
    } inbox;
    ssize_t got = fns_proxy_receive(c->sock, inbox.bytes, sizeof(inbox.bytes), fds);
    size_t fixed;
    const uint32_t *offsets;
    struct fns_message m;

    if (got == -EAGAIN)
        return 0;
    if (got == -ECONNRESET)      /* the other end was closed with doorbells unread: told once, before what it sent */
        return 1;
    if (got == 0)
        return -2;
    if (got < (ssize_t)sizeof(m))
        return -1;
    m = inbox.head;
    if (m.patches > FNS_FDS_MAX || (m.flags & ~(uint32_t)FNS_MESSAGE_KNOWN) != 0)
        return -1;
    fixed = sizeof(m) + m.patches * sizeof(uint32_t);
    if ((size_t)got < fixed)
        return -1;
    offsets = (const uint32_t *)(inbox.bytes + sizeof(m));
    if (fds->cut) {
        fns_channel_report(c, FNS_ERROR, EMFILE, FNS_AT_RECVMSG);
        return fns_channel_pump(c) < 0 ? -1 : 1;
    }
    switch (m.op) {
    case FNS_SEND:
        if ((size_t)got - fixed != m.len || m.len == 0 || fds->count != m.patches)
            return -1;
        if (request_send(c, &m, inbox.bytes + fixed, offsets, fds->fd) < 0)
            return -1;
        break;
    case FNS_SEND_MEMFD:
        if ((size_t)got != fixed || request_send_memfd(c, &m, offsets, fds) < 0)
            return -1;
        break;
    case FNS_SPACE:
    case FNS_RING_BELL:
        if ((size_t)got != sizeof(m) || fds->count != 0)
            return -1;
        if (m.op == FNS_RING_BELL)
            fns_channel_ring(c);
        break;
    default:
        return -1;
    }
    return fns_channel_pump(c) < 0 ? -1 : 1;
}

int fns_requests_serve(struct chan *c)
{
    struct fds fds;
    int more = 1;

    for (int i = 0; i < MESSAGES && more == 1; i++) {
        more = message_serve(c, &fds);
        fds_close(&fds);
    }
    if (more < 0) {
        proxy.stats[FNS_STAT_REFUSED] += more == -1;
        fns_channel_close(c);
    }
    return more == 1;
}

void fns_requests_drain(struct chan *c)
{
    for (int i = 0; i < TURNS && c->sock >= 0 && fns_requests_serve(c); i++)
        ;
}

/* What was sent until now, and no more: a copy of the caller may go on for ever. */
void fns_requests_drain_all(void)
{
    for (uint32_t i = 0; i < proxy.high; i++) {
        if (proxy.chans[i].sock >= 0)
            (void)fns_call_shutdown(proxy.chans[i].sock, SHUT_RD);
        fns_requests_drain(&proxy.chans[i]);
    }
}

void fns_requests_sweep(struct chan *c)
{
    struct pollfd p = {c->sock, 0, 0};

    if (p.fd >= 0 && fns_call_poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0)
        while (c->sock >= 0)
            (void)fns_requests_serve(c);
}

void fns_requests_sweep_all(void)
{
    for (uint32_t i = 0; i < proxy.high; i++)
        fns_requests_sweep(&proxy.chans[i]);
}
