/* Where the state of the proxy's process stands, and its two system calls that every kind of message needs.
 * It touches the epoll set and the socket it is handed, no more of the state than that.
 * Called by channel.c, requests.c, control.c and loop.c.
 */
#include "proxy.h"

struct fns_proxy proxy;

/* recvmsg with its descriptors. Bytes, 0 at end of file, -errno; -EMSGSIZE when the message was cut off. */
ssize_t fns_proxy_receive(int sock, void *buf, size_t size, struct fds *fds)
{
    static union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int) * FNS_FDS_MAX)]; } control;
    struct iovec iov = {buf, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c;
    ssize_t got;

    fds->count = 0;
    fds->cut = 0;
    do
        got = fns_call_recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got == -EINTR);
    if (got < 0)
        return got;
    /* One header holds all the descriptors of a message, and nothing else was asked for: unix(7). */
    c = CMSG_FIRSTHDR(&msg);
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(0)) {
        size_t bytes = c->cmsg_len - CMSG_LEN(0);
        if (bytes > sizeof(fds->fd))
            bytes = sizeof(fds->fd);
        memcpy(fds->fd, CMSG_DATA(c), bytes);
        fds->count = (uint32_t)(bytes / sizeof(int));
    }
    fds->cut = (msg.msg_flags & MSG_CTRUNC) != 0;
    return (msg.msg_flags & MSG_TRUNC) != 0 ? -EMSGSIZE : got;
}

/* epoll_ctl, with the tag that comes with an event of it: 0, or -errno. */
int fns_proxy_watch(int operation, int fd, uint32_t events, uint64_t value)
{
    struct epoll_event event = {.events = events, .data.u64 = value};

    return fns_call_epoll_ctl(proxy.epoll, operation, fd, &event);
}
