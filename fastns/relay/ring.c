/* Both ends of the ring: the order in which the shared words are written and read, so that neither end waits in vain.
 * Touches the memory of the ring and what it is handed: no socket, no channel, no static state.
 * channel.pxi calls the first half in the caller's process, channel.c the second half in the proxy.
 */
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <time.h>

enum { RESET_BYTES = 16 * 1024, TRIM_BYTES = 1024 * 1024, TRIM_ALIGN = 64 * 1024 };

/* ---- The caller's end ------------------------------------------------------------------------------- */

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
        space = fns_ring_space(record.len);
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
    /* Pairs with the fence in fns_ring_await(): either the proxy sees this tail or we see its want. */
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

static void pause_briefly(void)
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
    atomic_store(&reader->ring->bell, FNS_BELL_ASKED);
    /* Pairs with the fence in fns_ring_answer(): either the proxy sees the 0 or we see its record. */
    atomic_thread_fence(memory_order_seq_cst);
    return !fns_ring_empty(reader);
}

/* Takes the request back. 1 when that worked, 0 when the proxy rings or has rung. */
int fns_ring_disarm(struct fns_reader *reader)
{
    return atomic_exchange(&reader->ring->bell, FNS_BELL_QUIET) == FNS_BELL_ASKED;
}

/* ---- The proxy's end -------------------------------------------------------------------------------- */

static void ring_start(struct fns_writer *w, void *map, uint64_t size)
{
    w->ring = map;
    w->data = (uint8_t *)map + FNS_RING_HEADER;
    w->size = size;
    memset(w->ring, 0, sizeof(*w->ring));
    w->ring->magic = FNS_MAGIC;
    w->ring->size = size;
    atomic_store(&w->ring->bell, FNS_BELL_QUIET);
}

/* A ring in a memfd that neither side can resize: what is mapped stays mapped. A smaller one where files may not be as
 * large. */
