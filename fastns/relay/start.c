/* The proxy process from fork to loop: what it sheds before it serves.
 * Nothing of the caller's may stay: descriptors, memory, signal handlers. It reads no message.
 * fastns/core/relay.pxi calls it in the caller's process; behind the fork this calls all the rest.
 */
#include "start.h"
#include "channel.h"
#include "control.h"
#include "loop.h"
#include "netns.h"
#include "power.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void signals_reset(void)
{
    struct sigaction action;
    sigset_t none;

    memset(&action, 0, sizeof(action));
    for (int signo = 1; signo < NSIG; signo++) {
        switch (signo) {
        case SIGILL: case SIGTRAP: case SIGABRT: case SIGBUS: case SIGFPE: case SIGSEGV: case SIGSYS:
        case SIGCHLD: case SIGCONT: case SIGXCPU: case SIGXFSZ:
            action.sa_handler = SIG_DFL;
            break;
        default:
            /* Terminal and service-manager signals go to the caller, which may still need us to clean up:
             * the proxy ends when the caller does. */
            action.sa_handler = SIG_IGN;
        }
        (void)sigaction(signo, &action, NULL);
    }
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void close_from(unsigned int lowest)
{
    struct rlimit limit;

#ifdef SYS_close_range
    if (syscall(SYS_close_range, lowest, ~0u, 0) == 0)
        return;
#endif
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    for (rlim_t fd = lowest; fd < limit.rlim_max && fd < 1048576; fd++)
        close((int)fd);
}

/* The control socket becomes 3, the standard descriptors /dev/null, nothing else stays open. */
static int descriptors_reset(struct failure *f)
{
    struct rlimit limit;
    int null;

    if (proxy.config.control != 3) {
        if (dup2(proxy.config.control, 3) < 0)
            return failed(f, FNS_AT_DUP, errno);
        proxy.config.control = 3;
    }
    (void)fcntl(3, F_SETFD, FD_CLOEXEC);
    close_from(4);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) {
#if defined(FASTNS_SANITIZE) || defined(FASTNS_COVERAGE)
        if (fd == 2)
            continue;    /* reports go there */
#endif
        if (null < 0)
            close(fd);
        else if (null != fd)
            (void)dup2(null, fd);
    }
    if (null > 3)
        close(null);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return 0;
}

/* What the caller had mapped at the fork would cost memory as soon as it writes there. Everything goes, except
 * this library, libc, the dynamic linker, the kernel's own pages, and the parts of stack and thread-local
 * storage in use. Linked with -z now, so no symbol is looked up any more. */
struct keep { uintptr_t low, high; };
enum { ANCHORS = 5, FILES = 8, IDENTITY = 64, SPANS = 4 };

struct maps {
    int fd;
    size_t start, end;
    char buf[8192];
};

static const char *maps_line(struct maps *m, size_t *len)
{
    for (;;) {
        char *newline = memchr(m->buf + m->start, '\n', m->end - m->start);
        ssize_t got;
        if (newline != NULL) {
            const char *line = m->buf + m->start;
            *len = (size_t)(newline - line);
            m->start += *len + 1;
            return line;
        }
        memmove(m->buf, m->buf + m->start, m->end - m->start);
        m->end -= m->start;
        m->start = 0;
        if (m->end == sizeof(m->buf))
            return NULL;
        got = read(m->fd, m->buf + m->end, sizeof(m->buf) - m->end);
        if (got <= 0)
            return NULL;
        m->end += (size_t)got;
    }
}

static const char *hex(const char *s, const char *end, uintptr_t *value)
{
    uintptr_t v = 0;

    for (; s < end; s++) {
        unsigned int digit;
        if (*s >= '0' && *s <= '9')
            digit = (unsigned int)(*s - '0');
        else if (*s >= 'a' && *s <= 'f')
            digit = (unsigned int)(*s - 'a') + 10;
        else
            break;
        v = (v << 4) | digit;
    }
    *value = v;
    return s;
}

struct mapping {
    uintptr_t low, high;
    const char *identity;    /* offset-free "dev inode" text */
    size_t identity_len;
    const char *path;
    size_t path_len;
};

/* low-high perms offset dev inode path: proc_pid_maps(5). */
static int mapping_parse(const char *line, size_t len, struct mapping *m)
{
    const char *end = line + len, *s = hex(line, end, &m->low);

    if (s == end || *s != '-')
        return -1;
    s = hex(s + 1, end, &m->high);
    for (int field = 0; field < 2; field++) {    /* to the space before perms, before offset */
        s = memchr(s, ' ', (size_t)(end - s));
        if (s == NULL)
            return -1;
        s++;
    }
    s = memchr(s, ' ', (size_t)(end - s));
    if (s == NULL)
        return -1;
    m->identity = ++s;
    for (int field = 0; field < 2 && s != NULL; field++) {
        s = memchr(s, ' ', (size_t)(end - s));
        if (s != NULL && field == 0)
            s++;
    }
    if (s == NULL)
        s = end;
    m->identity_len = (size_t)(s - m->identity);
    while (s < end && *s == ' ')
        s++;
    m->path = s;
    m->path_len = (size_t)(end - s);
    return m->high > m->low ? 0 : -1;
}

static int mapping_is(const struct mapping *m, const char *prefix)
{
    size_t len = strlen(prefix);

    return m->path_len >= len && memcmp(m->path, prefix, len) == 0;
}

/* The dynamic linker, by the file name it has on glibc and musl. */
static int mapping_is_linker(const struct mapping *m)
{
    for (size_t i = m->path_len; i > 0; i--)
        if (m->path[i - 1] == '/')
            return m->path_len - i >= 2 && memcmp(m->path + i, "ld", 2) == 0;
    return 0;
}

