"""Declarations of libc and kernel headers: a block for each header. No logic, and no value typed twice."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sched.h>
    """


# ---- errors, memory, text, time ---------------------------------------------------------------------------------


cdef extern from "<errno.h>" nogil:
    int errno
    int E2BIG, EACCES, EAGAIN, EBADF, EBUSY, ECONNRESET, EEXIST, EINTR, EINVAL, EMSGSIZE, ETIMEDOUT, ENOBUFS, ENOENT, ENOMEM
    int EMFILE, EPERM, EPIPE, EPROTO


cdef extern from "<stdlib.h>" nogil:
    void abort()


cdef extern from "<stdio.h>" nogil:
    int snprintf(char *str, size_t size, const char *format, ...)


cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int MADV_DONTFORK
    int memfd_create(const char *name, unsigned int flags)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED
    int MFD_CLOEXEC, MFD_ALLOW_SEALING


cdef extern from "<time.h>" nogil:
    struct timespec_t "timespec":
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int nanosleep(const timespec_t *duration, timespec_t *rem)


cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec_t it_interval
        timespec_t it_value
    int timerfd_create(int clockid, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new_value, itimerspec *old_value)
    int TFD_CLOEXEC, TFD_NONBLOCK


# ---- files and descriptors --------------------------------------------------------------------------------------


cdef extern from "<fcntl.h>" nogil:
    int open(const char *path, int flags, ...)
    int fcntl(int fd, int cmd, ...)
    int O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH
    int F_DUPFD_CLOEXEC
    int F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE


cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t write(int fd, const void *buf, size_t count)
    ssize_t read(int fd, void *buf, size_t count)
    int getpid()
    int unlink(const char *path)
    int rmdir(const char *path)
    int STDERR_FILENO


cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        unsigned int st_mode
        long st_size
    int lstat(const char *path, stat_t *buf)
    int mkdir(const char *path, unsigned int mode)
    bint S_ISREG(unsigned int mode)


cdef extern from "<sys/vfs.h>" nogil:
    struct statfs_t "statfs":
        long f_type
    int statfs(const char *path, statfs_t *buf)
    int fstatfs(int fd, statfs_t *buf)


cdef extern from "<linux/magic.h>" nogil:
    long NSFS_MAGIC


cdef extern from "<sys/file.h>" nogil:
    int flock(int fd, int operation)
    int LOCK_EX


cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)


cdef extern from "<sys/epoll.h>" nogil:
    struct epoll_event:
        uint32_t events
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN


cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initval, int flags)
    int eventfd_write(int fd, uint64_t value)


cdef extern from "<sys/inotify.h>" nogil:
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)
    int IN_CLOEXEC, IN_NONBLOCK
    uint32_t IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR


cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long nfds, int timeout)
    int POLLIN, POLLOUT, POLLERR, POLLHUP


# ---- processes, threads, namespaces -----------------------------------------------------------------------------


cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *set)
    int kill(int pid, int sig)
    int SIG_SETMASK, SIGKILL, SIGSYS


cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *) noexcept nogil, void *arg)
    int pthread_join(pthread_t thread, void **retval)
    int pthread_attr_init(pthread_attr_t *attr)
    int pthread_attr_destroy(pthread_attr_t *attr)
    int pthread_attr_setstacksize(pthread_attr_t *attr, size_t stacksize)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *oldset)


cdef extern from "<sched.h>" nogil:
    int setns(int fd, int nstype)
    int unshare(int flags)
    int CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER


cdef extern from "<sys/mount.h>" nogil:
    int mount(const char *source, const char *target, const char *fstype, unsigned long flags, const void *data)
    int umount2(const char *target, int flags)
    int MS_BIND, MS_RDONLY, MS_REC, MS_SHARED, MS_SLAVE, MNT_DETACH


cdef extern from "<linux/nsfs.h>" nogil:
    unsigned long NS_GET_NSTYPE


# ---- sockets ----------------------------------------------------------------------------------------------------


cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    struct sockaddr:
        sa_family_t sa_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *msg)
    void *CMSG_DATA(cmsghdr *cmsg)
    size_t CMSG_SPACE(size_t length)
    size_t CMSG_LEN(size_t length)
    int socket(int domain, int type, int protocol)
    int socketpair(int domain, int type, int protocol, int *sv)
    int bind(int fd, const sockaddr *addr, socklen_t addrlen)
    int shutdown(int fd, int how)
    int getsockname(int fd, sockaddr *addr, socklen_t *addrlen)
    int setsockopt(int fd, int level, int optname, const void *optval, socklen_t optlen)
    int getsockopt(int fd, int level, int optname, void *optval, socklen_t *optlen)
    ssize_t sendto(int fd, const void *buf, size_t len, int flags, const sockaddr *addr, socklen_t addrlen)
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t recvmsg(int fd, msghdr *msg, int flags)
    ssize_t recv(int fd, void *buf, size_t len, int flags)
    int AF_BRIDGE, AF_INET, AF_INET6, AF_MPLS, AF_NETLINK, AF_UNIX
    int SOCK_RAW, SOCK_SEQPACKET, SOCK_CLOEXEC
    int SOL_SOCKET, SO_RCVBUF, SO_SNDBUF, SO_RCVBUFFORCE, SO_SNDBUFFORCE
    int MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC, MSG_CTRUNC
    int SHUT_RDWR, SCM_RIGHTS


cdef extern from "relay/kernel.h" nogil:  # the kernel's <linux/socket.h> is not for programs
    int SOL_NETLINK


cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int af, const char *src, void *dst)


cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCGSKNS
    int SIOCGIFFLAGS, SIOCSIFFLAGS


# ---- netlink messages -------------------------------------------------------------------------------------------


cdef extern from "<linux/netlink.h>" nogil:
    struct sockaddr_nl:
        sa_family_t nl_family
        unsigned short nl_pad
        uint32_t nl_pid
        uint32_t nl_groups
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid
    struct nlattr:
        uint16_t nla_len
        uint16_t nla_type
    int NETLINK_ROUTE, NETLINK_GENERIC
    int NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP, NETLINK_LISTEN_ALL_NSID
    int NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK
    int NLMSG_HDRLEN, NLMSG_MIN_TYPE, NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN
    int NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR, NLM_F_DUMP, NLM_F_CAPPED, NLM_F_ACK_TLVS
    int NLA_TYPE_MASK


cdef extern from "<linux/genetlink.h>" nogil:
    int GENL_HDRLEN


cdef extern from "<linux/rtnetlink.h>" nogil:
    struct rtgenmsg:
        unsigned char rtgen_family
    struct ifinfomsg:
        int ifi_index
    int RTM_BASE, RTM_NEWLINK, RTM_SETLINK, RTM_NEWNSID, RTM_GETNSID
    int RT_TABLE_COMPAT, RT_TABLE_MAIN
    int RTA_ENCAP_TYPE


cdef extern from "<linux/if_link.h>" nogil:
    int IFLA_NET_NS_FD, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA


cdef extern from "<linux/veth.h>" nogil:
    int VETH_INFO_PEER


cdef extern from "<linux/neighbour.h>" nogil:
    int NUD_NOARP, NUD_PERMANENT, NUD_REACHABLE, NTF_SELF, NTF_MASTER


cdef extern from "<linux/net_namespace.h>" nogil:
    int NETNSA_FD


cdef extern from "<linux/devlink.h>" nogil:
    int DEVLINK_ATTR_NETNS_FD


cdef extern from "<linux/nl80211.h>" nogil:
    int NL80211_ATTR_NETNS_FD


# ---- interfaces by ioctl(2) -------------------------------------------------------------------------------------


cdef extern from "<net/if.h>" nogil:
    struct ifreq:
        char *ifr_name
        short ifr_flags
    int IFNAMSIZ, IFF_UP, IFF_NOARP


cdef extern from "<linux/if_tun.h>" nogil:
    unsigned long TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP


cdef extern from "<linux/capability.h>" nogil:
    int CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN
