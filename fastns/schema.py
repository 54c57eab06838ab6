"""Plans: what pyroute2's message classes say, in the form `_codec` executes.

A `Schema` is read from a class (`header`, `fields`, `nla_map`, the functions that decode and encode it) and from
nothing else: no table of pyroute2 is repeated here, so a newer pyroute2 brings its messages along. Functions of
pyroute2 that `_codec` has its own version of are recognised by identity; a class with any other function of its
own runs that function. Everything is built on first use, once per class, under one lock.
"""

from __future__ import annotations

import copyreg
import re
import struct
from _thread import RLock
from types import ModuleType
from typing import Any, NamedTuple

from pyroute2 import netlink
from pyroute2.netlink import (
    nla,
    nla_header,
    nla_slot,
    nla_string,
    nla_struct,
    nlmsg,
    nlmsg_atoms,
    nlmsg_base,
    nlmsg_decoder_generic,
    nlmsg_decoder_string,
    nlmsg_decoder_struct,
    rtnl,
)
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase, ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import rtmsg_base
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from fastns import _codec

__all__ = [
    "ADDITIONS",
    "Addition",
    "Field",
    "Schema",
    "attribute_number",
    "chainmsg",
    "constant",
    "event_name",
    "header_fields",
    "header_size",
    "lazy_class",
    "marshal_class",
    "nhmsg",
    "schema",
]

_lock = RLock()


class Field(NamedTuple):
    """One entry of `fields` or `header`. `code` is empty for formats that only the struct module understands."""

    name: str
    format: str
    order: str  # "", "@", "=", "<", ">" or "!"
    repeat: int  # -1 where the format has no count
    code: str
    offset: int  # from the start of the fields (of the header)
    size: int


# Functions of pyroute2 that `_codec` knows: function -> what it does after the generic decoding.
_DECODE = {
    nlmsg_base.decode: "base",
    nla.decode: "nla",
    nla_string.decode: "nla",
    nla_struct.decode: "nla",
    nlmsg_atoms.none.decode: "none",
    nlmsg_atoms.flag.decode: "flag",
    nlmsg_atoms.ipXaddr.decode: "ipXaddr",
    nlmsg_atoms.target.decode: "target",
    nlmsg_atoms.l2addr.decode: "l2addr",
    nlmsg_atoms.lladdr.decode: "lladdr",
    nlmsg_atoms.hex.decode: "hex",
    nlmsg_atoms.array.decode: "array",
    nlmsg_atoms.string.decode: "string",
    ifinfbase.state.decode: "operstate",
    ifinfmsg.decode: "ifinfmsg",
}
_FT_DECODE = {
    nlmsg_decoder_generic.ft_decode: "generic",
    nlmsg_decoder_string.ft_decode: "string",
    nlmsg_decoder_struct.ft_decode: "struct",
    nlmsg_atoms.ipaddr.ft_decode: "ipaddr",
}
# Functions that choose a class by content, and what they look at: the class is asked for once per such content.
_CHOOSERS = {
    ifinfbase.af_spec: "family",
    ifinfbase.protinfo: "family",
    ifinfbase.ifinfo.info_data: "kind",
    ifinfbase.ifinfo.info_slave_data: "slave_kind",
    ifinfbase.ifinfo.veth_data.info_peer: "nothing",
    rtmsg_base.get_nh: "nothing",
    rtmsg_base.encap_info: "encap",
}
_INITS = (nlmsg_base.__init__, nlmsg_atoms.target.__init__)

# A class that overrides one of these is not the dict that a lazy message imitates: it is decoded at once, by
# its own code.
_ACCESS = (
    "__bool__ __contains__ __delitem__ __eq__ __getattribute__ __getitem__ __ior__ __iter__ "
    "__len__ __ne__ __new__ __or__ __reduce__ __reduce_ex__ __repr__ __reversed__ __ror__ __setattr__ __setitem__ "
    "__setstate__ __sizeof__ __sub__ __and__ clear copy get get_attr get_attrs get_nested getvalue items keys pop "
    "popitem setdefault setvalue update values load dump dump_attrs name2nla compile_nla_table msg_align"
).split()

_SLOTS = [name for name in nlmsg_base.__slots__ if name != "__weakref__"]

_FORMAT = re.compile(r"([@=<>!]?)(\d*)([xcbB?hHiIlLqQsp])\Z")


def _function(cls: type, name: str) -> Any:
    """What a class does under that name: a plain or static function as such, a class method by its function."""
    value = getattr(cls, name, None)
    return getattr(value, "__func__", value)


