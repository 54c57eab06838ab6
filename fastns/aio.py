"""The asynchronous API: pyroute2's AsyncIPRoute on the running loop, and processes inside a namespace.

Works on any event loop that has add_reader (asyncio's own, uvloop). No thread per handle: descriptors are watched by
the loop, and a send, in which the kernel does the request's whole work, runs in the loop's default executor.
"""

from __future__ import annotations

import asyncio
import errno
import os
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import pyroute2
from pyroute2.netlink.rtnl import RTMGRP_DEFAULTS

from fastns import netns as netns_module
from fastns._engine import Engine
from fastns._request import ENDED, INTERRUPTED, Request, Response, request_methods
from fastns._transport import open_engine
from fastns.nspopen import NSPopen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["AsyncIPRoute", "AsyncNetNS", "Process", "create_subprocess_exec", "create_subprocess_shell"]

STREAM_LIMIT = 1 << 16


class AsyncRequest(Request):
    async def send(self) -> int:
        await self.prepare()
        try:
            if await self.proxy():
                return len(self.msg.data)
            engine: AsyncEngine = self.sock
            return await engine.submit_async(self.rounds[0], self.msg_seq, self.dump, self.kernel_filter)
        except BaseException:
            self.cleanup()
            raise

    def response(self) -> AsyncResponse:
        return AsyncResponse(self)


class AsyncResponse(Response):
    """The answer to a request, for `async for`."""

    request: AsyncRequest

    def __aiter__(self) -> AsyncIterator[Any]:  # type: ignore[override]
        return self.messages()

    async def messages(self) -> AsyncIterator[Any]:
        request: AsyncRequest = self.request
        engine: AsyncEngine = request.sock
        if self.whole:
            source = self.stream_async()
        else:
            source = engine.conversation_async(
                request.msg_seq, request.terminate, request.callback, False, request.exception_factory
            )
        try:
            async for msg in source:
                if request.dump_filter is not None and not request.match_one_message(request.dump_filter, msg):
                    continue
                engine.call_back(msg)
                yield msg
        finally:
            request.cleanup()

    async def stream_async(self) -> AsyncIterator[Any]:
        engine: AsyncEngine = self.request.sock
        dump = self.dump()
        interrupted = False
        for number, data in enumerate(dump.rounds):
            if number:
                await engine.submit_async(data, dump.seq, True, dump.kernel_filter)
            seen = 0
            while not seen & ENDED:
                part, seen = dump.part(await engine.receive_async(dump.seq))
                interrupted = interrupted or bool(seen & INTERRUPTED)
                for msg in part:
                    yield msg
        if interrupted:
            engine.interrupted()


