# Descriptors and waits with an owner. A number that Python code holds is lost when a signal handler raises between the
# system call and the variable; an object is not. And what ends a wait takes no lock, so a signal handler may do it.


@cython.final
@cython.auto_pickle(False)
cdef class Descriptor:
    """An open descriptor: its number in a `with` block, at whose end it is closed, unless it is somebody else's.

    Closed with the object otherwise. As a pair it is the number and whether it is to be closed, which is then up to
    whoever has taken the pair.
    """

    cdef int number
    cdef bint owned

    def __cinit__(self):
        self.number = -1

    def __init__(self):
        raise TypeError("descriptors are made by what opens them")

    cdef void drop(self) noexcept:
        cdef int number = self.number
        self.number = -1
        if self.owned and number >= 0:
            self.owned = False
            lx.close(number)

    cdef tuple detach(self):
        cdef tuple pair = (self.number, self.owned)
        self.owned = False
        return pair

    def __enter__(self):
        return self.number

    def __exit__(self, *exc_info):
        self.drop()

    def __iter__(self):
        return iter(self.detach())

    def __getitem__(self, index):
        return self.detach()[index]

    def __len__(self):
        return 2

    def fileno(self):
        return self.number

    def read(self, int size):
        """At most that many bytes of a non-blocking descriptor, in one step with the look at its number."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef ssize_t n = lx.read(self.number, PyBytes_AS_STRING(data), size)
        if n < 0:
            raise os_error(lx.errno, "read")
        return data[:n]

    def close(self):
        self.drop()

    def __dealloc__(self):
        self.drop()


cdef Descriptor descriptor_own(int fd):
    """Made of what a system call has just returned; nothing of Python runs in between."""
    cdef Descriptor held
    try:
        held = Descriptor.__new__(Descriptor)
    except BaseException:
        lx.close(fd)
        raise
    held.number = fd
    held.owned = True
    return held


def borrowed(int fd):
    """A descriptor that stays its owner's; -1 for none."""
    cdef Descriptor held = Descriptor.__new__(Descriptor)
    held.number = fd
    return held


def duplicated(int fd):
    """A copy of the descriptor with a number above those of the standard files. fcntl(2)."""
    fd = lx.fcntl(fd, lx.F_DUPFD_CLOEXEC, 3)
    if fd < 0:
        raise os_error(lx.errno, "fcntl(F_DUPFD_CLOEXEC)")
    return descriptor_own(fd)


cdef enum:
    SOURCES_MAX = 3


@cython.final
@cython.auto_pickle(False)
cdef class Waker:
    """Waits for descriptors, until it is woken, once and for all: by any thread, signal handler or finalizer."""

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
        """Whether one of the sources, files of any kind, became readable within `timeout` seconds, or it was woken.
        Raises OSError (poll, eventfd), and what a signal handler raises."""
        cdef lx.pollfd pfd[SOURCES_MAX + 1]
        cdef int64_t deadline = deadline_of(timeout)
        cdef int n, err, wait_ms = -1, count = 1
        for source in sources:
            if count > SOURCES_MAX:
                raise ValueError(f"more than {SOURCES_MAX} descriptors to wait for")
            pfd[count].fd = source.fileno()    # -1, a closed one, is passed over
            count += 1
        for n in range(count):
            pfd[n].events = <short> lx.POLLIN
        if self.woken:
            return True
        if self.fd < 0:
            self.fd = lx.eventfd(0, lx.EFD_CLOEXEC | lx.EFD_NONBLOCK)
            if self.fd < 0:
                raise os_error(lx.errno, "eventfd")
        pfd[0].fd = self.fd
        self.users += 1
        try:
            while not self.woken:
                if deadline >= 0:
                    wait_ms = <int> max(deadline - fns_monotonic_ms(), 0)
                with nogil:
                    n = lx.poll(pfd, count, wait_ms)
                    err = lx.errno
                if n > 0:
                    return True
                if n < 0 and err != lx.EINTR:
                    raise os_error(err, "poll")
                PyErr_CheckSignals()
                if n == 0 and wait_ms >= 0:
                    return False
            return True
        finally:
            self.users -= 1
            if self.woken and self.users == 0:
                self.drop()
