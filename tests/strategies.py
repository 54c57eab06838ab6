"""Generated messages of every class pyroute2 has: the content as users write it, plain and odd."""

from __future__ import annotations

import importlib
import pkgutil
import types
from functools import lru_cache
from typing import Any

import pyroute2.netlink
from hypothesis import strategies as st
from pyroute2.netlink import nla_base, nlmsg, nlmsg_atoms, nlmsg_base
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase
from pyroute2.netlink.rtnl.rtmsg import rtmsg_base

RANGES = {c: (0, 2 ** (8 * n) - 1) for c, n in zip("BHIQL", (1, 2, 4, 8, 8))}
RANGES.update({c: (-(2 ** (8 * n - 1)), 2 ** (8 * n - 1) - 1) for c, n in zip("bhiql", (1, 2, 4, 8, 8))})
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
MAC = st.binary(min_size=6, max_size=6).map(lambda x: ":".join(f"{i:02x}" for i in x))
TEXT = st.one_of(st.text(max_size=12), st.sampled_from(["", "eth0", "é", "a\0b", "veth", "bridge", "up"]))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, width=16),
    TEXT,
    st.sampled_from(["\ud800", "10.0.0.1", "fe80::1", "00:11:22:33:44:5g", "1:2:3:4:5:6", "::"]),
    st.binary(max_size=12),
    st.sampled_from([[], (), {}, {"attrs": []}, {"attrs": ()}, {"value": 3}, {"header": {}}, [1], {1, 2}, bytearray(b"x")]),
)
ANY_ADDRESS = st.one_of(V4, V6, st.just([{"label": 16, "bos": 1}]))
UPPER_MAC = st.one_of(MAC, MAC.map(str.upper))
HARDWARE = st.one_of(MAC, V4, V6)
TEXT_OR_BYTES = st.one_of(TEXT, st.binary(max_size=8))
BYTES = st.lists(st.integers(0, 255), max_size=5)
# a name in place of a descriptor makes pyroute2 open it
NEVER_ODD = {ifinfbase.netns_fd}


@lru_cache(None)
def message_classes() -> list[type[nlmsg]]:
    """Every message class of the installed pyroute2, by name."""
    for module in pkgutil.walk_packages(pyroute2.netlink.__path__, "pyroute2.netlink."):
        importlib.import_module(module.name)
    found: dict[type[nlmsg], None] = {}

    def walk(cls: type[nlmsg]) -> None:
        for sub in cls.__subclasses__():
            if sub.__module__.startswith("pyroute2.netlink") and sub not in found:
                if not type(sub).__name__.startswith("Lazy"):
                    found[sub] = None
                walk(sub)

    walk(nlmsg)
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


@lru_cache(None)
def numbers(form: str) -> st.SearchStrategy[int]:
    low, high = RANGES[form[-1]]
    return st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, 1]))


@lru_cache(None)
def field_value(form: Any) -> st.SearchStrategy[Any]:
    """A value that `struct` takes for the format, mostly."""
    if not isinstance(form, str):
        return st.none()
    code = form[-1]
    digits = "".join(c for c in form if c.isdigit())
    if code == "x":
        return st.just(0)
    if code == "s":
        return st.one_of(st.binary(max_size=int(digits or 10)), st.text("abcdef", max_size=6))
    if code in RANGES:
        if digits:
            count = int(digits)
            return st.one_of(st.lists(numbers(code), min_size=count, max_size=count), st.just(0))
        letters = [c for c in form if c in RANGES]
        if len(letters) > 1:
            return st.tuples(*(numbers(c) for c in letters))
        return numbers(code)
    return ODD


def compiled(cls: type[nlmsg_base]) -> dict[str, Any]:
    """pyroute2's table of the class's attributes by name."""
    if not cls.nla_map:
        return {}
    try:
        cls()
        table = cls._nlmsg_base__r_nla_map  # type: ignore[attr-defined]
    except Exception:
        return {}
    return table if isinstance(table, dict) else {}