def field_layout(entries: Any) -> tuple[Field, ...] | None:
    """`fields` with their offsets, or None if pyroute2's own code is needed to understand them."""
    result = []
    offset = 0
    for name, form in entries:
        if not isinstance(form, str):
            return None
        try:
            size = struct.calcsize(form)
        except struct.error:
            return None
        found = _FORMAT.match(form)
        order, count, code = found.groups() if found else ("", "", "")
        result.append(Field(name, form, order, int(count) if count else -1, code, offset, size))
        offset += size
    return tuple(result)


class Schema:
    """Everything `_codec` needs to know about one message or attribute class.

    `attributes` maps the wire type to pyroute2's own descriptions (dict with class, type, name, nla_flags,
    nla_array, init), `names` maps the name to them; both are pyroute2's objects, and are adapters for classes
    with a `NlaMapAdapter`.
    """

    def __init__(self, cls: type[nlmsg_base]) -> None:
        self.cls = cls
        self.prefix = cls.prefix
        self.is_nla = bool(cls.is_nla)
        self.own_parent = bool(cls.own_parent)
        self.zstring = getattr(cls, "zstring", 0)
        self.value_map = cls.value_map
        self.family = getattr(cls, "family", None)
        self.has_map = bool(cls.nla_map)
        self.attributes: Any = {}
        self.names: Any = {}
        self.adapter = False
        self.lookup: Any = None
        self.needs_init = _function(cls, "__init__") is nlmsg_atoms.target.__init__
        self.decode = _DECODE.get(_function(cls, "decode"), "python")
        self.ft_decode = _FT_DECODE.get(_function(cls, "ft_decode"), "python")
        # A name of pyroute2's base class that a message class uses for something else (an attribute class
        # called `keys`, say) would hide what a lazy message relies on.
        self.lazy = (
            all(_function(cls, name) is _function(nlmsg_base, name) for name in _ACCESS)
            and all(getattr(cls, name) is getattr(nlmsg_base, name) for name in _SLOTS)
            and _function(cls, "__init__") in _INITS
            and not hasattr(cls, "__getattr__")
        )
        self.header: tuple[Field, ...] | None = ()
        self.cell_header: tuple[Field, ...] | None = None
        self.fields: tuple[Field, ...] | None = ()
        self.own_ft = False
        compiled = not self.has_map or self._compile()
        if not compiled:
            self.decode = "python"
            self.lazy = self.lazy and self.adapter
        self._read_layouts()
        self.own_ft = compiled and self.decode == "python" and self.ft_decode == "generic"
        if (
            _function(cls, "decode_nlas") is not nlmsg_base.decode_nlas
            or _function(cls, "unregister_clean_cb") is not nlmsg_base.unregister_clean_cb
            or (
                self.ft_decode == "generic"
                and _function(cls, "decode_field") is not nlmsg_decoder_generic.decode_field
            )
            or self.header is None
            or self.fields is None
            or (self.ft_decode in ("string", "ipaddr") and not self.is_nla)
        ):
            self.own_ft = False
            self.decode = "python"

    def _compile(self) -> bool:
        """Let pyroute2 compile its own table: the rules for that are its, oddities of inheritance included."""
        try:
            self.cls()
            self.attributes = self.cls._nlmsg_base__t_nla_map
            self.names = self.cls._nlmsg_base__r_nla_map
        except Exception:
            return False
        self.adapter = not isinstance(self.attributes, dict)
        return not self.adapter

    def _read_layouts(self) -> None:
        cls = self.cls
        if cls.header is None:
            self.header = None
        elif self.is_nla:
            # pyroute2 reads an attribute's header as length and type, whatever the class calls it
            self.header = field_layout(nla_header.header)
        else:
            self.header = field_layout(cls.header)
            known = self.header or ()
            if any(field.code in ("", "x") for field in known) or all(field.name != "length" for field in known):
                self.header = None
        if cls.cell_header is not None:
            self.cell_header = field_layout(nla_header.header if self.is_nla else cls.cell_header)
        self.fields = field_layout(cls.fields)
        if self.ft_decode == "struct" and self.fields is not None:
            try:
                struct.calcsize("".join(field.format for field in self.fields))
            except struct.error:
                self.fields = None
        if self.ft_decode in ("string", "ipaddr"):
            self.fields = ()
        if self.decode == "operstate":
            self.lookup = _function(cls, "decode").__globals__["state_by_code"]

    def chooser(self, function: Any) -> str:
        return _CHOOSERS.get(function, "python")


_schemas: dict[type, Schema] = {}


