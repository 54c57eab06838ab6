/* The instruction that calls the kernel, on each machine the proxy is for, and the calls it makes with it.
 * Nothing is kept and nothing but the kernel is called, so any process may, at any time: also one without libc.
 * All files of the proxy call these; start.c too in the caller's process, around the fork.
 */
#include "call.h"

#include <sys/syscall.h>

#if defined(__SSP__) || defined(__SSP_STRONG__) || defined(__SSP_ALL__)
#error "the proxy has no thread-local storage to keep a canary in: compile with -fno-stack-protector"
#endif

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif
#undef prlimit64                   /* musl's name for its prlimit() */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { SET_SIZE = 8, ERRORS = 4095 };    /* bytes of the kernel's sigset_t; -ERRORS to -1 are errors */

#if defined(__x86_64__)

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return number;
}

/* As call(), and the child, which has the new stack and the same registers, goes to run() and then ends. */
static long call_clone(unsigned long flags, void *top, int (*run)(void *), void *argument)
{
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    register int (*r12)(void *) __asm__("r12") = run;
    register void *r13 __asm__("r13") = argument;
    long number = SYS_clone;

    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "movl %%eax, %%edi\n\t"
                     "movl %[exit], %%eax\n\t"
                     "syscall\n"
                     "1:"
                     : "+a"(number)
                     : "D"(flags), "S"(top), "d"(0L), "r"(r10), "r"(r8), "r"(r12), "r"(r13), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory");
    return number;
}

#elif defined(__aarch64__)

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

static long call_clone(unsigned long flags, void *top, int (*run)(void *), void *argument)
{
    register long x8 __asm__("x8") = SYS_clone;
    register unsigned long x0 __asm__("x0") = flags;
    register void *x1 __asm__("x1") = top;
    register long x2 __asm__("x2") = 0;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    register int (*x20)(void *) __asm__("x20") = run;
    register void *x21 __asm__("x21") = argument;

    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x0, x21\n\t"
                     "blr x20\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x20), "r"(x21), [exit] "i"(SYS_exit)
                     : "memory");
    return (long)x0;
}

#elif defined(__riscv) && __riscv_xlen == 64

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a5 __asm__("a5") = f;

    __asm__ volatile("ecall"
                     : "+r"(a0)
                     : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5)
                     : "memory");
    return a0;
}

static long call_clone(unsigned long flags, void *top, int (*run)(void *), void *argument)
{
    register long a7 __asm__("a7") = SYS_clone;
    register unsigned long a0 __asm__("a0") = flags;
    register void *a1 __asm__("a1") = top;
    register long a2 __asm__("a2") = 0;
    register long a3 __asm__("a3") = 0;
    register long a4 __asm__("a4") = 0;
    register int (*s2)(void *) __asm__("s2") = run;
    register void *s3 __asm__("s3") = argument;

    __asm__ volatile("ecall\n\t"
                     "bnez a0, 1f\n\t"
                     "mv a0, s3\n\t"
                     "jalr s2\n\t"
                     "li a7, %[exit]\n\t"
                     "ecall\n"
                     "1:"
                     : "+r"(a0)
                     : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(s2), "r"(s3), [exit] "i"(SYS_exit)
                     : "memory");
    return (long)a0;
}

#else
#error "the system-call instruction of this machine is not known: the proxy runs on x86-64, aarch64 and riscv64"
#endif

#define CALL6(name, a, b, c, d, e, f) call(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(name, a, b, c, d) CALL6(name, a, b, c, d, 0, 0)

/* ---- Processes -------------------------------------------------------------------------------------- */

int fns_call_fork(void)
{
    return (int)CALL(clone, 0, 0, 0, 0);
}

int fns_call_clone(unsigned long flags, void *top, int (*run)(void *), void *argument)
{
    return (int)call_clone(flags, top, run, argument);
}

void fns_call_exit(int status)
{
    for (;;)
        (void)CALL(exit_group, status, 0, 0, 0);
}

