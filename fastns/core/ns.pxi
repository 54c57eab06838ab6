# Entering a network namespace: one primitive. setns(2), network_namespaces(7).
#
# A thread may come back exactly when setns() to the namespace it is already in succeeds: the kernel asks
# for the same capabilities then as on the way back. Where that is so the calling thread goes and returns,
# signals blocked. Where it is not (a process whose network namespace belongs to a parent user namespace,
# no descriptor left, no /proc) a throw-away thread enters, does the work and dies, so no thread of the
# caller is ever stranded.

from _thread import get_ident as thread_ident
from contextvars import copy_context

ctypedef int (*ns_op)(void *arg, const char **call) noexcept nogil

cdef enum:
    NS_NEW = -2       # instead of entering an existing namespace: unshare a new one
    NS_NOT = 100000   # no errno: what was opened is no network namespace
    NS_DEAD = 100001  # no errno: a mount-point file, and nothing mounted on it

cdef struct ns_job:
    int nsfd
    ns_op op
    void *arg
    const char *call  # the system call that failed
    int result        # >= 0, or -errno


cdef int ns_enter(int nsfd, const char **call) noexcept nogil:
    if nsfd == NS_NEW:
        call[0] = "unshare"
        return lx.unshare(lx.CLONE_NEWNET)
    call[0] = "setns"
    return lx.setns(nsfd, lx.CLONE_NEWNET)


cdef void *ns_thread(void *arg) noexcept nogil:
    cdef ns_job *job = <ns_job *> arg
    if ns_enter(job.nsfd, &job.call) < 0:
        job.result = -lx.errno
    else:
        job.result = job.op(job.arg, &job.call)
    return NULL


cdef int ns_in_thread(ns_job *job, size_t stack_size) noexcept nogil:
    cdef lx.pthread_t thread
    cdef lx.pthread_attr_t attr
    cdef int err
    lx.pthread_attr_init(&attr)
    if stack_size:
        lx.pthread_attr_setstacksize(&attr, stack_size)
    err = lx.pthread_create(&thread, &attr, ns_thread, job)
    lx.pthread_attr_destroy(&attr)
    if err:
        job.call = "pthread_create"
        return -err
    lx.pthread_join(thread, NULL)
    return job.result


cdef int ns_home(int nsfd) noexcept nogil:
    """A descriptor of the calling thread's namespace to which setns() works, or -1. `nsfd`: where it will go."""
    # Not /proc/self: that is the main thread's.
    cdef int home = lx.open("/proc/thread-self/ns/net", lx.O_RDONLY | lx.O_CLOEXEC)
    # A closed nsfd is given to home, and would lead home as well: no way in.
    if home >= 0 and (home == nsfd or lx.setns(home, lx.CLONE_NEWNET) < 0):
        lx.close(home)
        home = -1
    return home


cdef int ns_return(int home) noexcept nogil:
    cdef const char *text = "fastns: cannot return to the caller's network namespace\n"
    if lx.setns(home, lx.CLONE_NEWNET) < 0:
        # The return was proven possible a moment ago. Going on in the wrong namespace would configure
        # somebody else's network, so nothing may run after this.
        lx.write(lx.STDERR_FILENO, text, strlen(text))
        lx.abort()
    lx.close(home)
    return 0


cdef int ns_call(int nsfd, ns_op op, void *arg, const char **call) noexcept nogil:
    """Run op(arg) inside the namespace nsfd (or a new one: NS_NEW). Returns op's result or -errno."""
    cdef ns_job job
    cdef lx.sigset_t every
    cdef lx.sigset_t before
    cdef int home, result
    job.nsfd = nsfd
    job.op = op
    job.arg = arg
    job.call = ""
    job.result = 0
    lx.sigfillset(&every)
    lx.pthread_sigmask(lx.SIG_SETMASK, &every, &before)
    home = ns_home(nsfd)
    if home < 0:
        result = ns_in_thread(&job, 256 * 1024)
    elif ns_enter(nsfd, &job.call) < 0:
        result = -lx.errno
        lx.close(home)
    else:
        result = op(arg, &job.call)
        ns_return(home)
    lx.pthread_sigmask(lx.SIG_SETMASK, &before, NULL)
    call[0] = job.call
    return result


