/* The proxy process: its channels and its loop. See relay.h for what the two sides say to each other.
 *
 * The caller is hostile as far as this file is concerned; the kernel is not.
 */
#include "proxy.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif
#ifndef MADV_REMOVE
#define MADV_REMOVE 9
#endif

enum { PUMP_DATAGRAMS = 128, PUMP_BYTES = 256 * 1024, BELL_BYTES = 64 * 1024 };
enum { BELL_RUNG = 2 };   /* fns_ring.bell; the caller writes 1 when it does not wait any more */
enum { RESET_BYTES = 16 * 1024, TRIM_BYTES = 1024 * 1024, TRIM_ALIGN = 64 * 1024 };
enum { DATAGRAM_USUAL = 256 * 1024, EVENTS = 64, MESSAGES = 16, SPARES = 4 };

struct fns_proxy proxy;
union fns_control control;

static union {
    struct fns_message head;
    uint8_t bytes[sizeof(struct fns_message) + FNS_FDS_MAX * sizeof(uint32_t) + FNS_INLINE_MAX];
} inbox;

/* recvmsg with its descriptors. Bytes, 0 at end of file, -errno; -EMSGSIZE when the message was cut off. */
ssize_t fns_receive(int sock, void *buf, size_t size, struct fds *fds)
{
    struct iovec iov = {buf, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t got;

    fds->count = 0;
    fds->cut = 0;
    do
        got = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(0)) {
            size_t bytes = c->cmsg_len - CMSG_LEN(0);
            if (bytes > sizeof(fds->fd))
                bytes = sizeof(fds->fd);
            memcpy(fds->fd, CMSG_DATA(c), bytes);
            fds->count = (uint32_t)(bytes / sizeof(int));
        }
    }
    fds->cut = (msg.msg_flags & MSG_CTRUNC) != 0;
    return (msg.msg_flags & MSG_TRUNC) != 0 ? -EMSGSIZE : got;
}

/* ---- The ring --------------------------------------------------------------------------------------- */

/* The rings of the channels closed last, for the next ones: making a ring and mapping it on both sides is a third of
 * what opening and closing a channel costs. The caller had them mapped before, so it learns nothing new from them. */
static struct { void *map; uint64_t size; uint32_t number; } spares[SPARES];
static uint32_t spares_next;

void fns_ring_start(struct chan *c, void *map, uint64_t size)
{
    c->ring = map;
    c->data = (uint8_t *)map + FNS_RING_HEADER;
    c->size = size;
    memset(c->ring, 0, sizeof(*c->ring));
    c->ring->magic = FNS_MAGIC;
    c->ring->size = size;
    atomic_store(&c->ring->bell, 1);
}

/* Gives the pages of a burst back. */
static void ring_trim(struct chan *c)
{
    if (c->high >= TRIM_BYTES) {
        uint64_t keep = TRIM_ALIGN, end = c->high & ~(uint64_t)(TRIM_ALIGN - 1);
        (void)madvise((uint8_t *)c->ring + keep, end - keep, MADV_REMOVE);
        c->high = 0;
    }
}

static void ring_spare(struct chan *c)
{
    uint32_t at = spares_next++ % SPARES;

    ring_trim(c);
    if (spares[at].map != NULL)
        munmap(spares[at].map, FNS_RING_HEADER + spares[at].size);
    spares[at].map = c->ring;
    spares[at].size = c->size;
    spares[at].number = chan_number(c);
    c->ring = NULL;
}

/* Gives c the ring of that closed channel. 0: there is none of that size. */
int fns_ring_again(struct chan *c, uint32_t number, uint64_t size)
{
    for (uint32_t i = 0; i < SPARES; i++) {
        if (spares[i].map != NULL && spares[i].number == number && spares[i].size == size) {
            fns_ring_start(c, spares[i].map, size);
            spares[i].map = NULL;
            return 1;
        }
    }
    return 0;
}

/* Reads how far the caller has come. 0, or -1 when that is nowhere it could be. */
static int ring_update(struct chan *c)
{
    uint64_t tail = atomic_load_explicit(&c->ring->tail, memory_order_acquire);

    if (tail - c->tail > c->head - c->tail || (tail & 7u) != 0)
        return -1;
    c->tail = tail;
    if (tail != c->head)
        return 0;
    /* Empty. Such bursts may go on, and a new page costs more than what is copied into it. */
    if (c->head - c->emptied[1] < c->high / 4)
        ring_trim(c);
    c->emptied[1] = c->emptied[0];
    c->emptied[0] = c->head;
    if (c->head - c->base >= RESET_BYTES) {
        /* Start again at the first page. */
        c->base = c->head;
        atomic_store_explicit(&c->ring->base, c->base, memory_order_relaxed);
    }
    return 0;
}

