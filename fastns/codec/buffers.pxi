# Messages in a buffer: found, patched, scanned for acknowledgements. Every bound is checked.

cdef inline Py_ssize_t message_at(const uint8_t *data, Py_ssize_t size, Py_ssize_t offset, lx.nlmsghdr *header) noexcept nogil:
    """Length of the message at offset with its header copied out; 0 if there is none, -1 if it is cut or impossible."""
    if offset >= size:
        return 0
    if size - offset < <Py_ssize_t> sizeof(lx.nlmsghdr):
        return -1
    memcpy(header, data + offset, sizeof(lx.nlmsghdr))
    if header.nlmsg_len < sizeof(lx.nlmsghdr) or header.nlmsg_len > <size_t> (size - offset):
        return -1
    return header.nlmsg_len


cdef inline Py_ssize_t attr_at(const uint8_t *data, Py_ssize_t end, Py_ssize_t offset, lx.nlattr *attr) noexcept nogil:
    """Length of the attribute at offset with its header copied out; 0 if no whole one is left."""
    if end - offset < <Py_ssize_t> sizeof(lx.nlattr):
        return 0
    memcpy(attr, data + offset, sizeof(lx.nlattr))
    if attr.nla_len < sizeof(lx.nlattr) or attr.nla_len > end - offset:
        return 0
    attr.nla_type = attr.nla_type & <uint16_t> lx.NLA_TYPE_MASK
    return attr.nla_len


cdef int attr_fds(const uint8_t *data, Py_ssize_t offset, Py_ssize_t end, int wanted, list found) except -1:
    """Positions of the u32 payloads of the attributes of one type."""
    cdef lx.nlattr attr
    cdef Py_ssize_t length
    while True:
        length = attr_at(data, end, offset, &attr)
        if length == 0:
            return 0
        if attr.nla_type == wanted and length >= 8:
            found.append(offset + 4)
        offset += (length + 3) & ~<Py_ssize_t>3


cdef int linkinfo_fds(const uint8_t *data, Py_ssize_t offset, Py_ssize_t end, list found) except -1:
    """A peer is a whole link message inside the data of three kinds, at the same attribute number in each:
    VETH_INFO_PEER, VXCAN_INFO_PEER, IFLA_NETKIT_PEER_INFO."""
    cdef lx.nlattr attr
    cdef Py_ssize_t length, at = offset, data_at = 0, data_end = 0
    cdef bint has_peer = False
    while True:
        length = attr_at(data, end, at, &attr)
        if length == 0:
            break
        if attr.nla_type == lx.IFLA_INFO_KIND:
            has_peer = (
                (length >= 8 and memcmp(data + at + 4, b"veth", 4) == 0 and (length == 8 or data[at + 8] == 0))
                or (length >= 9 and memcmp(data + at + 4, b"vxcan", 5) == 0 and (length == 9 or data[at + 9] == 0))
                or (length >= 10 and memcmp(data + at + 4, b"netkit", 6) == 0 and (length == 10 or data[at + 10] == 0))
            )
        elif attr.nla_type == lx.IFLA_INFO_DATA:
            data_at, data_end = at + 4, at + length
        at += (length + 3) & ~<Py_ssize_t>3
    if not has_peer:
        return 0
    at = data_at
    while True:
        length = attr_at(data, data_end, at, &attr)
        if length == 0:
            return 0
        if attr.nla_type == lx.VETH_INFO_PEER and length >= 4 + <Py_ssize_t> sizeof(lx.ifinfomsg):
            attr_fds(data, at + 4 + sizeof(lx.ifinfomsg), at + length, lx.IFLA_NET_NS_FD, found)
        at += (length + 3) & ~<Py_ssize_t>3


def find_fds(data, int family=lx.NETLINK_ROUTE, genl_name=None):
    """Byte offsets of the u32 descriptor numbers of network namespaces inside the requests in `data`.

    family is the netlink family of the socket; with NETLINK_GENERIC, genl_name is the generic family's name, of which
    `devlink` and `nl80211` have such attributes. On NETLINK_ROUTE these are IFLA_NET_NS_FD, also in the peer of a
    veth, vxcan or netkit pair, and NETNSA_FD. Whatever is malformed is skipped: the kernel refuses it.
    """
    cdef Py_buffer view
    cdef list found = []
    cdef lx.nlmsghdr header
    cdef lx.nlattr attr
    cdef const uint8_t *base
    cdef Py_ssize_t offset = 0, length, at, end
    cdef int wanted = 0
    if family == lx.NETLINK_GENERIC:
        if genl_name == "devlink":
            wanted = lx.DEVLINK_ATTR_NETNS_FD
        elif genl_name == "nl80211":
            wanted = lx.NL80211_ATTR_NETNS_FD
        else:
            return found
    elif family != lx.NETLINK_ROUTE:
        return found
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t *> view.buf
        while True:
            length = message_at(base, view.len, offset, &header)
            if length <= 0:
                break
            end = offset + length
            if family == lx.NETLINK_GENERIC:
                if header.nlmsg_type >= lx.NLMSG_MIN_TYPE:
                    attr_fds(base, offset + sizeof(lx.nlmsghdr) + lx.GENL_HDRLEN, end, wanted, found)
            elif header.nlmsg_type == lx.RTM_NEWLINK or header.nlmsg_type == lx.RTM_SETLINK:
                at = offset + sizeof(lx.nlmsghdr) + sizeof(lx.ifinfomsg)
                while True:
                    length = attr_at(base, end, at, &attr)
                    if length == 0:
                        break
                    if attr.nla_type == lx.IFLA_NET_NS_FD and length >= 8:
                        found.append(at + 4)
                    elif attr.nla_type == lx.IFLA_LINKINFO:
                        linkinfo_fds(base, at + 4, at + length, found)
                    at += (length + 3) & ~<Py_ssize_t>3
            elif lx.RTM_NEWNSID <= header.nlmsg_type <= lx.RTM_GETNSID:
                at = offset + sizeof(lx.nlmsghdr) + ((sizeof(lx.rtgenmsg) + 3) & ~<size_t>3)
                attr_fds(base, at, end, lx.NETNSA_FD, found)
            # a last message need not be padded
            offset += (header.nlmsg_len + 3) & ~<Py_ssize_t>3
    finally:
        PyBuffer_Release(&view)
    return found


