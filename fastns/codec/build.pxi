# Requests built straight from the arguments of pyroute2's RTNL calls.
#
# What pyroute2 does with the arguments is spread over `pyroute2/requests/*.py` (filters which rewrite keys),
# `NetlinkRequest.__init__` (fields and attributes from what is left) and the classes' encoders. Here that is one
# pass over the arguments for those whose outcome is plain; whatever is not plain makes `build` return None, and the
# caller takes pyroute2's way. Two properties of the filters shape the code:
#
# - Every argument is processed once, in order, with its original value, and moves to the end of the dictionary when
#   processed. Attributes are therefore written in the order of the arguments, and the last writer of a field wins.
# - While an argument is processed the later ones are already visible, unprocessed.

import struct

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_GetItem, PyDict_Next
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object v, int *overflow) except? -1
    const char *PyUnicode_AsUTF8AndSize(object v, Py_ssize_t *size) except NULL


# Largest request built here; anything longer is not a plain one.
cdef enum:
    OUT_SIZE = 4096

cdef struct Out:
    Py_ssize_t length
    uint8_t data[OUT_SIZE]


# How the value of an attribute becomes bytes.
cdef enum Codec:
    CODEC_INT = 1        # native-endian integer of `size` bytes, `low` <= value <= `high`
    CODEC_BE             # the same, big-endian
    CODEC_STRZ           # text and a zero byte
    CODEC_STR            # text
    CODEC_IPADDR         # IPv4 or IPv6, whichever it is
    CODEC_IP4
    CODEC_IP6
    CODEC_TARGET         # an address of the message's own family
    CODEC_MAC
    CODEC_LLADDR         # MAC, IPv4 or IPv6
    CODEC_FLAG           # no payload

# What an argument does.
cdef enum Op:
    OP_NLA = 1           # attribute
    OP_FIELD             # header field
    OP_FAMILY
    OP_DST
    OP_SRC
    OP_GATEWAY
    OP_ADDRESS
    OP_LOCAL
    OP_PREFIXLEN
    OP_LIFETIME
    OP_NEIGH_DST
    OP_INDEX             # header field; a list or tuple stands for its first item
    OP_INDEX_NLA         # attribute, likewise
    OP_TABLE
    OP_NAMED             # header field with a table of names
    OP_PRIORITY
    OP_RTFLAGS
    OP_METRICS
    OP_MULTIPATH
    OP_STATE
    OP_ARP
    OP_NOARP
    OP_CHANGE
    OP_FLAGS
    OP_KIND
    OP_PEER


@cython.final
cdef class _Key:
    """What one argument name means in one kind of request."""
    cdef int op
    cdef int codec
    cdef int nla
    cdef int size
    cdef int offset
    cdef long long low
    cdef long long high
    cdef dict names
    cdef object aux

    cdef _Key with_op(self, int op):
        cdef _Key k = _Key()
        k.op = op
        k.codec, k.nla, k.size, k.offset = self.codec, self.nla, self.size, self.offset
        k.low, k.high, k.names, k.aux = self.low, self.high, self.names, self.aux
        return k


@cython.final
cdef class _Command:
    cdef int type
    cdef int flags
    cdef int echo_flags
    cdef bint dump
    cdef bint get
    cdef bint defaults   # route: proto and type get defaults;  fdb: state and flags do


@cython.final
cdef class _Kind:
    cdef int number
    cdef Py_ssize_t header          # netlink header and message header
    cdef dict keys                  # argument -> _Key
    cdef dict commands
    cdef dict fields                # header field -> _Key
    cdef dict specific              # link: class of IFLA_INFO_DATA -> {argument: _Key}, or None


cdef enum:
    KIND_LINK = 1
    KIND_ADDR
    KIND_ROUTE
    KIND_NEIGH
    KIND_RULE
    KIND_FDB


