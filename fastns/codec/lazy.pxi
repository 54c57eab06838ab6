# The methods of lazy messages: reading from the bytes without filling the dict, and filling it.

# ---------------------------------------------------------------------------------------------------------
# Reading without filling

cdef inline bint is_filled(object obj) noexcept:
    return slot(obj, O_VALUE) != NULL


cdef inline bint is_message(object obj) noexcept:
    """An unfilled top-level message with the usual header, which can be read in place."""
    return slot(obj, O_ARRAY) == NULL and (<Plan>slot(obj, O_PLAN)).std_header


cdef struct View:
    const uint8_t *base
    Py_ssize_t off
    Py_ssize_t length    # what the header says
    Py_ssize_t limit     # bytes there are


cdef inline View view_of(object obj) noexcept:
    cdef View v
    cdef PyObject *data = slot(obj, O_DATA)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(<bytes>data)
    v.off = <Py_ssize_t>PyLong_AsSsize_t(<object>slot(obj, O_OFFSET))
    v.base = <const uint8_t *>PyBytes_AS_STRING(<bytes>data) + v.off
    v.length = load32(v.base)
    v.limit = size - v.off
    if v.length < v.limit:
        v.limit = v.length
    if v.length < 4:
        v.length = 4
    return v


cdef object peek_header(object obj):
    """The header of an unfilled message: made once, moved into the dict when the message is filled."""
    cdef View v
    cdef object header
    if slot(obj, O_BUF) == NULL:
        v = view_of(obj)
        header = full_header(v.base, <Context>slot(obj, O_INIT))
        slot_set(obj, O_BUF, header)
    return <object>slot(obj, O_BUF)


cdef object peek_field(object obj, Plan p, Py_ssize_t number):
    cdef View v = view_of(obj)
    cdef FieldPlan *f = &p.fields[number]
    if p.ft != FT_GENERIC or lx.NLMSG_HDRLEN + p.fixed > v.limit:
        return _NO
    return read_field(f, <bytes>slot(obj, O_DATA), v.off + lx.NLMSG_HDRLEN + f.offset)


cdef object peek_attr(object obj, Plan p, Lookup lookup):
    """The value of the first attribute of that name, _MISSING or _NO."""
    cdef View v
    cdef Py_ssize_t pos, n, first
    cdef uint16_t wire
    cdef Attr attr
    cdef Plan ap
    cdef long family = -1
    cdef FieldPlan *f
    if lookup.type == -2 or p.ft != FT_GENERIC or p.decode == D_PYTHON:
        return _NO
    if not p.has_map:
        return _NO
    if lookup.type == -1 and not p.risky:
        # nothing to find, unless the chain cannot be read at all, which filling the message finds out
        return _MISSING
    v = view_of(obj)
    pos = lx.NLMSG_HDRLEN + p.fixed
    if pos > v.limit:
        return _NO
    pos = align4(pos)
    while pos <= v.length - 4:
        if pos + 4 > v.limit:
            return _NO
        n = load16(v.base + pos)
        wire = load16(v.base + pos + 2) & lx.NLA_TYPE_MASK
        if n < 4:
            n = 4
        if n > v.length - pos:
            n = v.length - pos
        if wire == lookup.type:
            attr = lookup.attr
            if attr.choice != C_CLASS or attr.array or attr.init is not None and attr.plan().needs_init:
                return _NO
            ap = attr.plan()
            if ap.decode == D_TARGET and p.family_field >= 0:
                f = &p.fields[p.family_field]
                if f.kind == F_U8:
                    family = v.base[lx.NLMSG_HDRLEN + f.offset]
            return quick(ap, <bytes>slot(obj, O_DATA), v.off + pos, v.off + v.limit, v.length - pos, family,
                         p.cls, attr.init)
        if p.risky:
            attr = p.attr_of(wire)
            if attr is not None and attr.choice >= C_FAMILY and not harmless(obj, p, attr, &v):
                return _NO
        pos += align4(n)
    return _MISSING


cdef bint harmless(object obj, Plan p, Attr attr, View *v):
    """Whether the function that chooses this attribute's class is known to succeed for this family."""
    cdef FieldPlan *f
    if attr.choice != C_FAMILY or p.family_field < 0:
        return False
    f = &p.fields[p.family_field]
    if f.kind != F_U8:
        return False
    return PyDict_GetItem(attr.memo, v.base[lx.NLMSG_HDRLEN + f.offset]) != NULL


