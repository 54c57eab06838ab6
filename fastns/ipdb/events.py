"""How IPDB's views follow the system: the event streams, the thread that reads them, the watchdogs."""

from __future__ import annotations

import queue
import struct
import threading
import weakref
from socket import AF_UNSPEC, MSG_DONTWAIT
from typing import Any, Protocol

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_NEWLINK

from fastns import _core
from fastns.errors import NLMSGHDR
from fastns.ipdb.records import log
from fastns.schema import event_name

SYNC_TIMEOUT = 5.0  # seconds: the longest a commit waits for one event it knows must come

IFINFOMSG = struct.Struct("=BxHiII")
LOOPBACK = 1  # the index of lo in every namespace


class Follower(Protocol):
    """The part of a database that takes over what the reader's thread brings, and passes it on."""

    nl: Any
    nl_bind_groups: int
    _stop: bool
    _post_callbacks: dict[Any, Any]
    _queues: set[EventQueue]
    _watchdogs: set[Watchdog]

    def _serve(self, messages: list[Any], failure: Exception | None) -> bool: ...


class EventStream:
    """Events of the namespace a handle is in, on a transport of their own. Read by one thread only."""

    def __init__(self) -> None:
        self.waker = _core.Waker()
        self.stopped = False

    def wait(self, source: Any) -> bool:
        """Wait for data; False when the stream has been stopped."""
        self.waker.wait((source,))
        return not self.stopped

    def stop(self) -> None:
        """Without a lock: a signal handler may do it, whatever it interrupts."""
        self.stopped = True
        self.waker.wake()

    def read(self) -> list[Any] | None:
        """The next messages, None when stopped."""
        raise NotImplementedError

    def barrier(self, timeout: float) -> bool:
        """Wait until everything that was sent before this call has been read; False when that cannot be told."""
        return False

    def mark(self) -> None:
        """All that `read()` has returned so far is in the views."""

    def close(self) -> None:
        self.waker.wake()


class PyrouteSocket:
    """The socket of a pyroute2 handle, read past the handle: its `get()` keeps messages where no poll sees them."""

    def __init__(self, handle: Any, groups: int) -> None:
        handle.bind(groups)
        self.handle = handle
        self.sock = handle.asyncore.socket

    def fileno(self) -> int:
        return int(self.sock.fileno())

    def getsockname(self) -> tuple[int, int]:
        return self.sock.getsockname()  # type: ignore[no-any-return]

    def send(self, data: bytes) -> int:
        return int(self.sock.sendto(data, (0, 0)))

    def recv(self, timeout: float) -> bytes:
        try:
            return bytes(self.sock.recv(1 << 18, MSG_DONTWAIT))
        except BlockingIOError:
            raise TimeoutError from None

    def close(self) -> None:
        self.handle.close()


class TransportStream(EventStream):
    """A socket whose answers and events are in one order, which makes an exact barrier."""

    def __init__(self, transport: Any, marshal: Any) -> None:
        self.transport = transport
        self.portid = transport.getsockname()[0]
        self.marshal = marshal
        self.lock = threading.Lock()
        self.last = 0x1000000
        self.waiting: dict[int, threading.Event] = {}
        self.passed: list[threading.Event] = []
        super().__init__()

    def read(self) -> list[Any] | None:
        while self.wait(self.transport):
            messages: list[Any] = []
            try:
                while len(messages) < 1000:
                    data = bytes(self.transport.recv(0))
                    _, kind, _, seq, portid = NLMSGHDR.unpack_from(data)
                    if portid == self.portid and seq in self.waiting and kind in (RTM_NEWLINK, NLMSG_ERROR):
                        self.passed.append(self.waiting[seq])
                        break
                    messages.extend(self.parse(data))
            except TimeoutError:
                pass
            except OSError as error:
                error.messages = messages  # type: ignore[attr-defined]
                raise
            if messages or self.passed:
                return messages
        return None

    def parse(self, data: bytes) -> list[Any]:
        return list(self.marshal.parse(data))

    def mark(self) -> None:
        for event in self.passed:
            event.set()
        self.passed.clear()

    def barrier(self, timeout: float) -> bool:
        event = threading.Event()
        with self.lock:
            if self.stopped:
                return False
            self.last += 1
            seq = self.last
            self.waiting[seq] = event
            size = NLMSGHDR.size + IFINFOMSG.size
            head = NLMSGHDR.pack(size, RTM_GETLINK, NLM_F_REQUEST, seq, 0)
            try:
                self.transport.send(head + IFINFOMSG.pack(AF_UNSPEC, 0, LOOPBACK, 0, 0))
            except OSError:
                if self.stopped:  # meanwhile, and the reader has closed it
                    return False
                raise
        try:
            return event.wait(timeout) and not self.stopped
        finally:
            del self.waiting[seq]

    def close(self) -> None:
        self.stopped = True
        self.transport.close()
        super().close()
        for event in tuple(self.waiting.values()):
            event.set()


def named(messages: list[Any]) -> list[Any]:
    """Messages of a handle that is not ours: pyroute2 gives no event to types it does not know."""
    for msg in messages:
        msg.setdefault("event", event_name(msg["header"]["type"]))
    return messages


class PyrouteStream(TransportStream):
    """The events of a pyroute2 handle."""

    def parse(self, data: bytes) -> list[Any]:
        return named(super().parse(data))


