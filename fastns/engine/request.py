"""One request and its answer, and pyroute2's request coroutines bound to them.

pyroute2 writes its RTNL API as coroutines that build a `NetlinkRequest`, send it and iterate its response. Here the
very same functions run against `Request`, whose answer is waited for in a blocking receive; a coroutine that never
waits for anything else is finished by one `send(None)`, so no event loop is involved.
"""

from __future__ import annotations

import errno
import time
import types
from typing import TYPE_CHECKING, Any

from pyroute2 import config, netlink
from pyroute2.iproute import linux as pyroute2_linux
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLMSG_MIN_TYPE, clean_cbs, rtnl
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETSTATS

from fastns import _codec
from fastns._codec import DUMP_ENDED, DUMP_FAILED, DUMP_INTERRUPTED
from fastns.schema import constant

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from fastns.engine.blocking import Engine

NLM_F_BULK = constant(netlink, "NLM_F_BULK")  # since 5.19: on a delete request the old NLM_F_EXCL means "delete all"
RTM_F_CLONED = constant(rtnl, "RTM_F_CLONED")

DUMP_ATTEMPTS = 10

# GET requests that always answer with data or an error, so their acknowledgement would only be one more
# datagram to receive.
ANSWERED_GETS = frozenset((RTM_GETLINK, RTM_GETROUTE, RTM_GETNEIGH, RTM_GETSTATS))


class Pause:
    """Awaited inside a request coroutine: the driver sleeps, and nothing else runs meanwhile."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


def drive(coroutine: Any) -> Any:
    """Run a request coroutine to its end in this thread."""
    try:
        while True:
            step = coroutine.send(None)
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            elif step is not None:
                coroutine.close()
                raise RuntimeError(f"a request waits for {step!r}, which needs a running event loop")
    except StopIteration as end:
        return end.value


def iterate(result: Any) -> Iterator[Any]:
    """Iterate whatever a request method returned: our responses, asynchronous generators, plain collections."""
    if isinstance(result, Response) or not hasattr(result, "__aiter__"):
        yield from result
        return
    iterator = result.__aiter__()
    try:
        while True:
            try:
                item = drive(iterator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        if hasattr(iterator, "aclose"):
            drive(iterator.aclose())


class Request(NetlinkRequest):  # type: ignore[misc]
    """One request: pyroute2's assembly of the message, our transport for it and for its answer."""

    def __init__(self, *args: Any, exception_factory: Any = None, **kwarg: Any) -> None:
        super().__init__(*args, **kwarg)
        # pyroute2 0.9.4 does not know it yet
        self.exception_factory = exception_factory or self.sock.exception_factory

    async def prepare(self) -> None:
        header = self.msg["header"]
        kind, flags = header["type"], header["flags"]
        if kind in ANSWERED_GETS:
            header["flags"] = flags & ~NLM_F_ACK
        elif kind >= NLMSG_MIN_TYPE and kind % 4 == 1:
            header["flags"] = flags & ~NLM_F_BULK
        # NLM_F_EXCL of a new object is the same bit as half of NLM_F_DUMP: only GET requests (type 4n + 2) dump.
        self.dump = kind % 4 == 2 and bool(flags & NLM_F_DUMP)
        # Behind a socket the user gave there need not be a kernel.
        self.kernel_filter = self.dump and self.sock.use_socket is None and narrow(kind, self.msg, self.dump_filter)
        _codec.encode(self.msg)
        if self.dump and self.command is not None:
            self.terminate = None  # pyroute2's addr() gives one that looks for errors, which end a dump anyway
        self.rounds = [self.msg.data]
        if self.kernel_filter and kind == RTM_GETROUTE:
            # Under strict checking a dump is of the routes or of their cached exceptions: ask for both.
            self.msg["flags"] = RTM_F_CLONED
            self.msg.reset()
            _codec.encode(self.msg)
            self.rounds.append(self.msg.data)
        self.sock.expect(self.msg_seq)
        if self.parser is not None:
            self.marshal.seq_map[self.msg_seq] = self.parser

    def cleanup(self) -> None:
        self.sock.forget(self.msg_seq)
        self.marshal.seq_map.pop(self.msg_seq, None)
        # What encoding opened for this request, the namespace behind a name in net_ns_fd; pyroute2 closes it when
        # it decodes the answer, which a lazily read answer never is.
        for close in clean_cbs.__dict__.pop(self.msg_seq, ()):
            close()

    async def send(self) -> int:
        await self.prepare()
        try:
            if await self.proxy():
                return len(self.msg.data)
            return int(self.sock.submit(self.rounds[0], self.msg_seq, self.dump, self.kernel_filter))
        except BaseException:
            self.cleanup()
            raise

    def response(self) -> Response:
        return Response(self)


