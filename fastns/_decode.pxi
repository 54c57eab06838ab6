# Decoding. A lazy message is an instance of a subclass of pyroute2's own class that knows where it lies (slots
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

cdef enum:
    HEADER = 16
    AF_MPLS = 28
    FNS_AF_INET = 2
    FNS_AF_INET6 = 10
    T_ERROR = 2
    T_DONE = 3
    FL_MULTI = 2
    FL_DUMP_INTR = 0x10
    FL_CAPPED = 0x100
    FL_ACK_TLVS = 0x200

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


def setup_messages(nlmsgerr, nlmsg, mtypes):
    global _nlmsgerr, _nlmsg, _mtypes, _attrs_prefixed
    _nlmsgerr, _nlmsg, _mtypes = nlmsgerr, nlmsg, mtypes

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
    cdef object events   # message type -> name, or None
    cdef bint bare       # nothing at all, not even header['error']

    cdef object event(self, Plan p, uint16_t type):
        cdef object event = None
        if self.bare:
            return None
        if 1 <= type <= 4 and S_EVENT not in p.index:
            event = _mtypes.get(type, "none")
        if self.events is not None:
            event = self.events.get(type, event)
        return event


cdef Context _BARE = Context.__new__(Context)
_BARE.bare = True


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
        obj = p.cls(data=data, offset=offset, parent=parent, length=length, init=init)
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
    """Whether pyroute2's loop over an array would never end: an element of length 0 does not advance."""
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
    cdef dict header = {}
    header[S_LENGTH] = load32(base)
    header[S_TYPE] = load16(base + 4)
    header[S_FLAGS] = load16(base + 6)
    header[S_SEQUENCE] = load32(base + 8)
    header[S_PID] = load32(base + 12)
    return header


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
        if family == FNS_AF_INET and size >= 4:
            return fns_ip4(at)
        if family == FNS_AF_INET6 and size >= 16:
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
        if p.family == FNS_AF_INET and size == 4:
            return fns_ip4(at)
        if p.family == FNS_AF_INET6 and size == 16:
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
    while pos - off <= length - 4:
        if pos + 4 > limit:
            return 1
        n = load16(base + pos)
        wire = load16(base + pos + 2)
        if n < 4:
            n = 4
        if n > length - pos + off:
            n = length - pos + off
        attr = p.attr_of(wire & 0x3FFF)
        if attr is None:
            out.append(new_slot(S_UNKNOWN, new_cell(plan(nla_base), data, pos, n, None, None, False, 0), False))
        else:
            if attr.choice == C_PYTHON and not published[0]:
                # The function, and what it looks at, may look at this message: as in pyroute2, it has the
                # fields and the attributes so far.
                put_all(obj, d)
                settle(obj, data, off, length, _NOT_INITIALIZED, False)
                published[0] = True
            try:
                if attr.choice == C_CLASS:
                    ap = attr.plan()
                else:
                    ap = plan(choose(p, attr, obj, data, off, first, pos, length, out, d))
                cell = new_cell(ap, data, pos, n, obj, attr.init, attr.array, wire & 0xC000)
            except Exception:
                return 1
            out.append(new_slot(attr.name, cell, ap.own_parent or ap.lazy is None))
        pos += align4(n)
    return 0


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
        if load16(base + pos + 2) == 21:
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
        attr = p.attr_of(load16(base + pos + 2) & 0x3FFF)
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
        pos += HEADER
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


cdef object decode_in_python(object obj, Plan p):
    """pyroute2's decode() of a filled object, kept from looping for ever over an array with an empty element."""
    if <object>slot(obj, O_ARRAY) and isinstance(<object>slot(obj, O_DATA), bytes) and stuck(
        p, <bytes>slot(obj, O_DATA), <object>slot(obj, O_OFFSET)
    ):
        raise NetlinkNLADecodeError(ValueError("array of attributes with an empty element"))
    return p.cls.decode(obj)


cdef int fill_message(object obj) except -1:
    cdef Plan p = <Plan>slot(obj, O_PLAN)
    cdef Context context = <Context>slot(obj, O_INIT)
    cdef bytes datagram = <bytes>slot(obj, O_DATA)
    cdef Py_ssize_t off = <object>slot(obj, O_OFFSET)
    cdef Py_ssize_t length = load32(<const uint8_t *>PyBytes_AS_STRING(datagram) + off)
    cdef uint16_t type = load16(<const uint8_t *>PyBytes_AS_STRING(datagram) + off + 4)
    cdef bytes data
    cdef object header
    cdef object event
    cdef dict d = {}
    cdef list value = []
    cdef bint published = False
    cdef int left
    if length > PyBytes_GET_SIZE(datagram) - off:
        length = PyBytes_GET_SIZE(datagram) - off
    if length < HEADER:  # of a request that an error encloses; the header's bytes are there
        length = HEADER
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
    try:
        p.cls.decode(obj)
    except NetlinkDecodeError:
        pass  # pyroute2's marshal keeps what was decoded so far
    except Exception as error:
        raise NetlinkDecodeError(error) from error
    finally:
        if event is not None:
            PyDict_SetItem(obj, S_EVENT, event)
    return 0


