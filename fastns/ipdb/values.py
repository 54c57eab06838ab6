"""What IPDB's records hold: values and their spelling, sets of addresses and next hops."""

from __future__ import annotations

import re
import threading
from collections import namedtuple
from collections.abc import Iterable, Iterator, MutableSet
from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

from pyroute2.netlink import nlmsg_base

identifier = re.compile("^[A-Za-z_][A-Za-z0-9_]*$")


class Stable(dict):  # type: ignore[type-arg]
    """A dictionary that may be iterated while the reader's thread changes it."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def keys(self) -> Any:
        return list(dict.keys(self))

    def values(self) -> Any:
        return list(dict.values(self))

    def items(self) -> Any:
        return list(dict.items(self))


class Fields(Stable):
    """A dictionary whose string keys are attributes too; `set_key(value)` sets one and returns the object."""

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *(key for key in self if isinstance(key, str) and identifier.match(key))]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        if key.startswith("set_"):

            def setter(value: Any) -> Any:
                self[key[4:]] = value
                return self

            return setter
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        if not key.startswith("_") and key in self:
            self[key] = value
        else:
            object.__setattr__(self, key, value)

    def __delattr__(self, key: str) -> None:
        if not key.startswith("_") and key in self:
            del self[key]
        else:
            object.__delattr__(self, key)


class LinkedSet(MutableSet):  # type: ignore[type-arg]
    """A set that remembers the order of arrival and keeps what the kernel said of each member in `raw`."""

    def __init__(self, items: Iterable[Any] = (), changed: threading.Condition | None = None) -> None:
        self.raw: dict[Any, Any] = {}
        self._changed = changed
        for item in items:
            self.add(item, items.raw[item] if isinstance(items, LinkedSet) else None)

    def __contains__(self, key: object) -> bool:
        return key in self.raw

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self.raw))

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __hash__(self) -> int:
        return id(self)

    def __getitem__(self, key: Any) -> Any:
        return self.raw[key]

    def add(self, key: Any, raw: Any = None) -> None:
        self.raw[key] = raw

    def discard(self, key: Any) -> None:
        self.raw.pop(key, None)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> LinkedSet:
        return cls(it)


class AddressSet(LinkedSet):
    """`(address, prefixlen)` pairs. An index, a pair or "address/prefixlen" gives what is known of one."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int):
            return self.raw[tuple(self.raw)[key]]
        if isinstance(key, str):
            address, _, mask = key.partition("/")
            return self.raw[address, int(mask)]
        return self.raw[key]

    def _family(self, colon: bool) -> AddressSet:
        part = AddressSet()
        for key in self:
            if (":" in key[0]) is colon:
                part.add(key, self.raw.get(key))
        return part

    @property
    def ipv4(self) -> AddressSet:
        """The IPv4 addresses."""
        return self._family(False)

    @property
    def ipv6(self) -> AddressSet:
        """The IPv6 addresses."""
        return self._family(True)

    def wait_ip(
        self, net: str, mask: int | None = None, timeout: float | None = None, ignore_link_local: bool = False
    ) -> bool:
        """Wait until there is an address in `net`/`mask`; False when `timeout` seconds have passed without."""
        network = ip_network(net if mask is None else f"{net}/{mask}", strict=False)

        def found() -> bool:
            for text, _ in self:
                address = ip_address(text)
                if address.version != network.version or (ignore_link_local and address.is_link_local):
                    continue
                if address in network:
                    return True
            return False

        if self._changed is None:
            return found()
        with self._changed:
            return self._changed.wait_for(found, timeout)


NextHopKey = namedtuple("NextHopKey", ("gateway", "encap", "oif"))


