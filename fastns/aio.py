"""The asynchronous API: pyroute2's AsyncIPRoute on the running loop, and processes inside a namespace.

Works on any event loop that has add_reader (asyncio's own, uvloop). No thread per handle: descriptors are watched by
the loop, and a send, in which the kernel does the request's whole work, runs in the loop's default executor.
Cancelling whoever waits for a send does not stop it: the next one waits until it is over.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  or the loop would, when it first hands a call to a thread
import errno
import signal
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from fastns import _core
from fastns import netns as netns_module
from fastns.batch import Batch, BatchReport
from fastns.engine.aio import AsyncEngine, OneAtATime
from fastns.engine.transport import open_engine
from fastns.handle import Handle, InNamespace
from fastns.monitor import Monitor
from fastns.nspopen import NSPopen
from fastns.table import dump

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from fastns.errors import BatchItemErrors
    from fastns.table import Table

__all__ = [
    "AsyncBatch",
    "AsyncIPRoute",
    "AsyncMonitor",
    "AsyncNetNS",
    "Process",
    "create_subprocess_exec",
    "create_subprocess_shell",
]

T = TypeVar("T")
STREAM_LIMIT = 1 << 16
LOAD_SLICE = 512


class AsyncMonitor(Monitor):
    """`fastns.monitor.Monitor` of an asynchronous handle: `async with ipr.monitor() as m: async for item in m: ...`."""

    def _dump_into(self, part: list[Any]) -> None:
        with self._engine.beside() as self._reader:
            super()._dump_into(part)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()


class AsyncBatch:
    """`fastns.batch.Batch` of an asynchronous handle: its methods are coroutines, and sending is done off the loop.

    `async with ipr.batch() as b: await b.route("add", dst="10.0.0.0/8", oif=2)`. Leaving the block sends what is left
    and raises BatchError as the blocking one does; leaving it by an exception, a cancellation included, sends nothing
    more. `results`, `errors`, `sent`, `count`, `unknown`, `not_sent`, `failed` are the blocking one's, complete once
    the block is left. Any number of tasks may add to one batch; an item larger than 4 KiB can be sent on the loop.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._turn = OneAtATime()

    async def _add(self, method: str, *args: Any, **kwarg: Any) -> None:
        add = getattr(self._batch, method)
        if self._turn.busy or self._batch._nearly_full():
            await self._turn.acquire()
            if self._batch._nearly_full():
                await self._turn.run(self._batch.flush)
                await self._turn.acquire()
            try:
                add(*args, **kwarg)
            finally:
                self._turn.release()
        else:
            add(*args, **kwarg)

    async def link(self, command: Any, **kwarg: Any) -> None:
        await self._add("link", command, **kwarg)

    async def addr(self, command: Any, **kwarg: Any) -> None:
        await self._add("addr", command, **kwarg)

    async def route(self, command: Any, **kwarg: Any) -> None:
        await self._add("route", command, **kwarg)

    async def rule(self, command: Any, **kwarg: Any) -> None:
        await self._add("rule", command, **kwarg)

    async def neigh(self, command: Any, **kwarg: Any) -> None:
        await self._add("neigh", command, **kwarg)

    async def fdb(self, command: Any, **kwarg: Any) -> None:
        await self._add("fdb", command, **kwarg)

    async def tc(self, command: Any, kind: Any = None, index: Any = None, handle: Any = None, **kwarg: Any) -> None:
        await self._add("tc", command, kind, index, handle, **kwarg)

    async def vlan_filter(self, command: Any, **kwarg: Any) -> None:
        await self._add("vlan_filter", command, **kwarg)

    async def brport(self, command: Any, **kwarg: Any) -> None:
        await self._add("brport", command, **kwarg)

    async def message(self, message: Any) -> None:
        await self._add("message", message)

    async def flush(self) -> None:
        """Send what waits, and take in what the kernel answers."""
        await self._off_loop(self._batch.flush)

    async def load(
        self,
        iterable: Iterable[Any] | AsyncIterable[Any],
        progress: Callable[[int, int], Any] | None = None,
        each: Callable[[int, Any], Any] | None = None,
        refused: Callable[[Any, Exception], Any] | None = None,
    ) -> BatchReport:
        """`Batch.load`, of an ordinary or asynchronous iterable, a slice at a time.

        `progress`, `each` and `refused` are called in an executor thread. An ordinary iterable is iterated on the loop.
        """
        batch = self._batch
        finish = not batch._entered
        batch._entered = True  # or each slice would finish the batch
        total = BatchReport(0, 0, 0)

        def progressed(done: int, failed: int) -> None:
            assert progress is not None
            progress(sum(total) + done, total.failed + total.unknown + failed)

        try:
            async for part in slices(iterable):
                report = await self._off_loop(batch.load, part, progressed if progress else None, each, refused)
                total = BatchReport(*(old + new for old, new in zip(total, report)))
        except BaseException as error:
            if finish:
                await self._abandon(error)
            raise
        if finish:
            await self.close()
        return total

    async def close(self) -> None:
        """Send what waits and finish; raises BatchError as the blocking one."""
        await self._off_loop(self._batch.close)

    async def _off_loop(self, func: Callable[..., Any], *args: Any) -> Any:
        await self._turn.acquire()
        return await self._turn.run(func, *args)

    async def _abandon(self, error: BaseException) -> None:
        await self._turn.acquire()  # a datagram may still be under way
        try:
            self._batch._abandon(error)
        finally:
            self._turn.release()

    async def __aenter__(self) -> AsyncBatch:
        self._batch.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            await self.close()
        else:
            await self._abandon(value)

    @property
    def results(self) -> list[Any]:
        return self._batch.results

    @property
    def errors(self) -> BatchItemErrors:
        return self._batch.errors

    @property
    def unknown(self) -> list[int]:
        return self._batch.unknown

    @property
    def not_sent(self) -> range:
        return self._batch.not_sent

    @property
    def failed(self) -> int:
        return self._batch.failed

    @property
    def sent(self) -> int:
        return self._batch.sent

    @property
    def count(self) -> int:
        return self._batch.count

    @property
    def closed(self) -> bool:
        return self._batch.closed

    def describe(self) -> str:
        """One sentence: how many items were sent, failed, and were not sent."""
        return self._batch.describe()