int fns_call_wait(pid_t pid, int *status, int options)
{
    return (int)CALL(wait4, pid, status, options, 0);
}

int fns_call_set_tid_address(int *word)
{
    return (int)CALL(set_tid_address, word, 0, 0, 0);
}

/* The word is written by the end of a task (CLONE_CHILD_CLEARTID), and there the kernel wakes as if it were shared. */
int fns_call_futex_wait(int *word, int value)
{
    return (int)CALL(futex, word, 0 /* FUTEX_WAIT */, value, 0);
}

int fns_call_getpid(void)
{
    return (int)CALL(getpid, 0, 0, 0, 0);
}

int fns_call_getppid(void)
{
    return (int)CALL(getppid, 0, 0, 0, 0);
}

int fns_call_pidfd_open(pid_t pid)
{
    return (int)CALL(pidfd_open, pid, 0, 0, 0);
}

int fns_call_getcpu(unsigned int *cpu)
{
    return (int)CALL(getcpu, cpu, 0, 0, 0);
}

int fns_call_setsid(void)
{
    return (int)CALL(setsid, 0, 0, 0, 0);
}

int fns_call_chdir(const char *path)
{
    return (int)CALL(chdir, path, 0, 0, 0);
}

int fns_call_umask(unsigned int mask)
{
    return (int)CALL(umask, mask, 0, 0, 0);
}

int fns_call_personality(unsigned long persona)
{
    return (int)CALL(personality, persona, 0, 0, 0);
}

int fns_call_prctl(int option, unsigned long a, unsigned long b, unsigned long c)
{
    return (int)CALL6(prctl, option, a, b, c, 0, 0);
}

int fns_call_rlimit(int resource, const struct rlimit *wanted, struct rlimit *now)
{
    return (int)CALL(prlimit64, 0, resource, wanted, now);
}

int fns_call_sigaction(int signo, const void *action, size_t set_size)
{
    return (int)CALL(rt_sigaction, signo, action, 0, set_size);
}

int fns_call_sigmask(int how, const uint64_t *set, uint64_t *before)
{
    return (int)CALL(rt_sigprocmask, how, set, before, SET_SIZE);
}

/* ---- Rights ----------------------------------------------------------------------------------------- */

int fns_call_capget(void *header, void *data)
{
    return (int)CALL(capget, header, data, 0, 0);
}

int fns_call_capset(void *header, const void *data)
{
    return (int)CALL(capset, header, data, 0, 0);
}

int fns_call_setfsgid(gid_t gid)
{
    return (int)CALL(setfsgid, gid, 0, 0, 0);
}

int fns_call_setfsuid(uid_t uid)
{
    return (int)CALL(setfsuid, uid, 0, 0, 0);
}

int fns_call_setgroups(size_t count, const gid_t *groups)
{
    return (int)CALL(setgroups, count, groups, 0, 0);
}

int fns_call_setresgid(gid_t gid)
{
    return (int)CALL(setresgid, gid, gid, gid, 0);
}

int fns_call_setresuid(uid_t uid)
{
    return (int)CALL(setresuid, uid, uid, uid, 0);
}

int fns_call_seccomp(unsigned int operation, unsigned int flags, const void *argument)
{
    return (int)CALL(seccomp, operation, flags, argument, 0);
}

int fns_call_landlock_create(const void *attributes, size_t size)
{
    return (int)CALL(landlock_create_ruleset, attributes, size, 0, 0);
}

int fns_call_landlock_restrict(int ruleset)
{
    return (int)CALL(landlock_restrict_self, ruleset, 0, 0, 0);
}

/* ---- Memory ----------------------------------------------------------------------------------------- */

void *fns_call_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return (void *)CALL6(mmap, at, size, protection, flags, fd, offset);
}

int fns_call_is_error(const void *address)
{
    return (uintptr_t)address >= (uintptr_t)-ERRORS;
}

int fns_call_munmap(uintptr_t at, size_t size)
{
    return (int)CALL(munmap, at, size, 0, 0);
}