# Errors. Which capability a refused call asks for, and over what: network_namespaces(7), mount_namespaces(7).

cdef dict NEEDS = {
    "setns": "needs CAP_SYS_ADMIN in the caller's user namespace and in the one that owns the network namespace",
    "unshare": "needs CAP_SYS_ADMIN",
    "mount": "needs CAP_SYS_ADMIN over the mount namespace",
    "umount2": "needs CAP_SYS_ADMIN over the mount namespace in which it was mounted",
    "socket": "needs CAP_NET_RAW over the network namespace",
    "mkdir": "needs write access to the run directory: CAP_DAC_OVERRIDE, or a run directory of one's own",
    "create the mount point": "needs write access to the run directory: CAP_DAC_OVERRIDE, "
                              "or a run directory of one's own",
    "unlink": "needs write access to the run directory: CAP_DAC_OVERRIDE, or a run directory of one's own",
    "open /proc/PID/ns/net": "needs the right to trace the process: CAP_SYS_PTRACE",
    "open /dev/net/tun": "needs access to the device",
    "ioctl(TUNSETIFF)": "needs CAP_NET_ADMIN over the network namespace",
    "open /proc/sys/net": "needs CAP_NET_ADMIN over the network namespace, unless the setting only goes one way",
    "write /proc/sys/net": "needs CAP_NET_ADMIN over the network namespace",
}


cdef object ns_error(int err, const char *call, object ref):
    cdef str name = (<bytes> call).decode()
    if err == NS_NOT:
        return OSError(lx.EINVAL, "not a network namespace", ref)
    if err == NS_DEAD:
        return OSError(lx.EINVAL, "not a network namespace: a dead entry, nothing is mounted on it", ref)
    if err in (lx.EPERM, lx.EACCES) and name in NEEDS:
        return OSError(err, f"{name}: {os.strerror(err)} ({NEEDS[name]})", ref)
    if err == lx.ENOENT and "/proc/thread-self" in name:
        return OSError(err, f"{name}: {os.strerror(err)} (/proc is not mounted)", ref)
    return os_error(err, name, ref)


# References: finding out whether something is a network namespace, without touching what is not.

cdef int ns_check_fd(int fd, const char **call) noexcept nogil:
    cdef lx.statfs_t fs
    cdef int kind
    call[0] = "fstatfs"
    if lx.fstatfs(fd, &fs) < 0:
        return -lx.errno
    if fs.f_type != lx.NSFS_MAGIC:
        return -NS_NOT
    call[0] = "ioctl(NS_GET_NSTYPE)"
    kind = lx.ioctl(fd, lx.NS_GET_NSTYPE)
    if kind < 0:
        return -lx.errno
    return 0 if kind == lx.CLONE_NEWNET else -NS_NOT


cdef int ns_open_path(const char *path, const char **call) noexcept nogil:
    """The open, checked namespace at path, or -errno."""
    cdef lx.statfs_t fs
    cdef lx.stat_t st
    cdef int fd, err
    # Looked at before it is opened: opening a device, a pipe or a tty has effects of its own.
    call[0] = "open"
    if lx.statfs(path, &fs) < 0:
        return -lx.errno
    if fs.f_type != lx.NSFS_MAGIC:
        if lx.lstat(path, &st) == 0 and lx.S_ISREG(st.st_mode) and st.st_size == 0:
            return -NS_DEAD
        return -NS_NOT
    fd = lx.open(path, lx.O_RDONLY | lx.O_CLOEXEC)
    if fd < 0:
        return -lx.errno
    err = ns_check_fd(fd, call)
    if err < 0:
        lx.close(fd)
        return err
    return fd


def ns_open(bytes path not None, object ref, str what="open"):
    """A Descriptor of the network namespace at `path`; OSError(EINVAL) if something else is there."""
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef const char *call = ""
    cdef int fd
    with nogil:
        fd = ns_open_path(name, &call)
    if fd < 0:
        if what != "open":
            raise ns_error(-fd, what.encode(), ref)
        raise ns_error(-fd, call, ref)
    return descriptor_own(fd)


def ns_check(int fd, object ref):
    """Nothing if the open descriptor `fd` is a network namespace, else OSError (EBADF, EINVAL)."""
    cdef const char *call = ""
    cdef int err = ns_check_fd(fd, &call)
    if err < 0:
        raise ns_error(-err, call, ref)