class HandleStream(EventStream):
    """Any other IPRoute-like object: events come on a second handle of the same kind."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        super().__init__()

    def read(self) -> list[Any] | None:
        if not self.wait(self.handle):
            return None
        return named(list(self.handle.get()))

    def close(self) -> None:
        self.handle.close()
        super().close()


def second_handle(nl: Any) -> Any:
    """A second handle in the namespace of `nl`."""
    try:
        return nl.clone()
    except (AttributeError, RuntimeError):  # pyroute2 0.9 has the method and refuses it
        pass
    netns = nl.status.get("netns")
    if netns is None:
        return type(nl)()
    return type(nl)(netns=netns, flags=0)


def open_event_stream(nl: Any, groups: int) -> EventStream:
    if hasattr(getattr(nl, "asyncore", None), "open_events"):
        transport = nl.asyncore.open_events()
        try:
            transport.bind(transport.getsockname()[0], groups & 0xFFFFFFFF)
            return TransportStream(transport, nl.marshal)
        except BaseException:
            transport.close()
            raise
    handle = second_handle(nl)
    try:
        if hasattr(handle, "asyncore"):
            return PyrouteStream(PyrouteSocket(handle, groups), handle.marshal)
        handle.bind(groups)
        return HandleStream(handle)
    except BaseException:
        handle.close()
        raise


class EventReader:
    """The thread that reads events. It holds its database by a weak reference, so that one can be collected."""

    def __init__(self, ipdb: Follower) -> None:
        self.ipdb = weakref.ref(ipdb, self.forgotten)
        self.nl = ipdb.nl
        self.groups = ipdb.nl_bind_groups
        self.stream: Any = None
        self.stopped = False
        self.error: BaseException | None = None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, name="IPDB main event loop", daemon=True)
        self.thread.start()
        self.ready.wait()
        if self.error is not None:
            self.thread.join()
            raise self.error

    def run(self) -> None:
        # opened here, because sockets of some handles belong to the thread that makes them
        try:
            self.stream = open_event_stream(self.nl, self.groups)
        except BaseException as error:
            self.error = error
            self.ready.set()
            return
        self.ready.set()
        del self.nl
        stream = self.stream
        try:
            while not self.stopped:
                failure: Exception | None = None
                try:
                    messages = stream.read()
                except Exception as error:
                    messages, failure = getattr(error, "messages", []), error
                if messages is None:
                    return
                ipdb = self.ipdb()
                if ipdb is None or ipdb._stop:
                    return
                if not ipdb._serve(messages, failure):
                    return
                stream.mark()
                del ipdb
        finally:
            stream.mark()
            stream.close()

    def stop(self, wait: bool) -> None:
        self.stopped = True
        if self.stream is not None:
            self.stream.stop()
        if wait and self.thread.is_alive() and threading.current_thread() is not self.thread:
            self.thread.join(SYNC_TIMEOUT)

    def forgotten(self, _: Any) -> None:
        """The database is gone, and nothing may have ended this: a signal handler has raised where that was to be done."""
        self.stop(False)

    def is_current(self) -> bool:
        return threading.current_thread() is self.thread


def run_callbacks(ref: Any, source: Any) -> None:
    """The thread of the "post" callbacks: they may take their time, and may commit."""
    while True:
        msg = source.get()
        if msg is None:
            return
        ipdb = ref()
        if ipdb is None:
            return
        for callback in tuple(ipdb._post_callbacks.values()):
            try:
                callback(ipdb, msg, msg["event"])
            except Exception:
                log.exception("a callback failed")
        del ipdb, msg


class Watchdog:
    """Waits for one event. Made by `IPDB.watchdog()`."""

    def __init__(self, ipdb: Follower, action: str, spec: dict[str, Any]) -> None:
        self._event = threading.Event()
        self._ipdb = ipdb
        self._action = action
        self._spec = spec
        ipdb._watchdogs.add(self)

    @property
    def is_set(self) -> bool:
        """Whether the event has come."""
        return self._event.is_set()

    def _look(self, msg: Any) -> None:
        if msg["event"] != self._action:
            return
        for key, value in self._spec.items():
            # the attribute, and the field of the header under it
            if msg.get(key) != value and not (key in msg and msg[key] == value):
                return
        self._event.set()

    def wait(self, timeout: float | None = SYNC_TIMEOUT) -> bool:
        """Wait for the event, `timeout` seconds at most; whether it has come. Ends the watchdog."""
        try:
            return self._event.wait(timeout)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop watching."""
        self._ipdb._watchdogs.discard(self)


class EventQueue:
    """Events from the moment of `with` on; iterating waits for the next."""

    def __init__(self, ipdb: Follower, qsize: int, block: bool, timeout: float | None) -> None:
        self._ipdb = ipdb
        self._size = qsize
        self._block = block
        self._timeout = timeout
        self._queue: queue.SimpleQueue[Any] | None = None  # whose put() a signal handler may call
        self.dropped = 0

    def __enter__(self) -> EventQueue:
        self._queue = queue.SimpleQueue()
        self._ipdb._queues.add(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._ipdb._queues.discard(self)
        self._queue = None

    def _put(self, item: Any) -> None:
        source = self._queue
        if source is None:
            return
        if 0 < self._size <= source.qsize():
            self.dropped += 1
            return
        source.put(item)
        if self.dropped:
            log.warning("dropped %d events", self.dropped)
            self.dropped = 0

    def __iter__(self) -> EventQueue:
        if self._queue is None:
            raise RuntimeError("eventqueue must be used as a context manager")
        return self

    def __next__(self) -> Any:
        if self._queue is None:
            raise RuntimeError("eventqueue must be used as a context manager")
        item = self._queue.get(self._block, self._timeout)
        if isinstance(item, Exception):
            raise item
        return item
