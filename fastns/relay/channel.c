/* A channel: its netlink socket, its socket to the caller, its ring, and all that moves from the one to the others.
 * It does not ask what is allowed and reads nothing the caller sends: requests.c and control.c do, then call this.
 * Called by them and by loop.c, in the proxy only.
 */
#include "channel.h"

#include <fcntl.h>
#include <linux/sockios.h>

enum { PUMP_DATAGRAMS = 128, PUMP_BYTES = 256 * 1024, BELL_BYTES = 64 * 1024, DATAGRAM_USUAL = 256 * 1024 };

static uint64_t chan_tag(const struct chan *c, uint32_t kind)
{
    return tag(kind, (uint32_t)(c - proxy.chans), c->generation);
}

/* ---- Opening and closing ---------------------------------------------------------------------------- */

static int buffer_resize(int sock, int force, int plain, uint32_t bytes, struct failure *f)
{
    int value = (int)(bytes > FNS_BUFFER_MAX ? FNS_BUFFER_MAX : bytes), err;

    if (bytes == 0 || fns_call_setsockopt(sock, SOL_SOCKET, force, &value, sizeof(value)) == 0)
        return 0;
    err = fns_call_setsockopt(sock, SOL_SOCKET, plain, &value, sizeof(value));
    return err < 0 ? failed(f, FNS_AT_SETSOCKOPT, -err) : 0;
}

static int option_enable(int sock, uint32_t flags, uint32_t flag, int option, struct failure *f)
{
    int on = 1, err = 0;

    if ((flags & flag) != 0)
        err = fns_call_setsockopt(sock, SOL_NETLINK, option, &on, sizeof(on));
    if (err == 0)
        return 0;
    if (err == -ENOPROTOOPT && (flag == FNS_OPEN_EXT_ACK || flag == FNS_OPEN_CAP_ACK))
        return 0;   /* an old kernel: answers are only less detailed */
    return failed(f, FNS_AT_SETSOCKOPT, -err);
}

/* The port id and groups of its netlink socket: 0, or -errno. */
int fns_channel_name(const struct chan *c, uint32_t *portid, uint32_t *groups)
{
    struct sockaddr_nl name = {0};
    socklen_t len = sizeof(name);
    int err = fns_call_getsockname(c->netlink, &name, &len);

    if (err < 0)
        return err;
    *portid = name.nl_pid;
    *groups = name.nl_groups;
    return 0;
}

int fns_channel_bind(const struct chan *c, uint32_t portid, uint32_t groups)
{
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = portid, .nl_groups = groups};

    return fns_call_bind(c->netlink, &name, sizeof(name));
}

static int chan_configure(const struct chan *c, const struct fns_open *o, struct failure *f)
{
    int err;

    if (buffer_resize(c->netlink, SO_RCVBUFFORCE, SO_RCVBUF, o->rcvbuf, f) < 0
        || buffer_resize(c->netlink, SO_SNDBUFFORCE, SO_SNDBUF, o->sndbuf, f) < 0
        || option_enable(c->netlink, o->flags, FNS_OPEN_EXT_ACK, NETLINK_EXT_ACK, f) < 0
        || option_enable(c->netlink, o->flags, FNS_OPEN_STRICT, NETLINK_GET_STRICT_CHK, f) < 0
        || option_enable(c->netlink, o->flags, FNS_OPEN_ALL_NSID, NETLINK_LISTEN_ALL_NSID, f) < 0
        || option_enable(c->netlink, o->flags, FNS_OPEN_CAP_ACK, NETLINK_CAP_ACK, f) < 0)
        return -1;
    err = fns_channel_bind(c, o->portid, o->groups);
    return err < 0 ? failed(f, FNS_AT_BIND, -err) : 0;
}

static int chan_watch(const struct chan *c, struct failure *f)
{
    int err = fns_proxy_watch(EPOLL_CTL_ADD, c->netlink, EPOLLIN, chan_tag(c, KIND_NETLINK));

    if (err == 0)
        err = fns_proxy_watch(EPOLL_CTL_ADD, c->sock, EPOLLIN | EPOLLRDHUP, chan_tag(c, KIND_CHANNEL));
    return err < 0 ? failed(f, FNS_AT_EPOLL, -err) : 0;
}