# The dump filters the kernel applies itself under strict checking: for each request the names of pyroute2's filter
# and where the request carries them, a field of the header or an attribute. rtnetlink(7); net/ipv4/fib_frontend.c
# (ip_valid_fib_dump_req), net/core/neighbour.c (neigh_valid_dump_req), net/ipv4/devinet.c
# (inet_valid_dump_ifaddr_req), net/core/rtnetlink.c (rtnl_valid_dump_ifinfo_req).
KERNEL_FILTERS: dict[int, dict[Any, str]] = {
    RTM_GETADDR: {"index": "index"},
    RTM_GETNEIGH: {"ifindex": "NDA_IFINDEX", "master": "NDA_MASTER"},
    RTM_GETLINK: {"master": "IFLA_MASTER", ("linkinfo", "kind"): "IFLA_LINKINFO"},
    RTM_GETROUTE: {"table": "RTA_TABLE", "oif": "RTA_OIF", "proto": "proto", "type": "type"},
}


def narrow(kind: int, msg: Any, dump_filter: Any) -> bool:
    """Put into a dump request what the kernel can filter by. The filter itself still decides on what comes."""
    names = KERNEL_FILTERS.get(kind)
    if names is None or not isinstance(dump_filter, dict) or msg.get("family") == config.AF_BRIDGE:
        return False
    wanted = {target: dump_filter.get(name) for name, target in names.items()}
    usable = {
        target: value
        for target, value in wanted.items()
        if (type(value) is int and value > 0) or (target == "IFLA_LINKINFO" and type(value) is str)
    }
    for target, value in usable.items():
        if target == "IFLA_LINKINFO":
            msg["attrs"].append((target, {"attrs": [("IFLA_INFO_KIND", value)]}))
        elif target.isupper():
            msg["attrs"].append((target, value))
        else:
            msg[target] = value
    if usable and kind == RTM_GETROUTE:
        msg["table"] = 0
    return bool(usable)


