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


# -- writing -----------------------------------------------------------------------------------------------------

cdef inline bint as_int(object value, long long *result):
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


cdef inline bint field_put(Out *out, _Key key, object value):
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


cdef bint parse_prefix(object value, uint8_t *address, int *family, int *prefixlen):
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


cdef bint attr_value(Out *out, _Key key, object value, int message_family):
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
    return attr_put(out, key.nla, address, 4 if family == lx.AF_INET else 16)


# -- tables, from pyroute2's classes ---------------------------------------------------------------------------------

_KINDS: dict = {}


def _field_keys(msg_class):
    keys = {}
    offset = 16
    for name, fmt in msg_class.fields:
        size = struct.calcsize(fmt)
        if "x" not in fmt:
            key = _Key()
            key.op, key.offset, key.size = OP_FIELD, offset, size
            key.low, key.high = _int_range(fmt)
            keys[name] = key
        offset += size
    return keys, offset


def _int_range(fmt):
    bits = 8 * struct.calcsize(fmt)
    if fmt[-1].islower():
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, min((1 << bits) - 1, (1 << 63) - 1)


def _plain_encoder(cls):
    """True if nothing in the class changes what pyroute2's generic encoder does."""
    from pyroute2.netlink import nla_base

    return all(
        getattr(cls, name) is getattr(nla_base, name)
        for name in ("encode", "ft_encode", "encode_field", "encode_nlas", "setvalue", "getvalue", "header")
    )


def _attr_key(prime, names_of=None):
    """The _Key of an entry of a compiled nla table, or None if its type is not a plain one."""
    from pyroute2.netlink import nlmsg_atoms

    cls = prime["class"]
    if not isinstance(cls, type) or prime["nla_array"] or prime["init"] is not None:
        return None
    key = _Key()
    key.op = OP_NLA
    key.nla = prime["type"] | prime["nla_flags"] | cls.nla_flags
    texts = {
        nlmsg_atoms.asciiz: CODEC_STRZ,
        nlmsg_atoms.string: CODEC_STR,
        nlmsg_atoms.ipaddr: CODEC_IPADDR,
        nlmsg_atoms.ip4addr: CODEC_IP4,
        nlmsg_atoms.ip6addr: CODEC_IP6,
        nlmsg_atoms.target: CODEC_TARGET,
        nlmsg_atoms.l2addr: CODEC_MAC,
        nlmsg_atoms.lladdr: CODEC_LLADDR,
        nlmsg_atoms.flag: CODEC_FLAG,
    }
    if cls in texts:
        key.codec = texts[cls]
        return key
    if not _plain_encoder(cls) or cls.nla_map or len(cls.fields) != 1:
        return None
    name, fmt = cls.fields[0]
    if name != "value" or fmt.lstrip("<>=!") not in ("B", "H", "I", "Q", "b", "h", "i", "q") or cls.align != 4:
        return None
    key.codec = CODEC_BE if fmt[0] in ">!" else CODEC_INT
    key.size = struct.calcsize(fmt)
    key.low, key.high = _int_range(fmt)
    if cls.value_map:
        # names become numbers; a number that is itself somebody's name would be translated too
        values = list(cls.value_map.values())
        if any(isinstance(x, int) for x in values):
            return None
        key.names = {v: k for k, v in cls.value_map.items() if isinstance(v, str)}
    return key


def _compiled(msg_class):
    """pyroute2's table of attributes by name: it compiles it when the class is first instantiated."""
    msg_class()
    return msg_class._nlmsg_base__r_nla_map


def _attr_keys(msg_class, prefix):
    """Argument name -> _Key of every plain attribute, by the rule of `name2nla()`."""
    keys = {}
    for name, prime in _compiled(msg_class).items():
        key = _attr_key(prime)
        if key is not None and name.startswith(prefix) and name.upper() == name and name.count(prefix) == 1:
            keys[name[len(prefix):].lower()] = key
    return keys


def _commands(table, defaults=()):
    from pyroute2.netlink import NLM_F_ECHO
    from pyroute2.netlink.nlsocket import NetlinkRequest

    commands = {}
    for names, (msg_type, mode) in table.items():
        for name in names.split():
            command = _Command()
            command.type = msg_type
            command.flags = NetlinkRequest.flags[mode]
            command.echo_flags = command.flags | (0 if mode in ("get", "dump") else NLM_F_ECHO)
            command.dump = name in ("dump", "show")
            command.get = name == "get"
            command.defaults = name in defaults
            commands[name] = command
    return commands


def _special(int op, dict names=None, _Key base=None, object aux=None):
    cdef _Key key = base.with_op(op) if base is not None else _Key()
    key.op = op
    if names is not None:
        key.names = names
    if aux is not None:
        key.aux = aux
    return key


def _nested_key(int op, prime, cls, prefix=None):
    """An attribute with attributes of its own, or None if its class has ways of its own."""
    if not (_plain_encoder(cls) or op == OP_MULTIPATH) or not prefix and tuple(cls.fields):
        return None
    key = _special(op)
    (<_Key> key).nla = prime["type"] | prime["nla_flags"] | cls.nla_flags
    (<_Key> key).names = _attr_keys(cls, prefix or cls.prefix)
    (<_Key> key).names.pop("unspec", None)
    return key


cdef dict _text_values(table):
    return {k: v for k, v in table.items() if isinstance(k, str) and isinstance(v, int)}


cdef _Kind _make_kind(str name):
    from pyroute2.netlink import rtnl
    from pyroute2.netlink.rtnl import ndmsg, rt_proto, rt_scope, rt_type
    from pyroute2.netlink.rtnl.fibmsg import FR_ACT_NAMES, fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
    from pyroute2.netlink.rtnl.rtmsg import nh, rtmsg

    cdef _Kind kind = _Kind()
    cdef dict keys
    if name == "route":
        kind.number = KIND_ROUTE
        kind.fields, kind.header = _field_keys(rtmsg)
        keys = _attr_keys(rtmsg, "RTA_")
        for gone in ("via", "newdst", "encap", "encap_type"):
            keys.pop(gone, None)
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["dst"] = _special(OP_DST, base=keys["dst"])
        keys["src"] = _special(OP_SRC, base=keys["src"])
        keys["gateway"] = _special(OP_GATEWAY, base=keys["gateway"])
        keys["oif"] = _special(OP_INDEX_NLA, base=keys["oif"])
        keys["iif"] = _special(OP_INDEX_NLA, base=keys["iif"])
        keys["priority"] = _special(OP_PRIORITY, base=keys["priority"])
        keys["table"] = _special(OP_TABLE, base=_attr_keys(rtmsg, "RTA_")["table"])
        keys["proto"] = _special(OP_NAMED, _text_values(rt_proto), kind.fields["proto"])
        keys["type"] = _special(OP_NAMED, _text_values(rt_type), kind.fields["type"])
        keys["scope"] = _special(OP_NAMED, _text_values(rt_scope), kind.fields["scope"])
        keys["flags"] = _special(OP_RTFLAGS, base=kind.fields["flags"], aux=rtmsg.names2flags)
        table = _compiled(rtmsg)
        keys["metrics"] = _nested_key(OP_METRICS, table["RTA_METRICS"], rtmsg.metrics)
        if (
            [tuple(x) for x in nh.fields] == [("flags", "B"), ("hops", "B"), ("oif", "i")]
            and [tuple(x) for x in nh.cell_header] == [("length", "H")]
            and table["RTA_MULTIPATH"]["nla_array"]
            and rtmsg.get_nh(None) is nh
        ):
            keys["multipath"] = _nested_key(OP_MULTIPATH, table["RTA_MULTIPATH"], nh, "RTA_")
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWROUTE, "create"),
                "set replace": (rtnl.RTM_NEWROUTE, "replace"),
                "change": (rtnl.RTM_NEWROUTE, "change"),
                "append": (rtnl.RTM_NEWROUTE, "append"),
                "del remove delete": (rtnl.RTM_DELROUTE, "req"),
                "get": (rtnl.RTM_GETROUTE, "get"),
                "show dump": (rtnl.RTM_GETROUTE, "dump"),
            },
            defaults=("add", "set", "replace", "change", "append"),
        )
    elif name == "addr":
        kind.number = KIND_ADDR
        kind.fields, kind.header = _field_keys(ifaddrmsg)
        keys = _attr_keys(ifaddrmsg, "IFA_")
        flags = keys["flags"]
        keys.pop("unspec", None)
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        # flags go into the attribute only, the field stays 0
        keys["flags"] = flags
        keys["index"] = _special(OP_INDEX, base=kind.fields["index"])
        keys["address"] = _special(OP_ADDRESS, base=keys["address"])
        keys["local"] = _special(OP_LOCAL, base=keys["local"])
        keys["prefixlen"] = _special(OP_PREFIXLEN, base=kind.fields["prefixlen"])
        prime = _compiled(ifaddrmsg)["IFA_CACHEINFO"]
        if [x[1] for x in prime["class"].fields] == ["I"] * 4 and [x[0] for x in prime["class"].fields[:2]] == [
            "ifa_preferred", "ifa_valid"
        ] and _plain_encoder(prime["class"]):
            for lifetime, number in (("preferred", 0), ("preferred_lft", 0), ("valid", 1), ("valid_lft", 1)):
                key = _special(OP_LIFETIME)
                (<_Key> key).nla, (<_Key> key).size = prime["type"], number
                keys[lifetime] = key
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWADDR, "create"),
                "del remove delete": (rtnl.RTM_DELADDR, "req"),
                "replace": (rtnl.RTM_NEWADDR, "replace"),
                "dump": (rtnl.RTM_GETADDR, "dump"),
            }
        )
    elif name == "neigh" or name == "fdb":
        kind.number = KIND_NEIGH if name == "neigh" else KIND_FDB
        kind.fields, kind.header = _field_keys(ndmsg.ndmsg)
        keys = _attr_keys(ndmsg.ndmsg, "NDA_")
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["dst"] = _special(OP_NEIGH_DST, base=keys["dst"])
        keys["index"] = _special(OP_INDEX, base=kind.fields["ifindex"])
        keys["ifindex"] = keys["index"]
        keys["state"] = _special(OP_NAMED, {}, kind.fields["state"], ndmsg.states_a2n)
        keys["nud"] = keys["state"]
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWNEIGH, "create"),
                "set replace": (rtnl.RTM_NEWNEIGH, "replace"),
                "change": (rtnl.RTM_NEWNEIGH, "change"),
                "del remove delete": (rtnl.RTM_DELNEIGH, "req"),
                "dump": (rtnl.RTM_GETNEIGH, "dump"),
                "get": (rtnl.RTM_GETNEIGH, "get"),
                "append": (rtnl.RTM_NEWNEIGH, "append"),
            },
            defaults=("add", "del", "append"),
        )
    elif name == "rule":
        kind.number = KIND_RULE
        kind.fields, kind.header = _field_keys(fibmsg)
        keys = _attr_keys(fibmsg, "FRA_")
        nla_table = keys["table"]
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["dst"] = _special(OP_DST, base=keys["dst"])
        keys["src"] = _special(OP_SRC, base=keys["src"])
        keys["table"] = _special(OP_TABLE, base=nla_table)
        actions = _text_values(FR_ACT_NAMES)
        for long_name, value in list(actions.items()):
            if long_name.startswith("FR_ACT_"):
                actions.setdefault(long_name[7:].lower(), value)
                actions.setdefault(long_name[7:], value)
        keys["action"] = _special(OP_NAMED, actions, kind.fields["action"])
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWRULE, "create"),
                "del remove delete": (rtnl.RTM_DELRULE, "req"),
                "dump": (rtnl.RTM_GETRULE, "root"),
            }
        )
    elif name == "link":
        kind.number = KIND_LINK
        kind.fields, kind.header = _field_keys(ifinfmsg)
        keys = _attr_keys(ifinfmsg, "IFLA_")
        # changed or dropped by pyroute2's filters
        for gone in ("unspec", "carrier", "carrier_changes", "alt_ifname", "tso_max_segs", "tso_max_size"):
            keys.pop(gone, None)
        table = _compiled(ifinfmsg)
        netns = dict(table["IFLA_NET_NS_FD"])
        fd_key = _Key()
        fd_key.op, fd_key.codec, fd_key.size, fd_key.high = OP_NLA, CODEC_INT, 4, 0xFFFFFFFF
        fd_key.nla = netns["type"] | netns["nla_flags"] | netns["class"].nla_flags
        if [tuple(x) for x in netns["class"].fields] == [("value", "I")]:
            keys["net_ns_fd"] = fd_key
        peer_keys = dict(keys)
        keys["altname"] = _attr_key(table["IFLA_ALT_IFNAME"])
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["index"] = _special(OP_INDEX, base=kind.fields["index"])
        keys["flags"] = _special(OP_FLAGS, base=kind.fields["flags"])
        keys["change"] = _special(OP_CHANGE, base=kind.fields["change"])
        keys["mask"] = keys["change"]
        keys["state"] = _special(OP_STATE)
        keys["arp"] = _special(OP_ARP)
        keys["noarp"] = _special(OP_NOARP)
        keys["kind"] = _special(OP_KIND)
        keys["peer"] = _special(OP_PEER, aux=(peer_keys, struct.calcsize("".join(x[1] for x in ifinfveth.fields))))
        kind.specific = {}
        kind.commands = _commands(
            {
                "set": (rtnl.RTM_NEWLINK, "req"),
                "update": (rtnl.RTM_SETLINK, "create"),
                "add": (rtnl.RTM_NEWLINK, "create"),
                "del remove delete": (rtnl.RTM_DELLINK, "req"),
                "dump": (rtnl.RTM_GETLINK, "dump"),
                "get": (rtnl.RTM_GETLINK, "get"),
            }
        )
    else:
        return None
    kind.keys = keys
    _KINDS[name] = kind
    return kind


@cython.final
cdef class _LinkData:
    """What goes into IFLA_LINKINFO for one `kind=`."""
    cdef dict keys           # argument -> _Key
    cdef int info            # attribute types
    cdef int kind
    cdef int data
    cdef int peer            # VETH_INFO_PEER, or 0
    cdef object cls


# Arguments with a meaning of their own: a link class that has an attribute of that name is not a plain one.
_NOT_SPECIFIC = frozenset(
    ("index", "flags", "change", "family", "ifi_type", "kind", "state", "arp", "noarp", "mask", "altname", "address",
     "link", "master", "group", "carrier", "info_kind", "peer", "linkinfo", "vf", "xdp_fd", "mode")
)


cdef _LinkData _link_data(_Kind kind, str name):
    """The plan for one link kind, or None when it is not plain. Kinds can be registered at any time, so the class is
    looked up on every call and the plan is kept with it."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth

    cdef _LinkData plan
    cls = ifinfmsg.ifinfo.data_map.get(name)
    plan = kind.specific.get(name)
    if plan is not None and plan.cls is cls:
        return plan
    # the first two are created through /dev/net/tun; the filters treat slaves differently
    if name in ("tuntap", "tun") or name.endswith("_slave") or not name:
        return None
    plan = _LinkData()
    plan.cls = cls
    plan.keys = {}
    message = _compiled(ifinfmsg)["IFLA_LINKINFO"]
    info = _compiled(ifinfmsg.ifinfo)
    if not _plain_encoder(ifinfmsg.ifinfo) or tuple(ifinfmsg.ifinfo.fields):
        return None
    plan.info = message["type"] | message["nla_flags"] | message["class"].nla_flags
    plan.kind = info["IFLA_INFO_KIND"]["type"]
    plan.data = info["IFLA_INFO_DATA"]["type"] | info["IFLA_INFO_DATA"]["nla_flags"]
    if cls is not None:
        if not _plain_encoder(cls) or tuple(cls.fields) or not isinstance(cls.nla_map, (tuple, list)):
            return None
        plan.data |= cls.nla_flags
        table = _compiled(cls)
        prefix = cls.prefix or "IFLA_"
        for entry in cls.nla_map:
            if not isinstance(entry[0], str):
                return None
            short = entry[0][len(prefix):].lower()
            key = _attr_key(table[entry[0]])
            if short in _NOT_SPECIFIC:
                return None
            # also the names that are not plain: they take precedence over a link's own argument of that name
            plan.keys[short] = key
            if name == "vlan" and short in ("vlan_flags", "vlan_egress_qos", "vlan_ingress_qos"):
                plan.keys[short] = None
        mode = "IFLA_%s_MODE" % name.upper()
        if mode in table:
            plan.keys["mode"] = _attr_key(table[mode])
        if name == "veth" and "VETH_INFO_PEER" in table:
            peer = table["VETH_INFO_PEER"]
            plan.peer = peer["type"] | peer["nla_flags"] | ifinfveth.nla_flags
    kind.specific[name] = plan
    return plan


# -- kinds -----------------------------------------------------------------------------------------------------------

cdef inline object first_of(object value):
    """The filters' rule for indices: a list or tuple stands for its first item."""
    if type(value) is list or type(value) is tuple:
        return value[0] if len(value) else None
    return value


