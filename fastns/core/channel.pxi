# The caller's side of a channel: requests out, answers and events from the ring. See relay/relay.h for the protocol.
#
# A channel's socket carries requests one way and doorbells the other; what the kernel answered is read from the
# ring. `level` says how the doorbell is used. Before fileno() was asked for, it is armed only when recv() is
# about to sleep. Afterwards the socket is kept readable exactly while the ring holds something: either the
# doorbell is armed and the ring empty, or it was rung and not yet taken.


@cython.final
@cython.auto_pickle(False)
cdef class RelayChannel:
    """A netlink socket owned by a proxy: requests through a socket, answers and events through a ring."""

    cdef int fd
    cdef int owner
    cdef int users              # threads inside send() or recv(): close() leaves the descriptor to the last
    cdef bint is_closed
    cdef bint level
    cdef bint settling          # a thread waits for the doorbell that is on its way
    cdef uint32_t number
    cdef readonly RelayClient client
    cdef readonly object filename
    cdef readonly object nsid   # of the namespace the last datagram came from, None: the channel's own
    cdef readonly uint32_t dropped   # datagrams missing at the last ENOBUFS, 0: not known
    cdef void *map
    cdef size_t map_len
    cdef fns_reader reader

    def __cinit__(self):
        self.fd = -1
        self.map = NULL
        self.is_closed = True
        self.owner = lx.getpid()

    def __init__(self):
        raise TypeError("channels are made by Proxy.open()")

    def __dealloc__(self):
        self.drop()

    cdef void drop(self) noexcept:
        if self.fd >= 0:
            lx.close(self.fd)
            self.fd = -1
        if self.map != NULL:
            # MADV_DONTFORK: in a forked child something else may be there
            if self.owner == lx.getpid() and (self.client is None or not self.client.keep(self)):
                lx.munmap(self.map, self.map_len)
            self.map = NULL

    cdef int check(self) except -1:
        if self.is_closed:
            raise OSError(lx.EBADF, "the channel is closed", self.filename)
        if self.owner != lx.getpid():
            raise OSError(lx.EBADF, "the channel belongs to the parent process: open a new one after fork",
                          self.filename)
        return 0

    cdef int enter(self) except -1:
        self.check()
        self.users += 1
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.is_closed and self.users == 0:
            self.drop()

    @property
    def closed(self):
        return self.is_closed

    def close(self):
        if self.is_closed:
            return
        self.is_closed = True
        if self.owner == lx.getpid():
            lx.shutdown(self.fd, lx.SHUT_RDWR)    # wakes threads inside recv(), reaches through forked copies
        if self.users == 0:
            self.drop()

    # -- doorbell

    cdef int tell(self, uint32_t op) noexcept nogil:
        cdef fns_message message
        cdef lx.iovec iov
        memset(&message, 0, sizeof(message))
        message.op = op
        iov.iov_base = &message
        iov.iov_len = sizeof(message)
        # No room: requests are waiting there, and with each of them the proxy looks again.
        return <int> send_with(self.fd, &iov, 1, NULL, 0)

    cdef void silence(self, int wait_ms) noexcept:
        """Take a doorbell that was rung; wait for one that is on its way. The caller is one of the users."""
        cdef char byte
        cdef lx.pollfd pfd
        if lx.recv(self.fd, &byte, 1, lx.MSG_DONTWAIT) < 0 and lx.errno == lx.EAGAIN and wait_ms:
            pfd.fd = self.fd
            pfd.events = <short> lx.POLLIN
            with nogil:
                lx.poll(&pfd, 1, wait_ms)
            lx.recv(self.fd, &byte, 1, lx.MSG_DONTWAIT)

    cdef void settle(self) noexcept:
        """Level mode, after reading: the socket is readable exactly when the ring is not empty."""
        if self.settling or not fns_ring_empty(&self.reader):
            return                       # armed before this record came, or rung: either way a doorbell stands
        if not fns_ring_disarm(&self.reader):
            self.settling = True         # another thread may read meanwhile
            self.silence(1000)
            self.settling = False
        if fns_ring_arm(&self.reader) and fns_ring_disarm(&self.reader):
            self.tell(FNS_RING_BELL)     # it came in between and nobody rings for it

    def fileno(self):
        """Readable exactly when recv(0) has something, or the proxy is gone. Do not read from it."""
        if self.is_closed:
            return -1
        if not self.level and self.owner == lx.getpid():
            self.level = True
            self.silence(0)
            if fns_ring_arm(&self.reader) and fns_ring_disarm(&self.reader):
                self.tell(FNS_RING_BELL)
        return self.fd

    # -- data

    cdef object take(self):
        """The next datagram, None when the ring is empty; error records raise."""
        cdef const uint8_t *payload = NULL
        cdef uint32_t len = 0, type = 0
        cdef fns_error error
        cdef int32_t nsid
        cdef object data = None
        cdef int found
        found = fns_ring_next(&self.reader, &payload, &len, &type)
        if found == 0:
            return None
        if found < 0:
            raise proxy_error(lx.EPROTO, "recv: the ring is corrupted", None)
        memset(&error, 0, sizeof(error))
        if type == FNS_DATA:
            data = PyBytes_FromStringAndSize(<const char *> payload, len)
            self.nsid = None
        elif type == FNS_FOREIGN and len >= sizeof(nsid):
            data = PyBytes_FromStringAndSize(<const char *> payload, len - sizeof(nsid))
            memcpy(&nsid, payload + len - sizeof(nsid), sizeof(nsid))
            self.nsid = nsid
        elif len == sizeof(error):
            memcpy(&error, payload, sizeof(error))
        if fns_ring_release(&self.reader):
            self.tell(FNS_SPACE)
        if self.level:
            self.settle()
        if data is not None:
            return data
        if type == FNS_OVERRUN:
            self.dropped = error.detail
            raise overrun_error(self.filename)
        if type == FNS_TRUNCATED:
            raise OSError(lx.EMSGSIZE, f"recv: a datagram of {error.detail} bytes does not fit the ring", self.filename)
        if type == FNS_ERROR and error.err > 0:
            raise os_error(error.err, "in the proxy, " + (<bytes> fns_stage_name(error.detail)).decode(), self.filename)
        raise proxy_error(lx.EPROTO, "recv: the ring is corrupted", None)

    def recv(self, timeout=None):
        """One datagram. TimeoutError after `timeout` seconds; OSError ENOBUFS where the kernel dropped some;
        ProxyError once the proxy is gone and what it had received is read."""
        cdef int64_t deadline
        cdef short revents = 0
        cdef object data
        cdef int ready
        self.enter()
        try:
            data = self.take()
            if data is not None:
                return data
            deadline = deadline_of(timeout)
            if not self.level and timeout != 0:
                with nogil:
                    fns_ring_look(&self.reader)
            while True:
                if not self.level and fns_ring_arm(&self.reader):
                    fns_ring_disarm(&self.reader)
                    ready = 2
                else:
                    ready = wait_for(self.fd, <short> lx.POLLIN, deadline, &revents)
                self.check()
                if ready == 1:
                    if self.level:
                        if fns_ring_empty(&self.reader):
                            self.settle()
                    else:
                        self.silence(0)
                data = self.take()
                if data is not None:
                    return data
                if ready == 1 and revents & (lx.POLLHUP | lx.POLLERR):
                    raise self.client.death("recv")
                if ready == 0:
                    raise TimeoutError(f"recv: nothing arrived within {timeout} s")
        finally:
            self.leave()

    def send(self, data, fds=(), timeout=None, *, bint strict=False):
        """Hand a request to the proxy, which sends it to the kernel; what sendto(2) fails with there is raised
        by recv() at its place. TimeoutError when the proxy takes nothing within `timeout` seconds, which is
        ANSWER_TIMEOUT if none is given.

        `fds`: (offset, descriptor) pairs; the u32 at that offset becomes the proxy's number of the descriptor. Offsets
        ascend by four bytes at least, else ValueError.
        `strict`: NETLINK_GET_STRICT_CHK for this request.
        """
        cdef fns_message message
        cdef uint32_t offsets[FNS_FDS_MAX]
        cdef int numbers[FNS_FDS_MAX]
        cdef int count = 0, first = 0, memfd = -1, n = 3
        cdef lx.iovec iov[3]
        cdef Py_buffer view
        cdef int64_t deadline = deadline_of(ANSWER_TIMEOUT if timeout is None else timeout)
        cdef short revents = 0
        cdef ssize_t sent
        cdef int64_t end = 0
        self.enter()
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                if view.len == 0 or view.len > FNS_REQUEST_MAX:
                    raise OSError(lx.EMSGSIZE, f"send: a request of {view.len} bytes", self.filename)
                if len(fds) > FNS_FDS_MAX - 1:
                    raise OSError(lx.E2BIG, f"send: {len(fds)} descriptors in one request", self.filename)
                message.op = FNS_SEND
                message.len = <uint32_t> view.len
                message.patches = <uint32_t> len(fds)
                message.flags = FNS_STRICT if strict else 0
                if view.len > FNS_INLINE_MAX:
                    message.op = FNS_SEND_MEMFD
                    memfd = memfd_filled(view.buf, view.len, self.filename)
                    numbers[0] = memfd
                    first = count = 1
                    n = 2
                for offset, number in fds:
                    if offset < 0 or offset + 4 > view.len:
                        raise ValueError(f"offset {offset} is outside the request of {view.len} bytes")
                    if offset < end:
                        raise ValueError(f"offset {offset} is not behind the descriptor at offset {end - 4}: "
                                         "they ascend and do not overlap")
                    end = offset + 4
                    offsets[count - first] = offset
                    numbers[count] = number
                    count += 1
                iov[0].iov_base = &message
                iov[0].iov_len = sizeof(message)
                iov[1].iov_base = offsets
                iov[1].iov_len = message.patches * sizeof(uint32_t)
                iov[2].iov_base = view.buf
                iov[2].iov_len = view.len
                while True:
                    sent = send_with(self.fd, iov, n, numbers, count)
                    if sent >= 0:
                        return view.len
                    if sent == -lx.EAGAIN:
                        if wait_for(self.fd, <short> lx.POLLOUT, deadline, &revents) == 0:
                            if timeout is None:
                                raise self.client.silent()
                            raise TimeoutError(f"send: the proxy took nothing within {timeout} s")
                        self.check()
                    elif sent == -lx.EPIPE or sent == -lx.ECONNRESET:
                        raise self.client.death("send")
                    elif sent != -lx.EINTR:
                        raise os_error(<int> -sent, "sendmsg", self.filename)
            finally:
                PyBuffer_Release(&view)
        finally:
            if memfd >= 0:
                lx.close(memfd)
            self.leave()

    # -- options

    cdef ssize_t option(self, fns_request *request, const char *data, size_t len, fns_reply *reply,
                        char *payload) except -1:
        self.check()
        request.chan = self.number
        return self.client.call(request, data, len, -1, reply, payload, NULL)

    def setsockopt(self, int level, int optname, value):
        cdef fns_request request
        cdef fns_reply reply
        cdef bytes data
        cdef int number
        if isinstance(value, int):
            number = value
            data = PyBytes_FromStringAndSize(<char *> &number, sizeof(number))
        else:
            data = bytes(value)
        if len(data) > FNS_OPT_MAX:
            raise OSError(lx.EINVAL, f"setsockopt: a value of {len(data)} bytes", self.filename)
        memset(&request, 0, sizeof(request))
        request.op = FNS_SETSOCKOPT
        request.a = level
        request.b = optname
        self.option(&request, data, len(data), &reply, NULL)

    def getsockopt(self, int level, int optname, int buflen=0):
        cdef fns_request request
        cdef fns_reply reply
        cdef char payload[FNS_OPT_MAX]
        cdef uint32_t wanted
        cdef ssize_t got
        if buflen < 0 or buflen > 65536:
            raise ValueError(f"buflen {buflen} is not within 0 and 65536")
        memset(&request, 0, sizeof(request))
        request.op = FNS_GETSOCKOPT
        request.a = level
        request.b = optname
        wanted = min(buflen if buflen else <int> sizeof(int), FNS_OPT_MAX)
        got = self.option(&request, <char *> &wanted, sizeof(wanted), &reply, payload)
        if buflen:
            return PyBytes_FromStringAndSize(payload, got)
        return (<int *> payload)[0] if got >= <ssize_t> sizeof(int) else payload[0] if got else 0

    def netns_fd(self):
        """A Descriptor of the namespace the socket lives in."""
        cdef fns_request request
        cdef fns_reply reply
        cdef int fds[2]
        self.check()
        memset(&request, 0, sizeof(request))
        request.op = FNS_NETNS
        request.chan = self.number
        self.client.call(&request, NULL, 0, -1, &reply, NULL, fds)
        if fds[0] < 0:
            raise proxy_error(lx.EPROTO, "the proxy sent no descriptor", None)
        if fds[1] >= 0:
            lx.close(fds[1])
        return descriptor_own(fds[0])

    def getsockname(self):
        """The (port id, groups mask) of the socket."""
        cdef fns_request request
        cdef fns_reply reply
        memset(&request, 0, sizeof(request))
        request.op = FNS_GETSOCKNAME
        self.option(&request, NULL, 0, &reply, NULL)
        return reply.a, reply.b

    def bind(self, uint32_t portid=0, uint32_t groups=0):
        """Join the multicast groups of the mask. The port id stays: 0 or the socket's own. netlink(7)."""
        cdef fns_request request
        cdef fns_reply reply
        memset(&request, 0, sizeof(request))
        request.op = FNS_BIND
        request.a = <int32_t> portid
        request.b = <int32_t> groups
        self.option(&request, NULL, 0, &reply, NULL)

    def add_membership(self, int group):
        self.setsockopt(lx.SOL_NETLINK, lx.NETLINK_ADD_MEMBERSHIP, group)

    def drop_membership(self, int group):
        self.setsockopt(lx.SOL_NETLINK, lx.NETLINK_DROP_MEMBERSHIP, group)


