/* The steps of the proxy that can fail, and how one reports which of them did and with what errno.
 * Numbers and names: it touches no state and calls nothing.
 * Every file of the proxy reports with it; the caller asks for the names.
 */
#ifndef FASTNS_RELAY_STAGE_H
#define FASTNS_RELAY_STAGE_H

#include <stdint.h>

enum fns_stage {
    FNS_AT_PROTOCOL = 0, FNS_AT_OPEN, FNS_AT_NSTYPE, FNS_AT_SETNS, FNS_AT_SOCKET, FNS_AT_SETSOCKOPT,
    FNS_AT_GETSOCKOPT, FNS_AT_BIND, FNS_AT_GETSOCKNAME, FNS_AT_MEMFD, FNS_AT_FTRUNCATE, FNS_AT_SEAL,
    FNS_AT_MMAP, FNS_AT_SOCKETPAIR, FNS_AT_EPOLL, FNS_AT_SENDMSG, FNS_AT_SENDTO, FNS_AT_RECVMSG, FNS_AT_CLONE,
    FNS_AT_LIMIT, FNS_AT_POLICY, FNS_AT_SETSID, FNS_AT_DUP, FNS_AT_PRCTL, FNS_AT_CAPSET, FNS_AT_SECCOMP,
    FNS_AT_SKNS, FNS_AT_LANDLOCK, FNS_AT_LANDLOCK_CREATE,
    FNS_AT_COUNT
};

const char *fns_stage_name(uint32_t stage);

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

#endif
