/* The proxy process from fork to loop: what it sheds before it serves.
 * Nothing of the caller's may stay: descriptors, memory, signal handlers. It reads no message.
 * fastns/core/relay.pxi calls it in the caller's process; behind the fork this calls all the rest.
 *
 * Two processes are made. The first is a copy of the caller as fork() makes it, with all that the kernel remembers of the
 * calling thread: where libc and others have it keep rseq areas and lists of locks. The second shares the memory of the
 * first and has none of that, nor its stack; it waits for the first to end, is the caller's child by CLONE_PARENT, and
 * unmaps everything but this library and the stack it stands on.
 */
#include "start.h"
#include "channel.h"
#include "control.h"
#include "loop.h"
#include "netns.h"
#include "power.h"

#include <fcntl.h>
#include <link.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

enum { PAGE_LEAST = 4096, PAGE_MOST = 65536, STACK = 4 * PAGE_MOST };

static void signals_reset(void)
{
    enum { SIGNALS = 64 };
    unsigned long action[4] = {0};       /* the kernel's struct sigaction begins with the handler */
    uint64_t none = 0;

    for (int signo = 1; signo <= SIGNALS; signo++) {
        switch (signo) {
        case SIGILL: case SIGTRAP: case SIGABRT: case SIGBUS: case SIGFPE: case SIGSEGV: case SIGSYS:
        case SIGCHLD: case SIGCONT: case SIGXCPU:
            action[0] = (unsigned long)SIG_DFL;
            break;
        default:
            /* Terminal and service-manager signals go to the caller, which may still need us to clean up:
             * the proxy ends when the caller does. */
            action[0] = (unsigned long)SIG_IGN;
        }
        (void)fns_call_sigaction(signo, action, sizeof(none));
    }
    (void)fns_call_sigmask(SIG_SETMASK, &none, NULL);
}

static void close_from(unsigned int lowest)
{
    struct rlimit limit;

    if (fns_call_close_range(lowest, UINT32_MAX) == 0 || fns_call_rlimit(RLIMIT_NOFILE, NULL, &limit) < 0)
        return;
    for (rlim_t fd = lowest; fd < limit.rlim_max && fd < 1048576; fd++)
        (void)fns_call_close((int)fd);
}

static void limit_raise(int resource, int beyond)
{
    struct rlimit limit, none = {RLIM_INFINITY, RLIM_INFINITY};

    if ((beyond && fns_call_rlimit(resource, &none, NULL) == 0) || fns_call_rlimit(resource, NULL, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)fns_call_rlimit(resource, &limit, NULL);
}

/* The control socket becomes 3, the standard descriptors /dev/null, nothing else stays open. */
static int descriptors_reset(struct failure *f)
{
    int null, err;

    if (proxy.config.control != 3) {
        err = fns_call_dup3(proxy.config.control, 3, O_CLOEXEC);
        if (err < 0)
            return failed(f, FNS_AT_DUP, -err);
        proxy.config.control = 3;
    }
    close_from(4);
    null = fns_call_open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) {
#if defined(FASTNS_SANITIZE) || defined(FASTNS_COVERAGE)
        if (fd == 2)
            continue;    /* reports go there */
#endif
        if (null < 0)
            (void)fns_call_close(fd);
        else if (null != fd)
            (void)fns_call_dup3(null, fd, O_CLOEXEC);
    }
    if (null > 3)
        (void)fns_call_close(null);
    limit_raise(RLIMIT_NOFILE, 0);
    limit_raise(RLIMIT_FSIZE, 1);        /* rings are files to it */
    return 0;
}

/* ---- Memory ----------------------------------------------------------------------------------------- */

#if !defined(FASTNS_SANITIZE) && !defined(FASTNS_COVERAGE)   /* what they do takes the whole of libc */

/* Where this library begins and ends: the linker's own names. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));

struct span {
    uintptr_t low, high;
};

/* What the kernel has sealed stays, emptied where it may be written (mseal(2)): the pages around it go. Halves end at
 * multiples of the largest power of two, as huge pages are not taken apart. */
static void unmap(uintptr_t low, uintptr_t high, uintptr_t page)
{
    uintptr_t half = page, middle;

    if (low >= high || fns_call_munmap(low, high - low) == 0)
        return;
    if (high - low <= page) {
        (void)fns_call_madvise((void *)low, page, MADV_DONTNEED);
        return;
    }
    while ((low ^ (high - 1)) / half > 1)
        half <<= 1;
    middle = (high - 1) & ~(half - 1);
    unmap(low, middle, page);
    unmap(middle, high, page);
}