def ns_set(int nsfd, object ref=None):
    """Move the calling thread, for good, into the namespace `nsfd`."""
    if lx.setns(nsfd, lx.CLONE_NEWNET) < 0:
        raise ns_error(lx.errno, "setns", ref)


cdef int self_open() except -1:
    cdef const char *call = ""
    cdef int fd = op_self(NULL, &call)
    if fd < 0:
        raise ns_error(-fd, call, "/proc/thread-self/ns/net")
    return fd


def ns_self():
    """A Descriptor of the calling thread's namespace."""
    return descriptor_own(self_open())


def ns_push(list stack not None, int nsfd, object ref=None):
    """Put the calling thread's namespace on the stack and move the thread into the namespace `nsfd` (-1: nowhere);
    neither if that fails."""
    stack.append(descriptor_own(self_open()))
    if nsfd >= 0 and lx.setns(nsfd, lx.CLONE_NEWNET) < 0:
        err = lx.errno
        stack.pop()
        raise ns_error(err, "setns", ref)


def ns_pop(list stack not None):
    """Move the calling thread back into the namespace on top of the stack, which stays there if that fails."""
    cdef Descriptor saved = stack[-1]
    if lx.setns(saved.number, lx.CLONE_NEWNET) < 0:
        raise ns_error(lx.errno, "setns", saved.number)
    stack.pop()


# Creating. The namespace is made first and held by a descriptor; only then is the file system touched, so that
# the mount point stands without a mount for as short as possible, and at home, where signals can be handled.

cdef int op_self(void *arg, const char **call) noexcept nogil:
    cdef int fd = lx.open("/proc/thread-self/ns/net", lx.O_RDONLY | lx.O_CLOEXEC)
    call[0] = "open /proc/thread-self/ns/net"
    return -lx.errno if fd < 0 else fd


def ns_taken(bytes path not None):
    """Whether anything stands at `path`. os.path.lexists, without an exception made and dropped for each no."""
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef lx.stat_t st
    cdef int err
    with nogil:
        err = lx.lstat(name, &st)
    return err == 0


cdef int new_namespace(object ref) except -1:
    cdef const char *call = ""
    cdef int fd
    with nogil:
        fd = ns_call(NS_NEW, op_self, NULL, &call)
    if fd < 0:
        raise ns_error(-fd, call, ref)
    return fd


def ns_new(object ref=None):
    """A descriptor of a new network namespace, which lives as long as something holds it. unshare(2)."""
    return new_namespace(ref)


cdef int run_dir_share(const char *run_dir, const char **call) noexcept nogil:
    """Mounts made below run_dir shall be seen in other mount namespaces, and go away there as well."""
    call[0] = "mount"
    while lx.mount("", run_dir, "none", lx.MS_SHARED | lx.MS_REC, NULL) < 0:
        # EINVAL: not a mount point yet. Anything else would only be hidden by another mount on top.
        if lx.errno != lx.EINVAL:
            return -lx.errno
        if lx.mount(run_dir, run_dir, "none", lx.MS_BIND | lx.MS_REC, NULL) < 0:
            return -lx.errno
    return 0


cdef int run_dir_lock(const char *run_dir) except? -2:
    """The lock `ip netns` takes, so that only one process turns the directory into a mount. -1: goes without."""
    cdef int fd = lx.open(run_dir, lx.O_RDONLY | lx.O_DIRECTORY | lx.O_CLOEXEC)
    cdef int err
    if fd < 0:
        return -1
    while True:
        with nogil:
            err = lx.errno if lx.flock(fd, lx.LOCK_EX) < 0 else 0
        if err == 0:
            return fd
        if err != lx.EINTR:
            lx.close(fd)
            return -1
        try:
            PyErr_CheckSignals()
        except BaseException:
            lx.close(fd)
            raise


