# Decoding into a dict, by plan, and the lazy objects that are decoded later.

# ---------------------------------------------------------------------------------------------------------
# Making lazy objects

cdef inline object new_message(Plan p, bytes data, Py_ssize_t offset, Context context):
    cdef object obj = fns_new(<PyObject *>p.lazy, _EMPTY)
    slot_set(obj, O_PLAN, p)
    slot_set(obj, O_DATA, data)
    slot_set(obj, O_OFFSET, offset_object(offset))
    slot_set(obj, O_INIT, context)
    return obj


cdef object new_cell(Plan p, bytes data, Py_ssize_t offset, Py_ssize_t length, object parent, object init,
                     bint array, long flags):
    """What decode_nlas() of pyroute2 puts into a slot: an attribute that is decoded when somebody asks."""
    cdef object obj
    if p.lazy is None and array and stuck(p, data, offset):
        p, array = plan(nla_base_string), False
    if p.lazy is None or (init is not None and p.needs_init):
        obj = p.cls(data=bounded(data), offset=offset, parent=parent, length=length, init=init)
        obj._nla_array = array
        obj._nla_flags = flags
        return obj
    obj = fns_new(<PyObject *>p.lazy, _EMPTY)
    slot_set(obj, O_PLAN, p)
    slot_set(obj, O_DATA, data)
    slot_set(obj, O_OFFSET, offset_object(offset))
    slot_set(obj, O_LENGTH, length)
    slot_set(obj, O_INIT, init)
    slot_set(obj, O_ARRAY, array)
    slot_set(obj, O_FLAGS, flags)
    if parent is None:
        slot_set(obj, O_PARENT, None)
    elif p.own_parent:
        slot_set(obj, O_PARENT, parent)
        fns_track(obj)
    else:
        slot_set(obj, O_PARENT, PyWeakref_NewProxy(parent, NULL))
    return obj


