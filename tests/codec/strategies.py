"""Generated messages of every class pyroute2 has: the content as users write it, plain and odd.

An example is made from one number that hypothesis draws. Drawn piece by piece it takes ten times as long as all that
is then done with it.
"""

from __future__ import annotations

import importlib
import ipaddress
import pkgutil
import random
import types
from functools import lru_cache
from typing import Any, Callable

import pyroute2.netlink
from hypothesis import strategies as st
from pyroute2.netlink import nla_base, nlmsg, nlmsg_atoms, nlmsg_base
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase
from pyroute2.netlink.rtnl.rtmsg import rtmsg_base


class Random(random.Random):
    """With the share of what does not belong where it stands, for one message: in most there is none."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.oddness = self.choice([0, 0, 0, 0.02, 0.1])


Maker = Callable[[Random], Any]
RANGES = {c: (0, 2 ** (8 * n) - 1) for c, n in zip("BHIQL", (1, 2, 4, 8, 8))}
RANGES.update({c: (-(2 ** (8 * n - 1)), 2 ** (8 * n - 1) - 1) for c, n in zip("bhiql", (1, 2, 4, 8, 8))})
LETTERS = "ab0 .:/-_%\0\n\x7f\x80éßЖ漢\u200b\ufeff😀"
TEXTS = ["", "eth0", "é", "a\0b", "veth", "bridge", "up"]
# a name in place of a descriptor makes pyroute2 open it
NEVER_ODD = {ifinfbase.netns_fd}


def short_bytes(rng: Random) -> bytes:
    return rng.randbytes(rng.randrange(13))


def v4(rng: Random) -> str:
    return str(ipaddress.IPv4Address(rng.choice([rng.getrandbits(32), rng.getrandbits(32), 0, 2**32 - 1, 0x7F000001])))


def v6(rng: Random) -> str:
    plain = rng.getrandbits(128)
    return str(ipaddress.IPv6Address(rng.choice([plain, plain, 0, 1, 2**128 - 1, 0xFFFF << 32 | plain >> 96, plain >> 64])))


def mac(rng: Random) -> str:
    return rng.choice([bytes(6), b"\xff" * 6, *[rng.randbytes(6)] * 4]).hex(":")


def any_mac(rng: Random) -> str:
    return mac(rng) if rng.random() < 0.5 else mac(rng).upper()


def text(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(TEXTS)
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(13)))


def any_address(rng: Random) -> Any:
    return rng.choice([v4, v6, lambda _: [{"label": 16, "bos": 1}]])(rng)


ODD: list[Maker] = [
    lambda rng: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.randint(-(2**65), 2**65),
    lambda rng: rng.choice([0, 1, -1, 255, 256, 2**32, 2**64]),
    lambda rng: rng.choice([0.0, 1.0, -1.5, 7.25, 65504.0, float("inf")]),
    text,
    lambda rng: rng.choice(["\ud800", "10.0.0.1", "fe80::1", "00:11:22:33:44:5g", "1:2:3:4:5:6", "::"]),
    short_bytes,
    lambda rng: rng.choice(
        [[], (), {}, {"attrs": []}, {"attrs": ()}, {"value": 3}, {"header": {}}, [1], {1, 2}, bytearray(b"x")]
    ),
]


def odd(rng: Random) -> Any:
    return rng.choice(ODD)(rng)


@lru_cache(None)
def message_classes() -> list[type[nlmsg]]:
    """Every message class of the installed pyroute2, by name; no bare bases, and no parts that call themselves so."""
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
    messages = [cls for cls in found if cls.header == nlmsg.header and (cls.fields or cls.nla_map)]
    return sorted(messages, key=lambda cls: (cls.__module__, cls.__qualname__))


def number(rng: Random, form: str) -> int:
    low, high = RANGES[form[-1]]
    return rng.choice([rng.randint(low, high), rng.randint(low, high), low, high, 0, 1])


def field_value(rng: Random, form: Any) -> Any:
    """A value that `struct` takes for the format, mostly."""
    if not isinstance(form, str):
        return None
    code = form[-1]
    digits = "".join(c for c in form if c.isdigit())
    if code == "x":
        return 0
    if code == "s":
        if rng.random() < 0.5:
            return rng.randbytes(rng.randint(0, int(digits or 10)))
        return "".join(rng.choice("abcdef") for _ in range(rng.randrange(7)))
    if code in RANGES:
        if digits:
            return [number(rng, code) for _ in range(int(digits))] if rng.random() < 0.5 else 0
        letters = [c for c in form if c in RANGES]
        if len(letters) > 1:
            return tuple(number(rng, c) for c in letters)
        return number(rng, code)
    return odd(rng)


@lru_cache(None)
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


def attribute_value(rng: Random, owner: type[nlmsg_base], prime: dict[str, Any], depth: int) -> Any:
    cls = prime["class"]
    if isinstance(cls, types.FunctionType):
        if cls in (rtmsg_base.get_nh, ifinfbase.ifinfo.veth_data.info_peer):
            cls = cls(owner)
        else:
            candidates = [v for v in vars(owner).values() if isinstance(v, type) and issubclass(v, nla_base)]
            if not candidates:
                return odd(rng)
            cls = rng.choice(candidates)
    if prime["nla_array"]:
        return [value_of(rng, cls, depth + 1) for _ in range(rng.randrange(4))]
    return value_of(rng, cls, depth)


def value_of(rng: Random, cls: Any, depth: int) -> Any:
    """Something for an attribute of the class, mostly of its own sort."""
    if cls not in NEVER_ODD and rng.random() < rng.oddness:
        return odd(rng)
    if not isinstance(cls, type):
        return odd(rng)
    if issubclass(cls, nlmsg_atoms.ip4addr):
        return v4(rng)
    if issubclass(cls, nlmsg_atoms.ip6addr):
        return v6(rng)
    if issubclass(cls, (nlmsg_atoms.ipaddr, nlmsg_atoms.target)):
        return any_address(rng)
    if issubclass(cls, nlmsg_atoms.l2addr):
        return any_mac(rng)
    if issubclass(cls, nlmsg_atoms.lladdr):
        return rng.choice([mac, v4, v6])(rng)
    if issubclass(cls, nlmsg_atoms.string):
        return rng.choice([text, text, short_bytes])(rng)
    if issubclass(cls, nlmsg_atoms.array):
        return list(rng.randbytes(rng.randrange(6)))
    if cls.value_map:
        return rng.choice([*cls.value_map, *cls.value_map.values()])
    fields = list(cls.fields)
    if len(fields) == 1 and fields[0][0] == "value":
        return field_value(rng, fields[0][1])
    if not fields and not cls.nla_map:
        return rng.choice([True, None, b""])
    return structure(rng, cls, depth + 1)


def structure(rng: Random, cls: type[nlmsg_base], depth: int) -> dict[str, Any]:
    """A dictionary with some of the fields and some attributes."""
    result: dict[str, Any] = {}
    for name, form in cls.fields:
        if name == "family" and rng.random() < 0.8:
            result[name] = rng.choice([2, 10])
        elif rng.random() < 0.85:
            result[name] = odd(rng) if rng.random() < rng.oddness else field_value(rng, form)
    table = compiled(cls)
    if table and rng.random() < 0.9:
        result["attrs"] = attributes(rng, cls, table, depth)
    return result


def attributes(rng: Random, cls: type[nlmsg_base], table: dict[str, Any], depth: int) -> Any:
    names = sorted(table)
    cells: list[Any] = []
    for _ in range(rng.randint(0, 5 if depth < 2 else 2 if depth < 5 else 0)):
        name = rng.choice(names)
        value = attribute_value(rng, cls, table[name], depth)
        form = rng.randrange(12)
        if form < 5:
            cells.append([name, value])
        elif form < 9:
            cells.append((name, value))
        elif form == 9:
            cells.append((name, value, rng.choice([0, 0x8000, 0x4000, 1])))
        elif form == 10:
            cells.append(("NO_SUCH_ATTRIBUTE", value))
            cells.append((name, value))
        else:
            cells.append([name, value, 0x8000])
    if depth and rng.randrange(16) == 0:
        return tuple(cells)
    return cells


def content(rng: Random, cls: type[nlmsg]) -> dict[str, Any]:
    result = structure(rng, cls, 0)
    result.setdefault("attrs", [])
    if rng.randrange(8):
        result["header"] = {
            "type": rng.randint(0, 0xFFFF),
            "flags": rng.randint(0, 0xFFFF),
            "sequence_number": number(rng, "I"),
            "pid": number(rng, "I"),
        }
        if rng.random() < rng.oddness:
            result["header"][rng.choice(["type", "flags", "pid"])] = odd(rng)
    return result


def contents(cls: type[nlmsg]) -> st.SearchStrategy[dict[str, Any]]:
    """What a user puts into a message of the class before sending it."""
    return st.integers(0, 2**64 - 1).map(lambda seed: content(Random(seed), cls))


def fill(msg: nlmsg, content: dict[str, Any]) -> nlmsg:
    """The content into a fresh message, as `NetlinkRequest` and users do it."""
    for key, value in content.items():
        if key == "header" and "header" in msg:
            msg["header"].update(value)
        elif key != "header":
            msg[key] = value
    return msg
