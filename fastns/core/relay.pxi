# The caller's side of the proxy: the control connection. relay/relay.h has the protocol.

from _thread import RLock    # the interpreter's own: see wait.pxi

ANSWER_TIMEOUT = 30.0       # seconds: as long a proxy that does not answer, being stopped, is waited for at most

STAT_NAMES = (
    "channels", "opened", "requests", "request_bytes", "datagrams", "bytes", "doorbells", "stalls", "overruns",
    "send_errors", "refused",
)


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
    cdef char control[FNS_FDS_SPACE]
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
    return fns_call_sendmsg(fd, &msg, lx.MSG_DONTWAIT | lx.MSG_NOSIGNAL)


cdef ssize_t receive_with(int fd, void *buf, size_t size, int *fds, int *count) noexcept nogil:
    """recvmsg without blocking, with at most two descriptors: bytes, 0 at end of file, or -errno."""
    cdef lx.msghdr msg
    cdef lx.iovec iov
    cdef lx.cmsghdr *cmsg
    cdef char control[FNS_PAIR_SPACE]
    cdef ssize_t got
    iov.iov_base = buf
    iov.iov_len = size
    memset(&msg, 0, sizeof(msg))
    msg.msg_iov = &iov
    msg.msg_iovlen = 1
    msg.msg_control = control
    msg.msg_controllen = FNS_PAIR_SPACE
    count[0] = 0
    got = fns_call_recvmsg(fd, &msg, lx.MSG_DONTWAIT | lx.MSG_CMSG_CLOEXEC)
    if got < 0:
        return got
    cmsg = lx.CMSG_FIRSTHDR(&msg)
    if cmsg != NULL and cmsg.cmsg_level == lx.SOL_SOCKET and cmsg.cmsg_type == lx.SCM_RIGHTS:
        count[0] = 2 if cmsg.cmsg_len >= lx.CMSG_LEN(2 * sizeof(int)) else 1
        memcpy(fds, lx.CMSG_DATA(cmsg), count[0] * sizeof(int))
    if msg.msg_flags & lx.MSG_CTRUNC:        # there was no number left for one of them: unix(7)
        while count[0]:
            count[0] -= 1
            lx.close(fds[count[0]])
        return -lx.EMFILE
    return got


cdef str status_text(object status):
    if status is None:
        return "ended"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == lx.SIGSYS:
        return "was killed for a system call outside its filter"
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"exited with status {os.WEXITSTATUS(status)}"


cdef object ProxyError      # imported by the first connection: when it is wanted there may be no descriptor, or no such file


cdef object proxy_error(int err, str text, object status):
    return ProxyError(err, text, status)


# Proxies end when the interpreter does, and are waited for: whoever inherits them may be nobody who reaps. As late as can
# be, when no code of Python's is run any more that might use one.
cdef struct living:
    int pid                     # 0: not in the list
    int fd
    int owner
    living *next
    living *before

cdef enum:
    LAST_MS = 1000              # for all of them: one that is stopped stays

cdef living *alive_ones = NULL
cdef bint ends_with_us = False


cdef void living_end() noexcept nogil:
    cdef lx.timespec_t pause
    cdef int64_t deadline = fns_monotonic_ms() + LAST_MS
    cdef int status, here = lx.getpid()
    cdef living *one = alive_ones
    pause.tv_sec = 0
    pause.tv_nsec = 200000
    while one != NULL:
        if one.owner == here and one.fd >= 0:
            lx.shutdown(one.fd, lx.SHUT_RDWR)
        one = one.next
    one = alive_ones
    while one != NULL:
        if one.owner == here and fns_start_wait(one.pid, &status, 0) == 0 and fns_monotonic_ms() < deadline:
            lx.nanosleep(&pause, NULL)
        else:
            one = one.next
    unreaped_wait(deadline)


cdef void living_add(living *one, int pid, int fd) noexcept:
    global alive_ones, ends_with_us
    if not ends_with_us:
        ends_with_us = Py_AtExit(living_end) == 0
    one.pid = pid
    one.fd = fd
    one.owner = lx.getpid()
    one.before = NULL
    one.next = alive_ones
    if alive_ones != NULL:
        alive_ones.before = one
    alive_ones = one