cdef bint build_route(_Kind kind, _Command command, dict kwarg, bint strict, Out *out) except -1:
    cdef PyObject *pk
    cdef PyObject *pv
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long number, family = 0, table = 0
    cdef int target_family, prefixlen
    cdef uint8_t address[16]
    cdef bint proto = False, type_ = False, has_family = False
    # addresses are checked against the message's family, which a later argument can still change
    cdef int targets = 0
    found = PyDict_GetItem(kwarg, "family")
    if found != NULL and found != <PyObject *> None:
        if not as_int(<object> found, &family):
            return False
        has_family = True
    while PyDict_Next(kwarg, &pos, &pk, &pv):
        found = PyDict_GetItem(kind.keys, <object> pk)
        if found == NULL or found == <PyObject *> None:
            return False
        if pv == <PyObject *> None:
            continue
        key = <_Key> <object> found
        value = <object> pv
        if key.op == OP_DST or key.op == OP_SRC or key.op == OP_GATEWAY:
            if key.op == OP_DST and PyUnicode_CheckExact(value):
                if value == "default" or value == "":
                    continue
                if value == "0" or value == "0.0.0.0" or value == "0.0.0.0/0":
                    family = lx.AF_INET
                    has_family = True
                    continue
                if value == "::" or value == "::/0":
                    family = lx.AF_INET6
                    has_family = True
                    continue
            if not parse_prefix(value, address, &target_family, &prefixlen):
                return False
            family = target_family
            has_family = True
            if key.op == OP_GATEWAY:
                if prefixlen >= 0:
                    return False
            else:
                name = "dst_len" if key.op == OP_DST else "src_len"
                if prefixlen < 0 and not PyDict_Contains(kwarg, name):
                    prefixlen = 32 if family == lx.AF_INET else 128
                if prefixlen >= 0 and not field_int(out, <_Key> kind.fields[name], prefixlen):
                    return False
            if not attr_put(out, key.nla, address, 4 if target_family == lx.AF_INET else 16):
                return False
            targets |= 1 if target_family == lx.AF_INET else 2
        elif key.op == OP_NLA:
            if key.codec == CODEC_TARGET:
                # prefsrc
                if not PyUnicode_CheckExact(value) or not parse_prefix(value, address, &target_family, &prefixlen):
                    return False
                if prefixlen >= 0 or not attr_put(out, key.nla, address, 4 if target_family == lx.AF_INET else 16):
                    return False
                targets |= 1 if target_family == lx.AF_INET else 2
            elif not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_INDEX_NLA:
            if not attr_value(out, key, first_of(value), 0):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
        elif key.op == OP_TABLE:
            if not as_int(value, &table) or not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_PRIORITY:
            if not as_int(value, &number):
                return False
            if number == 0 and family == lx.AF_INET6:
                value = _ip6_rt_prio_user()
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_NAMED:
            if (
                command.defaults
                and (value == 0 if PyLong_Check(value) else value == "" if PyUnicode_CheckExact(value) else False)
                and key.offset != (<_Key> kind.fields["scope"]).offset
            ):
                continue                                  # falsy: replaced by the default below
            if PyUnicode_CheckExact(value):
                found = PyDict_GetItem(key.names, value)
                if found == NULL:
                    return False
                value = <object> found
            if not field_put(out, key, value):
                return False
            if key.offset == (<_Key> kind.fields["proto"]).offset:
                proto = True
            elif key.offset == (<_Key> kind.fields["type"]).offset:
                type_ = True
        elif key.op == OP_RTFLAGS:
            if PyUnicode_CheckExact(value) or type(value) is list or type(value) is tuple:
                try:
                    value = key.aux(value)
                except Exception:
                    return False
            if not field_put(out, key, value):
                return False
        elif key.op == OP_METRICS:
            if not build_metrics(key, value, out):
                return False
        elif key.op == OP_MULTIPATH:
            # pyroute2 needs the family by now
            if not has_family or not build_multipath(key, value, out, &targets):
                return False
        else:
            return False
    if family == lx.AF_MPLS:
        return False
    if (targets & 1 and family != lx.AF_INET) or (targets & 2 and family != lx.AF_INET6):
        return False
    if not field_int(out, <_Key> kind.fields["family"], family):
        return False
    if command.defaults:
        if not proto and not field_put(out, <_Key> kind.fields["proto"], (<_Key> kind.keys["proto"]).names["static"]):
            return False
        if not type_ and not field_put(out, <_Key> kind.fields["type"], (<_Key> kind.keys["type"]).names["unicast"]):
            return False
    if not strict:
        field_int(out, <_Key> kind.fields["table"], table if 0 < table < 255 else 254)
    return True


