/* Every system call of the proxy failing once, one after the other: it reports, undoes and goes on, or ends with a
 * reason. Linked with --wrap for each call below; which one fails is set in memory shared with the proxy, so this
 * is built with FASTNS_SANITIZE or FASTNS_COVERAGE, which leave that mapped. Exits 0 when all held.
 */
#include "relay_client.h"

#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define CALLS(X) \
    X(setsid) X(dup3) X(prctl) X(chdir) X(mmap) X(mprotect) X(epoll_create) X(epoll_ctl) X(socket) X(setsockopt) \
    X(getsockopt) X(getsockname) X(bind) X(socketpair) X(memfd_create) X(ftruncate) X(fcntl) X(fstat) X(fstatfs) X(statfs) \
    X(setns) X(clone) X(open) X(send) X(recvmsg) X(sendmsg) X(rlimit) X(ioctl) X(epoll_wait) X(getppid) X(poll) \
    X(close_range) X(pidfd_open) X(capget) X(capset) X(setresgid) X(setresuid) X(landlock_create) X(landlock_restrict) \
    X(seccomp)

enum { CALL_NONE,
#define X(name) CALL_##name,
CALLS(X)
#undef X
    CALL_COUNT };

static const char *const call_names[] = {"none",
#define X(name) #name,
CALLS(X)
#undef X
};

static struct shared {
    volatile int call, after, error, hits, always;
    volatile int cut;            /* recvmsg: MSG_CTRUNC this many times */
    volatile int netlink;        /* recvmsg: only of a netlink socket */
} *shared;
static pid_t main_pid;

static int fails(int call)
{
    if (shared == NULL || shared->call != call || fns_call_getpid() == main_pid)
        return 0;
    if (shared->after > 0) {
        shared->after--;
        return 0;
    }
    if (shared->hits > 0 && !shared->always)
        return 0;
    shared->hits++;
    return 1;
}

#define WRAP(type, name, arguments, values) \
    extern type __real_fns_call_##name arguments; \
    type __wrap_fns_call_##name arguments; \
    type __wrap_fns_call_##name arguments \
    { \
        return fails(CALL_##name) ? (type)(intptr_t)-shared->error : __real_fns_call_##name values; \
    }

WRAP(int, setsid, (void), ())
WRAP(int, dup3, (int a, int b, int f), (a, b, f))
WRAP(int, prctl, (int o, unsigned long a, unsigned long b, unsigned long c), (o, a, b, c))
WRAP(int, chdir, (const char *p), (p))
WRAP(void *, mmap, (void *a, size_t l, int p, int f, int fd, off_t o), (a, l, p, f, fd, o))
WRAP(int, mprotect, (void *a, size_t l, int p), (a, l, p))
WRAP(int, epoll_create, (int f), (f))
WRAP(int, epoll_ctl, (int e, int o, int fd, struct epoll_event *ev), (e, o, fd, ev))
WRAP(int, epoll_wait, (int e, struct epoll_event *ev, int n, int t), (e, ev, n, t))
WRAP(int, socket, (int d, int t, int p), (d, t, p))
WRAP(int, setsockopt, (int fd, int l, int n, const void *v, socklen_t s), (fd, l, n, v, s))
WRAP(int, getsockopt, (int fd, int l, int n, void *v, socklen_t *s), (fd, l, n, v, s))
WRAP(int, getsockname, (int fd, void *a, socklen_t *s), (fd, a, s))
WRAP(int, bind, (int fd, const void *a, socklen_t s), (fd, a, s))
WRAP(int, socketpair, (int d, int t, int p, int *sv), (d, t, p, sv))
WRAP(int, memfd_create, (const char *n, unsigned int f), (n, f))
WRAP(int, ftruncate, (int fd, off_t l), (fd, l))
WRAP(int, fcntl, (int fd, int c, long a), (fd, c, a))
WRAP(int, fstat, (int fd, struct stat *st), (fd, st))
WRAP(int, fstatfs, (int fd, struct statfs *st), (fd, st))
WRAP(int, statfs, (const char *p, struct statfs *st), (p, st))
WRAP(int, setns, (int fd, int t), (fd, t))
WRAP(int, clone, (unsigned long f, void *s, int (*r)(void *), void *a), (f, s, r, a))
WRAP(int, open, (const char *p, int f), (p, f))
WRAP(ssize_t, send, (int fd, const void *b, size_t l, int f), (fd, b, l, f))
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f))
WRAP(int, rlimit, (int r, const struct rlimit *n, struct rlimit *o), (r, n, o))
WRAP(int, ioctl, (int fd, unsigned long r), (fd, r))
WRAP(int, getppid, (void), ())
WRAP(int, poll, (struct pollfd *p, unsigned int n, int t), (p, n, t))
WRAP(int, close_range, (unsigned int a, unsigned int b), (a, b))
WRAP(int, pidfd_open, (pid_t p), (p))
WRAP(int, capget, (void *h, void *d), (h, d))
WRAP(int, capset, (void *h, const void *d), (h, d))
WRAP(int, setresgid, (gid_t g), (g))
WRAP(int, setresuid, (uid_t u), (u))
WRAP(int, landlock_create, (const void *a, size_t s), (a, s))
WRAP(int, landlock_restrict, (int fd), (fd))
WRAP(int, seccomp, (unsigned int o, unsigned int f, const void *a), (o, f, a))

