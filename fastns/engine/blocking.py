"""Everything of a handle but its public face: conversations over one transport, events over another."""

from __future__ import annotations

import errno
import itertools
import os
import struct
import time
import types
import warnings
import weakref
from _thread import RLock
from collections import deque
from socket import SOL_SOCKET
from typing import TYPE_CHECKING, Any

from pyroute2 import config
from pyroute2.iproute import linux as pyroute2_linux
from pyroute2.netlink import (
    NETLINK_GET_STRICT_CHK,
    SOL_NETLINK,
)
from pyroute2.netlink.exceptions import NetlinkError as PyrouteNetlinkError
from pyroute2.netlink.nlsocket import NetlinkConfig, NetlinkSocketSpec
from pyroute2.netlink.rtnl.iprsocket import IPRouteProxy
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from fastns import _codec, _core, netns
from fastns.engine.request import (
    DUMP_ATTEMPTS,
    NO_STATS,
    Conversation,
    Dump,
    Pause,
    RequestMethods,
    iterate,
)
from fastns.errors import NLMSGHDR, NetlinkDumpInterrupted, NetlinkError
from fastns.schema import marshal_class

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

Marshal = marshal_class(MarshalRtnl)


def sequence_of(data: Any) -> int:
    """The sequence number of a datagram; 0, which is that of events, for what has no header."""
    return int(NLMSGHDR.unpack_from(data)[3]) if len(data) >= NLMSGHDR.size else 0


class Sequence:
    """32-bit sequence numbers without end; nothing is ever given back. Stands in for pyroute2's AddrPool."""

    def __init__(self) -> None:
        self.first = int.from_bytes(os.urandom(4), "little") | 0x1000000
        self.last = self.first
        self.counter = itertools.count(self.first)

    def alloc(self) -> int:
        self.last = number = next(self.counter)
        return (number & 0xFFFFFFFF) or self.alloc()

    def free(self, addr: int, ban: int = 0) -> None:
        """Part of AddrPool's interface."""

    def owns(self, number: int) -> bool:
        return ((number - self.first) & 0xFFFFFFFF) <= self.last - self.first


class LocalRequests(IPRouteProxy):  # type: ignore[misc]
    """Requests that are no netlink messages for the kernel (tun/tap creation, probes), run in the namespace."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(None)
        self.engine = weakref.proxy(engine)  # no cycle: a handle nobody holds any more is closed at once

    def applies(self, msg: Any) -> bool:
        return any(predicate(msg) for predicate, _ in self.route.get(msg["header"]["type"], ()))

    def handle(self, msg: Any) -> bytes:
        if self.applies(msg):
            return bytes(self.engine.run_inside(super().handle, msg))
        return b""


class MessageQueue:
    """What is left of pyroute2's message queue: the place where a request announces its sequence number."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def ensure_tag(self, tag: int) -> None:
        self.engine.expect(tag)

    def free_tag(self, tag: int) -> None:
        self.engine.forget(tag)

    async def put(self, tag: int, message: Any) -> None:
        self.put_nowait(tag, message)

    def put_nowait(self, tag: int, message: Any) -> None:
        self.engine.deliver(tag, bytes(getattr(message, "data", message)))