cdef bint stuck(Plan p, bytes data, Py_ssize_t offset) noexcept:
    """Whether pyroute2's loop over an array would never end: an element of length 0 does not advance. Told before, it is an
    error of that attribute; _Bounded ends the loops that show only while they run."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t limit = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t pos = offset + 4
    cdef Py_ssize_t end
    cdef Py_ssize_t step
    if p.no_header:
        return True
    if not p.is_nla or offset + 4 > limit:
        return False
    end = offset + load16(base + offset)
    while pos < end and pos + 4 <= limit:
        step = align4(load16(base + pos))
        if step == 0:
            return True
        pos += step
    return False


# ---------------------------------------------------------------------------------------------------------
# Decoding into a dict. 0: done, 1: pyroute2's own code must do it

cdef object make_header(const uint8_t *base):
    cdef lx.nlmsghdr header
    cdef dict made = {}
    memcpy(&header, base, sizeof(header))
    made[S_LENGTH] = header.nlmsg_len
    made[S_TYPE] = header.nlmsg_type
    made[S_FLAGS] = header.nlmsg_flags
    made[S_SEQUENCE] = header.nlmsg_seq
    made[S_PID] = header.nlmsg_pid
    return made


cdef dict full_header(const uint8_t *base, Context context):
    cdef dict header = make_header(base)
    if not context.bare:
        header[S_ERROR] = None
        if context.extra is not None:
            header.update(context.extra)
    return header


cdef bytes strip_nul(const uint8_t *at, Py_ssize_t size):
    while size > 0 and at[0] == 0:
        at += 1
        size -= 1
    while size > 0 and at[size - 1] == 0:
        size -= 1
    return PyBytes_FromStringAndSize(<const char *>at, size)


cdef object array_value(object parent_cls, object init, bytes raw):
    """nlmsg_atoms.array: a tuple of numbers. None: not that simple."""
    try:
        form = getattr(parent_cls, init).fields[0][1]
    except Exception:
        form = init
    try:
        size = _struct.calcsize(form)
        count = len(raw) // size
        return _struct.unpack("%s%i%s" % (form[:-1], count, form[-1:]), raw[:count * size])
    except Exception:
        return _NO


cdef object text_value(Plan p, const uint8_t *at, Py_ssize_t size, long family, object parent_cls, object init,
                       bytes raw):
    """The value of an attribute whose payload is a string of bytes (already stripped), by its kind."""
    cdef int kind = p.decode
    if p.ft == FT_IPADDR:
        return _NO
    if kind == D_STRING:
        try:
            return PyUnicode_DecodeUTF8(<const char *>at, size, NULL)
        except UnicodeDecodeError:
            return PyBytes_FromStringAndSize(<const char *>at, size)
    if kind == D_TARGET:
        if family == lx.AF_INET and size >= 4:
            return fns_ip4(at)
        if family == lx.AF_INET6 and size >= 16:
            return fns_ip6(at)
        return _NO
    if kind == D_HEX:
        return fns_hex(at, size)
    if kind == D_LL:
        if size == 6 or size == 0:
            return fns_hex(at, size)
        if size == 4:
            return fns_ip4(at)
        if size == 16:
            return fns_ip6(at)
        return _NO
    if kind == D_IPX:
        if p.family == lx.AF_INET and size == 4:
            return fns_ip4(at)
        if p.family == lx.AF_INET6 and size == 16:
            return fns_ip6(at)
        return _NO
    if kind == D_ARRAY:
        if init is None or parent_cls is None:
            return _NO
        if raw is None:
            raw = PyBytes_FromStringAndSize(<const char *>at, size)
        return array_value(parent_cls, init, raw)
    return _NO


cdef object number_value(Plan p, object raw):
    """The value of an attribute with a field `value`, by its kind."""
    if p.decode == D_L2:
        if type(raw) is bytes and PyBytes_GET_SIZE(raw) == 6:
            return fns_hex(<const uint8_t *>PyBytes_AS_STRING(raw), 6)
        return _NO
    if p.decode == D_OPERSTATE:
        return p.lookup.get(raw, _NO)
    return _NO


cdef object quick(Plan p, bytes data, Py_ssize_t pos, Py_ssize_t limit, Py_ssize_t room, long family,
                  object parent_cls, object init):
    """The immutable value of the attribute at `pos`, straight from the bytes, or _NO."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t length = load16(base + pos)
    cdef const uint8_t *at
    cdef Py_ssize_t size
    cdef int kind = p.decode
    cdef object value
    if length < 4 or length > room or pos + length > limit or p.has_map or not p.is_nla or kind == D_PYTHON:
        return _NO
    if p.ft == FT_GENERIC:
        if pos + 4 + p.fixed > limit:
            return _NO
        if kind == D_NONE:
            return None
        if kind == D_FLAG:
            return True
        if p.value_field < 0:
            return _NO
        value = read_field(&p.fields[p.value_field], data, pos + 4 + p.fields[p.value_field].offset)
        if kind == D_BASE or kind == D_NLA:
            return value if p.value_map is None else p.value_map.get(value, value)
        return number_value(p, value)
    if p.ft == FT_STRING or p.ft == FT_IPADDR:
        at = base + pos + 4
        size = length - 4
        if p.zstring:
            while size > 0 and at[0] == 0:
                at += 1
                size -= 1
            while size > 0 and at[size - 1] == 0:
                size -= 1
        if p.ft == FT_IPADDR:
            if kind != D_BASE and kind != D_NLA:
                return _NO
            if length > 8:
                return fns_ip6(at) if size == 16 else _NO
            return fns_ip4(at) if size == 4 else _NO
        if kind == D_BASE or kind == D_NLA:
            value = PyBytes_FromStringAndSize(<const char *>at, size)
            return value if p.value_map is None else p.value_map.get(value, value)
        if kind == D_TARGET and p.family is not None:
            family = p.family
        return text_value(p, at, size, family, parent_cls, init, None)
    return _NO