def schema(cls: type[nlmsg_base]) -> Schema:
    """The schema of a class. Thread-safe; the same object every time."""
    found = _schemas.get(cls)
    if found is None:
        with _lock:
            found = _schemas.get(cls)
            if found is None:
                found = Schema(cls)
                _schemas[cls] = found
    return found


class Addition(NamedTuple):
    """What the kernel has and pyroute2 lacks, under the kernel's names. It steps back where pyroute2 has the name."""

    header: str  # the kernel's header file that has the numbers
    numbers: dict[str, int]
    fields: tuple[tuple[str, str], ...] = ()  # as in pyroute2's classes, of a message it has no class for


# By the module or the message class of pyroute2 that lacks it, or the structure that it has no class for.
ADDITIONS: dict[str, Addition] = {
    "netlink": Addition("linux/netlink.h", {"NLM_F_BULK": 0x200}),
    "rtnl": Addition(
        "linux/rtnetlink.h",
        {
            "RTM_NEWMULTICAST": 56,
            "RTM_DELMULTICAST": 57,
            "RTM_NEWANYCAST": 60,
            "RTM_DELANYCAST": 61,
            "RTM_SETSTATS": 95,
            "RTM_NEWCHAIN": 100,
            "RTM_DELCHAIN": 101,
            "RTM_GETCHAIN": 102,
            "RTM_NEWNEXTHOP": 104,
            "RTM_DELNEXTHOP": 105,
            "RTM_GETNEXTHOP": 106,
            "RTM_NEWVLAN": 112,
            "RTM_DELVLAN": 113,
            "RTM_GETVLAN": 114,
            "RTM_NEWNEXTHOPBUCKET": 116,
            "RTM_DELNEXTHOPBUCKET": 117,
            "RTM_GETNEXTHOPBUCKET": 118,
            "RTM_NEWTUNNEL": 120,
            "RTM_DELTUNNEL": 121,
            "RTM_GETTUNNEL": 122,
            "RTNLGRP_NEXTHOP": 32,
            "RTM_F_CLONED": 0x200,
            "RT_TABLE_UNSPEC": 0,
            "RT_TABLE_DEFAULT": 253,
            "RT_TABLE_MAIN": 254,
            "RT_TABLE_LOCAL": 255,
        },
    ),
    "fibmsg": Addition("linux/fib_rules.h", {"FIB_RULE_INVERT": 2}),
    "ifinfmsg": Addition("linux/if_link.h", {"IFLA_ALLMULTI": 61}),
    "rtmsg": Addition("linux/rtnetlink.h", {"RTA_UID": 25, "RTA_TTL_PROPAGATE": 26, "RTA_NH_ID": 30}),
    "ndmsg": Addition("linux/neighbour.h", {"NDA_PROTOCOL": 12, "NDA_NH_ID": 13, "NDA_FLAGS_EXT": 15}),
    "tcmsg": Addition("linux/rtnetlink.h", {"TCA_CHAIN": 11}),
    "nhmsg": Addition(
        "linux/nexthop.h",
        {
            "NHA_ID": 1,
            "NHA_GROUP": 2,
            "NHA_GROUP_TYPE": 3,
            "NHA_BLACKHOLE": 4,
            "NHA_OIF": 5,
            "NHA_GATEWAY": 6,
            "NHA_ENCAP_TYPE": 7,
            "NHA_ENCAP": 8,
            "NHA_MASTER": 10,
            "NHA_FDB": 11,
            "NHA_RES_GROUP": 12,
            "NHA_RES_BUCKET": 13,
        },
        (("family", "B"), ("scope", "B"), ("protocol", "B"), ("resvd", "B"), ("flags", "I")),
    ),
}


def constant(module: ModuleType, name: str) -> int:
    """A message type, flag or group of a module of pyroute2."""
    if hasattr(module, name):
        return int(getattr(module, name))
    return ADDITIONS[module.__name__.rpartition(".")[2]].numbers[name]


def attribute_number(message: type[nlmsg_base] | str, name: str) -> int:
    """The number of an attribute of a message: a class, or the name of a structure in ADDITIONS."""
    if isinstance(message, str):
        return ADDITIONS[message].numbers[name]
    known = schema(message).names.get(name)
    return int(known["type"]) if known else ADDITIONS[message.__name__].numbers[name]


def header_fields(message: type[nlmsg_base] | str) -> tuple[Field, ...]:
    """The fields of a message before its attributes, in order: a class, or the name of a structure in ADDITIONS."""
    fields = field_layout(ADDITIONS[message].fields) if isinstance(message, str) else schema(message).fields
    if fields is None:
        raise TypeError(f"the fields of {message!r} have no fixed places")
    return fields


