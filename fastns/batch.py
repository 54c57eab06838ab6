"""Bulk writes: many requests in one datagram, each of them accounted for.

Facts behind it (netlink(7), af_netlink.c): the kernel works through a datagram before `send` returns, goes on after
a request that failed, answers every failure even where no acknowledgement was asked for, and copies the request into
that answer unless NETLINK_CAP_ACK is set. So one acknowledgement behind the last request of a datagram says that
each of the others either failed, with an answer already there, or was done. The only thing to take care of is that
the answers of a whole datagram fit into the receive buffer should every request fail.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections import deque
from socket import SO_RCVBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Any, NamedTuple

from fastns import _codec, netns
from fastns.engine.blocking import Engine, LocalRequests, Sequence
from fastns.engine.request import Request, drive, request_methods
from fastns.errors import BatchError, BatchItemError, BatchItemErrors, NetlinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

__all__ = ["Batch", "BatchReport"]

ERRORS = ("raise", "collect", "stop")
METHODS = frozenset("link addr route rule neigh fdb tc vlan_filter brport".split())
RCVBUF = 4 << 20
SNDBUF = 1 << 20
LOADED_ERRORS = 10_000


class BatchReport(NamedTuple):
    """What became of the items of `Batch.load`: numbers of items."""

    applied: int
    failed: int
    unknown: int


class _Taken(BaseException):
    """Ends a request coroutine at the place where it would send."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


class _CapturedRequest(Request):
    sock: _Capture

    async def send(self) -> int:
        await self.prepare()
        try:
            if self.sock.request_proxy.applies(self.msg):
                # No netlink request (tun/tap): done at once, behind what was added before it.
                self.sock.flush()
                await self.proxy()
                return len(self.msg.data)
        except BaseException:
            self.cleanup()
            raise
        self.cleanup()
        raise _Taken(self)


class _Capture(Engine):
    """Stands in for a handle's engine: pyroute2's request methods build their message, and nothing is sent."""

    def __init__(self, engine: Any, flush: Callable[[], None], echo: bool) -> None:
        self.options = {**engine.options, "nlm_echo": echo}
        self.flush = flush
        self.closed = False
        self._status = None
        self.owner = engine.owner
        self.lock = engine.lock
        self.addr_pool = Sequence()
        self.marshal = engine.marshal
        self.pending = {}
        self.strays = deque()
        self.callbacks = []
        self.request_proxy = LocalRequests(engine)


for _name, _func in request_methods(_CapturedRequest).items():
    setattr(_Capture, _name, _func)