cdef long family_of(object cell) except -2:
    """What target.get_family() of pyroute2 finds by way of the parents; -1 to let it find out itself."""
    cdef Plan p
    cdef PyObject *found
    cdef object reference = <object>slot(cell, O_PARENT) if slot(cell, O_PARENT) != NULL else None
    cdef object parent
    cdef object value
    while reference is not None:
        found = fns_deref(reference)
        if found == NULL:
            return -1
        parent = <object>found
        Py_DECREF(parent)
        if not isinstance(parent, nlmsg_base) or slot(parent, O_PLAN) == NULL:
            return -1
        p = <Plan>slot(parent, O_PLAN)
        if p.family_field >= 0:
            if is_filled(parent):
                found = PyDict_GetItemWithError(parent, S_FAMILY)
                value = None if found == NULL else <object>found
            elif is_message(parent) and p.decode != D_PYTHON:
                value = peek_field(parent, p, p.family_field)
            else:
                return -1
            return value if type(value) is int and 0 <= value < 65536 else -1
        if p.decode == D_PYTHON or S_FAMILY in p.index or is_filled(parent) and dict.__contains__(parent, S_FAMILY):
            return -1
        reference = <object>slot(parent, O_PARENT) if slot(parent, O_PARENT) != NULL else None
    return -1


cdef int read_attrs(Plan p, object obj, bytes data, Py_ssize_t off, Py_ssize_t length, Py_ssize_t pos, list out,
                    dict d, bint *published) except -1:
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t limit = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t first = pos
    cdef Py_ssize_t n
    cdef uint16_t wire
    cdef Attr attr
    cdef Plan ap
    cdef object cell
    cdef bint looks
    while pos - off <= length - 4:
        if pos + 4 > limit:
            return 1
        n = load16(base + pos)
        wire = load16(base + pos + 2)
        if n < 4:
            n = 4
        if n > length - pos + off:
            n = length - pos + off
        attr = p.attr_of(wire & lx.NLA_TYPE_MASK)
        if attr is None:
            out.append(new_slot(S_UNKNOWN, new_cell(plan(nla_base), data, pos, n, None, None, False, 0), False))
        else:
            looks = attr.choice == C_PYTHON or attr.choice == C_ENCAP and doubtful(out, d)
            if looks and not published[0]:
                # The function, and what it looks at, may look at this message: as in pyroute2, it has the
                # fields and the attributes so far.
                put_all(obj, d)
                settle(obj, data, off, length, _NOT_INITIALIZED, False)
                published[0] = True
            try:
                if looks and attr.choice == C_ENCAP:
                    read_up_to(out, "RTA_ENCAP_TYPE")
                if attr.choice == C_CLASS:
                    ap = attr.plan()
                else:
                    ap = plan(choose(p, attr, obj, data, off, first, pos, length, out, d))
                cell = new_cell(ap, data, pos, n, obj, attr.init, attr.array, wire & ~lx.NLA_TYPE_MASK)
            except Exception:
                return 1
            out.append(new_slot(attr.name, cell, ap.own_parent or ap.lazy is None))
        pos += align4(n)
    return 0


cdef bint doubtful(list out, dict d):
    """Whether reading the attributes so far changes them: one that cannot be decoded gives all its bytes at the first
    look and its payload from then on, and encap_info() of pyroute2 is a look."""
    cdef object item
    cdef object cell
    cdef Plan p
    cdef object family = d.get(S_FAMILY)
    cdef Py_ssize_t least = 4 + (4 if family == lx.AF_INET else 16 if family == lx.AF_INET6 else 0)
    for item in out:
        cell = (<tuple>slot(item, O_CELL))[1]
        if type(type(cell)) is not _lazy_type:
            return True
        p = <Plan>slot(cell, O_PLAN)
        if p.decode == D_TARGET:
            if family not in (lx.AF_INET, lx.AF_INET6, lx.AF_MPLS) or <object>slot(cell, O_LENGTH) < least:
                return True
        elif p.decode in (D_PYTHON, D_IPX, D_L2, D_LL, D_ARRAY) or p.ft == FT_IPADDR:
            return True
    return False