def header_size(message: type[nlmsg_base] | str) -> int:
    last = header_fields(message)[-1]
    return last.offset + last.size


EVENTS = {number: name for name, number in ADDITIONS["rtnl"].numbers.items() if name.startswith("RTM_") and number >= 16}


def event_name(number: int) -> str:
    """What a message of rtnetlink has as `msg["event"]`: pyroute2's name of its type, the kernel's, or RTM_ and the number."""
    return rtnl.RTM_VALUES.get(number) or EVENTS.get(number) or f"RTM_{number}"


def _attributes(message: str, **types: str) -> tuple[tuple[int, str, str], ...]:
    """A table of attributes of ADDITIONS in the form of pyroute2's classes."""
    numbers = ADDITIONS[message].numbers
    return tuple((numbers[name], name, form) for name, form in types.items())


class nhmsg(nlmsg):  # type: ignore[misc]
    """Next hops and, of resilient groups, their buckets. Sources: linux/nexthop.h, net/ipv4/nexthop.c."""

    __slots__ = ()
    prefix = "NHA_"
    fields = ADDITIONS["nhmsg"].fields
    nla_map = _attributes(
        "nhmsg",
        NHA_ID="uint32",
        NHA_GROUP="grp",
        NHA_GROUP_TYPE="uint16",
        NHA_BLACKHOLE="flag",
        NHA_OIF="uint32",
        NHA_GATEWAY="ipaddr",
        NHA_ENCAP_TYPE="uint16",
        NHA_ENCAP="hex",
        NHA_MASTER="uint32",
        NHA_FDB="flag",
        NHA_RES_GROUP="res_group",
        NHA_RES_BUCKET="res_bucket",
    )

    class grp(nla_string):  # type: ignore[misc]
        """struct nexthop_grp, repeated: a list of {"id", "weight"}, weights counted from 1 as `ip` does."""

        __slots__ = ()
        _member = struct.Struct("=IBBH")  # the weight's high byte, since 6.12, was reserved before

        def decode(self) -> None:
            nla_string.decode(self)
            whole = self["value"][: len(self["value"]) // self._member.size * self._member.size]
            self.value = [  # type: ignore[misc]
                {"id": number, "weight": (low | high << 8) + 1}
                for number, low, high, _ in self._member.iter_unpack(whole)
            ]

    class res_group(nla):  # type: ignore[misc]
        __slots__ = ()
        prefix = "NHA_RES_GROUP_"
        nla_map = (
            ("NHA_RES_GROUP_PAD", "none"),
            ("NHA_RES_GROUP_BUCKETS", "uint16"),
            ("NHA_RES_GROUP_IDLE_TIMER", "uint32"),
            ("NHA_RES_GROUP_UNBALANCED_TIMER", "uint32"),
            ("NHA_RES_GROUP_UNBALANCED_TIME", "uint64"),
        )

    class res_bucket(nla):  # type: ignore[misc]
        __slots__ = ()
        prefix = "NHA_RES_BUCKET_"
        nla_map = (
            ("NHA_RES_BUCKET_PAD", "none"),
            ("NHA_RES_BUCKET_INDEX", "uint16"),
            ("NHA_RES_BUCKET_IDLE_TIME", "uint64"),
            ("NHA_RES_BUCKET_NH_ID", "uint32"),
        )


class chainmsg(tcmsg):  # type: ignore[misc]
    """Chains of filters. Source: net/sched/cls_api.c."""

    __slots__ = ()
    _nlmsg_base__compiled_nla = False  # or tcmsg's table, once that is compiled, would be this one's
    nla_map = (
        *((number, *item) for number, item in enumerate(tcmsg.nla_map)),
        *_attributes("tcmsg", TCA_CHAIN="uint32"),
    )


# Message types pyroute2 has no class for.
MESSAGES = {
    number: cls
    for cls, kinds in ((nhmsg, ("NEXTHOP", "NEXTHOPBUCKET")), (chainmsg, ("CHAIN",)))
    for kind in kinds
    for number in (constant(rtnl, f"RTM_{word}{kind}") for word in ("NEW", "DEL", "GET"))
}


class LazyType(type):
    """The type of lazy message classes. Such a class equals, hashes, pickles and behaves like the one it stands for."""

    _original: type

    def __call__(cls, *args: Any, **kwarg: Any) -> Any:
        return cls._original(*args, **kwarg)

    def __eq__(cls, other: object) -> bool:
        if isinstance(other, LazyType):
            return cls._original is other._original
        return cls._original is other

    def __hash__(cls) -> int:
        return hash(cls._original)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._original)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        return issubclass(subclass, cls._original)

    def __repr__(cls) -> str:
        return repr(cls._original)


