# Datagrams: what `Marshal.parse` and dumps go through.

cpdef enum:
    # What parse_dump() and Columns._feed() say of a dump, in bits.
    DUMP_DONE = 1         # NLMSG_DONE was seen
    DUMP_INTERRUPTED = 2  # a message with NLM_F_DUMP_INTR
    DUMP_FAILED = 4       # an error or acknowledgement, or an end with a code
    DUMP_SINGLE = 8       # a message without NLM_F_MULTI
    DUMP_ENDED = DUMP_DONE | DUMP_FAILED | DUMP_SINGLE


cdef Context context_of(object marshal):
    cdef object extra = marshal.header_extra
    cdef object known = marshal.__dict__.get("_context")
    cdef Context context
    if known is not None and (<Context>known).extra is extra:
        return <Context>known
    context = Context.__new__(Context)
    context.extra = extra
    context.events = marshal._events
    marshal.__dict__["_context"] = context
    return context


cdef object bare_message(object cls, bytes data, Py_ssize_t offset):
    """A message decoded outside of any marshal: a header of five entries and nothing more."""
    cdef Plan p = plan(cls)
    if p.lazy is None or not p.std_header or offset + lx.NLMSG_HDRLEN + p.fixed > PyBytes_GET_SIZE(data):
        p = plan(_nlmsg)
    return new_message(p, data, offset, _BARE)


