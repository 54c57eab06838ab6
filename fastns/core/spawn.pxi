# Starting a process inside a namespace. setns(2), vfork(2), ip-netns(8).
#
# subprocess does everything; only its one call of fork_exec runs somewhere else. Between entering and
# returning no Python code may run (a signal handler, a finaliser, another thread's work would find itself in the
# wrong network), so the GIL is kept, the collector is off, and the arguments are plain bytes already.
# Signals stay as they are: the child inherits the mask, and Python's own handlers only set a flag here.

import gc

cdef struct spawn_bind:
    const char *source
    const char *target
    int err


cdef struct spawn_mounts:
    const char *label
    unsigned long sysfs_flags
    Py_ssize_t count
    spawn_bind *binds


cdef struct spawn_job:
    int nsfd
    spawn_mounts *mounts
    PyObject *work
    const char *call
    int err


@cython.final
@cython.auto_pickle(False)
cdef class SpawnMounts:
    """What `ip netns exec` mounts: sysfs of the namespace, and each (source, target) of `binds`.

    `read_only`: /sys is read-only now; the kernel then refuses to cover it with a writable one.
    """
    cdef spawn_mounts m
    cdef bytes label
    cdef list kept

    def __cinit__(self, bytes label not None, bint read_only, list binds not None):
        cdef Py_ssize_t i
        self.label = label
        self.kept = binds
        self.m.label = label
        self.m.sysfs_flags = lx.MS_RDONLY if read_only else 0
        self.m.binds = <spawn_bind *> calloc(len(binds) + 1, sizeof(spawn_bind))
        if self.m.binds == NULL:
            raise MemoryError
        for i in range(len(binds)):
            self.m.binds[i].source = <bytes?> binds[i][0]
            self.m.binds[i].target = <bytes?> binds[i][1]
        self.m.count = len(binds)

    def __dealloc__(self):
        free(self.m.binds)

    def failures(self):
        """The binds that the last start could not do: a list of (source, target, errno)."""
        return [(*self.kept[i], self.m.binds[i].err) for i in range(self.m.count) if self.m.binds[i].err]


cdef int spawn_mount(spawn_mounts *m, const char **call) noexcept nogil:
    """A mount namespace of this thread's own, as iproute2's netns_switch() makes it. 0 or an errno."""
    cdef Py_ssize_t i
    cdef unsigned long flags = 0
    call[0] = "unshare"
    if lx.unshare(lx.CLONE_NEWNS) < 0:
        return lx.errno
    call[0] = "mount --make-rslave /"
    if lx.mount("", "/", "none", lx.MS_SLAVE | lx.MS_REC, NULL) < 0:
        return lx.errno
    if lx.umount2("/sys", lx.MNT_DETACH) < 0:
        flags = m.sysfs_flags    # locked by a parent user namespace, or never mounted: cover it
    call[0] = "mount of /sys"
    if lx.mount(m.label, "/sys", "sysfs", flags, NULL) < 0:
        return lx.errno
    for i in range(m.count):
        m.binds[i].err = 0
        if lx.mount(m.binds[i].source, m.binds[i].target, "none", lx.MS_BIND, NULL) < 0:
            m.binds[i].err = lx.errno
    return 0


cdef int spawn_enter(int nsfd, spawn_mounts *mounts, const char **call) noexcept nogil:
    if ns_enter(nsfd, call) < 0:
        return lx.errno
    return spawn_mount(mounts, call) if mounts != NULL else 0


@cython.final
@cython.auto_pickle(False)
cdef class SpawnChild:
    """The process one start makes, from the moment there is one: no signal handler runs between that and `pid`.

    Until keep() it belongs to this object and ends with it, killed and reaped.
    """
    cdef readonly int pid
    cdef int owner

    def start(self, object func, tuple args):
        """The pid, which is what func(*args) returns."""
        self.owner = lx.getpid()
        self.pid = func(*args)
        return self.pid

    def keep(self):
        """Somebody else looks after it from now on."""
        self.pid = 0

    def end(self):
        """Kill and reap it, if there is one that nobody has reaped yet."""
        self.end_now()

    cdef void end_now(self) noexcept:
        cdef int pid = self.pid, status = 0, got
        self.pid = 0
        if pid == 0 or self.owner != lx.getpid() or fns_start_wait(pid, &status, 0) != 0:
            return
        if lx.kill(pid, lx.SIGKILL) < 0:
            unreaped_add(pid)                # somebody else's by now: it ends when it wants to
            return
        with nogil:
            got = -lx.EINTR
            while got == -lx.EINTR:
                got = fns_start_wait(pid, &status, 1)

    def __dealloc__(self):
        self.end_now()