cdef bint build_metrics(_Key key, object value, Out *out) except -1:
    cdef Py_ssize_t at = out.length
    cdef PyObject *found
    if type(value) is not dict or attr_reserve(out, key.nla, 0) == NULL:
        return False
    for name, metric in (<dict> value).items():
        found = PyDict_GetItem(key.names, name) if type(name) is str else NULL
        if found == NULL:
            return False
        if metric is not None and not attr_value(out, <_Key> <object> found, metric, 0):
            return False
    if out.length == at + 4:
        out.length = at              # no metrics, no attribute
    else:
        close_attr(out, at)
    return True


cdef bint build_multipath(_Key key, object value, Out *out, int *targets) except -1:
    """Next hops: struct rtnexthop and attributes."""
    cdef Py_ssize_t at = out.length, hop_at
    cdef PyObject *found
    cdef _Key attr
    cdef long long numbers[3]
    cdef uint8_t address[16]
    cdef uint8_t *hop
    cdef int family, prefixlen, i
    cdef tuple names = ("flags", "hops", "oif")
    if (type(value) is not list and type(value) is not tuple) or len(value) == 0:
        return False
    if attr_reserve(out, key.nla, 0) == NULL:
        return False
    for item in value:
        if type(item) is not dict:
            return False
        for i in range(3):
            found = PyDict_GetItem(<dict> item, names[i])
            numbers[i] = 0
            if found != NULL and not as_int(<object> found, &numbers[i]):
                return False
        if numbers[0] < 0 or numbers[0] > 255 or numbers[1] < 0 or numbers[1] > 255:
            return False
        if numbers[2] < -0x80000000LL or numbers[2] > 0x7FFFFFFF:
            return False
        hop_at = out.length
        # the place of an attribute's header and four bytes is that of a struct rtnexthop
        hop = <uint8_t *> attr_reserve(out, 0, 4)
        if hop == NULL:
            return False
        hop -= 4
        hop[2] = <uint8_t> numbers[0]
        hop[3] = <uint8_t> numbers[1]
        store_int(hop + 4, numbers[2], 4)
        for name, argument in (<dict> item).items():
            if type(name) is not str:
                return False
            if argument is None or name in names:
                continue
            found = PyDict_GetItem(key.names, name)
            if found == NULL:
                return False
            attr = <_Key> <object> found
            if attr.codec == CODEC_TARGET:
                if name == "newdst" or not parse_prefix(argument, address, &family, &prefixlen) or prefixlen >= 0:
                    return False
                if not attr_put(out, attr.nla, address, 4 if family == lx.AF_INET else 16):
                    return False
                targets[0] |= 1 if family == lx.AF_INET else 2
            elif name == "encap" or not attr_value(out, attr, argument, 0):
                return False
        close_attr(out, hop_at)
    close_attr(out, at)
    return True


cdef object _prio_user = None


cdef object _ip6_rt_prio_user():
    global _prio_user
    if _prio_user is None:
        from pyroute2.netlink.rtnl.rtmsg import IP6_RT_PRIO_USER
        _prio_user = IP6_RT_PRIO_USER
    return _prio_user


