# The caller's side of the proxy: the control connection and the channels. See _relay.h for the protocol.
#
# A channel's socket carries requests one way and doorbells the other; what the kernel answered is read from the
# ring. `level` says how the doorbell is used. Before fileno() was asked for, it is armed only when recv() is
# about to sleep. Afterwards the socket is kept readable exactly while the ring holds something: either the
# doorbell is armed and the ring empty, or it was rung and not yet taken.

from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

import threading

cdef extern from "_relay.h" nogil:
    enum:
        FNS_MAGIC, FNS_NAME_MAX, FNS_OPT_MAX, FNS_FDS_MAX, FNS_INLINE_MAX, FNS_REQUEST_MAX, FNS_RING_HEADER
        FNS_RING_MAX, FNS_DIR_MAX, FNS_REPLY_MAX, FNS_STAT_COUNT
        FNS_CONFIG_RESTRICTED, FNS_CONFIG_READ_ONLY, FNS_ALLOW, FNS_SEAL, FNS_BUFFER_MAX, FNS_ALLOWED_MAX
        FNS_HELLO, FNS_NETNS, FNS_OPEN, FNS_SETSOCKOPT, FNS_GETSOCKOPT, FNS_GETSOCKNAME, FNS_BIND, FNS_STATS
        FNS_OPEN_EXT_ACK, FNS_OPEN_STRICT, FNS_OPEN_ALL_NSID, FNS_OPEN_CAP_ACK, FNS_OPEN_BESIDE
        FNS_SEND, FNS_SEND_MEMFD, FNS_SPACE, FNS_RING_BELL, FNS_STRICT
        FNS_DATA, FNS_OVERRUN, FNS_ERROR, FNS_TRUNCATED, FNS_FOREIGN
    struct fns_request:
        uint32_t op, id, chan, len
        int32_t a, b
    struct fns_open:
        int32_t family
        uint32_t flags, portid, groups, rcvbuf, sndbuf, ring_size, name_len
    struct fns_reply:
        uint32_t op, id
        int32_t err
        uint32_t stage, chan, len, a, b
        uint64_t size
    struct fns_message:
        uint32_t op, len, patches, flags
    struct fns_error:
        int32_t err
        uint32_t detail
    struct fns_reader:
        pass
    struct fns_config:
        int control
        int parent
        uint32_t max_channels, flags, families
        char *run_dir
    const char *fns_stage_name(uint32_t stage)
    int fns_ring_attach(fns_reader *reader, void *map, size_t map_len)
    int fns_ring_next(fns_reader *reader, const uint8_t **payload, uint32_t *len, uint32_t *type)
    int fns_ring_release(fns_reader *reader)
    int fns_ring_empty(fns_reader *reader)
    int fns_ring_look(fns_reader *reader)
    int fns_ring_arm(fns_reader *reader)
    int fns_ring_disarm(fns_reader *reader)
    int fns_relay_fork(const fns_config *config)
    int fns_relay_wait(int pid, int *status, int block)

STAT_NAMES = (
    "channels", "opened", "requests", "request_bytes", "datagrams", "bytes", "doorbells", "stalls", "overruns",
    "send_errors", "refused",
)


cdef int64_t deadline_of(object timeout) except? -2:
    """The moment, in ms, at which `timeout` seconds from now are over; -1 for None."""
    if timeout is None:
        return -1
    if timeout < 0:
        raise ValueError(f"timeout {timeout!r} is negative")
    return fns_monotonic_ms() + <int64_t> (min(timeout, 2e6) * 1000 + 0.999)


cdef int wait_for(int fd, short events, int64_t deadline, short *revents) except -1:
    """Poll without the GIL: 1 when something is there or a signal handler has run, 0 when the deadline is over."""
    cdef lx.pollfd pfd
    cdef int n, err, wait_ms = -1
    pfd.fd = fd
    pfd.events = events
    while True:
        if deadline >= 0:
            wait_ms = <int> max(deadline - fns_monotonic_ms(), 0)
        pfd.revents = 0
        with nogil:
            n = lx.poll(&pfd, 1, wait_ms)
            err = lx.errno
        revents[0] = pfd.revents
        if n > 0:
            return 1
        if n == 0 and wait_ms >= 0:
            return 0
        if n < 0 and err != lx.EINTR:
            raise os_error(err, "poll")
        PyErr_CheckSignals()
        if n < 0:
            return 1