cdef void living_remove(living *one) noexcept:
    global alive_ones
    if one.pid == 0:
        return
    one.pid = 0
    if one.next != NULL:
        one.next.before = one.before
    if one.before != NULL:
        one.before.next = one.next
    else:
        alive_ones = one.next


cdef int check_children() except -1:
    """A proxy forked into another PID namespace would be its init, and end it. pid_namespaces(7)"""
    try:
        if os.readlink("/proc/thread-self/ns/pid_for_children") == os.readlink("/proc/thread-self/ns/pid"):
            return 0
    except OSError as error:
        if error.errno != lx.ENOENT or not os.path.exists("/proc/thread-self/ns/pid"):
            return 0                         # no /proc to ask
    raise OSError(lx.EINVAL, "clone: children of this thread go to another PID namespace: start the proxy before that")


@cython.final
@cython.auto_pickle(False)
cdef class RelayClient:
    """The control connection to a proxy process, which is forked here. Threads may share it.

    `families` is a mask of netlink families. `allowed` lists the namespaces it may enter, as (name, -1) or
    (None, descriptor); None: any. `remember` is called with the client before there is anything a child forked by
    another thread would have to let go.

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
    cdef void *spare            # the mapped ring of the channel closed last
    cdef size_t spare_len
    cdef uint32_t spare_number
    cdef set waiting            # numbers of requests under way
    cdef dict early             # replies that arrived while another was waited for
    cdef living here            # among those that end with the interpreter
    cdef object __weakref__

    def __cinit__(self):
        self.fd = self.held = -1
        self.pid = -1
        self.owner = lx.getpid()
        self.reaped = True

    def __init__(self, bytes run_dir, uint32_t max_channels=4096, bint read_only=False,
                 uint32_t families=0xffffffff, list allowed=None, remember=None):
        cdef fns_config config
        cdef int pair[2]
        cdef int pid, err
        cdef fns_reply reply
        global ProxyError
        if self.pid != -1:
            raise ValueError("the proxy is started already")
        if len(run_dir) > FNS_DIR_MAX or b"\0" in run_dir:
            raise ValueError(f"{run_dir!r} cannot be a directory of names")
        if not 1 <= max_channels <= 65535:
            raise ValueError(f"max_channels {max_channels} is not within 1 and 65535")
        from fastns.errors import ProxyError
        self.lock = RLock()
        self.waiting = set()
        self.early = {}
        memset(&config, 0, sizeof(config))
        memcpy(config.run_dir, <const char *> run_dir, len(run_dir))
        config.max_channels = max_channels
        config.families = families
        config.flags = (FNS_CONFIG_READ_ONLY if read_only else 0) | (FNS_CONFIG_RESTRICTED if allowed is not None else 0)
        config.parent = lx.getpid()
        check_children()
        if remember is not None:
            remember(self)
        err = fns_call_socketpair(lx.AF_UNIX, lx.SOCK_SEQPACKET | lx.SOCK_CLOEXEC, 0, pair)
        if err < 0:
            raise os_error(-err, "socketpair")
        config.control = pair[1]
        pid = fns_start_fork(&config)    # with the GIL: a child that another thread forks now would keep both ends
        lx.close(pair[1])
        if pid < 0:
            lx.close(pair[0])
            raise os_error(-pid, "clone")
        self.fd = pair[0]
        self.pid = pid
        self.reaped = False
        living_add(&self.here, pid, self.fd)
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
        self.forget()
        living_remove(&self.here)
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
            got = fns_start_wait(self.pid, &status, 0)
            if got == -lx.EINTR:
                continue
            if got != 0:
                if not self.reaped:
                    self.reaped = True
                    self.status = status if got > 0 else None
                    living_remove(&self.here)
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
        if self.reap(200) or (self.hung_up() and self.reap(2000)):    # a dying process hangs up one after the other
            return proxy_error(lx.EPIPE, f"{text}: the proxy process {self.pid} {status_text(self.status)}", self.status)
        return proxy_error(lx.ECONNRESET, f"{text}: the proxy process {self.pid} closed the connection", None)

    cdef object silent(self):
        """The error of a wait that is over. The connection goes on: an answer that comes late is thrown away."""
        return OSError(lx.ETIMEDOUT, f"the proxy process {self.pid} has not answered within {ANSWER_TIMEOUT} s: "
                       "is it stopped?")

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
        cdef int64_t deadline = deadline_of(ANSWER_TIMEOUT)
        while True:
            kept = self.early.pop(id, None)
            if kept is not None:
                got = len(kept[0])
                memcpy(buf, <const char *> (<bytes> kept[0]), got)
                memcpy(&head, buf, sizeof(head))
                for count, number in enumerate(kept[1], 1):
                    got_fds[count - 1] = number
                break
            if wait_for(fd, <short> lx.POLLIN, deadline, &revents) == 0:
                raise self.silent()
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
        cdef int64_t deadline = deadline_of(ANSWER_TIMEOUT)
        if not self.lock.acquire(timeout=ANSWER_TIMEOUT):
            raise self.silent()
        try:
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
                    if wait_for(self.fd, <short> lx.POLLOUT, deadline, &revents) == 0:
                        raise self.silent()
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
        finally:
            self.lock.release()

    def open(self, bytes name, int nsfd, filename, *, int family, uint32_t rcvbuf, uint32_t sndbuf, uint32_t groups,
             uint32_t portid, uint32_t ring_size, bint ext_ack, bint strict_check, bint all_ns, bint cap_ack,
             RelayChannel beside=None):
        """A new channel in the namespace of that name, of the descriptor `nsfd`, or of the channel `beside`."""
        cdef fns_request request
        cdef fns_open spec
        cdef fns_reply reply
        cdef bytearray data = bytearray(sizeof(spec))
        cdef int fds[2]
        cdef void *spare
        cdef size_t spare_len
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
        spare = self.spare
        self.spare = NULL                    # ours from here on, whoever else opens meanwhile
        if spare != NULL:
            spec.spare = self.spare_number
        spare_len = self.spare_len
        memcpy(<char *> data, &spec, sizeof(spec))
        if name is not None:
            data += name
        try:
            self.call(&request, data, len(data), nsfd, &reply, NULL, fds)
        except BaseException as error:
            if spare != NULL:
                lx.munmap(spare, spare_len)
            if not isinstance(error, OSError):
                raise
            if error.errno is not None and error.filename is None and type(error).__module__ == "builtins":
                raise OSError(error.errno, error.strerror, filename) from None
            raise
        return channel_make(self, fds[0], fds[1], spare, spare_len, &reply, filename)

    cdef bint keep(self, RelayChannel channel) noexcept:
        """Whether the ring of a channel being closed is kept for the next one."""
        if self.fd < 0 or channel.reader.ring == NULL:
            return False
        self.forget()
        self.spare = channel.map
        self.spare_len = channel.map_len
        self.spare_number = channel.number
        return True

    cdef void forget(self) noexcept:
        if self.spare != NULL and self.owner == lx.getpid():
            lx.munmap(self.spare, self.spare_len)
        self.spare = NULL

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
        self.here.fd = -1
        self.forget()
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
                living_remove(&self.here)


# Proxies whose object went away without close(): dealloc must not wait, so the next start reaps them. And started
# programs that could be neither kept nor killed.
cdef enum:
    UNREAPED_MAX = 64

cdef int unreaped[UNREAPED_MAX]


cdef void unreaped_add(int pid) noexcept:
    cdef int status, i
    for i in range(UNREAPED_MAX):
        if unreaped[i] and fns_start_wait(unreaped[i], &status, 0) != 0:
            unreaped[i] = 0
    for i in range(UNREAPED_MAX):
        if not unreaped[i]:
            unreaped[i] = pid
            return


cdef void unreaped_wait(int64_t deadline) noexcept nogil:
    cdef int status, i
    cdef lx.timespec_t pause
    pause.tv_sec = 0
    pause.tv_nsec = 200000
    for i in range(UNREAPED_MAX):
        while unreaped[i]:
            if fns_start_wait(unreaped[i], &status, 0) != 0:
                unreaped[i] = 0
            elif fns_monotonic_ms() >= deadline:
                break
            else:
                lx.nanosleep(&pause, NULL)


def reap_abandoned(int patience_ms=0):
    """Reap proxies whose object was dropped without close()."""
    cdef int64_t deadline = fns_monotonic_ms() + patience_ms
    with nogil:
        unreaped_wait(deadline)
