# What the parts take from C of our own: the relay's headers, and a few lines that are no Cython. Each stands once,
# here; what libc and the kernel have is in _linux.pxd.

cdef extern from *:
    """
    #include <time.h>
    /* One buffer a thread, not one a handle: a datagram is received into it without the GIL and copied out,
       exactly sized, at once. Pages beyond the longest datagram seen are never touched. */
    #define FNS_RECV_MAX (1 << 20)
    static __thread char fns_recv_buffer[FNS_RECV_MAX];

    static int64_t fns_monotonic_ms(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
    }
    """
    char *fns_recv_buffer
    enum: FNS_RECV_MAX
    int64_t fns_monotonic_ms() nogil


# The kernel's own calls where what a program may have preloaded would add to a message: descriptors, as socket_wrapper does.
# And what older libcs lack.
cdef extern from "relay/call.h" nogil:
    int fns_call_pidfd_open(int pid)
    ssize_t fns_call_sendmsg(int fd, const lx.msghdr *message, int flags)
    ssize_t fns_call_recvmsg(int fd, lx.msghdr *message, int flags)
    int fns_call_socketpair(int domain, int type, int protocol, int *pair)


cdef extern from "relay/gap.h" nogil:
    int FNS_SO_MEMINFO "SO_MEMINFO"
    struct fns_gap:
        uint32_t state, queued, dropped, missing
    int fns_gap_look(int fd, uint32_t *queued, uint32_t *dropped)
    int fns_gap_open(fns_gap *gap, int fd)
    int fns_gap_behind(fns_gap *gap, int fd, uint32_t len)
    int fns_gap_empty(fns_gap *gap, int fd)


cdef extern from "relay/relay.h" nogil:
    enum:
        FNS_MAGIC, FNS_NAME_MAX, FNS_OPT_MAX, FNS_FDS_MAX, FNS_INLINE_MAX, FNS_REQUEST_MAX
        FNS_DIR_MAX, FNS_REPLY_MAX, FNS_STAT_COUNT
        FNS_CONFIG_RESTRICTED, FNS_CONFIG_READ_ONLY, FNS_ALLOW, FNS_SEAL, FNS_BUFFER_MAX, FNS_ALLOWED_MAX
        FNS_HELLO, FNS_NETNS, FNS_OPEN, FNS_SETSOCKOPT, FNS_GETSOCKOPT, FNS_GETSOCKNAME, FNS_BIND, FNS_STATS
        FNS_OPEN_EXT_ACK, FNS_OPEN_STRICT, FNS_OPEN_ALL_NSID, FNS_OPEN_CAP_ACK, FNS_OPEN_BESIDE
        FNS_SEND, FNS_SEND_MEMFD, FNS_SPACE, FNS_RING_BELL, FNS_STRICT
        FNS_FDS_SPACE "CMSG_SPACE(FNS_FDS_MAX * sizeof(int))"    # of the most descriptors, and of a reply's two
        FNS_PAIR_SPACE "CMSG_SPACE(2 * sizeof(int))"
    struct fns_request:
        uint32_t op, id, chan, len
        int32_t a, b
    struct fns_open:
        int32_t family
        uint32_t flags, portid, groups, rcvbuf, sndbuf, ring_size, name_len, spare
    struct fns_reply:
        uint32_t op, id
        int32_t err
        uint32_t stage, chan, len, a, b
        uint64_t size
    struct fns_message:
        uint32_t op, len, patches, flags
    struct fns_config:
        int control
        int parent
        uint32_t max_channels, flags, families
        char *run_dir


cdef extern from "relay/stage.h" nogil:
    const char *fns_stage_name(uint32_t stage)


cdef extern from "relay/ring.h" nogil:
    enum:
        FNS_RING_HEADER, FNS_RING_MAX
        FNS_DATA, FNS_OVERRUN, FNS_ERROR, FNS_TRUNCATED, FNS_FOREIGN
    struct fns_error:
        int32_t err
        uint32_t detail
    struct fns_ring:
        pass
    struct fns_reader:
        fns_ring *ring
    int fns_ring_attach(fns_reader *reader, void *map, size_t map_len)
    int fns_ring_next(fns_reader *reader, const uint8_t **payload, uint32_t *len, uint32_t *type)
    int fns_ring_release(fns_reader *reader)
    int fns_ring_empty(fns_reader *reader)
    int fns_ring_look(fns_reader *reader)
    int fns_ring_arm(fns_reader *reader)
    int fns_ring_disarm(fns_reader *reader)


cdef extern from "Python.h":
    int Py_AtExit(void (*func)() noexcept nogil)


cdef extern from "relay/start.h" nogil:
    int fns_start_fork(const fns_config *config)
    int fns_start_wait(int pid, int *status, int block)
