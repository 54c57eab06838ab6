"""What blocking and asynchronous handles are opened with and offer alike; they differ in what has to be waited for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pyroute2.netlink.rtnl import RTMGRP_DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable

AnyBatch = TypeVar("AnyBatch")
AnyMonitor = TypeVar("AnyMonitor")


class Handle(Generic[AnyBatch, AnyMonitor]):
    """What every handle can be opened with; `_open` makes it of the options."""

    def __init__(
        self,
        netns: Any = None,
        *,
        pid: int | None = None,
        transport: str = "auto",
        proxy: Any = None,
        port: Any = None,
        fileno: int | None = None,
        sndbuf: int = 1048576,
        rcvbuf: int | None = None,
        rcvsize: int = 16384,
        all_ns: bool = False,
        async_qsize: Any = None,
        nlm_generator: Any = None,
        target: str | None = None,
        ext_ack: bool = True,
        strict_check: bool = False,
        groups: int = RTMGRP_DEFAULTS,
        nlm_echo: bool = False,
        netns_path: Any = None,
        flags: int = os.O_CREAT,
        libc: Any = None,
        use_socket: Any = None,
        use_event_loop: Any = None,
        telemetry: Any = None,
        exception_factory: Any = None,
        dump_intr: str = "retry",
        timeout: float | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self._open(options)

    def _open(self, options: dict[str, Any]) -> None:
        raise NotImplementedError

    def _batch(self, **options: Any) -> AnyBatch:
        raise NotImplementedError

    def _monitor(self, **options: Any) -> AnyMonitor:
        raise NotImplementedError

    def batch(self, *, errors: str = "raise", chunk: int | None = None, echo: bool | None = None) -> AnyBatch:
        """Many requests at a time: `with ns.batch() as b: b.route("add", dst="10.0.0.0/8", oif=2)`.

        Of an asynchronous handle `async with ns.batch() as b: await b.route(…)`.

        The batch has the methods of the handle that change something (`link`, `addr`, `route`, `rule`, `neigh`,
        `fdb`, `tc`, `vlan_filter`, `brport`), `message` for raw requests, and `load` for iterables of any length.
        Nothing is sent until a datagram is full or the block ends. Afterwards `results` has one entry for each item.

        `errors`: "raise" sends everything and raises one BatchError at the end that names each failed item;
        "collect" leaves the errors in `results`; "stop" raises behind the first datagram in which an item failed.
        `chunk` is the largest number of items in a datagram, for "stop" the grain (default: as many as fit).
        `echo` asks the kernel to send back what it made (NLM_F_ECHO), such as the index of a new link, at the price
        of smaller datagrams; default: the handle's `nlm_echo`.

        Uses a socket of its own, through the proxy when the handle does. Privilege: CAP_NET_ADMIN. Raises OSError,
        BatchError. Source: netlink(7).
        """
        return self._batch(errors=errors, chunk=chunk, echo=echo)

    def monitor(
        self,
        groups: int | Iterable[int] | None = None,
        resync: bool | float = False,
        all_ns: bool = False,
        *,
        initial: bool = False,
        rcvbuf: int = 0,
        ring_size: int = 0,
    ) -> AnyMonitor:
        """Events as they happen: `for item in ns.monitor(): ...`, or `async for`, on handles of either sort.

        `groups` is a mask (default: the handle's `groups`) or an iterable of group numbers. Events are received by
        a proxy process while this one sleeps or is busy, by an own socket if the handle is direct. Where events
        were dropped all the same there is a `Lost` item; with `resync` the state is then read anew, at most once a
        second or once in that many seconds, between `ResyncBegin` and `ResyncEnd` items, so that a consumer that
        applies the stream ends with the kernel's state. `initial` begins with reading it. `all_ns` also receives
        the events of every namespace that has an id in the handle's, labelled with it.

        `rcvbuf` is the kernel's buffer in bytes (default 64 MiB, beyond the system's limit where allowed): where it
        does not hold two of the events, `Lost` may stand behind some that came later. `ring_size` is the proxy's
        buffer (default 32 MiB). Privilege: none to listen, CAP_NET_BROADCAST for `all_ns`. Raises OSError,
        ProxyError when the proxy is gone. Source: rtnetlink(7), netlink(7).
        """
        return self._monitor(
            groups=groups, resync=resync, all_ns=all_ns, initial=initial, rcvbuf=rcvbuf, ring_size=ring_size
        )


class InNamespace(Handle[AnyBatch, AnyMonitor]):
    """A handle whose arguments begin with a namespace, and how it is opened, as pyroute2's NetNS has them."""

    def __init__(
        self,
        netns: Any = None,
        flags: int = os.O_CREAT,
        target: str | None = None,
        libc: Any = None,
        groups: int = RTMGRP_DEFAULTS,
        *,
        pid: int | None = None,
        transport: str = "auto",
        proxy: Any = None,
        **socket_options: Any,
    ) -> None:
        super().__init__(
            netns,
            flags=flags,
            target=target,
            libc=libc,
            groups=groups,
            pid=pid,
            transport=transport,
            proxy=proxy,
            **socket_options,
        )
