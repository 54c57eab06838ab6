# From message objects to bytes: what pyroute2's encode() does, without its objects.
#
# pyroute2 makes an instance of the attribute's class for every attribute, nested ones included. Here the values are
# written straight from what the user put into `attrs`. That is done for the functions of pyroute2 which are known by
# identity, and for values of the plain types; everything else (another `encode`, a value that has to be converted or
# refused) is answered with "not plain", and the whole attribute of the message is then encoded by pyroute2's code
# in its place. So every exception, and every odd conversion, is pyroute2's.
#
# After encoding, pyroute2 has replaced each attribute by a slot with the attribute's instance. Such a slot is left
# behind here too, and makes its instance when somebody looks.

# -- values ----------------------------------------------------------------------------------------------------------
#
# All of these return 1 for done, 0 for "not plain", -1 for an exception (of the interpreter: memory).

cdef inline int enc_number(uint8_t *at, object value, int size, bint swap, long long low, unsigned long long high) except -1:
    cdef long long number
    cdef unsigned long long big
    cdef uint8_t raw[8]
    cdef int overflow = 0, i
    if not PyLong_Check(value):
        return 0
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        if overflow < 0 or low < 0 or high != <unsigned long long> -1:
            return 0
        if value > high:
            return 0
        big = value
        memcpy(raw, &big, 8)
    else:
        if number < low or (number > 0 and <unsigned long long> number > high):
            return 0
        store_int(raw, number, size)
    if swap:
        for i in range(size):
            at[i] = raw[size - 1 - i]
    else:
        memcpy(at, raw, size)
    return 1


cdef int enc_value(Buf *buf, _EncField field, object value, int zstring) except -1:
    """What encode_field() writes for one field."""
    cdef Py_ssize_t length, i, count
    cdef const char *text
    cdef uint8_t *at
    cdef Py_ssize_t start
    if field.kind == EF_INT:
        at = buf_reserve(buf, field.size)
        return enc_number(at, value, field.item, field.swap, field.low, field.high)
    if field.kind == EF_PAD:
        if not PyLong_Check(value):
            return 0
        at = buf_reserve(buf, field.size)
        memset(at, 0, field.size)
        return 1
    if field.kind == EF_TEXT or field.kind == EF_BYTES:
        if PyBytes_CheckExact(value):
            text, length = PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        elif PyUnicode_CheckExact(value) and (<str> value).isascii():
            text = PyUnicode_AsUTF8AndSize(value, &length)
        else:
            return 0
        if field.kind == EF_TEXT:
            if length > 65535:
                return 0
            at = buf_reserve(buf, length + zstring)
            memcpy(at, text, length)
            memset(at + length, 0, zstring)
        else:
            at = buf_reserve(buf, field.size)
            if length >= field.size:
                memcpy(at, text, field.size)
            else:
                memcpy(at, text, length)
                memset(at + length, 0, field.size - length)
        return 1
    # several numbers
    if type(value) is list:
        count = PyList_GET_SIZE(value)
    elif type(value) is tuple:
        count = PyTuple_GET_SIZE(value)
    else:
        return 0
    if count != field.count:
        return 0
    start = buf.length
    buf_reserve(buf, field.size)
    for i in range(count):
        item = value[i]
        if enc_number(buf.data + start + i * field.item, item, field.item, field.swap, field.low, field.high) != 1:
            return 0
    return 1


cdef int enc_fields(Buf *buf, _EncPlan plan, dict value) except -1:
    """The fields of a structure, from the entries of a dictionary."""
    cdef _EncField field
    cdef PyObject *found
    cdef object item
    for field in plan.fields:
        found = PyDict_GetItem(value, field.name)
        if found == NULL:
            if field.zero:
                memset(buf_reserve(buf, field.size), 0, field.size)
                continue
            item = field.default
            if field.kind != EF_PAD and type(item) is not int:
                return 0
            if item != 0 and enc_has_attr(plan, value, field.name):
                return 0
            if item == 0 and field.kind == EF_INTS and field.item == 1 and field.low == 0:
                memset(buf_reserve(buf, field.size), 0, field.size)
                continue
        else:
            item = <object> found
            if field.kind == EF_INTS and field.item == 1 and field.low == 0 and type(item) is int and item == 0:
                memset(buf_reserve(buf, field.size), 0, field.size)
                continue
        if enc_value(buf, field, item, plan.zstring) != 1:
            return 0
    return 1


