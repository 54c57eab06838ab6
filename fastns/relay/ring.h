/* The ring: shared memory in which the proxy writes records and the caller reads them, of which this is both ends.
 * It touches nothing else: no socket, no channel, no state of the proxy but what it is handed.
 * The caller's end is called by fastns/core/channel.pxi, the proxy's by channel.c.
 */
#ifndef FASTNS_RELAY_RING_H
#define FASTNS_RELAY_RING_H

#include "call.h"
#include "relay.h"
#include "stage.h"

#include <stdatomic.h>
#include <stddef.h>

#define FNS_RING_MIN (64u * 1024u)
#define FNS_RING_MAX (1u << 30)
#define FNS_RING_HEADER 4096u          /* bytes before the ring's data */
#define FNS_RING_SPARES 4
#define FNS_LOOK_NS 40000              /* how long the caller looks for an answer before it sleeps */

/* Positions count bytes and never go back; the record at `pos` is at offset (pos - base) % size.
 * `base` moves only while the ring is empty, to start again at the first page. */
enum fns_record_type {
    FNS_DATA = 1,      /* one netlink datagram */
    FNS_SKIP = 2,      /* nothing: fills the end before a wrap */
    FNS_OVERRUN = 3,   /* the kernel dropped datagrams here: fns_error, detail is how many, 0: not known */
    FNS_ERROR = 4,     /* sendto failed: fns_error */
    FNS_TRUNCATED = 5, /* a datagram larger than the ring was dropped: fns_error, detail is its size */
    FNS_FOREIGN = 6    /* one netlink datagram from another namespace, and the int32_t id of that (all_ns) */
};

struct fns_record {
    uint32_t len;      /* bytes after this header; the next record starts 8-aligned */
    uint32_t type;
};

struct fns_error {
    int32_t err;
    uint32_t detail;
};

enum fns_ring_bell {
    FNS_BELL_ASKED = 0,   /* by the caller, for a doorbell with the next record */
    FNS_BELL_QUIET = 1,   /* the caller does not wait */
    FNS_BELL_RUNG = 2
};

struct fns_ring {
    uint32_t magic, reserved;
    uint64_t size;
    char pad0[48];
    /* written by the proxy */
    _Atomic uint64_t head;
    _Atomic uint64_t base;
    _Atomic uint32_t cpu;    /* where it last worked */
    char pad1[44];
    /* written by the caller */
    _Atomic uint64_t tail;
    char pad2[56];
    /* both: fns_ring_bell; 1 asks for FNS_SPACE when records are freed */
    _Atomic uint32_t bell;
    char pad3[60];
    _Atomic uint32_t want;
    char pad4[60];
};

/* What a record with that many bytes of payload takes. */
static inline uint64_t fns_ring_space(uint64_t len)
{
    return (sizeof(struct fns_record) + len + 7u) & ~(uint64_t)7u;
}

/* The caller's end of a ring. Trusts nothing in it: no read outside data[0..size). */
struct fns_reader {
    struct fns_ring *ring;
    const uint8_t *data;
    uint64_t size;
    uint64_t tail;
    uint64_t end;      /* position after the record fns_ring_next() returned */
    uint64_t head;     /* last head seen, so that a drained batch reads the shared word once */
};

int fns_ring_attach(struct fns_reader *reader, void *map, size_t map_len);
int fns_ring_next(struct fns_reader *reader, const uint8_t **payload, uint32_t *len, uint32_t *type);
int fns_ring_release(struct fns_reader *reader);
int fns_ring_empty(struct fns_reader *reader);
int fns_ring_look(struct fns_reader *reader);
int fns_ring_arm(struct fns_reader *reader);
int fns_ring_disarm(struct fns_reader *reader);

/* The proxy's end. Of what the caller writes it reads `tail`, `bell` and `want`, and no position from there is used
 * before it was checked. */
struct fns_writer {
    struct fns_ring *ring;
    uint8_t *data;
    uint64_t size, head, base, tail, high;
    uint64_t emptied[2];     /* head when the ring was seen empty the last time, and the time before */
};

/* The rings of the channels closed last, for the next ones: making a ring and mapping it on both sides is a third of
 * what opening and closing a channel costs. The caller had them mapped before, so it learns nothing new from them. */
struct fns_spares {
    struct { void *map; uint64_t size; uint32_t number; } at[FNS_RING_SPARES];
    uint32_t next;
};

int fns_ring_get(struct fns_writer *w, struct fns_spares *spares, uint32_t number, uint32_t wanted, int *memfd,
                 struct failure *f);
void fns_ring_spare(struct fns_writer *w, struct fns_spares *spares, uint32_t number);
int fns_ring_update(struct fns_writer *w);
uint64_t fns_ring_room(const struct fns_writer *w);
uint8_t *fns_ring_reserve(struct fns_writer *w, uint64_t len);
void fns_ring_publish(struct fns_writer *w, uint8_t *payload, uint32_t len, uint32_t type);
int fns_ring_await(struct fns_writer *w);
int fns_ring_answer(struct fns_writer *w);
void fns_ring_quiet(struct fns_writer *w);
void fns_ring_worked(struct fns_writer *w);

#endif