cdef inline bint as_int(object value, long long *result) except -1:
    """False for what is not an integer, or does not fit 64 bits."""
    cdef int overflow = 0
    result[0] = 0
    if not PyLong_Check(value):
        return False
    result[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow == 0


cdef inline void *attr_reserve(Out *out, int nla_type, Py_ssize_t length) noexcept nogil:
    """Room for an attribute with `length` bytes of payload, padding zeroed; NULL if the request gets too long."""
    cdef Py_ssize_t total = 4 + length
    cdef Py_ssize_t aligned = (total + 3) & ~<Py_ssize_t>3
    cdef uint8_t *at
    if out.length + aligned > OUT_SIZE:
        return NULL
    at = out.data + out.length
    (<uint16_t *> at)[0] = <uint16_t> total
    (<uint16_t *> at)[1] = <uint16_t> nla_type
    if aligned != total:
        memset(at + total, 0, aligned - total)
    out.length += aligned
    return at + 4


cdef inline bint attr_put(Out *out, int nla_type, const void *data, Py_ssize_t length) noexcept nogil:
    cdef void *at = attr_reserve(out, nla_type, length)
    if at == NULL:
        return False
    memcpy(at, data, length)
    return True


cdef inline void store_int(uint8_t *at, long long value, int size) noexcept nogil:
    cdef uint16_t v16
    cdef uint32_t v32
    if size == 1:
        at[0] = <uint8_t> value
    elif size == 2:
        v16 = <uint16_t> value
        memcpy(at, &v16, 2)
    elif size == 4:
        v32 = <uint32_t> value
        memcpy(at, &v32, 4)
    else:
        memcpy(at, &value, 8)


cdef inline bint field_int(Out *out, _Key key, long long value) noexcept:
    if value < key.low or value > key.high:
        return False
    store_int(out.data + key.offset, value, key.size)
    return True


cdef inline bint field_put(Out *out, _Key key, object value) except -1:
    cdef long long number
    return as_int(value, &number) and field_int(out, key, number)


cdef bint parse_address(const char *text, Py_ssize_t length, uint8_t *address, int *family) noexcept nogil:
    """IPv4 or IPv6 text, chosen as pyroute2 does: a colon makes it IPv6."""
    cdef char copy[64]
    if length <= 0 or length >= 64 or memchr(text, 0, length) != NULL:
        return False
    memcpy(copy, text, length)
    copy[length] = 0
    family[0] = lx.AF_INET6 if memchr(text, 58, length) != NULL else lx.AF_INET
    return lx.inet_pton(family[0], copy, address) == 1


cdef int parse_prefixlen(const char *text, Py_ssize_t length) noexcept nogil:
    """A number of up to three digits or a dotted IPv4 mask; -1 for anything else."""
    cdef Py_ssize_t i
    cdef int value = 0, family
    cdef uint8_t mask[16]
    cdef int j
    if length <= 0:
        return -1
    if memchr(text, 46, length) != NULL:
        if not parse_address(text, length, mask, &family) or family != lx.AF_INET:
            return -1
        for i in range(4):
            for j in range(8):
                value += (mask[i] >> j) & 1
        return value
    if length > 3:
        return -1
    for i in range(length):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + (text[i] - 48)
    return value


cdef bint parse_prefix(object value, uint8_t *address, int *family, int *prefixlen) except -1:
    """'address' (prefixlen -1) or 'address/prefix'."""
    cdef Py_ssize_t length
    cdef const char *text
    cdef const char *slash
    if not PyUnicode_CheckExact(value) or not (<str> value).isascii():
        return False
    text = PyUnicode_AsUTF8AndSize(value, &length)
    slash = <const char *> memchr(text, 47, length)
    prefixlen[0] = -1
    if slash != NULL:
        prefixlen[0] = parse_prefixlen(slash + 1, length - (slash - text) - 1)
        if prefixlen[0] < 0:
            return False
        length = slash - text
    return parse_address(text, length, address, family)


cdef inline int hex_digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    if 65 <= c <= 70:
        return c - 55
    return -1


cdef bint parse_mac(const char *text, Py_ssize_t length, uint8_t *mac) noexcept nogil:
    cdef int i, high, low
    if length != 17:
        return False
    for i in range(6):
        high = hex_digit(text[3 * i])
        low = hex_digit(text[3 * i + 1])
        if high < 0 or low < 0 or (i < 5 and text[3 * i + 2] != 58):
            return False
        mac[i] = <uint8_t> (high << 4 | low)
    return True


cdef bint attr_value(Out *out, _Key key, object value, int message_family) except -1:
    """Write the attribute; False if the value is not a plain one of the attribute's type."""
    cdef long long number
    cdef Py_ssize_t length
    cdef const char *text
    cdef uint8_t address[16]
    cdef uint8_t *at
    cdef int family, i
    if key.codec == CODEC_INT or key.codec == CODEC_BE:
        if not as_int(value, &number):
            if key.names is None or not PyUnicode_CheckExact(value) or value not in key.names:
                return False
            number = key.names[value]
        if number < key.low or number > key.high:
            return False
        at = <uint8_t *> attr_reserve(out, key.nla, key.size)
        if at == NULL:
            return False
        if key.codec == CODEC_INT:
            store_int(at, number, key.size)
        else:
            for i in range(key.size):
                at[i] = <uint8_t> (<uint64_t> number >> (8 * (key.size - 1 - i)))
        return True
    if key.codec == CODEC_FLAG:
        # what pyroute2 looks at for a flag is only that there is a value
        return (value is True or value is False) and attr_put(out, key.nla, b"", 0)
    if not PyUnicode_CheckExact(value):
        return False
    if key.codec == CODEC_STRZ or key.codec == CODEC_STR:
        try:
            text = PyUnicode_AsUTF8AndSize(value, &length)
        except UnicodeEncodeError:
            return False
        if length == 0 or length > 1024:
            return False
        # the text's own terminator is the attribute's
        return attr_put(out, key.nla, text, length + (1 if key.codec == CODEC_STRZ else 0))
    if not (<str> value).isascii():
        return False
    text = PyUnicode_AsUTF8AndSize(value, &length)
    if key.codec == CODEC_MAC:
        return parse_mac(text, length, address) and attr_put(out, key.nla, address, 6)
    if key.codec == CODEC_LLADDR and length == 17 and memchr(text, 58, length) != NULL:
        return parse_mac(text, length, address) and attr_put(out, key.nla, address, 6)
    if not parse_address(text, length, address, &family):
        return False
    if key.codec == CODEC_IP4 and family != lx.AF_INET:
        return False
    if key.codec == CODEC_IP6 and family != lx.AF_INET6:
        return False
    if key.codec == CODEC_TARGET and family != message_family:
        return False
    return attr_put(out, key.nla, address, address_length(family))