cdef bint enc_has_attr(_EncPlan plan, dict value, str field) except -1:
    """An attribute named like a field is found first by get(), and then the default does not count."""
    name = plan.cls.name2nla(field) if plan.prefix else field.upper()
    for cell in value.get("attrs", ()):
        if cell[0] == name:
            return True
    return False


cdef int enc_text(Buf *buf, object value, int zstring) except -1:
    cdef Py_ssize_t length
    cdef const char *text
    cdef uint8_t *at
    if PyBytes_CheckExact(value):
        text, length = PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
    elif PyUnicode_CheckExact(value):
        try:
            text = PyUnicode_AsUTF8AndSize(value, &length)
        except UnicodeEncodeError:
            return 0
    else:
        return 0
    if length > 65000:
        return 0
    at = buf_reserve(buf, length + zstring)
    memcpy(at, text, length)
    memset(at + length, 0, zstring)
    return 1


cdef int enc_address(Buf *buf, object value, int wanted) except -1:
    """wanted: AF_INET, AF_INET6, or 0 for the family of the text."""
    cdef uint8_t address[16]
    cdef int family
    cdef Py_ssize_t length
    cdef const char *text
    if not PyUnicode_CheckExact(value) or not (<str> value).isascii():
        return 0
    text = PyUnicode_AsUTF8AndSize(value, &length)
    if not parse_address(text, length, address, &family) or (wanted and family != wanted):
        return 0
    length = address_length(family)
    memcpy(buf_reserve(buf, length), address, length)
    return 1


cdef int enc_hardware(Buf *buf, object value, bint any_kind) except -1:
    cdef uint8_t address[16]
    cdef Py_ssize_t length
    cdef const char *text
    if not PyUnicode_CheckExact(value) or not (<str> value).isascii():
        return 0
    text = PyUnicode_AsUTF8AndSize(value, &length)
    if parse_mac(text, length, address):
        memcpy(buf_reserve(buf, 6), address, 6)
        return 1
    if any_kind and not (length == 17 and memchr(text, 58, length) != NULL):
        return enc_address(buf, value, 0)
    return 0


cdef int enc_numbers(Buf *buf, _EncAttr attr, object value) except -1:
    cdef Py_ssize_t start = buf.length, count, i
    if type(value) is not list and type(value) is not tuple:
        return 0
    count = len(value)
    if count > 16000:
        return 0
    buf_reserve(buf, count * attr.item)
    for i in range(count):
        item = value[i]
        if enc_number(buf.data + start + i * attr.item, item, attr.item, attr.swap, attr.low, attr.high) != 1:
            return 0
    return 1


cdef class _EncContext:
    """What functions of pyroute2 find by walking up from an attribute."""
    cdef object message
    cdef object family
    cdef bint family_known
    cdef list parents        # the values around, outermost first


cdef int enc_target(Buf *buf, _EncAttr attr, object value, _EncContext context) except -1:
    """An address of the family that the message says."""
    cdef object family = attr.family
    if type(family) is str:
        # an attribute of whatever is around
        if context.parents:
            return 0
        family = context.message.get(family)
    elif family is None:
        for parent in context.parents:
            if parent is not None and not enc_no_family(parent):
                return 0
        if not context.family_known:
            context.family = context.message.get("family")
            context.family_known = True
        family = context.family
    if family == lx.AF_INET:
        return enc_address(buf, value, lx.AF_INET)
    if family == lx.AF_INET6:
        return enc_address(buf, value, lx.AF_INET6)
    return 0


cdef bint enc_no_family(dict parent) except -1:
    if "family" in parent:
        return False
    for cell in parent.get("attrs", ()):
        if type(cell[0]) is str and cell[0].endswith("FAMILY"):
            return False
    return True