static int is_netlink(int fd)
{
    int domain = 0;
    socklen_t len = sizeof(domain);

    return __real_fns_call_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_NETLINK;
}

extern ssize_t __real_fns_call_recvmsg(int fd, struct msghdr *m, int f);
ssize_t __wrap_fns_call_recvmsg(int fd, struct msghdr *m, int f);
ssize_t __wrap_fns_call_recvmsg(int fd, struct msghdr *m, int f)
{
    ssize_t got;

    if (shared != NULL && (!shared->netlink || is_netlink(fd)) && fails(CALL_recvmsg))
        return -shared->error;
    got = __real_fns_call_recvmsg(fd, m, f);
    if (got > 0 && shared != NULL && shared->cut > 0 && fns_call_getpid() != main_pid) {
        shared->cut--;
        m->msg_flags |= MSG_CTRUNC;
    }
    return got;
}

static void arm(int call, int after, int error)
{
    shared->always = 0;
    shared->netlink = 0;
    shared->hits = 0;
    shared->after = after;
    shared->error = error;
    shared->call = call;
}

static int disarm(void)
{
    shared->call = CALL_NONE;
    shared->cut = 0;
    return shared->hits;
}

static void start(struct client *c, uint32_t flags)
{
    struct fns_config config = {.parent = getpid(), .max_channels = 20, .families = 0xffffffffu, .flags = flags};
    int pair[2];

    strcpy(config.run_dir, "/var/run/netns");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        fail("socketpair");
    config.control = pair[1];
    c->control = pair[0];
    c->id = 0;
    c->pid = fns_start_fork(&config);
    close(pair[1]);
    if (c->pid <= 0 && shared->call == CALL_NONE)
        fail("fork");
}

static int stop(struct client *c)
{
    int status;

    close(c->control);
    while (fns_start_wait(c->pid, &status, 1) == -EINTR)
        ;
    return status;
}

static void say(const char *what, int call, int after)
{
    fprintf(stderr, "relay_faults: %s, %s failing after %d\n", what, call_names[call], after);
    exit(1);
}

/* The HELLO: 0 or its errno; -1 when the proxy ended without one. */
static int hello(struct client *c)
{
    uint8_t buf[FNS_REPLY_MAX];
    struct fns_reply reply;
    struct pollfd p = {c->control, POLLIN, 0};
    struct fds fds;
    ssize_t got;

    if (poll(&p, 1, 20000) != 1)
        say("no hello", shared->call, shared->after);
    got = fns_proxy_receive(c->control, buf, sizeof(buf), &fds);
    fds_close(&fds);
    if (got < (ssize_t)sizeof(reply))
        return -1;
    memcpy(&reply, buf, sizeof(reply));
    return reply.err;
}