cdef int mount_point_bind(int nsfd, const char *path, const char **call) noexcept nogil:
    cdef char source[48]
    cdef int fd, err
    fd = lx.open(path, lx.O_RDONLY | lx.O_CREAT | lx.O_EXCL | lx.O_CLOEXEC, 0)
    call[0] = "create the mount point"
    if fd < 0:
        return -lx.errno
    lx.close(fd)
    lx.snprintf(source, sizeof(source), "/proc/thread-self/fd/%d", nsfd)
    call[0] = "mount"
    if lx.mount(source, path, "none", lx.MS_BIND, NULL) < 0:
        err = lx.errno
        lx.unlink(path)
        if err == lx.ENOENT:
            call[0] = "mount of /proc/thread-self/fd"
        return -err
    return 0


cdef int name_namespace(int nsfd, bytes directory, bytes path, bint is_run_dir, object ref) except -1:
    cdef const char *dir_name = PyBytes_AS_STRING(directory)
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef const char *call = ""
    cdef int err = 0, lock = -1
    cdef bint made = False
    if not ns_taken(directory):
        made = lx.mkdir(dir_name, 0o755) == 0
        if not made and lx.errno != lx.EEXIST:
            raise ns_error(lx.errno, "mkdir", ref)
    try:
        if is_run_dir:
            lock = run_dir_lock(dir_name)
        with nogil:
            if is_run_dir:
                err = run_dir_share(dir_name, &call)
            if err == 0:
                err = mount_point_bind(nsfd, name, &call)
        if err < 0:
            raise ns_error(-err, call, ref)
    except BaseException:
        if made:
            lx.rmdir(dir_name)  # fails if somebody else uses it by now
        raise
    finally:
        if lock >= 0:
            lx.close(lock)
    return 0


def ns_create(bytes directory not None, bytes path not None, bint is_run_dir, bint keep, object ref=None):
    """Make a network namespace and give it the name `path`: make the directory and the mount point, mount. What was
    made is undone if a later step fails. With `keep` a Descriptor of it is returned, otherwise None."""
    # In one function, so that no signal handler of Python's can come between the namespace and its being closed.
    cdef Descriptor held = descriptor_own(new_namespace(ref))
    name_namespace(held.number, directory, path, is_run_dir, ref)
    return held if keep else None


def ns_bind(int nsfd, bytes directory not None, bytes path not None, bint is_run_dir, object ref=None):
    """Give the namespace `nsfd` the name `path`, as ns_create does for a new one."""
    name_namespace(nsfd, directory, path, is_run_dir, ref)


# Removing.

cdef int ns_unmount(const char *path, bint *unmounted, const char **call) noexcept nogil:
    """Unmount what is mounted on path if it is a network namespace. 1: done; 0: nothing is mounted; -errno."""
    cdef lx.statfs_t fs
    cdef char name[48]
    cdef int ns, kind = 0, err = 0
    cdef int fd = lx.open(path, lx.O_PATH | lx.O_NOFOLLOW | lx.O_CLOEXEC)
    call[0] = "open"
    if fd < 0:
        return -lx.errno
    call[0] = "fstatfs"
    if lx.fstatfs(fd, &fs) < 0:
        err = -lx.errno
    elif fs.f_type == lx.NSFS_MAGIC:
        # By descriptor: what is unmounted is what was looked at, whoever changes the path meanwhile.
        lx.snprintf(name, sizeof(name), "/proc/thread-self/fd/%d", fd)
        call[0] = "open /proc/thread-self/fd"
        ns = lx.open(name, lx.O_RDONLY | lx.O_CLOEXEC)
        if ns < 0:
            err = -lx.errno
        else:
            call[0] = "ioctl(NS_GET_NSTYPE)"
            kind = lx.ioctl(ns, lx.NS_GET_NSTYPE)
            err = -lx.errno if kind < 0 else 0 if kind == lx.CLONE_NEWNET else -NS_NOT
            lx.close(ns)
        if err == 0:
            call[0] = "umount2"
            err = -lx.errno if lx.umount2(name, lx.MNT_DETACH) < 0 else 1
    lx.close(fd)
    if err == 1:
        unmounted[0] = True
    return err


cdef int mount_point_delete(const char *path, bint any_mode, const char **call) noexcept nogil:
    """Delete what create has made, and nothing else. -EBUSY: something is mounted on it."""
    cdef lx.stat_t st
    call[0] = "lstat"
    if lx.lstat(path, &st) < 0:
        return -lx.errno
    if not lx.S_ISREG(st.st_mode) or st.st_size != 0 or not (any_mode or st.st_mode & 0o7777 == 0):
        return -NS_NOT
    call[0] = "unlink"
    return -lx.errno if lx.unlink(path) < 0 else 0


