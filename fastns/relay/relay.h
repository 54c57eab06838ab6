/* What the caller and the proxy say to each other; what is in a ring is in ring.h. Never Python.h.
 * Formats and numbers: no code and no state of either side.
 * Both sides include it: fastns/core/ (the caller) and the files here that run in the proxy.
 *
 * One proxy serves one caller process. They share:
 * - a control socket (SOCK_SEQPACKET): fns_request / fns_reply, one answer to each request;
 * - per channel one socket (SOCK_SEQPACKET): fns_message towards the proxy, one-byte doorbells back;
 * - per channel one ring of shared memory: what the netlink socket received, as records.
 * The caller is not trusted by the proxy: everything it writes is copied, then checked, then used.
 */
#ifndef FASTNS_RELAY_H
#define FASTNS_RELAY_H

#include "kernel.h"

#include <stdint.h>
#include <sys/types.h>

#define FNS_MAGIC 0x31736e66u          /* "fns1" */
#define FNS_NAME_MAX 255u
#define FNS_OPT_MAX 1024u              /* bytes of a socket option */
#define FNS_FDS_MAX 253u               /* descriptors of one message: SCM_MAX_FD of unix(7) */
#define FNS_INLINE_MAX (128u * 1024u)  /* larger requests travel in a sealed memfd */
#define FNS_REQUEST_MAX (64u * 1024u * 1024u)
#define FNS_DIR_MAX 255u
#define FNS_ALLOWED_MAX 16384u         /* namespaces of a policy */
#define FNS_BUFFER_MAX (256u << 20)    /* bytes of a socket buffer */

/* Control socket. */
enum fns_op {
    FNS_HELLO = 1,    /* proxy -> caller, once: set-up done or failed */
    FNS_OPEN = 2,
    FNS_SETSOCKOPT = 3,
    FNS_GETSOCKOPT = 4,
    FNS_GETSOCKNAME = 5,
    FNS_BIND = 6,
    FNS_STATS = 7,
    FNS_ALLOW = 8,    /* a proxy with a list, before FNS_SEAL: a name, or one descriptor */
    FNS_SEAL = 9,     /* the list is complete: nothing else is possible before, no FNS_ALLOW afterwards */
    FNS_NETNS = 10    /* a descriptor of the channel's namespace */
};

enum fns_open_flags {
    FNS_OPEN_EXT_ACK = 1, FNS_OPEN_STRICT = 2, FNS_OPEN_ALL_NSID = 4, FNS_OPEN_CAP_ACK = 8,
    FNS_OPEN_BESIDE = 16,   /* in the namespace of channel `chan`, whatever its name means by now */
    FNS_OPEN_KNOWN = 31
};

struct fns_request {
    uint32_t op;
    uint32_t id;      /* copied into the reply */
    uint32_t chan;
    uint32_t len;     /* bytes that follow this header */
    int32_t a, b;     /* level and option; portid and groups */
};

struct fns_open {     /* follows the header of FNS_OPEN; a name, one descriptor or FNS_OPEN_BESIDE says where */
    int32_t family;
    uint32_t flags;
    uint32_t portid, groups;
    uint32_t rcvbuf, sndbuf;   /* bytes, 0: the kernel's default */
    uint32_t ring_size;        /* bytes, rounded up to a power of two */
    uint32_t name_len;         /* 0: a namespace descriptor comes with the message */
    uint32_t spare;            /* a closed channel whose ring the caller still has mapped, to be used again; or 0 */
};

struct fns_reply {
    uint32_t op;
    uint32_t id;
    int32_t err;      /* 0 or errno */
    uint32_t stage;   /* the step that failed: stage.h */
    uint32_t chan;
    uint32_t len;     /* bytes that follow */
    uint32_t a, b;    /* portid and groups; ring size */
    uint64_t size;    /* of the ring, whose descriptor is the second one; with one only it is the spare ring */
};

#define FNS_REPLY_MAX (sizeof(struct fns_reply) + FNS_OPT_MAX)

enum fns_stat {
    FNS_STAT_CHANNELS, FNS_STAT_OPENED, FNS_STAT_REQUESTS, FNS_STAT_REQUEST_BYTES, FNS_STAT_DATAGRAMS,
    FNS_STAT_BYTES, FNS_STAT_BELLS, FNS_STAT_STALLS, FNS_STAT_OVERRUNS, FNS_STAT_SEND_ERRORS, FNS_STAT_REFUSED,
    FNS_STAT_COUNT
};

/* Channel socket, towards the proxy. */
enum fns_message_op {
    FNS_SEND = 1,        /* patches, then the request */
    FNS_SEND_MEMFD = 2,  /* patches; the request is in the memfd that is the first descriptor */
    FNS_SPACE = 3,       /* the ring was full and has room again */
    FNS_RING_BELL = 4    /* ring the doorbell */
};

struct fns_message {
    uint32_t op;
    uint32_t len;        /* bytes of the request */
    uint32_t patches;    /* this many uint32_t offsets follow; one descriptor comes with each */
    uint32_t flags;
};

enum fns_message_flags {
    FNS_STRICT = 1,      /* NETLINK_GET_STRICT_CHK for this request only */
    FNS_MESSAGE_KNOWN = 1
};

enum fns_config_flags {
    FNS_CONFIG_RESTRICTED = 1,   /* only namespaces of the list */
    FNS_CONFIG_READ_ONLY = 2     /* CAP_NET_ADMIN is given away */
};

struct fns_config {
    int control;             /* the proxy's end */
    pid_t parent;
    uint32_t max_channels;
    uint32_t flags;
    uint32_t families;       /* bit n: NETLINK family n */
    char run_dir[FNS_DIR_MAX + 1];   /* where names are looked up, no trailing slash */
};

#endif