/* Each call of the way from fork to loop. Whatever the proxy cannot do without, it says and ends. */
static void check_start(void)
{
    static const int calls[] = {CALL_setsid, CALL_dup3, CALL_prctl, CALL_chdir, CALL_mmap, CALL_mprotect, CALL_clone,
                                CALL_epoll_create, CALL_epoll_ctl, CALL_open, CALL_fstat, CALL_statfs, CALL_setns,
                                CALL_close_range, CALL_pidfd_open, CALL_rlimit, CALL_sendmsg, CALL_getppid, CALL_capget,
                                CALL_capset, CALL_setresgid, CALL_setresuid, CALL_landlock_create, CALL_landlock_restrict,
                                CALL_seccomp};

    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        for (int after = 0; after < 8; after++) {
            struct client c;
            int err, status, hits;
            arm(calls[i], after, EPERM);
            start(&c, FNS_CONFIG_READ_ONLY);
            if (c.pid < 0) {         /* there is no process to say so */
                if (c.pid != -EPERM || disarm() != 1)
                    say("not started, for another reason", calls[i], after);
                close(c.control);
                continue;
            }
            err = hello(&c);
            hits = disarm();
            status = stop(&c);
            if (!WIFEXITED(status) || (err > 0 && WEXITSTATUS(status) != 1) || (err == 0 && status != 0))
                say("the end does not fit the beginning", calls[i], after);
            if ((calls[i] == CALL_capset || calls[i] == CALL_seccomp || calls[i] == CALL_landlock_restrict) && hits != 0
                && err != EPERM)
                say("started with more than it may have", calls[i], after);
            if (hits == 0)
                break;
        }
    }
    /* A kernel without a filter: not where there is a policy. One without Landlock will do. */
    for (int with_policy = 0; with_policy < 2; with_policy++) {
        static const int lacking[] = {CALL_seccomp, CALL_landlock_create};
        for (int i = 0; i < 2; i++) {
            struct client c;
            int err, hits;
            arm(lacking[i], 0, ENOSYS);
            start(&c, with_policy ? FNS_CONFIG_READ_ONLY : 0);
            err = hello(&c);
            hits = disarm();
            if (err != (hits != 0 && with_policy && lacking[i] == CALL_seccomp ? ENOSYS : 0))
                say("the wrong start without what the kernel may lack", lacking[i], with_policy);
            (void)stop(&c);
        }
    }
    /* Without a call that closes ranges, one after the other. */
    for (int without_limit = 0; without_limit < 2; without_limit++) {
        struct client c;
        arm(without_limit ? CALL_rlimit : CALL_close_range, 0, ENOSYS);
        start(&c, 0);
        if (hello(&c) != 0)
            say("not started", CALL_close_range, without_limit);
        (void)disarm();
        if (stop(&c) != 0)
            say("not ended", CALL_close_range, without_limit);
    }
    /* Without a descriptor of the parent, it asks now and then. */
    {
        struct client c;
        arm(CALL_pidfd_open, 0, ENOSYS);
        start(&c, 0);
        if (hello(&c) != 0)
            say("not started", CALL_pidfd_open, 0);
        arm(CALL_getppid, 0, 0);
        shared->always = 1;
        sleep(3);
        (void)disarm();
        if (stop(&c) != 0)
            say("not ended", CALL_getppid, 0);
    }
}

