# Encoding plans: how each field and attribute of pyroute2's classes is written, compiled once; and the buffer that
# is written to.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdlib cimport free, malloc, realloc

import types as _types
import weakref as _weakref

from pyroute2.netlink import (
    NlaMapAdapter,
    NotInitialized as _NotInitialized,
    nla_base as _nla_base,
    nla_header as _nla_header,
    nla_slot as _nla_slot,
    nlmsg as _nlmsg_class,
    nlmsg_atoms as _atoms,
    nlmsg_base as _nlmsg_base,
    nlmsg_encoder_generic as _encoder_generic,
)
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase as _ifinfbase
from pyroute2.netlink.rtnl.rtmsg import nlflags as _nlflags, rtmsg as _rtmsg_class, rtmsg_base as _rtmsg_base


cdef enum:
    ENC_PYTHON = 0       # a function of its own: pyroute2's code
    ENC_BASE
    ENC_STRING           # text becomes bytes first
    ENC_IPADDR
    ENC_IP4
    ENC_IP6
    ENC_TARGET
    ENC_L2
    ENC_LL
    ENC_ARRAY
    ENC_STATE
    ENC_NETNS
    ENC_RTMSG            # base, as long as flags and scope are numbers
    ENC_ROUTE            # the same, as long as the family is not MPLS
    ENC_LINK             # base, as long as flags is a number

cdef enum:
    EF_INT = 1
    EF_PAD
    EF_TEXT              # 's': as long as the value
    EF_BYTES             # '16s'
    EF_INTS              # '32B'

cdef enum:
    CHOOSE_NOT = 0       # a class
    CHOOSE_KIND          # IFLA_INFO_DATA, by IFLA_INFO_KIND
    CHOOSE_FIXED         # a function that returns one class
    CHOOSE_PYTHON

cdef enum:
    ENC_DEPTH = 16       # deeper ones are pyroute2's

cdef struct Buf:
    uint8_t *data
    Py_ssize_t length
    Py_ssize_t size
    bint heap


cdef int buf_grow(Buf *buf, Py_ssize_t more) except -1:
    cdef Py_ssize_t size = buf.size * 2
    cdef uint8_t *data
    while size < buf.length + more:
        size *= 2
    if buf.heap:
        data = <uint8_t *> realloc(buf.data, size)
    else:
        data = <uint8_t *> malloc(size)
        if data != NULL:
            memcpy(data, buf.data, buf.length)
    if data == NULL:
        raise MemoryError()
    buf.data, buf.size, buf.heap = data, size, True
    return 0


cdef inline uint8_t *buf_reserve(Buf *buf, Py_ssize_t more) except NULL:
    if buf.length + more > buf.size:
        buf_grow(buf, more)
    buf.length += more
    return buf.data + buf.length - more


@cython.final
cdef class _EncField:
    cdef str name
    cdef int kind
    cdef int item            # bytes per number
    cdef bint swap
    cdef Py_ssize_t count
    cdef Py_ssize_t size
    cdef long long low
    cdef unsigned long long high
    cdef object default
    cdef bint zero           # without a value it is zero bytes


@cython.final
cdef class _EncPlan:
    """How instances of one class are encoded."""
    cdef object cls
    cdef int how
    cdef bint plain_header   # nlmsg's, or an attribute's
    cdef bint plain          # the class can be encoded here at all
    cdef bint adapter
    cdef list fields
    cdef bint single         # fields are one, called value
    cdef bint has_map
    cdef bint own_parent
    cdef int zstring
    cdef int flags
    cdef dict reverse        # value_map, by name
    cdef dict names          # pyroute2's table
    cdef dict attrs          # name -> _EncAttr
    cdef dict lookup
    cdef object family
    cdef Py_ssize_t cell_header
    cdef object header_type
    cdef str prefix


@cython.final
cdef class _EncAttr:
    cdef object prime
    cdef int type            # with the class's flags only when there is one class
    cdef int choose
    cdef bint array
    cdef _EncPlan plan
    cdef object family       # of a target: number, name of the attribute that says it, or None
    cdef bint bad            # not to be encoded here
    cdef int item            # of an array of numbers
    cdef bint swap
    cdef long long low
    cdef unsigned long long high


_enc_plans: dict = {}

_ENC_HOW = {
    _nlmsg_base.encode: ENC_BASE,
    _atoms.string.encode: ENC_STRING,
    _atoms.target.encode: ENC_TARGET,
    _atoms.l2addr.encode: ENC_L2,
    _atoms.lladdr.encode: ENC_LL,
    _atoms.array.encode: ENC_ARRAY,
    _atoms.ipXaddr.encode: ENC_IP4,
    _ifinfbase.state.encode: ENC_STATE,
    _ifinfbase.netns_fd.encode: ENC_NETNS,
    _nlflags.encode: ENC_RTMSG,
    _rtmsg_class.encode: ENC_ROUTE,
    _ifinfbase.encode: ENC_LINK,
}
_ENC_FIXED = {
    getattr(_ifinfbase.ifinfo.veth_data, "info_peer"),
    _rtmsg_base.get_nh,
}
_INT_SIZES = {c: struct.calcsize(c) for c in "bBhHiIlLqQ"}
_STANDARD_SIZES = {c: struct.calcsize("=" + c) for c in "bBhHiIlLqQ"}


