"""Tasks that wait on their loops for descriptors of one object, whoever closes that, and when."""

from __future__ import annotations

import asyncio
from typing import Optional, Protocol


class File(Protocol):
    def close(self) -> None: ...


class Sleepers:
    """A descriptor is watched by a loop only while a task of that loop waits for it."""

    def __init__(self) -> None:
        self.waiting: set[asyncio.Future[None]] = set()
        self.watched: dict[asyncio.AbstractEventLoop, set[int]] = {}
        self.ended = False
        self.files: list[File] = []

    async def wait(self, fd: int, timeout: Optional[float] = None) -> bool:
        """Until the descriptor is readable, or somebody calls `wake` or `end`. False if `timeout` seconds were too short."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self.waiting.add(ready)
        try:
            if self.ended:
                return True
            watched = self.watched.setdefault(loop, set())
            if fd not in watched:
                loop.add_reader(fd, self.wake)
                watched.add(fd)
            if timeout is None:
                await ready
            else:
                await asyncio.wait([ready], timeout=timeout)
            return ready.done()
        finally:
            self.waiting.discard(ready)
            if not any(other.get_loop() is loop for other in tuple(self.waiting)):
                for seen in self.watched.pop(loop, ()):
                    if not loop.is_closed():
                        loop.remove_reader(seen)
            self.let_go()

    def wake(self) -> None:
        """All that wait on the running loop look again."""
        loop = asyncio.get_running_loop()
        for ready in tuple(self.waiting):
            if ready.get_loop() is loop and not ready.done():
                ready.set_result(None)

    def end(self, *files: File) -> None:
        """Wake all, for good; the last one closes the files, which no loop watches then. For any thread, signal handler or
        finalizer; takes no lock."""
        self.ended = True
        self.files += files
        for ready in tuple(self.waiting):
            try:
                ready.get_loop().call_soon_threadsafe(self.wake)
            except RuntimeError:  # the loop is closed, and nobody waits
                self.waiting.discard(ready)
        self.let_go()

    def let_go(self) -> None:
        if not self.waiting:
            for file in self.files:  # twice is fine: whoever ends it may be interrupted by who does so too
                file.close()
