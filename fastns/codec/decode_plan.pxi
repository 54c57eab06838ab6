# Decoding plans: what of pyroute2's classes decoding goes by, compiled once for each class; and how its objects lie
# in memory. A lazy message is an instance of a subclass of pyroute2's own class that knows where it lies (slots
# `data` and `offset`) and has an empty dict until somebody looks at the whole of it. The slot `value`, which
# pyroute2 always sets, says which: NULL means not filled yet. Plan and context live in slots that pyroute2 sets
# only later (`_buf`, `_nla_init`) or not at all (`_r_value_map`), so a lazy message is no larger than pyroute2's.
#
# Everything native is decoded as if the message were alone in its buffer; where something does not fit, the
# message's bytes are handed to pyroute2's own code, so that malformed input gives what pyroute2 gives.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_SetItem, PyDict_Update
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import errno as _errno
import logging as _logging
import struct as _struct
import sys as _sys
import traceback as _traceback
from types import FunctionType as _FunctionType

from pyroute2.netlink import NotInitialized, nla_base, nla_base_string, nla_slot, nlmsg_base
from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkHeaderDecodeError, NetlinkNLADecodeError

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <structmember.h>

    static CYTHON_INLINE PyObject **fns_slot(PyObject *object, Py_ssize_t offset)
    {
        return (PyObject **)((char *)object + offset);
    }

    static Py_ssize_t fns_member_offset(PyObject *descriptor)
    {
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type))
            return -1;
        return ((PyMemberDescrObject *)descriptor)->d_member->offset;
    }

    /* A dict subclass instance without __init__, and outside the collector: until it is filled it refers to
       bytes and to objects that live as long as the module, so it is in no cycle. Filling it tracks it. */
    static CYTHON_INLINE PyObject *fns_new(PyObject *type, PyObject *no_arguments)
    {
        PyObject *object = PyDict_Type.tp_new((PyTypeObject *)type, no_arguments, NULL);
        if (object != NULL) {
            PyObject_GC_UnTrack(object);
    #if PY_VERSION_HEX < 0x030A0000
            PyDict_Clear(object); /* gives the table of keys back, 168 bytes, which newer ones make on first use */
    #endif
            /* C code that asks a dict for its size before it asks for its items (json does) must not take
               an unfilled one for empty */
            ((PyDictObject *)object)->ma_used = 1;
        }
        return object;
    }

    static CYTHON_INLINE void fns_open(PyObject *object)
    {
        ((PyDictObject *)object)->ma_used = 0;
    }

    /* object[key] and len(object) of a lazy class without the detour through its __getitem__ and __len__ */
    static void fns_set_slots(PyObject *type, void *get, void *size)
    {
        binaryfunc subscript = (binaryfunc)get;
        lenfunc length = (lenfunc)size;
        PyMappingMethods *mapping = ((PyTypeObject *)type)->tp_as_mapping;
        PySequenceMethods *sequence = ((PyTypeObject *)type)->tp_as_sequence;
        mapping->mp_subscript = subscript;
        mapping->mp_length = length;
        sequence->sq_length = length;
    }

    static void fns_set_item(PyObject *type, void *get, void *item)
    {
        ((PyTypeObject *)type)->tp_as_mapping->mp_subscript = (binaryfunc)get;
        ((PyTypeObject *)type)->tp_as_sequence->sq_item = (ssizeargfunc)item;
    }

    static CYTHON_INLINE void fns_untrack(PyObject *object)
    {
        PyObject_GC_UnTrack(object);
    }

    static CYTHON_INLINE void fns_track(PyObject *object)
    {
        if (!PyObject_GC_IsTracked(object))
            PyObject_GC_Track(object);
    }

    /* What a weak proxy stands for, or the object itself; NULL without an exception if it is gone. */
    static PyObject *fns_deref(PyObject *reference)
    {
        PyObject *object;
        if (!PyWeakref_CheckProxy(reference)) {
            Py_INCREF(reference);
            return reference;
        }
    #if PY_VERSION_HEX >= 0x030D0000
        if (PyWeakref_GetRef(reference, &object) < 0)
            PyErr_Clear();
        return object;
    #else
        object = PyWeakref_GetObject(reference);
        if (object == NULL || object == Py_None)
            return NULL;
        Py_INCREF(object);
        return object;
    #endif
    }

    static CYTHON_INLINE PyObject *fns_new_object(PyObject *type)
    {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    }

    static PyObject *fns_hex(const unsigned char *bytes, Py_ssize_t count)
    {
        static const char digits[] = "0123456789abcdef";
        PyObject *text;
        Py_UCS1 *out;
        Py_ssize_t i;
        if (count == 0)
            return PyUnicode_New(0, 127);
        text = PyUnicode_New(count * 3 - 1, 127);
        if (text == NULL)
            return NULL;
        out = PyUnicode_1BYTE_DATA(text);
        for (i = 0; i < count; i++) {
            if (i)
                *out++ = ':';
            *out++ = (Py_UCS1)digits[bytes[i] >> 4];
            *out++ = (Py_UCS1)digits[bytes[i] & 15];
        }
        return text;
    }

    static PyObject *fns_ip4(const unsigned char *bytes)
    {
        char text[16];
        char *out = text;
        PyObject *result;
        int i;
        for (i = 0; i < 4; i++) {
            unsigned int value = bytes[i];
            if (i)
                *out++ = '.';
            if (value >= 100) {
                *out++ = (char)('0' + value / 100);
                value %= 100;
                *out++ = (char)('0' + value / 10);
            } else if (value >= 10) {
                *out++ = (char)('0' + value / 10);
            }
            *out++ = (char)('0' + value % 10);
        }
        result = PyUnicode_New(out - text, 127);
        if (result != NULL)
            memcpy(PyUnicode_1BYTE_DATA(result), text, (size_t)(out - text));
        return result;
    }

    static PyObject *fns_ip6(const unsigned char *bytes)
    {
        char text[INET6_ADDRSTRLEN];
        if (inet_ntop(AF_INET6, bytes, text, sizeof(text)) == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        return PyUnicode_FromString(text);
    }
    """
    PyObject **fns_slot(object obj, Py_ssize_t offset) noexcept nogil
    Py_ssize_t fns_member_offset(object descriptor) noexcept
    object fns_new(PyObject *type, object no_arguments)
    void fns_track(object obj) noexcept
    void fns_open(object obj) noexcept
    void fns_untrack(object obj) noexcept
    void fns_set_item(object cls, void *subscript, void *item) noexcept
    void fns_set_slots(object cls, void *subscript, void *length) noexcept
    object fns_new_object(PyObject *type)
    PyObject *fns_deref(object reference) noexcept
    object fns_hex(const unsigned char *data, Py_ssize_t count)
    object fns_ip4(const unsigned char *data)
    object fns_ip6(const unsigned char *data)
    Py_ssize_t dict_length "PyDict_Size" (object obj) except -1
    int PyObject_GenericSetAttr(object obj, object name, object value) except -1
    object PyUnicode_DecodeUTF8(const char *data, Py_ssize_t size, const char *errors)
    object PyWeakref_NewProxy(object obj, PyObject *callback)
    object PyLong_FromLong(long value)
    object PyLong_FromUnsignedLong(unsigned long value)
    object PyLong_FromLongLong(long long value)
    object PyLong_FromUnsignedLongLong(unsigned long long value)
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall() noexcept
    Py_ssize_t PyLong_AsSsize_t(object value) except? -1
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL
    bint PY_BIG_ENDIAN

cdef enum:
    # what a field's bytes are
    F_U8 = 1
    F_I8
    F_U16
    F_I16
    F_U32
    F_I32
    F_U64
    F_I64
    F_BOOL
    F_CHAR
    F_BYTES
    F_PAD
    F_STRUCT

cdef enum:
    # what a class's decode() does after the generic part
    D_PYTHON = 0
    D_BASE
    D_NLA
    D_NONE
    D_FLAG
    D_IPX
    D_TARGET
    D_L2
    D_LL
    D_HEX
    D_ARRAY
    D_STRING
    D_OPERSTATE
    D_IFINFMSG

cdef enum:
    # how a class's payload is read
    FT_GENERIC = 1
    FT_STRING
    FT_STRUCT
    FT_IPADDR

cdef enum:
    # how an attribute's class is found
    C_CLASS = 0
    C_NOTHING
    C_KIND
    C_SLAVE_KIND
    C_ENCAP
    C_FAMILY
    C_PYTHON

_DECODE_KINDS = {
    "python": D_PYTHON, "base": D_BASE, "nla": D_NLA, "none": D_NONE, "flag": D_FLAG, "ipXaddr": D_IPX,
    "target": D_TARGET, "l2addr": D_L2, "lladdr": D_LL, "hex": D_HEX, "array": D_ARRAY, "string": D_STRING,
    "operstate": D_OPERSTATE, "ifinfmsg": D_IFINFMSG,
}
_FT_KINDS = {"python": 0, "generic": FT_GENERIC, "string": FT_STRING, "struct": FT_STRUCT, "ipaddr": FT_IPADDR}
_CHOICES = {
    "nothing": C_NOTHING, "kind": C_KIND, "slave_kind": C_SLAVE_KIND, "encap": C_ENCAP, "family": C_FAMILY, "python": C_PYTHON,
}

cdef Py_ssize_t _offset_of(object cls, str name) except -1:
    cdef Py_ssize_t offset = fns_member_offset(getattr(cls, name))
    if offset < 0:
        raise ImportError(f"pyroute2's {cls.__name__} has no slot {name}")
    return offset


cdef Py_ssize_t O_BUF = _offset_of(nlmsg_base, "_buf")
cdef Py_ssize_t O_DATA = _offset_of(nlmsg_base, "data")
cdef Py_ssize_t O_CHAIN = _offset_of(nlmsg_base, "chain")
cdef Py_ssize_t O_OFFSET = _offset_of(nlmsg_base, "offset")
cdef Py_ssize_t O_LENGTH = _offset_of(nlmsg_base, "length")
cdef Py_ssize_t O_PARENT = _offset_of(nlmsg_base, "parent")
cdef Py_ssize_t O_DECODED = _offset_of(nlmsg_base, "decoded")
cdef Py_ssize_t O_INIT = _offset_of(nlmsg_base, "_nla_init")
cdef Py_ssize_t O_ARRAY = _offset_of(nlmsg_base, "_nla_array")
cdef Py_ssize_t O_FLAGS = _offset_of(nlmsg_base, "_nla_flags")
cdef Py_ssize_t O_VALUE = _offset_of(nlmsg_base, "value")
cdef Py_ssize_t O_PLAN = _offset_of(nlmsg_base, "_r_value_map")
cdef Py_ssize_t O_CELL = _offset_of(nla_slot, "cell")

cdef tuple _EMPTY = ()
cdef object _object_new = object.__new__
cdef object _NO = object()       # "not without filling the message"
cdef object _MISSING = object()  # "no such attribute"
cdef object _NOT_INITIALIZED = NotInitialized
cdef object _slot_class = nla_slot
cdef object _log = _logging.getLogger("pyroute2.netlink")
cdef object _lazy_type = None
cdef object _base_nla_slot = nla_slot
cdef str S_ATTRS = "attrs"
cdef str S_HEADER = "header"
cdef str S_VALUE = "value"
cdef str S_EVENT = "event"
cdef str S_STATE = "state"
cdef str S_ERROR = "error"
cdef str S_ERRMSG = "errmsg"
cdef str S_LENGTH = "length"
cdef str S_TYPE = "type"
cdef str S_FLAGS = "flags"
cdef str S_SEQUENCE = "sequence_number"
cdef str S_PID = "pid"
cdef str S_FAMILY = "family"
cdef str S_UNKNOWN = "UNKNOWN"
cdef str S_UP = "up"
cdef str S_DOWN = "down"

# Offsets inside a datagram are multiples of four below 32 KiB: one int object each, for all messages.
cdef list _offsets = [i * 4 for i in range(16384)]

cdef object _schema = None
cdef object _make_lazy = None
cdef object _lock = None
cdef dict _plans = {}
cdef object _nlmsgerr = None
cdef object _nlmsg = None
cdef object _mtypes = {}
cdef object _event_name = None
cdef bint _attrs_prefixed = True


cdef inline PyObject *slot(object obj, Py_ssize_t offset) noexcept:
    return fns_slot(obj, offset)[0]


cdef inline void slot_set(object obj, Py_ssize_t offset, object value) noexcept:
    cdef PyObject **place = fns_slot(obj, offset)
    cdef PyObject *old = place[0]
    Py_INCREF(value)
    place[0] = <PyObject *>value
    Py_XDECREF(old)


cdef inline object offset_object(Py_ssize_t offset):
    if offset & 3 == 0 and offset < 65536:
        return <object>PyList_GET_ITEM(_offsets, offset >> 2)
    return offset


cdef inline uint16_t load16(const uint8_t *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t load32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t load64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint32_t message_length(const uint8_t *message) noexcept nogil:
    cdef lx.nlmsghdr header
    memcpy(&header, message, sizeof(header))
    return header.nlmsg_len


cdef inline uint16_t message_type(const uint8_t *message) noexcept nogil:
    cdef lx.nlmsghdr header
    memcpy(&header, message, sizeof(header))
    return header.nlmsg_type


cdef inline uint16_t message_flags(const uint8_t *message) noexcept nogil:
    cdef lx.nlmsghdr header
    memcpy(&header, message, sizeof(header))
    return header.nlmsg_flags


cdef inline Py_ssize_t address_length(long family) noexcept nogil:
    """Bytes of a network address; whatever is not IPv4 has those of IPv6."""
    return 4 if family == lx.AF_INET else 16


cdef inline Py_ssize_t align4(Py_ssize_t n) noexcept nogil:
    return (n + 3) & ~3


cdef struct FieldPlan:
    PyObject *name      # borrowed from Plan.keep
    PyObject *unpack    # borrowed: Struct.unpack_from, for F_STRUCT
    int kind
    bint swap
    bint many           # a tuple of `count` values
    Py_ssize_t count
    Py_ssize_t width
    Py_ssize_t offset
    Py_ssize_t size


cdef inline object read_scalar(int kind, bint swap, const uint8_t *at):
    cdef uint16_t v16
    cdef uint32_t v32
    cdef uint64_t v64
    if kind == F_U8:
        return PyLong_FromLong(at[0])
    if kind == F_U32 or kind == F_I32:
        v32 = load32(at)
        if swap:
            v32 = (v32 >> 24) | ((v32 >> 8) & 0xFF00) | ((v32 << 8) & 0xFF0000) | (v32 << 24)
        if kind == F_U32:
            return PyLong_FromUnsignedLong(v32)
        return PyLong_FromLong(<int32_t>v32)
    if kind == F_U16 or kind == F_I16:
        v16 = load16(at)
        if swap:
            v16 = <uint16_t>((v16 >> 8) | (v16 << 8))
        if kind == F_U16:
            return PyLong_FromLong(v16)
        return PyLong_FromLong(<int16_t>v16)
    if kind == F_U64 or kind == F_I64:
        v64 = load64(at)
        if swap:
            v64 = ((v64 & <uint64_t>0xFF) << 56) | ((v64 & <uint64_t>0xFF00) << 40) \
                | ((v64 & <uint64_t>0xFF0000) << 24) | ((v64 & <uint64_t>0xFF000000) << 8) \
                | ((v64 >> 8) & <uint64_t>0xFF000000) | ((v64 >> 24) & <uint64_t>0xFF0000) \
                | ((v64 >> 40) & <uint64_t>0xFF00) | (v64 >> 56)
        if kind == F_U64:
            return PyLong_FromUnsignedLongLong(v64)
        return PyLong_FromLongLong(<int64_t>v64)
    if kind == F_I8:
        return PyLong_FromLong(<int8_t>at[0])
    if kind == F_BOOL:
        return at[0] != 0
    return PyBytes_FromStringAndSize(<const char *>at, 1)


cdef object read_field(FieldPlan *f, bytes data, Py_ssize_t start):
    """The value of a field at `start`; the caller has checked that it fits."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data) + start
    cdef Py_ssize_t i
    cdef object values
    if f.kind == F_BYTES:
        return PyBytes_FromStringAndSize(<const char *>at, f.size)
    if f.kind == F_PAD:
        return _EMPTY
    if f.kind == F_STRUCT:
        values = (<object>f.unpack)(data, start)
        return values[0] if len(values) == 1 else values
    if not f.many:
        return read_scalar(f.kind, f.swap, at)
    return tuple([read_scalar(f.kind, f.swap, at + i * f.width) for i in range(f.count)])


cdef class Attr:
    """One entry of a class's attribute table."""
    cdef readonly str name
    cdef readonly long type
    cdef readonly object cls
    cdef readonly object init
    cdef readonly bint array
    cdef int choice
    cdef Plan target       # of `cls`, made on first use
    cdef dict memo

    cdef Plan plan(self):
        if self.target is None:
            self.target = plan(self.cls)
        return self.target


cdef class Lookup:
    """What a name given to get() or get_attr() means for a class."""
    cdef str name
    cdef long type         # -1: no such attribute; -2: more than one type has this name
    cdef Attr attr
    cdef Py_ssize_t field  # -1: no such field


@cython.final
cdef class Plan:
    """A class's decoding plan. `lazy` is the class of lazy instances, or None."""
    cdef readonly object cls
    cdef readonly object schema
    cdef readonly object lazy
    cdef bint is_nla
    cdef bint has_map
    cdef bint own_parent
    cdef bint needs_init
    cdef bint risky          # some attribute's class is chosen by code that may fail
    cdef bint std_header
    cdef bint no_header
    cdef bint own_ft         # decode() is Python, what it calls for fields and attributes need not be
    cdef bint is_error       # nlmsgerr
    cdef bint plain          # no value of its own: getvalue() gives the object
    cdef int decode
    cdef int ft
    cdef int zstring
    cdef FieldPlan *fields
    cdef Py_ssize_t nfields
    cdef Py_ssize_t fixed
    cdef FieldPlan *head
    cdef Py_ssize_t nhead
    cdef FieldPlan *cell_head
    cdef Py_ssize_t ncell_head
    cdef bint has_cell
    cdef list keep
    cdef dict index
    cdef Py_ssize_t value_field
    cdef Py_ssize_t family_field
    cdef object value_map
    cdef object family
    cdef object prefix
    cdef object lookup
    cdef object unpack       # ft "struct"
    cdef Py_ssize_t unpack_size
    cdef dict attrs
    cdef PyObject **dense
    cdef Py_ssize_t ndense
    cdef dict get_lookups
    cdef dict attr_lookups
    cdef object header_attr

    def __dealloc__(self):
        PyMem_Free(self.fields)
        PyMem_Free(self.head)
        PyMem_Free(self.cell_head)
        PyMem_Free(self.dense)

    @property
    def native(self):
        """Whether the class is decoded without Python code of its own."""
        return self.decode != D_PYTHON

    cdef FieldPlan *compile_fields(self, object entries, Py_ssize_t *count) except? NULL:
        cdef FieldPlan *result = <FieldPlan *>PyMem_Calloc(len(entries) + 1, sizeof(FieldPlan))
        cdef FieldPlan *f
        cdef Py_ssize_t i = 0
        if result == NULL:
            raise MemoryError()
        for entry in entries:
            f = &result[i]
            self.keep.append(entry.name)
            f.name = <PyObject *>entry.name
            f.offset = entry.offset
            f.size = entry.size
            f.count = entry.repeat if entry.repeat >= 0 else 1
            f.many = f.count != 1
            code = entry.code
            f.swap = entry.order in (">", "!") if not PY_BIG_ENDIAN else entry.order == "<"
            f.width = _struct.calcsize(entry.order + code) if code else 0
            if code == "x":
                f.kind = F_PAD
            elif code == "s":
                f.kind = F_BYTES
            elif code == "c":
                f.kind = F_CHAR
            elif code == "?":
                f.kind = F_BOOL
            elif code and code in "bBhHiIlLqQ":
                f.kind = {1: F_U8, 2: F_U16, 4: F_U32, 8: F_U64}[f.width] + (1 if code.islower() else 0)
            else:
                f.kind = F_STRUCT
                unpack = _struct.Struct(entry.format).unpack_from
                self.keep.append(unpack)
                f.unpack = <PyObject *>unpack
            i += 1
        count[0] = i
        return result

    cdef Attr attr_of(self, long type):
        cdef PyObject *found
        if type < self.ndense:
            found = self.dense[type]
            return None if found == NULL else <Attr>found
        if self.ndense:
            return None
        return self.attrs.get(type)

    cdef Lookup make_lookup(self, object key, bint by_get):
        cdef Lookup lookup = Lookup.__new__(Lookup)
        cdef Attr attr
        if by_get:
            name = self.cls.name2nla(key) if self.prefix else key.upper()
        else:
            name = key
        if self.prefix is not None and _attrs_prefixed:
            name = self.cls.name2nla(name)
        lookup.name = name
        lookup.type = -1
        lookup.field = self.index.get(key, -1)
        if name == S_UNKNOWN:
            lookup.type = -2
        for attr in self.attrs.values():
            if attr.name == name:
                lookup.type = attr.type if lookup.type == -1 else -2
                lookup.attr = attr
        return lookup

    cdef Lookup look_up(self, dict cache, object key, bint by_get):
        cdef PyObject *found = PyDict_GetItem(cache, key)
        if found != NULL:
            return <Lookup>found
        if type(key) is not str:
            return None
        lookup = self.make_lookup(key, by_get)
        if len(cache) < 4096:
            cache[key] = lookup
        return lookup


cdef object slot_subscript(object obj, object key):
    return getitem(obj, key)


cdef Py_ssize_t slot_length(object obj) except -1:
    fill(obj)
    return dict_length(obj)


cdef Plan new_plan(object cls):
    cdef Plan p = Plan.__new__(Plan)
    cdef Attr attr
    schema = _schema(cls)
    p.cls = cls
    p.schema = schema
    p.keep = []
    p.index = {}
    p.attrs = {}
    p.get_lookups = {}
    p.attr_lookups = {}
    p.is_nla = schema.is_nla
    p.has_map = schema.has_map
    p.own_parent = schema.own_parent
    p.needs_init = schema.needs_init
    p.decode = _DECODE_KINDS[schema.decode]
    p.no_header = cls.header is None
    p.is_error = issubclass(cls, _nlmsgerr)
    p.ft = _FT_KINDS[schema.ft_decode]
    if p.ft == 0:
        p.decode = D_PYTHON
    p.zstring = 1 if schema.zstring == 1 else 0
    p.value_map = schema.value_map if schema.value_map else None
    p.family = schema.family
    p.prefix = schema.prefix
    p.lookup = schema.lookup
    p.value_field = p.family_field = -1
    p.std_header = not p.is_nla and [f[:2] for f in schema.header or ()] == [
        ("length", "I"), ("type", "H"), ("flags", "H"), ("sequence_number", "I"), ("pid", "I")
    ]
    p.own_ft = p.decode == D_PYTHON and schema.own_ft
    if p.decode != D_PYTHON or p.own_ft:
        p.fields = p.compile_fields(schema.fields, &p.nfields)
        p.head = p.compile_fields(schema.header or (), &p.nhead)
        if schema.cell_header is not None:
            p.cell_head = p.compile_fields(schema.cell_header, &p.ncell_head)
            p.has_cell = True
            p.header_attr = cls.cell_header
        for number, field in enumerate(schema.fields):
            p.index[field.name] = number
            p.fixed = field.offset + field.size
        p.value_field = p.index.get("value", -1)
        if p.ft == FT_STRUCT:
            unpack = _struct.Struct("".join([field.format for field in schema.fields]))
            p.unpack = unpack.unpack_from
            p.unpack_size = unpack.size
        if p.has_map:
            for number, prime in schema.attributes.items():
                attr = Attr.__new__(Attr)
                attr.name = prime["name"]
                attr.type = number
                attr.cls = prime["class"]
                attr.init = prime["init"]
                attr.array = prime["nla_array"]
                attr.choice = C_CLASS
                if isinstance(attr.cls, _FunctionType):
                    attr.choice = _CHOICES[schema.chooser(attr.cls)]
                    attr.memo = {}
                    if attr.choice >= C_FAMILY:
                        p.risky = True
                p.attrs[number] = attr
            highest = max(p.attrs, default=-1)
            if 0 <= highest < 4096 and min(p.attrs) >= 0:
                p.ndense = highest + 1
                p.dense = <PyObject **>PyMem_Calloc(p.ndense, sizeof(PyObject *))
                if p.dense == NULL:
                    p.ndense = 0
                    raise MemoryError()
                for number, prime in p.attrs.items():
                    p.dense[<Py_ssize_t>number] = <PyObject *>prime
        if p.family_field < 0 and "family" in p.index:
            name = cls.name2nla("family") if p.prefix else "FAMILY"
            if not any([(<Attr>a).name == name for a in p.attrs.values()]):
                p.family_field = p.index["family"]
        p.plain = (
            p.decode in (D_BASE, D_NLA, D_IFINFMSG) and p.ft in (FT_GENERIC, FT_STRUCT) and p.value_field < 0
        )
    if schema.lazy:
        p.lazy = _make_lazy(cls)
        fns_set_slots(p.lazy, <void *>slot_subscript, <void *>slot_length)
    return p


cpdef Plan plan(object cls):
    """The plan of a message or attribute class; made once per class. Thread-safe."""
    cdef PyObject *found = PyDict_GetItem(_plans, cls)
    cdef Plan p
    if found != NULL:
        return <Plan>found
    if _schema is None:
        import fastns.schema  # noqa: F401
    if not isinstance(cls, type) or not issubclass(cls, nlmsg_base):
        raise TypeError(f"not a netlink message class: {cls!r}")
    cls = cls.__dict__.get("_original", cls)
    with _lock:
        found = PyDict_GetItem(_plans, cls)
        if found != NULL:
            return <Plan>found
        p = new_plan(cls)
        _plans[cls] = p
        return p


def setup(schema, make_lazy, lazy_type, slot_class, lock):
    """Called once by fastns.schema, which knows pyroute2's classes; this module knows bytes."""
    global _schema, _make_lazy, _lazy_type, _slot_class, _lock
    _schema, _make_lazy, _lazy_type, _slot_class, _lock = schema, make_lazy, lazy_type, slot_class, lock
    fns_set_item(slot_class, <void *>slot_key, <void *>slot_item)


def setup_messages(nlmsgerr, nlmsg, mtypes, event_name):
    global _nlmsgerr, _nlmsg, _mtypes, _event_name, _attrs_prefixed
    _nlmsgerr, _nlmsg, _mtypes, _event_name = nlmsgerr, nlmsg, mtypes, event_name

    class probe(nla_base):
        prefix = "P_"
        nla_map = (("P_A", "uint8"),)
        uint8 = nla_base

    found = probe()
    found["attrs"] = [("P_A", 1)]
    _attrs_prefixed = bool(found.get_attrs("a"))


@cython.final
cdef class Context:
    """What a marshal adds to every message it parses."""
    cdef object extra    # dict for the header, or None
    cdef dict events     # message type of rtnetlink -> pyroute2's name, or None for other families
    cdef bint bare       # nothing at all, not even header['error']

    cdef object event(self, Plan p, uint16_t type):
        cdef object event = None
        if self.bare:
            return None
        if self.events is not None:
            event = self.events.get(type)
        if event is not None or S_EVENT in p.index:
            return event
        if lx.NLMSG_NOOP <= type <= lx.NLMSG_OVERRUN:
            return _mtypes.get(type, "none")
        if self.events is not None:
            return _event_name(type)
        return None

    cdef int set_event(self, Plan p, object obj, uint16_t type) except -1:
        """The event of a message that pyroute2's code has decoded, and may have given one."""
        cdef object event = self.event(p, type)
        if event is not None and (
            not dict.__contains__(obj, S_EVENT) or self.events is not None and type in self.events
        ):
            PyDict_SetItem(obj, S_EVENT, event)
        return 0


cdef Context _BARE = Context.__new__(Context)
_BARE.bare = True
