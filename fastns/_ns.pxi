# Entering a network namespace: one primitive. setns(2), network_namespaces(7).
#
# A thread may come back exactly when setns() to the namespace it is already in succeeds: the kernel asks
# for the same capabilities then as on the way back. Where that is so the calling thread goes and returns,
# signals blocked. Where it is not (a process whose network namespace belongs to a parent user namespace)
# a throw-away thread enters, does the work and dies, so no thread of the caller is ever stranded.

ctypedef int (*ns_op)(void *arg, const char **call) noexcept nogil

cdef enum:
    NS_NEW = -2       # instead of entering an existing namespace: unshare a new one

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


cdef int ns_in_thread(ns_job *job) noexcept nogil:
    cdef lx.pthread_t thread
    cdef lx.pthread_attr_t attr
    cdef int err
    lx.pthread_attr_init(&attr)
    lx.pthread_attr_setstacksize(&attr, 256 * 1024)
    err = lx.pthread_create(&thread, &attr, ns_thread, job)
    lx.pthread_attr_destroy(&attr)
    if err:
        job.call = "pthread_create"
        return -err
    lx.pthread_join(thread, NULL)
    return job.result


cdef int ns_there_and_back(ns_job *job, int home) noexcept nogil:
    cdef int result
    if ns_enter(job.nsfd, &job.call) < 0:
        return -lx.errno
    result = job.op(job.arg, &job.call)
    if lx.setns(home, lx.CLONE_NEWNET) < 0:
        # The return was proven possible a moment ago. Going on in the wrong namespace would configure
        # somebody else's network, so nothing may run after this.
        lx.write(2, b"fastns: cannot return to the caller's network namespace\n", 56)
        lx.abort()
    return result


cdef int ns_call(int nsfd, ns_op op, void *arg, const char **call) noexcept nogil:
    """Run op(arg) inside the namespace nsfd (or a new one: NS_NEW). Returns op's result or -errno."""
    cdef ns_job job
    cdef lx.sigset_t every
    cdef lx.sigset_t before
    cdef int home, result
    job.nsfd = nsfd
    job.op = op
    job.arg = arg
    job.call = "open"
    job.result = 0
    lx.sigfillset(&every)
    lx.pthread_sigmask(lx.SIG_SETMASK, &every, &before)
    home = lx.open("/proc/thread-self/ns/net", lx.O_RDONLY | lx.O_CLOEXEC)
    if home < 0:
        result = -lx.errno
    elif lx.setns(home, lx.CLONE_NEWNET) == 0:
        result = ns_there_and_back(&job, home)
    else:
        result = ns_in_thread(&job)
    if home >= 0:
        lx.close(home)
    lx.pthread_sigmask(lx.SIG_SETMASK, &before, NULL)
    call[0] = job.call
    return result
