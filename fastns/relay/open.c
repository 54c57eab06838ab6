/* The control socket of the proxy: opening channels, their options. */
#include "proxy.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

/* 0 and its identity for a descriptor of a network namespace, else -1 and errno. ioctl_nsfs(2). */
int fns_netns_stat(int fd, struct stat *st)
{
    int type = ioctl(fd, NS_GET_NSTYPE);

    if (type == CLONE_NEWNET)
        return fstat(fd, st);
    if (type >= 0 || errno == ENOTTY)
        errno = EINVAL;
    return -1;
}

/* A netlink socket inside a namespace. */
static int socket_inside(int nsfd, int family, struct failure *f)
{
    struct stat st;
    int sock, entered;

    if (fns_netns_stat(nsfd, &st) < 0)
        return failed(f, FNS_AT_NSTYPE, errno);
    entered = st.st_ino != proxy.here_ino || st.st_dev != proxy.here_dev;
    if (entered) {
        if (!proxy.can_return)
            return socket_from_helper(nsfd, family, f);
        if (setns(nsfd, CLONE_NEWNET) < 0)
            return failed(f, FNS_AT_SETNS, errno);
    }
    sock = netlink_socket(family);
    if (sock < 0)
        (void)failed(f, FNS_AT_SOCKET, errno);
    /* Through descriptors the proxy could work from anywhere, but where it stands a namespace cannot end. */
    if (entered && setns(proxy.home, CLONE_NEWNET) < 0)
        proxy.here_ino = 0;      /* wherever that is: from now on every socket is made by entering first */
    return sock;
}

static int buffer_size(int sock, int force, int plain, uint32_t bytes, struct failure *f)
{
    int value = (int)(bytes > FNS_BUFFER_MAX ? FNS_BUFFER_MAX : bytes);

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
    struct sockaddr_nl name = {0};
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
        fns_ring_start(c, map, size);
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
static void chan_sweep(struct chan *c)
{
    struct pollfd p = {c->sock, 0, 0};

    /* What it sent before is done first. */
    if (p.fd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0)
        while (c->sock >= 0)
            fns_chan_messages(c);
}

static void chans_sweep(void)
{
    for (uint32_t i = 0; i < proxy.high; i++)
        chan_sweep(&proxy.chans[i]);
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

/* The ring of a channel: a spare one, *memfd stays -1, or a new one. */
static int ring_get(struct chan *c, const struct fns_open *o, int *memfd, struct failure *f)
{
    uint64_t size = ring_size(o->ring_size);

    if (o->spare != 0 && fns_ring_again(c, o->spare, size))
        return 0;
    *memfd = ring_create(c, size, f);
    return *memfd < 0 ? -1 : 0;
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
    c->sock = c->nsfd = -1;
    c->family = o->family;
    c->generation = ++proxy.generation;
    if (socket_options(netlink, o, f) == 0) {
        if (netlink_name(netlink, &portid, &groups) < 0) {
            failed(f, FNS_AT_GETSOCKNAME, errno);
        } else if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
            failed(f, FNS_AT_SOCKETPAIR, errno);
        } else {
            c->portid = portid;
            if (ring_get(c, o, memfd, f) == 0) {
                int size = 2 * (int)FNS_INLINE_MAX;
                c->sock = pair[0];
                pair[0] = -1;
                (void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
                proxy.stats[FNS_STAT_CHANNELS]++;
                proxy.stats[FNS_STAT_OPENED]++;
                if (chan_watch(c, f) == 0)
                    return c;
                fns_chan_close(c);
            }
        }
    }
    close_fd(&c->netlink);
    close_fd(&pair[0]);
    close_fd(&pair[1]);
    close_fd(memfd);
    return NULL;
}

static int open_name(const char *name, uint32_t len, struct failure *f)
{
    int fd;

    if (!fns_name_ok(name, len))
        return failed(f, FNS_AT_OPEN, EINVAL);
    fd = fns_name_open(name, len);
    if (!fns_policy_name(name, len) && (fd < 0 || !fns_policy_fd(fd))) {
        close_fd(&fd);       /* whether there is something is none of the caller's business either */
        return failed(f, FNS_AT_POLICY, EACCES);
    }
    return fd < 0 ? failed(f, FNS_AT_OPEN, errno) : fd;
}

static struct chan *chan_find(uint32_t number)
{
    uint32_t index = number & 0xffffu;

    if (index >= proxy.high || proxy.chans[index].sock < 0
        || (proxy.chans[index].generation & 0xffffu) != number >> 16)
        return NULL;
    return &proxy.chans[index];
}

/* A new descriptor of the namespace a channel is in. It was allowed when that channel was opened, so it is now. */
static int chan_netns(const struct chan *c, struct failure *f)
{
    int fd;

    if (c == NULL)
        return failed(f, FNS_AT_PROTOCOL, EBADF);
    fd = c->nsfd >= 0 ? fcntl(c->nsfd, F_DUPFD_CLOEXEC, 0) : ioctl(c->netlink, SIOCGSKNS);
    return fd < 0 ? failed(f, FNS_AT_SKNS, errno) : fd;
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
        || (o.name_len != 0 ? 1u : 0u) + fds->count + ((o.flags & FNS_OPEN_BESIDE) != 0 ? 1u : 0u) != 1u) {
        failed(f, FNS_AT_PROTOCOL, EPROTO);
        return;
    }
    if (!fns_policy_family(o.family)
        || ((o.flags & FNS_OPEN_ALL_NSID) != 0
            && fns_policy_setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, NULL, 0) != 0)
        || (fds->count == 1 && !fns_policy_fd(fds->fd[0]))) {
        failed(f, FNS_AT_POLICY, EACCES);
        return;
    }
    c = o.spare != 0 ? chan_find(o.spare) : NULL;
    if (c != NULL)
        chan_sweep(c);
    for (int attempt = 0;; attempt++) {
        f->err = 0;
        if (o.name_len != 0)
            nsfd = open_name((const char *)payload + sizeof(o), o.name_len, f);
        else if (fds->count == 0)
            nsfd = chan_netns(chan_find(rq->chan), f);
        else
            nsfd = fds->fd[0];
        c = NULL;
        if (nsfd >= 0) {
            sock = socket_inside(nsfd, o.family, f);
            if (sock >= 0)
                c = chan_create(sock, &o, pair, &memfd, f);
            if (c != NULL && proxy.keeps_namespaces) {
                c->nsfd = nsfd;
                fds->count = 0;
            } else if (fds->count == 0) {
                close(nsfd);
            }
        }
        if (c != NULL || f->err != EMFILE || attempt == 1)
            break;
        chans_sweep();
    }
    if (c == NULL)
        return;
    proxy.reply.fd[0] = pair[1];
    proxy.reply.fd[1] = memfd;
    proxy.reply.head.chan = chan_number(c);
    proxy.reply.head.a = c->portid;
    proxy.reply.head.size = c->size;
}

