/* Where datagrams of a netlink socket are missing: behind which of those that were queued when recvmsg() said ENOBUFS.
 *
 * The kernel says so before these, and queues nothing more until a recvmsg() has taken the last of them
 * (netlink_overrun(), netlink_rcv_wake()). What it queues next may be there before anybody has found the queue empty.
 * So the memory of the queue is looked at behind each datagram: behind the last one there is none, or that of newer
 * ones; any other one leaves less than there was, by its own length and more. A large last one that newer small ones
 * follow leaves less too: but there was no more than its own memory, which others of its length have told.
 *
 * It looks at the socket it is given and keeps what it saw there, nothing else; never Python.h.
 * Both transports call it: channel.c in the proxy, fastns/core/sock.pxi for sockets of this process.
 */
#ifndef FASTNS_RELAY_GAP_H
#define FASTNS_RELAY_GAP_H

#include "call.h"

#include <linux/sock_diag.h>
#include <stdint.h>

enum fns_gap_state {
    FNS_GAP_NONE,
    FNS_GAP_OPEN,    /* the queue before the gap is still being read */
    FNS_GAP_DOUBT,   /* the place is found: if the kernel goes on dropping without a word, it was not the place */
    FNS_GAP_TOLD     /* the queue has not been found empty since */
};

enum { FNS_GAP_SIZES = 32 };

enum { FNS_GAP_LOOKS = 4, FNS_GAP_SURE = 2, FNS_GAP_DOUBTS = 64 };

/* No datagram takes less memory than its length and this, of its sk_buff and skb_shared_info. */
enum { FNS_GAP_OVERHEAD = 64 * sizeof(void *) };

struct fns_gap {
    uint32_t state;
    uint32_t queued;    /* bytes of memory */
    uint32_t dropped;   /* datagrams, by the kernel and ever, as far as they are told */
    uint32_t missing;   /* of these in the last gap */
    uint32_t doubts;
    struct { uint32_t len, memory; } sizes[FNS_GAP_SIZES];    /* of datagrams that others were queued behind */
};

static inline int fns_gap_look(int fd, uint32_t *queued, uint32_t *dropped)
{
    uint32_t info[SK_MEMINFO_VARS];
    socklen_t len = sizeof(info);

    if (fns_call_getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &len) < 0 || len <= SK_MEMINFO_DROPS * sizeof(info[0]))
        return -1;
    *queued = info[SK_MEMINFO_RMEM_ALLOC];
    *dropped = info[SK_MEMINFO_DROPS];
    return 0;
}

static inline int fns_gap_found(struct fns_gap *g, uint32_t queued, uint32_t dropped)
{
    g->queued = queued;
    g->missing = dropped - g->dropped;
    g->dropped = dropped;
    g->state = FNS_GAP_DOUBT;
    g->doubts = FNS_GAP_DOUBTS;
    return 1;
}

/* recvmsg() said ENOBUFS. This and the next two: 1 when the gap is here. */
static inline int fns_gap_open(struct fns_gap *g, int fd)
{
    uint32_t dropped = g->dropped;

    g->state = FNS_GAP_OPEN;
    g->queued = UINT32_MAX;    /* where the kernel does not tell, only an empty queue ends it */
    (void)fns_gap_look(fd, &g->queued, &dropped);
    return g->queued == 0 ? fns_gap_found(g, 0, dropped) : 0;
}

/* A datagram of `len` bytes was read. */
static inline int fns_gap_behind(struct fns_gap *g, int fd, uint32_t len)
{
    uint32_t queued, dropped = g->dropped, lowest = UINT32_MAX;
    uint32_t at = len / 4 % FNS_GAP_SIZES;
    int here = 1;

    if (g->state == FNS_GAP_NONE || g->state == FNS_GAP_TOLD)
        return 0;
    /* A datagram that is about to be dropped counts for a moment too (netlink_broadcast_deliver()). */
    for (int looks = 0; looks < (here ? FNS_GAP_LOOKS : FNS_GAP_SURE); looks++) {
        if (fns_gap_look(fd, &queued, &dropped) < 0)
            return 0;
        if (queued < lowest)
            lowest = queued;
        here = lowest == 0 || (uint64_t)lowest + len + FNS_GAP_OVERHEAD > g->queued;
    }
    if (g->state == FNS_GAP_OPEN) {
        if (g->sizes[at].len == len && g->queued < (uint64_t)g->sizes[at].memory + FNS_GAP_OVERHEAD)
            here = 1;
        if (here)
            return fns_gap_found(g, lowest, dropped);
        if (g->queued != UINT32_MAX) {
            g->sizes[at].len = len;
            g->sizes[at].memory = g->queued - lowest;
        }
    }
    if (g->state == FNS_GAP_DOUBT) {
        if (dropped != g->dropped)
            g->state = FNS_GAP_OPEN;
        else if (--g->doubts == 0)
            g->state = FNS_GAP_TOLD;
    }
    g->queued = lowest;
    return 0;
}

/* recvmsg() found nothing. */
static inline int fns_gap_empty(struct fns_gap *g, int fd)
{
    uint32_t queued, dropped = g->dropped, state = g->state;

    if (state == FNS_GAP_NONE)
        return 0;
    (void)fns_gap_look(fd, &queued, &dropped);
    g->state = FNS_GAP_NONE;
    if (state != FNS_GAP_OPEN && dropped == g->dropped)
        return 0;
    g->missing = dropped - g->dropped;
    g->dropped = dropped;
    return 1;
}

#endif