/* Room for a record with len bytes of payload, in one piece: where its payload goes, or NULL. */
static uint8_t *ring_reserve(struct chan *c, uint64_t len)
{
    uint64_t space = record_space(len);
    uint64_t offset = (c->head - c->base) & (c->size - 1);
    uint64_t room = c->size - (c->head - c->tail);
    uint64_t to_end = c->size - offset;

    if (space > to_end) {
        struct fns_record skip = {(uint32_t)(to_end - sizeof(skip)), FNS_SKIP};
        if (to_end + space > room)
            return NULL;
        memcpy(c->data + offset, &skip, sizeof(skip));
        c->head += to_end;   /* published together with the record that follows */
        offset = 0;
        c->high = c->size;
    } else if (space > room) {
        return NULL;
    }
    return c->data + offset + sizeof(struct fns_record);
}

/* The largest payload ring_reserve() gives without a skip. */
static uint64_t ring_contiguous(const struct chan *c)
{
    uint64_t to_end = c->size - ((c->head - c->base) & (c->size - 1));
    uint64_t room = c->size - (c->head - c->tail);
    uint64_t space = room < to_end ? room : to_end;

    return space < sizeof(struct fns_record) ? 0 : space - sizeof(struct fns_record);
}

static void ring_publish(struct chan *c, uint8_t *payload, uint32_t len, uint32_t type)
{
    struct fns_record record = {len, type};

    memcpy(payload - sizeof(record), &record, sizeof(record));
    c->head += record_space(len);
    if (c->head - c->base < c->size && c->head - c->base > c->high)
        c->high = c->head - c->base;
    atomic_store_explicit(&c->ring->head, c->head, memory_order_release);
}

static void bell_send(struct chan *c)
{
    proxy.stats[FNS_STAT_BELLS]++;
    /* No room means unread doorbells, and a dead caller is noticed by the loop. */
    (void)send(c->sock, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void chan_bell(struct chan *c)
{
    uint32_t asked = 0, rung = BELL_RUNG;

    atomic_thread_fence(memory_order_seq_cst);   /* pairs with fns_ring_arm() */
    if (atomic_load_explicit(&c->ring->bell, memory_order_relaxed) != 0
        || !atomic_compare_exchange_strong(&c->ring->bell, &asked, BELL_RUNG))
        return;
    /* It may have asked behind the last record: the next one rings. But if it counts on this one by now, it gets it. */
    if (atomic_load(&c->ring->tail) == atomic_load(&c->ring->head)
        && (atomic_compare_exchange_strong(&c->ring->bell, &rung, 0) || rung == 0))
        return;
    bell_send(c);
}

static void chan_listen(struct chan *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = tag(KIND_NETLINK, chan_index(c), c->generation)};

    (void)epoll_ctl(proxy.epoll, EPOLL_CTL_MOD, c->netlink, &event);
}

/* The ring is full. 0 when the caller will say so once it is not, 1 when there is room after all. */
static int chan_stall(struct chan *c)
{
    uint64_t before = c->tail;

    atomic_store(&c->ring->want, 1);
    atomic_thread_fence(memory_order_seq_cst);   /* pairs with fns_ring_release() */
    if (ring_update(c) < 0)
        return -1;
    if (c->tail != before) {
        atomic_store(&c->ring->want, 0);
        return 1;
    }
    if (!c->stalled) {
        proxy.stats[FNS_STAT_STALLS]++;
        c->stalled = 1;
        chan_listen(c, 0);
    }
    return 0;
}

void fns_chan_close(struct chan *c)
{
    close_fd(&c->sock);      /* closing takes both out of the epoll set: nobody else has these two */
    close_fd(&c->netlink);
    close_fd(&c->nsfd);
    ring_spare(c);
    proxy.stats[FNS_STAT_CHANNELS]--;
}

static void pending_add(struct chan *c, uint32_t type, int err, uint32_t detail)
{
    /* The last one stands for all that find no room: the caller learns that something failed. */
    uint32_t at = c->pending < PENDING_MAX ? c->pending++ : PENDING_MAX - 1;

    c->errors[at].type = type;
    c->errors[at].error.err = err;
    c->errors[at].error.detail = detail;
}

/* Error records into the ring, in order. 1 when all found room. */
static int pending_flush(struct chan *c)
{
    uint8_t done = 0;

    while (done < c->pending) {
        uint8_t *payload = ring_reserve(c, sizeof(struct fns_error));
        if (payload == NULL)
            break;
        memcpy(payload, &c->errors[done].error, sizeof(struct fns_error));
        ring_publish(c, payload, sizeof(struct fns_error), c->errors[done].type);
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
        got = recvmsg(c->netlink, &msg, flags | MSG_DONTWAIT | MSG_TRUNC);
    } while (got < 0 && errno == EINTR);
    if (got >= 0 && nsid != NULL && msg.msg_controllen >= sizeof(label.bytes)) {
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg != NULL && cmsg->cmsg_level == SOL_NETLINK && cmsg->cmsg_type == NETLINK_LISTEN_ALL_NSID
            && cmsg->cmsg_len >= CMSG_LEN(sizeof(int32_t))) {
            memcpy(nsid, CMSG_DATA(cmsg), sizeof(int32_t));
            *foreign = 1;
        }
    }
    return got < 0 ? -errno : got;
}

