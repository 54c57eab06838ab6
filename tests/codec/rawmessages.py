"""Random netlink messages of any class, as bytes, made from what the class says about itself."""

from __future__ import annotations

import importlib
import pkgutil
import random
import struct
import types
from typing import Any

import pyroute2
from pyroute2.netlink import nlmsg_base
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase

from fastns.schema import LazyType, schema

TEXTS = [
    b"bridge", b"veth", b"vlan", b"vxlan", b"bond", b"gre", b"ip6gre", b"tun", b"macvlan", b"sit", b"ipip", b"vrf",
    b"htb", b"tbf", b"netem", b"fq_codel", b"u32", b"basic", b"flow", b"fw", b"bpf", b"mirred", b"gact", b"police",
    b"hfsc", b"sfq", b"cake", b"matchall", b"skbedit", b"connmark", b"vlan", b"drr", b"choke", b"pfifo", b"ingress",
    b"cmp", b"immediate", b"payload", b"lookup", b"meta", b"counter", b"ct", b"hash:ip", b"eth0", b"", b"x" * 40,
    "Käse".encode(), b"\xff\xfe", b"\0lead", b"in\0side", b"trail\0\0\0",
]  # fmt: skip


def import_all() -> None:
    for module in pkgutil.walk_packages(pyroute2.__path__, "pyroute2."):
        if ".fixtures" in module.name:
            continue
        try:
            importlib.import_module(module.name)
        except Exception:
            continue  # what this system or interpreter cannot import has no messages here


def classes() -> list[type[nlmsg_base]]:
    """Every message and attribute class of the installed pyroute2."""
    import_all()
    found: dict[type, None] = {}
    queue = [nlmsg_base]
    while queue:
        for cls in queue.pop().__subclasses__():
            if cls not in found and not isinstance(cls, LazyType) and cls.__module__.startswith("pyroute2."):
                found[cls] = None
                queue.append(cls)
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


def number(rng: random.Random, size: int) -> bytes:
    return rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), rng.randbytes(1) + bytes(size - 1)])[
        :size
    ]


def attribute(rng: random.Random, kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return struct.pack("=HH", size & 0xFFFF, kind & 0xFFFF) + payload + bytes(-size % 4)


def fields(rng: random.Random, cls: Any) -> bytes:
    described = schema(cls)
    if described.fields is None:
        return rng.randbytes(rng.randrange(24))
    result = b""
    for field in described.fields:
        if field.name in ("family", "idiag_family", "sdiag_family", "nfgen_family", "ndm_family"):
            result += bytes([rng.choice([0, 2, 7, 10, 28, 255])]).ljust(field.size, b"\0")
        else:
            result += number(rng, field.size)
    return result


def payload(rng: random.Random, cls: Any, depth: int = 0, array: bool = False) -> bytes:
    described = schema(cls)
    if array:
        cells = []
        for index in range(rng.randrange(4)):
            body = payload(rng, cls, depth + 1)
            if described.cell_header is not None and not described.is_nla:
                size = described.cell_header[-1].offset + described.cell_header[-1].size
                cells.append(struct.pack("=H", size + len(body)).ljust(size, b"\0") + body)
            else:
                cells.append(attribute(rng, index + 1, body))
        return b"".join(cells)
    if described.ft_decode in ("string", "ipaddr"):
        if described.decode in ("target", "ipXaddr", "lladdr") or described.ft_decode == "ipaddr":
            return rng.randbytes(rng.choice([4, 16, 16, 6, 4, 0, 8, 3]))
        if described.decode == "string":
            return rng.choice(TEXTS) + rng.choice([b"", b"\0"])
        return rng.randbytes(rng.choice([0, 1, 4, 8, 16, 20, 64]))
    result = fields(rng, cls)
    if described.decode == "python" and rng.random() < 0.4:
        result += rng.randbytes(rng.choice([1, 4, 12, 40]))
    if described.has_map:
        result += bytes(-len(result) % 4) + chain(rng, cls, depth + 1)
    return result


def chain(rng: random.Random, cls: Any, depth: int = 0) -> bytes:
    described = schema(cls)
    table = described.attributes if isinstance(described.attributes, dict) else {}
    result = b""
    kinds = list(table)
    for _ in range(rng.randrange(1, 7 if depth < 3 else 3)):
        kind = rng.choice(kinds) if kinds else rng.randrange(6)
        flags = rng.choice([0, 0, 0, 0x8000, 0x4000, 0xC000])
        prime = table.get(kind)
        body = rng.randbytes(rng.choice([0, 4, 8, 32]))
        if prime is not None and depth < 5:
            target = prime["class"]
            if isinstance(target, types.FunctionType):
                target = guess(rng, cls, target)
            if target is not None:
                body = payload(rng, target, depth + 1, prime["nla_array"])
        if rng.random() < 0.03:
            kind = rng.randrange(0x3FFF)
        if len(body) > 8000:
            body = body[:8000]
        result += attribute(rng, kind | flags, body)
    return result


def guess(rng: random.Random, cls: Any, function: Any) -> Any:
    """Some class that such a function might choose."""
    if rng.random() < 0.1:
        return None
    near = [
        value for value in vars(cls).values() if isinstance(value, type) and issubclass(value, nlmsg_base)
    ]
    if function is ifinfbase.ifinfo.info_data:
        near = list(cls.data_map.values())
    return rng.choice(near) if near else None


def message(rng: random.Random, cls: Any, kind: int) -> bytes:
    body = payload(rng, cls)
    size = 16 + len(body)
    flags = rng.choice([0, 2, 2, 0x12])
    return struct.pack("=IHHII", size, kind, flags, 7, rng.randrange(1 << 32)) + body
