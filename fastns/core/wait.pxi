# Waiting for descriptors, and one descriptor that stands for several. poll(2), epoll(7).
#
# eventlet, gevent and their kind exchange the blocking functions of the standard library for such as switch to another
# greenlet, and take away what they cannot exchange: select.poll and select.epoll. So neither is used by its name there.
# select.select is what they all exchange, and whether it is still the interpreter's own says which kind of wait is wanted.
# Locks are `_thread.RLock`, which they leave as it is, wherever nothing is waited for with the lock held: a greenlet cannot
# find it taken then, and threads of the system can share it, as they cannot share what stands for threading.Lock.

import select
from types import BuiltinFunctionType

cdef enum:
    WAIT_MAX = 8


def poll_readable(*fds, timeout=None):
    """Whether one of the descriptors is readable within `timeout` seconds (None: however long that takes). The thread
    sleeps, and whatever greenlets it has, without the GIL; signal handlers run."""
    cdef lx.pollfd pfds[WAIT_MAX]
    cdef int64_t deadline = deadline_of(timeout)
    cdef int count = 0, wait_ms = -1, n, err
    if len(fds) > WAIT_MAX:
        raise ValueError(f"{len(fds)} descriptors to wait for")
    for fd in fds:
        pfds[count].fd = fd
        pfds[count].events = <short> lx.POLLIN
        count += 1
    while True:
        if deadline >= 0:
            wait_ms = <int> max(deadline - fns_monotonic_ms(), 0)
        with nogil:
            n = lx.poll(pfds, count, wait_ms)
            err = lx.errno
        if n >= 0:
            return n > 0
        if err != lx.EINTR:
            raise os_error(err, "poll")
        PyErr_CheckSignals()


def wait_readable(*fds, timeout=None):
    """The same for waits that can be long: where select.select is not the interpreter's own that one waits, so that the
    other greenlets of the thread go on.

    It is given a descriptor made for this wait. Two greenlets may then wait for one thing, which eventlet refuses by the
    number of the descriptor, and nothing is known to its hub of those that another thread closes meanwhile.
    """
    cdef Epoll here
    if isinstance(select.select, BuiltinFunctionType):
        return poll_readable(*fds, timeout=timeout)
    here = Epoll(*fds)
    try:
        return bool(select.select([here.fd], [], [], timeout)[0])
    finally:
        here.close()


@cython.final
@cython.auto_pickle(False)
cdef class Epoll:
    """A descriptor that is readable when one of those added to it is. Closed with the object."""

    cdef readonly int fd

    def __cinit__(self, *fds):
        self.fd = lx.epoll_create1(lx.EPOLL_CLOEXEC)
        if self.fd < 0:
            raise os_error(lx.errno, "epoll_create1")
        for fd in fds:
            self.add(fd)

    def __dealloc__(self):
        self.close()

    def add(self, int fd):
        cdef lx.epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = lx.EPOLLIN
        if lx.epoll_ctl(self.fd, lx.EPOLL_CTL_ADD, fd, &event) < 0:
            raise os_error(lx.errno, "epoll_ctl")

    def fileno(self):
        return self.fd

    cpdef close(self):
        """Twice is fine."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            lx.close(fd)


@cython.final
@cython.auto_pickle(False)
cdef class Waker:
    """Waits for descriptors, until it is woken, once and for all: by any thread, signal handler or finalizer. No lock is
    taken by either."""

    cdef int fd         # an eventfd, made by who waits first
    cdef int users
    cdef int owner      # a forked child must not wake its parent
    cdef bint woken

    def __cinit__(self):
        self.fd = -1
        self.owner = lx.getpid()

    def __dealloc__(self):
        self.drop()

    cdef void drop(self) noexcept:
        if self.fd >= 0:
            lx.close(self.fd)
            self.fd = -1

    def wake(self):
        self.woken = True
        if self.users == 0 or self.owner != lx.getpid():
            self.drop()
        else:
            lx.eventfd_write(self.fd, 1)

    def wait(self, sources, timeout=None):
        """Whether one of the sources, files of any kind, became readable within `timeout` seconds, or it was woken: see
        wait_readable(). Raises OSError (poll, eventfd), and what a signal handler raises."""
        fds = {source.fileno() for source in sources} - {-1}    # closed ones are passed over
        if self.woken:
            return True
        if self.fd < 0:
            self.fd = lx.eventfd(0, lx.EFD_CLOEXEC | lx.EFD_NONBLOCK)
            if self.fd < 0:
                raise os_error(lx.errno, "eventfd")
        self.users += 1
        try:
            return self.woken or wait_readable(self.fd, *fds, timeout=timeout) or self.woken
        finally:
            self.users -= 1
            if self.woken and self.users == 0:
                self.drop()