cdef inline int fill(object obj) except -1:
    if slot(obj, O_VALUE) != NULL or slot(obj, O_PLAN) == NULL:
        return 0
    if slot(obj, O_ARRAY) != NULL:
        return fill_cell(obj, False)
    return fill_message(obj)


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
    if p.ft != FT_GENERIC or HEADER + p.fixed > v.limit:
        return _NO
    return read_field(f, <bytes>slot(obj, O_DATA), v.off + HEADER + f.offset)


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
    pos = HEADER + p.fixed
    if pos > v.limit:
        return _NO
    pos = align4(pos)
    while pos <= v.length - 4:
        if pos + 4 > v.limit:
            return _NO
        n = load16(v.base + pos)
        wire = load16(v.base + pos + 2) & 0x3FFF
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
                    family = v.base[HEADER + f.offset]
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
    return PyDict_GetItem(attr.memo, v.base[HEADER + f.offset]) != NULL


cdef object peek_state(object obj, Plan p):
    """ifinfmsg's 'state', which is there only if nothing in the chain made decoding fail."""
    cdef Lookup nothing = Lookup.__new__(Lookup)
    cdef View v
    nothing.type = -1
    if peek_attr(obj, p, nothing) is not _MISSING:
        return _NO
    v = view_of(obj)
    return S_UP if load32(v.base + HEADER + 8) & 1 else S_DOWN


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
        event = (<Context>slot(obj, O_INIT)).event(p, load16(v.base + 4))
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


def _s_getitem(self, key):
    return slot_key(self, key)


def _s_get_value(self):
    return slot_value(self) if is_slot(self) else nla_slot.get_value(self)


SLOT_METHODS = {
    "__getitem__": _s_getitem,
    "get_value": _s_get_value,
    "value": property(_s_get_value),
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
        wire = load16(base + pos + 2) & 0x3FFF
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
    cdef Py_ssize_t pos = HEADER + p.fixed
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
        wire = load16(v.base + pos + 2) & 0x3FFF
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


def _m_getitem(self, key):
    return getitem(self, key)


def _m_contains(self, key):
    cdef Plan p = <Plan>slot(self, O_PLAN)
    if not is_filled(self):
        if type(key) is str and is_message(self) and p.decode != D_PYTHON and (key in p.index or key == S_HEADER):
            return True
        fill(self)
    return dict.__contains__(self, key)


def _m_get(self, key, default=None):
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


def _m_get_nested(self, *keys):
    """Return nested NLA or None."""
    cdef object value
    if not is_filled(self) and is_message(self):
        if len(keys) == 1:
            return _m_get(self, keys)
        if keys:
            value = peek_path(self, <Plan>slot(self, O_PLAN), keys)
            if value is not _NO:
                return value
    fill(self)
    return nested(self, keys)


def _m_get_attr(self, attr, default=None):
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


def _m_get_attrs(self, attr):
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


def _m_dump(self):
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


def _m_ft_decode(self, offset):
    """Fields and attributes for a class that has a decode() of its own, which calls this by way of pyroute2's."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    cdef dict d
    cdef list attrs
    cdef PyObject *found
    cdef bytes data
    cdef Py_ssize_t pos, i
    cdef bint published = True
    if not p.own_ft or not is_filled(self) or type(<object>slot(self, O_DATA)) is not bytes:
        return p.cls.ft_decode(self, offset)
    data = <bytes>slot(self, O_DATA)
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


def _m_decode(self):
    """Decode the message."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    if is_filled(self):
        return decode_in_python(self, p)
    if slot(self, O_ARRAY) != NULL:
        fill_cell(self, False)
        return None
    fill_message(self)
    return p.cls.decode(self)


def _m_getvalue(self):
    cdef Plan p = <Plan>slot(self, O_PLAN)
    cdef object value
    if not is_filled(self):
        if p.plain and p.decode != D_PYTHON and not (
            slot(self, O_ARRAY) != NULL and <object>slot(self, O_ARRAY)
        ):
            return self
        fill(self)
    return value_of(self)


def _m_copy(self):
    """Return a decoded copy of the netlink message."""
    cdef Plan p = <Plan>slot(self, O_PLAN)
    fill(self)
    copy = p.cls(data=<object>slot(self, O_DATA), offset=<object>slot(self, O_OFFSET))
    copy.decode()
    return copy


def _m_reduce(self):
    cdef Plan p = <Plan>slot(self, O_PLAN)
    fill(self)
    return (p.cls, (), self.dump())


def _m_setattr(self, name, value):
    fns_track(self)
    PyObject_GenericSetAttr(self, name, value)


def _m_or(self, other):
    fill(self)
    return dict.__or__(self, other)


def _m_ror(self, other):
    fill(self)
    return dict.__ror__(self, other)


def _m_eq(self, other):
    fill(self)
    if type(other) is (<Plan>slot(self, O_PLAN)).cls:
        # pyroute2's comparison is "nothing of the left is missing on the right", and Python asks a subclass's instance
        # first, on whichever side it stands: leave `plain == lazy` to the plain one
        return NotImplemented
    return nlmsg_base.__eq__(self, other)


def _m_ne(self, other):
    equal = _m_eq(self, other)
    return equal if equal is NotImplemented else not equal


def _m_class(self):
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
    __getitem__=_m_getitem,
    __contains__=_m_contains,
    __eq__=_m_eq,
    __ne__=_m_ne,
    __or__=_m_or,
    __ror__=_m_ror,
    __setattr__=_m_setattr,
    __reduce__=_m_reduce,
    __class__=property(_m_class),
    get=_m_get,
    get_nested=_m_get_nested,
    get_attr=_m_get_attr,
    get_attrs=_m_get_attrs,
    dump=_m_dump,
    ft_decode=_m_ft_decode,
    getvalue=_m_getvalue,
    decode=_m_decode,
    copy=_m_copy,
)
if hasattr(dict, "__ior__"):
    LAZY_METHODS["__ior__"] = _filled("__ior__")