cdef bint build_addr(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *pk
    cdef PyObject *pv
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long number
    cdef long long lifetimes[2]
    cdef long long family = 0
    cdef bint has_family = False
    cdef int target_family, prefixlen = -1, parsed
    cdef Py_ssize_t size, address_size = 0
    cdef const char *text
    cdef uint8_t address[16]
    cdef uint8_t local[16]
    cdef uint8_t *at
    cdef bint has_local = False
    cdef int lifetimes_left = 0
    while PyDict_Next(kwarg, &pos, &pk, &pv):
        found = PyDict_GetItem(kind.keys, <object> pk)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if pv == <PyObject *> None:
            if key.op == OP_NLA or key.op == OP_FIELD or key.op == OP_INDEX:
                continue
            return False              # seen by what pyroute2 does at the end
        value = <object> pv
        if key.op == OP_ADDRESS:
            if not parse_prefix(value, address, &target_family, &parsed):
                return False
            if parsed >= 0:
                prefixlen = parsed
            address_size = 4 if target_family == lx.AF_INET else 16
            if not attr_put(out, key.nla, address, address_size):
                return False
        elif key.op == OP_LOCAL:
            if not attr_value(out, key, value, 0):
                return False
            has_local = True
        elif key.op == OP_PREFIXLEN:
            if PyUnicode_CheckExact(value):
                text = PyUnicode_AsUTF8AndSize(value, &size) if (<str> value).isascii() else NULL
                if text == NULL:
                    return False
                prefixlen = parse_prefixlen(text, size)
                if prefixlen < 0:
                    return False
            elif not as_int(value, &number) or number < 0 or number > 255:
                return False
            else:
                prefixlen = <int> number
        elif key.op == OP_INDEX:
            if not field_put(out, key, first_of(value)):
                return False
        elif key.op == OP_NLA:
            # a truth value asks pyroute2 to compute the broadcast address
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
            has_family = True
        elif key.op == OP_LIFETIME:
            # every one of them rewrites the attribute, which so stands where the last one does
            if lifetimes_left == 0:
                lifetimes_left = build_lifetimes(kwarg, lifetimes)
                if lifetimes_left == 0:
                    return False
            lifetimes_left -= 1
            if lifetimes_left:
                continue
            at = <uint8_t *> attr_reserve(out, key.nla, 16)
            if at == NULL:
                return False
            memset(at, 0, 16)
            store_int(at, lifetimes[0], 4)
            store_int(at + 4, lifetimes[1], 4)
        else:
            return False
    if not has_family:
        if address_size == 0:
            return False
        family = lx.AF_INET if address_size == 4 else lx.AF_INET6
    if prefixlen < 0:
        if family == lx.AF_INET:
            prefixlen = 32
        elif family == lx.AF_INET6:
            prefixlen = 128
        else:
            prefixlen = 0
    if not field_int(out, <_Key> kind.fields["family"], family):
        return False
    if not field_int(out, <_Key> kind.fields["prefixlen"], prefixlen):
        return False
    if not has_local and address_size and family == lx.AF_INET:
        return attr_put(out, (<_Key> kind.keys["local"]).nla, address, address_size)
    return True


cdef int build_lifetimes(dict kwarg, long long *lifetimes) except -1:
    """preferred and valid, under either name. How many there are; 0 if they are not plain."""
    cdef int i, count = 0
    cdef PyObject *one
    cdef PyObject *other
    for i in range(2):
        one = PyDict_GetItem(kwarg, "valid" if i else "preferred")
        other = PyDict_GetItem(kwarg, "valid_lft" if i else "preferred_lft")
        if one != NULL and other != NULL:
            return 0
        if one == NULL:
            one = other
        lifetimes[i] = 0xFFFFFFFF
        if one != NULL:
            count += 1
            if not as_int(<object> one, &lifetimes[i]) or lifetimes[i] < 0 or lifetimes[i] > 0xFFFFFFFF:
                return 0
    return count if lifetimes[1] >= lifetimes[0] else 0


cdef bint build_neigh(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *pk
    cdef PyObject *pv
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long family = 0, state = 0, flags = 0
    cdef int dst_family = 0, prefixlen
    cdef uint8_t address[16]
    cdef bint has_state = False, has_family = False
    cdef _Key flags_key = <_Key> kind.fields["flags"]
    while PyDict_Next(kwarg, &pos, &pk, &pv):
        found = PyDict_GetItem(kind.keys, <object> pk)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if pv == <PyObject *> None:
            if key.op == OP_NLA or key.op == OP_INDEX:
                continue
            return False              # seen by fdb(), or by what pyroute2 does at the end
        value = <object> pv
        if key.op == OP_NEIGH_DST:
            if not parse_prefix(value, address, &dst_family, &prefixlen) or prefixlen >= 0:
                return False
            if not attr_put(out, key.nla, address, 4 if dst_family == lx.AF_INET else 16):
                return False
        elif key.op == OP_NLA:
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_INDEX:
            if not field_put(out, key, first_of(value)):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
            has_family = True
        elif key.op == OP_NAMED:
            if kind.number == KIND_FDB and PyDict_Contains(kwarg, "nud") and PyDict_Contains(kwarg, "state"):
                return False
            if PyUnicode_CheckExact(value):
                # fdb() does arithmetic on it
                if kind.number == KIND_FDB and command.defaults:
                    return False
                value = neigh_state(key, value)
                if value is None:
                    return False
            if not as_int(value, &state):
                return False
            has_state = True
        elif key.op == OP_FIELD:
            if key.offset == flags_key.offset:
                if not as_int(value, &flags):
                    return False
            elif not field_put(out, key, value):
                return False
        else:
            return False
    if kind.number == KIND_FDB:
        family = lx.AF_BRIDGE
        has_family = True
        if command.defaults and not state & lx.NUD_NOARP:
            state |= lx.NUD_NOARP
            has_state = True
            if not state & (lx.NUD_PERMANENT | lx.NUD_REACHABLE):
                state |= lx.NUD_PERMANENT
            if not flags & (lx.NTF_SELF | lx.NTF_MASTER):
                flags |= lx.NTF_SELF
    if not has_state and not command.get:
        state = lx.NUD_PERMANENT
    if not has_family:
        family = dst_family
    return (
        field_int(out, <_Key> kind.fields["family"], family)
        and field_int(out, <_Key> kind.fields["state"], state)
        and field_int(out, flags_key, flags)
    )


cdef object neigh_state(_Key key, object value):
    """pyroute2's translation of names, remembered."""
    cdef PyObject *found = PyDict_GetItem(key.names, value)
    if found != NULL:
        return <object> found
    try:
        state = key.aux(value)
    except Exception:
        return None
    if len(key.names) < 256:
        key.names[value] = state
    return state


cdef bint build_rule(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *pk
    cdef PyObject *pv
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long family = lx.AF_INET, table = 0
    cdef int target_family, prefixlen
    cdef uint8_t address[16]
    cdef bint priority = False, action = False, has_table = False
    while PyDict_Next(kwarg, &pos, &pk, &pv):
        found = PyDict_GetItem(kind.keys, <object> pk)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if pv == <PyObject *> None:
            if key.op == OP_NLA and (<object> pk) != "priority":
                continue
            return False              # seen by what pyroute2 does at the end
        value = <object> pv
        if key.op == OP_DST or key.op == OP_SRC:
            if key.op == OP_DST and PyUnicode_CheckExact(value) and (
                value == "0" or value == "0.0.0.0" or value == "0.0.0.0/0" or value == "::" or value == "::/0"
            ):
                return False
            if not parse_prefix(value, address, &target_family, &prefixlen):
                return False
            family = target_family
            name = "dst_len" if key.op == OP_DST else "src_len"
            if prefixlen < 0 and not PyDict_Contains(kwarg, name):
                prefixlen = 32 if family == lx.AF_INET else 128
            if prefixlen >= 0 and not field_int(out, <_Key> kind.fields[name], prefixlen):
                return False
            if not attr_put(out, key.nla, address, 4 if target_family == lx.AF_INET else 16):
                return False
        elif key.op == OP_NLA:
            if (<object> pk) == "priority":
                priority = True
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
        elif key.op == OP_TABLE:
            if not as_int(value, &table) or not attr_value(out, key, value, 0):
                return False
            has_table = True
        elif key.op == OP_NAMED:
            if PyUnicode_CheckExact(value):
                found = PyDict_GetItem(key.names, value)
                if found == NULL:
                    return False
                value = <object> found
            if not field_put(out, key, value):
                return False
            action = True
        else:
            return False
    if not priority and not attr_value(out, <_Key> kind.keys["priority"], _rule_priority(), 0):
        return False
    if has_table and not action:
        if not field_put(out, <_Key> kind.fields["action"], (<_Key> kind.keys["action"]).names["to_tbl"]):
            return False
    return (
        field_int(out, <_Key> kind.fields["family"], family)
        and field_int(out, <_Key> kind.fields["table"], table if 0 <= table <= 255 else 252)
    )


cdef object _default_priority = None


cdef object _rule_priority():
    global _default_priority
    if _default_priority is None:
        from pyroute2.requests.rule import DEFAULT_FRA_PRIORITY
        _default_priority = DEFAULT_FRA_PRIORITY
    return _default_priority


cdef bint build_link(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *pk
    cdef PyObject *pv
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long flags = 0, change = 0, family = 0
    cdef Py_ssize_t info_at, data_at, size
    cdef const char *text
    cdef _LinkData data = None
    cdef bint specific = False
    found = PyDict_GetItem(kwarg, "kind")
    if found != NULL and found != <PyObject *> None:
        value = <object> found
        if not PyUnicode_CheckExact(value):
            return False
        data = _link_data(kind, value)
        if data is None:
            return False
    # visible to state= and arp= before they are processed themselves
    found = PyDict_GetItem(kwarg, "flags")
    if found != NULL and found != <PyObject *> None and not as_int(<object> found, &flags):
        return False
    found = PyDict_GetItem(kwarg, "change")
    if found != NULL and found != <PyObject *> None and not as_int(<object> found, &change):
        return False
    while PyDict_Next(kwarg, &pos, &pk, &pv):
        if data is not None and PyDict_Contains(data.keys, <object> pk):
            specific = True
            continue
        found = PyDict_GetItem(kind.keys, <object> pk)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if pv == <PyObject *> None:
            if key.op == OP_PEER:
                return False
            continue
        value = <object> pv
        if key.op == OP_NLA:
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_INDEX:
            if not field_put(out, key, first_of(value)):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_STATE:
            if not PyUnicode_CheckExact(value):
                return False
            if value == "up":
                flags |= lx.IFF_UP
            elif value != "down":
                return False
            change |= lx.IFF_UP
        elif key.op == OP_ARP or key.op == OP_NOARP:
            if not PyLong_Check(value):
                return False
            if (not value) == (key.op == OP_ARP):
                flags |= lx.IFF_NOARP
            change |= lx.IFF_NOARP
        elif key.op == OP_FLAGS:
            if not as_int(value, &flags):
                return False
        elif key.op == OP_CHANGE:
            if not as_int(value, &change):
                return False
        elif key.op == OP_KIND:
            pass
        elif key.op == OP_PEER:
            if data is None or not data.peer:
                return False
            specific = True
        else:
            return False
    if not field_int(out, <_Key> kind.fields["flags"], flags):
        return False
    if not field_int(out, <_Key> kind.fields["change"], change):
        return False
    if data is None:
        return True
    info_at = out.length
    if attr_reserve(out, data.info, 0) == NULL:
        return False
    text = PyUnicode_AsUTF8AndSize(kwarg["kind"], &size)
    if size > 64 or not attr_put(out, data.kind, text, size + 1):
        return False
    if specific:
        data_at = out.length
        if attr_reserve(out, data.data, 0) == NULL:
            return False
        pos = 0
        while PyDict_Next(kwarg, &pos, &pk, &pv):
            found = PyDict_GetItem(data.keys, <object> pk)
            if found != NULL:
                if found == <PyObject *> None or not attr_value(out, <_Key> <object> found, <object> pv, 0):
                    return False
            elif data.peer and (<object> pk) == "peer":
                if not build_peer(<_Key> kind.keys["peer"], data.peer, <object> pv, out):
                    return False
        close_attr(out, data_at)
    close_attr(out, info_at)
    return True


cdef inline void close_attr(Out *out, Py_ssize_t at) noexcept nogil:
    (<uint16_t *> (out.data + at))[0] = <uint16_t> (out.length - at)


cdef bint build_peer(_Key peer, int nla_type, object value, Out *out) except -1:
    """VETH_INFO_PEER: an interface message of its own, inside an attribute."""
    cdef Py_ssize_t at = out.length
    cdef dict keys = peer.aux[0]
    cdef Py_ssize_t header = peer.aux[1]
    cdef void *fields = attr_reserve(out, nla_type, header)
    cdef PyObject *found
    if fields == NULL:
        return False
    memset(fields, 0, header)
    if type(value) is dict:
        for name, argument in (<dict> value).items():
            found = PyDict_GetItem(keys, name)
            if found == NULL or argument is None:
                return False
            if not attr_value(out, <_Key> <object> found, argument, 0):
                return False
    elif not attr_value(out, <_Key> keys["ifname"], value, 0):
        return False
    close_attr(out, at)
    return True


cdef bint build_dump(_Kind kind, dict kwarg, bint strict, Out *out) except -1:
    """Only family= and ext_mask= reach the kernel, the rest filters its answer."""
    cdef PyObject *found
    cdef long long family = 0
    if PyDict_Contains(kwarg, "dump_filter") or PyDict_Contains(kwarg, "request_filter"):
        return False
    if PyDict_Contains(kwarg, "command_map"):
        return False
    for name in kwarg:
        if name == "family":
            if not as_int(kwarg[name], &family) or family == lx.AF_MPLS:
                return False
        elif name == "ext_mask" and kind.number == KIND_LINK:
            if not attr_value(out, <_Key> kind.keys[name], kwarg[name], 0):
                return False
    if kind.number == KIND_FDB:
        family = lx.AF_BRIDGE
    if kind.number == KIND_ROUTE and not strict:
        field_int(out, <_Key> kind.fields["table"], 254)
    return field_int(out, <_Key> kind.fields["family"], family)


def build(
    str kind, command, dict kwarg, bint echo=False, uint32_t seq=0, uint32_t pid=0, bint strict_check=False,
    bint ack_gets=True
):
    """The complete request pyroute2 sends for `kind`(`command`, **`kwarg`), or None.

    kind: link, addr, route, neigh, rule, fdb. seq and pid are the header's sequence number and port id; echo sets
    NLM_F_ECHO where pyroute2 sets it; strict_check is the handle's option of that name, which changes route requests.
    ack_gets=False leaves out NLM_F_ACK with `get`, which pyroute2 sets: the kernel always answers these with data
    or an error, and the acknowledgement is one more datagram to receive.

    None means that some argument is not of a known plain kind, or is not valid: pyroute2's own code then has to
    build the request, or raise its exception. With `dump`, only family= and ext_mask= are part of the request; other
    arguments filter the answer, which is the caller's business (and so is checking them).
    The arguments are never changed.
    """
    cdef Out out
    cdef lx.nlmsghdr *header
    if not build_into(kind, command, kwarg, echo, seq, pid, strict_check, &out):
        return None
    header = <lx.nlmsghdr *> out.data
    # in rtnetlink, types of GET requests are 4n + 2
    if not ack_gets and header.nlmsg_type % 4 == 2:
        header.nlmsg_flags &= ~<uint16_t> lx.NLM_F_ACK
    return PyBytes_FromStringAndSize(<char *> out.data, out.length)


cdef bint build_into(
    str kind, object command, dict kwarg, bint echo, uint32_t seq, uint32_t pid, bint strict_check, Out *out
) except -1:
    """False where `build` returns None."""
    cdef _Kind table
    cdef _Command cmd
    cdef bint done
    cdef lx.nlmsghdr *header
    cdef PyObject *found = PyDict_GetItem(_KINDS, kind)
    if found != NULL:
        table = <_Kind> <object> found
    else:
        table = _make_kind(kind)
        if table is None:
            return False
    if not PyUnicode_CheckExact(command):
        return False
    found = PyDict_GetItem(table.commands, command)
    if found == NULL:
        return False
    cmd = <_Command> <object> found
    out.length = table.header
    memset(out.data, 0, table.header)
    if cmd.dump:
        done = build_dump(table, kwarg, strict_check, out)
    elif table.number == KIND_ROUTE:
        done = build_route(table, cmd, kwarg, strict_check, out)
    elif table.number == KIND_ADDR:
        done = build_addr(table, cmd, kwarg, out)
    elif table.number == KIND_LINK:
        done = build_link(table, cmd, kwarg, out)
    elif table.number == KIND_RULE:
        done = build_rule(table, cmd, kwarg, out)
    else:
        done = build_neigh(table, cmd, kwarg, out)
    if not done:
        return False
    header = <lx.nlmsghdr *> out.data
    header.nlmsg_len = <uint32_t> out.length
    header.nlmsg_type = <uint16_t> cmd.type
    header.nlmsg_flags = <uint16_t> (cmd.echo_flags if echo else cmd.flags)
    header.nlmsg_seq = seq
    header.nlmsg_pid = pid
    return True


# -- messages in a buffer --------------------------------------------------------------------------------------------

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

    An empty list for an acknowledgement. None for anything else (an error, several messages, another sequence
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
        if length < 20:
            return None
        memcpy(&code, PyBytes_AS_STRING(data) + 16, 4)
        return [] if code == 0 else None
    if header.nlmsg_type < lx.NLMSG_MIN_TYPE or header.nlmsg_flags & lx.NLM_F_MULTI:
        return None
    messages = []
    parse(marshal, data, messages, seq)
    return messages