cdef object read_up_to(list out, str name):
    for item in out:
        pair = <tuple>slot(item, O_CELL)
        slot_value(item)
        if pair[0] == name:
            break


cdef inline object new_slot(object name, object cell, bint cyclic):
    """What pyroute2 has in `attrs`. Kept from the collector unless the cell refers back to its message."""
    cdef object pair = (name, cell)
    cdef object result = fns_new_object(<PyObject *>_slot_class)
    slot_set(result, O_CELL, pair)
    if not cyclic:
        fns_untrack(result)
        fns_untrack(pair)
    return result


cdef object choose(Plan p, Attr attr, object obj, bytes data, Py_ssize_t off, Py_ssize_t first, Py_ssize_t pos,
                   Py_ssize_t length, list out, dict d):
    """The class of an attribute that a function of pyroute2 chooses."""
    cdef object key
    cdef PyObject *found
    if attr.choice == C_PYTHON:
        return ask(p, attr, obj, data, off, pos, length, out, d)
    if attr.choice == C_ENCAP:
        key = earlier(p, data, off, first, pos, length, "RTA_ENCAP_TYPE")
        return p.cls.encaps.get(later_encap(data, pos) if key is None else key, p.cls.hex)
    if attr.choice == C_NOTHING:
        key = None
    elif attr.choice == C_FAMILY:
        key = d[S_FAMILY]
    else:
        key = earlier(p, data, off, first, pos, length, "IFLA_INFO_KIND")
        if key is _NO:
            return ask(p, attr, obj, data, off, pos, length, out, d)
        if attr.choice == C_KIND:
            return p.cls.data_map.get(key, p.cls.hex)
        slave = earlier(p, data, off, first, pos, length, "IFLA_INFO_SLAVE_KIND")
        if slave is _NO:
            return ask(p, attr, obj, data, off, pos, length, out, d)
        key = (key, slave)
    found = PyDict_GetItem(attr.memo, key)
    if found != NULL:
        return <object>found
    cls = ask(p, attr, obj, data, off, pos, length, out, d)
    if len(attr.memo) < 256:
        attr.memo[key] = cls
    return cls


cdef object later_encap(bytes data, Py_ssize_t pos):
    """The loop of encap_info() in pyroute2's rtmsg, which an attribute of length 0 would keep from ending."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t limit = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t step
    while pos + 2 <= limit:
        step = load16(base + pos)
        pos += step
        if step == 0 or pos + 4 > limit:
            break
        if load16(base + pos + 2) == lx.RTA_ENCAP_TYPE:
            return load16(base + pos + 4) if pos + 6 <= limit else None
    return None


cdef object ask(Plan p, Attr attr, object obj, bytes data, Py_ssize_t off, Py_ssize_t pos, Py_ssize_t length,
                list out, dict d):
    """Call the function, with the message as far as it is decoded, as pyroute2 does."""
    cdef object view
    if is_filled(obj):
        return attr.cls(obj, data=data, offset=pos)
    view = p.cls(data=data, offset=off, length=length)
    view.update(d)
    view["attrs"] = out
    if slot(obj, O_PARENT) != NULL:
        view.parent = <object>slot(obj, O_PARENT)
    return attr.cls(view, data=data, offset=pos)


cdef object earlier(Plan p, bytes data, Py_ssize_t off, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t length,
                    str name):
    """get_attr(name) over the attributes between `pos` and `end`; _NO if that takes more than the bytes."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t n
    cdef Attr attr
    while pos < end:
        n = load16(base + pos)
        attr = p.attr_of(load16(base + pos + 2) & lx.NLA_TYPE_MASK)
        if attr is not None and attr.name == name:
            if attr.choice != C_CLASS or attr.array:
                return _NO
            return quick(attr.plan(), data, pos, PyBytes_GET_SIZE(data), length - pos + off, -1, p.cls, attr.init)
        if n < 4:
            n = 4
        pos += align4(n)
    return None


