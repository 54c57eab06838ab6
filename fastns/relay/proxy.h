/* The state of the proxy's process, and what all its files do alike: descriptors received, places in the epoll set.
 * It knows what of the state is whose, not what it means: no message, no channel, no policy.
 * Every file above includes it; in the caller's process there is none of it.
 *
 * Everything from here on runs in a child that has nothing but this library: the calls of call.h, static or mapped memory.
 */
#ifndef FASTNS_RELAY_PROXY_H
#define FASTNS_RELAY_PROXY_H

#include "call.h"
#include "relay.h"
#include "stage.h"
#include "ring.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* Received control messages: descriptors are closed by whoever takes the message. */
struct fds {
    uint32_t count;
    int cut;                 /* some are missing: no room in our table */
    int fd[FNS_FDS_MAX];
};

struct chan;
struct allowed;

struct fns_proxy {
    struct fns_config config;
    int first;               /* the process it was started from is there: start.c */
    int epoll, parent;
    int can_return;          /* setns to the namespace we are in works, and so does the way back to it */
    int home;                /* that namespace, where there is no list it could be missing on; else -1 */
    int keeps_namespaces;    /* no right to SIOCGSKNS: channels hold a descriptor */
    dev_t here_dev;          /* the namespace we stand in between requests */
    ino_t here_ino;
    struct chan *chans;
    uint32_t high;           /* channels below this number have been used */
    uint32_t generation;
    struct fns_spares spares;
    struct allowed *allowed; /* the list of namespaces */
    uint32_t allowed_count, allowed_room;
    int sealed;              /* it is complete */
    uint64_t stats[FNS_STAT_COUNT];
    /* a reply the control socket had no room for */
    int reply_waits;
    struct { struct fns_reply head; uint8_t payload[FNS_OPT_MAX]; int fd[2]; } reply;
};
extern struct fns_proxy proxy;

/* What an event of the epoll set is about. */
enum { KIND_CONTROL = 1, KIND_PARENT, KIND_NETLINK, KIND_CHANNEL };

static inline uint64_t tag(uint32_t kind, uint32_t index, uint32_t generation)
{
    return ((uint64_t)kind << 60) | ((uint64_t)(generation & 0xfffffffu) << 32) | index;
}

static inline uint32_t tag_kind(uint64_t value)
{
    return (uint32_t)(value >> 60);
}

static inline uint32_t tag_index(uint64_t value)
{
    return (uint32_t)value;
}

static inline int tag_is_of(uint64_t value, uint32_t generation)
{
    return (generation & 0xfffffffu) == ((value >> 32) & 0xfffffffu);
}

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)fns_call_close(*fd);
    *fd = -1;
}

static inline void fds_close(struct fds *fds)
{
    for (uint32_t i = 0; i < fds->count; i++)
        close_fd(&fds->fd[i]);
    fds->count = 0;
}

ssize_t fns_proxy_receive(int sock, void *buf, size_t size, struct fds *fds);
int fns_proxy_watch(int operation, int fd, uint32_t events, uint64_t value);

#endif