cdef object peek_state(object obj, Plan p):
    """ifinfmsg's 'state', which is there only if nothing in the chain made decoding fail."""
    cdef Lookup nothing = Lookup.__new__(Lookup)
    cdef View v
    nothing.type = -1
    if peek_attr(obj, p, nothing) is not _MISSING:
        return _NO
    v = view_of(obj)
    return S_UP if load32(v.base + lx.NLMSG_HDRLEN + 8) & lx.IFF_UP else S_DOWN


cdef object peek_item(object obj, Plan p, object key):
    """obj[key] of an unfilled message, or _NO."""
    cdef PyObject *number
    cdef View v
    cdef object event
    if type(key) is not str or not is_message(obj) or p.decode == D_PYTHON:
        return _NO
    number = PyDict_GetItem(p.index, key)
    if number != NULL:
        return peek_field(obj, p, <object>number)
    if key == S_HEADER:
        return peek_header(obj)
    if key == S_EVENT:
        v = view_of(obj)
        event = (<Context>slot(obj, O_INIT)).event(p, message_type(v.base))
        return _NO if event is None else event
    if p.decode == D_IFINFMSG and key == S_STATE:
        return peek_state(obj, p)
    return _NO


cdef object getitem(object obj, object key):
    cdef Plan p = <Plan>slot(obj, O_PLAN)
    cdef object value
    cdef PyObject *found
    if not is_filled(obj):
        value = peek_item(obj, p, key)
        if value is not _NO:
            return value
        fill(obj)
    if isinstance(key, int):
        return obj.chain[key]
    found = PyDict_GetItemWithError(obj, key)
    if found != NULL:
        return <object>found
    if key == S_VALUE:
        return _NOT_INITIALIZED
    if key in dict(p.cls.fields):
        return 0
    return dict.__getitem__(obj, key)


cdef object value_of(object obj):
    """getvalue() of a filled object."""
    cdef Plan p = <Plan>slot(obj, O_PLAN)
    cdef object value = <object>slot(obj, O_VALUE)
    cdef PyObject *found
    if <object>slot(obj, O_ARRAY):
        return nlmsg_base.getvalue(obj)
    if value is not _NOT_INITIALIZED:
        return value
    found = PyDict_GetItemWithError(obj, S_VALUE)
    if found == NULL or <object>found is _NOT_INITIALIZED:
        return obj
    if p.value_map is None:
        return <object>found
    return p.value_map.get(<object>found, <object>found)


cdef object slot_value(object item):
    """item[1] of a pyroute2 slot."""
    cdef tuple pair = <tuple>slot(item, O_CELL)
    cdef object cell = pair[1]
    if type(type(cell)) is _lazy_type:
        if not is_filled(cell):
            try:
                fill_cell(cell, False)
            except Exception:
                # as pyroute2's slot does it: say so, and give the bytes
                _log.warning("decoding %s" % (pair[0]))
                _log.warning(_traceback.format_exc())
                return cell.data[cell.offset:cell.offset + cell.length]
        if slot(cell, O_DECODED) != NULL and <object>slot(cell, O_DECODED) is True:
            return value_of(cell)
    return nla_slot.get_value(item)


cdef object slot_item(object item, Py_ssize_t index):
    if not is_slot(item):
        return nla_slot.__getitem__(item, index)
    if index == 0:
        return (<tuple>slot(item, O_CELL))[0]
    if index == 1:
        return slot_value(item)
    raise IndexError(index)


cdef object slot_key(object item, object key):
    if type(key) is int and is_slot(item):
        if key == 1:
            return slot_value(item)
        if key == 0:
            return (<tuple>slot(item, O_CELL))[0]
    return nla_slot.__getitem__(item, key)


def _slot_getitem(self, key):
    return slot_key(self, key)


def _slot_get_value(self):
    return slot_value(self) if is_slot(self) else nla_slot.get_value(self)


SLOT_METHODS = {
    "__getitem__": _slot_getitem,
    "get_value": _slot_get_value,
    "value": property(_slot_get_value),
}


