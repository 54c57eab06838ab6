"""`IPRoute` and `NetNS`: pyroute2's RTNL API in the current or in another network namespace."""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING, Any

import pyroute2
from pyroute2 import config
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST

from fastns import _codec
from fastns import netns as netns_module
from fastns.batch import Batch
from fastns.engine.blocking import Engine
from fastns.engine.request import RTNL_METHODS, Conversation, Request, Response, drive, iterate
from fastns.engine.transport import open_engine
from fastns.handle import Handle, InNamespace
from fastns.monitor import Monitor
from fastns.table import Table, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

__all__ = ["IPRoute", "NetNS"]

# The methods of pyroute2's IPRoute that hand on what their coroutine returns, but for dumps; the rest of the RTNL
# API always iterates. (pyroute2 keeps these two lists inside IPRoute.__getattr__.)
GENERIC = frozenset(
    "addr link neigh route rule tc fdb brport probe stats vlandb link_lookup vlan_filter flush_addr flush_rules "
    "flush_routes get_netnsid set_netnsid route_dump route_dumps route_load route_loads".split()
)
UNFILTERED = frozenset(("family", "ext_mask", "dump_flags"))  # of a dump: these go into the request, the rest filters
BUILT = frozenset(("link", "addr", "route", "neigh", "rule", "fdb"))
LISTED: dict[str, tuple[str, dict[str, int]]] = {
    "get_links": ("link", {}),
    "get_addr": ("addr", {"family": 0}),
    "get_neighbours": ("neigh", {"family": 0}),
    "get_rules": ("rule", {"family": 0}),
    "get_routes": ("route", {"family": 255}),
}
PLAIN = frozenset(
    "list_link_kind unregister_link_kind register_link_kind get_pid close_file open_file filter_messages".split()
)


