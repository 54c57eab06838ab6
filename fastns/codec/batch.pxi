# Many requests in one buffer, and what the kernel answered to each.

from libc.stdlib cimport free, malloc

cdef enum:
    # What one failure takes of the receive buffer: 832 bytes measured (Linux 6.18, x86-64) for an answer with
    # NETLINK_CAP_ACK and up to 320 bytes of extended acknowledgement; the next larger buffer is 1,280.
    FAILURE_COST = 1280
    # What a reply takes: a link with everything a kernel tells of it, its buffer rounded up to a power of two.
    REPLY_COST = 16384
    BATCH_BYTES = 65536
    BATCH_ITEMS = BATCH_BYTES // 16     # the smallest request is a bare header


cdef inline bint is_get(int kind) noexcept nogil:
    return kind >= lx.RTM_BASE and kind % 4 == 2


cdef class BatchBuffer:
    """The requests of a batch that were not sent yet, encoded, and the scan of the answers.

    `fastns.batch.Batch` is the subclass with the transport. It offers `flush()`, called when no more fits, and
    `_slow(kind, command, arguments)`, called for requests `build` leaves to pyroute2's own code.
    """

    cdef uint8_t *data
    cdef uint32_t *offsets
    cdef Py_ssize_t used
    cdef Py_ssize_t last
    cdef long long cost
    cdef uint32_t seq                   # of the first item in the buffer
    cdef bint strict
    cdef bint touches_links
    cdef readonly bint echo
    cdef readonly Py_ssize_t pending    # items in the buffer
    cdef readonly long long sent        # items the kernel was given, before those in the buffer
    cdef public bint closed
    cdef Py_ssize_t item_limit
    cdef long long cost_limit
    cdef list failures                  # (index, errno, request, answer)
    cdef dict replies                   # index -> [bytes]

    def __cinit__(self):
        self.closed = True
        self.data = <uint8_t *> malloc(BATCH_BYTES)
        self.offsets = <uint32_t *> malloc(BATCH_ITEMS * sizeof(uint32_t))
        if self.data == NULL or self.offsets == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.data)
        free(self.offsets)

    def __init__(self, uint32_t seq, Py_ssize_t item_limit, long long cost_limit, bint echo, bint strict_check):
        if item_limit < 1:
            raise ValueError(f"chunk {item_limit} is less than 1")
        self.seq = seq
        self.item_limit = min(item_limit, <Py_ssize_t> BATCH_ITEMS)
        self.cost_limit = cost_limit
        self.echo = echo
        self.strict = strict_check
        self.failures = []
        self.replies = {}
        self.closed = False

    def link(self, command, **kwarg):
        """A link: "add", "set", "del", ..., arguments as `NetNS.link`."""
        if not self.add("link", command, kwarg):
            self._slow("link", command, kwarg)

    def addr(self, command, **kwarg):
        """An address: "add", "replace", "del", ..., arguments as `NetNS.addr`."""
        if not self.add("addr", command, kwarg):
            self._slow("addr", command, kwarg)

    def route(self, command, **kwarg):
        """A route: "add", "replace", "del", ..., arguments as `NetNS.route`."""
        if not self.add("route", command, kwarg):
            self._slow("route", command, kwarg)

    def rule(self, command, **kwarg):
        """A routing rule: "add", "del", ..., arguments as `NetNS.rule`."""
        if not self.add("rule", command, kwarg):
            self._slow("rule", command, kwarg)

    def neigh(self, command, **kwarg):
        """A neighbour (ARP, NDP): "add", "replace", "del", ..., arguments as `NetNS.neigh`."""
        if not self.add("neigh", command, kwarg):
            self._slow("neigh", command, kwarg)

    def fdb(self, command, **kwarg):
        """A forwarding entry of a bridge or VXLAN: "add", "del", ..., arguments as `NetNS.fdb`."""
        if not self.add("fdb", command, kwarg):
            self._slow("fdb", command, kwarg)

    cdef bint add(self, str kind, object command, dict kwarg) except -1:
        cdef Out out
        cdef object link_kind
        if self.closed:
            raise ValueError("the batch is finished")
        if kind == "link":
            # Made by ioctl(2), and by pyroute2's request logic.
            link_kind = kwarg.get("kind")
            if link_kind == "tuntap" or link_kind == "tun":
                return 0
        if not build_into(kind, command, kwarg, self.echo, 0, 0, self.strict, &out):
            return 0
        self.put(out.data, out.length)
        return 1

    def _add(self, str kind, command, dict arguments):
        """False if `build` leaves the request to pyroute2's own code."""
        return bool(self.add(kind, command, arguments))

    def _count_one(self):
        """The index of an item that took no message. The buffer is empty."""
        self.sent += 1
        return self.sent - 1

    cdef int put(self, const uint8_t *message, Py_ssize_t length) except -1:
        """Append one whole message; send those before it first if it does not fit beside them."""
        cdef lx.nlmsghdr header
        cdef Py_ssize_t aligned = (length + 3) & ~<Py_ssize_t> 3
        cdef long long cost = FAILURE_COST
        memcpy(&header, message, sizeof(header))
        if is_get(header.nlmsg_type):
            if header.nlmsg_flags & lx.NLM_F_DUMP:
                raise ValueError("a dump cannot be an item of a batch")
            cost += REPLY_COST
        elif header.nlmsg_flags & lx.NLM_F_ECHO:
            cost += REPLY_COST
        if self.pending and (
            self.used + aligned > BATCH_BYTES or self.pending >= self.item_limit
            or self.cost + cost > self.cost_limit
        ):
            self.flush()
        if aligned > BATCH_BYTES:
            raise ValueError(f"a request of {length} bytes: {BATCH_BYTES} at most")
        header.nlmsg_seq = self.seq + <uint32_t> self.pending
        header.nlmsg_flags &= ~<uint16_t> lx.NLM_F_ACK
        memcpy(self.data + self.used, message, length)
        memcpy(self.data + self.used, &header, sizeof(header))
        memset(self.data + self.used + length, 0, aligned - length)
        self.offsets[self.pending] = <uint32_t> self.used
        self.last = self.used
        self.used += aligned
        self.pending += 1
        self.cost += cost
        if header.nlmsg_type == lx.RTM_NEWLINK or header.nlmsg_type == lx.RTM_SETLINK:
            self.touches_links = True
        elif lx.RTM_NEWNSID <= header.nlmsg_type <= lx.RTM_GETNSID:
            self.touches_links = True
        return 0

    def _put(self, data):
        """Append the messages in `data`. ValueError unless it is whole requests and nothing else."""
        cdef Py_buffer view
        cdef lx.nlmsghdr header
        cdef Py_ssize_t offset = 0, length
        if self.closed:
            raise ValueError("the batch is finished")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while True:
                length = message_at(<const uint8_t *> view.buf, view.len, offset, &header)
                if length < 0 or (length == 0 and offset == 0):
                    raise ValueError(f"no netlink message at byte {offset} of {view.len}")
                if length == 0:
                    break
                if header.nlmsg_type < lx.NLMSG_MIN_TYPE or not header.nlmsg_flags & lx.NLM_F_REQUEST:
                    raise ValueError("a message that is no request (NLM_F_REQUEST), which the kernel skips")
                offset += (length + 3) & ~<Py_ssize_t> 3
            offset = 0
            while offset < view.len:
                length = message_at(<const uint8_t *> view.buf, view.len, offset, &header)
                self.put(<const uint8_t *> view.buf + offset, length)
                offset += (length + 3) & ~<Py_ssize_t> 3
        finally:
            PyBuffer_Release(&view)

    def _seal(self):
        """The requests in the buffer, the last one asking for an acknowledgement."""
        cdef lx.nlmsghdr header
        memcpy(&header, self.data + self.last, sizeof(header))
        header.nlmsg_flags |= <uint16_t> lx.NLM_F_ACK
        memcpy(self.data + self.last, &header, sizeof(header))
        return PyBytes_FromStringAndSize(<char *> self.data, self.used)

    def _nearly_full(self):
        """Whether one more item of up to 4 KiB could make those in the buffer be sent."""
        return self.pending > 0 and (
            self.used + 4096 > BATCH_BYTES or self.pending >= self.item_limit
            or self.cost + FAILURE_COST + REPLY_COST > self.cost_limit
        )

    def _set_room(self, long long room):
        """What of the receive buffer answers may take, should all items of a datagram fail."""
        # The kernel takes one more datagram while the buffer is not full, so the last one needs no room.
        self.cost_limit = room

    def _touches_links(self):
        return self.touches_links

    def _sync(self):
        """A message that does nothing and is acknowledged: its answer comes after all answers before it."""
        # Its sequence number follows the last item's, and no item gets it: see _reset.
        cdef lx.nlmsghdr header
        memset(&header, 0, sizeof(header))
        header.nlmsg_len = sizeof(header)
        header.nlmsg_type = <uint16_t> lx.NLMSG_NOOP
        header.nlmsg_flags = <uint16_t> (lx.NLM_F_REQUEST | lx.NLM_F_ACK)
        header.nlmsg_seq = self.seq + <uint32_t> self.pending
        return PyBytes_FromStringAndSize(<char *> &header, sizeof(header))

    def _reset(self):
        """The items in the buffer are accounted for, or given up."""
        self.seq += <uint32_t> self.pending + 1
        self.sent += self.pending
        self.pending = self.used = 0
        self.cost = 0
        self.touches_links = False

    def _drop(self):
        """Forget the items in the buffer, unsent."""
        self.pending = self.used = 0

    def _account(self, answer, set answered=None):
        """Take in one received datagram. True if the last item's answer, or the one to `_sync`, is in it."""
        cdef Py_buffer view
        cdef lx.nlmsghdr header
        cdef const uint8_t *base
        cdef Py_ssize_t offset = 0, length, at, end
        cdef uint32_t item
        cdef int32_t code
        cdef long long index
        cdef bint done = False
        PyObject_GetBuffer(answer, &view, PyBUF_SIMPLE)
        try:
            base = <const uint8_t *> view.buf
            while True:
                length = message_at(base, view.len, offset, &header)
                if length <= 0:
                    return done
                at = offset
                offset += (length + 3) & ~<Py_ssize_t> 3
                item = header.nlmsg_seq - self.seq
                if item >= self.pending:
                    done = done or item == self.pending
                    continue
                index = self.sent + item
                if header.nlmsg_type == lx.NLMSG_ERROR:
                    if length < <Py_ssize_t> sizeof(lx.nlmsghdr) + 4:
                        continue
                    memcpy(&code, base + at + sizeof(lx.nlmsghdr), 4)
                    if code != 0:
                        end = self.used if item + 1 == self.pending else self.offsets[item + 1]
                        self.failures.append((
                            index, -<long long> code,
                            PyBytes_FromStringAndSize(<char *> self.data + self.offsets[item], end - self.offsets[item]),
                            PyBytes_FromStringAndSize(<const char *> base + at, length),
                        ))
                    if answered is not None:
                        answered.add(index)
                    # A failed GET of the last item has no other answer; one that succeeds is acknowledged as well.
                    if item + 1 == self.pending:
                        done = True
                elif header.nlmsg_type != lx.NLMSG_DONE:
                    self.replies.setdefault(index, []).append(
                        PyBytes_FromStringAndSize(<const char *> base + at, length)
                    )
                    if answered is not None:
                        answered.add(index)
        finally:
            PyBuffer_Release(&view)

    def _request(self, Py_ssize_t item):
        """The encoded request of an item in the buffer."""
        if not 0 <= item < self.pending:
            raise IndexError(item)
        cdef Py_ssize_t end = self.used if item + 1 == self.pending else self.offsets[item + 1]
        return PyBytes_FromStringAndSize(<char *> self.data + self.offsets[item], end - self.offsets[item])

    @property
    def _failures(self):
        return self.failures

    @property
    def _replies(self):
        return self.replies