class Response:
    """The answer to a request: iterable here and in a coroutine, each item a message of pyroute2's class."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.engine: Engine = request.sock
        self.iterator: Iterator[Any] | None = None

    def __aiter__(self) -> Response:
        self.iterator = iter(self)
        return self

    async def __anext__(self) -> Any:
        assert self.iterator is not None
        for msg in self.iterator:
            return msg
        raise StopAsyncIteration

    def __iter__(self) -> Iterator[Any]:
        request, engine = self.request, self.engine
        try:
            if self.whole:
                yield from self.selected(self.dump().stream(sent=True))
            else:
                yield from self.selected(
                    engine.conversation(
                        request.msg_seq, request.terminate, request.callback, False, request.exception_factory
                    )
                )
        finally:
            request.cleanup()

    @property
    def whole(self) -> bool:
        """A dump nobody wants to look into while it arrives."""
        request = self.request
        return request.dump and not (request.terminate or request.callback or request.parser)

    def selected(self, messages: Iterator[Any]) -> Iterator[Any]:
        dump_filter, callbacks = self.request.dump_filter, self.engine.callbacks
        if dump_filter is None and not callbacks:
            return messages
        return self.filtered(messages)

    def filtered(self, messages: Iterator[Any]) -> Iterator[Any]:
        request = self.request
        for msg in messages:
            if request.dump_filter is not None and not request.match_one_message(request.dump_filter, msg):
                continue
            self.engine.call_back(msg)
            yield msg

    def dump(self) -> Dump:
        request = self.request
        return Dump(self.engine, request.rounds, request.msg_seq, request.kernel_filter, request.exception_factory)

    def collect(self) -> list[Any]:
        """Every message at once; a dump is repeated when the kernel says that it changed meanwhile."""
        request = self.request
        if not self.whole:
            return list(self)
        try:
            messages = self.dump().collect(sent=True)
        finally:
            request.cleanup()
        return list(self.selected(iter(messages)))


class Dump:
    """One dump as bytes on the wire, in one or several rounds: received whole, or as a stream."""

    __slots__ = ("engine", "exception_factory", "kernel_filter", "rounds", "seq")

    def __init__(
        self, engine: Engine, rounds: list[Any], seq: int, kernel_filter: bool = False, exception_factory: Any = None
    ) -> None:
        self.engine = engine
        self.rounds = rounds
        self.seq = seq
        self.kernel_filter = kernel_filter
        self.exception_factory = exception_factory

    def stream(self, sent: bool = False) -> Iterator[Any]:
        interrupted = False
        for data in self.rounds:
            if not sent:
                self.engine.submit(data, self.seq, True, self.kernel_filter)
            sent = False
            seen = 0
            while not seen & DUMP_ENDED:
                part, seen = self.part(self.engine.receive(self.seq))
                interrupted = interrupted or bool(seen & DUMP_INTERRUPTED)
                yield from part
        if interrupted:
            self.engine.interrupted()

    def collect(self, sent: bool = False) -> list[Any]:
        engine, seq = self.engine, self.seq
        for _ in range(DUMP_ATTEMPTS):
            messages: list[Any] = []
            interrupted = False
            for data in self.rounds:
                if not sent:
                    engine.submit(data, seq, True, self.kernel_filter)
                sent = False
                seen = 0
                while not seen & DUMP_ENDED:
                    seen |= _codec.parse_dump(engine.marshal, engine.receive(seq), messages, seq)
                if seen & DUMP_FAILED:
                    self.check(messages.pop())
                interrupted = interrupted or bool(seen & DUMP_INTERRUPTED)
            if not interrupted:
                return messages
            if engine.dump_intr != "retry":
                break
        engine.interrupted()
        return messages

    def part(self, data: Any) -> tuple[list[Any], int]:
        """The messages of one datagram and what it says about the dump."""
        messages: list[Any] = []
        seen = _codec.parse_dump(self.engine.marshal, data, messages, self.seq)
        if seen & DUMP_FAILED:
            self.check(messages.pop())
        return messages, seen

    def check(self, failed: Any) -> None:
        """A kernel-side filter that names something absent is an empty result, as it is when Python filters."""
        if not (self.kernel_filter and abs(failed["error"]) in (errno.ENODEV, errno.ENOENT)):
            raise self.engine.failure(failed, self.exception_factory)


def request_methods(request_class: type[Request]) -> dict[str, Any]:
    """pyroute2's RTNL_API, each function a copy that finds `request_class` under the name NetlinkRequest."""
    space = dict(vars(pyroute2_linux), NetlinkRequest=request_class)
    methods = {}
    for name, func in vars(pyroute2_linux.RTNL_API).items():
        if isinstance(func, types.FunctionType):
            copy = types.FunctionType(
                func.__code__, space, func.__name__, func.__defaults__, func.__closure__
            )
            copy.__kwdefaults__ = func.__kwdefaults__
            copy.__doc__ = func.__doc__
            copy.__qualname__ = func.__qualname__
            methods[name] = copy
    return methods


RTNL_METHODS = request_methods(Request)
RequestMethods: Any = type("RequestMethods", (pyroute2_linux.AsyncIPRoute,), RTNL_METHODS)