cdef int decode_body(Plan p, object obj, bytes data, Py_ssize_t off, bint array, bint cell, object header,
                     dict d, Py_ssize_t *length_out, list value_out, bint *published) except -1:
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t limit = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t pos = off
    cdef Py_ssize_t length = 0
    cdef Py_ssize_t i, size
    cdef FieldPlan *f
    cdef list attrs = None
    cdef list cells
    cdef object value
    cdef long family
    if p.decode == D_PYTHON:
        return 1
    if array and p.decode != D_BASE and p.decode != D_NLA:
        return 1
    if p.has_map or array or p.ft == FT_STRING or p.ft == FT_IPADDR:
        attrs = []
        d[S_ATTRS] = attrs
    # header
    if p.is_nla:
        if pos + 4 > limit:
            return 1
        length = load16(base + pos)
        if p.decode != D_NLA and p.decode != D_OPERSTATE:
            d[S_HEADER] = {S_LENGTH: length, S_TYPE: load16(base + pos + 2)}
        pos += 4
    elif header is not None:
        d[S_HEADER] = header
        length = header[S_LENGTH]
        if length < 4:
            length = 4
        pos += lx.NLMSG_HDRLEN
    else:
        header = {}
        for i in range(p.ncell_head if cell and p.has_cell else p.nhead):
            f = &p.cell_head[i] if cell and p.has_cell else &p.head[i]
            if pos + f.size > limit:
                return 1
            value = read_field(f, data, pos)
            header[<object>f.name] = value[0] if f.many and f.kind != F_BYTES else value
            pos += f.size
        if p.decode != D_NLA and p.decode != D_OPERSTATE:
            d[S_HEADER] = header
        length = header[S_LENGTH]
        if length < 4:
            length = 4
    length_out[0] = length
    # an array of such attributes
    if array:
        if stuck(p, data, off):
            return 1
        cells = []
        d[S_VALUE] = cells
        while pos < off + length:
            value = new_cell(p, data, pos, 0, obj, None, False, p.cls.nla_flags)
            if p.lazy is None:
                return 1
            try:
                fill_element(p, value)
            except Exception:
                return 1
            cells.append(value)
            pos += align4(<object>slot(value, O_LENGTH))
        value_out.append(cells)
        return 0
    # fields
    if p.ft == FT_GENERIC:
        if pos + p.fixed > limit:
            return 1
        for i in range(p.nfields):
            f = &p.fields[i]
            PyDict_SetItem(d, <object>f.name, read_field(f, data, pos + f.offset))
        pos += p.fixed
    elif p.ft == FT_STRUCT:
        if pos + p.unpack_size > limit:
            return 1
        values = list(p.unpack(data, pos))
        values.reverse()
        for i in range(p.nfields):
            if (<object>p.fields[i].name)[0] != "_":
                if not values:
                    return 1
                d[<object>p.fields[i].name] = values.pop()
        # pyroute2 does not move on here: a chain after a struct starts where the struct does
    else:
        size = length - 4
        if size < 0 or pos + size > limit:
            return 1
        if p.zstring:
            value = strip_nul(base + pos, size)
        else:
            value = PyBytes_FromStringAndSize(<const char *>base + pos, size)
        d[S_VALUE] = value
    if p.has_map and (p.ft == FT_GENERIC or p.ft == FT_STRUCT):
        if read_attrs(p, obj, data, off, length, align4(pos), attrs, d, published):
            return 1
    # what the class's own decode() adds
    if p.decode == D_BASE or p.decode == D_NLA:
        if p.ft == FT_IPADDR:
            size = PyBytes_GET_SIZE(value)
            if length > 8 and size == 16:
                value_out.append(fns_ip6(<const uint8_t *>PyBytes_AS_STRING(value)))
            elif length <= 8 and size == 4:
                value_out.append(fns_ip4(<const uint8_t *>PyBytes_AS_STRING(value)))
            else:
                return 1
        return 0
    if p.decode == D_NONE:
        value_out.append(None)
        return 0
    if p.decode == D_FLAG:
        value_out.append(True)
        return 0
    if p.decode == D_IFINFMSG:
        d[S_STATE] = S_UP if d["flags"] & 1 else S_DOWN
        return 0
    if p.ft == FT_STRING:
        family = -1
        if p.decode == D_TARGET:
            if p.family is not None:
                family = p.family
            else:
                try:
                    family = family_of(obj)
                except Exception:
                    return 1
        parent_cls = None
        if p.decode == D_ARRAY:
            parent_cls = type(<object>slot(obj, O_PARENT)) if slot(obj, O_PARENT) != NULL else None
        value = text_value(
            p, <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), family, parent_cls,
            <object>slot(obj, O_INIT), value,
        )
    elif p.ft == FT_GENERIC:
        if S_VALUE not in d:
            return 1
        value = number_value(p, d[S_VALUE])
    else:
        return 1
    if value is _NO:
        return 1
    value_out.append(value)
    return 0