cdef inline bint is_slot(object item) noexcept:
    if type(item) is not _slot_class and type(item) is not _base_nla_slot:
        return False
    return slot(item, O_CELL) != NULL and type(<object>slot(item, O_CELL)) is tuple


cdef object attrs_by_name(object obj, Plan p, object name, bint first):
    """get_attrs(name) of a filled object; the first value only or _MISSING with `first`."""
    cdef object item
    cdef list found = None
    cdef PyObject *attrs
    if p.prefix is not None and _attrs_prefixed:
        name = p.cls.name2nla(name)
    attrs = PyDict_GetItemWithError(obj, S_ATTRS)
    if attrs == NULL or type(<object>attrs) is not list:
        return _NO
    if not first:
        found = []
    for item in <list>attrs:
        if is_slot(item):
            if (<tuple>slot(item, O_CELL))[0] != name:
                continue
            value = slot_value(item)
        elif item[0] == name:
            value = item[1]
        else:
            continue
        if first:
            return value
        found.append(value)
    return _MISSING if first else found


cdef object nested(object pointer, tuple keys):
    """get_nested(*keys) of pyroute2, over filled objects and plain ones."""
    cdef Plan p
    cdef object key, name, value
    for key in keys:
        if type(type(pointer)) is _lazy_type:
            p = <Plan>slot(pointer, O_PLAN)
            fill(pointer)
            name = p.cls.name2nla(key) if p.prefix else key.upper()
            value = attrs_by_name(pointer, p, name, True)
            if value is _NO:
                value = nlmsg_base.get_attr(pointer, name)
            elif value is _MISSING:
                value = None
            if value is None and dict.__contains__(pointer, key):
                value = getitem(pointer, key)
            pointer = value
        elif isinstance(pointer, nlmsg_base):
            name = pointer.name2nla(key) if pointer.prefix else key.upper()
            value = pointer.get_attr(name)
            if value is None and key in pointer:
                value = pointer[key]
            pointer = value
        elif isinstance(pointer, dict):
            pointer = pointer.get(key)
        else:
            return None
    return pointer