async def slices(iterable: Any) -> AsyncIterator[list[Any]]:
    if hasattr(iterable, "__aiter__"):
        part: list[Any] = []
        async for item in iterable:
            part.append(item)
            if len(part) == LOAD_SLICE:
                yield part
                part = []
        if part:
            yield part
        return
    iterator = iter(iterable)
    while part := list(islice(iterator, LOAD_SLICE)):
        yield part


class AsyncIPRoute(Handle[AsyncBatch, AsyncMonitor], AsyncEngine):  # type: ignore[misc]
    """pyroute2's AsyncIPRoute, in the current namespace or in `netns`: the same arguments as `fastns.IPRoute`.

    `async with AsyncIPRoute() as ipr: links = [link async for link in await ipr.get_links()]`. To be used from one
    running loop at a time. Cancelling a request leaves the handle usable; its answer is dropped when it comes.
    """

    def _open(self, options: dict[str, Any]) -> None:
        self.face = type(self).__name__
        open_engine(partial(AsyncEngine.__init__, self), options)

    def _batch(self, **options: Any) -> AsyncBatch:
        return AsyncBatch(Batch(self, **options))

    def _monitor(self, **options: Any) -> AsyncMonitor:
        return AsyncMonitor(self, **options)

    async def table(self, kind: str, /, **filters: Any) -> Table:
        """A dump in columns, made off the loop over a socket of its own: arguments as `IPRoute.table`."""
        def read() -> Table:
            with self.beside() as engine:
                return dump(engine, kind, filters)

        return await asyncio.get_running_loop().run_in_executor(None, read)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()


class AsyncNetNS(InNamespace[AsyncBatch, AsyncMonitor], AsyncIPRoute):  # type: ignore[misc]
    """AsyncIPRoute inside the namespace `netns`, created if missing: arguments and flags as `fastns.NetNS`."""

    async def remove(self) -> None:
        """Close the handle and remove the namespace from the run directory."""
        self.close()
        await asyncio.get_running_loop().run_in_executor(None, netns_module.remove, self.options["netns"])


# ---- processes ------------------------------------------------------------------------------------------------