/* From there to the end of what a process can map, which no call tells: a power of two, or a page less. */
static void unmap_rest(uintptr_t low, uintptr_t page)
{
    enum { BITS_MOST = 63, BITS_LEAST = 32 };

    for (int bits = BITS_MOST; bits >= BITS_LEAST; bits--) {
        uintptr_t high = (uintptr_t)1 << bits;
        for (int less = 0; less < 2 && low < high; less++, high -= page) {
            int err = fns_call_munmap(low, high - low);
            if (err == -EPERM)
                unmap(low, high, page);
            if (err != -EINVAL)
                return;
        }
    }
}

static uintptr_t page_size(const char *mapped)
{
    uintptr_t page = PAGE_LEAST;

    while (page < PAGE_MOST && fns_call_mprotect((void *)(uintptr_t)(mapped + page), 0, PROT_NONE) == -EINVAL)
        page <<= 1;
    return page;
}

static struct span pages(uintptr_t low, uintptr_t high, uintptr_t page)
{
    struct span s = {low & ~(page - 1), (high + page - 1) & ~(page - 1)};

    return s;
}

static uintptr_t shadow_stack(void)
{
    uintptr_t at = 0;

#if defined(__x86_64__)
    __asm__ volatile("rdsspq %0" : "+r"(at));     /* does nothing where there is none */
#elif defined(__aarch64__)
    register uint64_t features __asm__("x16") = 1;

    __asm__ volatile("hint #40" : "+r"(features));    /* chkfeat x16, which does nothing where there is none */
    if (features == 0)
        __asm__ volatile("mrs %0, s3_3_c2_c5_1" : "=r"(at));      /* gcspr_el0 */
#endif
    return at;
}

/* Everything goes but this library and the stack, the shadow one too: the program's heap and stacks, its arguments and
 * environment, all libraries, the kernel's own pages. */
static void memory_shed(const char *stack, uintptr_t page)
{
    uintptr_t shadow = shadow_stack(), low = 0;
    struct span kept[] = {
        pages((uintptr_t)__ehdr_start, (uintptr_t)_end, page),
        pages((uintptr_t)stack, (uintptr_t)stack + STACK, page),
        pages(shadow, shadow + (shadow != 0), page),
    };
    enum { KEPT = sizeof(kept) / sizeof(kept[0]) };

    for (int done = 0; done < KEPT; done++) {
        struct span *next = &kept[done];
        for (int i = done; i < KEPT; i++) {
            if (kept[i].low < next->low) {
                struct span lower = kept[i];
                kept[i] = *next;
                *next = lower;
            }
        }
        unmap(low, next->low, page);
        if (next->high > low)
            low = next->high;
    }
    unmap_rest(low, page);
}

/* What may be executed of this library is its code, also where the program had it mapped with READ_IMPLIES_EXEC. */
static void executable_drop(uintptr_t page)
{
    uintptr_t base = (uintptr_t)__ehdr_start;
    ElfW(Ehdr) header;
    ElfW(Phdr) part;

    memcpy(&header, __ehdr_start, sizeof(header));
    for (int i = 0; i < header.e_phnum; i++) {
        struct span s;
        memcpy(&part, __ehdr_start + header.e_phoff + (size_t)i * sizeof(part), sizeof(part));
        s = pages(base + part.p_vaddr, base + part.p_vaddr + part.p_memsz, page);
        if (part.p_type == PT_GNU_RELRO)     /* written by the loader only; what comes behind it in its last page is not */
            s.high = (base + part.p_vaddr + part.p_memsz) & ~(page - 1);
        else if (part.p_type != PT_LOAD || (part.p_flags & PF_X) != 0)
            continue;
        (void)fns_call_mprotect((void *)s.low, s.high - s.low, PROT_READ | ((part.p_flags & PF_W) != 0 ? PROT_WRITE : 0));
    }
}

/* What /proc shows of a process's arguments and environment is read from its memory, of what no file is mapped to: from
 * the far end of the stack. Where the kernel does not let us say so, it is where nothing is any more.
 * PR_SET_MM_MAP of PR_SET_MM(2const) */