class NextHopSet(LinkedSet):
    """Next hops of a multipath route; iterating gives them as dictionaries."""

    @staticmethod
    def _key(hop: Any) -> Any:
        if isinstance(hop, NextHopKey):
            return hop
        encap = hop.get("encap") or {}
        via = hop.get("via") or {}
        return NextHopKey(hop.get("gateway") or via.get("addr"), labels_text(encap.get("labels")), hop.get("oif"))

    def __init__(self, items: Iterable[Any] = (), changed: threading.Condition | None = None) -> None:
        super().__init__((), changed)
        for item in items or ():
            self.add(item)

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self.raw.values()))

    def __contains__(self, hop: object) -> bool:
        return self._find(hop) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NextHopSet):
            return NotImplemented
        return len(self) == len(other) and all(hop in other for hop in self)

    __hash__ = LinkedSet.__hash__

    def _find(self, hop: Any) -> Any:
        # the device is part of what the kernel answers but seldom of what is asked for
        key = self._key(hop)
        if key in self.raw:
            return key
        for known in self.raw:
            if known[:2] == key[:2] and (key.oif is None or known.oif is None) and (key.gateway or key.oif is None):
                return known
        return None

    def add(self, key: Any, raw: Any = None) -> None:
        old = self._find(key)
        if old is not None:
            del self.raw[old]
        hop = Fields(key)
        if hop.get("encap"):
            hop["encap"] = canonical_encap(hop["encap"])
        self.raw[self._key(hop)] = hop

    def discard(self, key: Any) -> None:
        found = self._find(key)
        if found is not None:
            del self.raw[found]

    def remove(self, value: Any) -> None:
        if self._find(value) is None:
            raise KeyError(value)
        self.discard(value)


def plain_data(value: Any) -> Any:
    """A value without classes of messages in it, fit for JSON."""
    if isinstance(value, nlmsg_base):
        plain = {row[0]: value.get(row[0]) for row in type(value).fields if row[0] != "value"}
        for cell in value.get("attrs", ()):
            plain[type(value).nla2name(cell[0])] = plain_data(cell[1])
        return plain
    if isinstance(value, dict):
        return {key: plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    return value


def message_fields(msg: Any, cls: Any, dropped: frozenset[str]) -> dict[str, Any]:
    """The header's fields and the attributes of a message of class `cls`, under the names of the views."""
    fields: dict[str, Any] = {key: value for key, value in msg.items() if key not in dropped}
    for cell in msg["attrs"]:
        name = cls.nla2name(cell[0])
        if name not in dropped:
            fields[name] = cell[1]
    return fields


def labels_text(value: Any) -> str | None:
    if not value:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return "/".join(str(item["label"] if isinstance(item, dict) else item) for item in value)


def canonical_encap(value: Any) -> Any:
    """An encapsulation of a route with its labels as text, "200/300"."""
    if isinstance(value, dict) and "labels" in value:
        return {"type": value.get("type", "mpls"), "labels": labels_text(value["labels"])}
    return value


def prefix_length(mask: Any, address: str) -> int:
    """A prefix length from a number, a numeric string or a dotted mask."""
    if isinstance(mask, int):
        return mask
    try:
        return int(mask, 0)
    except ValueError:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, mask)
        return bin(int.from_bytes(packed, "big")).count("1")


def address_key(ip: str, mask: Any = None) -> tuple[str, int]:
    """The key of an address in its set, from "a/24", "a/255.255.255.0" or `a, 24`; without a length it is a host's."""
    if mask is None:
        ip, _, mask = ip.partition("/")
        mask = mask or ("128" if ":" in ip else "32")
    return canonical_address(ip), prefix_length(mask, ip)


def canonical_address(address: str) -> str:
    return inet_ntop(AF_INET6, inet_pton(AF_INET6, address)) if ":" in address else address


def canonical_destination(dst: Any) -> Any:
    """The spelling of a destination that routes are kept under: 'default', 'address/prefixlen' or an MPLS label."""
    if isinstance(dst, (list, tuple)):  # a stack of one label
        return dst[0]["label"] if isinstance(dst[0], dict) else dst[0]
    if not isinstance(dst, str):
        return dst
    if dst in ("default", "0.0.0.0/0", "::/0"):
        return "default"
    address, slash, mask = dst.partition("/")
    try:
        address = canonical_address(address)
        length = prefix_length(mask, address) if slash else (128 if ":" in address else 32)
    except OSError:
        return dst
    return f"{address}/{length}"