# -- attributes ------------------------------------------------------------------------------------------------------

cdef inline void enc_close(Buf *buf, Py_ssize_t start, int nla_type, Py_ssize_t length) noexcept nogil:
    cdef uint16_t header[2]
    header[0] = <uint16_t> length
    header[1] = <uint16_t> nla_type
    memcpy(buf.data + start, header, 4)


cdef inline Py_ssize_t enc_pad(Buf *buf, Py_ssize_t start) except -1:
    cdef Py_ssize_t pad = -(buf.length - start) & 3
    if pad:
        memset(buf_reserve(buf, pad), 0, pad)
    return pad


cdef int enc_dict(Buf *buf, _EncPlan plan, dict value, _EncContext context, int depth, Py_ssize_t start) except -1:
    """Fields and attributes of a structured value, header excluded. The length is -1 - it for the caller: see below."""
    cdef Py_ssize_t diff
    if PyDict_Contains(value, "value") or PyDict_Contains(value, "header"):
        return 0
    if plan.fields:
        if enc_fields(buf, plan, value) != 1:
            return 0
    # the padding of the fields is not counted, and neither is it when attributes follow it
    diff = enc_pad(buf, start)
    if plan.has_map:
        context.parents.append(value)
        try:
            if enc_nested(buf, plan, value, context, depth) != 1:
                return 0
        finally:
            context.parents.pop()
    elif PyDict_Contains(value, "attrs"):
        return 0
    if buf.length - start - diff > 65535:
        return 0
    return 1 + <int> diff


cdef int enc_nested(Buf *buf, _EncPlan plan, dict value, _EncContext context, int depth) except -1:
    """The attributes of a nested value. Flags of a third item do not count here."""
    cdef PyObject *found = PyDict_GetItem(value, "attrs")
    cdef object attrs, name, item
    cdef _EncAttr attr
    cdef int done
    if found == NULL:
        return 1
    attrs = <object> found
    if type(attrs) is not list and type(attrs) is not tuple:
        return 0
    for cell in attrs:
        if type(cell) is list or type(cell) is tuple:
            if len(cell) < 2:
                return 0
            name, item = cell[0], cell[1]
        elif isinstance(cell, _nla_slot):
            name, item = cell[0], cell[1]
        else:
            return 0
        if type(name) is not str:
            return 0
        if isinstance(item, dict) and "value" in item:
            return 0
        attr = enc_attr(plan, name)
        if attr is None:
            # pyroute2 has looked at the value all the same
            if isinstance(item, dict) and "attrs" in item:
                return 0
            continue
        done = enc_attribute(buf, attr, None, item, 0, attrs, context, depth + 1)
        if done != 1:
            return done
    return 1


cdef int enc_attribute(
    Buf *buf, _EncAttr attr, object cls, object value, int flags, object siblings, _EncContext context, int depth
) except -1:
    """One attribute, header and padding included. cls is what a function of pyroute2 chose, or None."""
    cdef _EncPlan plan = attr.plan
    cdef Py_ssize_t start = buf.length
    cdef int nla_type = attr.type | flags
    cdef int done = 1
    cdef Py_ssize_t diff = 0
    if attr.bad or depth > ENC_DEPTH:
        return 0
    if attr.choose == CHOOSE_KIND or attr.choose == CHOOSE_PYTHON:
        if cls is None:
            if attr.choose != CHOOSE_KIND:
                return 0
            cls = enc_kind(siblings)
            if cls is None:
                return 0
        if not isinstance(cls, type) or not issubclass(cls, _nlmsg_base):
            return 0
        plan = enc_plan(cls)
        if not plan.plain or attr.array or plan.how == ENC_ARRAY or plan.how == ENC_TARGET:
            return 0
        if plan.cls.header != _nla_header.header:
            return 0
        nla_type |= plan.flags
    if nla_type > 0xFFFF or nla_type < 0:
        return 0
    buf_reserve(buf, 4)
    if attr.array:
        done = enc_cells(buf, attr, plan, value, flags, context, depth)
        if done != 1:
            return done
    elif value is None:
        if (plan.how != ENC_BASE and plan.how != ENC_STRING) or plan.reverse is not None:
            return 0
    else:
        done = enc_one(buf, attr, plan, value, context, depth, start)
        if done <= 0:
            return done
        diff = done - 1
    if buf.length - start - diff > 65535:
        return 0
    # scalars have no padding yet, structures have
    enc_close(buf, start, nla_type, buf.length - start - diff)
    enc_pad(buf, start)
    return 1


