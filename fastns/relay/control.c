/* The control socket: opening channels, their options, the list of namespaces, and the one reply to each of these.
 * What is allowed it asks policy.c, what a channel is it leaves to channel.c. Of a namespace it knows the descriptor.
 * start.c calls it once to say that the proxy serves, loop.c for each event of the control socket.
 */
#include "control.h"
#include "netns.h"
#include "policy.h"
#include "requests.h"

static int open_name(const char *name, uint32_t len, struct failure *f)
{
    int fd;

    if (!fns_netns_name_ok(name, len))
        return failed(f, FNS_AT_OPEN, EINVAL);
    fd = fns_netns_open(name, len);
    if (!fns_policy_allows_name(name, len) && (fd < 0 || !fns_policy_allows_fd(fd))) {
        close_fd(&fd);       /* whether there is something is none of the caller's business either */
        return failed(f, FNS_AT_POLICY, EACCES);
    }
    return fd < 0 ? failed(f, FNS_AT_OPEN, -fd) : fd;
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
    if (!fns_policy_allows_family(o.family)
        || ((o.flags & FNS_OPEN_ALL_NSID) != 0
            && fns_policy_setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, NULL, 0) != 0)
        || (fds->count == 1 && !fns_policy_allows_fd(fds->fd[0]))) {
        failed(f, FNS_AT_POLICY, EACCES);
        return;
    }
    c = o.spare != 0 ? fns_channel_find(o.spare) : NULL;
    if (c != NULL)
        fns_requests_sweep(c);
    for (int attempt = 0;; attempt++) {
        f->err = 0;
        if (o.name_len != 0)
            nsfd = open_name((const char *)payload + sizeof(o), o.name_len, f);
        else if (fds->count == 0)
            nsfd = fns_channel_netns(fns_channel_find(rq->chan), f);
        else
            nsfd = fds->fd[0];
        c = NULL;
        if (nsfd >= 0) {
            sock = fns_netns_socket(nsfd, o.family, f);
            if (sock >= 0)
                c = fns_channel_create(sock, &o, pair, &memfd, f);
            if (c != NULL && proxy.keeps_namespaces) {
                c->nsfd = nsfd;
                fds->count = 0;
            } else if (fds->count == 0) {
                (void)fns_call_close(nsfd);
            }
        }
        if (c != NULL || f->err != EMFILE || attempt == 1)
            break;
        fns_requests_sweep_all();
    }
    if (c == NULL)
        return;
    proxy.reply.fd[0] = pair[1];
    proxy.reply.fd[1] = memfd;
    proxy.reply.head.chan = fns_channel_number(c);
    proxy.reply.head.a = c->portid;
    proxy.reply.head.size = c->ring.size;
}

static void op_channel(const struct fns_request *rq, const uint8_t *payload, struct failure *f)
{
    struct chan *c = fns_channel_find(rq->chan);
    struct fns_reply *reply = &proxy.reply.head;
    socklen_t len = sizeof(proxy.reply.payload);
    int err;

    /* Requests sent before this one come first: they wait in the channel's own socket. */
    if (c != NULL)
        fns_requests_drain(c);
    if (c == NULL || c->sock < 0) {
        failed(f, FNS_AT_PROTOCOL, EBADF);
        return;
    }
    switch (rq->op) {
    case FNS_SETSOCKOPT:
        err = fns_policy_setsockopt(rq->a, rq->b, payload, rq->len);
        if (err != 0)
            failed(f, err == EACCES ? FNS_AT_POLICY : FNS_AT_SETSOCKOPT, err);
        else if ((err = fns_call_setsockopt(c->netlink, rq->a, rq->b, payload, rq->len)) < 0)
            failed(f, FNS_AT_SETSOCKOPT, -err);
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
        else if ((err = fns_call_getsockopt(c->netlink, rq->a, rq->b, proxy.reply.payload, &len)) < 0)
            failed(f, FNS_AT_GETSOCKOPT, -err);
        else
            reply->len = len < sizeof(proxy.reply.payload) ? len : (uint32_t)sizeof(proxy.reply.payload);
        break;
    case FNS_NETNS:
        proxy.reply.fd[0] = fns_channel_netns(c, f);
        break;
    case FNS_BIND:
        /* A bound socket keeps its port: 0 means that one. */
        err = fns_channel_bind(c, rq->a != 0 ? (uint32_t)rq->a : c->portid, (uint32_t)rq->b);
        if (err < 0) {
            failed(f, FNS_AT_BIND, -err);
            break;
        }
        /* fall through */
    default:
        err = fns_channel_name(c, &reply->a, &reply->b);
        if (err < 0)
            failed(f, FNS_AT_GETSOCKNAME, -err);
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
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(proxy.reply.fd))]; } control;
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
        sent = fns_call_sendmsg(proxy.config.control, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent == -EINTR);
    return sent;
}

/* 0 when sent, -EAGAIN when there is no room, another -errno when no reply will ever arrive: then the proxy has to
 * end, as the caller waits for it. */
static int reply_send(void)
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

static int reply_finish(void)
{
    int result = reply_send(), waits = result == -EAGAIN;

    if (waits != proxy.reply_waits) {
        proxy.reply_waits = waits;
        (void)fns_proxy_watch(EPOLL_CTL_MOD, proxy.config.control, waits ? EPOLLOUT : EPOLLIN, tag(KIND_CONTROL, 0, 0));
    }
    return result == 0 || waits ? 0 : -1;
}

static void reply_start(uint32_t op, uint32_t id)
{
    memset(&proxy.reply.head, 0, sizeof(proxy.reply.head));
    proxy.reply.head.op = op;
    proxy.reply.head.id = id;
    proxy.reply.fd[0] = proxy.reply.fd[1] = -1;
}

int fns_control_hello(const struct failure *f)
{
    reply_start(FNS_HELLO, FNS_MAGIC);
    proxy.reply.head.err = f->err;
    proxy.reply.head.stage = f->stage;
    return reply_send();
}

/* A message without a byte looks like the end; only the end hangs up. */
static int control_ended(void)
{
    struct pollfd p = {proxy.config.control, 0, 0};

    return fns_call_poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

/* One request of the control socket, if there is one. -1 at its end: the proxy's work is done. */
static int control_message(void)
{
    static union { struct fns_request head; uint8_t bytes[sizeof(struct fns_request) + FNS_OPT_MAX]; } in;
    struct failure f = {0, 0};
    struct fds fds;
    const uint8_t *payload = in.bytes + sizeof(in.head);
    ssize_t got = fns_proxy_receive(proxy.config.control, in.bytes, sizeof(in.bytes), &fds);

    if (got == -EAGAIN)
        return 0;
    if (got == -ECONNRESET || (got == 0 && control_ended()))
        return -1;
    if (got >= (ssize_t)sizeof(in.head)) {
        reply_start(in.head.op, in.head.id);
        if (fds.cut) {
            fns_requests_sweep_all();
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
        reply_start(0, 0);   /* shorter than a header, or longer than any request */
        failed(&f, FNS_AT_PROTOCOL, EPROTO);
    }
    fds_close(&fds);
    proxy.reply.head.err = f.err;
    proxy.reply.head.stage = f.stage;
    if (f.err != 0)
        proxy.stats[FNS_STAT_REFUSED]++;
    return reply_finish();
}

int fns_control_serve(uint32_t events)
{
    if (!proxy.reply_waits)
        return control_message();
    return (events & (EPOLLHUP | EPOLLERR)) != 0 ? -1 : reply_finish();
}
