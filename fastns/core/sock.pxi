# A netlink socket of this process, opened inside a namespace: the direct transport. netlink(7).

from _socket import socket as PlainSocket

SO_MEMINFO = FNS_SO_MEMINFO     # not in the standard library

cdef enum:
    NO_NSID = 0x80000000        # no namespace id: those are int32_t
    NUDGE = 0x6e756467          # sequence number of a message that is there to be answered


cdef int64_t deadline_of(object timeout) except? -2:
    """The moment, in ms, at which `timeout` seconds from now are over; -1 for None."""
    if timeout is None:
        return -1
    if timeout < 0:
        raise ValueError(f"timeout {timeout!r} is negative")
    return fns_monotonic_ms() + <int64_t> (min(timeout, 2e6) * 1000 + 0.999)


cdef struct socket_spec:
    int family
    int type
    int protocol


cdef int op_socket(void *arg, const char **call) noexcept nogil:
    cdef socket_spec *spec = <socket_spec *> arg
    cdef int fd = lx.socket(spec.family, spec.type | lx.SOCK_CLOEXEC, spec.protocol)
    call[0] = "socket"
    return -lx.errno if fd < 0 else fd


def socket_in(int nsfd, object kind, int family, int type, int proto=0, object ref=None):
    """A new close-on-exec socket, of the class `kind`, that was opened inside the namespace `nsfd` (-1: the
    calling thread's own). `ref` is the filename of the OSError."""
    cdef socket_spec spec
    cdef const char *call = ""
    cdef int fd
    cdef object sock = None
    if issubclass(kind, PlainSocket):
        sock = PlainSocket.__new__(kind)
    spec.family = family
    spec.type = type
    spec.protocol = proto
    with nogil:
        fd = op_socket(&spec, &call) if nsfd < 0 else ns_call(nsfd, op_socket, &spec, &call)
    if fd < 0:
        raise ns_error(-fd, call, ref)
    if sock is None:
        return kind(family, type, proto, fileno=fd)    # one of a patched program: it alone knows what it owns by now
    try:
        sock.__init__(family, type, proto, fd)
    except BaseException:
        # A signal handler may raise before the socket has taken the descriptor, and after.
        if PlainSocket.fileno(sock) == fd:
            PlainSocket.close(sock)
        else:
            lx.close(fd)
        raise
    return sock


cdef ssize_t receive(int fd, int *flags, int64_t *nsid) noexcept nogil:
    """One datagram into this thread's buffer: its size, or -errno. nsid is set if it came from another namespace."""
    cdef lx.msghdr msg
    cdef lx.iovec iov
    cdef lx.cmsghdr *cmsg
    cdef uint64_t control[8]
    cdef int32_t number
    cdef ssize_t n
    iov.iov_base = fns_recv_buffer
    iov.iov_len = FNS_RECV_MAX
    msg.msg_name = NULL
    msg.msg_namelen = 0
    msg.msg_iov = &iov
    msg.msg_iovlen = 1
    msg.msg_control = control
    msg.msg_controllen = sizeof(control)
    msg.msg_flags = 0
    n = lx.recvmsg(fd, &msg, lx.MSG_DONTWAIT)
    flags[0] = msg.msg_flags
    if n >= 0 and msg.msg_controllen >= sizeof(lx.cmsghdr):
        cmsg = lx.CMSG_FIRSTHDR(&msg)
        if (cmsg != NULL and cmsg.cmsg_level == lx.SOL_NETLINK and cmsg.cmsg_type == lx.NETLINK_LISTEN_ALL_NSID
                and cmsg.cmsg_len >= lx.CMSG_LEN(sizeof(number))):
            memcpy(&number, lx.CMSG_DATA(cmsg), sizeof(number))
            nsid[0] = number
    return -lx.errno if n < 0 else n


cdef bint is_nudge(const void *data, ssize_t n) noexcept nogil:
    """Whether this is what NetlinkSocket.nudge() made the kernel say."""
    cdef lx.nlmsghdr head
    if n < <ssize_t> sizeof(head):
        return False
    memcpy(&head, data, sizeof(head))
    return head.nlmsg_type == lx.NLMSG_ERROR and head.nlmsg_seq == NUDGE


cdef object overrun_error(object filename):
    return OSError(lx.ENOBUFS, "recv: the kernel dropped messages here: the receive buffer was full", filename)