def attribute_value(draw: st.DrawFn, owner: type[nlmsg_base], prime: dict[str, Any], depth: int) -> Any:
    cls = prime["class"]
    if isinstance(cls, types.FunctionType):
        if cls in (rtmsg_base.get_nh, ifinfbase.ifinfo.veth_data.info_peer):
            cls = cls(owner)
        else:
            candidates = [v for v in vars(owner).values() if isinstance(v, type) and issubclass(v, nla_base)]
            if not candidates:
                return draw(ODD)
            cls = draw(st.sampled_from(candidates))
    if prime["nla_array"]:
        return [value_of(draw, cls, prime, depth + 1) for _ in range(draw(st.integers(0, 3)))]
    return value_of(draw, cls, prime, depth)


def value_of(draw: st.DrawFn, cls: Any, prime: dict[str, Any], depth: int) -> Any:
    """Something for an attribute of the class: nine times in ten of its own sort."""
    if cls not in NEVER_ODD and draw(st.integers(0, 9)) == 0:
        return draw(ODD)
    if not isinstance(cls, type):
        return draw(ODD)
    if issubclass(cls, (nlmsg_atoms.ip4addr,)):
        return draw(V4)
    if issubclass(cls, nlmsg_atoms.ip6addr):
        return draw(V6)
    if issubclass(cls, (nlmsg_atoms.ipaddr, nlmsg_atoms.target)):
        return draw(ANY_ADDRESS)
    if issubclass(cls, nlmsg_atoms.l2addr):
        return draw(UPPER_MAC)
    if issubclass(cls, nlmsg_atoms.lladdr):
        return draw(HARDWARE)
    if issubclass(cls, nlmsg_atoms.string):
        return draw(TEXT_OR_BYTES)
    if issubclass(cls, nlmsg_atoms.array):
        return draw(BYTES)
    if cls.value_map:
        return draw(st.sampled_from([*cls.value_map, *cls.value_map.values()]))
    fields = list(cls.fields)
    if len(fields) == 1 and fields[0][0] == "value":
        return draw(field_value(fields[0][1]))
    if not fields and not cls.nla_map:
        return draw(st.sampled_from([True, None, b""]))
    return structure(draw, cls, depth + 1)


def structure(draw: st.DrawFn, cls: type[nlmsg_base], depth: int) -> dict[str, Any]:
    """A dictionary with some of the fields and some attributes."""
    result: dict[str, Any] = {}
    for name, form in cls.fields:
        if draw(st.integers(0, 5)):
            result[name] = draw(field_value(form)) if draw(st.integers(0, 20)) else draw(ODD)
    table = compiled(cls)
    if table and draw(st.integers(0, 7)):
        result["attrs"] = attributes(draw, cls, table, depth)
    return result


def attributes(draw: st.DrawFn, cls: type[nlmsg_base], table: dict[str, Any], depth: int) -> Any:
    names = draw(st.lists(st.sampled_from(sorted(table)), max_size=5 if depth < 2 else 2 if depth < 5 else 0))
    cells: list[Any] = []
    for name in names:
        value = attribute_value(draw, cls, table[name], depth)
        form = draw(st.integers(0, 11))
        if form < 5:
            cells.append([name, value])
        elif form < 9:
            cells.append((name, value))
        elif form == 9:
            cells.append((name, value, draw(st.sampled_from([0, 0x8000, 0x4000, 1]))))
        elif form == 10:
            cells.append(("NO_SUCH_ATTRIBUTE", value))
            cells.append((name, value))
        else:
            cells.append([name, value, 0x8000])
    if depth and draw(st.integers(0, 15)) == 0:
        return tuple(cells)
    return cells


@st.composite
def contents(draw: st.DrawFn, cls: type[nlmsg]) -> dict[str, Any]:
    """What a user puts into a message of the class before sending it."""
    result = structure(draw, cls, 0)
    result.setdefault("attrs", [])
    if draw(st.integers(0, 7)):
        result["header"] = {
            "type": draw(st.integers(0, 0xFFFF)),
            "flags": draw(st.integers(0, 0xFFFF)),
            "sequence_number": draw(numbers("I")),
            "pid": draw(numbers("I")),
        }
        if draw(st.integers(0, 30)) == 0:
            result["header"][draw(st.sampled_from(["type", "flags", "pid"]))] = draw(ODD)
    return result


def fill(msg: nlmsg, content: dict[str, Any]) -> nlmsg:
    """The content into a fresh message, as `NetlinkRequest` and users do it."""
    for key, value in content.items():
        if key == "header" and "header" in msg:
            msg["header"].update(value)
        elif key != "header":
            msg[key] = value
    return msg


