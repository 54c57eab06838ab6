"""Exceptions. Everything here pickles.

A failed system call is an OSError: errno, a text that names the call, and `filename`, the namespace reference
the user gave. What the kernel answers to a netlink request is a `NetlinkError`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from pyroute2.netlink import NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLM_F_ACK_TLVS, nlmsgerr
from pyroute2.netlink import exceptions as pyroute2_exceptions
from pyroute2.netlink.exceptions import NetlinkDecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "BatchError",
    "BatchItemError",
    "NetlinkDecodeError",
    "NetlinkDumpInterrupted",
    "NetlinkError",
    "ProxyError",
]


class NetlinkError(pyroute2_exceptions.NetlinkError, OSError):  # type: ignore[misc]
    """What the kernel answered: caught by pyroute2's NetlinkError and by OSError.

    `code` and `errno` are the error number, `strerror` the kernel's extended-acknowledgement text where it sent
    one, `offset` the byte offset of the offending attribute in the request, `attribute` its name,
    `request` the request as the library's message object, `netns` the reference the handle was opened with.
    Source: netlink(7), Documentation/userspace-api/netlink/intro.rst (extended ACK).
    """

    def __init__(
        self,
        code: int,
        msg: str | None = None,
        *,
        request: Any = None,
        netns: Any = None,
        attribute: str | None = None,
        offset: int | None = None,
        extra_code: int = 0,
    ) -> None:
        text = msg or os.strerror(code)
        OSError.__init__(self, code, text)
        self.code = code
        self.extra_code = extra_code
        self.request = request
        self.netns = netns
        self.attribute = attribute
        self.offset = offset

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[NetlinkError], args: tuple[Any, ...], state: dict[str, Any]) -> NetlinkError:
    error = cls.__new__(cls, *args)
    OSError.__init__(error, *args)
    error.__dict__.update(state)
    return error


class BatchItemError(NetlinkError):
    """One item of a batch that failed. `index` is its number in the batch, counted from 0.

    `code` ENOBUFS with empty `data`: the kernel's answer was lost, and whether the item was applied is not known.
    `data` is the request as it was sent; `request` the same as a message object and `attribute` the name of the
    attribute the kernel complains of, both made when they are first asked for.
    """

    def __init__(
        self, index: int, code: int, data: bytes = b"", answer: bytes = b"", netns: Any = None
    ) -> None:
        text, self.offset, self._missing = _extended_ack(answer)
        OSError.__init__(self, code, text or os.strerror(code))
        self.index = index
        self.code = code
        self.extra_code = 0
        self.data = data
        self.netns = netns

    @property
    def request(self) -> Any:
        if "_request" not in self.__dict__:
            self._request = _decoded(self.data)
        return self._request

    @property
    def attribute(self) -> str | None:  # type: ignore[override]
        return _attribute_name(self.data, self.offset, self._missing)


class BatchItemErrors(Sequence[BatchItemError]):
    """The errors of a batch, in order: a sequence that makes each when it is first looked at."""

    def __init__(self, failures: Iterable[tuple[int, int, bytes, bytes]] = (), netns: Any = None) -> None:
        self._items: list[Any] = list(failures)
        self._netns = netns

    def _made(self, place: int) -> BatchItemError:
        item = self._items[place]
        if not isinstance(item, BatchItemError):
            index, code, data, answer = item
            item = self._items[place] = BatchItemError(index, code, data, answer, self._netns)
        return item

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, key: int) -> BatchItemError: ...
    @overload
    def __getitem__(self, key: slice) -> list[BatchItemError]: ...

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return [self._made(place) for place in range(*key.indices(len(self._items)))]
        return self._made(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (list, tuple, BatchItemErrors)) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class BatchError(NetlinkError):
    """Items of a batch failed. `code` and text are those of the first.

    `errors` are the BatchItemErrors in order; `failed` counts the items the kernel refused (more than `errors` has,
    when many were loaded from an iterable), `unknown` those whose answer was lost. `count` is the number of items,
    `sent` that of those the kernel was given: the items `range(sent, count)` it never saw, see `not_sent`.
    """

    def __init__(
        self,
        errors: Sequence[BatchItemError],
        *,
        count: int,
        sent: int,
        failed: int,
        unknown: int = 0,
        netns: Any = None,
    ) -> None:
        shown = "; ".join(f"item {error.index}: {error.strerror}" for error in errors[:3])
        more = ", ..." if len(errors) > 3 else ""
        text = f"{failed} of {count} requests failed"
        if unknown:
            text += f", the outcome of {unknown} is not known"
        if sent != count:
            text += f", {count - sent} were not sent"
        first = errors[0] if errors else None
        super().__init__(first.code if first else 0, f"{text} ({shown}{more})", netns=netns)
        self.errors = errors
        self.count = count
        self.sent = sent
        self.failed = failed
        self.unknown = unknown

    @property
    def not_sent(self) -> range:
        """The indexes of the items the kernel never saw."""
        return range(self.sent, self.count)

    @property
    def applied(self) -> list[int]:
        """The indexes of the items that are known to have been done."""
        failed = {error.index for error in self.errors}
        return [index for index in range(self.sent) if index not in failed]


NLMSGHDR = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
NLMSGERR_SIZE = struct.calcsize("=i") + NLMSGHDR.size  # the error number and, of the request, the header alone
NLMSGERR_ATTR = {name: kind for kind, (name, _) in enumerate(nlmsgerr.nla_map)}
NLMSGERR_ATTR_MISS_TYPE = 5  # linux/netlink.h, since 6.1; not in pyroute2
NLA_TYPE_MASK = ~(NLA_F_NESTED | NLA_F_NET_BYTEORDER)


def _attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, first byte of the payload, end of it) of each attribute between two places."""
    while end - start >= 4:
        length, kind = struct.unpack_from("=HH", data, start)
        if length < 4 or length > end - start:
            return
        yield kind & NLA_TYPE_MASK, start + 4, start + length
        start += (length + 3) & ~3


