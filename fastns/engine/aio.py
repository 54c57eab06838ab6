"""The inside of an asynchronous handle: conversations on the running loop, sends in its executor."""

from __future__ import annotations

import asyncio
import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyroute2
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST

from fastns.engine.blocking import Engine
from fastns.engine.request import Request, Response, request_methods
from fastns.engine.transport import socket_settings
from fastns.sleepers import Sleepers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fastns.engine.request import Conversation, Dump


class OneAtATime:
    """Runs functions in the loop's executor, one after the other, also when those who wait for them are cancelled."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.lock: asyncio.Lock

    async def acquire(self) -> None:
        loop = asyncio.get_running_loop()
        if self.loop is not loop:  # a lock belongs to the loop it has been waited for on
            self.loop, self.lock = loop, asyncio.Lock()
        await self.lock.acquire()

    def release(self) -> None:
        self.lock.release()

    @property
    def busy(self) -> bool:
        return self.loop is not None and self.lock.locked()

    async def run(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call, release afterwards. The caller has acquired."""
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(None, func, *args)
        except BaseException:
            self.release()
            raise
        future.add_done_callback(self.finished)
        return await asyncio.shield(future)

    def finished(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # seen, whether anybody still waits or not
        self.release()


class AsyncRequest(Request):
    sock: AsyncEngine

    async def proxy(self) -> bool:
        """pyroute2's, but off the loop, which a probe would hold for seconds; `batch` is a method of the handle."""
        engine = self.sock
        local = engine.request_proxy
        if local is None or (local is engine.local_requests and not local.applies(self.msg)):
            return False
        answer = await asyncio.get_running_loop().run_in_executor(None, local.handle, self.msg)
        if not answer:
            return False
        engine.deliver(self.msg_seq, answer)
        return True

    def response(self) -> AsyncResponse:
        return AsyncResponse(self)


class AsyncResponse(Response):
    """The answer to a request, for `async for`."""

    request: AsyncRequest

    def __aiter__(self) -> AsyncIterator[Any]:  # type: ignore[override]
        return self.messages()

    async def messages(self) -> AsyncIterator[Any]:
        try:
            async for msg in self.request.sock.messages_async(self.answer()):
                if self.selects(msg):
                    yield msg
        finally:
            self.request.cleanup()


class AsyncEngine(Engine):
    """The engine on a running loop. A descriptor is watched only while somebody waits for it, so what nobody asks
    for stays in the kernel or in the ring and takes no memory here."""

    def __init__(self, *args: Any, **kwarg: Any) -> None:
        self.sleepers = Sleepers()
        self.sending = OneAtATime()
        super().__init__(*args, **kwarg)

    # ---- waiting ------------------------------------------------------------------------------------------

    async def readable(self, transport: Any) -> None:
        """Wait until the transport has something, or another waiter has received meanwhile."""
        if not await self.sleepers.wait(transport.fileno(), self.timeout):
            raise TimeoutError(f"no answer within {self.timeout} s")

    async def receive_async(self, seq: int) -> Any:
        while True:
            queue = self.pending.get(seq)
            if queue:
                return self.received(queue.popleft())
            await self.pump_async()

    async def pump_async(self) -> None:
        """Receive one datagram and deliver it; everybody waiting looks again."""
        self.check_owner()
        try:
            self.pump_ready()
        except TimeoutError:
            await self.readable(self.socket)
        else:
            self.sleepers.wake()

    async def submit_async(
        self, data: Any, seq: int, dump: bool = False, kernel_filter: bool = False
    ) -> int:
        self.check_owner()
        await self.sending.acquire()
        try:
            while dump and self.dumping is not None:
                await self.pump_async()
        except BaseException:
            self.sending.release()
            raise
        if getattr(self.transport, "of_one_thread", False):
            try:
                return self.submit(bytes(data), seq, dump, kernel_filter)
            finally:
                self.sending.release()
        return int(await self.sending.run(self.submit, bytes(data), seq, dump, kernel_filter))

    @contextmanager
    def beside(self) -> Iterator[Engine]:
        """An engine for blocking use in another thread, in the same namespace: this one's socket is the loop's."""
        self.check_owner()
        if self.open_beside is None or self.closed:
            raise OSError(errno.EBADF, "the handle is closed", self.options["netns"])
        engine = Engine(
            self.open_beside(**socket_settings(self.options)),
            open_events=self.open_events,
            open_beside=self.open_beside,
            options=self.options,
            relayed=self.relayed,
        )
        try:
            yield engine
        finally:
            engine.close()

    async def messages_async(self, answer: Conversation | Dump) -> AsyncIterator[Any]:
        seq = answer.seq
        for arguments in answer.rounds():
            if arguments:
                await self.submit_async(*arguments)
            while not answer.over:
                for msg in answer.take(await (self.receive_async(seq) if seq else self.next_event_async())):
                    yield msg
        answer.finish()

    async def next_event_async(self) -> bytes:
        self.check_owner()
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
        msg_flags: int = NLM_F_REQUEST,
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
        msg_flags: int = NLM_F_REQUEST | NLM_F_DUMP,
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

    async def gather(self, result: Any) -> Any:
        return [msg async for msg in result] if hasattr(result, "__aiter__") else result

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def hang_up(self) -> None:
        self.sleepers.end(*self.transports())


for _name, _func in request_methods(AsyncRequest).items():
    if _name not in ("poll",):
        setattr(AsyncEngine, _name, _func)