def ns_unbind(bytes directory not None, bytes path not None, bint is_run_dir, object ref=None):
    """Unmount the network namespace at `path` and delete its mount point. A mount point left without a mount is
    deleted too: in the run directory any empty file, elsewhere one without any permission bit, which is how mount
    points are made. Anything else: OSError(EINVAL), untouched."""
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef const char *call = ""
    cdef bint unmounted = False
    cdef int err = 0, lock, tries
    for tries in range(64):
        with nogil:
            err = ns_unmount(name, &unmounted, &call)
        if err >= 0:
            # Under the lock: the name may be somebody's new namespace by now, and until its mount is there only
            # the lock tells.
            lock = run_dir_lock(PyBytes_AS_STRING(directory)) if is_run_dir else -1
            with nogil:
                err = mount_point_delete(name, is_run_dir or unmounted, &call)
            if lock >= 0:
                lx.close(lock)
        if err == 0 or (err == -lx.ENOENT and unmounted):
            return
        # EINVAL: somebody else has unmounted it. EBUSY: one more mount below.
        if not (err == -lx.EINVAL and call == b"umount2") and err != -lx.EBUSY:
            break
    else:
        # It stays: a mount that a more privileged mount namespace has handed down is locked.
        err = -lx.EPERM
        call = "umount2"
    raise ns_error(-err, call, ref)


# Python code inside a namespace. Between entering and the try below, and between it and the return, there is no
# point at which the interpreter could run a signal handler, so no exception can get past the return.

cdef object no_way_back(object ref):
    cdef const char *call = ""
    cdef int fd = op_self(NULL, &call)
    if fd < 0:
        return ns_error(-fd, call, ref)
    lx.close(fd)
    return OSError(lx.EPERM, "setns: Operation not permitted (the calling thread could not come back: that needs "
                   "CAP_SYS_ADMIN in the user namespace that owns the thread's present network namespace)", ref)


cdef int ns_go(int nsfd, object ref) except? -2:
    """Move the calling thread into nsfd: the descriptor that leads home, or -1 if there is no way back."""
    cdef const char *call = ""
    cdef int home, err = 0
    with nogil:
        home = ns_home(nsfd)
        if home >= 0 and ns_enter(nsfd, &call) < 0:
            err = lx.errno
            lx.close(home)
    if err:
        raise ns_error(err, call, ref)
    return home


cdef int op_python(void *arg, const char **call) noexcept nogil:
    with gil:
        try:
            (<object> arg)()
        except BaseException:
            pass  # it keeps what it catches itself
    return 0


def ns_run(int nsfd, object func, object ref=None):
    """func(), called inside the namespace `nsfd`: in the calling thread, or where that could not come back in a
    throw-away thread. If a proven return fails all the same the process aborts."""
    cdef ns_job job
    cdef int result
    cdef int home = ns_go(nsfd, ref)
    if home >= 0:
        try:
            return func()
        finally:
            ns_return(home)

    # Not a threading.Thread: where that has been replaced by a green one it would be this very thread.
    context_run = copy_context().run
    returned = []
    raised = []

    def body():
        try:
            returned.append(context_run(func))
        except BaseException as error:
            raised.append(error)

    job.nsfd = nsfd
    job.op = op_python
    job.arg = <void *> body
    job.call = ""
    job.result = 0
    with nogil:
        result = ns_in_thread(&job, 0)
    if result < 0:
        raise ns_error(-result, job.call, ref)
    if raised:
        raise raised.pop()
    return returned[0]


@cython.final
@cython.auto_pickle(False)
cdef class Entered:
    """Context manager: the calling thread is inside a namespace while the body runs."""

    cdef object opener
    cdef object ref
    cdef int home
    cdef object thread

    def __cinit__(self):
        self.home = -1

    def __init__(self, object opener, object ref):
        self.opener = opener
        self.ref = ref

    def __enter__(self):
        cdef int home
        cdef Descriptor held
        if self.home >= 0:
            raise RuntimeError("already entered")
        held = self.opener()
        home = ns_go(held.number, self.ref)
        held.drop()
        if home < 0:
            raise no_way_back(self.ref)
        self.home = home
        self.thread = thread_ident()
        return self

    def __exit__(self, *exc_info):
        cdef int home = self.home
        if home < 0:
            raise RuntimeError("not entered")
        if self.thread != thread_ident():
            raise RuntimeError("a namespace is left by the thread that has entered it")
        self.home = -1
        ns_return(home)

    def __dealloc__(self):
        # An exception between the entering and the body, which a signal handler may raise, comes past __exit__.
        if self.home >= 0 and self.thread == thread_ident():
            ns_return(self.home)
        elif self.home >= 0:
            lx.close(self.home)