def _enc_int(fmt):
    """(size, swapped, low, high) of a format of one number, or None."""
    import sys

    order = fmt[0] if fmt and fmt[0] in "@=<>!" else ""
    code = fmt[len(order):]
    if code not in _INT_SIZES or len(code) != 1:
        return None
    size = (_INT_SIZES if order in ("", "@") else _STANDARD_SIZES)[code]
    little = sys.byteorder == "little"
    swap = order in (">", "!") if little else order == "<"
    bits = 8 * size
    if code.islower():
        return size, swap, -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return size, swap, 0, (1 << bits) - 1


def _enc_field(name, fmt, defaults):
    """The plan of one field, or None for a format that is left to the struct module."""
    cdef _EncField field = _EncField()
    if not isinstance(fmt, str) or not isinstance(name, str):
        return None
    field.name = name
    field.default = defaults.get(name, 0)
    number = _enc_int(fmt)
    if number is not None:
        field.kind = EF_INT
        field.item, field.swap, field.low, field.high = number
        field.size = field.item
        field.zero = type(field.default) is int and field.default == 0
        return field
    order = fmt[0] if fmt and fmt[0] in "@=<>!" else ""
    digits, code = fmt[len(order):-1], fmt[-1:]
    if fmt == "s":
        field.kind = EF_TEXT
        return field
    if digits and not digits.isdigit():
        return None
    if code == "x":
        field.kind = EF_PAD
        field.size = int(digits or 1)
        field.zero = True
        return field
    if not digits:
        return None
    field.count = int(digits)
    if code == "s":
        field.kind = EF_BYTES
        field.size = field.count
        return field
    number = _enc_int(order + code)
    if number is None:
        return None
    field.kind = EF_INTS
    field.item, field.swap, field.low, field.high = number
    field.size = field.item * field.count
    return field


def _enc_make(cls):
    cdef _EncPlan plan = _EncPlan()
    plan.cls = cls
    plan.attrs = {}
    plan.fields = []
    plan.flags = cls.nla_flags if isinstance(cls.nla_flags, int) else 0
    plan.own_parent = bool(cls.own_parent)
    plan.has_map = bool(cls.nla_map)
    plan.prefix = cls.prefix
    plan.family = getattr(cls, "family", None)
    zstring = getattr(cls, "zstring", 0)
    plan.zstring = zstring if isinstance(zstring, int) and 0 <= zstring < 64 else -1
    plan.how = _ENC_HOW.get(cls.encode, ENC_PYTHON)
    if plan.how == ENC_IP4:
        plan.how = {lx.AF_INET: ENC_IP4, lx.AF_INET6: ENC_IP6}.get(cls.family, ENC_PYTHON)
    ft_encode = getattr(cls, "ft_encode", None)
    if ft_encode is _atoms.ipaddr.ft_encode and plan.how == ENC_BASE:
        plan.how = ENC_IPADDR
    elif ft_encode is not _encoder_generic.ft_encode:
        plan.how = ENC_PYTHON
    for name in ("setvalue", "getvalue", "encode_nlas", "get", "get_nested", "get_attr", "get_attrs", "__getitem__",
                 "valid_nla", "compile_nla_table", "update", "__contains__", "__setitem__", "__new__"):
        if getattr(cls, name) is not getattr(_nlmsg_base, name):
            plan.how = ENC_PYTHON
    for name in ("name2nla",):
        if getattr(cls, name).__func__ is not getattr(_nlmsg_base, name).__func__:
            plan.how = ENC_PYTHON
    if cls.__init__ not in (_nlmsg_base.__init__, _atoms.target.__init__):
        plan.how = ENC_PYTHON
    if cls.encode_field is not _encoder_generic.encode_field if hasattr(cls, "encode_field") else True:
        plan.how = ENC_PYTHON
    if any(isinstance(vars(base).get(name), property) for base in cls.__mro__ for name in ("value", "data", "fields")):
        plan.how = ENC_PYTHON
    plan.plain_header = tuple(tuple(x) for x in cls.header or ()) in (
        tuple(_nla_header.header), tuple(_nlmsg_class.header)
    )
    if not plan.plain_header or cls.align != 4 or plan.zstring < 0 or cls.defaults.get("header"):
        plan.how = ENC_PYTHON
    for entry in cls.fields:
        field = _enc_field(entry[0], entry[1], cls.defaults)
        if field is None or entry[0] in ("attrs", "header"):
            plan.how = ENC_PYTHON
            break
        plan.fields.append(field)
    plan.single = len(plan.fields) == 1 and (<_EncField> plan.fields[0]).name == "value"
    if plan.how in (ENC_STRING, ENC_IPADDR, ENC_IP4, ENC_IP6, ENC_TARGET, ENC_LL, ENC_ARRAY):
        # these put bytes into the field `value` and rely on its being a string
        if not plan.single or (<_EncField> plan.fields[0]).kind != EF_TEXT or plan.has_map:
            plan.how = ENC_PYTHON
    if plan.how == ENC_L2 and not (plan.single and (<_EncField> plan.fields[0]).size == 6 and not plan.has_map):
        plan.how = ENC_PYTHON
    if plan.how == ENC_STATE:
        plan.lookup = cls.encode.__globals__.get("state_by_name")
        if plan.lookup is None or not plan.single:
            plan.how = ENC_PYTHON
    if plan.how == ENC_NETNS and not plan.single:
        plan.how = ENC_PYTHON
    if cls.value_map:
        try:
            plan.reverse = {v: k for k, v in cls.value_map.items()}
        except TypeError:
            plan.how = ENC_PYTHON
        if not all(type(x) in (str, int) for x in plan.reverse or ()):
            # looked for by equality: only for plain ones is that what a dictionary does
            plan.reverse = {x: y for x, y in plan.reverse.items() if type(x) in (str, int)}
    if plan.has_map:
        try:
            cls() if cls.encode is not None else None
            table = cls._nlmsg_base__r_nla_map
        except Exception:
            table = None
        if isinstance(table, dict):
            plan.names = table
        else:
            plan.how = ENC_PYTHON
    plan.header_type = cls.header_type
    plan.cell_header = -1
    if cls.cell_header is None:
        plan.cell_header = 4
    elif [tuple(x) for x in cls.cell_header] == [("length", "H")]:
        plan.cell_header = 2
    plan.plain = plan.how != ENC_PYTHON
    return plan