/* Each call of opening a channel, of its options, of sending and receiving. */
static void check_work(void)
{
    static const int calls[] = {CALL_ioctl, CALL_fstat, CALL_socket, CALL_setsockopt, CALL_bind, CALL_getsockname,
                                CALL_socketpair, CALL_memfd_create, CALL_ftruncate, CALL_fcntl, CALL_mmap, CALL_epoll_ctl,
                                CALL_recvmsg, CALL_sendmsg, CALL_fstatfs, CALL_statfs, CALL_getsockopt, CALL_epoll_wait,
                                CALL_poll, CALL_send, CALL_open, CALL_setns};
    static const int errors[] = {EINTR, ENOMEM, EMFILE, EINVAL, EAGAIN};
    struct client c;
    struct channel witness;
    uint8_t buf[FNS_REPLY_MAX];
    int fds[2], before;

    (void)disarm();
    start(&c, 0);
    if (hello(&c) != 0 || channel_open(&c, &witness, 1 << 20, 0) != 0)
        fail("no witness");
    before = count_fds(c.pid);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        for (int e = 0; e < 5; e++) {
            for (int after = 0; after < 6; after++) {
                struct channel ch;
                struct fns_open named = {.name_len = 4, .flags = 0};
                char request[sizeof(named) + 4];
                int value = 1, hits;
                struct { struct fns_message m; } memfd = {{FNS_SEND_MEMFD, 300000, 0, FNS_STRICT}};
                int mem = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
                /* The control socket itself failing for good is the end of the connection: EINTR and EAGAIN only. */
                if ((calls[i] == CALL_recvmsg || calls[i] == CALL_sendmsg || calls[i] == CALL_epoll_wait) && e > 0 && e < 4) {
                    close(mem);
                    continue;
                }
                if (mem < 0 || ftruncate(mem, 300000) < 0 || fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE) < 0)
                    fail("memfd");
                arm(calls[i], after, errors[e]);
                if (channel_open(&c, &ch, 65536, 0) == 0) {
                    (void)send_fds(ch.sock, &memfd, sizeof(memfd), &mem, 1);
                    (void)send_fds(ch.sock, &get_link, sizeof(get_link), NULL, 0);
                    (void)call(&c, FNS_SETSOCKOPT, ch.number, NULL, 0, -1, buf, fds);
                    (void)call(&c, FNS_GETSOCKOPT, ch.number, &value, sizeof(value), -1, buf, fds);
                    (void)call(&c, FNS_GETSOCKNAME, ch.number, NULL, 0, -1, buf, fds);
                    (void)call(&c, FNS_BIND, ch.number, NULL, 0, -1, buf, fds);
                    channel_close(&ch);
                }
                memcpy(request, &named, sizeof(named));
                memcpy(request + sizeof(named), "none", 4);
                if (call(&c, FNS_OPEN, 0, request, sizeof(request), -1, buf, fds) == 0)
                    say("a namespace that is not there was opened", calls[i], after);
                close(mem);
                hits = disarm();
                witness_check(&witness);
                if (hits == 0)
                    break;
            }
        }
    }
    /* A reply that cannot carry its descriptors says so. */
    {
        struct channel ch;
        arm(CALL_sendmsg, 0, ETOOMANYREFS);
        if (channel_open(&c, &ch, 65536, 0) != ETOOMANYREFS || disarm() != 1)
            say("the wrong reply", CALL_sendmsg, 0);
        witness_check(&witness);
    }
    for (int i = 0; i < 1000 && count_fds(c.pid) > before; i++)
        usleep(5000);
    if (count_fds(c.pid) > before)
        fail("descriptors left in the proxy");
    channel_close(&witness);
    /* No reply at all is the end: the caller would wait for ever. */
    {
        struct fns_request rq = {.op = FNS_STATS, .id = 1};
        struct pollfd p = {c.control, POLLIN, 0};
        char byte;
        arm(CALL_sendmsg, 0, ENOBUFS);
        shared->always = 1;
        if (send_fds(c.control, &rq, sizeof(rq), NULL, 0) < 0 || poll(&p, 1, 20000) != 1
            || recv(c.control, &byte, 1, 0) > 0)
            say("no end", CALL_sendmsg, 0);
        (void)disarm();
    }
    if (stop(&c) != 0)
        fail("the proxy did not end well");
}

