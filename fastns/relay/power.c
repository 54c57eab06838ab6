/* The least power the proxy can do its work with: user, capabilities, no_new_privs, no files, a seccomp filter.
 * It gives up and never asks for more; what all the other files ask the kernel for is in its table of calls.
 * Called by start.c, last of all before the first request.
 */
#include "power.h"
#include "netns.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/nsfs.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#elif defined(__riscv)
#define ARCHITECTURE AUDIT_ARCH_RISCV64
#endif

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000u
#endif

enum { FILES_READ = 1 << 2 };    /* LANDLOCK_ACCESS_FS_READ_FILE */
#if defined(FASTNS_COVERAGE)
/* Writing the counters takes files, and calls the proxy has no use for. */
#define REFUSED SECCOMP_RET_ALLOW
#define OWN_ID_HIGH(pid) ((void)(pid), 0u)
enum { FILES_ALL = 1, FILES_FIRST = 1 };
#else
#define REFUSED SECCOMP_RET_KILL_PROCESS
/* An id nobody else has: above all that are handed out, with the process's number. https://systemd.io/UIDS-GIDS */
#define OWN_ID_HIGH(pid) (0xf0000000u + (uint32_t)(pid))
/* linux/landlock.h, which older machines lack: what a ruleset can refuse now, and what it could at first. */
enum { FILES_ALL = 0xffff & ~FILES_READ, FILES_FIRST = 0x1fff & ~FILES_READ };
#endif

/* ---- User and capabilities -------------------------------------------------------------------------- */

/* A user namespace may lack such ids, and has one below "nobody" that is unused as well. */
enum { OWN_ID_LOW = 65533 };

/* Whether that user could look names up. The directory itself need not be there yet. */
static int user_searches(uint32_t id)
{
    char path[FNS_PATH_MAX];
    struct statfs fs;
    int gid, uid, err;

    fns_netns_path(path, ".", 1);
    gid = fns_call_setfsgid(id);
    uid = fns_call_setfsuid(id);
    err = fns_call_statfs(path, &fs);
    (void)fns_call_setfsuid((uid_t)uid);
    (void)fns_call_setfsgid((gid_t)gid);
    return err != -EACCES;
}

/* Who may not change its user (CAP_SETUID) stays what it is, and so does who has to, to find a name. */
static void user_drop(void)
{
    const uint32_t ids[] = {OWN_ID_HIGH(fns_call_getpid()), OWN_ID_LOW};
    int err = -EINVAL;

    (void)fns_call_prctl(PR_SET_KEEPCAPS, 1, 0, 0);
    (void)fns_call_setgroups(0, NULL);
    for (int i = 0; i < 2 && err == -EINVAL && user_searches(ids[i]); i++) {
        int gid = fns_call_setresgid(ids[i]);
        err = fns_call_setresuid(ids[i]);
        if (err == 0)
            err = gid;
    }
    (void)fns_call_prctl(PR_SET_KEEPCAPS, 0, 0, 0);
}

static int rights_drop(struct failure *f)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    uint32_t keep = 1u << CAP_SYS_ADMIN;
    int err;

    if ((proxy.config.flags & FNS_CONFIG_READ_ONLY) == 0)
        keep |= 1u << CAP_NET_ADMIN;
    if ((proxy.config.flags & FNS_CONFIG_RESTRICTED) == 0)
        keep |= 1u << CAP_NET_BROADCAST;
    memset(data, 0, sizeof(data));
    err = fns_call_capget(&header, data);
    if (err < 0)
        return failed(f, FNS_AT_CAPSET, -err);
    user_drop();         /* what was in effect is so no more, and still permitted */
    data[0].permitted &= keep;
    data[0].effective &= keep;
    /* Both rights over all there is where one can return (CAP_SYS_ADMIN), else not even over the namespace we are in. */
    proxy.keeps_namespaces = !proxy.can_return || (data[0].effective & 1u << CAP_NET_ADMIN) == 0;
    data[1].permitted = data[1].effective = 0;
    data[0].inheritable = data[1].inheritable = 0;
    err = fns_call_capset(&header, data);
    if (err < 0)
        return failed(f, FNS_AT_CAPSET, -err);
    err = fns_call_prctl(PR_SET_DUMPABLE, 0, 0, 0);      /* another user: what the machine says of such, fs.suid_dumpable */
    return err < 0 ? failed(f, FNS_AT_PRCTL, -err) : 0;
}