class PipeProtocol(asyncio.StreamReaderProtocol):
    """Closes the pipe at its end, as asyncio's transports do by themselves and uvloop's do not."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class Process:
    """A process inside a namespace, with the interface of asyncio.subprocess.Process."""

    def __init__(self, popen: NSPopen, loop: asyncio.AbstractEventLoop) -> None:
        self._popen = popen
        self._loop = loop
        self._exited: asyncio.Future[int] = loop.create_future()
        self._transports: deque[Any] = deque()
        self.pid: int = popen.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    @property
    def returncode(self) -> int | None:
        return self._popen.returncode

    async def _connect(self, limit: int) -> None:
        popen, loop = self._popen, self._loop
        try:
            for name in ("stdout", "stderr"):
                pipe = getattr(popen, name)
                if pipe is not None:
                    reader = asyncio.StreamReader(limit=limit)
                    protocol = PipeProtocol(reader)
                    transport, _ = await loop.connect_read_pipe(lambda p=protocol: p, pipe)  # type: ignore[misc]
                    self._transports.append(transport)
                    setattr(self, name, reader)
            if popen.stdin is not None:
                sink, writer = await loop.connect_write_pipe(
                    lambda: asyncio.streams.FlowControlMixin(loop=loop), popen.stdin
                )
                self._transports.append(sink)
                self.stdin = asyncio.StreamWriter(sink, writer, None, loop)
            self._pidfd = _core.process_opened(popen.pid)
            loop.add_reader(self._pidfd.fileno(), self._reap)
        except BaseException:  # no descriptor left, or the loop ends: nobody would hold the process
            self._close()
            discard(popen)
            raise

    def _reap(self) -> None:
        """Called again while it has not come to its end: the descriptor stays readable."""
        code = self._popen.wait()
        if not self._exited.done():
            self._exited.set_result(code)
        self._loop.remove_reader(self._pidfd.fileno())
        self._pidfd.close()

    async def wait(self) -> int:
        """The exit status, when the process has ended; negative for a signal."""
        return await asyncio.shield(self._exited)

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Send `input`, read both outputs to their end and wait."""

        async def feed() -> None:
            assert self.stdin is not None
            try:
                if input is not None and not self.stdin.is_closing():
                    self.stdin.write(input)
                await self.stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.stdin.close()

        async def read(reader: asyncio.StreamReader | None) -> bytes | None:
            return None if reader is None else await reader.read()

        _, out, err = await asyncio.gather(
            feed() if self.stdin is not None else asyncio.sleep(0), read(self.stdout), read(self.stderr)
        )
        await self.wait()
        self._close()
        return out, err

    def _abandon(self) -> None:
        self._close()
        self._popen.kill()
        self._reap()

    def _close(self) -> None:
        while self._transports:
            self._transports.pop().close()

    def send_signal(self, number: int) -> None:
        """ProcessLookupError when the process has ended and was waited for, as asyncio's."""
        if self.returncode is not None:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")
        self._popen.send_signal(number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def discard(popen: NSPopen) -> None:
    """Kill a process nobody asked for any more, and close its pipes."""
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout, popen.stderr):
        if pipe is not None:
            with suppress(OSError):  # uvloop has closed the one it was about to connect
                pipe.close()


async def create_subprocess_exec(
    nsname: Any,
    program: Any,
    *args: Any,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = STREAM_LIMIT,
    **kwds: Any,
) -> Process:
    """asyncio.create_subprocess_exec inside the namespace `nsname`; `kwds` are NSPopen's.

    Streams are of bytes. The process is started in the loop's executor, so a slow fork does not hold the loop; when
    the caller is cancelled meanwhile the process is killed. Errors as NSPopen's; ValueError for what asks for text, a
    shell or a buffer.
    """
    for name in ("text", "universal_newlines", "encoding", "errors", "shell", "bufsize"):
        if kwds.get(name):
            raise ValueError(f"{name}={kwds[name]!r}: a process of asyncio has neither text, nor a shell, nor a buffer")
        kwds.pop(name, None)
    loop = asyncio.get_running_loop()

    def start() -> NSPopen:
        return NSPopen(nsname, [program, *args], stdin=stdin, stdout=stdout, stderr=stderr, bufsize=0, **kwds)

    started = loop.run_in_executor(None, start)
    process = Process(await unless_interrupted(started, discard), loop)
    connected = asyncio.ensure_future(process._connect(limit))
    await unless_interrupted(connected, lambda _: process._abandon())
    return process


async def unless_interrupted(future: asyncio.Future[T], undo: Callable[[T], None]) -> T:
    """The result of the future; when the caller is cancelled first, or a signal handler raises, `undo` gets it, as soon
    as it is there."""

    def late(future: asyncio.Future[T]) -> None:
        if not future.cancelled() and future.exception() is None:
            undo(future.result())

    try:
        return await asyncio.shield(future)
    except BaseException:
        future.add_done_callback(late)
        raise


async def create_subprocess_shell(nsname: Any, cmd: str, **kwds: Any) -> Process:
    """asyncio.create_subprocess_shell inside the namespace `nsname`."""
    return await create_subprocess_exec(nsname, "/bin/sh", "-c", cmd, **kwds)