cdef object error_message(object marshal, Plan p, bytes data, Py_ssize_t off, Py_ssize_t length, Context context):
    """NLMSG_ERROR, or NLMSG_DONE that carries a code: as pyroute2's, with header['error'] and ['errmsg']."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data) + off
    cdef uint16_t type = message_type(base)
    cdef uint16_t flags = message_flags(base)
    cdef Py_ssize_t inner
    cdef object msg
    cdef dict header
    cdef bytearray patched
    cdef int32_t code
    cdef object error = None
    if lx.NLMSG_HDRLEN + 4 > length:
        raise NetlinkHeaderDecodeError(ValueError("an error message without a code"))
    memcpy(&code, base + lx.NLMSG_HDRLEN, 4)
    if type == lx.NLMSG_ERROR and flags & lx.NLM_F_CAPPED and length >= 2 * lx.NLMSG_HDRLEN + 4:
        # A capped answer has only the request's header, whose length is that of the whole request: pyroute2
        # skips that many bytes and never finds the text. Let the header be as long as it is here.
        patched = bytearray(data[off:off + length])
        patched[lx.NLMSG_HDRLEN + 4:lx.NLMSG_HDRLEN + 6] = _struct.pack("=H", lx.NLMSG_HDRLEN)
        msg = new_message(p, bytes(patched), 0, context)
    else:
        msg = new_message(p, data, off, context)
    header = make_header(base)
    slot_set(msg, O_BUF, header)
    if code != 0:
        text = msg.get_attr("NLMSGERR_ATTR_MSG")
        number = abs(<long>code)
        if not text:
            number = min(number, 0x7FFFFFFF)  # what strerror() takes
        if number == _errno.ENOBUFS:
            error = OSError(number, text)
        else:
            if type != lx.NLMSG_DONE and length >= 2 * lx.NLMSG_HDRLEN + 4:
                inner = message_length(base + lx.NLMSG_HDRLEN + 4)
                cls = marshal.msg_map.get(message_type(base + lx.NLMSG_HDRLEN + 4), _nlmsg)
                if type == lx.NLMSG_ERROR and flags & lx.NLM_F_CAPPED:
                    inner, cls = lx.NLMSG_HDRLEN, _nlmsg
                elif inner < lx.NLMSG_HDRLEN or inner > length - lx.NLMSG_HDRLEN - 4:
                    inner, cls = length - lx.NLMSG_HDRLEN - 4, _nlmsg
                header[S_ERRMSG] = bare_message(cls, data[off + lx.NLMSG_HDRLEN + 4:off + lx.NLMSG_HDRLEN + 4 + inner], 0)
            error = marshal.make_error(number, text, msg)
        fns_track(msg)  # a raised error reaches its message again, through its traceback
    header[S_ERROR] = error
    if context.extra is not None:
        header.update(context.extra)
    return msg


cdef int walk(object marshal, bytes data, list out, bint only, uint32_t seq, bint dump) except -1:
    """Append the messages of a datagram; the flags of parse_dump()."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t off = 0
    cdef Py_ssize_t length
    cdef uint16_t type, flags
    cdef uint32_t number
    cdef lx.nlmsghdr header
    cdef dict msg_map = marshal.msg_map
    cdef object default = marshal.default_message_class
    cdef object seq_map = marshal.seq_map or None
    cdef object key_format = marshal.key_format
    cdef object error_type = marshal.error_type
    cdef bint errors = error_type == lx.NLMSG_ERROR
    cdef bint is_error = False
    cdef bint native_fix = marshal._native_fix
    cdef Context context = context_of(marshal)
    cdef int result = 0
    cdef long last_type = -1
    cdef Plan p = None
    cdef object key, cls, msg, parser
    cdef PyObject *found
    cdef int32_t code
    while off <= size - lx.NLMSG_HDRLEN:
        memcpy(&header, base + off, sizeof(header))
        length = header.nlmsg_len
        type = header.nlmsg_type
        flags = header.nlmsg_flags
        number = header.nlmsg_seq
        if not 0 < length <= size:
            break
        if length < lx.NLMSG_HDRLEN:
            raise NetlinkHeaderDecodeError(ValueError(f"message of {length} bytes"))
        if only and number != seq:
            off += length
            continue
        if dump:
            if flags & lx.NLM_F_DUMP_INTR:
                result |= DUMP_INTERRUPTED
            if not flags & lx.NLM_F_MULTI:
                result |= DUMP_SINGLE
        parser = None if seq_map is None else seq_map.get(number)
        if dump and type == lx.NLMSG_DONE:
            result |= DUMP_DONE
            code = 0
            if length >= lx.NLMSG_HDRLEN + 4 and off + lx.NLMSG_HDRLEN + 4 <= size:
                memcpy(&code, base + off + lx.NLMSG_HDRLEN, 4)
            if code >= 0:
                off += length
                continue
        msg = None
        if key_format is None:
            is_error = type == lx.NLMSG_ERROR and errors or type == lx.NLMSG_DONE and is_failure(data, off, length)
        if type != last_type or key_format is not None:
            key = type
            if key_format is not None:
                if marshal.key_offset + _struct.calcsize(key_format) > min(length, size - off):
                    raise NetlinkHeaderDecodeError(ValueError(f"message of {length} bytes, without its key"))
                key = _struct.unpack_from(key_format, data, off + marshal.key_offset)[0]
                if marshal.key_mask is not None:
                    key &= marshal.key_mask
                is_error = key == error_type or key == lx.NLMSG_DONE and flags & lx.NLM_F_ACK_TLVS
            found = PyDict_GetItem(msg_map, key)
            cls = default if found == NULL else <object>found
            p = plan(cls)
            last_type = type
        if parser is not None:
            msg = parser(data, off, length)
            off += length
            if msg is None:
                continue
            if dump and type in (lx.NLMSG_ERROR, lx.NLMSG_DONE):
                result |= DUMP_FAILED
        elif is_error:
            msg = error_message(marshal, plan(_nlmsgerr), data, off, min(length, size - off), context)
            off += length
            result |= DUMP_FAILED
        else:
            if p.is_error:
                msg = error_message(marshal, p, data, off, min(length, size - off), context)
            elif p.lazy is None or not p.std_header:
                msg = eager(marshal, p, data, off, context)
            else:
                if off + lx.NLMSG_HDRLEN + p.fixed > size or lx.NLMSG_HDRLEN + p.fixed > length:
                    raise NetlinkDecodeError(
                        _struct.error(f"{p.cls.__name__} of {length} bytes, at least {lx.NLMSG_HDRLEN + p.fixed} needed")
                    )
                msg = new_message(p, data, off, context)
            off += length
        if parser is not None:
            mtype = msg["header"].get("type")
            if mtype in (lx.NLMSG_NOOP, lx.NLMSG_ERROR, lx.NLMSG_DONE, lx.NLMSG_OVERRUN) and "event" not in msg:
                msg["event"] = _mtypes.get(mtype, "none")
            marshal.fix_message(msg)
        elif not native_fix:
            marshal.fix_message(msg)
        out.append(msg)
        if result & DUMP_FAILED and dump:
            break
    return result


