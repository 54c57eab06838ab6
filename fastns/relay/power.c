/* The least power the proxy can do its work with: capabilities, no_new_privs, a seccomp filter.
 * It gives up and never asks for more; what all the other files ask the kernel for is in its table of calls.
 * Called by start.c, last of all before the first request.
 */
#include "power.h"

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
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCHITECTURE AUDIT_ARCH_RISCV64
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define ARCHITECTURE AUDIT_ARCH_PPC64LE
#elif defined(__s390x__)
#define ARCHITECTURE AUDIT_ARCH_S390X
#endif

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000u
#endif

#if defined(FASTNS_COVERAGE)
#define REFUSED SECCOMP_RET_ALLOW           /* writing the counters takes calls the proxy has no use for */
#else
#define REFUSED SECCOMP_RET_KILL_PROCESS
#endif

static int capabilities_drop(struct failure *f)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    uint32_t keep = 1u << CAP_SYS_ADMIN;

    if ((proxy.config.flags & FNS_CONFIG_READ_ONLY) == 0)
        keep |= 1u << CAP_NET_ADMIN;
    if ((proxy.config.flags & FNS_CONFIG_RESTRICTED) == 0)
        keep |= 1u << CAP_NET_BROADCAST;
    memset(data, 0, sizeof(data));
    if (syscall(SYS_capget, &header, data) < 0)
        return failed(f, FNS_AT_CAPSET, errno);
    data[0].permitted &= keep;
    data[0].effective &= keep;
    /* Both rights over all there is where one can return (CAP_SYS_ADMIN), else not even over the namespace we are in. */
    proxy.keeps_namespaces = !proxy.can_return || (data[0].effective & 1u << CAP_NET_ADMIN) == 0;
    data[1].permitted = data[1].effective = 0;
    data[0].inheritable = data[1].inheritable = 0;
    return syscall(SYS_capset, &header, data) < 0 ? failed(f, FNS_AT_CAPSET, errno) : 0;
}

#if defined(ARCHITECTURE)

/* Which argument must hold what for a call to pass. */
enum check { ANY, EQUAL, NONE_OF };

struct rule {
    uint16_t number;
    uint8_t argument, check;
    uint32_t value;
};

/* Everything the loop and what it calls can ask the kernel for. tests/relay/power compares it with what strace sees. */
static const struct rule rules[] = {
    {SYS_recvmsg, 0, ANY, 0},
    {SYS_sendto, 0, ANY, 0},
    {SYS_sendmsg, 0, ANY, 0},
#ifdef SYS_epoll_wait
    {SYS_epoll_wait, 0, ANY, 0},
#endif
    {SYS_epoll_pwait, 0, ANY, 0},
    {SYS_epoll_ctl, 0, ANY, 0},
#ifdef SYS_poll
    {SYS_poll, 0, ANY, 0},
#endif
    {SYS_ppoll, 0, ANY, 0},
    {SYS_setsockopt, 0, ANY, 0},
    {SYS_getsockopt, 0, ANY, 0},
    {SYS_getsockname, 0, ANY, 0},
    {SYS_bind, 0, ANY, 0},
    {SYS_socket, 0, EQUAL, AF_NETLINK},
    {SYS_socketpair, 0, EQUAL, AF_UNIX},
#if defined(SYS_open) && !defined(__GLIBC__)
    {SYS_open, 1, NONE_OF, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC},
#endif
    {SYS_openat, 2, NONE_OF, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC},
    {SYS_ioctl, 1, EQUAL, NS_GET_NSTYPE},
    {SYS_ioctl, 1, EQUAL, SIOCGSKNS},
    {SYS_setns, 1, EQUAL, CLONE_NEWNET},
    {SYS_fstat, 0, ANY, 0},
#ifdef SYS_newfstatat
    {SYS_newfstatat, 0, ANY, 0},
#endif
    {SYS_fstatfs, 0, ANY, 0},
    {SYS_fcntl, 1, EQUAL, F_ADD_SEALS},
    {SYS_fcntl, 1, EQUAL, F_GET_SEALS},
    {SYS_fcntl, 1, EQUAL, F_DUPFD_CLOEXEC},
#if !defined(__GLIBC__)
    {SYS_fcntl, 1, EQUAL, F_SETFD},             /* musl's open() behind an O_CLOEXEC */
#endif
    {SYS_memfd_create, 0, ANY, 0},
    {SYS_ftruncate, 0, ANY, 0},
    {SYS_mmap, 2, NONE_OF, PROT_EXEC},
    {SYS_munmap, 0, ANY, 0},
    {SYS_madvise, 2, EQUAL, MADV_REMOVE},
    {SYS_close, 0, ANY, 0},
    {SYS_getppid, 0, ANY, 0},
    {SYS_getcpu, 0, ANY, 0},
#if defined(__s390x__)
    {SYS_clone, 1, EQUAL, CLONE_VM | CLONE_VFORK | CLONE_FILES},
#else
    {SYS_clone, 0, EQUAL, CLONE_VM | CLONE_VFORK | CLONE_FILES},
#endif
    {SYS_wait4, 0, ANY, 0},
    {SYS_exit, 0, ANY, 0},
    {SYS_exit_group, 0, ANY, 0},
    {SYS_restart_syscall, 0, ANY, 0},
};

enum { RULES = sizeof(rules) / sizeof(rules[0]), HEAD = 4, PER_RULE = 5 };

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

static uint32_t argument_low(uint8_t argument)
{
    uint32_t at = (uint32_t)offsetof(struct seccomp_data, args) + 8u * argument;

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    at += 4;
#endif
    return at;
}

/* Per rule: another number goes on to the next rule; the right one is allowed if its argument is. Only the low
 * half of an argument is looked at: all of them are ints or flags of which the kernel reads no more. */
static int __attribute__((unused)) filter_install(struct failure *f)
{
    static struct sock_filter code[HEAD + RULES * PER_RULE + 1];
    struct sock_fprog program = {0, code};
    uint16_t n = 0;

    code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, arch));
    code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    code[n++] = statement(BPF_RET | BPF_K, REFUSED);
    code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < RULES; i++) {
        const struct rule *r = &rules[i];
        if (r->check == ANY) {
            code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, r->number, 0, 1);
            code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
            continue;
        }
        code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, r->number, 0, 4);
        code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, argument_low(r->argument));
        if (r->check == EQUAL)
            code[n++] = jump(BPF_JMP | BPF_JEQ | BPF_K, r->value, 0, 1);
        else
            code[n++] = jump(BPF_JMP | BPF_JSET | BPF_K, r->value, 1, 0);
        code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, nr));
    }
    code[n++] = statement(BPF_RET | BPF_K, REFUSED);
    program.len = n;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0)
        return 0;
    return errno == EINVAL ? 0 : failed(f, FNS_AT_SECCOMP, errno);   /* EINVAL: a kernel without seccomp */
}

#endif

int fns_power_drop(struct failure *f)
{
    if (capabilities_drop(f) < 0)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failed(f, FNS_AT_PRCTL, errno);
#if defined(ARCHITECTURE) && !defined(FASTNS_SANITIZE)   /* sanitizers have calls of their own */
    return filter_install(f);
#else
    return 0;
#endif
}
