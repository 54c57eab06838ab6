"""One request and its answer, and pyroute2's request coroutines bound to them.

pyroute2 writes its RTNL API as coroutines that build a `NetlinkRequest`, send it and iterate its response. Here the
very same functions run against `Request`, whose answer is waited for in a blocking receive; a coroutine that never
waits for anything else is finished by one `send(None)`, so no event loop is involved.

What answers a request is taken apart here too, and waited for by the engine: `Conversation` and `Dump` say what to send
and when they are over, and are handed the datagrams. So the blocking engine and the one for asyncio share all but the
waiting.
"""

from __future__ import annotations

import errno
import time
import types
from typing import TYPE_CHECKING, Any, Protocol

from pyroute2 import config, netlink
from pyroute2.iproute import linux as pyroute2_linux
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_MULTI, NLMSG_MIN_TYPE, clean_cbs, rtnl
from pyroute2.netlink.core import Stats
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETSTATS

from fastns import _codec
from fastns._codec import DUMP_ENDED, DUMP_FAILED, DUMP_INTERRUPTED
from fastns.schema import constant

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

NLM_F_BULK = constant(netlink, "NLM_F_BULK")  # since 5.19: on a delete request the old NLM_F_EXCL means "delete all"
RTM_F_CLONED = constant(rtnl, "RTM_F_CLONED")

DUMP_ATTEMPTS = 10

# GET requests that always answer with data or an error, so their acknowledgement would only be one more
# datagram to receive.
ANSWERED_GETS = frozenset((RTM_GETLINK, RTM_GETROUTE, RTM_GETNEIGH, RTM_GETSTATS))
NO_STATS = Stats(0, 0, 0)  # pyroute2 puts it into every header


class Carrier(Protocol):
    """What a request and its answer need of the engine that carries them."""

    marshal: Any
    callbacks: list[Any]
    exception_factory: Any
    use_socket: Any

    @property
    def target(self) -> str: ...

    def expect(self, seq: int) -> None: ...

    def forget(self, seq: int) -> None: ...

    async def submit_async(self, data: Any, seq: int, dump: bool = False, kernel_filter: bool = False) -> int: ...

    def messages(self, answer: Conversation | Dump) -> Iterator[Any]: ...

    def collect(self, dump: Dump) -> list[Any]: ...

    def call_back(self, msg: Any) -> None: ...

    def failure(self, msg: Any, exception_factory: Any = None) -> Exception: ...

    def interrupted(self) -> None: ...


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

    sock: Carrier

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
        real = self.sock.use_socket is None
        self.kernel_filter = self.dump and real and let_kernel_filter(kind, self.msg, self.dump_filter)
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
            return await self.sock.submit_async(self.rounds[0], self.msg_seq, self.dump, self.kernel_filter)
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


def let_kernel_filter(kind: int, msg: Any, dump_filter: Any) -> bool:
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


class Conversation:
    """pyroute2's `get`: messages until the answer is complete, then the error if it ends in one."""

    __slots__ = ("callback", "engine", "exception_factory", "failed", "noraise", "over", "seq", "terminate")

    def __init__(
        self,
        engine: Carrier,
        seq: int,
        terminate: Any = None,
        callback: Any = None,
        noraise: bool = False,
        exception_factory: Any = None,
    ) -> None:
        self.engine = engine
        self.seq = seq
        self.terminate = terminate
        self.callback = callback
        self.noraise = noraise
        self.exception_factory = exception_factory
        self.over = False
        self.failed: Any = None

    def rounds(self) -> tuple[tuple[Any, ...]]:
        """As of a dump; there is one, and its request was sent."""
        return ((),)

    def take(self, data: Any) -> list[Any]:
        """The messages of one datagram."""
        messages: list[Any] = []
        marshal = self.engine.marshal
        for msg in marshal.parse(data, self.seq, self.callback):
            header = msg["header"]
            if header.get("error") is not None:
                self.over, self.failed = True, msg
                return messages
            if marshal.is_enough(msg):
                self.over = True
                return messages
            header["target"] = self.engine.target
            header["stats"] = NO_STATS
            messages.append(msg)
        self.over = self.seq == 0 or not messages or self.complete(messages[-1])
        return messages

    def complete(self, last: Any) -> bool:
        if not last["header"].get("flags", 0) & NLM_F_MULTI:
            return True
        return callable(self.terminate) and bool(self.terminate(last))

    def finish(self) -> None:
        if self.failed is not None and not self.noraise:
            raise self.engine.failure(self.failed, self.exception_factory)


