/* Network namespaces: which descriptor is one, what a name in the run directory is, sockets inside one.
 * It knows no channel, and asks no policy: whoever calls has asked it, or asks it with what it gets here.
 * Called by policy.c and control.c; by start.c once, before the first request.
 */
#include "netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/wait.h>

int fns_netns_stat(int fd, struct stat *st)
{
    struct statfs fs;
    int err = fns_call_fstatfs(fd, &fs), type;

    if (err < 0)
        return err;
    if (fs.f_type != NSFS_MAGIC)      /* the ioctl of another file may be anything */
        return -EINVAL;
    type = fns_call_ioctl(fd, NS_GET_NSTYPE);
    if (type == CLONE_NEWNET)
        return fns_call_fstat(fd, st);
    return type < 0 && type != -ENOTTY ? type : -EINVAL;
}

static int home_open(void)
{
    return proxy.home >= 0 ? proxy.home : fns_call_open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* With a list it is held only as long as it takes: a request must not find by its number what is not on it. */
static void home_close(int home)
{
    if ((proxy.config.flags & FNS_CONFIG_RESTRICTED) == 0)
        proxy.home = home;
    else
        close_fd(&home);
}

int fns_netns_find_home(void)
{
    struct stat st;
    int home = home_open(), err = home;

    if (err >= 0)
        err = fns_call_fstat(home, &st);
    if (err >= 0) {
        proxy.here_dev = st.st_dev;
        proxy.here_ino = st.st_ino;
        err = fns_call_setns(home, CLONE_NEWNET);
    }
    home_close(home);
    return err < 0 ? -1 : 0;
}

int fns_netns_name_ok(const char *name, uint32_t len)
{
    if (len == 0 || len > FNS_NAME_MAX)
        return 0;
    for (uint32_t i = 0; i < len; i++)
        if (name[i] == '/' || name[i] == 0)
            return 0;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

void fns_netns_path(char path[FNS_PATH_MAX], const char *name, uint32_t len)
{
    size_t dir = 0;

    while (dir < FNS_DIR_MAX && proxy.config.run_dir[dir] != 0)
        dir++;
    memcpy(path, proxy.config.run_dir, dir);
    path[dir] = '/';
    memcpy(path + dir + 1, name, len);
    path[dir + 1 + len] = 0;
}

int fns_netns_open(const char *name, uint32_t len)
{
    char path[FNS_PATH_MAX];
    struct statfs fs;
    int err;

    fns_netns_path(path, name, len);
    err = fns_call_statfs(path, &fs);
    if (err < 0 || fs.f_type != NSFS_MAGIC)
        return err < 0 ? err : -EINVAL;
    return fns_call_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

struct enter_job {
    int nsfd, family, sock;      /* or -errno */
    uint32_t stage;
};

static int socket_create(int family)
{
    return fns_call_socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family);
}

/* Runs on a stack of its own, sharing memory and descriptors, while the proxy waits (CLONE_VFORK). */
static int enter_job_run(void *arg)
{
    struct enter_job *job = arg;

    job->stage = FNS_AT_SETNS;
    job->sock = fns_call_setns(job->nsfd, CLONE_NEWNET);
    if (job->sock == 0) {
        job->stage = FNS_AT_SOCKET;
        job->sock = socket_create(job->family);
    }
    return 0;
}

static int helper_create_socket(int nsfd, int family, struct failure *f)
{
    static union { long double align; char bytes[32768]; } stack;
    struct enter_job job = {nsfd, family, -ECHILD, FNS_AT_CLONE};
    int pid = fns_call_clone(CLONE_VM | CLONE_VFORK | CLONE_FILES, stack.bytes + sizeof(stack.bytes), enter_job_run, &job);

    if (pid < 0)
        return failed(f, FNS_AT_CLONE, -pid);
    while (fns_call_wait(pid, NULL, __WALL) == -EINTR)
        ;
    return job.sock < 0 ? failed(f, job.stage, -job.sock) : job.sock;
}

int fns_netns_socket(int nsfd, int family, struct failure *f)
{
    struct stat st;
    int home, sock, err = fns_netns_stat(nsfd, &st);

    if (err < 0)
        return failed(f, FNS_AT_NSTYPE, -err);
    if (st.st_ino == proxy.here_ino && st.st_dev == proxy.here_dev) {
        sock = socket_create(family);
        return sock < 0 ? failed(f, FNS_AT_SOCKET, -sock) : sock;
    }
    home = proxy.can_return ? home_open() : -1;
    if (home < 0)
        return helper_create_socket(nsfd, family, f);
    err = fns_call_setns(nsfd, CLONE_NEWNET);
    if (err < 0) {
        home_close(home);
        return failed(f, FNS_AT_SETNS, -err);
    }
    sock = socket_create(family);
    if (sock < 0)
        (void)failed(f, FNS_AT_SOCKET, -sock);
    /* Through descriptors the proxy could work from anywhere, but where it stands a namespace cannot end. */
    if (fns_call_setns(home, CLONE_NEWNET) < 0) {
        proxy.here_ino = 0;      /* wherever that is: from now on every socket is made by entering first */
        proxy.can_return = 0;
    }
    home_close(home);
    return sock < 0 ? -1 : sock;
}