class Engine(RequestMethods):  # type: ignore[misc]
    """Everything of a handle but its public face: pyroute2's `asyncore`."""

    marshal: Any = None
    spec: Any = None
    callbacks: list[Any] = []
    capabilities = {"create_bridge": True, "create_bond": True, "create_dummy": True, "provide_master": True}
    request_proxy: Any = None
    exception_factory: Any = None
    use_event_loop: Any = None
    use_socket: Any = None
    batch: bytearray | None = None
    compiled: Any = None
    transport: Any = None
    events: Any = None
    face = "IPRoute"  # what its user calls it
    closed = True  # until everything is there: see __del__

    def __init__(
        self,
        transport: Any,
        *,
        open_events: Callable[[], Any],
        open_beside: Callable[..., Any] | None = None,
        options: dict[str, Any],
        relayed: bool = False,
    ) -> None:
        self.transport = transport
        self.relayed = relayed
        self.options = options
        self.open_events = open_events
        self.open_beside = open_beside
        self.libc = options["libc"]
        self.use_socket = options["use_socket"]
        self.dump_intr = options["dump_intr"]
        self.nlm_echo = bool(options["nlm_echo"])
        self.strict_check = bool(options["strict_check"])
        self.timeout: float | None = options["timeout"]
        self.exception_factory = options["exception_factory"]
        self.use_event_loop = options["use_event_loop"]
        self.owner = os.getpid()
        self.lock = RLock()
        self.addr_pool = Sequence()
        self.callbacks = []
        self.request_proxy = self.local_requests = LocalRequests(self)
        self.marshal = Marshal()
        self.marshal.header_extra = {"target": options["target"], "stats": NO_STATS}
        self.pending: dict[int, deque[Any]] = {}
        self.strays: deque[bytes] = deque()
        self.dumping: int | None = None
        self.buffer: list[Any] = []
        self.msg_reschedule: list[Any] = []
        self._status: dict[str, Any] | None = None
        self._waker = _core.Waker()
        self._poller: _core.Epoll | None = None
        self._sockopts: list[tuple[int, int, Any]] = []
        self.closed = False

    # ---- what pyroute2's own code and its users look at --------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        if self._status is None:
            options = self.options
            fields = {name: options[name] for name in NetlinkConfig.__dataclass_fields__ if name in options}
            fields.update(
                family=0,
                tag_field="sequence_number",
                rcvbuf=options["rcvbuf"] or 1048576,
                use_socket=options["use_socket"] is not None,
                use_event_loop=options["use_event_loop"] is not None,
                use_libc=options["libc"] is not None,
            )
            fields.pop("pid")  # a process here, a port id there
            fields.pop("netns")  # may be an open file, which the dataclass would try to copy
            self.spec = NetlinkSocketSpec(NetlinkConfig(**fields))
            self._status = self.spec.status
            for name, value in {
                "netns": options["netns"],
                "eids": set(),
                "netns_path": options["netns_path"] or config.netns_path,
                "event_loop": "none",
                "closed": self.closed,
            }.items():
                self._status[name] = value
        return self._status

    @property
    def msg_queue(self) -> MessageQueue:
        return MessageQueue(self)

    @property
    def local(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(socket=self.socket, msg_queue=self.msg_queue, keep_event_loop=True)

    @property
    def socket(self) -> Any:
        if self.closed:
            raise OSError(errno.EBADF, "the handle is closed", self.options["netns"])
        return self.transport

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def epid(self) -> int:
        return self.pid

    @property
    def target(self) -> str:
        return str(self.options["target"])

    def set_marshal(self, value: Any) -> None:
        self.marshal = value

    def __getattr__(self, name: str) -> Any:
        if name in ("getsockname", "getsockopt", "fileno"):
            return getattr(self.socket, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def setup_endpoint(self) -> None:
        """The transport is open from the first moment."""

    # ---- sending and receiving ----------------------------------------------------------------------------

    def expect(self, seq: int) -> None:
        self.pending.setdefault(seq, deque())

    def forget(self, seq: int) -> None:
        self.pending.pop(seq, None)

    def deliver(self, seq: int, data: Any) -> None:
        """Put a datagram where its reader looks: the conversation it answers, else the queue of events."""
        queue = self.pending.get(seq)
        if queue is not None:
            queue.append(data)
        elif seq == 0 or not self.addr_pool.owns(seq):
            self.strays.append(data)

    def check_owner(self) -> None:
        """Refuse to go on in a forked child, whose copy of the lock may be held by a thread that is not there."""
        if self.owner != os.getpid():
            raise OSError(
                errno.EBADF, "the handle belongs to the parent process: open a new one", self.options["netns"]
            )

    def submit(self, data: Any, seq: int, dump: bool = False, kernel_filter: bool = False) -> int:
        """Send one request. A dump waits for the one before it: the kernel runs one at a time on a socket."""
        self.check_owner()
        with self.lock:
            transport = self.socket
            fds = self.descriptors(data) if self.relayed else ()
            if not dump:
                return int(transport.send(data, fds))
            while self.dumping is not None:
                if self.dumping in self.pending or self.use_socket is not None:
                    self.pump()
                else:
                    self.drain()
            narrow = kernel_filter and not self.options["strict_check"]
            self.dumping = seq
            # The proxy sets the option around this one request, which saves two round trips.
            once = {"strict": True} if narrow and self.relayed else {}
            narrow = narrow and not once
            try:
                if narrow:
                    transport.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
                return int(transport.send(data, fds, **once))
            except OSError:
                self.dumping = None
                raise
            finally:
                if narrow:
                    transport.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 0)

    def descriptors(self, data: Any) -> tuple[tuple[int, int], ...]:
        return tuple((offset, struct.unpack_from("=i", data, offset)[0]) for offset in _codec.find_fds(data))

    def pump(self) -> None:
        """Receive one datagram and deliver it. The caller holds the lock."""
        try:
            data = self.socket.recv(self.timeout)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            # Some answer was dropped and nobody knows whose: each waiting conversation hears of it.
            for queue in tuple(self.pending.values()):
                queue.append(error)
            return
        seq = sequence_of(data)
        if seq == self.dumping and _codec.ends_dump(data):
            self.dumping = None
        self.deliver(seq, data)

    def drain(self) -> None:
        """Read what is left of a dump that nobody wants any more. An exception out of a signal handler may have hidden
        its end, or that it was never sent. The caller holds the lock."""
        empty = False
        while not empty:
            # With a dump under way there is always a part of it in the kernel's queue: netlink_recvmsg() adds the next.
            queued = self.socket.getsockopt(SOL_SOCKET, _core.SO_MEMINFO, 4)  # the first of SK_MEMINFO_…: bytes that wait
            empty = not any(queued)
            try:
                while True:
                    self.pump_ready()
            except TimeoutError:
                pass
        self.dumping = None

    def receive(self, seq: int) -> Any:
        """The next datagram of a conversation. Other conversations' datagrams go to their queues meanwhile."""
        self.check_owner()
        queue = self.pending.get(seq)
        if queue is None:
            raise KeyError(f"no request with the sequence number {seq} waits for an answer")
        while True:
            with self.lock:
                if not queue:
                    self.pump()
                if queue:
                    data = queue.popleft()
                    break
        return self.received(data)

    def received(self, data: Any) -> Any:
        """What was delivered to a conversation: a datagram, or the error that stands in its place."""
        if isinstance(data, OSError):
            raise OSError(data.errno, data.strerror, self.options["netns"])
        return data

    @property
    def plain(self) -> bool:
        """Nothing is set that looks at requests or answers on their way, so they need not pass pyroute2's code."""
        return self.batch is None and not self.callbacks and self.request_proxy is self.local_requests

    def exchange(self, data: bytes, seq: int) -> list[Any]:
        """Send a complete request, no dump, and return its answer."""
        self.check_owner()
        with self.lock:
            if not self.pending and self.dumping is None:
                # Nobody else waits, so the next datagram is nearly always the answer, and the whole of it.
                transport = self.socket
                transport.send(data, self.descriptors(data) if self.relayed else ())
                answer = transport.recv(self.timeout)
                short = _codec.short_answer(self.marshal, answer, seq)
                if short is not None:
                    return short
                if sequence_of(answer) == seq:
                    conversation = Conversation(self, seq)
                    messages = conversation.take(answer)
                    conversation.finish()
                    if conversation.over:
                        return messages
            else:
                answer = None
            self.pending[seq] = deque()
        try:
            if answer is None:
                self.submit(data, seq)
            else:
                self.deliver(sequence_of(answer), answer)
            return list(self.messages(Conversation(self, seq)))
        finally:
            self.pending.pop(seq, None)

    def generate(self, data: bytes, seq: int) -> Iterator[Any]:
        """The answer to a complete dump request, which is sent when the first message is asked for."""
        self.pending[seq] = deque()
        try:
            yield from self.messages(Dump(self, [data], seq))
        finally:
            self.pending.pop(seq, None)

    def dump_all(self, data: bytes, seq: int, kernel_filter: bool = False) -> tuple[Any, ...]:
        """The answer to a complete dump request, whole."""
        self.pending[seq] = deque()
        try:
            return tuple(self.collect(Dump(self, [data], seq, kernel_filter)))
        finally:
            self.pending.pop(seq, None)

    def messages(self, answer: Conversation | Dump) -> Iterator[Any]:
        """The messages of an answer as they arrive."""
        seq = answer.seq
        for arguments in answer.rounds():
            if arguments:
                self.submit(*arguments)
            while not answer.over:
                yield from answer.take(self.receive(seq) if seq else self.next_event())
        answer.finish()

    def collect(self, dump: Dump) -> list[Any]:
        """A dump, whole, and repeated when the kernel says that it changed meanwhile."""
        seq = dump.seq
        for _ in range(DUMP_ATTEMPTS):
            messages: list[Any] = []
            for arguments in dump.rounds():
                if arguments:
                    self.submit(*arguments)
                while not dump.over:
                    dump.take_into(messages, self.receive(seq))
            if not dump.interrupted or self.dump_intr != "retry":
                break
        dump.finish()
        return messages

    # The same for coroutines of pyroute2's, which have nothing to wait for here.

    async def submit_async(self, data: Any, seq: int, dump: bool = False, kernel_filter: bool = False) -> int:
        return self.submit(data, seq, dump, kernel_filter)

    async def messages_async(self, answer: Conversation | Dump) -> AsyncIterator[Any]:
        for msg in self.messages(answer):
            yield msg

    async def get(
        self,
        msg_seq: int = 0,
        terminate: Any = None,
        callback: Any = None,
        noraise: bool = False,
        exception_factory: Any = None,
    ) -> AsyncIterator[Any]:
        conversation = Conversation(self, max(msg_seq, 0), terminate, callback, noraise, exception_factory)
        async for msg in self.messages_async(conversation):
            yield msg

    def failure(self, msg: Any, exception_factory: Any = None) -> Exception:
        """The exception for a message that carries an error, with everything the kernel told."""
        header = msg["header"]
        error: Exception = header["error"]
        if isinstance(error, NetlinkError):
            error.netns = self.options["netns"]
        elif isinstance(error, PyrouteNetlinkError):
            error = NetlinkError(
                error.code, str(error.args[-1]), request=header.get("errmsg"), netns=self.options["netns"]
            )
        factory = exception_factory or self.exception_factory
        if factory is not None:
            error = factory(error, msg)
        return error

    def interrupted(self) -> None:
        if self.dump_intr != "flag":
            raise NetlinkDumpInterrupted(netns=self.options["netns"])

    def call_back(self, msg: Any) -> None:
        for predicate, callback, args in self.callbacks:
            try:
                if predicate(msg):
                    callback(msg, *args)
            except Exception:
                pyroute2_linux.log.warning("callback failed: %r", callback, exc_info=True)

    # ---- events -------------------------------------------------------------------------------------------

    def subscribe(self) -> Any:
        """The transport of events, opened at first need and apart from the one of requests."""
        self.check_owner()
        with self.lock:
            if self.events is None:
                self.events = self.socket if self.use_socket is not None else self.open_events()
                if self.closed:  # meanwhile, by who could not see the new one
                    self.hang_up()
                    raise OSError(errno.EBADF, "the handle is closed", self.options["netns"])
                for level, name, value in self._sockopts:
                    self.events.setsockopt(level, name, value)
                if self._poller is not None and self.events is not self.transport:
                    self._poller.add(self.events.fileno())
            return self.events

    def _sync_bind(self, groups: int | None = None, pid: int | None = None, **_: Any) -> None:
        mask = self.options["groups"] if groups is None else groups
        with self.lock:
            events = self.subscribe()
            portid = events.getsockname()[0] if self.use_socket is None else pid or 0
            events.bind(portid, mask & 0xFFFFFFFF)
            self.status["groups"] = mask

    async def bind(self, groups: int | None = None, pid: int | None = None, **kwarg: Any) -> None:
        self._sync_bind(groups, pid, **kwarg)

    def add_membership(self, group: int) -> None:
        self.subscribe().add_membership(group)

    def drop_membership(self, group: int) -> None:
        self.subscribe().drop_membership(group)

    def setsockopt(self, level: int, optname: int, value: Any) -> None:
        self.socket.setsockopt(level, optname, value)
        self._sockopts.append((level, optname, value))
        if self.events is not None and self.events is not self.transport:
            self.events.setsockopt(level, optname, value)

    def next_event(self, timeout: float | None = None) -> bytes:
        """The next datagram that answers no request of this handle."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.check_owner()
        transport, events = self.socket, self.events
        sources = [transport] if events is None or events is transport else [transport, events]
        while True:
            with self.lock:
                if self.closed:
                    raise OSError(errno.EBADF, "the handle is closed", self.options["netns"])
                if self.strays:
                    return self.strays.popleft()
                try:
                    if events is not None and events is not transport:
                        return bytes(events.recv(0))
                except TimeoutError:
                    pass
                try:
                    while not self.strays:
                        self.pump_ready()
                except TimeoutError:
                    pass
                if self.strays:
                    continue
            if not self._waker.wait(sources, None if deadline is None else max(deadline - time.monotonic(), 0)):
                raise TimeoutError(f"no event within {timeout} s")

    def pump_ready(self) -> None:
        """`pump`, but only what has arrived already."""
        timeout, self.timeout = self.timeout, 0
        try:
            self.pump()
        finally:
            self.timeout = timeout

    def fileno(self) -> int:
        """A descriptor that is readable when an answer or an event waits: for select, poll and epoll."""
        with self.lock:
            transport = self.socket
            if self._poller is None:
                self._poller = _core.Epoll(transport.fileno())
                if self.events is not None and self.events is not self.transport:
                    self._poller.add(self.events.fileno())
                if self.closed:
                    self._poller.close()
            return self._poller.fileno()

    def send(self, data: Any, flags: int = 0) -> int:
        return self.submit(data, 0)

    def sendto(self, data: Any, addr: Any = None) -> int:
        return self.submit(data, 0)

    def recv(self, buffersize: int = 16384, flags: int = 0) -> bytes:
        return self.next_event(self.timeout)

    # ---- life ---------------------------------------------------------------------------------------------

    def run_inside(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call in the namespace of the handle, whatever the reference it was opened with means by now."""
        if self.use_socket is not None or (self.options["netns"] is None and self.options["pid"] is None):
            return func(*args)
        with self.socket.netns_fd() as nsfd:
            return netns.run_in(nsfd, func, *args)

    async def poll(
        self,
        method: Callable[..., Awaitable[Any]],
        command: str,
        present: bool = True,
        timeout: float = 10,
        interval: float = 0.2,
        **spec: Any,
    ) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = await self.gather(await method(command, **spec))
                if bool(found) == present:
                    return found
            except NetlinkDumpInterrupted:
                pass
            if time.monotonic() + interval > deadline:
                raise TimeoutError(f"no change to the wanted state within {timeout} s")
            await self.pause(interval)

    async def gather(self, result: Any) -> Any:
        """All of what a request method returned."""
        return list(iterate(result))

    async def pause(self, seconds: float) -> None:
        await Pause(seconds)

    def close(self, code: int = errno.ECONNRESET) -> None:
        # Without the lock: this thread may hold it, in the middle of anything, if a signal handler or a finalizer closes.
        # Who opens something looks at `closed` once it can be seen here.
        self.closed = True
        self.hang_up()
        self._waker.wake()
        if self._status is not None:
            self._status["closed"] = True
        if self._poller is not None:
            self._poller.close()

    def hang_up(self) -> None:
        for transport in self.transports():
            transport.close()

    def transports(self) -> list[Any]:
        return [transport for transport in (self.events, self.transport) if transport is not None]

    def __del__(self) -> None:
        if self.transport is not None and not self.closed and self.owner == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<{self.face} {self.options['netns']!r}>"
