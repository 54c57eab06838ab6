# Descriptors with an owner. A number that Python code holds is lost when a signal handler raises between the system call
# and the variable; an object is not.


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


def process_opened(int pid):
    """A Descriptor of a process of this PID namespace, readable once it has ended. pidfd_open(2)"""
    cdef int fd = fns_call_pidfd_open(pid)
    if fd < 0:
        raise os_error(-fd, "pidfd_open")
    return descriptor_own(fd)