cdef ssize_t send_with(int fd, lx.iovec *iov, int n, int *fds, int count) noexcept nogil:
    """sendmsg without blocking, with descriptors: bytes, or -errno."""
    cdef lx.msghdr msg
    cdef lx.cmsghdr *cmsg
    cdef char control[1088]        # CMSG_SPACE of FNS_FDS_MAX descriptors
    cdef ssize_t sent
    memset(&msg, 0, sizeof(msg))
    msg.msg_iov = iov
    msg.msg_iovlen = n
    if count:
        msg.msg_control = control
        msg.msg_controllen = lx.CMSG_SPACE(count * sizeof(int))
        memset(control, 0, msg.msg_controllen)
        cmsg = lx.CMSG_FIRSTHDR(&msg)
        cmsg.cmsg_level = lx.SOL_SOCKET
        cmsg.cmsg_type = lx.SCM_RIGHTS
        cmsg.cmsg_len = lx.CMSG_LEN(count * sizeof(int))
        memcpy(lx.CMSG_DATA(cmsg), fds, count * sizeof(int))
    sent = lx.sendmsg(fd, &msg, lx.MSG_DONTWAIT | lx.MSG_NOSIGNAL)
    return -lx.errno if sent < 0 else sent


cdef ssize_t receive_with(int fd, void *buf, size_t size, int *fds, int *count) noexcept nogil:
    """recvmsg without blocking, with at most two descriptors: bytes, 0 at end of file, or -errno."""
    cdef lx.msghdr msg
    cdef lx.iovec iov
    cdef lx.cmsghdr *cmsg
    cdef char control[64]
    cdef ssize_t got
    iov.iov_base = buf
    iov.iov_len = size
    memset(&msg, 0, sizeof(msg))
    msg.msg_iov = &iov
    msg.msg_iovlen = 1
    msg.msg_control = control
    msg.msg_controllen = lx.CMSG_SPACE(2 * sizeof(int))
    count[0] = 0
    got = lx.recvmsg(fd, &msg, lx.MSG_DONTWAIT | lx.MSG_CMSG_CLOEXEC)
    if got < 0:
        return -lx.errno
    cmsg = lx.CMSG_FIRSTHDR(&msg)
    if cmsg != NULL and cmsg.cmsg_level == lx.SOL_SOCKET and cmsg.cmsg_type == lx.SCM_RIGHTS:
        count[0] = 2 if cmsg.cmsg_len >= lx.CMSG_LEN(2 * sizeof(int)) else 1
        memcpy(fds, lx.CMSG_DATA(cmsg), count[0] * sizeof(int))
    return got


cdef str status_text(object status):
    if status is None:
        return "ended"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == lx.SIGSYS:
        return "was killed for a system call outside its filter"
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"exited with status {os.WEXITSTATUS(status)}"


cdef object proxy_error(int err, str text, object status):
    from fastns.errors import ProxyError
    return ProxyError(err, text, status)