cdef int fill_element(Plan p, object obj) except -1:
    """Decode an element of an array, which pyroute2 does at once."""
    if p.has_cell:
        PyObject_GenericSetAttr(obj, "header", p.header_attr)
    return fill_cell(obj, True)


cdef inline int put_all(object obj, dict d) except -1:
    if not is_filled(obj):
        fns_open(obj)
    return PyDict_Update(obj, d)


cdef int settle(object obj, bytes data, Py_ssize_t off, object length, object value, bint decoded) except -1:
    """Set the slots to what pyroute2's __init__ and decode() leave there; from here on the object is filled."""
    slot_set(obj, O_BUF, None)
    slot_set(obj, O_DATA, data)
    slot_set(obj, O_OFFSET, off)
    slot_set(obj, O_LENGTH, length)
    slot_set(obj, O_DECODED, decoded)
    if slot(obj, O_ARRAY) == NULL:
        slot_set(obj, O_ARRAY, False)
        slot_set(obj, O_INIT, None)
        slot_set(obj, O_PARENT, None)
        slot_set(obj, O_FLAGS, (<Plan>slot(obj, O_PLAN)).cls.nla_flags)
    slot_set(obj, O_VALUE, value)
    fns_track(obj)
    return 0


cdef int fill_cell(object obj, bint element) except -1:
    cdef Plan p = <Plan>slot(obj, O_PLAN)
    cdef bytes data = <bytes>slot(obj, O_DATA)
    cdef Py_ssize_t off = <object>slot(obj, O_OFFSET)
    cdef bint array = <object>slot(obj, O_ARRAY)
    cdef object length_object = <object>slot(obj, O_LENGTH)
    cdef dict d = {}
    cdef list value = []
    cdef Py_ssize_t length = 0
    cdef bint published = False
    cdef int left = decode_body(p, obj, data, off, array, element, None, d, &length, value, &published)
    if is_filled(obj) and not published:
        return 0  # by another thread
    if left == 0:
        put_all(obj, d)
        settle(obj, data, off, length, value[0] if value else _NOT_INITIALIZED, True)
        return 0
    if published:
        dict.clear(obj)
    d = {S_ATTRS: []}
    if p.cls.header:
        d[S_HEADER] = {}
    put_all(obj, d)
    settle(obj, data, off, length_object, _NOT_INITIALIZED, False)
    decode_in_python(obj, p)
    return 0


cdef enum:
    READS_MAX = 10000