static void unmap(uintptr_t low, uintptr_t high)
{
#if !defined(FASTNS_COVERAGE)    /* the counters are written out at exit with the whole of libc */
    if (high > low)
        (void)munmap((void *)low, high - low);
#else
    (void)low;
    (void)high;
#endif
}

/* Unmaps a mapping except for the spans inside it. */
static void unmap_around(uintptr_t low, uintptr_t high, const struct keep *spans)
{
    while (low < high) {
        uintptr_t next_low = high, next_high = high;
        for (int i = 0; i < SPANS; i++) {
            uintptr_t a = spans[i].low > low ? spans[i].low : low;
            uintptr_t b = spans[i].high < high ? spans[i].high : high;
            if (a < b && a < next_low) {
                next_low = a;
                next_high = b;
            }
        }
        unmap(low, next_low);
        low = next_high;
    }
}

static void __attribute__((noinline, unused)) memory_shed(void)
{
    static struct maps m;
    static char identities[FILES][IDENTITY];
    size_t lengths[FILES] = {0};
    int files = 0;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), kept_high = 0;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), local = (uintptr_t)&errno;
    uintptr_t thread = (uintptr_t)pthread_self();    /* the compiler's word for it is unknown to gcc 10 on x86 */
    const uintptr_t anchors[ANCHORS] = {(uintptr_t)&memory_shed, (uintptr_t)&recvmsg, (uintptr_t)&syscall,
                                        (uintptr_t)&memcpy, (uintptr_t)&epoll_wait};
    struct keep spans[SPANS] = {
        {here - 256 * 1024, here + 16 * 1024},
        {thread - 16 * 1024, thread + 16 * 1024},
        {local - 16 * 1024, local + 16 * 1024},
        {(uintptr_t)&proxy, (uintptr_t)(&proxy + 1)},
    };
    const char *line;
    size_t len;

    for (int i = 0; i < SPANS; i++) {
        spans[i].low &= ~(page - 1);
        spans[i].high = (spans[i].high + page - 1) & ~(page - 1);
    }
    for (int pass = 0; pass < 2; pass++) {
        m.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        if (m.fd < 0)
            return;
        m.start = m.end = 0;
        while ((line = maps_line(&m, &len)) != NULL) {
            struct mapping map;
            int keep = 0;
            if (mapping_parse(line, len, &map) < 0)
                continue;
            if (pass == 0) {
                for (int i = 0; i < ANCHORS; i++)
                    keep |= anchors[i] >= map.low && anchors[i] < map.high;
                keep |= mapping_is_linker(&map);
                if (keep && files < FILES && map.identity_len <= IDENTITY) {
                    memcpy(identities[files], map.identity, map.identity_len);
                    lengths[files++] = map.identity_len;
                }
                continue;
            }
            for (int i = 0; i < files; i++)
                keep |= map.path_len != 0 && lengths[i] == map.identity_len
                    && memcmp(identities[i], map.identity, map.identity_len) == 0;
            keep |= mapping_is(&map, "[v");                          /* vdso, vvar, vsyscall */
            keep |= map.path_len == 0 && map.low == kept_high;       /* .bss of a library kept */
            if (keep)
                kept_high = map.path_len == 0 ? 0 : map.high;
            else
                unmap_around(map.low, map.high, spans);
        }
        close(m.fd);
    }
}

static int prepare(struct failure *f)
{
    size_t bytes;
    void *table;

    proxy.epoll = proxy.parent = proxy.home = -1;
    proxy.reply.fd[0] = proxy.reply.fd[1] = -1;
    if (setsid() < 0)
        return failed(f, FNS_AT_SETSID, errno);
    signals_reset();
    if (descriptors_reset(f) < 0)
        return -1;
    if (prctl(PR_SET_NAME, "fastns-proxy", 0, 0, 0) < 0)
        return failed(f, FNS_AT_PRCTL, errno);
    umask(077);
    if (chdir("/") < 0)
        return failed(f, FNS_AT_OPEN, errno);
#if !defined(FASTNS_SANITIZE)
    memory_shed();
#endif
    bytes = sizeof(struct chan) * proxy.config.max_channels;
    table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        return failed(f, FNS_AT_MMAP, errno);
    proxy.chans = table;
    if (fns_loop_prepare(f) < 0)
        return -1;
    proxy.can_return = fns_netns_find_home() == 0;
    proxy.sealed = (proxy.config.flags & FNS_CONFIG_RESTRICTED) == 0;
    return fns_power_drop(f);
}

#if defined(FASTNS_COVERAGE)
extern void __gcov_dump(void);
#endif

static void __attribute__((noreturn)) finish(int status)
{
#if defined(FASTNS_COVERAGE)
    __gcov_dump();
#endif
    for (;;)
        syscall(SYS_exit_group, status);
}

static void __attribute__((noreturn, noinline)) child_run(void)
{
    struct failure f = {0, 0};
    int ready = prepare(&f);

    if (fns_control_hello(&f) == 0 && ready == 0)
        fns_loop_run();
    finish(ready == 0 ? 0 : 1);
}

pid_t fns_start_fork(const struct fns_config *config)
{
    sigset_t every, before;
    long pid;

    if (config->max_channels == 0 || config->max_channels > 0xffffu)
        return -EINVAL;
    sigfillset(&every);
    sigprocmask(SIG_SETMASK, &every, &before);
    pid = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        memcpy(&proxy.config, config, sizeof(proxy.config));
        child_run();
    }
    if (pid < 0)
        pid = -errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return (pid_t)pid;
}

pid_t fns_start_wait(pid_t pid, int *status, int block)
{
    pid_t got = waitpid(pid, status, __WALL | (block ? 0 : WNOHANG));

    return got < 0 ? -errno : got;
}