@cython.final
@cython.auto_pickle(False)
cdef class NetlinkSocket:
    """A netlink socket opened inside the namespace `nsfd` (-1: the calling thread's), owned by this process."""

    cdef readonly int fd
    cdef readonly object filename
    cdef readonly object nsid   # of the namespace the last datagram came from, None: the socket's own
    cdef fns_gap gap
    cdef bint gap_here          # the next thing to tell is that datagrams are missing
    cdef readonly uint32_t dropped   # datagrams missing at the last ENOBUFS, 0: not known
    cdef int nudges             # messages sent to be answered, so that the socket is readable
    cdef int owner
    cdef int users              # threads inside send() or recv()
    cdef int held               # the descriptor after close(), which the last of them closes
    cdef int waker              # an eventfd, readable once closed: a netlink socket has no shutdown(2) to wake them

    def __cinit__(self):
        self.fd = self.held = self.waker = -1
        self.owner = lx.getpid()

    def __init__(
        self, int nsfd=-1, int protocol=lx.NETLINK_ROUTE, filename=None, *, int fileno=-1, int rcvbuf=0, int sndbuf=0,
        bint ext_ack=False, bint cap_ack=False, bint strict_check=False, bint all_ns=False, bint force=False,
        uint32_t portid=0, uint32_t groups=0, bint bound=True,
    ):
        cdef socket_spec spec
        cdef const char *call = ""
        cdef int fd
        if self.fd >= 0:
            raise ValueError("the socket is open already")
        self.filename = filename
        if fileno >= 0:
            fd = lx.fcntl(fileno, lx.F_DUPFD_CLOEXEC, 3)
            if fd < 0:
                raise os_error(lx.errno, "fcntl(F_DUPFD_CLOEXEC)", filename)
            fns_gap_look(fd, &self.gap.queued, &self.gap.dropped)
        else:
            spec.family = lx.AF_NETLINK
            spec.type = lx.SOCK_RAW
            spec.protocol = protocol
            with nogil:
                fd = op_socket(&spec, &call) if nsfd < 0 else ns_call(nsfd, op_socket, &spec, &call)
            if fd < 0:
                raise ns_error(-fd, call, filename)
        self.fd = fd
        try:
            if sndbuf and not (force and self.try_option(lx.SOL_SOCKET, lx.SO_SNDBUFFORCE, sndbuf)):
                self.option(lx.SOL_SOCKET, lx.SO_SNDBUF, sndbuf)
            if rcvbuf and not (force and self.try_option(lx.SOL_SOCKET, lx.SO_RCVBUFFORCE, rcvbuf)):
                self.option(lx.SOL_SOCKET, lx.SO_RCVBUF, rcvbuf)
            if ext_ack:
                self.try_option(lx.SOL_NETLINK, lx.NETLINK_EXT_ACK, 1)
            if cap_ack:
                self.try_option(lx.SOL_NETLINK, lx.NETLINK_CAP_ACK, 1)
            if strict_check:
                self.option(lx.SOL_NETLINK, lx.NETLINK_GET_STRICT_CHK, 1)
            if all_ns:
                self.option(lx.SOL_NETLINK, lx.NETLINK_LISTEN_ALL_NSID, 1)
            if bound and fileno < 0:
                self.bind(portid, groups)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        self.close_one(&self.fd)
        self.drop()

    cdef void close_one(self, int *fd) noexcept:
        if fd[0] >= 0:
            lx.close(fd[0])
            fd[0] = -1

    cdef void drop(self) noexcept:
        self.close_one(&self.held)
        self.close_one(&self.waker)

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.users == 0 and self.fd < 0:
            self.drop()

    cdef int check(self) except -1:
        if self.fd < 0:
            raise OSError(lx.EBADF, "the netlink socket is closed", self.filename)
        if self.owner != lx.getpid():
            raise OSError(lx.EBADF, "the netlink socket belongs to the parent process: open a new one after fork",
                          self.filename)
        return 0

    cdef bint try_option(self, int level, int name, int value):
        return lx.setsockopt(self.fd, level, name, &value, sizeof(int)) == 0

    cdef int option(self, int level, int name, int value) except -1:
        if not self.try_option(level, name, value):
            raise os_error(lx.errno, "setsockopt", self.filename)
        return 0

    @property
    def closed(self):
        return self.fd < 0

    def fileno(self):
        return self.fd

    def close(self):
        if self.fd < 0:
            return
        self.held = self.fd
        self.fd = -1
        if self.users == 0 or self.owner != lx.getpid():
            self.drop()
        elif self.waker >= 0:
            lx.eventfd_write(self.waker, 1)

    def bind(self, uint32_t portid=0, uint32_t groups=0):
        """Bind to a port id (0: the kernel chooses) and to the multicast groups of the mask. netlink(7)."""
        cdef lx.sockaddr_nl addr
        addr.nl_family = lx.AF_NETLINK
        addr.nl_pad = 0
        addr.nl_pid = portid
        addr.nl_groups = groups
        self.check()
        if lx.bind(self.fd, <lx.sockaddr *> &addr, sizeof(addr)) < 0:
            raise os_error(lx.errno, "bind", self.filename)

    def netns_fd(self):
        """A Descriptor of the namespace the socket lives in. EPERM without CAP_NET_ADMIN over it."""
        cdef int fd
        self.check()
        fd = lx.ioctl(self.fd, lx.SIOCGSKNS)
        if fd < 0:
            raise os_error(lx.errno, "ioctl(SIOCGSKNS)", self.filename)
        return descriptor_own(fd)

    def getsockname(self):
        """The (port id, groups mask) of the socket."""
        cdef lx.sockaddr_nl addr
        cdef lx.socklen_t size = sizeof(addr)
        self.check()
        if lx.getsockname(self.fd, <lx.sockaddr *> &addr, &size) < 0:
            raise os_error(lx.errno, "getsockname", self.filename)
        return addr.nl_pid, addr.nl_groups

    def setsockopt(self, int level, int optname, value):
        cdef Py_buffer view
        cdef int err
        self.check()
        if isinstance(value, int):
            self.option(level, optname, value)
            return
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        err = lx.errno if lx.setsockopt(self.fd, level, optname, view.buf, <lx.socklen_t> view.len) < 0 else 0
        PyBuffer_Release(&view)
        if err:
            raise os_error(err, "setsockopt", self.filename)

    def getsockopt(self, int level, int optname, int buflen=0):
        cdef int value = 0
        cdef lx.socklen_t size = sizeof(int)
        cdef bytearray data
        self.check()
        if buflen < 0 or buflen > 65536:
            raise ValueError(f"buflen {buflen} is not within 0 and 65536")
        if buflen == 0:
            if lx.getsockopt(self.fd, level, optname, &value, &size) < 0:
                raise os_error(lx.errno, "getsockopt", self.filename)
            return value
        data = bytearray(buflen)
        size = <lx.socklen_t> buflen
        if lx.getsockopt(self.fd, level, optname, <char *> data, &size) < 0:
            raise os_error(lx.errno, "getsockopt", self.filename)
        return bytes(data[:size])

    def add_membership(self, int group):
        self.check()
        self.option(lx.SOL_NETLINK, lx.NETLINK_ADD_MEMBERSHIP, group)

    def drop_membership(self, int group):
        self.check()
        self.option(lx.SOL_NETLINK, lx.NETLINK_DROP_MEMBERSHIP, group)

    def send(self, data, fds=()):
        """Send to the kernel, which has done the work when this returns. `fds` is the relay's: unused here."""
        cdef Py_buffer view
        cdef ssize_t n
        cdef int err, fd
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self.users += 1
        try:
            while True:
                self.check()
                fd = self.fd
                with nogil:
                    n = lx.sendto(fd, view.buf, view.len, 0, NULL, 0)
                    err = lx.errno
                if n >= 0:
                    return n
                if err != lx.EINTR:
                    raise os_error(err, "send", self.filename)
                PyErr_CheckSignals()
        finally:
            self.leave()
            PyBuffer_Release(&view)

    def recv(self, timeout=None):
        """One datagram. TimeoutError after `timeout` seconds; OSError ENOBUFS where the kernel dropped some (`dropped`
        of them), EBADF once closed, also by another thread meanwhile."""
        self.check()
        self.users += 1
        try:
            return self.receive_one(timeout)
        finally:
            self.leave()

    cdef void wait(self, int wait_ms) noexcept:
        """Until something arrives, the socket is closed or a signal comes."""
        cdef lx.pollfd pfd[2]
        if self.waker < 0:
            self.waker = lx.eventfd(0, lx.EFD_CLOEXEC | lx.EFD_NONBLOCK)    # without one, poll looks at the other only
        pfd[0].fd = self.fd
        pfd[1].fd = self.waker
        pfd[0].events = pfd[1].events = <short> lx.POLLIN
        with nogil:
            lx.poll(pfd, 2, wait_ms)

    cdef bint tell_gap(self) noexcept:
        """A gap is found. False when nothing is missing in it but acknowledgements of nudge()."""
        cdef uint32_t ours = min(<uint32_t> self.nudges, self.gap.missing)
        self.nudges = 0
        self.gap.missing -= ours
        return ours == 0 or self.gap.missing != 0

    cdef void look_for_gap(self, ssize_t n) noexcept:
        """Behind a datagram of that size."""
        if not fns_gap_behind(&self.gap, self.fd, <uint32_t> n):
            self.skip_nudges()
        elif self.tell_gap():
            self.gap_here = True
            if self.gap.queued == 0:
                self.nudge()

    cdef void nudge(self) noexcept:
        """The gap is all there is to read. For whoever polls the socket, have the kernel acknowledge something, as it
        does with any message that is no request (netlink_rcv_skb())."""
        cdef lx.nlmsghdr head
        head.nlmsg_len = sizeof(head)
        head.nlmsg_type = lx.NLMSG_NOOP
        head.nlmsg_flags = lx.NLM_F_ACK
        head.nlmsg_seq = NUDGE
        head.nlmsg_pid = 0
        if lx.sendto(self.fd, &head, sizeof(head), lx.MSG_DONTWAIT, NULL, 0) > 0:
            self.nudges += 1

    cdef void skip_nudges(self) noexcept:
        """Such an acknowledgement is nothing to read: not when it is first in the queue, so polls do not tell of it."""
        cdef lx.nlmsghdr head
        cdef int flags = lx.MSG_PEEK
        cdef ssize_t n
        while self.nudges and not self.gap_here:
            n = lx.recv(self.fd, &head, sizeof(head), flags | lx.MSG_DONTWAIT)
            if n == -1 and lx.errno == lx.ENOBUFS:
                self.gap_here = fns_gap_open(&self.gap, self.fd) and self.tell_gap()
            if not is_nudge(&head, n):
                return
            flags ^= lx.MSG_PEEK
            if flags:
                self.nudges -= 1
                self.look_for_gap(n)

    cdef bytes receive_one(self, timeout):
        cdef int flags = 0
        cdef ssize_t n
        cdef int64_t nsid = NO_NSID
        cdef int64_t deadline = deadline_of(timeout)
        cdef int wait_ms = -1
        cdef int fd
        while True:
            fd = self.fd
            if self.gap_here:
                self.gap_here = False
                self.dropped = self.gap.missing
                self.skip_nudges()
                raise overrun_error(self.filename)
            with nogil:
                n = receive(fd, &flags, &nsid)
            if n >= 0:
                if is_nudge(fns_recv_buffer, n):
                    self.nudges = max(self.nudges - 1, 0)
                    self.look_for_gap(n)
                    continue
                self.look_for_gap(n)
                if flags & lx.MSG_TRUNC:
                    raise OSError(lx.EMSGSIZE, f"recv: a datagram of more than {FNS_RECV_MAX} bytes", self.filename)
                self.nsid = nsid if nsid != NO_NSID else None
                return PyBytes_FromStringAndSize(fns_recv_buffer, n)
            if n == -lx.ENOBUFS:
                self.gap_here = fns_gap_open(&self.gap, fd) and self.tell_gap()
                continue
            if n == -lx.EAGAIN:
                self.gap_here = fns_gap_empty(&self.gap, fd) and self.tell_gap()
                if self.gap_here:
                    continue
                if timeout is not None:
                    wait_ms = <int> max(deadline - fns_monotonic_ms(), 0)
                    if wait_ms == 0:
                        raise TimeoutError(f"recv: nothing arrived within {timeout} s")
                self.check()
                self.wait(wait_ms)
            elif n != -lx.EINTR:
                raise os_error(<int> -n, "recv", self.filename)
            PyErr_CheckSignals()
            self.check()