static void op_channel(const struct fns_request *rq, const uint8_t *payload, struct failure *f)
{
    struct chan *c = chan_find(rq->chan);
    struct fns_reply *reply = &proxy.reply.head;
    socklen_t len = sizeof(proxy.reply.payload);
    int err;

    /* Requests sent before this one come first: they wait in the channel's own socket. */
    if (c != NULL)
        fns_chan_messages(c);
    if (c == NULL || c->sock < 0) {
        failed(f, FNS_AT_PROTOCOL, EBADF);
        return;
    }
    switch (rq->op) {
    case FNS_SETSOCKOPT:
        err = fns_policy_setsockopt(rq->a, rq->b, payload, rq->len);
        if (err != 0)
            failed(f, err == EACCES ? FNS_AT_POLICY : FNS_AT_SETSOCKOPT, err);
        else if (setsockopt(c->netlink, rq->a, rq->b, payload, rq->len) < 0)
            failed(f, FNS_AT_SETSOCKOPT, errno);
        break;
    case FNS_GETSOCKOPT:
        if (rq->len == sizeof(uint32_t)) {
            uint32_t wanted;
            memcpy(&wanted, payload, sizeof(wanted));
            if (wanted < len)
                len = wanted;
        }
        err = fns_policy_getsockopt(rq->a, rq->b);
        if (err != 0)
            failed(f, FNS_AT_GETSOCKOPT, err);
        else if (getsockopt(c->netlink, rq->a, rq->b, proxy.reply.payload, &len) < 0)
            failed(f, FNS_AT_GETSOCKOPT, errno);
        else
            reply->len = len < sizeof(proxy.reply.payload) ? len : (uint32_t)sizeof(proxy.reply.payload);
        break;
    case FNS_NETNS:
        proxy.reply.fd[0] = chan_netns(c, f);
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

static void op_allow(const struct fns_request *rq, const uint8_t *payload, struct fds *fds, struct failure *f)
{
    int err = EPROTO;

    if (fds->count == (rq->len == 0 ? 1u : 0u))
        err = fns_policy_add((const char *)payload, rq->len, &fds->fd[0]);
    if (err != 0)
        failed(f, FNS_AT_POLICY, err);
}

static ssize_t reply_try(void)
{
    struct iovec iov = {&proxy.reply, sizeof(proxy.reply.head) + proxy.reply.head.len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t sent;

    if (proxy.reply.fd[0] >= 0) {
        size_t bytes = (proxy.reply.fd[1] >= 0 ? 2u : 1u) * sizeof(int);
        struct cmsghdr *c;
        msg.msg_control = control.bytes;
        msg.msg_controllen = (socklen_t)CMSG_SPACE(bytes);
        memset(control.bytes, 0, CMSG_SPACE(bytes));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = (socklen_t)CMSG_LEN(bytes);
        memcpy(CMSG_DATA(c), proxy.reply.fd, bytes);
    }
    do
        sent = sendmsg(proxy.config.control, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

/* 0 when sent, -EAGAIN when there is no room, another -errno when no reply will ever arrive: then the proxy has to
 * end, as the caller waits for it. */
int fns_reply_send(void)
{
    ssize_t sent = reply_try();

    if (sent == -EAGAIN)
        return -EAGAIN;
    if (sent < 0 && proxy.reply.fd[0] >= 0) {
        /* Too many descriptors on their way (unix(7), ETOOMANYREFS), or no memory for these: say so instead. The
         * channel's other end closes with them. */
        close_fd(&proxy.reply.fd[0]);
        close_fd(&proxy.reply.fd[1]);
        proxy.reply.head.err = (int32_t)-sent;
        proxy.reply.head.stage = FNS_AT_SENDMSG;
        sent = reply_try();
    }
    close_fd(&proxy.reply.fd[0]);
    close_fd(&proxy.reply.fd[1]);
    return sent < 0 ? (int)sent : 0;
}

static void control_listen(uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = tag(KIND_CONTROL, 0, 0)};

    (void)epoll_ctl(proxy.epoll, EPOLL_CTL_MOD, proxy.config.control, &event);
}

int fns_reply_finish(void)
{
    int result = fns_reply_send(), waits = result == -EAGAIN;

    if (waits != proxy.reply_waits) {
        proxy.reply_waits = waits;
        control_listen(waits ? EPOLLOUT : EPOLLIN);
    }
    return result == 0 || waits ? 0 : -1;
}

void fns_reply_start(uint32_t op, uint32_t id)
{
    memset(&proxy.reply.head, 0, sizeof(proxy.reply.head));
    proxy.reply.head.op = op;
    proxy.reply.head.id = id;
    proxy.reply.fd[0] = proxy.reply.fd[1] = -1;
}

/* A message without a byte looks like the end; only the end hangs up. */
static int control_ended(void)
{
    struct pollfd p = {proxy.config.control, 0, 0};

    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

/* One request of the control socket. 0 when there was none, -1 at its end: the proxy's work is done. */
int fns_control_message(void)
{
    static union { struct fns_request head; uint8_t bytes[sizeof(struct fns_request) + FNS_OPT_MAX]; } in;
    struct failure f = {0, 0};
    struct fds fds;
    const uint8_t *payload = in.bytes + sizeof(in.head);
    ssize_t got = fns_receive(proxy.config.control, in.bytes, sizeof(in.bytes), &fds);

    if (got == -EAGAIN)
        return 0;
    if (got == -ECONNRESET || (got == 0 && control_ended()))
        return -1;
    if (got >= (ssize_t)sizeof(in.head)) {
        fns_reply_start(in.head.op, in.head.id);
        if (fds.cut) {
            chans_sweep();
            failed(&f, FNS_AT_RECVMSG, EMFILE);
        } else if (in.head.len != (size_t)got - sizeof(in.head)) {
            failed(&f, FNS_AT_PROTOCOL, EPROTO);
        } else if (in.head.op == FNS_SEAL) {
            proxy.sealed = 1;
        } else if (!proxy.sealed && in.head.op == FNS_ALLOW) {
            op_allow(&in.head, payload, &fds, &f);
        } else if (!proxy.sealed || in.head.op == FNS_ALLOW) {
            failed(&f, FNS_AT_PROTOCOL, EPERM);
        } else if (in.head.op == FNS_OPEN) {
            op_open(&in.head, payload, &fds, &f);
        } else if (in.head.op == FNS_STATS) {
            memcpy(proxy.reply.payload, proxy.stats, sizeof(proxy.stats));
            proxy.reply.head.len = sizeof(proxy.stats);
        } else if ((in.head.op >= FNS_SETSOCKOPT && in.head.op <= FNS_BIND) || in.head.op == FNS_NETNS) {
            op_channel(&in.head, payload, &f);
        } else {
            failed(&f, FNS_AT_PROTOCOL, ENOSYS);
        }
    } else {
        fns_reply_start(0, 0);   /* shorter than a header, or longer than any request */
        failed(&f, FNS_AT_PROTOCOL, EPROTO);
    }
    fds_close(&fds);
    proxy.reply.head.err = f.err;
    proxy.reply.head.stage = f.stage;
    if (f.err != 0)
        proxy.stats[FNS_STAT_REFUSED]++;
    return fns_reply_finish() < 0 ? -1 : 1;
}