def _same(cls: type) -> type:
    return cls


def _reduce(cls: LazyType) -> tuple[Any, ...]:
    return _same, (cls._original,)


copyreg.pickle(LazyType, _reduce)


def _make_lazy(cls: type, methods: dict[str, Any] = _codec.LAZY_METHODS) -> Any:
    space = dict(methods)
    space.update(
        __slots__=(),
        __module__=cls.__module__,
        __qualname__=cls.__qualname__,
        __doc__=cls.__doc__,
        _original=cls,
    )
    return LazyType(cls.__name__, (cls,), space)


def lazy_class(cls: type[nlmsg_base]) -> Any:
    """The class of lazy instances of `cls`: a subclass made once. Thread-safe.

    It stands for `cls` where a class is asked for (equality, hash, pickle, `isinstance`), and calling it makes
    an ordinary instance of `cls`. None for classes that redefine what a dict does.
    """
    return _codec.plan(cls).lazy


_codec.setup(schema, _make_lazy, LazyType, _make_lazy(nla_slot, _codec.SLOT_METHODS), _lock)


class _FastMarshal:
    """Mixed into a marshal: the same surface, decoding through `_codec`.

    `header_extra` is a dict put into every message's header after `error` (pyroute2's sockets put `target` and
    `stats` there). `make_error(code, text, msg)` makes the exception for an error message.
    """

    header_extra: dict[str, Any] | None = None
    fast: bool = False

    def make_error(self, code: int, text: str | None, msg: Any) -> Exception:
        from fastns.errors import NetlinkError

        header = msg["header"]
        offset = msg.get_attr("NLMSGERR_ATTR_OFFS")
        if not isinstance(offset, int):
            offset = None  # there is none, or it is cut short
        request = header.get("errmsg")
        return NetlinkError(
            code,
            text,
            request=request,
            offset=offset,
            attribute=_codec.attribute_at(request, offset),
        )

    def parse(self, data: Any, seq: int | None = None, callback: Any = None, skip_alien_seq: bool = False) -> Any:
        if not self.fast:
            yield from super().parse(data, seq, callback, skip_alien_seq)  # type: ignore[misc]
            return
        messages: list[Any] = []
        failed = None
        try:
            _codec.parse(self, data, messages, seq if skip_alien_seq else None)
        except Exception as error:
            failed = error
        if callable(callback):
            for msg in messages:
                if msg["header"].get("sequence_number") == seq:
                    try:
                        if callback(msg):
                            continue
                    except Exception:
                        pass
                yield msg
        else:
            yield from messages
        if failed is not None:
            raise failed


class _RtnlMarshal(_FastMarshal):
    """What pyroute2's marshal of rtnetlink lacks: classes of messages, and an event for every type."""

    def fix_message(self, msg: Any) -> None:
        super().fix_message(msg)  # type: ignore[misc]
        if "event" not in msg and "type" in msg["header"]:
            msg["event"] = event_name(msg["header"]["type"])


_SAME = ("parse", "parse_one_message", "get_parser")
_marshals: dict[type, type] = {}


def marshal_class(cls: type[Marshal]) -> Any:
    """A subclass of a pyroute2 marshal class with the same surface that decodes through `_codec`.

    A marshal with its own `parse`, `parse_one_message` or `get_parser` keeps them.
    """
    with _lock:
        found = _marshals.get(cls)
        if found is None:
            fast = all(_function(cls, name) is _function(Marshal, name) for name in _SAME)
            fix = _function(cls, "fix_message")
            events: Any = None
            if fix is MarshalRtnl.fix_message:
                events = rtnl.RTM_VALUES
            native = fix is Marshal.fix_message or events is not None
            added: dict[str, Any] = {} if events is None else {"msg_map": {**MESSAGES, **cls.msg_map}}
            space = {
                **added,
                "fast": fast,
                "_events": events,
                "_native_fix": native,
                "__doc__": cls.__doc__,
                "__module__": cls.__module__,
            }
            base = _FastMarshal if events is None else _RtnlMarshal
            found = _marshals[cls] = type(cls.__name__, (base, cls), space)
        return found


_codec.setup_messages(netlink.nlmsgerr, nlmsg, netlink.mtypes, event_name)
