"""Events without silent loss: what the kernel tells, and where it could not.

The kernel drops events when a socket's receive buffer is full, and says so only once. Here that becomes an item of
its own at its place in the stream, and on request the state is read anew behind it. Applying the stream then ends
with the kernel's state: the dump starts after the gap, so it has everything that changed in it; whatever changed
later comes as an event behind the dump, in the order it happened.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroute2 import config
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from fastns import _codec, _core
from fastns.errors import NetlinkDumpInterrupted, ProxyError
from fastns.schema import constant, header_size
from fastns.sleepers import Sleepers
from fastns.table import dump_request, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Lost", "Monitor", "ResyncBegin", "ResyncEnd"]

INET, INET6, BRIDGE = int(socket.AF_INET), int(socket.AF_INET6), int(config.AF_BRIDGE)
INTERVAL = 1.0


@dataclass(frozen=True)
class Lost:
    """Here events are missing. `count` of them, None if that is not known; `at` is when it was noticed.

    `at` is in seconds since the epoch.
    """

    count: int | None
    at: float


@dataclass(frozen=True)
class ResyncBegin:
    """From here to the ResyncEnd come objects as they are, read anew, of these kinds: (kind, family) pairs.

    Kinds are those of `NetNS.table`, "qdisc" in addition; family 0 is all families.
    """

    kinds: tuple[tuple[str, int], ...]
    at: float


@dataclass(frozen=True)
class ResyncEnd:
    """What was not named since the ResyncBegin, of its kinds, does not exist any more.

    Unless `complete` is false: the kernel said each time that its answer was inconsistent. Another resync follows.
    """

    kinds: tuple[tuple[str, int], ...]
    complete: bool
    at: float


# Multicast group (rtnetlink(7), enum rtnetlink_groups) -> what its events are about.
GROUP_KINDS: dict[int, tuple[tuple[str, int], ...]] = {
    rtnl.RTNLGRP_LINK: (("link", 0),),
    rtnl.RTNLGRP_NEIGH: (("neigh", 0), ("fdb", BRIDGE)),
    rtnl.RTNLGRP_TC: (("qdisc", 0),),
    rtnl.RTNLGRP_IPV4_IFADDR: (("addr", INET),),
    rtnl.RTNLGRP_IPV4_ROUTE: (("route", INET),),
    rtnl.RTNLGRP_IPV4_RULE: (("rule", INET),),
    rtnl.RTNLGRP_IPV6_IFADDR: (("addr", INET6),),
    rtnl.RTNLGRP_IPV6_ROUTE: (("route", INET6),),
    rtnl.RTNLGRP_IPV6_RULE: (("rule", INET6),),
    constant(rtnl, "RTNLGRP_NEXTHOP"): (("nexthop", 0),),
}


class Monitor:
    """Events as they happen, iterable and asynchronously iterable. Made by `NetNS.monitor`; see there.

    Items are messages of pyroute2's classes (`msg["event"]` is "RTM_NEWLINK", ..., of types nobody has a name for
    "RTM_" and the number), `Lost` where events are missing and, with `resync`, ResyncBegin, messages with
    `msg["header"]["resync"]` true, ResyncEnd. With `all_ns`, `msg["header"]["nsid"]` is the id of the namespace a
    message came from, None for the handle's own.

    The iteration ends when the monitor is closed, by any thread; items that were received before are still given. So
    they are when the proxy dies; behind them stands a ProxyError, each time.
    One thread at a time may take items. Fork: a child process must make its own (OSError EBADF).
    """

    _closed = True  # until everything is there: see __del__

    def __init__(
        self,
        engine: Any,
        *,
        groups: int | Iterable[int] | None,
        resync: bool | float,
        all_ns: bool,
        initial: bool,
        rcvbuf: int,
        ring_size: int,
    ) -> None:
        if resync is not True and resync is not False and resync < 0:
            raise ValueError(f"resync {resync!r} is negative")
        if all_ns and (resync is not False or initial):
            raise ValueError("resync reads the handle's own namespace: it and all_ns exclude each other")
        self._engine = self._reader = engine
        self._all_ns = all_ns
        self._resync = resync is not False
        self._interval = INTERVAL if isinstance(resync, bool) else float(resync)
        self._items: deque[Any] = deque()
        self._due: float | None = 0.0 if initial else None
        self._last = -self._interval
        numbers = group_numbers(engine.options["groups"] if groups is None else groups)
        self.kinds = tuple(dict.fromkeys(kind for number in numbers for kind in GROUP_KINDS.get(number, ())))
        more: dict[str, Any] = {"all_ns": all_ns or engine.options["all_ns"]}
        if rcvbuf:
            more["rcvbuf"] = rcvbuf
        self._transport = engine.open_events(ring_size=ring_size, **more)
        try:
            portid = self._transport.getsockname()[0]
            self._transport.bind(portid, sum(1 << (number - 1) for number in numbers if number <= 32))
            for number in numbers:
                if number > 32:
                    self._transport.add_membership(number)
        except BaseException:
            self._transport.close()
            raise
        self._waker = _core.Waker()
        self._sleepers = Sleepers()
        self._reading: asyncio.Future[None] | None = None
        self._closed = False

    # ---- taking items -------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Any:
        """The next item. TimeoutError after `timeout` seconds (0: only what is there); OSError EBADF once closed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._items:
                return self._items.popleft()
            if self._due is not None and time.monotonic() >= self._due:
                self._read_anew()
                continue
            if self._receive():
                continue
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if self._due is not None:
                until_due = max(self._due - time.monotonic(), 0)
                if left is None or until_due < left:
                    self._wait(until_due)
                    continue
            if left == 0 or (not self._wait(left) and left is not None):
                raise TimeoutError(f"no event within {timeout} s")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self.get()
        except OSError:
            if self._closed:
                raise StopIteration from None
            raise

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        loop = asyncio.get_running_loop()
        while True:
            if self._items:
                return self._items.popleft()
            if self._closed:
                raise StopAsyncIteration
            if self._reading is not None or (self._due is not None and time.monotonic() >= self._due):
                # Goes on if this wait is cancelled, and the next one waits for it: nothing may come in between.
                if self._reading is None:
                    self._reading = loop.run_in_executor(None, self._read_anew)
                reading = self._reading
                try:
                    await asyncio.shield(reading)
                finally:
                    if reading.done():
                        self._reading = None
                continue
            try:
                if self._receive():
                    continue
            except OSError:
                if self._closed:
                    raise StopAsyncIteration from None
                raise
            await self._wait_async()

    def _receive(self) -> bool:
        """Take one datagram, or note that some are missing. False: nothing is there."""
        transport = self._transport
        try:
            data = transport.recv(0)
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._note_loss(None)
            elif error.errno == errno.ENOBUFS:
                self._note_loss(transport.dropped or None)
            else:
                raise
            return True
        part: list[Any] = []
        _codec.parse(self._engine.marshal, data, part)
        if self._all_ns:
            for msg in part:
                msg["header"]["nsid"] = transport.nsid
        self._items.extend(part)
        return True

    def _note_loss(self, count: int | None) -> None:
        self._items.append(Lost(count, time.time()))
        if self._resync and self._due is None:
            self._due = max(self._last + self._interval, 0.0)

    # ---- reading anew -------------------------------------------------------------------------------------

    def _read_anew(self) -> None:
        self._due = None
        part: list[Any] = []
        complete = True
        begin = time.time()
        try:
            self._dump_into(part)
        except NetlinkDumpInterrupted:
            complete = False
        except ProxyError:
            self._due = 0.0
            if self._receive():  # what had arrived comes first, and then the end of the monitor's own transport
                return
            raise
        except BaseException:
            self._due = time.monotonic() + max(self._interval, 0.1)  # the promise stands
            raise
        finally:
            self._last = time.monotonic()
        if not complete:
            self._due = self._last + max(self._interval, 0.1)
        for msg in part:
            msg["header"]["resync"] = True
        self._items.append(ResyncBegin(self.kinds, begin))
        self._items.extend(part)
        self._items.append(ResyncEnd(self.kinds, complete, time.time()))

    def _dump_into(self, part: list[Any]) -> None:
        for kind, family in self.kinds:
            part.extend(self._dump(kind, family))

    def _dump(self, kind: str, family: int) -> tuple[Any, ...]:
        engine = self._reader
        seq = engine.addr_pool.alloc()
        if kind == "qdisc":
            data = dump_request(rtnl.RTM_GETQDISC, bytes(header_size(tcmsg)), seq)
        else:
            data = request(kind, family, {}, seq)[0]
        # Under strict checking a dump of routes is without their cached exceptions, of which there are no events.
        found: tuple[Any, ...] = engine.dump_all(data, seq, kind == "route")
        return found

    # ---- waiting ------------------------------------------------------------------------------------------

    def _wait(self, timeout: float | None) -> bool:
        """Until something arrives, or the monitor is closed."""
        if self._closed:
            raise OSError(errno.EBADF, "the monitor is closed", self._engine.options["netns"])
        return self._waker.wait((self._transport,), timeout)

    async def _wait_async(self) -> None:
        timeout = None if self._due is None else max(self._due - time.monotonic(), 0)
        await self._sleepers.wait(self._transport.fileno(), timeout)

    def fileno(self) -> int:
        """A descriptor that is readable when an event waits; for `get(0)`. Re-dumps have their own time."""
        return int(self._transport.fileno())

    # ---- life ---------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the iteration, in whatever thread it waits. Twice is fine, and so is a signal handler or a finalizer."""
        if self._closed:
            return
        self._closed = True
        self._waker.wake()
        self._sleepers.end(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def group_numbers(groups: int | Iterable[int]) -> tuple[int, ...]:
    """The numbers of multicast groups, from a mask of the first 32 or from numbers."""
    if isinstance(groups, int):
        if not 0 <= groups < 1 << 32:
            raise ValueError(f"groups {groups:#x} is no mask of 32 groups")
        return tuple(number for number in range(1, 33) if groups >> (number - 1) & 1)
    numbers = tuple(groups)
    if not all(isinstance(number, int) and 0 < number < 1 << 16 for number in numbers):
        raise ValueError(f"groups {numbers!r} are no group numbers")
    return numbers