cdef int enc_one(
    Buf *buf, _EncAttr attr, _EncPlan plan, object value, _EncContext context, int depth, Py_ssize_t start
) except -1:
    """The payload of a value that is not None: 1 and the padding already written and not to be counted."""
    cdef _EncField field
    cdef PyObject *found
    if isinstance(value, dict):
        if plan.how == ENC_RTMSG or plan.how == ENC_LINK:
            if type(value.get("flags", 0)) is not int or type(value.get("scope", 0)) is not int:
                return 0
        elif plan.how != ENC_BASE:
            return 0
        if type(value) is not dict:
            value = dict(value)
        return enc_dict(buf, plan, <dict> value, context, depth, start)
    if value is _NotInitialized:
        return 0
    if plan.reverse is not None and (PyUnicode_CheckExact(value) or PyLong_Check(value)):
        found = PyDict_GetItem(plan.reverse, value)
        if found != NULL:
            value = <object> found
            if value is None:
                return 0
    if plan.how == ENC_BASE:
        if plan.has_map:
            return 0
        if not plan.fields:
            return 1
        if not plan.single:
            return 0
        field = <_EncField> <object> PyList_GET_ITEM(plan.fields, 0)
        if field.kind == EF_INTS and type(value) is int and value == 0:
            return 0
        return enc_value(buf, field, value, plan.zstring)
    if plan.how == ENC_STRING:
        return enc_text(buf, value, plan.zstring)
    if plan.how == ENC_IPADDR:
        return enc_address(buf, value, 0)
    if plan.how == ENC_IP4:
        return enc_address(buf, value, lx.AF_INET)
    if plan.how == ENC_IP6:
        return enc_address(buf, value, lx.AF_INET6)
    if plan.how == ENC_TARGET:
        return enc_target(buf, attr, value, context)
    if plan.how == ENC_L2:
        return enc_hardware(buf, value, False)
    if plan.how == ENC_LL:
        return enc_hardware(buf, value, True)
    if plan.how == ENC_ARRAY:
        return enc_numbers(buf, attr, value)
    if plan.how == ENC_STATE:
        if not PyUnicode_CheckExact(value):
            return 0
        found = PyDict_GetItem(plan.lookup, value)
        if found == NULL:
            return 0
        return enc_value(buf, <_EncField> <object> PyList_GET_ITEM(plan.fields, 0), <object> found, 0)
    if plan.how == ENC_NETNS:
        if not PyLong_Check(value):
            return 0
        return enc_value(buf, <_EncField> <object> PyList_GET_ITEM(plan.fields, 0), value, 0)
    return 0


cdef object enc_kind(object siblings):
    """The class of IFLA_INFO_DATA beside the IFLA_INFO_KIND among `siblings`, as ifinfo.info_data() finds it."""
    for cell in siblings:
        if cell[0] == "IFLA_INFO_KIND":
            kind = cell[1]
            if type(kind) is not str:
                return None
            return _ifinfbase.ifinfo.data_map.get(kind, _ifinfbase.ifinfo.hex)
    return _ifinfbase.ifinfo.hex


