/* The system calls of the proxy, each by the machine's own instruction: no libc behind them, whose functions a program
 * may have interposed and whose memory the proxy does not keep. What they return is the result, or -errno.
 * Each is one call to the kernel: no state, no errno, no cancellation, no retry.
 * Every file that runs in the proxy calls them, gap.h and ring.c for both sides. syscall(2)
 */
#ifndef FASTNS_RELAY_CALL_H
#define FASTNS_RELAY_CALL_H

#include "kernel.h"

#include <poll.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/vfs.h>

int fns_call_bind(int fd, const void *name, socklen_t len);
int fns_call_capget(void *header, void *data);
int fns_call_capset(void *header, const void *data);
int fns_call_chdir(const char *path);
int fns_call_close(int fd);
int fns_call_close_range(unsigned int first, unsigned int last);
int fns_call_dup3(int from, int to, int flags);
int fns_call_epoll_create(int flags);
int fns_call_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int fns_call_epoll_wait(int epoll, struct epoll_event *events, int room, int timeout_ms);
void __attribute__((noreturn)) fns_call_exit(int status);    /* the whole process */
int fns_call_fcntl(int fd, int command, long argument);
int fns_call_fstat(int fd, struct stat *st);
int fns_call_fstatfs(int fd, struct statfs *fs);
int fns_call_ftruncate(int fd, off_t size);
int fns_call_futex_wait(int *word, int value);
int fns_call_getcpu(unsigned int *cpu);
int fns_call_getpid(void);
int fns_call_getppid(void);
int fns_call_getsockname(int fd, void *name, socklen_t *len);
int fns_call_getsockopt(int fd, int level, int option, void *value, socklen_t *len);
int fns_call_ioctl(int fd, unsigned long request);
int fns_call_landlock_create(const void *attributes, size_t size);
int fns_call_landlock_restrict(int ruleset);
int fns_call_madvise(void *at, size_t size, int advice);
int fns_call_memfd_create(const char *name, unsigned int flags);
int fns_call_mprotect(void *at, size_t size, int protection);
int fns_call_munmap(uintptr_t at, size_t size);
int fns_call_open(const char *path, int flags);
int fns_call_personality(unsigned long persona);
int fns_call_pidfd_open(pid_t pid);
int fns_call_poll(struct pollfd *fds, unsigned int count, int timeout_ms);
int fns_call_prctl(int option, unsigned long a, unsigned long b, unsigned long c);
int fns_call_rlimit(int resource, const struct rlimit *wanted, struct rlimit *now);
int fns_call_set_tid_address(int *word);
int fns_call_setfsgid(gid_t gid);    /* this and the next: what it was before */
int fns_call_setfsuid(uid_t uid);
int fns_call_setgroups(size_t count, const gid_t *groups);
int fns_call_setns(int fd, int type);
int fns_call_setresgid(gid_t gid);
int fns_call_setresuid(uid_t uid);
int fns_call_setsid(void);
int fns_call_seccomp(unsigned int operation, unsigned int flags, const void *argument);
int fns_call_setsockopt(int fd, int level, int option, const void *value, socklen_t len);
int fns_call_shutdown(int fd, int how);
int fns_call_sigaction(int signo, const void *action, size_t set_size);
int fns_call_sigmask(int how, const uint64_t *set, uint64_t *before);
int fns_call_socket(int domain, int type, int protocol);
int fns_call_socketpair(int domain, int type, int protocol, int pair[2]);
int fns_call_statfs(const char *path, struct statfs *fs);
int fns_call_umask(unsigned int mask);
int fns_call_wait(pid_t pid, int *status, int options);
ssize_t fns_call_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t fns_call_send(int fd, const void *data, size_t len, int flags);
ssize_t fns_call_sendmsg(int fd, const struct msghdr *message, int flags);

/* MAP_FAILED is not among what this returns: an address, or -errno, see fns_call_is_error(). */
void *fns_call_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int fns_call_is_error(const void *address);

/* A copy of the process as fork() makes it, without a handler of any library: 0 there, here its pid. */
int fns_call_fork(void);

/* A child that runs run(argument) on a stack of its own, of which `top` is the end, and ends with what that returns. */
int fns_call_clone(unsigned long flags, void *top, int (*run)(void *), void *argument);

#endif