# tun and tap devices: made by a descriptor opened inside the namespace. Documentation/networking/tuntap.rst.

cdef struct tun_spec:
    lx.ifreq ifr
    int owner
    int group
    bint persist


cdef int op_tun(void *arg, const char **call) noexcept nogil:
    cdef tun_spec *spec = <tun_spec *> arg
    cdef int fd = lx.open("/dev/net/tun", lx.O_RDWR | lx.O_CLOEXEC)
    cdef int err = 0
    call[0] = "open /dev/net/tun"
    if fd < 0:
        return -lx.errno
    call[0] = "ioctl(TUNSETIFF)"
    if lx.ioctl(fd, lx.TUNSETIFF, &spec.ifr) < 0:
        err = -lx.errno
    if err == 0 and spec.owner >= 0:
        call[0] = "ioctl(TUNSETOWNER)"
        if lx.ioctl(fd, lx.TUNSETOWNER, <unsigned long> spec.owner) < 0:
            err = -lx.errno
    if err == 0 and spec.group >= 0:
        call[0] = "ioctl(TUNSETGROUP)"
        if lx.ioctl(fd, lx.TUNSETGROUP, <unsigned long> spec.group) < 0:
            err = -lx.errno
    if err == 0:
        call[0] = "ioctl(TUNSETPERSIST)"
        if lx.ioctl(fd, lx.TUNSETPERSIST, <unsigned long> spec.persist) < 0:
            err = -lx.errno
    lx.close(fd)  # without TUNSETPERSIST the device goes with it
    return err


def tun_create(int nsfd, object ifname, int flags, int owner=-1, int group=-1, bint persist=True, object ref=None):
    """Make the tun or tap device `ifname` ("" or a "%d" pattern: the kernel numbers it) inside the namespace `nsfd`
    (-1: the calling thread's), and return its name. `flags`: IFF_TUN or IFF_TAP and others of TUNSETIFF.
    persist=False deletes an existing one."""
    cdef tun_spec spec
    cdef const char *call = ""
    cdef bytes name = ifname if isinstance(ifname, bytes) else ifname.encode()
    cdef int err, i
    if len(name) >= lx.IFNAMSIZ:
        raise ValueError(f"an interface name has at most {lx.IFNAMSIZ - 1} bytes: {ifname!r}")
    if b"\0" in name or b"/" in name:
        raise ValueError(f"not an interface name: {ifname!r}")
    for i in range(lx.IFNAMSIZ):
        spec.ifr.ifr_name[i] = name[i] if i < len(name) else 0
    spec.ifr.ifr_flags = <short> flags
    spec.owner = owner
    spec.group = group
    spec.persist = persist
    with nogil:
        err = op_tun(&spec, &call) if nsfd < 0 else ns_call(nsfd, op_tun, &spec, &call)
    if err < 0:
        raise ns_error(-err, call, ref)
    return (<bytes> spec.ifr.ifr_name).decode()


# /proc/sys/net shows the namespace of the thread that looks a name up, and some handlers ask again when they read.

cdef struct sysctl_spec:
    const char *path
    char *data
    size_t size


cdef int op_sysctl_read(void *arg, const char **call) noexcept nogil:
    cdef sysctl_spec *spec = <sysctl_spec *> arg
    cdef ssize_t n = 1
    cdef size_t have = 0
    cdef int err = 0
    cdef int fd = lx.open(spec.path, lx.O_RDONLY | lx.O_CLOEXEC | lx.O_NOFOLLOW)
    call[0] = "open /proc/sys/net"
    if fd < 0:
        return -lx.errno
    call[0] = "read /proc/sys/net"
    while n > 0 and have < spec.size:
        n = lx.read(fd, spec.data + have, spec.size - have)
        if n < 0:
            err = -lx.errno
        else:
            have += n
    lx.close(fd)
    return err if err else <int> have