static void title_set(char *stack)
{
    static const char title[] = "fastns-proxy";
    char *at = stack + PAGE_MOST;
    const uint64_t low = (uintptr_t)__ehdr_start, high = (uintptr_t)_end;
    struct prctl_mm_map map = {
        .start_code = low, .end_code = high, .start_data = low, .end_data = high, .start_brk = high + 1,
        .brk = high + 1, .start_stack = (uintptr_t)stack + STACK, .arg_start = (uintptr_t)at,
        .arg_end = (uintptr_t)at + sizeof(title), .env_start = (uintptr_t)at, .env_end = (uintptr_t)at,
        .exe_fd = UINT32_MAX,
    };

    memcpy(at, title, sizeof(title));
    (void)fns_call_prctl(PR_SET_MM, PR_SET_MM_MAP, (unsigned long)&map, sizeof(map));
}

#endif

/* ---- The process ------------------------------------------------------------------------------------ */

static int prepare(char *stack, struct failure *f)
{
    void *table;
    int err;

    (void)stack;
    proxy.epoll = proxy.parent = proxy.home = -1;
    proxy.reply.fd[0] = proxy.reply.fd[1] = -1;
    err = fns_call_setsid();
    if (err < 0)
        return failed(f, FNS_AT_SETSID, -err);
    signals_reset();
    if (descriptors_reset(f) < 0)
        return -1;
    err = fns_call_prctl(PR_SET_NAME, (unsigned long)"fastns-proxy", 0, 0);
    if (err == 0)
        err = fns_call_prctl(PR_SET_DUMPABLE, 0, 0, 0);
    if (err < 0)
        return failed(f, FNS_AT_PRCTL, -err);
    (void)fns_call_umask(077);
    err = fns_call_chdir("/");
    if (err < 0)
        return failed(f, FNS_AT_OPEN, -err);
#if !defined(FASTNS_SANITIZE) && !defined(FASTNS_COVERAGE)
    const uintptr_t page = page_size(stack);
    memory_shed(stack, page);
    executable_drop(page);
    title_set(stack);
#endif
    table = fns_call_mmap(NULL, sizeof(struct chan) * proxy.config.max_channels, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fns_call_is_error(table))
        return failed(f, FNS_AT_MMAP, (int)-(intptr_t)table);
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

/* The second process, from its first step to its last. */
static int serve(void *stack)
{
    struct failure f = {0, 0};
    int ready;

    while (__atomic_load_n(&proxy.first, __ATOMIC_ACQUIRE) != 0)
        (void)fns_call_futex_wait(&proxy.first, 1);
    ready = prepare(stack, &f);
    if (fns_control_hello(&f) == 0 && ready == 0)
        fns_loop_run();
#if defined(FASTNS_COVERAGE)
    __gcov_dump();
#endif
    return ready == 0 ? 0 : 1;
}

/* The first process: the pid of the second, or -errno. Its own end sets proxy.first to 0. */
static int second_start(void)
{
    char *stack;
    int err;

    /* What is mapped from now on is not executable, whatever the program's was (READ_IMPLIES_EXEC of personality(2)). */
    (void)fns_call_personality(0);
    stack = fns_call_mmap(NULL, STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fns_call_is_error(stack))
        return (int)(intptr_t)stack;
    err = fns_call_mprotect(stack + PAGE_MOST, STACK - PAGE_MOST, PROT_READ | PROT_WRITE);
    if (err < 0)
        return err;
    proxy.first = 1;
    (void)fns_call_set_tid_address(&proxy.first);
    return fns_call_clone(CLONE_VM | CLONE_PARENT, stack + STACK, serve, stack);
}

pid_t fns_start_fork(const struct fns_config *config)
{
    uint64_t every = UINT64_MAX, before;
    int *told, first, pid;

    if (config->max_channels == 0 || config->max_channels > 0xffffu)
        return -EINVAL;
    told = fns_call_mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fns_call_is_error(told))
        return (int)(intptr_t)told;
    *told = -ECHILD;
    (void)fns_call_sigmask(SIG_SETMASK, &every, &before);
    first = fns_call_fork();
    if (first == 0) {
        memcpy(&proxy.config, config, sizeof(proxy.config));
        *told = second_start();
        fns_call_exit(0);
    }
    if (first > 0)
        while (fns_call_wait(first, NULL, __WALL) == -EINTR)
            ;
    pid = first < 0 ? first : *told;
    (void)fns_call_sigmask(SIG_SETMASK, &before, NULL);
    (void)fns_call_munmap((uintptr_t)told, sizeof(*told));
    return pid;
}

pid_t fns_start_wait(pid_t pid, int *status, int block)
{
    return fns_call_wait(pid, status, __WALL | (block ? 0 : WNOHANG));
}