cdef int enc_cells(
    Buf *buf, _EncAttr attr, _EncPlan plan, object value, int flags, _EncContext context, int depth
) except -1:
    """An array: one cell of the class per item, each with a header of its own."""
    cdef Py_ssize_t start, header, diff
    cdef int number = 1, done
    cdef uint16_t word
    if type(value) is not list and type(value) is not tuple:
        return 0
    context.parents.append(None)
    try:
        for item in value:
            if isinstance(item, _nlmsg_base) or item is None:
                return 0
            start = buf.length
            header = plan.cell_header
            buf_reserve(buf, header)
            done = enc_one(buf, attr, plan, item, context, depth + 1, start)
            if done <= 0:
                return done
            diff = done - 1
            if buf.length - start - diff > 65535:
                return 0
            if header == 2:
                word = <uint16_t> (buf.length - start - diff)
                memcpy(buf.data + start, &word, 2)
            else:
                if plan.header_type is not None and plan.header_type:
                    if type(plan.header_type) is not int or not 0 <= plan.header_type <= 0xFFFF:
                        return 0
                    word = plan.header_type
                else:
                    # the container's own flags, not the item's
                    if number > 0x3FFF:
                        return 0
                    word = <uint16_t> (number | (<int> attr.prime["nla_flags"]) | plan.flags | flags)
                enc_close(buf, start, word, buf.length - start - diff)
            number += 1
            enc_pad(buf, start)
    finally:
        context.parents.pop()
    return 1


# -- messages --------------------------------------------------------------------------------------------------------

_new_object = object.__new__


class EncodedSlot(_nla_slot):
    """What encoding leaves in `attrs`: the name at once, the attribute's instance when somebody asks for it."""

    __slots__ = ("late",)

    @property
    def cell(self):
        if self.late is not None:
            name, late = self.late
            _nla_slot.cell.__set__(self, (name, _late_instance(*late)))
            self.late = None
        return _nla_slot.cell.__get__(self)

    @cell.setter
    def cell(self, value):
        _nla_slot.cell.__set__(self, value)
        self.late = None

    @property
    def name(self):
        return self.cell[0] if self.late is None else self.late[0]

    def __getitem__(self, key):
        if key == 0 and type(key) is int and self.late is not None:
            return self.late[0]
        return _nla_slot.__getitem__(self, key)


def _late_instance(parent, data, offset, prime, cls, value, flags):
    """The instance that pyroute2's encoding would have made, encoded by it: its state is the same, and its data is
    the message's."""
    if isinstance(parent, _weakref.ReferenceType):
        parent = parent()
    scratch = bytearray(offset)
    instance = cls(data=scratch, offset=offset, parent=parent, init=prime["init"])
    instance._nla_flags |= prime["nla_flags"] | flags
    instance._nla_array = prime["nla_array"]
    instance.setvalue(value)
    instance["header"]["type"] = prime["type"] | instance._nla_flags
    instance.encode()
    instance.decoded = True
    _set_data(instance, scratch, data)
    return instance


def _set_data(instance, scratch, data):
    if instance.data is scratch:
        instance.data = data
        for cell in instance.get("attrs") or ():
            if isinstance(cell, _nla_slot):
                _set_data(cell.cell[1], scratch, data)


cdef inline object _plain_class(object msg):
    """The class of pyroute2 or of its user; a lazy message stands for it."""
    cdef object cls = type(msg)
    return getattr(cls, "_original", cls)


cdef int enc_header(Buf *buf, dict header) except -1:
    """Everything but the length."""
    cdef uint8_t *at = buf_reserve(buf, lx.NLMSG_HDRLEN)
    cdef PyObject *found
    memset(at, 0, lx.NLMSG_HDRLEN)
    found = PyDict_GetItem(header, "type")
    if found != NULL and enc_number(at + 4, <object> found, 2, False, 0, 0xFFFF) != 1:
        return 0
    found = PyDict_GetItem(header, "flags")
    if found != NULL and enc_number(at + 6, <object> found, 2, False, 0, 0xFFFF) != 1:
        return 0
    found = PyDict_GetItem(header, "sequence_number")
    if found != NULL and enc_number(at + 8, <object> found, 4, False, 0, 0xFFFFFFFF) != 1:
        return 0
    found = PyDict_GetItem(header, "pid")
    if found != NULL and enc_number(at + 12, <object> found, 4, False, 0, 0xFFFFFFFF) != 1:
        return 0
    return 1


