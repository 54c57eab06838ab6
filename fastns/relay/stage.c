/* The names of the steps that can fail: of the system call, or of what else said no. Users read them in errors.
 * A table: it touches no state and calls nothing, in neither process.
 * The caller's side asks for them when a reply or a record says that a step failed.
 */
#include "stage.h"

static const char *const stage_names[FNS_AT_COUNT] = {
    [FNS_AT_PROTOCOL] = "the proxy's protocol",
    [FNS_AT_OPEN] = "open",
    [FNS_AT_NSTYPE] = "ioctl(NS_GET_NSTYPE)",
    [FNS_AT_SETNS] = "setns",
    [FNS_AT_SOCKET] = "socket",
    [FNS_AT_SETSOCKOPT] = "setsockopt",
    [FNS_AT_GETSOCKOPT] = "getsockopt",
    [FNS_AT_BIND] = "bind",
    [FNS_AT_GETSOCKNAME] = "getsockname",
    [FNS_AT_MEMFD] = "memfd_create",
    [FNS_AT_FTRUNCATE] = "ftruncate",
    [FNS_AT_SEAL] = "fcntl(F_ADD_SEALS)",
    [FNS_AT_MMAP] = "mmap",
    [FNS_AT_SOCKETPAIR] = "socketpair",
    [FNS_AT_EPOLL] = "epoll_ctl",
    [FNS_AT_SENDMSG] = "sendmsg",
    [FNS_AT_SENDTO] = "sendto",
    [FNS_AT_RECVMSG] = "recvmsg",
    [FNS_AT_CLONE] = "clone",
    [FNS_AT_LIMIT] = "the proxy's channel limit",
    [FNS_AT_POLICY] = "the proxy's policy",
    [FNS_AT_SETSID] = "setsid",
    [FNS_AT_DUP] = "dup3",
    [FNS_AT_PRCTL] = "prctl",
    [FNS_AT_CAPSET] = "capset",
    [FNS_AT_SECCOMP] = "seccomp",
    [FNS_AT_SKNS] = "ioctl(SIOCGSKNS)",
    [FNS_AT_LANDLOCK] = "landlock_restrict_self",
    [FNS_AT_LANDLOCK_CREATE] = "landlock_create_ruleset",
};

const char *fns_stage_name(uint32_t stage)
{
    return stage < FNS_AT_COUNT ? stage_names[stage] : "?";
}