int fns_call_mprotect(void *at, size_t size, int protection)
{
    return (int)CALL(mprotect, at, size, protection, 0);
}

int fns_call_madvise(void *at, size_t size, int advice)
{
    return (int)CALL(madvise, at, size, advice, 0);
}

int fns_call_memfd_create(const char *name, unsigned int flags)
{
    return (int)CALL(memfd_create, name, flags, 0, 0);
}

/* ---- Files ------------------------------------------------------------------------------------------ */

int fns_call_open(const char *path, int flags)
{
    return (int)CALL(openat, -100 /* AT_FDCWD */, path, flags, 0);
}

int fns_call_close(int fd)
{
    return (int)CALL(close, fd, 0, 0, 0);
}

int fns_call_close_range(unsigned int first, unsigned int last)
{
    return (int)CALL(close_range, first, last, 0, 0);
}

int fns_call_dup3(int from, int to, int flags)
{
    return (int)CALL(dup3, from, to, flags, 0);
}

int fns_call_fcntl(int fd, int command, long argument)
{
    return (int)CALL(fcntl, fd, command, argument, 0);
}

int fns_call_ftruncate(int fd, off_t size)
{
    return (int)CALL(ftruncate, fd, size, 0, 0);
}

int fns_call_fstat(int fd, struct stat *st)
{
    return (int)CALL(fstat, fd, st, 0, 0);
}

int fns_call_statfs(const char *path, struct statfs *fs)
{
    return (int)CALL(statfs, path, fs, 0, 0);
}

int fns_call_fstatfs(int fd, struct statfs *fs)
{
    return (int)CALL(fstatfs, fd, fs, 0, 0);
}

int fns_call_ioctl(int fd, unsigned long request)
{
    return (int)CALL(ioctl, fd, request, 0, 0);
}

int fns_call_setns(int fd, int type)
{
    return (int)CALL(setns, fd, type, 0, 0);
}

int fns_call_epoll_create(int flags)
{
    return (int)CALL(epoll_create1, flags, 0, 0, 0);
}

int fns_call_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return (int)CALL(epoll_ctl, epoll, operation, fd, event);
}

int fns_call_epoll_wait(int epoll, struct epoll_event *events, int room, int timeout_ms)
{
    return (int)CALL6(epoll_pwait, epoll, events, room, timeout_ms, 0, 0);
}

int fns_call_poll(struct pollfd *fds, unsigned int count, int timeout_ms)
{
    long timeout[2] = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};

    return (int)CALL6(ppoll, fds, count, timeout, 0, SET_SIZE, 0);
}

/* ---- Sockets ---------------------------------------------------------------------------------------- */

int fns_call_socket(int domain, int type, int protocol)
{
    return (int)CALL(socket, domain, type, protocol, 0);
}

int fns_call_socketpair(int domain, int type, int protocol, int pair[2])
{
    return (int)CALL(socketpair, domain, type, protocol, pair);
}

int fns_call_shutdown(int fd, int how)
{
    return (int)CALL(shutdown, fd, how, 0, 0);
}

int fns_call_bind(int fd, const void *name, socklen_t len)
{
    return (int)CALL(bind, fd, name, len, 0);
}

int fns_call_getsockname(int fd, void *name, socklen_t *len)
{
    return (int)CALL(getsockname, fd, name, len, 0);
}

int fns_call_setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
    return (int)CALL6(setsockopt, fd, level, option, value, len, 0);
}

int fns_call_getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
    return (int)CALL6(getsockopt, fd, level, option, value, len, 0);
}

/* To where the socket is connected, which for a netlink socket is the kernel. */
ssize_t fns_call_send(int fd, const void *data, size_t len, int flags)
{
    return CALL6(sendto, fd, data, len, flags, 0, 0);
}

ssize_t fns_call_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return CALL(sendmsg, fd, message, flags, 0);
}

ssize_t fns_call_recvmsg(int fd, struct msghdr *message, int flags)
{
    return CALL(recvmsg, fd, message, flags, 0);
}