/* Descriptors that did not fit its table: the request fails, nothing else. */
static void check_cut(void)
{
    struct client c;
    struct channel ch;
    const uint8_t *payload;
    uint32_t len, type;
    struct fns_error error;
    uint8_t buf[FNS_REPLY_MAX];
    int fds[2], nsfd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

    start(&c, 0);
    if (hello(&c) != 0 || channel_open(&c, &ch, 65536, 0) != 0)
        fail("no channel");
    shared->cut = 1;
    if (call(&c, FNS_OPEN, 0, NULL, 0, nsfd, buf, fds) != EMFILE)
        fail("a cut request was taken");
    shared->cut = 1;
    if (send_fds(ch.sock, &get_link, sizeof(get_link), NULL, 0) < 0)
        fail("send");
    for (int i = 0; i < 2000 && fns_ring_empty(&ch.reader); i++)
        usleep(5000);
    if (fns_ring_next(&ch.reader, &payload, &len, &type) != 1 || type != FNS_ERROR || len != sizeof(error))
        fail("a cut message left no error");
    memcpy(&error, payload, sizeof(error));
    if (error.err != EMFILE || fns_ring_release(&ch.reader) < 0)
        fail("a cut message left another error");
    witness_check(&ch);
    channel_close(&ch);
    close(nsfd);
    if (stop(&c) != 0)
        fail("the proxy did not end well");
}

/* The kernel has no memory for what the netlink socket should give: an error record, and the answer after it. */
static void check_receive(void)
{
    struct client c;
    struct channel ch;
    const uint8_t *payload;
    uint32_t len, type, seen = 0;
    struct fns_error error;

    start(&c, 0);
    if (hello(&c) != 0 || channel_open(&c, &ch, 1 << 20, 0) != 0)
        fail("no channel");
    arm(CALL_recvmsg, 0, ENOMEM);
    shared->netlink = 1;
    if (send_fds(ch.sock, &get_link, sizeof(get_link), NULL, 0) < 0)
        fail("send");
    for (int i = 0; i < 2000 && seen < 2; i++) {
        if (fns_ring_next(&ch.reader, &payload, &len, &type) != 1) {
            usleep(5000);
            continue;
        }
        if (seen == 0) {
            memcpy(&error, payload, sizeof(error));
            if (type != FNS_ERROR || error.err != ENOMEM || error.detail != FNS_AT_RECVMSG)
                fail("another error");
        } else if (type != FNS_DATA) {
            fail("no answer behind the error");
        }
        (void)fns_ring_release(&ch.reader);
        seen++;
    }
    if (seen != 2 || disarm() != 1)
        fail("no error and its answer");
    witness_check(&ch);
    channel_close(&ch);
    if (stop(&c) != 0)
        fail("the proxy did not end well");
}

/* Where no way back exists, a helper goes: the rootless case, here by refusing the first setns. */
static void check_helper(void)
{
    static const int calls[] = {CALL_NONE, CALL_clone, CALL_setns, CALL_socket};
    struct client c;
    uint8_t buf[FNS_REPLY_MAX];
    struct fns_open o = {.ring_size = 65536};
    int fds[2], nsfd, ready[2];
    char path[64], byte;
    pid_t other;

    if (pipe(ready) < 0)
        fail("pipe");
    other = fork();
    if (other == 0) {
        if (unshare(CLONE_NEWNET) == 0 && write(ready[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) == 1) {
        snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)other);
        nsfd = open(path, O_RDONLY | O_CLOEXEC);
        arm(CALL_setns, 0, EPERM);
        start(&c, 0);
        if (hello(&c) != 0 || disarm() != 1)
            fail("no proxy");
        for (int i = 0; i < 4; i++) {
            int err;
            arm(calls[i], 0, EMFILE);
            err = call(&c, FNS_OPEN, 0, &o, sizeof(o), nsfd, buf, fds);
            (void)disarm();
            /* Tried twice when descriptors run out, as closed channels may give some back. */
            if (err != 0)
                say("not opened", calls[i], 0);
            close(fds[0]);
            close(fds[1]);
            arm(calls[i], 0, EPERM);
            err = call(&c, FNS_OPEN, 0, &o, sizeof(o), nsfd, buf, fds);
            (void)disarm();
            if (err != (i == 0 ? 0 : EPERM))
                say("the wrong result", calls[i], 0);
            close(fds[0]);
            close(fds[1]);
        }
        close(nsfd);
        if (stop(&c) != 0)
            fail("the proxy did not end well");
    }
    close(ready[0]);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
}