cdef object peek_inner(Plan p, bytes data, Py_ssize_t start, Py_ssize_t off, Py_ssize_t limit, tuple keys,
                       Py_ssize_t depth):
    """get_nested(*keys[depth:]) of the attribute at `off`, whose plan is `p`, from the bytes; or _NO."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t length = load16(base + off)
    cdef Py_ssize_t pos = off + 4 + p.fixed
    cdef Py_ssize_t first, n
    cdef uint16_t wire
    cdef Lookup lookup
    cdef Attr attr
    cdef Plan ap
    cdef object value = None
    cdef object kind
    cdef bint last = depth == len(keys) - 1
    if not p.plain or not p.is_nla or p.ft != FT_GENERIC or p.risky or pos > limit or depth > 16:
        return _NO
    if off + length > limit or length < 4 or not p.has_map:
        return _NO
    lookup = p.look_up(p.get_lookups, keys[depth], True)
    if lookup is None or lookup.type == -2:
        return _NO
    first = pos = start + align4(pos - start)
    while pos - off <= length - 4:
        if pos + 4 > limit:
            return _NO
        n = load16(base + pos)
        wire = load16(base + pos + 2) & lx.NLA_TYPE_MASK
        if n < 4:
            n = 4
        if n > length - pos + off:
            n = length - pos + off
        if wire == lookup.type:
            attr = lookup.attr
            if attr.array:
                return _NO
            if attr.choice == C_CLASS:
                ap = attr.plan()
            elif attr.choice == C_KIND:
                kind = earlier(p, data, off, first, pos, length, "IFLA_INFO_KIND")
                if kind is _NO:
                    return _NO
                ap = plan(p.cls.data_map.get(kind, p.cls.hex))
            else:
                return _NO
            if attr.init is not None and ap.needs_init:
                return _NO
            if not last and ap.plain:
                return peek_inner(ap, data, start, pos, limit, keys, depth + 1)
            value = quick(ap, data, pos, limit, length - pos + off, -1, p.cls, attr.init)
            if value is _NO:
                return _NO
            break
        pos += align4(n)
    if value is None and lookup.field >= 0:
        value = read_field(&p.fields[lookup.field], data, off + 4 + p.fields[lookup.field].offset)
    return value if last or value is _NO else None


cdef object peek_path(object obj, Plan p, tuple keys):
    """get_nested(*keys) of an unfilled message, or _NO."""
    cdef View v
    cdef Lookup lookup = p.look_up(p.get_lookups, keys[0], True)
    cdef Attr attr
    cdef Plan ap
    cdef Py_ssize_t pos
    if lookup is None or lookup.type < 0 or p.ft != FT_GENERIC or p.decode == D_PYTHON:
        return _NO
    attr = lookup.attr
    if attr.choice != C_CLASS or attr.array:
        return _NO
    ap = attr.plan()
    if not ap.plain:
        return _NO
    v = view_of(obj)
    pos = find_attr(obj, p, lookup.type, &v)
    if pos < 0:
        return _NO
    if pos == 0:
        return _NO if lookup.field >= 0 else None
    return peek_inner(ap, <bytes>slot(obj, O_DATA), v.off, v.off + pos, v.off + v.limit, keys, 1)


cdef Py_ssize_t find_attr(object obj, Plan p, long type, View *v) except? -2:
    """Where in an unfilled message the first attribute of a type is; 0: nowhere, -1: not without filling it."""
    cdef Py_ssize_t pos = lx.NLMSG_HDRLEN + p.fixed
    cdef Py_ssize_t n
    cdef uint16_t wire
    cdef Attr attr
    if pos > v.limit:
        return -1
    pos = align4(pos)
    while pos <= v.length - 4:
        if pos + 4 > v.limit:
            return -1
        n = load16(v.base + pos)
        wire = load16(v.base + pos + 2) & lx.NLA_TYPE_MASK
        if wire == type:
            return pos
        if p.risky:
            attr = p.attr_of(wire)
            if attr is not None and attr.choice >= C_FAMILY and not harmless(obj, p, attr, v):
                return -1
        if n < 4:
            n = 4
        if n > v.length - pos:
            n = v.length - pos
        pos += align4(n)
    return 0


def _lazy_getitem(self, key):
    return getitem(self, key)


def _lazy_contains(self, key):
    cdef Plan p = <Plan>slot(self, O_PLAN)
    if not is_filled(self):
        if type(key) is str and is_message(self) and p.decode != D_PYTHON and (key in p.index or key == S_HEADER):
            return True
        fill(self)
    return dict.__contains__(self, key)


def _lazy_get(self, key, default=None):
    """Universal get() for a netlink message."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    cdef Lookup lookup
    cdef object value
    if not is_filled(self):
        if type(key) is tuple and len(key) == 1:
            key = key[0]
        if type(key) is str and is_message(self):
            lookup = p.look_up(p.get_lookups, key, True)
            value = peek_attr(self, p, lookup)
            if value is _MISSING or value is None:
                if lookup.field >= 0:
                    value = peek_field(self, p, lookup.field)
                else:
                    value = peek_item(self, p, key)
            if value is not _NO:
                return default if value is None else value
        elif type(key) is tuple and len(key) > 1 and is_message(self):
            value = peek_path(self, p, key)
            if value is not _NO:
                return default if value is None else value
        fill(self)
    value = nested(self, (key,) if isinstance(key, str) else tuple(key))
    return default if value is None else value


def _lazy_get_nested(self, *keys):
    """Return nested NLA or None."""
    cdef object value
    if not is_filled(self) and is_message(self):
        if len(keys) == 1:
            return _lazy_get(self, keys)
        if keys:
            value = peek_path(self, <Plan>slot(self, O_PLAN), keys)
            if value is not _NO:
                return value
    fill(self)
    return nested(self, keys)