cdef bint is_failure(bytes data, Py_ssize_t off, Py_ssize_t length):
    """NLMSG_DONE with extended-ack attributes, or with a negative code, which says that the dump failed."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data) + off
    cdef int32_t code
    if length < lx.NLMSG_HDRLEN + 4 or off + lx.NLMSG_HDRLEN + 4 > PyBytes_GET_SIZE(data):
        return False
    memcpy(&code, base + lx.NLMSG_HDRLEN, 4)
    return code < 0 or message_flags(base) & lx.NLM_F_ACK_TLVS


cdef object eager(object marshal, Plan p, bytes data, Py_ssize_t off, Context context):
    """A message whose class is not to be imitated: pyroute2's own code, at once."""
    cdef Py_ssize_t length = message_length(<const uint8_t *>PyBytes_AS_STRING(data) + off)
    cdef object msg = p.cls(bounded(data[off:off + length]))
    try:
        msg.decode()
    except NetlinkHeaderDecodeError:
        msg = _nlmsg()
    except NetlinkDecodeError:
        pass
    msg["header"]["error"] = None
    if context.extra is not None:
        msg["header"].update(context.extra)
    mtype = msg["header"].get("type")
    context.set_event(p, msg, mtype if type(mtype) is int and 0 <= mtype < 65536 else 0)
    return msg


def parse(marshal, data, list out, seq=None):
    """Append every message of a datagram to `out`; with `seq`, only those with that sequence number."""
    cdef bytes owned = data if type(data) is bytes else bytes(data)
    walk(marshal, owned, out, seq is not None, seq or 0, False)


def parse_dump(marshal, data, list out not None, seq):
    """Append every message of a datagram with that sequence number, lazily decoded, to `out`.

    Returns DUMP_... bits. With DUMP_FAILED the last item of `out` says why, decoded as nlmsgerr.

    Raises NetlinkDecodeError for a message too short for its class; what came before it is in `out`.
    """
    cdef bytes owned
    if not getattr(marshal, "fast", False):
        return slow_dump(marshal, data, out, seq)
    owned = data if type(data) is bytes else bytes(data)
    return walk(marshal, owned, out, True, seq, True)


cdef int slow_dump(object marshal, object data, list out, object seq) except -1:
    """parse_dump() for a marshal that is not ours, or that parses in its own way."""
    cdef int result = 0
    cdef bytes owned = bytes(data)
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(owned)
    for msg in marshal.parse(owned, seq, None):
        header = msg["header"]
        if header.get("sequence_number", seq) != seq:
            continue
        flags = header.get("flags", 0)
        if flags & lx.NLM_F_DUMP_INTR:
            result |= DUMP_INTERRUPTED
        if not flags & lx.NLM_F_MULTI:
            result |= DUMP_SINGLE
        if header.get("error") is not None or header.get("type") == lx.NLMSG_ERROR:
            out.append(msg)
            return result | DUMP_FAILED
        if header.get("type") == lx.NLMSG_DONE:
            result |= DUMP_DONE
        else:
            out.append(msg)
    return result


def ends_dump(data):
    """Whether a datagram of a dump is its last: NLMSG_DONE, an error, or an answer of one part."""
    cdef bytes owned = data if type(data) is bytes else bytes(data)
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(owned)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(owned)
    cdef Py_ssize_t off = 0
    cdef Py_ssize_t length
    while off <= size - lx.NLMSG_HDRLEN:
        length = message_length(base + off)
        if message_type(base + off) in (lx.NLMSG_ERROR, lx.NLMSG_DONE) or not message_flags(base + off) & lx.NLM_F_MULTI:
            return True
        if length < lx.NLMSG_HDRLEN:
            break
        off += length
    return False


def attribute_at(request, offset):
    """The name of the attribute at a byte offset into an encoded request, or None.

    `request` is a message object with its bytes (`data`, `offset`). Nested attributes give the innermost name.
    """
    if request is None or offset is None or not isinstance(request, nlmsg_base):
        return None
    cdef Plan p = plan(type(request))
    cdef bytes data = bytes(request.data[request.offset:])
    cdef Py_ssize_t where = offset
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if p.decode == D_PYTHON or not p.std_header or where < lx.NLMSG_HDRLEN or where >= size:
        return None
    return name_at(p, data, align4(lx.NLMSG_HDRLEN + p.fixed), size, where)


cdef object name_at(Plan p, bytes data, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t where):
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t n
    cdef Attr attr
    cdef Plan ap
    if not p.has_map or p.decode == D_PYTHON:
        return None
    while pos + 4 <= end:
        n = load16(base + pos)
        if n < 4 or n > end - pos:
            return None
        if pos <= where < pos + n:
            attr = p.attr_of(load16(base + pos + 2) & lx.NLA_TYPE_MASK)
            if attr is None:
                return None
            if where > pos and attr.choice == C_CLASS and not attr.array:
                ap = attr.plan()
                inner = name_at(ap, data, align4(pos + 4 + ap.fixed), pos + n, where)
                if inner is not None:
                    return inner
            return attr.name
        pos += align4(n)
    return None