static struct chan *chan_free(void)
{
    for (uint32_t i = 0; i < proxy.high; i++)
        if (proxy.chans[i].sock < 0)
            return &proxy.chans[i];
    if (proxy.high == proxy.config.max_channels)
        return NULL;
    proxy.chans[proxy.high].sock = proxy.chans[proxy.high].netlink = -1;
    return &proxy.chans[proxy.high++];
}

void fns_channel_close(struct chan *c)
{
    close_fd(&c->sock);      /* closing takes both out of the epoll set: nobody else has these two */
    close_fd(&c->netlink);
    close_fd(&c->nsfd);
    fns_ring_spare(&c->ring, &proxy.spares, fns_channel_number(c));
    proxy.stats[FNS_STAT_CHANNELS]--;
}

/* A new channel around a netlink socket that is now its own. On success pair[] and *memfd are the caller's. */
struct chan *fns_channel_create(int netlink, const struct fns_open *o, int pair[2], int *memfd, struct failure *f)
{
    struct chan *c = chan_free();
    uint32_t portid, groups;
    int err;

    pair[0] = pair[1] = *memfd = -1;
    if (c == NULL) {
        failed(f, FNS_AT_LIMIT, EMFILE);
        (void)fns_call_close(netlink);
        return NULL;
    }
    memset(c, 0, sizeof(*c));
    c->netlink = netlink;
    c->sock = c->nsfd = -1;
    c->family = o->family;
    c->generation = ++proxy.generation;
    if (chan_configure(c, o, f) == 0) {
        if ((err = fns_channel_name(c, &portid, &groups)) < 0) {
            failed(f, FNS_AT_GETSOCKNAME, -err);
        } else if ((err = fns_call_socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) < 0) {
            failed(f, FNS_AT_SOCKETPAIR, -err);
        } else {
            c->portid = portid;
            if (fns_ring_get(&c->ring, &proxy.spares, o->spare, o->ring_size, memfd, f) == 0) {
                int size = 2 * (int)FNS_INLINE_MAX;
                c->sock = pair[0];
                pair[0] = -1;
                (void)fns_call_setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
                proxy.stats[FNS_STAT_CHANNELS]++;
                proxy.stats[FNS_STAT_OPENED]++;
                if (chan_watch(c, f) == 0)
                    return c;
                fns_channel_close(c);
            }
        }
    }
    close_fd(&c->netlink);
    close_fd(&pair[0]);
    close_fd(&pair[1]);
    close_fd(memfd);
    return NULL;
}

/* The open channel of that number, or NULL. */
struct chan *fns_channel_find(uint32_t number)
{
    uint32_t index = number & 0xffffu;

    if (index >= proxy.high || proxy.chans[index].sock < 0
        || (proxy.chans[index].generation & 0xffffu) != number >> 16)
        return NULL;
    return &proxy.chans[index];
}

/* The channel an event is about, or NULL when that was closed since. */
struct chan *fns_channel_tagged(uint64_t value)
{
    struct chan *c = &proxy.chans[tag_index(value)];

    return c->sock >= 0 && tag_is_of(value, c->generation) ? c : NULL;
}

/* A new descriptor of the namespace a channel is in, or -1 and *f, also when there is no channel (NULL). It was allowed
 * when that channel was opened, so it is now. */
int fns_channel_netns(const struct chan *c, struct failure *f)
{
    int fd;

    if (c == NULL)
        return failed(f, FNS_AT_PROTOCOL, EBADF);
    fd = c->nsfd >= 0 ? fns_call_fcntl(c->nsfd, F_DUPFD_CLOEXEC, 0) : fns_call_ioctl(c->netlink, SIOCGSKNS);
    return fd < 0 ? failed(f, FNS_AT_SKNS, -fd) : fd;
}

/* ---- From the kernel into the ring ------------------------------------------------------------------ */