class Batch(_codec.BatchBuffer):
    """Requests that are sent many at a time. Made by `NetNS.batch` and `IPRoute.batch`; see there.

    As a context manager it sends what is left at the end of the block. Leaving the block by an exception sends
    nothing more; the exception gets a note that says what was sent and what was not.

    `results` has one entry for each item in order: a tuple of messages (empty unless the batch was made with `echo`
    or the item is a `get`), or the BatchItemError of a failed one. `errors` are those errors alone. `sent` counts
    the items the kernel was given, `count` all of them, `unknown` are the indexes of items whose answer was lost.

    One thread at a time. Fork: a child process must not use its parent's batch (OSError EBADF).
    """

    def __init__(
        self,
        engine: Any,
        *,
        errors: str,
        chunk: int | None,
        echo: bool | None,
    ) -> None:
        if errors not in ERRORS:
            raise ValueError(f"errors {errors!r} is none of {', '.join(ERRORS)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk {chunk} is less than 1")
        self.engine = engine
        self.policy = errors
        self.unknown: list[int] = []
        self._transport, self._owned = open_transport(engine)
        try:
            # The kernel reports the size it uses, twice the one that was asked for. A user's object need not know.
            room = self._transport.getsockopt(SOL_SOCKET, SO_RCVBUF) if self._owned else 1 << 16
            super().__init__(
                int.from_bytes(os.urandom(4), "little"),
                1 << 30 if chunk is None else chunk,
                room,
                bool(engine.options["nlm_echo"] if echo is None else echo),
                bool(engine.options["strict_check"]),
            )
        except BaseException:
            self._release()
            raise
        self._capture: _Capture | None = None
        self._kept: list[Any] = []
        self._fds: dict[Any, Any] = {}
        self._entered = False
        self._loading = self._loaded = False
        self._each: Callable[[int, Any], Any] | None = None
        self._forgotten = 0
        self._dropped: int | None = None

    # ---- adding -------------------------------------------------------------------------------------------

    def tc(self, command: Any, kind: Any = None, index: Any = None, handle: Any = None, **kwarg: Any) -> None:
        """A traffic control request, arguments as `NetNS.tc`."""
        self._slow("tc", command, {"kind": kind, "index": index, "handle": handle, **kwarg})

    def vlan_filter(self, command: Any, **kwarg: Any) -> None:
        """A VLAN of a bridge port, arguments as `NetNS.vlan_filter`."""
        self._slow("vlan_filter", command, kwarg)

    def brport(self, command: Any, **kwarg: Any) -> None:
        """A setting of a bridge port, arguments as `NetNS.brport`."""
        self._slow("brport", command, kwarg)

    def message(self, message: Any) -> None:
        """Raw requests: bytes of one or more whole netlink messages, or a message object of pyroute2.

        Sequence numbers and NLM_F_ACK are the batch's business and are overwritten. ValueError for what the kernel
        would skip without a word.
        """
        if isinstance(message, (bytes, bytearray, memoryview)):
            self._put(message)
            return
        message.reset()
        _codec.encode(message)
        self._kept.append(message)
        self._put(bytes(message.data))

    def _slow(self, kind: str, command: Any, kwarg: dict[str, Any]) -> None:
        """A request that needs pyroute2's own code."""
        if self.closed:
            raise ValueError("the batch is finished")
        if kind == "link" and self._open_namespaces(kwarg) and self._add(kind, command, kwarg):
            return
        if self._capture is None:
            self._capture = _Capture(self.engine, self.flush, self.echo)
        try:
            drive(getattr(self._capture, kind)(command, **kwarg))
        except _Taken as taken:
            self._put(taken.request.msg.data)
            self._kept.append(taken.request.msg)  # it owns the descriptors it opened
        except NetlinkError as error:
            self.flush()
            self._failures.append((self._count_one(), error.code, b"", b""))
        else:
            # Done without a message to the kernel: an item all the same.
            self.flush()
            self._count_one()

    def _open_namespaces(self, kwarg: dict[str, Any]) -> bool:
        """Turn namespace references into descriptors, each opened once a chunk."""
        changed = False
        peer = kwarg.get("peer")
        for arguments in (kwarg, peer):
            if not isinstance(arguments, dict):
                continue
            reference = arguments.get("net_ns_fd")
            if isinstance(reference, (str, bytes)):
                if reference not in self._fds:
                    self._fds[reference] = netns.open_ref(reference)
                if arguments is peer:
                    kwarg["peer"] = {**peer, "net_ns_fd": self._fds[reference].fileno()}
                else:
                    kwarg["net_ns_fd"] = self._fds[reference].fileno()
                changed = True
        return changed

    # ---- sending ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what waits, and take in what the kernel answers. Done by itself when no more fits."""
        if self.closed:
            raise ValueError("the batch is finished")
        if not self.pending:
            return
        failed_before = len(self._failures)
        data = self._seal()
        fds: Any = ()
        if self._touches_links() and self.engine.relayed:
            fds = self.engine.descriptors(data)
        first, pending = self.sent, self.pending
        try:
            self._transport.send(data, fds)
        except ConnectionError:
            self._give_up(first, pending)
            raise
        try:
            self._collect(first, pending)
        except BaseException:
            self._give_up(first, pending)
            raise
        self._reset()
        self._let_go()
        if self._loading:
            self._unload(first, failed_before)
        if self.policy == "stop" and len(self._failures) > failed_before:
            raise self._error()

    def _collect(self, first: int, pending: int) -> None:
        transport, timeout = self._transport, self.engine.timeout
        answered: set[int] | None = None
        patience = 0.0
        done = False
        while not done:
            try:
                answer = transport.recv(timeout if answered is None else patience)
            except OSError as error:
                if answered is None and error.errno == errno.ENOBUFS:
                    answered = {failure[0] for failure in self._failures if failure[0] >= first}
                    answered.update(index for index in self._replies if index >= first)
                elif answered is not None and isinstance(error, TimeoutError):
                    # Answers were dropped, perhaps the last one with them. The kernel drops until the buffer is
                    # empty, without telling again; so then ask for one more answer, which comes behind them all.
                    transport.send(self._sync())
                    patience = min(2 * patience + 0.02, 1.0)
                elif error.errno != errno.ENOBUFS:
                    raise
                continue
            done = self._account(answer, answered)
        if answered is not None:
            self.unknown.extend(n for n in range(first, first + pending) if n not in answered)

    def _give_up(self, first: int, pending: int) -> None:
        """The transport failed or the wait was interrupted: of these items nothing more will be heard."""
        known = {failure[0] for failure in self._failures}
        self.unknown.extend(n for n in range(first, first + pending) if n not in known)
        self._reset()
        self._finish()

    def _unload(self, first: int, failed_before: int) -> None:
        """Hand on what came of a loaded datagram, and keep little of it."""
        failures = self._failures
        if self._each is not None:
            for failure in failures[failed_before:]:
                self._each(failure[0], self._item_error(failure))
            for index in sorted(index for index in self._replies if index >= first):
                self._each(index, self._messages(self._replies[index]))
        for index in [index for index in self._replies if index >= first]:
            del self._replies[index]
        excess = len(failures) - max(LOADED_ERRORS, failed_before)
        if excess > 0:
            del failures[-excess:]
            self._forgotten += excess

    def _let_go(self) -> None:
        self._kept.clear()
        self._fds.clear()

    def _release(self) -> None:
        if self._owned:
            self._transport.close()

    def _finish(self) -> None:
        if not self.closed:
            self._dropped = self.count
            self._drop()
            self.closed = True
            self._let_go()
            self._release()

    # ---- what came of it ----------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Items added so far."""
        return self.sent + self.pending if self._dropped is None else self._dropped

    @property
    def not_sent(self) -> range:
        """The indexes of the items the kernel never saw."""
        return range(self.sent, self.count)

    @property
    def failed(self) -> int:
        """Items the kernel refused."""
        return len(self._failures) + self._forgotten

    @property
    def errors(self) -> BatchItemErrors:
        """The items that failed, and those of whom it is not known (ENOBUFS), in order."""
        failures = self._failures
        if self.unknown:
            failures = sorted([*failures, *((index, errno.ENOBUFS, b"", b"") for index in self.unknown)])
        return BatchItemErrors(failures, self.engine.options["netns"])

    @property
    def results(self) -> list[Any]:
        """One entry for each item sent: a tuple of messages, or the BatchItemError."""
        if self._loaded:
            raise ValueError("what comes of loaded items is given to `each`, and not kept")
        results: list[Any] = [()] * self.sent
        for index, replies in self._replies.items():
            results[index] = self._messages(replies)
        for error in self.errors:
            results[error.index] = error
        return results

    def _item_error(self, failure: tuple[int, int, bytes, bytes]) -> BatchItemError:
        return BatchItemError(*failure, netns=self.engine.options["netns"])

    def _messages(self, replies: list[bytes]) -> tuple[Any, ...]:
        return tuple(msg for data in replies for msg in self.engine.marshal.parse(data))

    def _error(self) -> BatchError:
        return BatchError(
            self.errors,
            count=self.count,
            sent=self.sent,
            failed=self.failed,
            unknown=len(self.unknown),
            netns=self.engine.options["netns"],
        )

    def describe(self) -> str:
        """One sentence: how many items were sent, failed, and were not sent."""
        text = f"{self.sent} of {self.count} items sent, {self.failed} of them failed"
        if self.unknown:
            text += f", of {len(self.unknown)} the outcome is not known"
        return text + f", {len(self.not_sent)} not sent"

    # ---- use ----------------------------------------------------------------------------------------------

    def load(
        self,
        iterable: Iterable[Any],
        progress: Callable[[int, int], Any] | None = None,
        each: Callable[[int, Any], Any] | None = None,
        refused: Callable[[Any, Exception], Any] | None = None,
    ) -> BatchReport:
        """Add everything an iterable gives, in memory that does not grow with it, and send it to the end.

        Items are `(method, command, arguments)` such as `("route", "add", {"dst": "10.0.0.0/8", "oif": 2})`, or raw
        messages as in `message`. `progress(done, failed)` is called after each datagram; `each(index, result)` for
        every item that failed or was answered with messages; `refused(item, error)` for one that cannot be made into
        a request (a bad address, a missing namespace) and is left out, without a number, where otherwise that error
        would end the load. `results` has nothing of these items, and only the first 10,000 errors are kept.
        Without a `with` block this finishes the batch and raises its BatchError.
        """
        if self.closed:
            raise ValueError("the batch is finished")
        self.flush()
        start, failed, unknown = self.sent, self.failed, len(self.unknown)
        self._loading = self._loaded = True
        self._each = each
        try:
            seen = self.sent
            for item in iterable:
                try:
                    self._load_one(item)
                except BatchError:
                    raise
                except Exception as error:
                    if refused is None or self.closed:  # closed: the transport failed, not the item
                        raise
                    refused(item, error)
                if progress is not None and self.sent != seen:
                    seen = self.sent
                    progress(seen - start, self.failed - failed)
            self.flush()
            if progress is not None and self.sent != seen:
                progress(self.sent - start, self.failed - failed)
        except BaseException as error:
            if not self._entered:
                self._abandon(error)
            raise
        finally:
            self._loading = False
            self._each = None
        if not self._entered:
            self.close()
        lost = len(self.unknown) - unknown
        errors = self.failed - failed
        return BatchReport(self.sent - start - errors - lost, errors, lost)

    def _load_one(self, item: Any) -> None:
        if not isinstance(item, tuple):
            self.message(item)
            return
        kind, command, arguments = item
        if kind not in METHODS:
            raise ValueError(f"{kind!r} is none of {', '.join(sorted(METHODS))}")
        if not self._add(kind, command, arguments):
            self._slow(kind, command, dict(arguments))

    def __enter__(self) -> Batch:
        if self.closed:
            raise ValueError("the batch is finished")
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self.close()
        else:
            self._abandon(value)

    def _abandon(self, error: BaseException) -> None:
        self._finish()
        note = f"fastns batch: {self.describe()}"
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:
            error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]

    def close(self) -> None:
        """Send what waits and finish. Raises BatchError if items failed, unless `errors="collect"`."""
        if self.closed:
            return
        try:
            self.flush()
        finally:
            self._finish()
        if self.policy != "collect" and (self.failed or self.unknown):
            raise self._error()

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(f"unfinished batch: {self.describe()}", ResourceWarning, source=self, stacklevel=2)
            self._finish()


def open_transport(engine: Any) -> tuple[Any, bool]:
    """A socket for a batch, in the handle's namespace and by the handle's transport; False: the handle's own."""
    if engine.use_socket is not None:
        return engine.socket, False
    settings = {
        "rcvbuf": max(engine.options["rcvbuf"] or 0, RCVBUF),
        "sndbuf": max(engine.options["sndbuf"] or 0, SNDBUF),
        "ext_ack": True,
        "cap_ack": True,
        "strict_check": engine.options["strict_check"],
    }
    return engine.open_beside(**settings), True