cdef int memfd_filled(const void *data, ssize_t len, object filename) except -1:
    """A sealed memfd holding those bytes."""
    cdef int fd = lx.memfd_create("fastns-request", lx.MFD_CLOEXEC | lx.MFD_ALLOW_SEALING)
    cdef ssize_t n, done = 0
    cdef int err = 0
    if fd < 0:
        raise os_error(lx.errno, "memfd_create", filename)
    with nogil:
        while done < <ssize_t> len and not err:
            n = lx.write(fd, <const char *> data + done, len - done)
            if n < 0:
                err = lx.errno
            else:
                done += n
        if not err and lx.fcntl(fd, lx.F_ADD_SEALS, lx.F_SEAL_SHRINK | lx.F_SEAL_GROW | lx.F_SEAL_WRITE) < 0:
            err = lx.errno
    if err:
        lx.close(fd)
        raise os_error(err, "write", filename)
    return fd


cdef RelayChannel channel_make(RelayClient client, int sock, int memfd, void *spare, size_t spare_len, fns_reply *reply,
                               object filename):
    cdef RelayChannel channel = RelayChannel.__new__(RelayChannel)
    cdef int err = 0
    channel.fd = sock
    channel.client = client
    channel.filename = filename
    channel.number = reply.chan
    if spare != NULL and memfd < 0 and spare_len == FNS_RING_HEADER + reply.size:
        channel.map = spare
        channel.map_len = spare_len
    elif spare != NULL:
        lx.munmap(spare, spare_len)
    if sock < 0 or (memfd < 0 and channel.map == NULL) or reply.size > FNS_RING_MAX:
        err = lx.EPROTO
    elif channel.map == NULL:
        channel.map_len = FNS_RING_HEADER + reply.size
        channel.map = lx.mmap(NULL, channel.map_len, lx.PROT_READ | lx.PROT_WRITE, lx.MAP_SHARED, memfd, 0)
        if channel.map == lx.MAP_FAILED:
            channel.map = NULL
            err = lx.errno
        else:
            lx.madvise(channel.map, channel.map_len, lx.MADV_DONTFORK)    # a forked child has no business there
    if memfd >= 0:
        lx.close(memfd)
    if err:
        raise os_error(err, "mmap", filename)
    if fns_ring_attach(&channel.reader, channel.map, channel.map_len) < 0:
        raise proxy_error(lx.EPROTO, "open: the ring is corrupted", None)
    channel.is_closed = False
    return channel