/* Replies nobody reads: the proxy keeps one and takes no further request until there is room. */
static void check_unread(void)
{
    struct client c;
    struct channel witness;
    struct fns_request rq = {.op = FNS_STATS, .id = 1000000000u};
    uint8_t buf[FNS_REPLY_MAX];
    int fds[2], refused = 0;

    start(&c, 0);
    if (hello(&c) != 0 || channel_open(&c, &witness, 65536, 0) != 0)
        fail("no proxy");
    for (int i = 0; i < 20000 && refused < 50; i++) {    /* as many as net.unix.max_dgram_qlen, twice */
        if (send_fds(c.control, &rq, sizeof(rq), NULL, 0) > 0) {
            refused = 0;
        } else {
            refused++;
            usleep(1000);
        }
        if (i % 20 == 0)
            witness_check(&witness);
    }
    if (refused < 50)
        fail("the proxy takes requests without end");
    if (call(&c, FNS_STATS, 0, NULL, 0, -1, buf, fds) != 0)
        fail("no statistics");
    /* And its caller ends while it keeps one. */
    for (int i = 0; i < 20000 && refused < 100; i++) {
        if (send_fds(c.control, &rq, sizeof(rq), NULL, 0) > 0) {
            refused = 50;
        } else {
            refused++;
            usleep(1000);
        }
    }
    channel_close(&witness);
    if (stop(&c) != 0)
        fail("the proxy did not end well");
}

/* The parent's end is noticed though somebody else holds the control socket. */
static void check_parent(void)
{
    int pipes[2], status = 0;
    pid_t parent, pid = 0;
    struct client c = {-1, 0, 0};
    int pair[2];

    if (pipe(pipes) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        fail("pipe");
    parent = fork();
    if (parent == 0) {
        start(&c, 0);
        if (hello(&c) != 0)
            _exit(1);
        (void)send_fds(pair[1], "x", 1, &c.control, 1);
        if (write(pipes[1], &c.pid, sizeof(c.pid)) != sizeof(c.pid))
            _exit(1);
        _exit(0);
    }
    if (read(pipes[0], &pid, sizeof(pid)) != sizeof(pid))
        fail("read");
    waitpid(parent, &status, 0);
    for (int i = 0; i < 2000; i++) {
        char path[64], line[256] = "";
        FILE *file;
        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        file = fopen(path, "r");
        if (file == NULL || fgets(line, sizeof(line), file) == NULL || strstr(line, ") Z ") != NULL
            || strstr(line, ") X ") != NULL) {
            if (file != NULL)
                fclose(file);
            pid = 0;
            break;
        }
        fclose(file);
        usleep(5000);
    }
    if (pid != 0)
        fail("the proxy outlives its parent");
    close(pipes[0]);
    close(pipes[1]);
    close(pair[0]);
    close(pair[1]);
}

static void check_arguments(void)
{
    struct fns_config config = {.max_channels = 0};
    struct fns_reader reader;
    char *map = calloc(1, FNS_RING_HEADER + FNS_RING_MIN);

    if (fns_start_fork(&config) != -EINVAL)
        fail("no channels");
    config.max_channels = 0x10000;
    if (fns_start_fork(&config) != -EINVAL)
        fail("too many channels");
    if (strcmp(fns_stage_name(FNS_AT_SETNS), "setns") != 0 || strcmp(fns_stage_name(4000), "?") != 0)
        fail("names of steps");
    if (map == NULL || fns_ring_attach(&reader, map, 10) == 0
        || fns_ring_attach(&reader, map, FNS_RING_HEADER + FNS_RING_MIN) == 0)
        fail("no ring was attached");
    ((struct fns_ring *)(void *)map)->magic = FNS_MAGIC;
    ((struct fns_ring *)(void *)map)->size = 5;
    if (fns_ring_attach(&reader, map, FNS_RING_HEADER + FNS_RING_MIN) == 0)
        fail("a ring of the wrong size was attached");
    free(map);
}

int main(void)
{
    main_pid = fns_call_getpid();
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("mmap");
    signal(SIGPIPE, SIG_IGN);
    check_arguments();
    check_cut();
    check_receive();
    check_unread();
    check_helper();
    check_parent();
    check_work();
    check_start();
    return 0;
}