cdef int enc_python(Buf *buf, object msg, bytearray data, object name, object prime, object cls, object value,
                    int flags, list attrs, Py_ssize_t index) except -1:
    """One attribute by pyroute2's own code: the body of its encode_nlas()."""
    cdef Py_ssize_t offset = buf.length, length
    enc_flush(buf, data)
    if cls is None:
        cls = prime["class"]
        if isinstance(cls, _types.FunctionType):
            cls = cls(msg, value=value)
    instance = cls(data=data, offset=offset, parent=msg, init=prime["init"])
    instance._nla_flags |= prime["nla_flags"] | flags
    instance._nla_array = prime["nla_array"]
    instance.setvalue(value)
    instance["header"]["type"] = prime["type"] | instance._nla_flags
    instance.encode()
    instance.decoded = True
    attrs[index] = _nla_slot(prime["name"], instance)
    length = ((<Py_ssize_t> instance.length) + 3) & ~<Py_ssize_t>3
    # the buffer goes on where pyroute2 would
    buf.length = offset
    buf_reserve(buf, length)
    memset(buf.data + offset, 0, length)
    memcpy(buf.data + offset, PyByteArray_AS_STRING(data) + offset, min(length, PyByteArray_GET_SIZE(data) - offset))
    if PyByteArray_GET_SIZE(data) != buf.length:
        # an encoder that left the data longer or shorter: what follows lands where pyroute2 puts it
        return 0
    return 1


cdef int enc_flush(Buf *buf, bytearray data) except -1:
    PyByteArray_Resize(data, buf.length)
    memcpy(PyByteArray_AS_STRING(data), buf.data, buf.length)
    return 0


def encode(msg):
    """Encode a message object of any of pyroute2's classes (or a user's own) and return the bytes.

    The bytes, what is left in the object (`data`, `length`, `header` with its length, slots in `attrs`) and the
    exceptions for what cannot be encoded are those of `msg.encode()`. Not to be called for one object from several
    threads at once.
    """
    cdef Buf buf
    cdef uint8_t room[2048]
    cdef bytes result
    cdef object cls = _plain_class(msg)
    cdef _EncPlan plan = enc_plan(cls)
    buf.data, buf.length, buf.size, buf.heap = room, 0, sizeof(room), False
    try:
        result = enc_message(&buf, msg, cls, plan)
    finally:
        if buf.heap:
            free(buf.data)
    if result is None:
        cls.encode(msg)
        return bytes(msg.data)
    return result


cdef bytes enc_message(Buf *buf, object msg, object cls, _EncPlan plan):
    """None if pyroute2 has to do it; nothing has happened then."""
    cdef object data, header, attrs, cell, name, value, chosen, reference, parent, slot
    cdef dict fields
    cdef PyObject *found
    cdef _EncAttr attr
    cdef _EncContext context
    cdef Py_ssize_t start, index, diff, offset
    cdef int done, flags
    cdef lx.nlmsghdr head
    if not plan.plain or not isinstance(msg, _nlmsg_base) or cls.header != _nlmsg_class.header:
        return None
    if plan.how != ENC_BASE and plan.how != ENC_RTMSG and plan.how != ENC_ROUTE and plan.how != ENC_LINK:
        return None
    if type(msg) is not cls:
        len(msg)                                       # a lazy message fills itself
    data = msg.data
    if type(data) is not bytearray or PyByteArray_GET_SIZE(data) or msg.offset != 0 or msg._nla_array:
        return None
    if msg.value is not _NotInitialized or dict.__contains__(msg, "value"):
        return None
    if plan.own_parent:
        return None
    header = dict.get(msg, "header")
    if type(header) is not dict:
        return None
    fields = <dict> msg
    attrs = dict.get(msg, "attrs")
    if plan.has_map and type(attrs) is not list:
        return None
    if plan.how != ENC_BASE:
        if type(dict.get(msg, "flags", 0)) is not int or type(dict.get(msg, "scope", 0)) is not int:
            return None
    if plan.how == ENC_ROUTE:
        value = dict.get(msg, "family", 0)
        if type(value) is not int and not isinstance(value, int) or value == lx.AF_MPLS:
            return None
    if enc_header(buf, header) != 1:
        return None
    # it is written last, as whoever sees a message whose encoding failed may notice
    memcpy(&head, buf.data, sizeof(head))
    memset(buf.data, 0, lx.NLMSG_HDRLEN)
    if plan.fields and enc_fields(buf, plan, fields) != 1:
        return None
    diff = enc_pad(buf, 0)
    if plan.has_map:
        context = _EncContext.__new__(_EncContext)
        context.message = msg
        context.parents = []
        reference = _weakref.ref(msg)
        for index in range(len(attrs)):
            cell = attrs[index]
            name = cell[0]
            if type(name) is str:
                attr = enc_attr(plan, name)
            elif name in plan.names:
                attr = _enc_make_attr(plan, name)
            else:
                continue
            if attr is None:
                continue
            value = cell[1]
            flags = cell[2] if isinstance(cell, tuple) and len(cell) > 2 else 0
            chosen = attr.prime["class"]
            if attr.choose != CHOOSE_NOT:
                chosen = attr.plan.cls if attr.choose == CHOOSE_FIXED else chosen(msg, value=value)
            start = buf.length
            done = enc_attribute(buf, attr, chosen, value, flags, attrs, context, 0)
            if done == 1:
                parent = msg if enc_plan(chosen).own_parent else reference
                slot = _new_object(EncodedSlot)
                slot.late = (name, (parent, data, start, attr.prime, chosen, value, flags))
                attrs[index] = slot
                continue
            buf.length = start
            if enc_python(buf, msg, data, name, attr.prime, chosen, value, flags, attrs, index) != 1:
                return enc_rest(buf, msg, plan, data, attrs, index + 1, diff, &head)
    msg.length = header["length"] = buf.length - diff
    head.nlmsg_len = <uint32_t> (buf.length - diff)
    memcpy(buf.data, &head, sizeof(head))
    enc_flush(buf, data)
    return PyBytes_FromStringAndSize(<char *> buf.data, buf.length)


cdef bytes enc_rest(Buf *buf, object msg, _EncPlan plan, bytearray data, list attrs, Py_ssize_t index,
                    Py_ssize_t diff, const lx.nlmsghdr *header):
    """The attributes behind one whose encoder did not keep to the alignment, as encode_nlas() writes them."""
    cdef Py_ssize_t offset = buf.length
    for index in range(index, len(attrs)):
        cell = attrs[index]
        if cell[0] in plan.names:
            prime = plan.names[cell[0]]
            chosen = prime["class"]
            if isinstance(chosen, _types.FunctionType):
                chosen = chosen(msg, value=cell[1])
            instance = chosen(data=data, offset=offset, parent=msg, init=prime["init"])
            instance._nla_flags |= prime["nla_flags"]
            if isinstance(cell, tuple) and len(cell) > 2:
                instance._nla_flags |= cell[2]
            instance._nla_array = prime["nla_array"]
            instance.setvalue(cell[1])
            instance["header"]["type"] = prime["type"] | instance._nla_flags
            instance.encode()
            instance.decoded = True
            attrs[index] = _nla_slot(prime["name"], instance)
            offset += (instance.length + 3) & ~3
    msg.length = msg["header"]["length"] = offset - diff
    memcpy(PyByteArray_AS_STRING(data), header, sizeof(header[0]))
    struct.pack_into("I", data, 0, offset - diff)
    return bytes(data)


def _lazy_encode(self):
    encode(self)


# what was received, changed and reset is encoded this way too
LAZY_METHODS["encode"] = _lazy_encode


def _encoding(cls, attribute=None):
    """Whether the class (or its attribute of that name) is encoded without pyroute2's code; for tests."""
    cdef _EncPlan plan = enc_plan(cls)
    cdef _EncAttr attr
    if attribute is None:
        return plan.plain
    attr = enc_attr(plan, attribute)
    return attr is not None and not attr.bad