static void bell_send(struct chan *c)
{
    proxy.stats[FNS_STAT_BELLS]++;
    /* No room means unread doorbells, and a dead caller is noticed by the loop. */
    (void)fns_call_send(c->sock, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void chan_bell(struct chan *c)
{
    if (fns_ring_answer(&c->ring))
        bell_send(c);
}

/* The doorbell, whether it was asked for or not. */
void fns_channel_ring(struct chan *c)
{
    fns_ring_quiet(&c->ring);
    bell_send(c);
}

static void chan_listen(const struct chan *c, uint32_t events)
{
    (void)fns_proxy_watch(EPOLL_CTL_MOD, c->netlink, events, chan_tag(c, KIND_NETLINK));
}

/* The ring is full. As fns_ring_await(). */
static int chan_stall(struct chan *c)
{
    int room = fns_ring_await(&c->ring);

    if (room == 0 && !c->stalled) {
        proxy.stats[FNS_STAT_STALLS]++;
        c->stalled = 1;
        chan_listen(c, 0);
    }
    return room;
}

/* An error record, as soon as there is room. */
void fns_channel_report(struct chan *c, uint32_t type, int err, uint32_t detail)
{
    /* The last one stands for all that find no room: the caller learns that something failed, and of a loss above all. */
    int full = c->pending == PENDING_MAX;
    uint32_t at = full ? PENDING_MAX - 1 : c->pending++;

    if (full && c->errors[at].type == FNS_OVERRUN) {
        if (type == FNS_OVERRUN)
            c->errors[at].error.detail += detail;
        return;
    }
    c->errors[at].type = type;
    c->errors[at].error.err = err;
    c->errors[at].error.detail = detail;
}

/* Error records into the ring, in order. 1 when all found room. */
static int pending_flush(struct chan *c)
{
    uint8_t done = 0;

    while (done < c->pending) {
        uint8_t *payload = fns_ring_reserve(&c->ring, sizeof(struct fns_error));
        if (payload == NULL)
            break;
        memcpy(payload, &c->errors[done].error, sizeof(struct fns_error));
        fns_ring_publish(&c->ring, payload, sizeof(struct fns_error), c->errors[done].type);
        done++;
    }
    if (done != 0) {
        c->pending = (uint8_t)(c->pending - done);
        memmove(c->errors, c->errors + done, c->pending * sizeof(c->errors[0]));
    }
    return c->pending == 0;
}

enum { NSID_SIZE = 4 };   /* behind a datagram from another namespace */

/* `nsid`: where the id of the other namespace a datagram came from goes, see NETLINK_LISTEN_ALL_NSID; or NULL. */
static ssize_t netlink_receive(struct chan *c, void *buf, size_t size, int flags, uint8_t *nsid, int *foreign)
{
    struct iovec iov = {buf, size};
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int32_t))]; } label;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t got;

    do {
        msg.msg_control = nsid != NULL ? label.bytes : NULL;
        msg.msg_controllen = nsid != NULL ? sizeof(label.bytes) : 0;
        got = fns_call_recvmsg(c->netlink, &msg, flags | MSG_DONTWAIT | MSG_TRUNC);
    } while (got == -EINTR);
    if (got >= 0 && nsid != NULL && msg.msg_controllen >= sizeof(label.bytes)) {
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg != NULL && cmsg->cmsg_level == SOL_NETLINK && cmsg->cmsg_type == NETLINK_LISTEN_ALL_NSID
            && cmsg->cmsg_len >= CMSG_LEN(sizeof(int32_t))) {
            memcpy(nsid, CMSG_DATA(cmsg), sizeof(int32_t));
            *foreign = 1;
        }
    }
    return got;
}