/* ---- Files ------------------------------------------------------------------------------------------ */

struct ruleset {
    uint64_t files, ports, scoped;
};
enum { PORTS_ALL = 3, SCOPES_ALL = 3 };

/* No rule: nothing may be written, made, removed, executed or bound to, and no directory listed. Namespaces are files that
 * are read, wherever they are mounted and whenever. Kernels of before 6.12 know less of what is refused, those of before
 * 5.13 nothing, and filters of containers that do not know the call say EPERM. */
static int __attribute__((unused)) files_drop(struct failure *f)
{
    struct ruleset all = {FILES_ALL, PORTS_ALL, SCOPES_ALL}, first = {FILES_FIRST, 0, 0};
    int fd = fns_call_landlock_create(&all, sizeof(all)), err;

    if (fd == -E2BIG || fd == -EINVAL)
        fd = fns_call_landlock_create(&first, sizeof(first.files));
    if (fd == -ENOSYS || fd == -EOPNOTSUPP || fd == -EPERM)
        return 0;
    if (fd < 0)
        return failed(f, FNS_AT_LANDLOCK_CREATE, -fd);
    err = fns_call_landlock_restrict(fd);
    close_fd(&fd);
    return err < 0 ? failed(f, FNS_AT_LANDLOCK, -err) : 0;
}

/* ---- System calls ----------------------------------------------------------------------------------- */

/* What an argument must hold for a call to pass. */
enum kind { ANY, EQUAL, NONE_OF };
enum { CHECKS = 2 };

struct rule {
    uint16_t number;
    struct { uint8_t kind, argument; uint32_t value; } check[CHECKS];
};

/* Everything the loop and what it calls ask the kernel for: the calls of call.h that come after this, with the arguments
 * they come with. Only netlink sockets are bound, and sendto() has no address; that of sendmsg() a filter cannot read.
 * tests/relay/power compares it with what strace sees. */
static const struct rule rules[] = {
    {SYS_sendto, {{EQUAL, 5, 0}}},
    {SYS_recvmsg, {{ANY, 0, 0}}},
    {SYS_sendmsg, {{ANY, 0, 0}}},
    {SYS_epoll_pwait, {{ANY, 0, 0}}},
    {SYS_epoll_ctl, {{ANY, 0, 0}}},
    {SYS_ppoll, {{ANY, 0, 0}}},
    {SYS_getcpu, {{ANY, 0, 0}}},
    {SYS_setsockopt, {{ANY, 0, 0}}},
    {SYS_getsockopt, {{ANY, 0, 0}}},
    {SYS_getsockname, {{ANY, 0, 0}}},
    {SYS_bind, {{EQUAL, 2, sizeof(struct sockaddr_nl)}}},
    {SYS_shutdown, {{EQUAL, 1, SHUT_RD}}},
    {SYS_socket, {{EQUAL, 0, AF_NETLINK}}},
    {SYS_socketpair, {{EQUAL, 0, AF_UNIX}, {EQUAL, 1, SOCK_SEQPACKET | SOCK_CLOEXEC}}},
    {SYS_openat, {{NONE_OF, 2, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC}}},
    {SYS_ioctl, {{EQUAL, 1, NS_GET_NSTYPE}}},
    {SYS_ioctl, {{EQUAL, 1, SIOCGSKNS}}},
    {SYS_setns, {{EQUAL, 1, CLONE_NEWNET}}},
    {SYS_fstat, {{ANY, 0, 0}}},
    {SYS_statfs, {{ANY, 0, 0}}},
    {SYS_fstatfs, {{ANY, 0, 0}}},
    {SYS_fcntl, {{EQUAL, 1, F_ADD_SEALS}}},
    {SYS_fcntl, {{EQUAL, 1, F_GET_SEALS}}},
    {SYS_fcntl, {{EQUAL, 1, F_DUPFD_CLOEXEC}}},
    {SYS_memfd_create, {{ANY, 0, 0}}},
    {SYS_ftruncate, {{ANY, 0, 0}}},
    {SYS_mmap, {{NONE_OF, 2, PROT_EXEC}}},
    {SYS_munmap, {{ANY, 0, 0}}},
    {SYS_madvise, {{EQUAL, 2, MADV_REMOVE}}},
    {SYS_close, {{ANY, 0, 0}}},
    {SYS_getppid, {{ANY, 0, 0}}},
    {SYS_clone, {{EQUAL, 0, CLONE_VM | CLONE_VFORK | CLONE_FILES}}},
    {SYS_wait4, {{ANY, 0, 0}}},
    {SYS_exit, {{ANY, 0, 0}}},
    {SYS_restart_syscall, {{ANY, 0, 0}}},
};