@cython.final
@cython.auto_pickle(False)
cdef class SpawnWork:
    """The one call that runs inside the namespace, and what came of it."""
    cdef object func
    cdef tuple args
    cdef object result
    cdef object error

    cdef int run(self) except -1:
        if self.func is not None:
            self.result = self.func(*self.args)
        return 0


cdef void spawn_work(spawn_job *job) noexcept with gil:
    cdef SpawnWork work = <SpawnWork> <object> job.work
    cdef bint collecting = gc.isenabled()
    gc.disable()
    try:
        work.run()
    except BaseException as error:
        work.error = error
    if collecting:
        gc.enable()


cdef void *spawn_thread(void *arg) noexcept nogil:
    cdef spawn_job *job = <spawn_job *> arg
    job.err = spawn_enter(job.nsfd, job.mounts, &job.call)
    if job.err == 0:
        spawn_work(job)
    return NULL


cdef int spawn_in_thread(int nsfd, spawn_mounts *mounts, object reference, SpawnWork work) except -1:
    cdef spawn_job job
    cdef lx.pthread_t thread
    cdef int err
    job.nsfd = nsfd
    job.mounts = mounts
    job.work = <PyObject *> work
    job.call = "pthread_create"
    job.err = 0
    with nogil:
        err = lx.pthread_create(&thread, NULL, spawn_thread, &job)
        if err == 0:
            lx.pthread_join(thread, NULL)
            err = job.err
    if err:
        raise ns_error(err, job.call, reference)
    if work.error is not None:
        raise work.error
    return 0


cdef int spawn_there_and_back(int nsfd, int home, object reference, SpawnWork work) except -1:
    cdef const char *call = "setns"
    cdef bint collecting = gc.isenabled()
    cdef int err = 0
    gc.disable()
    if ns_enter(nsfd, &call) < 0:
        err = lx.errno
        lx.close(home)
    else:
        try:
            work.run()
        except BaseException as error:
            work.error = error
        ns_return(home)
    if collecting:
        gc.enable()
    if err:
        raise ns_error(err, call, reference)
    if work.error is not None:
        raise work.error
    return 0


def fork_exec_in(int nsfd, object reference, SpawnMounts mounts, object func, tuple args):
    """func(*args) inside the namespace `nsfd`, where func is _posixsubprocess.fork_exec; returns what it returned.

    The calling thread goes and comes back where the way back is proven; otherwise, and always with `mounts` (a
    thread that left the process's mount namespace cannot return to sharing its root and working directory), a
    throw-away thread does it. func=None only finds out whether entering works.
    Raises OSError (setns, unshare, mount, pthread_create) with filename `reference`, or what func raised.
    """
    cdef SpawnWork work = SpawnWork.__new__(SpawnWork)
    cdef int home
    work.func = func
    work.args = args
    if mounts is None:
        home = ns_home(nsfd)
        if home >= 0:
            spawn_there_and_back(nsfd, home, reference, work)
            return work.result
    spawn_in_thread(nsfd, &mounts.m if mounts is not None else NULL, reference, work)
    return work.result


def enter_for_good(int nsfd, object reference, SpawnMounts mounts):
    """Move the calling thread into the namespace `nsfd`, without return: for a process about to exec."""
    cdef const char *call = "setns"
    cdef int err = spawn_enter(nsfd, &mounts.m if mounts is not None else NULL, &call)
    if err:
        raise ns_error(err, call, reference)


# For the `fastns rootless` command: a user namespace with mounts and a network of its own. user_namespaces(7).

CLONE_NEWNET = lx.CLONE_NEWNET
CLONE_NEWNS = lx.CLONE_NEWNS
CLONE_NEWUSER = lx.CLONE_NEWUSER
MS_BIND = lx.MS_BIND
MS_REC = lx.MS_REC
MS_SLAVE = lx.MS_SLAVE


def unshare_process(int flags):
    """unshare(2) for a process about to exec. With CLONE_NEWUSER it must have one thread only (EINVAL)."""
    cdef int err = 0
    if lx.unshare(flags) < 0:
        err = lx.errno
        raise os_error(err, "unshare")


def mount_on(bytes source not None, bytes target not None, bytes fstype, unsigned long flags=0, bytes data=None):
    """mount(2); OSError with filename `target`."""
    cdef const char *kind = NULL
    cdef const char *options = NULL
    cdef const char *what = source
    cdef const char *where = target
    cdef int err = 0
    if fstype is not None:
        kind = fstype
    if data is not None:
        options = data
    with nogil:
        if lx.mount(what, where, kind, flags, options) < 0:
            err = lx.errno
    if err:
        raise os_error(err, "mount", os.fsdecode(target))