def _lazy_get_attr(self, attr, default=None):
    """Return the first NLA with that name or None."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    cdef object value
    if not is_filled(self) and type(attr) is str and is_message(self):
        value = peek_attr(self, p, p.look_up(p.attr_lookups, attr, False))
        if value is _MISSING:
            return default
        if value is not _NO:
            return value
    fill(self)
    value = attrs_by_name(self, p, attr, True)
    if value is _NO:
        return nlmsg_base.get_attr(self, attr, default)
    return default if value is _MISSING else value


def _lazy_get_attrs(self, attr):
    """Return attrs by name or an empty list."""
    fill(self)
    value = attrs_by_name(self, <Plan>slot(self, O_PLAN), attr, False)
    return nlmsg_base.get_attrs(self, attr) if value is _NO else value


cdef object dump_attrs(object attrs):
    """nlmsg_base.dump_attrs()."""
    cdef list result = []
    cdef object item, value, name
    Py_EnterRecursiveCall(" while dumping a netlink message")
    try:
        for item in attrs:
            if is_slot(item):
                name = (<tuple>slot(item, O_CELL))[0]
                value = slot_value(item)
            elif isinstance(item, nlmsg_base):
                result.append(item.dump())
                continue
            elif isinstance(item, (set, list, tuple, nla_slot)):
                name = item[0]
                value = item[1]
            elif isinstance(item, dict):
                if S_ATTRS in item:
                    item[S_ATTRS] = dump_attrs(item[S_ATTRS])
                result.append(item)
                continue
            else:
                result.append(item)
                continue
            if isinstance(value, nlmsg_base):
                value = value.dump()
            elif isinstance(value, (set, list, tuple)):
                value = dump_attrs(value)
            elif isinstance(value, bytes):
                value = fns_hex(<const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
            result.append([name, value])
    finally:
        Py_LeaveRecursiveCall()
    return result


def _lazy_dump(self):
    """Dump packet as a dict."""
    cdef object value
    cdef dict result
    fill(self)
    value = value_of(self)
    if not isinstance(value, dict):
        return value.dump() if isinstance(value, nlmsg_base) else value
    result = {}
    for key, item in dict.items(self) if value is self else value.items():
        if key == S_HEADER:
            result[S_HEADER] = dict(item)
        elif key == S_ATTRS:
            result[S_ATTRS] = dump_attrs(item)
        else:
            result[key] = item
    return result


def _lazy_ft_decode(self, offset):
    """Fields and attributes for a class that has a decode() of its own, which calls this by way of pyroute2's."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    cdef dict d
    cdef list attrs
    cdef PyObject *found
    cdef bytes data
    cdef Py_ssize_t pos, i
    cdef bint published = True
    if not p.own_ft or not is_filled(self) or not isinstance(<object>slot(self, O_DATA), bytes):
        return p.cls.ft_decode(self, offset)
    data = bytes(<object>slot(self, O_DATA))
    pos = offset
    if pos < 0 or pos + p.fixed > PyBytes_GET_SIZE(data):
        return p.cls.ft_decode(self, offset)
    d = {}
    for i in range(p.nfields):
        PyDict_SetItem(d, <object>p.fields[i].name, read_field(&p.fields[i], data, pos + p.fields[i].offset))
    if not p.has_map:
        PyDict_Update(self, d)
        dict.pop(self, S_ATTRS)
        return None
    found = PyDict_GetItemWithError(self, S_ATTRS)
    if found == NULL or type(<object>found) is not list or <object>found:
        return p.cls.ft_decode(self, offset)
    attrs = <list>found
    PyDict_Update(self, d)
    if read_attrs(p, self, data, <object>slot(self, O_OFFSET), <object>slot(self, O_LENGTH),
                  align4(pos + p.fixed), attrs, d, &published):
        attrs.clear()
        return p.cls.ft_decode(self, offset)
    return None


def _lazy_decode(self):
    """Decode the message."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    if is_filled(self):
        return decode_in_python(self, p)
    if slot(self, O_ARRAY) != NULL:
        fill_cell(self, False)
        return None
    fill_message(self)
    return p.cls.decode(self)


def _lazy_getvalue(self):
    cdef Plan p = <Plan>slot(self, O_PLAN)
    cdef object value
    if not is_filled(self):
        if p.plain and p.decode != D_PYTHON and not (
            slot(self, O_ARRAY) != NULL and <object>slot(self, O_ARRAY)
        ):
            return self
        fill(self)
    return value_of(self)


def _lazy_copy(self):
    """Return a decoded copy of the netlink message."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    fill(self)
    data = <object>slot(self, O_DATA)
    if isinstance(data, bytes):
        data = _Bounded(data)  # its own count of what is read
    copy = p.cls(data=data, offset=<object>slot(self, O_OFFSET))
    copy.decode()
    return copy