enum { RULES = sizeof(rules) / sizeof(rules[0]), HEAD = 4, PER_RULE = 3 + 2 * CHECKS };

static struct sock_filter statement(uint16_t code, uint32_t k)
{
    struct sock_filter s = {code, 0, 0, k};
    return s;
}

static struct sock_filter jump(uint16_t code, uint32_t k, uint8_t if_true, uint8_t if_false)
{
    struct sock_filter s = {code, if_true, if_false, k};
    return s;
}

/* Per rule: another number goes on to the next rule, and so does the right one with another argument. Only the low half
 * of an argument is looked at, the first of little-endian machines: all of them are ints or flags of which the kernel
 * reads no more. */
static int __attribute__((unused)) filter_install(struct failure *f)
{
    static struct sock_filter code[HEAD + RULES * PER_RULE + 1];
    struct sock_fprog program = {0, code};
    uint16_t n = 0;
    int err;

    code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, arch));
    code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    code[n++] = statement(BPF_RET | BPF_K, REFUSED);
    code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < RULES; i++) {
        const struct rule *r = &rules[i];
        uint8_t checks = 0;
        while (checks < CHECKS && r->check[checks].kind != ANY)
            checks++;
        code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, r->number, 0, (uint8_t)(2 * checks + (checks != 0 ? 2 : 1)));
        for (uint8_t at = 0; at < checks; at++) {
            uint8_t onward = (uint8_t)(2 * (checks - at) - 1);
            code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, args)
                                                                + 8u * r->check[at].argument);
            if (r->check[at].kind == EQUAL)
                code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, r->check[at].value, 0, onward);
            else
                code[n++] = jump(BPF_JMP | BPF_JSET | BPF_K, r->check[at].value, onward, 0);
        }
        code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        if (checks != 0)
            code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, nr));
    }
    code[n++] = statement(BPF_RET | BPF_K, REFUSED);
    program.len = n;
    err = fns_call_seccomp(SECCOMP_SET_MODE_FILTER, 0, &program);
    if (err == -ENOSYS && proxy.config.flags == 0 && proxy.config.families == UINT32_MAX)
        return 0;
    return err < 0 ? failed(f, FNS_AT_SECCOMP, -err) : 0;
}

int fns_power_drop(struct failure *f)
{
    int err;

    if (rights_drop(f) < 0)
        return -1;
    err = fns_call_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0);
    if (err < 0)
        return failed(f, FNS_AT_PRCTL, -err);
#if defined(FASTNS_SANITIZE)     /* sanitizers have files and calls of their own */
    return 0;
#else
    return files_drop(f) < 0 ? -1 : filter_install(f);
#endif
}
