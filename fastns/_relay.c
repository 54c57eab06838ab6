/* The proxy process, and both ends of the ring. See _relay.h for what the two sides say to each other.
 *
 * Everything below fns_relay_fork() runs in a child forked from a process with threads, so it is limited to
 * what is safe in a signal handler: plain system calls, static or mapped memory, no allocation, no stdio.
 * The caller is hostile as far as this file is concerned; the kernel is not.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_relay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef NS_GET_NSTYPE
#define NS_GET_NSTYPE _IO(0xb7, 0x3)
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#ifndef NETLINK_EXT_ACK
#define NETLINK_EXT_ACK 11
#endif
#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_REMOVE
#define MADV_REMOVE 9
#endif

static const char *const stage_names[FNS_AT_COUNT] = {
    "the proxy's protocol", "open", "ioctl(NS_GET_NSTYPE)", "setns", "socket", "setsockopt",
    "getsockopt", "bind", "getsockname", "memfd_create", "ftruncate", "fcntl(F_ADD_SEALS)",
    "mmap", "socketpair", "epoll_ctl", "sendmsg", "sendto", "recvmsg", "clone",
    "the proxy's channel limit", "the proxy's policy", "setsid", "dup2", "prctl", "capset", "seccomp",
};

const char *fns_stage_name(uint32_t stage)
{
    return stage < FNS_AT_COUNT ? stage_names[stage] : "?";
}

static uint64_t record_space(uint64_t len)
{
    return (sizeof(struct fns_record) + len + 7u) & ~(uint64_t)7u;
}

/* ---- The caller's end of the ring ------------------------------------------------------------------- */

/* 0, or -1 when the mapping does not hold a ring of the size it claims. */
int fns_ring_attach(struct fns_reader *reader, void *map, size_t map_len)
{
    struct fns_ring *ring = map;
    uint64_t size;

    if (map_len < FNS_RING_HEADER + FNS_RING_MIN || ring->magic != FNS_MAGIC)
        return -1;
    size = ring->size;
    if (size != map_len - FNS_RING_HEADER || (size & (size - 1)) != 0)
        return -1;
    reader->ring = ring;
    reader->data = (const uint8_t *)map + FNS_RING_HEADER;
    reader->size = size;
    reader->tail = reader->end = reader->head = 0;
    return 0;
}

/* 1 and the next record, still in the ring until fns_ring_release(); 0 when there is none; -1 when the ring
 * is not one this code could have written. */
int fns_ring_next(struct fns_reader *reader, const uint8_t **payload, uint32_t *len, uint32_t *type)
{
    uint64_t pos = reader->tail;

    for (;;) {
        struct fns_record record;
        uint64_t base, offset, space;

        if (pos == reader->head) {
            uint64_t head = atomic_load_explicit(&reader->ring->head, memory_order_acquire);
            if (head == pos)
                return 0;
            if (head - pos > reader->size || (head & 7u) != 0)
                return -1;
            reader->head = head;
        }
        /* The proxy moves base only while it sees the ring empty, and it is not. */
        base = atomic_load_explicit(&reader->ring->base, memory_order_relaxed);
        if (base > pos || (base & 7u) != 0)
            return -1;
        offset = (pos - base) & (reader->size - 1);
        memcpy(&record, reader->data + offset, sizeof(record));
        space = record_space(record.len);
        if (space > reader->size - offset || space > reader->head - pos)
            return -1;
        if (record.type != FNS_SKIP) {
            *payload = reader->data + offset + sizeof(record);
            *len = record.len;
            *type = record.type;
            reader->end = pos + space;
            return 1;
        }
        pos += space;
    }
}

/* Gives the record back. 1 when the proxy waits for room and has to be told (FNS_SPACE). */
int fns_ring_release(struct fns_reader *reader)
{
    reader->tail = reader->end;
    atomic_store_explicit(&reader->ring->tail, reader->tail, memory_order_release);
    /* Pairs with the fence in chan_stall(): either the proxy sees this tail or we see its want. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&reader->ring->want, memory_order_relaxed) == 0)
        return 0;
    if (reader->head != reader->tail && reader->head - reader->tail > reader->size / 2)
        return 0;
    return atomic_exchange(&reader->ring->want, 0) != 0;
}

int fns_ring_empty(struct fns_reader *reader)
{
    return atomic_load_explicit(&reader->ring->head, memory_order_acquire) == reader->tail;
}

/* Asks for a doorbell with the next record. 1 when a record is there already. */
int fns_ring_arm(struct fns_reader *reader)
{
    atomic_store(&reader->ring->bell, 0);
    /* Pairs with the fence in chan_bell(): either the proxy sees the 0 or we see its record. */
    atomic_thread_fence(memory_order_seq_cst);
    return !fns_ring_empty(reader);
}

/* Takes the request back. 1 when that worked, 0 when the proxy rings or has rung. */
int fns_ring_disarm(struct fns_reader *reader)
{
    return atomic_exchange(&reader->ring->bell, 1) == 0;
}

/* ---- The proxy's state ------------------------------------------------------------------------------ */

enum { PENDING_MAX = 16, EVENTS = 64 };
enum { PUMP_DATAGRAMS = 128, PUMP_BYTES = 256 * 1024, BELL_BYTES = 16 * 1024 };
enum { RESET_BYTES = 64 * 1024, TRIM_BYTES = 1024 * 1024, TRIM_ALIGN = 64 * 1024 };
enum { DATAGRAM_USUAL = 256 * 1024 };

struct chan {
    int netlink, sock;       /* -1 when free */
    uint32_t generation;
    uint32_t portid;
    uint32_t rcvbuf;
    uint8_t stalled;         /* the ring is full: EPOLLIN of the netlink socket is off */
    uint8_t overrun;         /* the kernel dropped datagrams; the queue before the gap is still being read */
    uint8_t pending;         /* error records that wait for room */
    uint64_t drained;        /* bytes read since the overrun */
    uint64_t largest;        /* largest request: its echo may come back in an answer */
    struct fns_ring *ring;
    uint8_t *data;
    uint64_t size, head, base, tail, high;
    struct { uint32_t type; struct fns_error error; } errors[PENDING_MAX];
};

/* Received control messages: descriptors are closed by whoever takes the message. */
struct fds {
    uint32_t count;
    int cut;                 /* some are missing: no room in our table */
    int fd[FNS_FDS_MAX];
};

static struct {
    struct fns_config config;
    int epoll, parent, home;
    int can_return;          /* setns to the namespace we are in works, so it does not matter where we are */
    dev_t home_dev, here_dev;
    ino_t home_ino, here_ino;
    struct chan *chans;
    uint32_t high;           /* channels below this number have been used */
    uint32_t generation;
    uint64_t stats[FNS_STAT_COUNT];
    /* a reply the control socket had no room for */
    int reply_waits;
    struct { struct fns_reply head; uint8_t payload[FNS_OPT_MAX]; int fd[2]; } reply;
} proxy;

static union {
    struct fns_message head;
    uint8_t bytes[sizeof(struct fns_message) + FNS_FDS_MAX * sizeof(uint32_t) + FNS_INLINE_MAX];
} inbox;

static union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * FNS_FDS_MAX)];
} control;