static int ring_create(struct fns_writer *w, uint64_t size, struct failure *f)
{
    int fd = fns_call_memfd_create("fastns-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL), err;
    void *map;

    if (fd == -EINVAL)
        fd = fns_call_memfd_create("fastns-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return failed(f, FNS_AT_MEMFD, -fd);
    /* RLIMIT_FSIZE holds for memory too; SIGXFSZ is ignored. */
    while ((err = fns_call_ftruncate(fd, (off_t)(FNS_RING_HEADER + size))) == -EFBIG && size > FNS_RING_MIN)
        size >>= 1;
    if (err < 0) {
        failed(f, FNS_AT_FTRUNCATE, -err);
    } else if ((err = fns_call_fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) < 0) {
        failed(f, FNS_AT_SEAL, -err);
    } else {
        map = fns_call_mmap(NULL, FNS_RING_HEADER + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (!fns_call_is_error(map)) {
            ring_start(w, map, size);
            return fd;
        }
        failed(f, FNS_AT_MMAP, (int)-(intptr_t)map);
    }
    (void)fns_call_close(fd);
    return -1;
}

/* The ring of that closed channel. 0: there is none of that size. */
static int ring_again(struct fns_writer *w, struct fns_spares *spares, uint32_t number, uint64_t size)
{
    for (uint32_t i = 0; i < FNS_RING_SPARES; i++) {
        if (spares->at[i].map != NULL && spares->at[i].number == number && spares->at[i].size == size) {
            ring_start(w, spares->at[i].map, size);
            spares->at[i].map = NULL;
            return 1;
        }
    }
    return 0;
}

/* A ring of at least the bytes wanted, within the limits: that of the closed channel `number`, *memfd stays -1, or a
 * new one. 0, or -1 and *f. */
int fns_ring_get(struct fns_writer *w, struct fns_spares *spares, uint32_t number, uint32_t wanted, int *memfd,
                 struct failure *f)
{
    uint64_t size = FNS_RING_MIN;

    while (size < wanted && size < FNS_RING_MAX)
        size <<= 1;
    if (number != 0 && ring_again(w, spares, number, size))
        return 0;
    *memfd = ring_create(w, size, f);
    return *memfd < 0 ? -1 : 0;
}

/* Gives the pages of a burst back. */
static void ring_trim(struct fns_writer *w)
{
    if (w->high >= TRIM_BYTES) {
        uint64_t keep = TRIM_ALIGN, end = w->high & ~(uint64_t)(TRIM_ALIGN - 1);
        (void)fns_call_madvise((uint8_t *)w->ring + keep, end - keep, MADV_REMOVE);
        w->high = 0;
    }
}

/* Keeps the ring of a channel that is being closed; the one kept longest goes. */
void fns_ring_spare(struct fns_writer *w, struct fns_spares *spares, uint32_t number)
{
    uint32_t at = spares->next++ % FNS_RING_SPARES;

    ring_trim(w);
    if (spares->at[at].map != NULL)
        (void)fns_call_munmap((uintptr_t)spares->at[at].map, FNS_RING_HEADER + spares->at[at].size);
    spares->at[at].map = w->ring;
    spares->at[at].size = w->size;
    spares->at[at].number = number;
    w->ring = NULL;
}

/* Reads how far the caller has come. 0, or -1 when that is nowhere it could be. */
int fns_ring_update(struct fns_writer *w)
{
    uint64_t tail = atomic_load_explicit(&w->ring->tail, memory_order_acquire);

    if (tail - w->tail > w->head - w->tail || (tail & 7u) != 0)
        return -1;
    w->tail = tail;
    if (tail != w->head)
        return 0;
    /* Empty. Such bursts may go on, and a new page costs more than what is copied into it. */
    if (w->head - w->emptied[1] < w->high / 4)
        ring_trim(w);
    w->emptied[1] = w->emptied[0];
    w->emptied[0] = w->head;
    if (w->head - w->base >= RESET_BYTES) {
        /* Start again at the first page. */
        w->base = w->head;
        atomic_store_explicit(&w->ring->base, w->base, memory_order_relaxed);
    }
    return 0;
}

/* Room for a record with len bytes of payload, in one piece: where its payload goes, or NULL. */
uint8_t *fns_ring_reserve(struct fns_writer *w, uint64_t len)
{
    uint64_t space = fns_ring_space(len);
    uint64_t offset = (w->head - w->base) & (w->size - 1);
    uint64_t room = w->size - (w->head - w->tail);
    uint64_t to_end = w->size - offset;

    if (space > to_end) {
        struct fns_record skip = {(uint32_t)(to_end - sizeof(skip)), FNS_SKIP};
        if (to_end + space > room)
            return NULL;
        memcpy(w->data + offset, &skip, sizeof(skip));
        w->head += to_end;   /* published together with the record that follows */
        offset = 0;
        w->high = w->size;
    } else if (space > room) {
        return NULL;
    }
    return w->data + offset + sizeof(struct fns_record);
}

/* The largest payload fns_ring_reserve() gives without a skip. */
uint64_t fns_ring_room(const struct fns_writer *w)
{
    uint64_t to_end = w->size - ((w->head - w->base) & (w->size - 1));
    uint64_t room = w->size - (w->head - w->tail);
    uint64_t space = room < to_end ? room : to_end;

    return space < sizeof(struct fns_record) ? 0 : space - sizeof(struct fns_record);
}

void fns_ring_publish(struct fns_writer *w, uint8_t *payload, uint32_t len, uint32_t type)
{
    struct fns_record record = {len, type};

    memcpy(payload - sizeof(record), &record, sizeof(record));
    w->head += fns_ring_space(len);
    if (w->head - w->base < w->size && w->head - w->base > w->high)
        w->high = w->head - w->base;
    atomic_store_explicit(&w->ring->head, w->head, memory_order_release);
}

/* The ring is full. 0 when the caller will say so once it is not, 1 when there is room after all, -1 as above. */
int fns_ring_await(struct fns_writer *w)
{
    uint64_t before = w->tail;

    atomic_store(&w->ring->want, 1);
    atomic_thread_fence(memory_order_seq_cst);   /* pairs with fns_ring_release() */
    if (fns_ring_update(w) < 0)
        return -1;
    if (w->tail == before)
        return 0;
    atomic_store(&w->ring->want, 0);
    return 1;
}

/* What fns_ring_arm() asked for. 1 when the doorbell is to be sent now. */
int fns_ring_answer(struct fns_writer *w)
{
    uint32_t asked = FNS_BELL_ASKED, rung = FNS_BELL_RUNG;

    atomic_thread_fence(memory_order_seq_cst);   /* pairs with fns_ring_arm() */
    if (atomic_load_explicit(&w->ring->bell, memory_order_relaxed) != FNS_BELL_ASKED
        || !atomic_compare_exchange_strong(&w->ring->bell, &asked, FNS_BELL_RUNG))
        return 0;
    /* It may have asked behind the last record: the next one rings. But if it counts on this one by now, it gets it. */
    return !(atomic_load(&w->ring->tail) == atomic_load(&w->ring->head)
             && (atomic_compare_exchange_strong(&w->ring->bell, &rung, FNS_BELL_ASKED) || rung == FNS_BELL_ASKED));
}

/* The doorbell is sent whether the caller has asked or not, so that what it asked is answered. */
void fns_ring_quiet(struct fns_writer *w)
{
    atomic_store(&w->ring->bell, FNS_BELL_QUIET);
}

/* Says where the proxy runs: fns_ring_look(). */
void fns_ring_worked(struct fns_writer *w)
{
    unsigned int cpu = UINT32_MAX;

    (void)fns_call_getcpu(&cpu);
    atomic_store_explicit(&w->ring->cpu, cpu, memory_order_relaxed);
}