class IPRoute(Handle["Batch", "Monitor"], pyroute2.IPRoute):  # type: ignore[misc]
    """The RTNL API of pyroute2's IPRoute, in the current namespace or in `netns`.

    `netns` is a name in the run directory, a path, an open descriptor or file; `pid=` is the namespace of a process.
    `transport` is "direct" (a socket of this process), "relay" (every request through a proxy process) or "auto"
    (relay when `proxy` is given or a default Proxy is alive; otherwise requests go direct, and `bind` receives its
    events through the shared proxy process, forked then). The remaining keywords are pyroute2's socket options:
    `rcvbuf` and `sndbuf` in bytes, `ext_ack` (on), `strict_check`, `all_ns`, `nlm_echo`, `groups`, `flags` as
    open(2) when the namespace is missing. `dump_intr` says what to do about a dump the kernel calls inconsistent:
    "retry" (a bounded number of times, then NetlinkDumpInterrupted), "raise" or "flag" (NLM_F_DUMP_INTR stays
    visible in the headers). `timeout`, in seconds, bounds each wait for an answer (None: no bound).

    Threads: one handle serves any number of them; requests are serialised. Fork: a child process must open its own
    handle; use of an inherited one is OSError EBADF, and closing it leaves the parent's alone. Nothing here runs or
    needs an event loop. Privilege: reading none, entering another namespace CAP_SYS_ADMIN over it, changes
    CAP_NET_ADMIN. Raises OSError (opening; `filename` is the reference given), NetlinkError (the kernel's answer).
    Source: rtnetlink(7), netlink(7).
    """

    def _open(self, options: dict[str, Any]) -> None:
        self.asyncore = open_engine(Engine, options)
        self.asyncore.face = type(self).__name__

    @classmethod
    def from_asyncore(cls, iproute: Any) -> IPRoute:
        handle = cls.__new__(cls)
        handle.asyncore = iproute
        return handle

    # ---- socket-like face ---------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        """pyroute2's status mapping: the options of the handle, `netns` as it was passed, `closed`."""
        return self.asyncore.status

    def fileno(self) -> int:
        """A descriptor for select, poll and epoll: readable when an answer or an event waits."""
        return self.asyncore.fileno()

    def settimeout(self, timeout: float | None) -> None:
        """Bound each wait for an answer to `timeout` seconds: TimeoutError then. None waits for ever."""
        self.asyncore.timeout = timeout

    def gettimeout(self) -> float | None:
        return self.asyncore.timeout

    def bind(self, groups: int | None = None, pid: int | None = None, **kwarg: Any) -> None:
        """Receive the events of the multicast groups (default: those of the constructor) with `get`."""
        self.asyncore._sync_bind(groups, pid, **kwarg)

    def get(
        self, msg_seq: int = 0, terminate: Any = None, callback: Any = None, noraise: bool = False
    ) -> list[Any]:
        """The messages of the next datagram of events, or of the answer to the request `msg_seq`.

        OSError ENOBUFS stands where the kernel dropped events; the handle goes on working.
        """
        engine = self.asyncore
        return list(engine.messages(Conversation(engine, max(msg_seq, 0), terminate, callback, noraise)))

    def put(
        self,
        msg: Any,
        msg_type: int,
        msg_flags: int = NLM_F_REQUEST,
        addr: tuple[int, int] = (0, 0),
        msg_seq: int | None = None,
        msg_pid: int | None = None,
    ) -> Any:
        """Send a message without waiting for its answer. Returns the request; `get(request.msg_seq)` reads."""
        if msg is None:
            msg = self.marshal.msg_map[msg_type]()
        return drive(self.asyncore.put(msg, msg_type, msg_flags, addr, msg_seq, msg_pid))

    def nlm_request(
        self,
        msg: Any,
        msg_type: int,
        msg_flags: int = NLM_F_REQUEST | NLM_F_DUMP,
        terminate: Any = None,
        callback: Any = None,
        parser: Any = None,
    ) -> Any:
        """Send any message and return its answer, a tuple or, with the generator setting, a generator."""
        response = self._nlm_request(msg, msg_type, msg_flags, terminate, callback, parser)
        return response if self.asyncore.options["nlm_generator"] or config.nlm_generator else tuple(response)

    def _nlm_request(
        self, msg: Any, msg_type: int, msg_flags: int, terminate: Any, callback: Any, parser: Any
    ) -> Iterator[Any]:
        request = Request(
            self.asyncore, msg, None, None, None, None, terminate, callback, parser, msg_type, msg_flags
        )
        drive(request.send())
        yield from request.response()

    def nlm_request_batch(self, msgs: Any, noraise: bool = False) -> list[Any]:
        """Send several messages in one datagram and return all their answers."""
        requests = [Request(self.asyncore, msg) for msg in msgs]
        answered = [request for request in requests if request.msg["header"]["flags"] & (NLM_F_ACK | NLM_F_DUMP)]
        for request in requests:
            drive(request.prepare())
        answers: list[Any] = []
        try:
            self.asyncore.submit(b"".join(bytes(request.msg.data) for request in requests), 0)
            for request in answered:
                try:
                    answers.extend(request.response())
                except pyroute2.NetlinkError:
                    if not noraise:
                        raise
        finally:
            for request in requests:
                request.cleanup()
        return answers

    def _batch(self, **options: Any) -> Batch:
        return Batch(self.asyncore, **options)

    def table(self, kind: str, /, **filters: Any) -> Table:
        """A dump in columns: "link", "addr", "route", "rule", "neigh", "fdb" or "nexthop".

        Filters are names of columns with the value rows must have, None for rows that have none, or a function of
        the value. The kernel applies what it can (`table`, `oif`, `proto`, `type` of routes, `index` of addresses,
        `ifindex`, `master`, `family`), the rest is applied while the columns are filled. As with ip(8), a dump of
        routes the kernel filters is without the cached exceptions of routes.

        Raises ValueError (no such table or column), TypeError, OSError, NetlinkError, NetlinkDumpInterrupted as
        the other dumps. Source: rtnetlink(7).
        """
        return dump(self.asyncore, kind, filters)

    def _monitor(self, **options: Any) -> Monitor:
        return Monitor(self.asyncore, **options)

    def mock_data(self, data: bytes) -> None:
        """Have `get` return these bytes' messages, as if they had been received."""
        self.asyncore.strays.append(data)

    def close(self, code: int = errno.ECONNRESET) -> None:
        """Release everything. Twice is fine; afterwards every use is OSError EBADF."""
        self.asyncore.close(code)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.asyncore.options['netns']!r}>"

    # ---- requests -----------------------------------------------------------------------------------------

    def ensure(
        self, method: Any, present: bool = True, timeout: float = 10, interval: float = 0.2, **spec: Any
    ) -> Any:
        """Create or remove an object unless it is there or gone already, and wait until it is. As pyroute2."""
        method = getattr(self.asyncore, method.__name__)
        return drive(self.asyncore.ensure(method, present, timeout, interval, **spec))

    def poll(
        self, method: Any, command: str, timeout: float = 10, interval: float = 0.2, **spec: Any
    ) -> list[Any]:
        """Repeat a request every `interval` seconds until it returns something; TimeoutError after `timeout`."""

        async def asked(command: str, **spec: Any) -> Any:
            return method(command, **spec)

        found: list[Any] = drive(self.asyncore.poll(asked, command, timeout=timeout, interval=interval, **spec))
        return found

    if TYPE_CHECKING:  # pyroute2's method does it, and has no type

        def __enter__(self) -> Self: ...

    def __getattr__(self, name: str) -> Any:
        if name == "asyncore":
            raise AttributeError(name)
        return getattr(self.asyncore, name)

    def _run_with_cleanup(self, func: Any, *argv: Any, **kwarg: Any) -> Any:
        return drive(func(*argv, **kwarg))

    def _generate_with_cleanup(self, func: Any, *argv: Any, **kwarg: Any) -> Iterator[Any]:
        yield from iterate(drive(func(*argv, **kwarg)))

    def _run_sync_cleanup(self, func: Any, *argv: Any, **kwarg: Any) -> tuple[Any, ...]:
        return as_tuple(drive(func(*argv, **kwarg)))