def split(data):
    """(offset, length) of every message in `data`. ValueError if a header does not fit."""
    cdef Py_buffer view
    cdef lx.nlmsghdr header
    cdef Py_ssize_t offset = 0, length
    cdef list messages = []
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while True:
            length = message_at(<const uint8_t *> view.buf, view.len, offset, &header)
            if length < 0:
                raise ValueError(f"no netlink message at byte {offset} of {view.len}")
            if length == 0:
                return messages
            messages.append((offset, length))
            offset += (length + 3) & ~<Py_ssize_t>3
    finally:
        PyBuffer_Release(&view)


def patch_header(data, Py_ssize_t offset, seq=None, flags=None, pid=None):
    """Overwrite sequence number, flags and port id of the message at byte `offset` of the writable buffer `data`.

    What is None stays. Returns the message's length. ValueError if there is no message at that place.
    """
    cdef Py_buffer view
    cdef lx.nlmsghdr header
    cdef Py_ssize_t length
    PyObject_GetBuffer(data, &view, PyBUF_WRITABLE)
    try:
        length = -1
        if offset >= 0:
            length = message_at(<const uint8_t *> view.buf, view.len, offset, &header)
        if length <= 0:
            raise ValueError(f"no netlink message at byte {offset} of {view.len}")
        if seq is not None:
            header.nlmsg_seq = seq
        if flags is not None:
            header.nlmsg_flags = flags
        if pid is not None:
            header.nlmsg_pid = pid
        memcpy(<uint8_t *> view.buf + offset, &header, sizeof(header))
        return length
    finally:
        PyBuffer_Release(&view)


def scan_acks(data):
    """(sequence number, errno, offset, length) of every message in a received datagram.

    errno is the positive error number of an NLMSG_ERROR or of an NLMSG_DONE with one, 0 for an acknowledgement or a
    plain NLMSG_DONE, and None for any other message. offset and length find the message in `data`, for decoding its
    extended acknowledgement later. A message that is cut ends the scan.
    """
    cdef Py_buffer view
    cdef lx.nlmsghdr header
    cdef Py_ssize_t offset = 0, length
    cdef int32_t code
    cdef list acks = []
    cdef object error
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while True:
            length = message_at(<const uint8_t *> view.buf, view.len, offset, &header)
            if length <= 0:
                return acks
            error = None
            if header.nlmsg_type == lx.NLMSG_ERROR or header.nlmsg_type == lx.NLMSG_DONE:
                code = 0
                if length >= <Py_ssize_t> (sizeof(lx.nlmsghdr) + 4):
                    memcpy(&code, <const uint8_t *> view.buf + offset + sizeof(lx.nlmsghdr), 4)
                # a DONE counts its items when it is positive
                error = -<long long> code if code < 0 else 0
            acks.append((header.nlmsg_seq, error, offset, length))
            offset += (length + 3) & ~<Py_ssize_t>3
    finally:
        PyBuffer_Release(&view)


def short_answer(marshal, data, uint32_t seq):
    """The messages of an answer that is one datagram with one message: the usual one to a request that is no dump.

    That includes the acknowledgement, as in pyroute2. None for anything else (an error, several messages, another sequence
    number, a marshal with ways of its own): then the answer has to be taken apart by the marshal.
    """
    cdef lx.nlmsghdr header
    cdef Py_ssize_t length
    cdef int32_t code
    cdef list messages
    if type(data) is not bytes or not getattr(marshal, "fast", False) or marshal.header_extra is None:
        return None
    length = message_at(<const uint8_t *> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0, &header)
    if length <= 0 or header.nlmsg_seq != seq or (length + 3) & ~<Py_ssize_t>3 < PyBytes_GET_SIZE(data):
        return None
    if header.nlmsg_type == lx.NLMSG_ERROR:
        if length < <Py_ssize_t> sizeof(lx.nlmsghdr) + 4:
            return None
        memcpy(&code, PyBytes_AS_STRING(data) + sizeof(lx.nlmsghdr), 4)
        if code != 0:
            return None
    elif header.nlmsg_type < lx.NLMSG_MIN_TYPE or header.nlmsg_flags & lx.NLM_F_MULTI:
        return None
    messages = []
    parse(marshal, data, messages, seq)
    return messages