class Dump:
    """One dump as bytes on the wire, in one or several rounds; `sent` if the first one's request is under way."""

    __slots__ = ("engine", "exception_factory", "interrupted", "kernel_filter", "over", "requests", "sent", "seq")

    def __init__(
        self,
        engine: Carrier,
        requests: list[Any],
        seq: int,
        kernel_filter: bool = False,
        exception_factory: Any = None,
        sent: bool = False,
    ) -> None:
        self.engine = engine
        self.requests = requests
        self.seq = seq
        self.kernel_filter = kernel_filter
        self.exception_factory = exception_factory
        self.sent = sent
        self.over = self.interrupted = False

    def rounds(self) -> Iterator[tuple[Any, ...]]:
        """Begin anew: for each round the arguments of `submit`, none where the request was sent."""
        self.interrupted = False
        for data in self.requests:
            self.over = False
            yield () if self.sent else (data, self.seq, True, self.kernel_filter)
            self.sent = False

    def take(self, data: Any) -> list[Any]:
        """The messages of one datagram."""
        messages: list[Any] = []
        self.take_into(messages, data)
        return messages

    def take_into(self, messages: list[Any], data: Any) -> None:
        seen = _codec.parse_dump(self.engine.marshal, data, messages, self.seq)
        if seen & DUMP_ENDED:
            self.over = True
            if seen & DUMP_FAILED:
                self.check(messages.pop())
        if seen & DUMP_INTERRUPTED:
            self.interrupted = True

    def check(self, failed: Any) -> None:
        """A kernel-side filter that names something absent is an empty result, as it is when Python filters."""
        if not (self.kernel_filter and abs(failed["error"]) in (errno.ENODEV, errno.ENOENT)):
            raise self.engine.failure(failed, self.exception_factory)

    def finish(self) -> None:
        if self.interrupted:
            self.engine.interrupted()


class Response:
    """The answer to a request: iterable here and in a coroutine, each item a message of pyroute2's class."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.engine = request.sock
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
        try:
            yield from self.selected(self.engine.messages(self.answer()))
        finally:
            self.request.cleanup()

    def collect(self) -> list[Any]:
        """Every message at once; a dump is repeated when the kernel says that it changed meanwhile."""
        if not self.whole:
            return list(self)
        try:
            messages = self.engine.collect(self.dump())
        finally:
            self.request.cleanup()
        return list(self.selected(iter(messages)))

    @property
    def whole(self) -> bool:
        """A dump nobody wants to look into while it arrives."""
        request = self.request
        return request.dump and not (request.terminate or request.callback or request.parser)

    def dump(self) -> Dump:
        request = self.request
        return Dump(
            self.engine, request.rounds, request.msg_seq, request.kernel_filter, request.exception_factory, sent=True
        )

    def answer(self) -> Conversation | Dump:
        if self.whole:
            return self.dump()
        request = self.request
        return Conversation(
            self.engine, request.msg_seq, request.terminate, request.callback, False, request.exception_factory
        )

    def selected(self, messages: Iterator[Any]) -> Iterator[Any]:
        if self.request.dump_filter is None and not self.engine.callbacks:
            return messages
        return filter(self.selects, messages)

    def selects(self, msg: Any) -> bool:
        """Whether the filter lets a message pass; who registered for messages is called then."""
        request = self.request
        if request.dump_filter is not None and not request.match_one_message(request.dump_filter, msg):
            return False
        self.engine.call_back(msg)
        return True


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
