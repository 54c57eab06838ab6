"""Exceptions. Everything here pickles.

A failed system call is an OSError: errno, a text that names the call, and `filename`, the namespace reference
the user gave. What the kernel answers to a netlink request is a `NetlinkError`.
"""

from __future__ import annotations

import os
from typing import Any

from pyroute2.netlink import exceptions as pyroute2_exceptions
from pyroute2.netlink.exceptions import NetlinkDecodeError

__all__ = ["NetlinkDecodeError", "NetlinkDumpInterrupted", "NetlinkError", "ProxyError"]


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
