/* The caller's end of the ring. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "relay.h"

#include <sched.h>
#include <string.h>
#include <time.h>

static const char *const stage_names[FNS_AT_COUNT] = {
    "the proxy's protocol", "open", "ioctl(NS_GET_NSTYPE)", "setns", "socket", "setsockopt",
    "getsockopt", "bind", "getsockname", "memfd_create", "ftruncate", "fcntl(F_ADD_SEALS)",
    "mmap", "socketpair", "epoll_ctl", "sendmsg", "sendto", "recvmsg", "clone",
    "the proxy's channel limit", "the proxy's policy", "setsid", "dup2", "prctl", "capset", "seccomp",
    "ioctl(SIOCGSKNS)",
};

const char *fns_stage_name(uint32_t stage)
{
    return stage < FNS_AT_COUNT ? stage_names[stage] : "?";
}

static uint64_t record_space(uint64_t len)
{
    return (sizeof(struct fns_record) + len + 7u) & ~(uint64_t)7u;
}

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

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Looks for a record for as long as it takes to be put to sleep and woken from another processor. Not where the proxy
 * works on ours: it would be what we keep from working. */
int fns_ring_look(struct fns_reader *reader)
{
    struct timespec begin, now;

    if (atomic_load_explicit(&reader->ring->cpu, memory_order_relaxed) == (uint32_t)sched_getcpu())
        return !fns_ring_empty(reader);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        for (int i = 0; i < 64; i++) {
            if (!fns_ring_empty(reader))
                return 1;
            pause_briefly();
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - begin.tv_sec) * 1000000000L + (now.tv_nsec - begin.tv_nsec) < FNS_LOOK_NS);
    return 0;
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