/* One datagram from the netlink socket into the ring: its size, 0 when the ring is full, or -errno. */
static ssize_t pump_one(struct chan *c)
{
    uint64_t usual = DATAGRAM_USUAL + c->largest;
    uint64_t room = ring_contiguous(c);
    uint8_t *payload, nsid[NSID_SIZE];
    int foreign = 0;
    ssize_t got;

    if (room < usual) {
        /* Not certain to fit: ask for the size first. */
        got = netlink_receive(c, NULL, 0, MSG_PEEK, NULL, NULL);
        if (got < 0)
            return got;
        if (record_space((uint64_t)got + NSID_SIZE) > c->size) {
            uint8_t drop;
            pending_add(c, FNS_TRUNCATED, EMSGSIZE, (uint32_t)got);
            (void)netlink_receive(c, &drop, sizeof(drop), 0, NULL, NULL);
            return got;
        }
        payload = ring_reserve(c, (uint64_t)got + NSID_SIZE);
        if (payload == NULL)
            return 0;
        room = (uint64_t)got;
    } else {
        payload = ring_reserve(c, room);
        room -= NSID_SIZE;
    }
    got = netlink_receive(c, payload, room, 0, nsid, &foreign);
    if (got < 0)
        return got;
    if ((uint64_t)got > room) {
        pending_add(c, FNS_TRUNCATED, EMSGSIZE, (uint32_t)got);
    } else if (foreign) {
        memcpy(payload + got, nsid, NSID_SIZE);
        ring_publish(c, payload, (uint32_t)got + NSID_SIZE, FNS_FOREIGN);
    } else {
        ring_publish(c, payload, (uint32_t)got, FNS_DATA);
    }
    return got;
}

static void chan_gap(struct chan *c)
{
    pending_add(c, FNS_OVERRUN, ENOBUFS, c->gap.missing);
}

static void chan_overrun(struct chan *c)
{
    proxy.stats[FNS_STAT_OVERRUNS]++;
    if (fns_gap_open(&c->gap, c->netlink))
        chan_gap(c);
}

/* epoll reports errors whether asked or not. Taken here, or a stalled channel would keep the loop awake. */
static void chan_error(struct chan *c)
{
    int err = 0;
    socklen_t len = sizeof(err);

    (void)getsockopt(c->netlink, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err == ENOBUFS) {
        chan_overrun(c);
    } else if (err != 0) {
        pending_add(c, FNS_ERROR, err, FNS_AT_RECVMSG);
    }
}

/* Everything the netlink socket holds into the ring, as far as it goes. -1: close the channel. */
static int chan_pump(struct chan *c)
{
    uint32_t datagrams = 0;
    uint64_t bytes = 0, rung = 0;
    int room = 1;

    if (ring_update(c) < 0)
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
                pending_add(c, FNS_ERROR, (int)-got, FNS_AT_RECVMSG);
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
    atomic_store_explicit(&c->ring->cpu, (uint32_t)sched_getcpu(), memory_order_relaxed);
    proxy.stats[FNS_STAT_DATAGRAMS] += datagrams;
    proxy.stats[FNS_STAT_BYTES] += bytes;
    chan_bell(c);
    return 0;
}

/* ---- Requests --------------------------------------------------------------------------------------- */