@cython.final
@cython.auto_pickle(False)
cdef class RelayClient:
    """The control connection to a proxy process, which is forked here. Threads may share it.

    `families` is a mask of netlink families. `allowed` lists the namespaces it may enter, as (name, -1) or
    (None, descriptor); None: any.

    Raises: OSError naming the step of the proxy's set-up that failed.
    """

    cdef int fd
    cdef int users              # threads inside call(): close() leaves the descriptor to the last
    cdef int held               # which is here then
    cdef readonly int pid
    cdef readonly object status
    cdef int owner
    cdef bint reaped
    cdef bint died              # by itself, before close()
    cdef uint32_t last_id
    cdef object lock            # re-entrant: a signal handler may make a request during one
    cdef set waiting            # numbers of requests under way
    cdef dict early             # replies that arrived while another was waited for
    cdef object __weakref__

    def __cinit__(self):
        self.fd = self.held = -1
        self.pid = -1
        self.owner = lx.getpid()
        self.reaped = True

    def __init__(self, bytes run_dir, uint32_t max_channels=4096, bint read_only=False,
                 uint32_t families=0xffffffff, list allowed=None):
        cdef fns_config config
        cdef int pair[2]
        cdef int pid, err
        cdef fns_reply reply
        if self.pid != -1:
            raise ValueError("the proxy is started already")
        if len(run_dir) > FNS_DIR_MAX or b"\0" in run_dir:
            raise ValueError(f"{run_dir!r} cannot be a directory of names")
        if not 1 <= max_channels <= 65535:
            raise ValueError(f"max_channels {max_channels} is not within 1 and 65535")
        self.lock = threading.RLock()
        self.waiting = set()
        self.early = {}
        memset(&config, 0, sizeof(config))
        memcpy(config.run_dir, <const char *> run_dir, len(run_dir))
        config.max_channels = max_channels
        config.families = families
        config.flags = (FNS_CONFIG_READ_ONLY if read_only else 0) | (FNS_CONFIG_RESTRICTED if allowed is not None else 0)
        config.parent = lx.getpid()
        if lx.socketpair(lx.AF_UNIX, lx.SOCK_SEQPACKET | lx.SOCK_CLOEXEC, 0, pair) < 0:
            raise os_error(lx.errno, "socketpair")
        config.control = pair[1]
        with nogil:
            pid = fns_relay_fork(&config)
        lx.close(pair[1])
        if pid < 0:
            lx.close(pair[0])
            raise os_error(-pid, "clone")
        self.fd = pair[0]
        self.pid = pid
        self.reaped = False
        try:
            self.answer(FNS_MAGIC, &reply, NULL, NULL)
            if reply.op != FNS_HELLO:
                raise proxy_error(lx.EPROTO, "the proxy does not speak the protocol", None)
            if allowed is not None:
                self.allow(allowed)
        except BaseException:
            self.close()
            raise

    cdef int allow(self, list allowed) except -1:
        """Tell the proxy its namespaces and close the list."""
        cdef fns_request request
        cdef fns_reply reply
        cdef bytes name
        cdef int nsfd
        for name, nsfd in allowed:
            if name is not None and not 0 < len(name) <= FNS_NAME_MAX:
                raise ValueError(f"{name!r} cannot be the name of a namespace")
            memset(&request, 0, sizeof(request))
            request.op = FNS_ALLOW
            self.call(&request, <const char *> name if name is not None else NULL, len(name) if name is not None else 0,
                      nsfd, &reply, NULL, NULL)
        memset(&request, 0, sizeof(request))
        request.op = FNS_SEAL
        self.call(&request, NULL, 0, -1, &reply, NULL, NULL)
        return 0

    def __dealloc__(self):
        if self.fd >= 0:
            if self.owner == lx.getpid():
                lx.shutdown(self.fd, lx.SHUT_RDWR)
            lx.close(self.fd)
            self.fd = -1
        self.drop()
        if not self.reaped and self.owner == lx.getpid():
            unreaped_add(self.pid)

    cdef void drop(self) noexcept:
        if self.held >= 0:
            lx.close(self.held)
            self.held = -1

    cdef int check(self) except -1:
        if self.fd < 0 and self.died:
            raise self.death("the proxy is closed")
        if self.fd < 0:
            raise OSError(lx.EBADF, "the proxy is closed")
        if self.owner != lx.getpid():
            raise OSError(lx.EBADF, "the proxy belongs to the parent process: start a new one after fork")
        return 0

    cdef int reap(self, int patience_ms) except -1:
        """Take the exit status if the process has ended within so many ms. 1 when it is gone."""
        cdef int64_t deadline
        cdef int status = 0, got
        cdef lx.timespec_t pause
        if self.reaped or self.owner != lx.getpid():
            return self.reaped
        deadline = fns_monotonic_ms() + patience_ms
        pause.tv_sec = 0
        pause.tv_nsec = 50000
        while True:
            got = fns_relay_wait(self.pid, &status, 0)
            if got == -lx.EINTR:
                continue
            if got != 0:
                if not self.reaped:
                    self.reaped = True
                    self.status = status if got > 0 else None
                return 1
            if fns_monotonic_ms() >= deadline:
                return 0
            with nogil:
                lx.nanosleep(&pause, NULL)
            if self.reaped:          # another thread was faster
                return 1
            pause.tv_nsec = min(pause.tv_nsec * 2, 5000000)

    cdef object death(self, str text):
        """The error of a connection that broke: the process is ending, or it closed that one channel."""
        if self.reap(1000 if self.hung_up() else 50):
            return proxy_error(lx.EPIPE, f"{text}: the proxy process {self.pid} {status_text(self.status)}", self.status)
        return proxy_error(lx.ECONNRESET, f"{text}: the proxy process {self.pid} closed the connection", None)

    cdef bint hung_up(self):
        cdef lx.pollfd pfd
        if self.fd < 0:
            return True
        pfd.fd = self.fd
        pfd.events = 0
        pfd.revents = 0
        return lx.poll(&pfd, 1, 0) == 1 and (pfd.revents & (lx.POLLHUP | lx.POLLERR)) != 0

    @property
    def alive(self):
        """Whether the process serves: False once closed, in a forked child, or when it ended."""
        return self.fd >= 0 and self.owner == lx.getpid() and not self.hung_up()

    @property
    def closed(self):
        return self.fd < 0

    cdef ssize_t answer(self, uint32_t id, fns_reply *reply, char *payload, int *fds) except -1:
        """The reply with that number. One for a call further up the stack, which a signal handler interrupted to
        make a request of its own, is kept; late ones of calls that were given up are thrown away."""
        cdef char buf[FNS_REPLY_MAX]
        cdef int got_fds[2]
        cdef int count = 0, i
        cdef ssize_t got
        cdef short revents = 0
        cdef fns_reply head
        cdef object kept
        cdef int fd = self.fd                # stays open until we leave
        while True:
            kept = self.early.pop(id, None)
            if kept is not None:
                got = len(kept[0])
                memcpy(buf, <const char *> (<bytes> kept[0]), got)
                memcpy(&head, buf, sizeof(head))
                for count, number in enumerate(kept[1], 1):
                    got_fds[count - 1] = number
                break
            wait_for(fd, <short> lx.POLLIN, -1, &revents)
            self.check()
            got = receive_with(fd, buf, sizeof(buf), got_fds, &count)
            if got == -lx.EAGAIN or got == -lx.EINTR:
                continue
            if got == 0 or got == -lx.ECONNRESET:
                raise self.death("no answer")
            if got < 0:
                raise os_error(<int> -got, "recvmsg")
            if got >= <ssize_t> sizeof(head):
                memcpy(&head, buf, sizeof(head))
                if head.len == <size_t> got - sizeof(head):
                    if head.id == id and (count == 0 or fds != NULL):
                        break
                    if head.id in self.waiting:
                        self.early[head.id] = (PyBytes_FromStringAndSize(buf, got), [got_fds[i] for i in range(count)])
                        continue
            for i in range(count):
                lx.close(got_fds[i])
        reply[0] = head
        if head.err:
            for i in range(count):
                lx.close(got_fds[i])
            raise os_error(head.err, (<bytes> fns_stage_name(head.stage)).decode())
        if payload != NULL:
            memcpy(payload, buf + sizeof(head), head.len)
        if fds != NULL:
            fds[0] = got_fds[0] if count > 0 else -1
            fds[1] = got_fds[1] if count > 1 else -1
        return head.len

    cdef ssize_t call(self, fns_request *request, const char *data, size_t len, int nsfd, fns_reply *reply,
                      char *payload, int *fds) except -1:
        """One request and its reply. Serialised: the proxy answers one after the other anyway."""
        self.check()                         # not behind the lock, which in a forked child nobody may ever release
        self.users += 1
        try:
            return self.exchange(request, data, len, nsfd, reply, payload, fds)
        finally:
            self.users -= 1
            if self.users == 0:
                self.drop()

    cdef ssize_t exchange(self, fns_request *request, const char *data, size_t len, int nsfd, fns_reply *reply,
                          char *payload, int *fds) except -1:
        cdef lx.iovec iov[2]
        cdef ssize_t sent
        cdef short revents = 0
        with self.lock:
            self.check()
            self.last_id += 1
            request.id = self.last_id
            request.len = <uint32_t> len
            iov[0].iov_base = request
            iov[0].iov_len = sizeof(fns_request)
            iov[1].iov_base = <void *> data
            iov[1].iov_len = len
            while True:
                sent = send_with(self.fd, iov, 2, &nsfd, 1 if nsfd >= 0 else 0)
                if sent >= 0:
                    break
                if sent == -lx.EAGAIN:
                    wait_for(self.fd, <short> lx.POLLOUT, -1, &revents)
                    self.check()
                elif sent == -lx.EPIPE or sent == -lx.ECONNRESET:
                    raise self.death("no request possible")
                elif sent != -lx.EINTR:
                    raise os_error(<int> -sent, "sendmsg")
            self.waiting.add(request.id)
            try:
                return self.answer(request.id, reply, payload, fds)
            finally:
                self.waiting.discard(request.id)
                for number in self.early.pop(request.id, (None, ()))[1]:
                    lx.close(number)

    def open(self, bytes name, int nsfd, filename, *, int family, uint32_t rcvbuf, uint32_t sndbuf, uint32_t groups,
             uint32_t portid, uint32_t ring_size, bint ext_ack, bint strict_check, bint all_ns, bint cap_ack,
             RelayChannel beside=None):
        """A new channel in the namespace of that name, of the descriptor `nsfd`, or of the channel `beside`."""
        cdef fns_request request
        cdef fns_open spec
        cdef fns_reply reply
        cdef bytearray data = bytearray(sizeof(spec))
        cdef int fds[2]
        memset(&request, 0, sizeof(request))
        memset(&spec, 0, sizeof(spec))
        request.op = FNS_OPEN
        spec.family = family
        spec.flags = (
            (FNS_OPEN_EXT_ACK if ext_ack else 0) | (FNS_OPEN_STRICT if strict_check else 0)
            | (FNS_OPEN_ALL_NSID if all_ns else 0) | (FNS_OPEN_CAP_ACK if cap_ack else 0)
        )
        if beside is not None:
            spec.flags |= FNS_OPEN_BESIDE
            request.chan = beside.number
        spec.portid = portid
        spec.groups = groups
        spec.rcvbuf = rcvbuf
        spec.sndbuf = sndbuf
        spec.ring_size = ring_size
        if name is not None:
            if not name or len(name) > FNS_NAME_MAX:
                raise ValueError(f"{filename!r} cannot be the name of a namespace")
            spec.name_len = <uint32_t> len(name)
            nsfd = -1
        memcpy(<char *> data, &spec, sizeof(spec))
        if name is not None:
            data += name
        try:
            self.call(&request, data, len(data), nsfd, &reply, NULL, fds)
        except OSError as error:
            if error.errno is not None and error.filename is None and type(error).__module__ == "builtins":
                raise OSError(error.errno, error.strerror, filename) from None
            raise
        return channel_make(self, fds[0], fds[1], &reply, filename)

    def stats(self):
        """What the proxy has counted since it started, by name."""
        cdef fns_request request
        cdef fns_reply reply
        cdef uint64_t values[FNS_OPT_MAX]
        memset(&request, 0, sizeof(request))
        memset(values, 0, sizeof(values))
        request.op = FNS_STATS
        self.call(&request, NULL, 0, -1, &reply, <char *> values, NULL)
        return {name: values[i] for i, name in enumerate(STAT_NAMES)}

    def close(self):
        """End the proxy and reap it. Its channels die with it. In a forked child only the copy is closed."""
        cdef int fd = self.fd
        if fd < 0:
            return
        self.died = self.owner == lx.getpid() and self.hung_up()
        self.fd = -1
        if self.owner != lx.getpid():
            lx.close(fd)
            return
        lx.shutdown(fd, lx.SHUT_RDWR)    # also where a forked child holds a copy
        self.held = fd
        if self.users == 0:
            self.drop()
        if not self.reap(2000):
            lx.kill(self.pid, lx.SIGKILL)    # it is stopped, or in a long call of the kernel
            if not self.reap(2000):
                unreaped_add(self.pid)
                self.reaped = True