def as_tuple(result: Any) -> tuple[Any, ...]:
    if isinstance(result, Response):
        return tuple(result.collect())
    return tuple(iterate(result))


def _request_method(name: str, func: Any) -> Callable[..., Any]:
    """The synchronous face of one request coroutine of pyroute2."""
    if name in BUILT:
        # The second argument is the command; everything else is keywords. What `build` knows it turns into the
        # bytes pyroute2 would send; for the rest it returns None and pyroute2's own code decides.
        def method(self: IPRoute, command: Any, **kwarg: Any) -> Any:
            engine = self.asyncore
            dump = command in ("dump", "show")
            if engine.plain and (not dump or UNFILTERED.issuperset(kwarg)):
                seq = engine.addr_pool.alloc()
                data = _codec.build(
                    name, command, kwarg, engine.nlm_echo, seq, engine.owner, engine.strict_check, False
                )
                if data is not None:
                    if not dump:
                        return engine.exchange(data, seq)
                    return engine.generate(data, seq) if config.nlm_generator else engine.dump_all(data, seq)
            return call_or_dump(self, getattr(engine, name), command, **kwarg)

        return functools.wraps(func)(method)

    def generic(self: IPRoute, *argv: Any, **kwarg: Any) -> Any:
        return call_or_dump(self, getattr(self.asyncore, name), *argv, **kwarg)

    def listing(self: IPRoute, *argv: Any, **kwarg: Any) -> Any:
        if name in LISTED and not argv and kwarg.keys() <= {"family"}:
            # What pyroute2's method would ask for, without its way there: a handle's first request is often this.
            kind, defaults = LISTED[name]
            return getattr(IPRoute, kind)(self, "dump", **{**defaults, **kwarg})
        bound = getattr(self.asyncore, name)
        if config.nlm_generator:
            return self._generate_with_cleanup(bound, *argv, **kwarg)
        return as_tuple(drive(bound(*argv, **kwarg)))

    return functools.wraps(func)(generic if name in GENERIC else listing)


def call_or_dump(self: IPRoute, bound: Any, *argv: Any, **kwarg: Any) -> Any:
    if argv and argv[0] in ("dump", "show"):
        if config.nlm_generator:
            return self._generate_with_cleanup(bound, *argv, **kwarg)
        return as_tuple(drive(bound(*argv, **kwarg)))
    return drive(bound(*argv, **kwarg))


for _name, _func in RTNL_METHODS.items():
    if _name not in PLAIN and not _name.startswith("_") and _name not in ("ensure", "poll"):
        setattr(IPRoute, _name, _request_method(_name, _func))


class NetNS(InNamespace["Batch", "Monitor"], IPRoute, pyroute2.NetNS):  # type: ignore[misc]
    """IPRoute inside the network namespace `netns`, which is created if it does not exist.

    `flags` as open(2): os.O_CREAT (default) creates a missing namespace, os.O_CREAT | os.O_EXCL insists on creating
    it (FileExistsError), 0 insists on its existence (FileNotFoundError). Everything else as `IPRoute`.
    """

    def remove(self) -> None:
        """Close the handle and remove the namespace from the run directory. Also after `close`."""
        self.close()
        netns_module.remove(self.asyncore.options["netns"])