def _lazy_reduce(self):
    cdef Plan p = <Plan>slot(self, O_PLAN)
    fill(self)
    return (p.cls, (), self.dump())


def _lazy_setattr(self, name, value):
    fns_track(self)
    PyObject_GenericSetAttr(self, name, value)


def _lazy_or(self, other):
    fill(self)
    return dict.__or__(self, other)


def _lazy_ror(self, other):
    fill(self)
    return dict.__ror__(self, other)


def _lazy_eq(self, other):
    fill(self)
    if type(other) is (<Plan>slot(self, O_PLAN)).cls:
        # pyroute2's comparison is "nothing of the left is missing on the right", and Python asks a subclass's instance
        # first, on whichever side it stands: leave `plain == lazy` to the plain one
        return NotImplemented
    return nlmsg_base.__eq__(self, other)


def _lazy_ne(self, other):
    equal = _lazy_eq(self, other)
    return equal if equal is NotImplemented else not equal


def _lazy_class(self):
    return (<Plan>slot(self, O_PLAN)).cls


def _filled(name):
    """A method of dict or nlmsg_base that looks at the whole object."""
    method = getattr(nlmsg_base, name)

    def call(self, *args, **kwarg):
        fill(self)
        return method(self, *args, **kwarg)

    call.__name__ = name
    call.__qualname__ = f"nlmsg_base.{name}"
    call.__doc__ = method.__doc__
    return call


cdef class SlotProxy:
    """A slot of pyroute2's message class, on a lazy class: reading it fills the message first."""
    cdef Py_ssize_t offset
    cdef str name
    cdef bint early      # set on an attribute from the start

    def __init__(self, name, early):
        self.name = name
        self.early = early
        self.offset = _offset_of(nlmsg_base, name)

    def __get__(self, obj, owner):
        if obj is None:
            return self
        if not is_filled(obj) and not (self.early and slot(obj, O_ARRAY) != NULL):
            if self.offset == O_DECODED and slot(obj, O_ARRAY) != NULL:
                return False
            fill(obj)
        if slot(obj, self.offset) == NULL:
            if self.offset == O_CHAIN:
                # made when somebody asks: a list that holds its owner would make every message a cycle
                slot_set(obj, O_CHAIN, [obj])
                return <object>slot(obj, O_CHAIN)
            raise AttributeError(self.name)
        return <object>slot(obj, self.offset)

    def __set__(self, obj, value):
        if not is_filled(obj) and not (self.early and slot(obj, O_ARRAY) != NULL):
            fill(obj)
        fns_track(obj)
        slot_set(obj, self.offset, value)


LAZY_METHODS = {
    name: _filled(name)
    for name in (
        "__len__ __iter__ __reversed__ __setitem__ __delitem__ __repr__ __sub__ __and__ "
        "__sizeof__ __bool__ keys values items pop popitem setdefault update clear setvalue "
        "load __setstate__"
    ).split()
    if hasattr(nlmsg_base, name)
}
LAZY_METHODS.update(
    __getitem__=_lazy_getitem,
    __contains__=_lazy_contains,
    __eq__=_lazy_eq,
    __ne__=_lazy_ne,
    __or__=_lazy_or,
    __ror__=_lazy_ror,
    __setattr__=_lazy_setattr,
    __reduce__=_lazy_reduce,
    __class__=property(_lazy_class),
    get=_lazy_get,
    get_nested=_lazy_get_nested,
    get_attr=_lazy_get_attr,
    get_attrs=_lazy_get_attrs,
    dump=_lazy_dump,
    ft_decode=_lazy_ft_decode,
    getvalue=_lazy_getvalue,
    decode=_lazy_decode,
    copy=_lazy_copy,
)
if hasattr(dict, "__ior__"):
    LAZY_METHODS["__ior__"] = _filled("__ior__")
for _name in ("_buf", "chain", "decoded", "value"):
    LAZY_METHODS[_name] = SlotProxy(_name, False)
for _name in ("data", "offset", "length", "parent", "_nla_init", "_nla_array", "_nla_flags"):
    LAZY_METHODS[_name] = SlotProxy(_name, True)
del _name
