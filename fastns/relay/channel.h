/* What a channel is, for the files above: its sockets, how far its ring is, the errors that wait for room in it.
 * They read its fields; what moves in it moves by the functions here.
 * Included by requests.c, control.c and loop.c, in the proxy only.
 */
#ifndef FASTNS_RELAY_CHANNEL_H
#define FASTNS_RELAY_CHANNEL_H

#include "proxy.h"
#include "gap.h"

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
    struct fns_writer ring;
    struct { uint32_t type; struct fns_error error; } errors[PENDING_MAX];
};

static inline uint32_t fns_channel_number(const struct chan *c)
{
    return (uint32_t)(c - proxy.chans) | c->generation << 16;
}

struct chan *fns_channel_create(int netlink, const struct fns_open *o, int pair[2], int *memfd, struct failure *f);
void fns_channel_close(struct chan *c);
struct chan *fns_channel_find(uint32_t number);
struct chan *fns_channel_tagged(uint64_t value);
int fns_channel_name(const struct chan *c, uint32_t *portid, uint32_t *groups);
int fns_channel_bind(const struct chan *c, uint32_t portid, uint32_t groups);
int fns_channel_netns(const struct chan *c, struct failure *f);
int fns_channel_pump(struct chan *c);
void fns_channel_ring(struct chan *c);
void fns_channel_report(struct chan *c, uint32_t type, int err, uint32_t detail);
void fns_channel_error(struct chan *c);

#endif