class _Bounded(bytes):
    """The bytes that pyroute2's own code decodes. It reads the header of an array's element of length 0 again and
    again, and looks for RTA_ENCAP_TYPE behind an attribute of length 0 for ever: both by slices, and that ends here."""

    def __getitem__(self, key):
        cdef object value = bytes.__getitem__(self, key)
        if type(key) is slice and len(value) <= 4:
            reads = self.__dict__
            count = reads[key.start] = reads.get(key.start, 0) + 1
            # a slot that gives the bytes of what cannot be decoded is no loop, however often it is asked
            if count > READS_MAX and _sys._getframe().f_code.co_name != "get_value":
                raise ValueError("an attribute without length is read for ever")
        return value


cdef object bounded(object data):
    return _Bounded(data) if type(data) is bytes else data


cdef object decode_in_python(object obj, Plan p):
    """pyroute2's decode() of a filled object, kept from looping for ever over an array with an empty element."""
    if <object>slot(obj, O_ARRAY) and isinstance(<object>slot(obj, O_DATA), bytes) and stuck(
        p, <bytes>slot(obj, O_DATA), <object>slot(obj, O_OFFSET)
    ):
        raise NetlinkNLADecodeError(ValueError("array of attributes with an empty element"))
    slot_set(obj, O_DATA, bounded(<object>slot(obj, O_DATA)))
    return p.cls.decode(obj)


cdef int fill_message(object obj) except -1:
    cdef Plan p = <Plan>slot(obj, O_PLAN)
    cdef Context context = <Context>slot(obj, O_INIT)
    cdef bytes datagram = <bytes>slot(obj, O_DATA)
    cdef Py_ssize_t off = <object>slot(obj, O_OFFSET)
    cdef Py_ssize_t length = message_length(<const uint8_t *>PyBytes_AS_STRING(datagram) + off)
    cdef uint16_t type = message_type(<const uint8_t *>PyBytes_AS_STRING(datagram) + off)
    cdef bytes data
    cdef object header
    cdef object event
    cdef dict d = {}
    cdef list value = []
    cdef bint published = False
    cdef int left
    if length > PyBytes_GET_SIZE(datagram) - off:
        length = PyBytes_GET_SIZE(datagram) - off
    if length < lx.NLMSG_HDRLEN:  # of a request that an error encloses; the header's bytes are there
        length = lx.NLMSG_HDRLEN
    data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(datagram) + off, length)
    if slot(obj, O_BUF) != NULL:
        header = <object>slot(obj, O_BUF)
    else:
        header = full_header(<const uint8_t *>PyBytes_AS_STRING(data), context)
    event = context.event(p, type)
    left = decode_body(
        p, obj, data, 0, False, False, header if p.std_header else None, d, &length, value, &published
    )
    if is_filled(obj) and not published:
        return 0  # by another thread
    if left == 0:
        if event is not None:
            d[S_EVENT] = event
        put_all(obj, d)
        settle(obj, data, 0, length, value[0] if value else _NOT_INITIALIZED, True)
        return 0
    if published:
        dict.clear(obj)
    d = {S_ATTRS: []}
    if p.cls.header:
        d[S_HEADER] = header
    put_all(obj, d)
    settle(obj, data, 0, 0, _NOT_INITIALIZED, False)
    slot_set(obj, O_DATA, bounded(data))
    try:
        p.cls.decode(obj)
    except NetlinkDecodeError:
        pass  # pyroute2's marshal keeps what was decoded so far
    except Exception as error:
        raise NetlinkDecodeError(error) from error
    finally:
        context.set_event(p, obj, type)
    return 0


cdef inline int fill(object obj) except -1:
    if slot(obj, O_VALUE) != NULL or slot(obj, O_PLAN) == NULL:
        return 0
    if slot(obj, O_ARRAY) != NULL:
        return fill_cell(obj, False)
    return fill_message(obj)
