/* What the files of the proxy share; relay.h is what it shares with the caller.
 *
 * Everything here runs in a child forked from a process with threads, so it is limited to what is safe in a
 * signal handler: plain system calls, static or mapped memory, no allocation, no stdio.
 */
#ifndef FASTNS_RELAY_PROXY_H
#define FASTNS_RELAY_PROXY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "relay.h"
#include "gap.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PENDING_MAX = 16 };

struct chan {
    int netlink, sock;       /* -1 when free */
    int nsfd;                /* the namespace, where the proxy may not ask the socket for it; else -1 */
    uint32_t generation;
    uint32_t portid;
    int family;
    uint8_t stalled;         /* the ring is full: EPOLLIN of the netlink socket is off */
    uint8_t pending;         /* error records that wait for room */
    struct fns_gap gap;
    uint64_t largest;        /* largest request: its echo may come back in an answer */
    struct fns_ring *ring;
    uint8_t *data;
    uint64_t size, head, base, tail, high;
    uint64_t emptied[2];     /* head when the ring was seen empty the last time, and the time before */
    struct { uint32_t type; struct fns_error error; } errors[PENDING_MAX];
};

/* Received control messages: descriptors are closed by whoever takes the message. */
struct fds {
    uint32_t count;
    int cut;                 /* some are missing: no room in our table */
    int fd[FNS_FDS_MAX];
};

struct fns_proxy {
    struct fns_config config;
    int epoll, parent, home;
    int can_return;          /* setns to the namespace we are in works, and so does the way back to it */
    int keeps_namespaces;    /* no right to SIOCGSKNS: channels hold a descriptor */
    dev_t here_dev;          /* the namespace we stand in between requests */
    ino_t here_ino;
    struct chan *chans;
    uint32_t high;           /* channels below this number have been used */
    uint32_t generation;
    uint64_t stats[FNS_STAT_COUNT];
    /* a reply the control socket had no room for */
    int sealed;              /* the list of namespaces is complete */
    int reply_waits;
    struct { struct fns_reply head; uint8_t payload[FNS_OPT_MAX]; int fd[2]; } reply;
};
extern struct fns_proxy proxy;

union fns_control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * FNS_FDS_MAX)];
};
extern union fns_control control;

/* The step that failed and its errno. */
struct failure {
    uint32_t stage;
    int err;
};

static inline int failed(struct failure *f, uint32_t stage, int err)
{
    f->stage = stage;
    f->err = err;
    return -1;
}

enum { KIND_CONTROL = 1, KIND_PARENT, KIND_NETLINK, KIND_CHANNEL };

static inline uint64_t tag(uint32_t kind, uint32_t index, uint32_t generation)
{
    return ((uint64_t)kind << 60) | ((uint64_t)(generation & 0xfffffffu) << 32) | index;
}

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static inline void fds_close(struct fds *fds)
{
    for (uint32_t i = 0; i < fds->count; i++)
        close_fd(&fds->fd[i]);
    fds->count = 0;
}

static inline uint64_t record_space(uint64_t len)
{
    return (sizeof(struct fns_record) + len + 7u) & ~(uint64_t)7u;
}

static inline uint32_t chan_index(const struct chan *c)
{
    return (uint32_t)(c - proxy.chans);
}

static inline uint32_t chan_number(const struct chan *c)
{
    return chan_index(c) | c->generation << 16;
}

ssize_t fns_receive(int sock, void *buf, size_t size, struct fds *fds);
void fns_chan_messages(struct chan *c);
void fns_chan_close(struct chan *c);
void fns_ring_start(struct chan *c, void *map, uint64_t size);
int fns_ring_again(struct chan *c, uint32_t number, uint64_t size);
int fns_control_message(void);
int fns_reply_send(void);
int fns_reply_finish(void);
void fns_reply_start(uint32_t op, uint32_t id);
void fns_serve(void);
int fns_netns_stat(int fd, struct stat *st);
int fns_name_ok(const char *name, uint32_t len);
int fns_name_open(const char *name, uint32_t len);
int fns_policy_add(const char *name, uint32_t len, int *fd);
int fns_policy_name(const char *name, uint32_t len);
int fns_policy_fd(int fd);
int fns_policy_family(int family);
int fns_policy_setsockopt(int level, int option, const void *value, uint32_t len);
int fns_policy_getsockopt(int level, int option);
int fns_policy_request(int family, const uint8_t *data, uint32_t len, const uint32_t *offsets, const int *fd,
                       uint32_t patches);
int fns_power_drop(struct failure *f);

#endif