enum { KIND_CONTROL = 1, KIND_PARENT, KIND_NETLINK, KIND_CHANNEL };

static uint64_t tag(uint32_t kind, uint32_t index, uint32_t generation)
{
    return ((uint64_t)kind << 60) | ((uint64_t)(generation & 0xfffffffu) << 32) | index;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void fds_close(struct fds *fds)
{
    for (uint32_t i = 0; i < fds->count; i++)
        close_fd(&fds->fd[i]);
    fds->count = 0;
}

/* recvmsg with its descriptors. Bytes, 0 at end of file, -errno; -EMSGSIZE when the message was cut off. */
static ssize_t receive(int sock, void *buf, size_t size, struct fds *fds)
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

/* ---- The proxy's end of the ring -------------------------------------------------------------------- */

/* Reads how far the caller has come. 0, or -1 when that is nowhere it could be. */
static int ring_update(struct chan *c)
{
    uint64_t tail = atomic_load_explicit(&c->ring->tail, memory_order_acquire);

    if (tail - c->tail > c->head - c->tail || (tail & 7u) != 0)
        return -1;
    c->tail = tail;
    if (tail == c->head && c->head - c->base >= RESET_BYTES) {
        /* Empty: start again at the first page, and give a burst's pages back. */
        if (c->high >= TRIM_BYTES) {
            uint64_t keep = TRIM_ALIGN, end = c->high & ~(uint64_t)(TRIM_ALIGN - 1);
            (void)madvise((uint8_t *)c->ring + keep, end - keep, MADV_REMOVE);
            c->high = 0;
        }
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
    atomic_thread_fence(memory_order_seq_cst);   /* pairs with fns_ring_arm() */
    if (atomic_load_explicit(&c->ring->bell, memory_order_relaxed) == 0
        && atomic_exchange(&c->ring->bell, 1) == 0)
        bell_send(c);
}

static uint32_t chan_index(const struct chan *c)
{
    return (uint32_t)(c - proxy.chans);
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

static void chan_close(struct chan *c)
{
    if (c->sock < 0)
        return;
    close_fd(&c->sock);      /* closing takes both out of the epoll set: nobody else has these two */
    close_fd(&c->netlink);
    munmap(c->ring, FNS_RING_HEADER + c->size);
    c->ring = NULL;
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

static ssize_t netlink_receive(struct chan *c, void *buf, size_t size, int flags)
{
    struct iovec iov = {buf, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t got;

    do
        got = recvmsg(c->netlink, &msg, flags | MSG_DONTWAIT | MSG_TRUNC);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* One datagram from the netlink socket into the ring: its size, 0 when the ring is full, or -errno. */
static ssize_t pump_one(struct chan *c)
{
    uint64_t usual = DATAGRAM_USUAL + c->largest;
    uint64_t room = ring_contiguous(c);
    uint8_t *payload;
    ssize_t got;

    if (room < usual) {
        /* Not certain to fit: ask for the size first. */
        got = netlink_receive(c, NULL, 0, MSG_PEEK);
        if (got < 0)
            return got;
        if (record_space((uint64_t)got) > c->size) {
            uint8_t drop;
            pending_add(c, FNS_TRUNCATED, EMSGSIZE, (uint32_t)got);
            (void)netlink_receive(c, &drop, sizeof(drop), 0);
            return got;
        }
        payload = ring_reserve(c, (uint64_t)got);
        if (payload == NULL)
            return 0;
        room = (uint64_t)got;
    } else {
        payload = ring_reserve(c, room);
    }
    got = netlink_receive(c, payload, room, 0);
    if (got < 0)
        return got;
    if ((uint64_t)got > room)
        pending_add(c, FNS_TRUNCATED, EMSGSIZE, (uint32_t)got);
    else
        ring_publish(c, payload, (uint32_t)got, FNS_DATA);
    return got;
}

/* epoll reports errors whether asked or not. Taken here, or a stalled channel would keep the loop awake. */
static void chan_error(struct chan *c)
{
    int err = 0;
    socklen_t len = sizeof(err);

    (void)getsockopt(c->netlink, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err == ENOBUFS) {
        proxy.stats[FNS_STAT_OVERRUNS]++;
        c->overrun = 1;
        c->drained = 0;
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
    while (datagrams < PUMP_DATAGRAMS && bytes < PUMP_BYTES) {
        ssize_t got;

        room = pending_flush(c);
        if (room) {
            got = pump_one(c);
            if (got == -ENOBUFS) {
                /* Nothing is queued any more until the queue has been read (netlink(7), NETLINK_S_CONGESTED):
                 * the gap is where it becomes empty. */
                proxy.stats[FNS_STAT_OVERRUNS]++;
                c->overrun = 1;
                c->drained = 0;
                continue;
            }
            if (c->overrun && (got == -EAGAIN || c->drained > c->rcvbuf)) {
                c->overrun = 0;
                pending_add(c, FNS_OVERRUN, ENOBUFS, 0);
                continue;
            }
            if (got == -EAGAIN)
                break;
            if (got < 0) {
                pending_add(c, FNS_ERROR, (int)-got, FNS_AT_RECVMSG);
                (void)pending_flush(c);
                break;
            }
            if (got > 0) {
                datagrams++;
                bytes += (uint64_t)got;
                c->drained += (uint64_t)got;
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
    proxy.stats[FNS_STAT_DATAGRAMS] += datagrams;
    proxy.stats[FNS_STAT_BYTES] += bytes;
    chan_bell(c);
    return 0;
}

/* ---- Requests --------------------------------------------------------------------------------------- */

static int request_send(struct chan *c, uint8_t *data, uint32_t len, const uint32_t *offsets, const int *fd,
                        uint32_t patches)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    ssize_t sent;

    for (uint32_t i = 0; i < patches; i++) {
        uint32_t offset;
        int number = fd[i];
        memcpy(&offset, offsets + i, sizeof(offset));
        if (len < sizeof(number) || offset > len - sizeof(number))
            return -1;
        memcpy(data + offset, &number, sizeof(number));
    }
    if (len > c->largest)
        c->largest = len;
    proxy.stats[FNS_STAT_REQUESTS]++;
    proxy.stats[FNS_STAT_REQUEST_BYTES] += len;
    do
        sent = sendto(c->netlink, data, len, MSG_NOSIGNAL, (struct sockaddr *)&kernel, sizeof(kernel));
    while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        proxy.stats[FNS_STAT_SEND_ERRORS]++;
        pending_add(c, FNS_ERROR, errno, FNS_AT_SENDTO);
    }
    return 0;
}

/* The request is in a memfd. Only one that nobody can shrink: reading past its end would kill us. */
static int request_send_memfd(struct chan *c, uint32_t len, const uint32_t *offsets, struct fds *fds,
                              uint32_t patches)
{
    struct stat st;
    struct statfs fs;
    uint8_t *data;
    int seals, result;

    if (fds->count != patches + 1 || len == 0 || len > FNS_REQUEST_MAX)
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
    result = request_send(c, data, len, offsets, fds->fd + 1, patches);
    munmap(data, len);
    return result;
}

/* One message of a channel. 1: another may wait, 0: none, -1: not the protocol, -2: end of file. */
static int chan_message(struct chan *c, struct fds *fds)
{
    ssize_t got = receive(c->sock, inbox.bytes, sizeof(inbox.bytes), fds);
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
    if (m.patches > FNS_FDS_MAX || m.reserved != 0)
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
        if (request_send(c, inbox.bytes + fixed, m.len, offsets, fds->fd, m.patches) < 0)
            return -1;
        break;
    case FNS_SEND_MEMFD:
        if ((size_t)got != fixed || request_send_memfd(c, m.len, offsets, fds, m.patches) < 0)
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

static void chan_messages(struct chan *c)
{
    struct fds fds;
    int more = 1;

    for (int i = 0; i < 8 && more == 1; i++) {
        more = chan_message(c, &fds);
        fds_close(&fds);
    }
    if (more < 0) {
        proxy.stats[FNS_STAT_REFUSED] += more == -1;
        chan_close(c);
    }
}

/* ---- Control ---------------------------------------------------------------------------------------- */

struct failure {
    uint32_t stage;
    int err;
};

static int failed(struct failure *f, uint32_t stage, int err)
{
    f->stage = stage;
    f->err = err;
    return -1;
}

struct enter_job {
    int nsfd, family, sock, err;
    uint32_t stage;
};

static int netlink_socket(int family)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family);
}

/* Runs on a stack of its own, sharing memory and descriptors, while the proxy waits (CLONE_VFORK). */
static int enter_job_run(void *arg)
{
    struct enter_job *job = arg;

    if (setns(job->nsfd, CLONE_NEWNET) < 0) {
        job->stage = FNS_AT_SETNS;
        job->err = errno;
    } else if ((job->sock = netlink_socket(job->family)) < 0) {
        job->stage = FNS_AT_SOCKET;
        job->err = errno;
    }
    return 0;
}

static int socket_from_helper(int nsfd, int family, struct failure *f)
{
    static union { long double align; char bytes[32768]; } stack;
    struct enter_job job = {nsfd, family, -1, 0, 0};
    int pid = clone(enter_job_run, stack.bytes + sizeof(stack.bytes), CLONE_VM | CLONE_VFORK | CLONE_FILES, &job);

    if (pid < 0)
        return failed(f, FNS_AT_CLONE, errno);
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    if (job.err != 0)
        return failed(f, job.stage, job.err);
    return job.sock;
}

/* A netlink socket inside a namespace. */
static int socket_inside(int nsfd, int family, struct failure *f)
{
    struct stat st;
    int type = ioctl(nsfd, NS_GET_NSTYPE);
    int sock;

    if (type < 0 || fstat(nsfd, &st) < 0)
        return failed(f, FNS_AT_NSTYPE, errno == ENOTTY ? EINVAL : errno);
    if (type != CLONE_NEWNET)
        return failed(f, FNS_AT_NSTYPE, EINVAL);
    if (st.st_ino != proxy.here_ino || st.st_dev != proxy.here_dev) {
        if (!proxy.can_return)
            return socket_from_helper(nsfd, family, f);
        /* No way back is needed: the proxy works through descriptors and does not care where it is. */
        if (setns(nsfd, CLONE_NEWNET) < 0)
            return failed(f, FNS_AT_SETNS, errno);
        proxy.here_ino = st.st_ino;
        proxy.here_dev = st.st_dev;
    }
    sock = netlink_socket(family);
    return sock < 0 ? failed(f, FNS_AT_SOCKET, errno) : sock;
}

static int buffer_size(int sock, int force, int plain, uint32_t bytes, struct failure *f)
{
    int value = bytes > 0x3fffffffu ? 0x3fffffff : (int)bytes;

    if (bytes == 0 || setsockopt(sock, SOL_SOCKET, force, &value, sizeof(value)) == 0)
        return 0;
    if (setsockopt(sock, SOL_SOCKET, plain, &value, sizeof(value)) == 0)
        return 0;
    return failed(f, FNS_AT_SETSOCKOPT, errno);
}

static int netlink_option(int sock, uint32_t flags, uint32_t flag, int option, struct failure *f)
{
    int on = 1;

    if ((flags & flag) == 0 || setsockopt(sock, SOL_NETLINK, option, &on, sizeof(on)) == 0)
        return 0;
    if (errno == ENOPROTOOPT && (flag == FNS_OPEN_EXT_ACK || flag == FNS_OPEN_CAP_ACK))
        return 0;   /* an old kernel: answers are only less detailed */
    return failed(f, FNS_AT_SETSOCKOPT, errno);
}

static int netlink_name(int sock, uint32_t *portid, uint32_t *groups)
{
    struct sockaddr_nl name;
    socklen_t len = sizeof(name);

    if (getsockname(sock, (struct sockaddr *)&name, &len) < 0)
        return -1;
    *portid = name.nl_pid;
    *groups = name.nl_groups;
    return 0;
}

static int netlink_bind(int sock, uint32_t portid, uint32_t groups)
{
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = portid, .nl_groups = groups};

    return bind(sock, (struct sockaddr *)&name, sizeof(name));
}

static int socket_options(int sock, const struct fns_open *o, struct failure *f)
{
    if (buffer_size(sock, SO_RCVBUFFORCE, SO_RCVBUF, o->rcvbuf, f) < 0
        || buffer_size(sock, SO_SNDBUFFORCE, SO_SNDBUF, o->sndbuf, f) < 0
        || netlink_option(sock, o->flags, FNS_OPEN_EXT_ACK, NETLINK_EXT_ACK, f) < 0
        || netlink_option(sock, o->flags, FNS_OPEN_STRICT, NETLINK_GET_STRICT_CHK, f) < 0
        || netlink_option(sock, o->flags, FNS_OPEN_ALL_NSID, NETLINK_LISTEN_ALL_NSID, f) < 0
        || netlink_option(sock, o->flags, FNS_OPEN_CAP_ACK, NETLINK_CAP_ACK, f) < 0)
        return -1;
    return netlink_bind(sock, o->portid, o->groups) < 0 ? failed(f, FNS_AT_BIND, errno) : 0;
}

static uint64_t ring_size(uint32_t wanted)
{
    uint64_t size = FNS_RING_MIN;

    while (size < wanted && size < FNS_RING_MAX)
        size <<= 1;
    return size;
}

/* A ring in a memfd that neither side can resize: what is mapped stays mapped. */
static int ring_create(struct chan *c, uint64_t size, struct failure *f)
{
    size_t bytes = FNS_RING_HEADER + size;
    int fd = memfd_create("fastns-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    void *map;

    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("fastns-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return failed(f, FNS_AT_MEMFD, errno);
    if (ftruncate(fd, (off_t)bytes) < 0) {
        failed(f, FNS_AT_FTRUNCATE, errno);
    } else if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        failed(f, FNS_AT_SEAL, errno);
    } else if ((map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        failed(f, FNS_AT_MMAP, errno);
    } else {
        c->ring = map;
        c->data = (uint8_t *)map + FNS_RING_HEADER;
        c->size = size;
        c->ring->magic = FNS_MAGIC;
        c->ring->size = size;
        atomic_store(&c->ring->bell, 1);
        return fd;
    }
    close(fd);
    return -1;
}

static int chan_watch(struct chan *c, struct failure *f)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag(KIND_NETLINK, chan_index(c), c->generation)};

    if (epoll_ctl(proxy.epoll, EPOLL_CTL_ADD, c->netlink, &event) < 0)
        return failed(f, FNS_AT_EPOLL, errno);
    event.events = EPOLLIN | EPOLLRDHUP;
    event.data.u64 = tag(KIND_CHANNEL, chan_index(c), c->generation);
    if (epoll_ctl(proxy.epoll, EPOLL_CTL_ADD, c->sock, &event) < 0)
        return failed(f, FNS_AT_EPOLL, errno);
    return 0;
}

/* Closed channels whose end of file the loop has not come to yet still hold a place and descriptors. */
static void chans_sweep(void)
{
    for (uint32_t i = 0; i < proxy.high; i++) {
        struct pollfd p = {proxy.chans[i].sock, 0, 0};
        if (p.fd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0)
            chan_close(&proxy.chans[i]);
    }
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

/* A new channel around a netlink socket that is now its own. On success pair[] and *memfd are the caller's. */
static struct chan *chan_create(int netlink, const struct fns_open *o, int pair[2], int *memfd, struct failure *f)
{
    struct chan *c = chan_free();
    uint32_t portid, groups;

    pair[0] = pair[1] = *memfd = -1;
    if (c == NULL) {
        failed(f, FNS_AT_LIMIT, EMFILE);
        close(netlink);
        return NULL;
    }
    memset(c, 0, sizeof(*c));
    c->netlink = netlink;
    c->sock = -1;
    c->rcvbuf = o->rcvbuf;
    c->generation = ++proxy.generation;
    if (socket_options(netlink, o, f) == 0 && netlink_name(netlink, &portid, &groups) == 0) {
        c->portid = portid;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
            failed(f, FNS_AT_SOCKETPAIR, errno);
        } else {
            *memfd = ring_create(c, ring_size(o->ring_size), f);
            if (*memfd >= 0) {
                int size = 2 * (int)sizeof(inbox);
                c->sock = pair[0];
                pair[0] = -1;
                (void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
                proxy.stats[FNS_STAT_CHANNELS]++;
                proxy.stats[FNS_STAT_OPENED]++;
                if (chan_watch(c, f) == 0)
                    return c;
                chan_close(c);
            }
        }
    }
    close_fd(&c->netlink);
    close_fd(&pair[0]);
    close_fd(&pair[1]);
    close_fd(memfd);
    return NULL;
}

static int name_ok(const char *name, uint32_t len)
{
    if (len == 0 || len > FNS_NAME_MAX || memchr(name, '/', len) != NULL || memchr(name, 0, len) != NULL)
        return 0;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

/* The caller sends names, not paths: what they mean is decided here, with our rights. */
static int open_name(const char *name, uint32_t len, struct failure *f)
{
    char path[FNS_DIR_MAX + 1 + FNS_NAME_MAX + 1];
    size_t dir = strnlen(proxy.config.run_dir, FNS_DIR_MAX);
    int fd;

    if (!name_ok(name, len))
        return failed(f, FNS_AT_OPEN, EINVAL);
    memcpy(path, proxy.config.run_dir, dir);
    path[dir] = '/';
    memcpy(path + dir + 1, name, len);
    path[dir + 1 + len] = 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? failed(f, FNS_AT_OPEN, errno) : fd;
}

static void op_open(const struct fns_request *rq, const uint8_t *payload, struct fds *fds, struct failure *f)
{
    struct fns_open o;
    struct chan *c;
    int nsfd, sock, pair[2], memfd;

    memset(&o, 0, sizeof(o));
    if (rq->len >= sizeof(o))
        memcpy(&o, payload, sizeof(o));
    if (rq->len < sizeof(o) || rq->len - sizeof(o) != o.name_len || (o.flags & ~(uint32_t)FNS_OPEN_KNOWN) != 0
        || fds->count != (o.name_len == 0 ? 1u : 0u)) {
        failed(f, FNS_AT_PROTOCOL, EPROTO);
        return;
    }
    for (int attempt = 0;; attempt++) {
        f->err = 0;
        if (o.name_len != 0)
            nsfd = open_name((const char *)payload + sizeof(o), o.name_len, f);
        else
            nsfd = fds->fd[0];
        c = NULL;
        if (nsfd >= 0) {
            sock = socket_inside(nsfd, o.family, f);
            if (o.name_len != 0)
                close(nsfd);
            if (sock >= 0)
                c = chan_create(sock, &o, pair, &memfd, f);
        }
        if (c != NULL || f->err != EMFILE || attempt == 1)
            break;
        chans_sweep();
    }
    if (c == NULL)
        return;
    proxy.reply.fd[0] = pair[1];
    proxy.reply.fd[1] = memfd;
    proxy.reply.head.chan = chan_index(c) | (c->generation << 16);
    proxy.reply.head.a = c->portid;
    proxy.reply.head.size = c->size;
}

static struct chan *chan_find(uint32_t number)
{
    uint32_t index = number & 0xffffu;

    if (index >= proxy.high || proxy.chans[index].sock < 0
        || (proxy.chans[index].generation & 0xffffu) != number >> 16)
        return NULL;
    return &proxy.chans[index];
}

static void op_channel(const struct fns_request *rq, const uint8_t *payload, struct failure *f)
{
    struct chan *c = chan_find(rq->chan);
    struct fns_reply *reply = &proxy.reply.head;
    socklen_t len = sizeof(proxy.reply.payload);

    if (c == NULL) {
        failed(f, FNS_AT_PROTOCOL, EBADF);
        return;
    }
    switch (rq->op) {
    case FNS_SETSOCKOPT:
        if (setsockopt(c->netlink, rq->a, rq->b, payload, rq->len) < 0)
            failed(f, FNS_AT_SETSOCKOPT, errno);
        break;
    case FNS_GETSOCKOPT:
        if (rq->len == sizeof(uint32_t)) {
            uint32_t wanted;
            memcpy(&wanted, payload, sizeof(wanted));
            if (wanted < len)
                len = wanted;
        }
        if (getsockopt(c->netlink, rq->a, rq->b, proxy.reply.payload, &len) < 0)
            failed(f, FNS_AT_GETSOCKOPT, errno);
        else
            reply->len = len < sizeof(proxy.reply.payload) ? len : (uint32_t)sizeof(proxy.reply.payload);
        break;
    case FNS_BIND:
        /* A bound socket keeps its port: 0 means that one. */
        if (netlink_bind(c->netlink, rq->a != 0 ? (uint32_t)rq->a : c->portid, (uint32_t)rq->b) < 0) {
            failed(f, FNS_AT_BIND, errno);
            break;
        }
        /* fall through */
    default:
        if (netlink_name(c->netlink, &reply->a, &reply->b) < 0)
            failed(f, FNS_AT_GETSOCKNAME, errno);
    }
}

/* 0 when sent, -EAGAIN when there is no room. */
static int reply_send(void)
{
    size_t size = sizeof(proxy.reply.head) + proxy.reply.head.len;
    struct iovec iov = {&proxy.reply, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t sent;

    if (proxy.reply.fd[0] >= 0) {
        struct cmsghdr *c;
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(2 * sizeof(int));
        memset(control.bytes, 0, CMSG_SPACE(2 * sizeof(int)));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(2 * sizeof(int));
        memcpy(CMSG_DATA(c), proxy.reply.fd, 2 * sizeof(int));
    }
    do
        sent = sendmsg(proxy.config.control, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno == EAGAIN)
        return -EAGAIN;
    /* Any other failure is a caller that is gone; the channel's end of file follows. */
    close_fd(&proxy.reply.fd[0]);
    close_fd(&proxy.reply.fd[1]);
    return 0;
}

static void control_listen(uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = tag(KIND_CONTROL, 0, 0)};

    (void)epoll_ctl(proxy.epoll, EPOLL_CTL_MOD, proxy.config.control, &event);
}

static void reply_finish(void)
{
    int waits = reply_send() != 0;

    if (waits != proxy.reply_waits) {
        proxy.reply_waits = waits;
        control_listen(waits ? EPOLLOUT : EPOLLIN);
    }
}

static void reply_start(uint32_t op, uint32_t id)
{
    memset(&proxy.reply.head, 0, sizeof(proxy.reply.head));
    proxy.reply.head.op = op;
    proxy.reply.head.id = id;
    proxy.reply.fd[0] = proxy.reply.fd[1] = -1;
}

/* One request of the control socket. 0 when there was none, -1 at its end: the proxy's work is done. */
static int control_message(void)
{
    static union { struct fns_request head; uint8_t bytes[sizeof(struct fns_request) + FNS_OPT_MAX]; } in;
    struct failure f = {0, 0};
    struct fds fds;
    const uint8_t *payload = in.bytes + sizeof(in.head);
    ssize_t got = receive(proxy.config.control, in.bytes, sizeof(in.bytes), &fds);

    if (got == -EAGAIN)
        return 0;
    if (got == 0 || got == -ECONNRESET)
        return -1;
    if (got >= (ssize_t)sizeof(in.head)) {
        reply_start(in.head.op, in.head.id);
        if (fds.cut) {
            chans_sweep();
            failed(&f, FNS_AT_RECVMSG, EMFILE);
        } else if (in.head.len != (size_t)got - sizeof(in.head)) {
            failed(&f, FNS_AT_PROTOCOL, EPROTO);
        } else if (in.head.op == FNS_OPEN) {
            op_open(&in.head, payload, &fds, &f);
        } else if (in.head.op == FNS_STATS) {
            memcpy(proxy.reply.payload, proxy.stats, sizeof(proxy.stats));
            proxy.reply.head.len = sizeof(proxy.stats);
        } else if (in.head.op >= FNS_SETSOCKOPT && in.head.op <= FNS_BIND) {
            op_channel(&in.head, payload, &f);
        } else {
            failed(&f, FNS_AT_PROTOCOL, ENOSYS);
        }
    } else {
        reply_start(0, 0);   /* shorter than a header, or longer than any request */
        failed(&f, FNS_AT_PROTOCOL, EPROTO);
    }
    fds_close(&fds);
    proxy.reply.head.err = f.err;
    proxy.reply.head.stage = f.stage;
    if (f.err != 0)
        proxy.stats[FNS_STAT_REFUSED]++;
    reply_finish();
    return 1;
}

/* ---- The loop --------------------------------------------------------------------------------------- */

static struct chan *chan_tagged(uint64_t value)
{
    uint32_t index = (uint32_t)value;
    struct chan *c;

    if (index >= proxy.high)
        return NULL;
    c = &proxy.chans[index];
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
            reply_finish();
            return 0;
        }
        return control_message() < 0 ? -1 : 0;
    case KIND_CHANNEL:
        c = chan_tagged(value);
        if (c != NULL)
            chan_messages(c);
        return 0;
    default:
        c = chan_tagged(value);
        if (c != NULL && c->stalled)
            chan_error(c);
        else if (c != NULL && chan_pump(c) < 0)
            chan_close(c);
        return 0;
    }
}

static void serve(void)
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

/* ---- From fork to loop ------------------------------------------------------------------------------ */

static void signals_reset(void)
{
    struct sigaction action;
    sigset_t none;

    memset(&action, 0, sizeof(action));
    for (int signo = 1; signo < NSIG; signo++) {
        switch (signo) {
        case SIGILL: case SIGTRAP: case SIGABRT: case SIGBUS: case SIGFPE: case SIGSEGV: case SIGSYS:
        case SIGCHLD: case SIGCONT: case SIGXCPU: case SIGXFSZ:
            action.sa_handler = SIG_DFL;
            break;
        default:
            /* Terminal and service-manager signals go to the caller, which may still need us to clean up:
             * the proxy ends when the caller does. */
            action.sa_handler = SIG_IGN;
        }
        (void)sigaction(signo, &action, NULL);
    }
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void close_from(unsigned int lowest)
{
    struct rlimit limit;

#ifdef SYS_close_range
    if (syscall(SYS_close_range, lowest, ~0u, 0) == 0)
        return;
#endif
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    for (rlim_t fd = lowest; fd < limit.rlim_max && fd < 1048576; fd++)
        close((int)fd);
}

/* The control socket becomes 3, the standard descriptors /dev/null, nothing else stays open. */
static int descriptors_reset(struct failure *f)
{
    struct rlimit limit;
    int null;

    if (proxy.config.control != 3) {
        if (dup2(proxy.config.control, 3) < 0)
            return failed(f, FNS_AT_DUP, errno);
        proxy.config.control = 3;
    }
    (void)fcntl(3, F_SETFD, FD_CLOEXEC);
    close_from(4);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) {
#if defined(FASTNS_SANITIZE) || defined(FASTNS_COVERAGE)
        if (fd == 2)
            continue;    /* reports go there */
#endif
        if (null < 0)
            close(fd);
        else if (null != fd)
            (void)dup2(null, fd);
    }
    if (null > 3)
        close(null);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return 0;
}

/* What the caller had mapped at the fork would cost memory as soon as it writes there. Everything goes, except
 * this library, libc, the dynamic linker, the kernel's own pages, and the parts of stack and thread-local
 * storage in use. Linked with -z now, so no symbol is looked up any more. */
struct keep { uintptr_t low, high; };
enum { ANCHORS = 5, FILES = 8, IDENTITY = 64, SPANS = 4 };

struct maps {
    int fd;
    size_t start, end;
    char buf[8192];
};

static const char *maps_line(struct maps *m, size_t *len)
{
    for (;;) {
        char *newline = memchr(m->buf + m->start, '\n', m->end - m->start);
        ssize_t got;
        if (newline != NULL) {
            const char *line = m->buf + m->start;
            *len = (size_t)(newline - line);
            m->start += *len + 1;
            return line;
        }
        memmove(m->buf, m->buf + m->start, m->end - m->start);
        m->end -= m->start;
        m->start = 0;
        if (m->end == sizeof(m->buf))
            return NULL;
        got = read(m->fd, m->buf + m->end, sizeof(m->buf) - m->end);
        if (got <= 0)
            return NULL;
        m->end += (size_t)got;
    }
}

static const char *hex(const char *s, const char *end, uintptr_t *value)
{
    uintptr_t v = 0;

    for (; s < end; s++) {
        unsigned int digit;
        if (*s >= '0' && *s <= '9')
            digit = (unsigned int)(*s - '0');
        else if (*s >= 'a' && *s <= 'f')
            digit = (unsigned int)(*s - 'a') + 10;
        else
            break;
        v = (v << 4) | digit;
    }
    *value = v;
    return s;
}

struct mapping {
    uintptr_t low, high;
    const char *identity;    /* offset-free "dev inode" text */
    size_t identity_len;
    const char *path;
    size_t path_len;
};

/* low-high perms offset dev inode path: proc_pid_maps(5). */
static int mapping_parse(const char *line, size_t len, struct mapping *m)
{
    const char *end = line + len, *s = hex(line, end, &m->low);

    if (s == end || *s != '-')
        return -1;
    s = hex(s + 1, end, &m->high);
    for (int field = 0; field < 2; field++) {    /* to the space before perms, before offset */
        s = memchr(s, ' ', (size_t)(end - s));
        if (s == NULL)
            return -1;
        s++;
    }
    s = memchr(s, ' ', (size_t)(end - s));
    if (s == NULL)
        return -1;
    m->identity = ++s;
    for (int field = 0; field < 2 && s != NULL; field++) {
        s = memchr(s, ' ', (size_t)(end - s));
        if (s != NULL && field == 0)
            s++;
    }
    if (s == NULL)
        s = end;
    m->identity_len = (size_t)(s - m->identity);
    while (s < end && *s == ' ')
        s++;
    m->path = s;
    m->path_len = (size_t)(end - s);
    return m->high > m->low ? 0 : -1;
}

static int mapping_is(const struct mapping *m, const char *prefix)
{
    size_t len = strlen(prefix);

    return m->path_len >= len && memcmp(m->path, prefix, len) == 0;
}

/* The dynamic linker, by the file name it has on glibc and musl. */
static int mapping_is_linker(const struct mapping *m)
{
    for (size_t i = m->path_len; i > 0; i--)
        if (m->path[i - 1] == '/')
            return m->path_len - i >= 2 && memcmp(m->path + i, "ld", 2) == 0;
    return 0;
}

static void unmap(uintptr_t low, uintptr_t high)
{
#if !defined(FASTNS_COVERAGE)    /* the counters are written out at exit with the whole of libc */
    if (high > low)
        (void)munmap((void *)low, high - low);
#else
    (void)low;
    (void)high;
#endif
}

/* Unmaps a mapping except for the spans inside it. */
static void unmap_around(uintptr_t low, uintptr_t high, const struct keep *spans)
{
    while (low < high) {
        uintptr_t next_low = high, next_high = high;
        for (int i = 0; i < SPANS; i++) {
            uintptr_t a = spans[i].low > low ? spans[i].low : low;
            uintptr_t b = spans[i].high < high ? spans[i].high : high;
            if (a < b && a < next_low) {
                next_low = a;
                next_high = b;
            }
        }
        unmap(low, next_low);
        low = next_high;
    }
}

static void __attribute__((noinline)) memory_shed(void)
{
    static struct maps m;
    static char identities[FILES][IDENTITY];
    size_t lengths[FILES] = {0};
    int files = 0;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), kept_high = 0;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), local = (uintptr_t)&errno;
    uintptr_t thread = (uintptr_t)__builtin_thread_pointer();
    const uintptr_t anchors[ANCHORS] = {(uintptr_t)&memory_shed, (uintptr_t)&recvmsg, (uintptr_t)&syscall,
                                        (uintptr_t)&memcpy, (uintptr_t)&epoll_wait};
    struct keep spans[SPANS] = {
        {here - 256 * 1024, here + 16 * 1024},
        {thread - 16 * 1024, thread + 16 * 1024},
        {local - 16 * 1024, local + 16 * 1024},
        {(uintptr_t)&proxy, (uintptr_t)(&proxy + 1)},
    };
    const char *line;
    size_t len;

    for (int i = 0; i < SPANS; i++) {
        spans[i].low &= ~(page - 1);
        spans[i].high = (spans[i].high + page - 1) & ~(page - 1);
    }
    for (int pass = 0; pass < 2; pass++) {
        m.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        if (m.fd < 0)
            return;
        m.start = m.end = 0;
        while ((line = maps_line(&m, &len)) != NULL) {
            struct mapping map;
            int keep = 0;
            if (mapping_parse(line, len, &map) < 0)
                continue;
            if (pass == 0) {
                for (int i = 0; i < ANCHORS; i++)
                    keep |= anchors[i] >= map.low && anchors[i] < map.high;
                keep |= mapping_is_linker(&map);
                if (keep && files < FILES && map.identity_len <= IDENTITY) {
                    memcpy(identities[files], map.identity, map.identity_len);
                    lengths[files++] = map.identity_len;
                }
                continue;
            }
            for (int i = 0; i < files; i++)
                keep |= map.path_len != 0 && lengths[i] == map.identity_len
                    && memcmp(identities[i], map.identity, map.identity_len) == 0;
            keep |= mapping_is(&map, "[v");                          /* vdso, vvar, vsyscall */
            keep |= map.path_len == 0 && map.low == kept_high;       /* .bss of a library kept */
            if (keep)
                kept_high = map.path_len == 0 ? 0 : map.high;
            else
                unmap_around(map.low, map.high, spans);
        }
        close(m.fd);
    }
}

static int parent_watch(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag(KIND_PARENT, 0, 0)};
    pid_t parent = getppid();

    /* 0: the parent is in another PID namespace, so only the end of file tells. */
    if (parent == 0)
        return 0;
#ifdef SYS_pidfd_open
    proxy.parent = (int)syscall(SYS_pidfd_open, parent, 0);
#endif
    if (getppid() != parent || parent != proxy.config.parent)
        return -1;
    if (proxy.parent >= 0)
        (void)epoll_ctl(proxy.epoll, EPOLL_CTL_ADD, proxy.parent, &event);
    return 0;
}

static int home_find(void)
{
    struct stat st;

    proxy.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (proxy.home < 0 || fstat(proxy.home, &st) < 0)
        return -1;
    proxy.here_dev = proxy.home_dev = st.st_dev;
    proxy.here_ino = proxy.home_ino = st.st_ino;
    return setns(proxy.home, CLONE_NEWNET);
}

static int prepare(struct failure *f)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag(KIND_CONTROL, 0, 0)};
    size_t bytes;
    void *table;

    proxy.epoll = proxy.parent = proxy.home = -1;
    proxy.reply.fd[0] = proxy.reply.fd[1] = -1;
    if (setsid() < 0)
        return failed(f, FNS_AT_SETSID, errno);
    signals_reset();
    if (descriptors_reset(f) < 0)
        return -1;
    if (prctl(PR_SET_NAME, "fastns-proxy", 0, 0, 0) < 0)
        return failed(f, FNS_AT_PRCTL, errno);
    umask(077);
    if (chdir("/") < 0)
        return failed(f, FNS_AT_OPEN, errno);
#if !defined(FASTNS_SANITIZE)
    memory_shed();
#endif
    bytes = sizeof(struct chan) * proxy.config.max_channels;
    table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        return failed(f, FNS_AT_MMAP, errno);
    proxy.chans = table;
    proxy.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (proxy.epoll < 0 || epoll_ctl(proxy.epoll, EPOLL_CTL_ADD, proxy.config.control, &event) < 0)
        return failed(f, FNS_AT_EPOLL, errno);
    if (parent_watch() < 0)
        return failed(f, FNS_AT_PROTOCOL, ECHILD);
    proxy.can_return = home_find() == 0;
    return 0;
}

#if defined(FASTNS_COVERAGE)
extern void __gcov_dump(void);
#endif

static void __attribute__((noreturn)) finish(int status)
{
#if defined(FASTNS_COVERAGE)
    __gcov_dump();
#endif
    for (;;)
        syscall(SYS_exit_group, status);
}

static void __attribute__((noreturn, noinline)) child_run(void)
{
    struct failure f = {0, 0};
    int ready = prepare(&f);

    reply_start(FNS_HELLO, FNS_MAGIC);
    proxy.reply.head.err = f.err;
    proxy.reply.head.stage = f.stage;
    if (reply_send() == 0 && ready == 0)
        serve();
    finish(ready == 0 ? 0 : 1);
}

/* Starts the proxy; its pid, or -errno. The clone is raw: no fork handler of any library runs in a child that
 * will never use that library. Without an exit signal the caller's SIGCHLD handlers and its wait(-1) never
 * meet this child; fns_relay_wait() does. */
pid_t fns_relay_fork(const struct fns_config *config)
{
    sigset_t every, before;
    long pid;

    if (config->max_channels == 0 || config->max_channels > 0xffffu)
        return -EINVAL;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pid = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        memcpy(&proxy.config, config, sizeof(proxy.config));
        child_run();
    }
    if (pid < 0)
        pid = -errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return (pid_t)pid;
}

/* pid when it has ended, 0 when it runs, -errno (ECHILD: somebody else took its status). */
pid_t fns_relay_wait(pid_t pid, int *status, int block)
{
    pid_t got = waitpid(pid, status, __WALL | (block ? 0 : WNOHANG));

    return got < 0 ? -errno : got;
}
