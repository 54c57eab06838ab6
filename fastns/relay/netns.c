/* Network namespaces: which descriptor is one, what a name in the run directory is, sockets inside one.
 * It knows no channel, and asks no policy: whoever calls has asked it, or asks it with what it gets here.
 * Called by policy.c and control.c; by start.c once, before the first request.
 */
#include "netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>

int fns_netns_stat(int fd, struct stat *st)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return -1;
    if (fs.f_type != NSFS_MAGIC) {       /* what an ioctl means to another file is not known */
        errno = EINVAL;
        return -1;
    }
    switch (ioctl(fd, NS_GET_NSTYPE)) {
    case CLONE_NEWNET:
        return fstat(fd, st);
    case -1:
        return -1;
    default:
        errno = EINVAL;
        return -1;
    }
}

int fns_netns_find_home(void)
{
    struct stat st;

    proxy.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (proxy.home < 0 || fstat(proxy.home, &st) < 0)
        return -1;
    proxy.here_dev = st.st_dev;
    proxy.here_ino = st.st_ino;
    return setns(proxy.home, CLONE_NEWNET);
}

int fns_netns_name_ok(const char *name, uint32_t len)
{
    if (len == 0 || len > FNS_NAME_MAX || memchr(name, '/', len) != NULL || memchr(name, 0, len) != NULL)
        return 0;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

int fns_netns_open(const char *name, uint32_t len)
{
    char path[FNS_DIR_MAX + 1 + FNS_NAME_MAX + 1];
    size_t dir = strnlen(proxy.config.run_dir, FNS_DIR_MAX);

    memcpy(path, proxy.config.run_dir, dir);
    path[dir] = '/';
    memcpy(path + dir + 1, name, len);
    path[dir + 1 + len] = 0;
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

struct enter_job {
    int nsfd, family, sock, err;
    uint32_t stage;
};

static int socket_create(int family)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family);
}

/* Runs on a stack of its own, sharing memory and descriptors, while the proxy waits (CLONE_VFORK). */
static int enter_job_run(void *arg)
{
    struct enter_job *job = arg;

    if (setns(job->nsfd, CLONE_NEWNET) < 0) {
        job->stage = FNS_AT_SETNS;
        job->err = errno;
    } else if ((job->sock = socket_create(job->family)) < 0) {
        job->stage = FNS_AT_SOCKET;
        job->err = errno;
    }
    return 0;
}

static int helper_create_socket(int nsfd, int family, struct failure *f)
{
    static union { long double align; char bytes[32768]; } stack;
    struct enter_job job = {nsfd, family, -1, 0, 0};
    int pid = clone(enter_job_run, stack.bytes + sizeof(stack.bytes), CLONE_VM | CLONE_VFORK | CLONE_FILES, &job);

    if (pid < 0)
        return failed(f, FNS_AT_CLONE, errno);
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    if (job.err != 0)
        return failed(f, job.stage, job.err);
    return job.sock;
}

int fns_netns_socket(int nsfd, int family, struct failure *f)
{
    struct stat st;
    int sock, entered;

    if (fns_netns_stat(nsfd, &st) < 0)
        return failed(f, FNS_AT_NSTYPE, errno);
    entered = st.st_ino != proxy.here_ino || st.st_dev != proxy.here_dev;
    if (entered) {
        if (!proxy.can_return)
            return helper_create_socket(nsfd, family, f);
        if (setns(nsfd, CLONE_NEWNET) < 0)
            return failed(f, FNS_AT_SETNS, errno);
    }
    sock = socket_create(family);
    if (sock < 0)
        (void)failed(f, FNS_AT_SOCKET, errno);
    /* Through descriptors the proxy could work from anywhere, but where it stands a namespace cannot end. */
    if (entered && setns(proxy.home, CLONE_NEWNET) < 0)
        proxy.here_ino = 0;      /* wherever that is: from now on every socket is made by entering first */
    return sock;
}