for _name in ("_buf", "chain", "decoded", "value"):
    LAZY_METHODS[_name] = SlotProxy(_name, False)
for _name in ("data", "offset", "length", "parent", "_nla_init", "_nla_array", "_nla_flags"):
    LAZY_METHODS[_name] = SlotProxy(_name, True)
del _name


# ---------------------------------------------------------------------------------------------------------
# Datagrams

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
    if p.lazy is None or not p.std_header or offset + HEADER + p.fixed > PyBytes_GET_SIZE(data):
        p = plan(_nlmsg)
    return new_message(p, data, offset, _BARE)


cdef object error_message(object marshal, Plan p, bytes data, Py_ssize_t off, Py_ssize_t length, Context context):
    """NLMSG_ERROR, or NLMSG_DONE that carries a code: as pyroute2's, with header['error'] and ['errmsg']."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data) + off
    cdef uint16_t type = load16(base + 4)
    cdef uint16_t flags = load16(base + 6)
    cdef Py_ssize_t inner
    cdef object msg
    cdef dict header
    cdef bytearray patched
    cdef int32_t code
    cdef object error = None
    if HEADER + 4 > length:
        raise NetlinkHeaderDecodeError(ValueError("an error message without a code"))
    memcpy(&code, base + HEADER, 4)
    if type == T_ERROR and flags & FL_CAPPED and length >= 2 * HEADER + 4:
        # A capped answer has only the request's header, whose length is that of the whole request: pyroute2
        # skips that many bytes and never finds the text. Let the header be as long as it is here.
        patched = bytearray(data[off:off + length])
        patched[HEADER + 4:HEADER + 6] = _struct.pack("=H", HEADER)
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
            if type != T_DONE and length >= 2 * HEADER + 4:
                inner = load32(base + HEADER + 4)
                cls = marshal.msg_map.get(load16(base + HEADER + 8), _nlmsg)
                if type == T_ERROR and flags & FL_CAPPED:
                    inner, cls = HEADER, _nlmsg
                elif inner < HEADER or inner > length - HEADER - 4:
                    inner, cls = length - HEADER - 4, _nlmsg
                header[S_ERRMSG] = bare_message(cls, data[off + HEADER + 4:off + HEADER + 4 + inner], 0)
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
    cdef dict msg_map = marshal.msg_map
    cdef object default = marshal.default_message_class
    cdef object seq_map = marshal.seq_map or None
    cdef object key_format = marshal.key_format
    cdef object error_type = marshal.error_type
    cdef bint errors = error_type == T_ERROR
    cdef bint native_fix = marshal._native_fix
    cdef Context context = context_of(marshal)
    cdef int result = 0
    cdef long last_type = -1
    cdef Plan p = None
    cdef object key, cls, msg, parser
    cdef PyObject *found
    cdef int32_t code
    while off <= size - HEADER:
        length = load32(base + off)
        type = load16(base + off + 4)
        flags = load16(base + off + 6)
        number = load32(base + off + 8)
        if not 0 < length <= size:
            break
        if length < HEADER:
            raise NetlinkHeaderDecodeError(ValueError(f"message of {length} bytes"))
        if only and number != seq:
            off += length
            continue
        if dump:
            if flags & FL_DUMP_INTR:
                result |= 2
            if not flags & FL_MULTI:
                result |= 8
        parser = None if seq_map is None else seq_map.get(number)
        if dump and type == T_DONE:
            result |= 1
            code = 0
            if length >= HEADER + 4 and off + HEADER + 4 <= size:
                memcpy(&code, base + off + HEADER, 4)
            if code >= 0:
                off += length
                continue
        msg = None
        if type != last_type or key_format is not None:
            key = type
            if key_format is not None:
                if marshal.key_offset + _struct.calcsize(key_format) > min(length, size - off):
                    raise NetlinkHeaderDecodeError(ValueError(f"message of {length} bytes, without its key"))
                key = _struct.unpack_from(key_format, data, off + marshal.key_offset)[0]
                if marshal.key_mask is not None:
                    key &= marshal.key_mask
            found = PyDict_GetItem(msg_map, key)
            cls = default if found == NULL else <object>found
            p = plan(cls)
            last_type = type
        if parser is not None:
            msg = parser(data, off, length)
            off += length
            if msg is None:
                continue
            if dump and type in (T_ERROR, T_DONE):
                result |= 4
        elif (type == T_ERROR and errors) or (type == T_DONE and is_failure(data, off, length)):
            msg = error_message(marshal, plan(_nlmsgerr), data, off, min(length, size - off), context)
            off += length
            result |= 4
        else:
            if p.is_error:
                msg = error_message(marshal, p, data, off, min(length, size - off), context)
            elif p.lazy is None or not p.std_header:
                msg = eager(marshal, p, data, off, context)
            else:
                if off + HEADER + p.fixed > size or HEADER + p.fixed > length:
                    raise NetlinkDecodeError(
                        _struct.error(f"{p.cls.__name__} of {length} bytes, at least {HEADER + p.fixed} needed")
                    )
                msg = new_message(p, data, off, context)
            off += length
        if parser is not None:
            mtype = msg["header"].get("type")
            if mtype in (1, 2, 3, 4) and "event" not in msg:
                msg["event"] = _mtypes.get(mtype, "none")
            marshal.fix_message(msg)
        elif not native_fix:
            marshal.fix_message(msg)
        out.append(msg)
        if result & 4 and dump:
            break
    return result


cdef bint is_failure(bytes data, Py_ssize_t off, Py_ssize_t length):
    """NLMSG_DONE with extended-ack attributes, or with a negative code, which says that the dump failed."""
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data) + off
    cdef int32_t code
    if length < HEADER + 4 or off + HEADER + 4 > PyBytes_GET_SIZE(data):
        return False
    memcpy(&code, base + HEADER, 4)
    return code < 0 or load16(base + 6) & FL_ACK_TLVS


cdef object eager(object marshal, Plan p, bytes data, Py_ssize_t off, Context context):
    """A message whose class is not to be imitated: pyroute2's own code, at once."""
    cdef Py_ssize_t length = load32(<const uint8_t *>PyBytes_AS_STRING(data) + off)
    cdef object msg = p.cls(data[off:off + length])
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
    event = context.event(p, mtype if type(mtype) is int and 0 <= mtype < 65536 else 0)
    if event is not None:
        msg["event"] = event
    return msg


