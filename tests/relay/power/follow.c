/* Preloaded into a session of tests: every proxy that is forked there is followed by a strace of its own.
 *
 * A proxy unblocks its signals once, after it has a session of its own and before it unmaps what is not its own, this
 * library included. There it waits until strace is attached. POWER_DIRECTORY: where the logs go, one per proxy.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS "raw=!ioctl,fcntl,socket,socketpair,setns,clone,madvise,prctl,seccomp"   /* whose arguments are looked at */
enum { ATTEMPTS = 60000 };

static pid_t known;     /* a forked copy of the process; a raw clone does not come through the handler */
static int (*real)(int, const sigset_t *, sigset_t *);

static void now_known(void)
{
    known = getpid();
}

static void __attribute__((constructor)) start(void)
{
    real = (int (*)(int, const sigset_t *, sigset_t *))dlsym(RTLD_NEXT, "sigprocmask");
    now_known();
    pthread_atfork(NULL, NULL, now_known);
}

static int followed(void)
{
    char text[4096];
    const char *at;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof(text) - 1);

    close(fd);
    if (got <= 0)
        return 0;
    text[got] = 0;
    at = strstr(text, "TracerPid:");
    return at != NULL && atoi(at + strlen("TracerPid:")) != 0;
}

static void __attribute__((noreturn)) trace(const char *directory, pid_t proxy)
{
    char log[4096], pid[16];
    struct timespec now;
    sigset_t none;
    int null = open("/dev/null", O_RDWR);

    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    syscall(SYS_close_range, 3, ~0u, 0);
    sigemptyset(&none);
    signal(SIGCHLD, SIG_DFL);
    real(SIG_SETMASK, &none, NULL);
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(pid, sizeof(pid), "%d", proxy);
    snprintf(log, sizeof(log), "%s/%d.%lld.%ld", directory, proxy, (long long)now.tv_sec, now.tv_nsec);
    umask(0);
    unsetenv("LD_PRELOAD");
    execlp("strace", "strace", "-f", "-q", "-s", "0", "-e", WORDS, "-o", log, "-p", pid, (char *)NULL);
    _exit(1);
}

static void follow(const char *directory)
{
    struct timespec pause = {0, 1000000};
    pid_t proxy = getpid(), between;

    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);     /* the caller may have changed its user */
    between = (pid_t)syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
    if (between == 0) {
        if (syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L) == 0)
            trace(directory, proxy);
        _exit(0);      /* so that the proxy has no child */
    }
    waitpid(between, NULL, 0);
    for (int i = 0; i < ATTEMPTS && !followed(); i++)
        nanosleep(&pause, NULL);
    if (!followed())
        abort();
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    const char *directory = getenv("POWER_DIRECTORY");
    int result = real(how, set, old);

    if (directory != NULL && getpid() != known && getsid(0) == getpid())
        follow(directory);
    return result;
}