cdef _EncPlan enc_plan(object cls):
    cdef PyObject *found = PyDict_GetItem(_enc_plans, cls)
    cdef _EncPlan plan
    if found != NULL:
        return <_EncPlan> <object> found
    plan = _enc_make(cls)
    _enc_plans[cls] = plan
    return plan


def _enc_make_attr(_EncPlan owner, name):
    """The attribute `name` of a class; only names in pyroute2's table get here."""
    cdef _EncAttr attr = _EncAttr()
    prime = owner.names[name]
    attr.prime = prime
    attr.array = bool(prime["nla_array"])
    cls = prime["class"]
    init = prime["init"]
    attr.type = prime["type"] | prime["nla_flags"]
    if isinstance(cls, _types.FunctionType):
        if cls is _ifinfbase.ifinfo.info_data:
            attr.choose = CHOOSE_KIND
        elif cls in _ENC_FIXED:
            attr.choose = CHOOSE_FIXED
            cls = cls(owner.cls)
            attr.plan = enc_plan(cls)
        else:
            attr.choose = CHOOSE_PYTHON
    elif isinstance(cls, type) and issubclass(cls, _nlmsg_base):
        attr.plan = enc_plan(cls)
    else:
        attr.bad = True
    if attr.plan is not None:
        if not attr.plan.plain or (attr.plan.cls.header != _nla_header.header and not attr.array):
            attr.bad = True
        attr.type |= attr.plan.flags
        if attr.plan.how == ENC_TARGET:
            attr.family = attr.plan.family
            if init is not None:
                try:
                    key, value = init.split(",")
                except ValueError:
                    attr.bad = True
                else:
                    if key == "family" and value.startswith("AF_"):
                        import socket
                        attr.family = getattr(socket, value, None)
                    elif key == "nla":
                        attr.family = value
        elif attr.plan.how == ENC_ARRAY:
            fmt = init
            element = getattr(owner.cls, init, None) if isinstance(init, str) else None
            if element is not None:
                try:
                    fmt = element.fields[0][1]
                except Exception:
                    pass
            number = _enc_int(fmt) if isinstance(fmt, str) else None
            if number is None or attr.array:
                attr.bad = True
            else:
                attr.item, attr.swap, attr.low, attr.high = number
        elif init is not None:
            attr.bad = True
        if attr.array and (
            attr.plan.how not in (ENC_BASE, ENC_STRING, ENC_IPADDR, ENC_RTMSG) or attr.plan.cell_header < 0
        ):
            attr.bad = True
    owner.attrs[name] = attr
    return attr


cdef inline _EncAttr enc_attr(_EncPlan owner, object name):
    """The attribute of that name, or None if the class has none: pyroute2 ignores such."""
    cdef PyObject *found = PyDict_GetItem(owner.attrs, name)
    if found != NULL:
        return <_EncAttr> <object> found
    if name not in owner.names:
        return None
    return _enc_make_attr(owner, name)