def parse(marshal, data, list out, seq=None):
    """Append every message of a datagram to `out`; with `seq`, only those with that sequence number."""
    cdef bytes owned = data if type(data) is bytes else bytes(data)
    walk(marshal, owned, out, seq is not None, seq or 0, False)


def parse_dump(marshal, data, list out not None, seq):
    """Append every message of a datagram with that sequence number, lazily decoded, to `out`.

    Returns 1 (NLMSG_DONE seen) | 2 (NLM_F_DUMP_INTR seen) | 4 (an error or acknowledgement seen, or a dump that
    ended with a code: the last item of `out`, decoded as nlmsgerr) | 8 (a message without NLM_F_MULTI seen).

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
        if flags & FL_DUMP_INTR:
            result |= 2
        if not flags & FL_MULTI:
            result |= 8
        if header.get("error") is not None or header.get("type") == T_ERROR:
            out.append(msg)
            return result | 4
        if header.get("type") == T_DONE:
            result |= 1
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
    while off <= size - HEADER:
        length = load32(base + off)
        if load16(base + off + 4) in (T_ERROR, T_DONE) or not load16(base + off + 6) & FL_MULTI:
            return True
        if length < HEADER:
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
    if p.decode == D_PYTHON or not p.std_header or where < HEADER or where >= size:
        return None
    return name_at(p, data, align4(HEADER + p.fixed), size, where)


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
            attr = p.attr_of(load16(base + pos + 2) & 0x3FFF)
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