/* One datagram from the netlink socket into the ring: its size, 0 when the ring is full, or -errno. */
static ssize_t pump_one(struct chan *c)
{
    uint64_t usual = DATAGRAM_USUAL + c->largest;
    uint64_t room = fns_ring_room(&c->ring);
    uint8_t *payload, nsid[NSID_SIZE];
    int foreign = 0;
    ssize_t got;

    if (room < usual) {
        /* Not certain to fit: ask for the size first. */
        got = netlink_receive(c, NULL, 0, MSG_PEEK, NULL, NULL);
        if (got < 0)
            return got;
        if (fns_ring_space((uint64_t)got + NSID_SIZE) > c->ring.size) {
            uint8_t drop;
            fns_channel_report(c, FNS_TRUNCATED, EMSGSIZE, (uint32_t)got);
            (void)netlink_receive(c, &drop, sizeof(drop), 0, NULL, NULL);
            return got;
        }
        payload = fns_ring_reserve(&c->ring, (uint64_t)got + NSID_SIZE);
        if (payload == NULL)
            return 0;
        room = (uint64_t)got;
    } else {
        payload = fns_ring_reserve(&c->ring, room);
        room -= NSID_SIZE;
    }
    got = netlink_receive(c, payload, room, 0, nsid, &foreign);
    if (got < 0)
        return got;
    if ((uint64_t)got > room) {
        fns_channel_report(c, FNS_TRUNCATED, EMSGSIZE, (uint32_t)got);
    } else if (foreign) {
        memcpy(payload + got, nsid, NSID_SIZE);
        fns_ring_publish(&c->ring, payload, (uint32_t)got + NSID_SIZE, FNS_FOREIGN);
    } else {
        fns_ring_publish(&c->ring, payload, (uint32_t)got, FNS_DATA);
    }
    return got;
}

static void chan_gap(struct chan *c)
{
    fns_channel_report(c, FNS_OVERRUN, ENOBUFS, c->gap.missing);
}

static void chan_overrun(struct chan *c)
{
    proxy.stats[FNS_STAT_OVERRUNS]++;
    if (fns_gap_open(&c->gap, c->netlink))
        chan_gap(c);
}

/* epoll reports errors whether asked or not. Taken here, or a stalled channel would keep the loop awake. */
void fns_channel_error(struct chan *c)
{
    int err = 0;
    socklen_t len = sizeof(err);

    (void)fns_call_getsockopt(c->netlink, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err == ENOBUFS) {
        chan_overrun(c);
    } else if (err != 0) {
        fns_channel_report(c, FNS_ERROR, err, FNS_AT_RECVMSG);
    }
}

/* Everything the netlink socket holds into the ring, as far as it goes. -1: close the channel. */
int fns_channel_pump(struct chan *c)
{
    uint32_t datagrams = 0;
    uint64_t bytes = 0, rung = 0;
    int room = 1;

    if (fns_ring_update(&c->ring) < 0)
        return -1;
    for (;;) {
        ssize_t got;

        room = pending_flush(c);
        if (room) {
            if (datagrams >= PUMP_DATAGRAMS || bytes >= PUMP_BYTES)
                break;
            got = pump_one(c);
            if (got == -ENOBUFS) {
                chan_overrun(c);
                continue;
            }
            if (got == -EAGAIN) {
                if (!fns_gap_empty(&c->gap, c->netlink))
                    break;
                chan_gap(c);
                continue;
            }
            if (got < 0) {
                fns_channel_report(c, FNS_ERROR, (int)-got, FNS_AT_RECVMSG);
                (void)pending_flush(c);
                break;
            }
            if (got > 0) {
                datagrams++;
                bytes += (uint64_t)got;
                if (fns_gap_behind(&c->gap, c->netlink, (uint32_t)got))
                    chan_gap(c);
                if (bytes - rung >= BELL_BYTES) {
                    rung = bytes;
                    chan_bell(c);
                }
                continue;
            }
            room = 0;
        }
        switch (chan_stall(c)) {
        case 1:
            continue;
        case 0:
            break;
        default:
            return -1;
        }
        break;
    }
    if (room && c->stalled) {
        c->stalled = 0;
        chan_listen(c, EPOLLIN);
    }
    fns_ring_worked(&c->ring);
    proxy.stats[FNS_STAT_DATAGRAMS] += datagrams;
    proxy.stats[FNS_STAT_BYTES] += bytes;
    chan_bell(c);
    return 0;
}