def _extended_ack(answer: bytes) -> tuple[str | None, int | None, int | None]:
    """The text, the offset of the offending attribute and the type of a missing one. For capped answers."""
    text = offset = missing = None
    if len(answer) < NLMSGHDR.size + NLMSGERR_SIZE or not struct.unpack_from("=H", answer, 6)[0] & NLM_F_ACK_TLVS:
        return None, None, None
    for kind, start, end in _attributes(answer, NLMSGHDR.size + NLMSGERR_SIZE, len(answer)):
        if kind == NLMSGERR_ATTR["NLMSGERR_ATTR_MSG"]:
            text = answer[start:end].split(b"\0")[0].decode(errors="replace")
        elif kind == NLMSGERR_ATTR["NLMSGERR_ATTR_OFFS"] and end - start >= 4:
            offset = struct.unpack_from("=I", answer, start)[0]
        elif kind == NLMSGERR_ATTR_MISS_TYPE and end - start >= 4:
            missing = struct.unpack_from("=I", answer, start)[0]
    return text, offset, missing


def _message_class(data: bytes) -> Any:
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl

    return MarshalRtnl.msg_map.get(struct.unpack_from("=H", data, 4)[0])


def _decoded(data: bytes) -> Any:
    message_class = _message_class(data) if len(data) >= NLMSGHDR.size else None
    if message_class is None:
        return None
    message = message_class(data)
    message.decode()
    return message


def _attribute_name(data: bytes, offset: int | None, missing: int | None) -> str | None:
    message = _decoded(data) if offset or missing else None
    if message is None:
        return None
    names = getattr(type(message), "_nlmsg_base__t_nla_map", {})
    if offset is None:
        prime = names.get(missing)
        return str(prime["name"]) if prime else None
    start = NLMSGHDR.size + struct.calcsize("=" + "".join(field[1] for field in message.fields))
    found = None
    end = len(data)
    while True:
        for kind, first, last in _attributes(data, (start + 3) & ~3, end):  # noqa: B007
            if first - 4 <= offset < last:
                break
        else:
            return found
        prime = names.get(kind)
        name = str(prime["name"]) if prime else f"attribute {kind}"
        found = name if found is None else f"{found}.{name}"
        nested = prime["class"] if prime else None
        if first - 4 == offset or not isinstance(nested, type) or not getattr(nested, "nla_map", None):
            return found
        nested()
        names = getattr(nested, "_nlmsg_base__t_nla_map", {})
        start, end = first, last


class NetlinkDumpInterrupted(NetlinkError, pyroute2_exceptions.NetlinkDumpInterrupted):  # type: ignore[misc]
    """A dump was inconsistent (NLM_F_DUMP_INTR) every time it was tried."""

    def __init__(self, code: int = -1, msg: str = "dump interrupted", **details: Any) -> None:
        NetlinkError.__init__(self, code, msg, **details)


class ProxyError(ConnectionError):
    """The proxy process is gone, or does not speak the protocol. `status` is its wait(2) status, or None."""

    def __init__(self, code: int, msg: str, status: int | None = None) -> None:
        super().__init__(code, msg)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.strerror, self.status)