cdef int op_sysctl_write(void *arg, const char **call) noexcept nogil:
    cdef sysctl_spec *spec = <sysctl_spec *> arg
    cdef int err = 0
    cdef int fd = lx.open(spec.path, lx.O_WRONLY | lx.O_CLOEXEC | lx.O_NOFOLLOW)
    call[0] = "open /proc/sys/net"
    if fd < 0:
        return -lx.errno
    call[0] = "write /proc/sys/net"
    # One write: the kernel takes each write for a whole value.
    if lx.write(fd, spec.data, spec.size) < 0:
        err = -lx.errno
    lx.close(fd)
    return err


def sysctl_read(int nsfd, bytes path not None, object ref=None):
    """The bytes of the file `path` below /proc/sys/net, opened and read inside the namespace `nsfd` (-1: here)."""
    cdef sysctl_spec spec
    cdef const char *call = ""
    cdef bytearray room = bytearray(4096)
    cdef int n
    spec.path = PyBytes_AS_STRING(path)
    while True:
        spec.data = room
        spec.size = len(room)
        with nogil:
            n = op_sysctl_read(&spec, &call) if nsfd < 0 else ns_call(nsfd, op_sysctl_read, &spec, &call)
        if n < 0:
            raise ns_error(-n, call, ref)
        if n < len(room) or n >= 1 << 24:
            return bytes(room[:n])
        room = bytearray(8 * len(room))


def sysctl_write(int nsfd, bytes path not None, bytes value not None, object ref=None):
    """Write `value` to the file `path` below /proc/sys/net, inside the namespace `nsfd` (-1: here)."""
    cdef sysctl_spec spec
    cdef const char *call = ""
    cdef int err
    spec.path = PyBytes_AS_STRING(path)
    spec.data = PyBytes_AS_STRING(value)
    spec.size = len(value)
    with nogil:
        err = op_sysctl_write(&spec, &call) if nsfd < 0 else ns_call(nsfd, op_sysctl_write, &spec, &call)
    if err < 0:
        raise ns_error(-err, call, ref)


# Watching the run directory. inotify(7), timerfd_create(2).

IN_MOVED_FROM = lx.IN_MOVED_FROM
IN_MOVED_TO = lx.IN_MOVED_TO
IN_CREATE = lx.IN_CREATE
IN_DELETE = lx.IN_DELETE
IN_DELETE_SELF = lx.IN_DELETE_SELF
IN_Q_OVERFLOW = lx.IN_Q_OVERFLOW
IN_IGNORED = lx.IN_IGNORED
IN_ONLYDIR = lx.IN_ONLYDIR


def inotify_open():
    """A non-blocking inotify Descriptor."""
    cdef int fd = lx.inotify_init1(lx.IN_CLOEXEC | lx.IN_NONBLOCK)
    if fd < 0:
        raise os_error(lx.errno, "inotify_init1")
    return descriptor_own(fd)


def inotify_add(Descriptor watch not None, bytes path not None, uint32_t mask):
    """Watch `path` for the events of `mask`: the watch descriptor."""
    cdef int wd = lx.inotify_add_watch(watch.number, PyBytes_AS_STRING(path), mask)
    if wd < 0:
        raise os_error(lx.errno, "inotify_add_watch", path)
    return wd


def timer_open():
    """A non-blocking timer Descriptor."""
    cdef int fd = lx.timerfd_create(lx.CLOCK_MONOTONIC, lx.TFD_CLOEXEC | lx.TFD_NONBLOCK)
    if fd < 0:
        raise os_error(lx.errno, "timerfd_create")
    return descriptor_own(fd)


def timer_set(Descriptor timer not None, long ms):
    """Make the timer readable in `ms` milliseconds, once; 0: never."""
    cdef lx.itimerspec spec
    spec.it_interval.tv_sec = 0
    spec.it_interval.tv_nsec = 0
    spec.it_value.tv_sec = ms // 1000
    spec.it_value.tv_nsec = ms % 1000 * 1000000
    if lx.timerfd_settime(timer.number, 0, &spec, NULL) < 0:
        raise os_error(lx.errno, "timerfd_settime")