class AsyncEngine(Engine):
    """The engine on a running loop. A descriptor is watched only while somebody waits for it, so what nobody asks
    for stays in the kernel or in the ring and takes no memory here."""

    def __init__(self, *args: Any, **kwarg: Any) -> None:
        super().__init__(*args, **kwarg)
        self.waiters: set[asyncio.Future[None]] = set()
        self.sending: asyncio.Lock | None = None
        self.watched: dict[int, asyncio.AbstractEventLoop] = {}

    # ---- waiting ------------------------------------------------------------------------------------------

    async def readable(self, transport: Any) -> None:
        """Wait until the transport has something, or another waiter has received meanwhile."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        fd = transport.fileno()
        self.waiters.add(waiter)
        if fd not in self.watched:
            self.watched[fd] = loop
            loop.add_reader(fd, self.wake)
        try:
            if self.timeout is None:
                await waiter
            else:
                await asyncio.wait_for(waiter, self.timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer within {self.timeout} s") from None
        finally:
            self.waiters.discard(waiter)
            if not self.waiters:
                self.unwatch()

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def unwatch(self) -> None:
        for fd, loop in self.watched.items():
            if not loop.is_closed():
                loop.remove_reader(fd)
        self.watched.clear()

    async def receive_async(self, seq: int) -> Any:
        while True:
            queue = self.pending.get(seq)
            if queue:
                data = queue.popleft()
                if isinstance(data, OSError):
                    raise OSError(data.errno, data.strerror, self.options["netns"])
                return data
            await self.pump_async()

    async def pump_async(self) -> None:
        """Receive one datagram and deliver it; everybody waiting looks again."""
        self.own()
        try:
            self.pump_ready()
        except TimeoutError:
            await self.readable(self.socket)
        else:
            self.wake()

    async def submit_async(
        self, data: Any, seq: int, dump: bool = False, kernel_filter: bool = False
    ) -> int:
        self.own()
        if self.sending is None:
            self.sending = asyncio.Lock()
        async with self.sending:
            while dump and self.dumping is not None:
                await self.pump_async()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, self.submit, bytes(data), seq, dump, kernel_filter)

    async def conversation_async(
        self, seq: int, terminate: Any, callback: Any, noraise: bool, exception_factory: Any
    ) -> AsyncIterator[Any]:
        enough = False
        while not enough:
            data = await (self.next_event_async() if seq == 0 else self.receive_async(seq))
            messages, enough, error = self.part(data, seq, terminate, callback)
            for msg in messages:
                yield msg
            if error is not None:
                if noraise:
                    return
                raise self.failure(error, exception_factory)

    async def get(
        self,
        msg_seq: int = 0,
        terminate: Any = None,
        callback: Any = None,
        noraise: bool = False,
        exception_factory: Any = None,
    ) -> AsyncIterator[Any]:
        async for msg in self.conversation_async(
            max(msg_seq, 0), terminate, callback, noraise, exception_factory
        ):
            yield msg

    async def next_event_async(self) -> bytes:
        self.own()
        while True:
            transport, events = self.socket, self.events
            if self.strays:
                return self.strays.popleft()
            source = transport if events is None or events is transport else events
            try:
                if source is events:
                    return bytes(events.recv(0))
                self.pump_ready()
            except TimeoutError:
                await self.readable(source)

    # ---- pyroute2's asynchronous methods that this engine does differently ---------------------------------

    async def put(
        self,
        msg: Any,
        msg_type: int,
        msg_flags: int = 1,
        addr: tuple[int, int] = (0, 0),
        msg_seq: int | None = None,
        msg_pid: int | None = None,
    ) -> Any:
        request = AsyncRequest(
            self, msg, msg_type=msg_type, msg_flags=msg_flags, msg_seq=msg_seq, msg_pid=msg_pid
        )
        await request.send()
        return request

    async def nlm_request(
        self,
        msg: Any,
        msg_type: int,
        msg_flags: int = 0x301,
        terminate: Any = None,
        callback: Any = None,
        parser: Any = None,
        exception_factory: Any = None,
    ) -> AsyncResponse:
        request = AsyncRequest(
            self,
            msg,
            terminate=terminate,
            callback=callback,
            parser=parser,
            msg_type=msg_type,
            msg_flags=msg_flags,
            exception_factory=exception_factory,
        )
        await request.send()
        return request.response()

    async def nlm_request_batch(self, msgs: Any, noraise: bool = False) -> AsyncIterator[Any]:
        for msg in msgs:
            request = AsyncRequest(self, msg)
            await request.send()
            try:
                async for answer in request.response():
                    yield answer
            except pyroute2.NetlinkError:
                if not noraise:
                    raise

    async def poll(
        self,
        method: Callable[..., Awaitable[Any]],
        command: str,
        present: bool = True,
        timeout: float = 10,
        interval: float = 0.2,
        **spec: Any,
    ) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                found: Any = await method(command, **spec)
                if hasattr(found, "__aiter__"):
                    found = [msg async for msg in found]
                if bool(found) == present:
                    return found
            except pyroute2.NetlinkDumpInterrupted:
                pass
            if loop.time() + interval > deadline:
                raise TimeoutError(f"no change to the wanted state within {timeout} s")
            await asyncio.sleep(interval)

    def close(self, code: int = errno.ECONNRESET) -> None:
        if not self.closed:
            self.unwatch()
        super().close(code)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(OSError(errno.EBADF, "the handle is closed", self.options["netns"]))


for _name, _func in request_methods(AsyncRequest).items():
    if _name not in ("poll",):
        setattr(AsyncEngine, _name, _func)


class AsyncIPRoute(AsyncEngine):
    """pyroute2's AsyncIPRoute, in the current namespace or in `netns`: the same arguments as `fastns.IPRoute`.

    `async with AsyncIPRoute() as ipr: links = [link async for link in await ipr.get_links()]`. To be used from one
    running loop at a time. Cancelling a request leaves the handle usable; its answer is dropped when it comes.
    """

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
        open_engine(super().__init__, options)

    async def __aenter__(self) -> AsyncIPRoute:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.__dict__.get("closed", True) and self.owner == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.options['netns']!r}>"


class AsyncNetNS(AsyncIPRoute):
    """AsyncIPRoute inside the namespace `netns`, created if missing: arguments and flags as `fastns.NetNS`."""

    def __init__(
        self,
        netns: Any = None,
        flags: int = os.O_CREAT,
        target: str | None = None,
        libc: Any = None,
        groups: int = RTMGRP_DEFAULTS,
        **options: Any,
    ) -> None:
        super().__init__(netns, flags=flags, target=target, libc=libc, groups=groups, **options)

    async def remove(self) -> None:
        """Close the handle and remove the namespace from the run directory."""
        self.close()
        await asyncio.get_running_loop().run_in_executor(None, netns_module.remove, self.options["netns"])


# ---- processes ------------------------------------------------------------------------------------------------


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
        for name in ("stdout", "stderr"):
            pipe = getattr(popen, name)
            if pipe is not None:
                reader = asyncio.StreamReader(limit=limit)
                protocol = asyncio.StreamReaderProtocol(reader)
                transport, _ = await loop.connect_read_pipe(lambda p=protocol: p, pipe)  # type: ignore[misc]
                self._transports.append(transport)
                setattr(self, name, reader)
        if popen.stdin is not None:
            sink, writer = await loop.connect_write_pipe(
                lambda: asyncio.streams.FlowControlMixin(loop=loop), popen.stdin
            )
            self._transports.append(sink)
            self.stdin = asyncio.StreamWriter(sink, writer, None, loop)
        self._pidfd = os.pidfd_open(popen.pid)
        loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._popen.wait()
        if not self._exited.done():
            self._exited.set_result(code)

    async def wait(self) -> int:
        """The exit status, when the process has ended; negative for a signal."""
        return await asyncio.shield(self._exited)

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Send `input`, read both outputs to their end and wait."""

        async def feed() -> None:
            assert self.stdin is not None
            try:
                if input is not None:
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

    def _close(self) -> None:
        while self._transports:
            self._transports.pop().close()

    def send_signal(self, signal: int) -> None:
        self._popen.send_signal(signal)

    def terminate(self) -> None:
        self._popen.terminate()

    def kill(self) -> None:
        self._popen.kill()


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

    The process is started in the loop's executor, so a slow fork does not hold the loop. Errors as NSPopen's.
    """
    loop = asyncio.get_running_loop()

    def start() -> NSPopen:
        return NSPopen(nsname, [program, *args], stdin=stdin, stdout=stdout, stderr=stderr, bufsize=0, **kwds)

    process = Process(await loop.run_in_executor(None, start), loop)
    await process._connect(limit)
    return process


async def create_subprocess_shell(nsname: Any, cmd: str, **kwds: Any) -> Process:
    """asyncio.create_subprocess_shell inside the namespace `nsname`."""
    return await create_subprocess_exec(nsname, "/bin/sh", "-c", cmd, **kwds)