# Proxies whose object went away without close(): dealloc must not wait, so the next start reaps them.
cdef int unreaped[64]


cdef void unreaped_add(int pid) noexcept:
    cdef int status, i
    for i in range(64):
        if unreaped[i] and fns_relay_wait(unreaped[i], &status, 0) != 0:
            unreaped[i] = 0
    for i in range(64):
        if not unreaped[i]:
            unreaped[i] = pid
            return


def reap_abandoned(int patience_ms=0):
    """Reap proxies whose object was dropped without close()."""
    cdef int status, i
    cdef int64_t deadline = fns_monotonic_ms() + patience_ms
    cdef lx.timespec_t pause
    pause.tv_sec = 0
    pause.tv_nsec = 1000000
    for i in range(64):
        while unreaped[i]:
            if fns_relay_wait(unreaped[i], &status, 0) != 0:
                unreaped[i] = 0
            elif fns_monotonic_ms() >= deadline:
                break
            else:
                with nogil:
                    lx.nanosleep(&pause, NULL)


@cython.final
@cython.auto_pickle(False)
cdef class RelayChannel:
    """A netlink socket owned by a proxy: requests through a socket, answers and events through a ring."""

    cdef int fd
    cdef int owner
    cdef int users              # threads inside send() or recv(): close() leaves the descriptor to the last
    cdef bint is_closed
    cdef bint level
    cdef uint32_t number
    cdef readonly RelayClient client
    cdef readonly object filename
    cdef readonly object nsid   # of the namespace the last datagram came from, None: the channel's own
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
        """Take a doorbell that was rung; wait for one that is on its way."""
        cdef char byte
        cdef lx.pollfd pfd
        if lx.recv(self.fd, &byte, 1, lx.MSG_DONTWAIT) < 0 and lx.errno == lx.EAGAIN and wait_ms:
            pfd.fd = self.fd
            pfd.events = <short> lx.POLLIN
            lx.poll(&pfd, 1, wait_ms)
            lx.recv(self.fd, &byte, 1, lx.MSG_DONTWAIT)

    cdef void settle(self) noexcept:
        """Level mode, after reading: the socket is readable exactly when the ring is not empty."""
        if not fns_ring_empty(&self.reader):
            return                       # armed before this record came, or rung: either way a doorbell stands
        if not fns_ring_disarm(&self.reader):
            self.silence(10)
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
            raise OSError(lx.ENOBUFS, "recv: the kernel dropped messages here: the receive buffer was full",
                          self.filename)
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
        self.check()
        data = self.take()
        if data is not None:
            return data
        deadline = deadline_of(timeout)
        self.enter()
        try:
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
        by recv() at its place. TimeoutError when the proxy takes nothing within `timeout` seconds.

        `fds`: (offset, descriptor) pairs; the u32 at that offset becomes the proxy's number of the descriptor.
        `strict`: NETLINK_GET_STRICT_CHK for this request.
        """
        cdef fns_message message
        cdef uint32_t offsets[FNS_FDS_MAX]
        cdef int numbers[FNS_FDS_MAX]
        cdef int count = 0, first = 0, memfd = -1, n = 3
        cdef lx.iovec iov[3]
        cdef Py_buffer view
        cdef int64_t deadline = deadline_of(timeout)
        cdef short revents = 0
        cdef ssize_t sent
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
        wanted = min(buflen if buflen else sizeof(int), FNS_OPT_MAX)
        got = self.option(&request, <char *> &wanted, sizeof(wanted), &reply, payload)
        if buflen:
            return PyBytes_FromStringAndSize(payload, got)
        return (<int *> payload)[0] if got >= <ssize_t> sizeof(int) else payload[0] if got else 0

    def netns_fd(self):
        """A new descriptor of the namespace the socket lives in."""
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
        return fds[0]

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


cdef RelayChannel channel_make(RelayClient client, int sock, int memfd, fns_reply *reply, object filename):
    cdef RelayChannel channel = RelayChannel.__new__(RelayChannel)
    cdef int err = 0
    channel.fd = sock
    channel.client = client
    channel.filename = filename
    channel.number = reply.chan
    if sock < 0 or memfd < 0 or reply.size > FNS_RING_MAX:
        err = lx.EPROTO
    else:
        channel.map_len = FNS_RING_HEADER + reply.size
        channel.map = lx.mmap(NULL, channel.map_len, lx.PROT_READ | lx.PROT_WRITE, lx.MAP_SHARED, memfd, 0)
        if channel.map == lx.MAP_FAILED:
            channel.map = NULL
            err = lx.errno
    if memfd >= 0:
        lx.close(memfd)
    if err:
        raise os_error(err, "mmap", filename)
    lx.madvise(channel.map, channel.map_len, lx.MADV_DONTFORK)    # a forked child has no business there
    if fns_ring_attach(&channel.reader, channel.map, channel.map_len) < 0:
        raise proxy_error(lx.EPROTO, "open: the ring is corrupted", None)
    channel.is_closed = False
    return channel