static void strict_check(const struct chan *c, int on)
{
    (void)setsockopt(c->netlink, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
}

/* A copy of the request to the kernel, the caller's descriptors in it replaced by ours. -1: not the protocol. */
static int request_send(struct chan *c, const struct fns_message *m, uint8_t *data, const uint32_t *offsets,
                        const int *fd)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    uint32_t len = m->len;
    ssize_t sent;

    for (uint32_t i = 0; i < m->patches; i++) {
        uint32_t offset;
        int number = fd[i];
        memcpy(&offset, offsets + i, sizeof(offset));
        if (len < sizeof(number) || offset > len - sizeof(number))
            return -1;
        memcpy(data + offset, &number, sizeof(number));
    }
    if (!fns_policy_request(c->family, data, len, offsets, fd, m->patches)) {
        proxy.stats[FNS_STAT_REFUSED]++;
        pending_add(c, FNS_ERROR, EACCES, FNS_AT_POLICY);
        return 0;
    }
    if (len > c->largest)
        c->largest = len;
    proxy.stats[FNS_STAT_REQUESTS]++;
    proxy.stats[FNS_STAT_REQUEST_BYTES] += len;
    if ((m->flags & FNS_STRICT) != 0)
        strict_check(c, 1);
    do
        sent = sendto(c->netlink, data, len, MSG_NOSIGNAL, (struct sockaddr *)&kernel, sizeof(kernel));
    while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        proxy.stats[FNS_STAT_SEND_ERRORS]++;
        pending_add(c, FNS_ERROR, errno, FNS_AT_SENDTO);
    }
    if ((m->flags & FNS_STRICT) != 0)
        strict_check(c, 0);
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
    seals = fcntl(fds->fd[0], F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_WRITE) == 0)
        return -1;
    if (fstat(fds->fd[0], &st) < 0 || st.st_size < (off_t)len)
        return -1;
    if (fstatfs(fds->fd[0], &fs) < 0 || fs.f_type != TMPFS_MAGIC)   /* huge pages may be missing when touched */
        return -1;
    data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds->fd[0], 0);
    if (data == MAP_FAILED) {
        pending_add(c, FNS_ERROR, errno, FNS_AT_MMAP);
        return 0;
    }
    result = request_send(c, m, data, offsets, fds->fd + 1);
    munmap(data, len);
    return result;
}

/* One message of a channel. 1: another may wait, 0: none, -1: not the protocol, -2: end of file. */
static int chan_message(struct chan *c, struct fds *fds)
{
    ssize_t got = fns_receive(c->sock, inbox.bytes, sizeof(inbox.bytes), fds);
    size_t fixed;
    const uint32_t *offsets;
    struct fns_message m;

    if (got == -EAGAIN)
        return 0;
    if (got == 0 || got == -ECONNRESET)
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
        pending_add(c, FNS_ERROR, EMFILE, FNS_AT_RECVMSG);
        return chan_pump(c) < 0 ? -1 : 1;
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
        if (m.op == FNS_RING_BELL) {
            atomic_store(&c->ring->bell, 1);
            bell_send(c);
        }
        break;
    default:
        return -1;
    }
    return chan_pump(c) < 0 ? -1 : 1;
}

void fns_chan_messages(struct chan *c)
{
    struct fds fds;
    int more = 1;

    for (int i = 0; i < MESSAGES && more == 1; i++) {
        more = chan_message(c, &fds);
        fds_close(&fds);
    }
    if (more < 0) {
        proxy.stats[FNS_STAT_REFUSED] += more == -1;
        fns_chan_close(c);
    }
}

/* ---- The loop --------------------------------------------------------------------------------------- */

static struct chan *chan_tagged(uint64_t value)
{
    struct chan *c = &proxy.chans[(uint32_t)value];

    return c->sock >= 0 && (c->generation & 0xfffffffu) == ((value >> 32) & 0xfffffffu) ? c : NULL;
}

/* 0 to go on, -1 when the caller is gone. */
static int dispatch(const struct epoll_event *event)
{
    uint64_t value = event->data.u64;
    struct chan *c;

    switch (value >> 60) {
    case KIND_PARENT:
        return -1;
    case KIND_CONTROL:
        if (proxy.reply_waits) {
            if ((event->events & (EPOLLHUP | EPOLLERR)) != 0)
                return -1;
            return fns_reply_finish();
        }
        return fns_control_message() < 0 ? -1 : 0;
    case KIND_CHANNEL:
        c = chan_tagged(value);
        if (c != NULL)
            fns_chan_messages(c);
        return 0;
    default:
        c = chan_tagged(value);
        if (c != NULL && c->stalled)
            chan_error(c);
        else if (c != NULL && chan_pump(c) < 0)
            fns_chan_close(c);
        return 0;
    }
}

void fns_serve(void)
{
    struct epoll_event events[EVENTS];

    for (;;) {
        int n = epoll_wait(proxy.epoll, events, EVENTS, proxy.parent >= 0 ? -1 : 2000);
        for (int i = 0; i < n; i++)
            if (dispatch(&events[i]) < 0)
                return;
        /* Without a pidfd: a forked copy of the caller may keep the control socket open after its end. */
        if (n == 0 && getppid() != proxy.config.parent)
            return;
    }
}
