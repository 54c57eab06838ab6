"""Namespaces coming and going: the run directory watched. inotify(7), timerfd_create(2)."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import time
import warnings
from collections import deque
from typing import NamedTuple, Optional, Union

from fastns import _core
from fastns.netns import reference
from fastns.netns.reference import is_dead
from fastns.sleepers import Sleepers


class NetnsEvent(NamedTuple):
    """Something happened to a name in the run directory."""

    event: str
    """What happened: "created" or "removed"."""
    name: str


_INOTIFY_EVENT = struct.Struct("=iIII")


class Watch:
    """Created and removed namespaces, one event at a time: see `watch`.

    Iterable, async-iterable, a context manager; `fileno()` is readable when there may be something to get.
    """

    def __init__(self, directory: Union[str, bytes], timeout: Optional[float] = None) -> None:
        self._directory = os.fsencode(directory)
        self._timeout = timeout
        self._events: deque[NetnsEvent] = deque()
        self._known: set[str] = set()  # reported, or there from the start
        self._pending: set[str] = set()  # mount points without a mount
        self._wait_ms = 0
        self._inotify = self._timer = _core.borrowed(-1)
        self._waker = _core.Waker()
        self._sleepers = Sleepers()
        self._epoll: Union[_core.Epoll, _core.Descriptor] = self._inotify
        self._closed = False
        self._wd = -1
        try:
            self._inotify = _core.inotify_open()
            self._timer = _core.timer_open()
            self._epoll = _core.Epoll(self._inotify.fileno(), self._timer.fileno())
            self._follow()
            self._compare()
            self._events.clear()
        except BaseException:
            self.close()
            raise

    # inotify tells of files, not of mounts: a name is looked at again until its mount is there, soon at first
    # and then ever more rarely. The timer stands in the same epoll, so it is seen through fileno() as well.

    def _follow(self) -> None:
        """Watch the run directory; until there is one, its parent."""
        mask = _core.IN_CREATE | _core.IN_DELETE | _core.IN_MOVED_TO | _core.IN_MOVED_FROM | _core.IN_DELETE_SELF | _core.IN_ONLYDIR
        for _ in range(8):
            try:
                self._wd = _core.inotify_add(self._inotify, self._directory, mask)
                return
            except FileNotFoundError:
                self._wd = -1
            parent = os.path.dirname(self._directory.rstrip(b"/")) or b"."
            _core.inotify_add(self._inotify, parent, _core.IN_CREATE | _core.IN_MOVED_TO | _core.IN_ONLYDIR)
            if not os.path.isdir(self._directory):
                return

    def _is_alive(self, name: str) -> bool:
        try:
            _core.ns_open(self._directory + b"/" + os.fsencode(name), name)
        except OSError:
            return False
        return True

    def _report(self, event: str, name: str) -> None:
        self._events.append(NetnsEvent(event, name))

    def _appeared(self, name: str) -> None:
        if name in self._known:
            return
        if self._is_alive(name):
            self._pending.discard(name)
            self._known.add(name)
            self._report("created", name)
        elif name not in self._pending and is_dead(self._directory + b"/" + os.fsencode(name)):
            self._pending.add(name)
            self._wait_ms = 0

    def _vanished(self, name: str) -> None:
        self._pending.discard(name)
        if name in self._known:
            self._known.discard(name)
            self._report("removed", name)

    def _compare(self) -> None:
        """Bring what is known in line with the directory, after a loss or a change of directory."""
        try:
            names = set(os.listdir(os.fsdecode(self._directory)))
        except FileNotFoundError:
            names = set()
        for name in self._known - names:
            self._vanished(name)
        self._pending &= names
        for name in names:
            self._appeared(name)

    def _pump(self) -> None:
        """Take in what the kernel has, without waiting."""
        while True:
            try:
                data = self._inotify.read(65536)
            except BlockingIOError:
                break
            offset = 0
            while offset < len(data):
                wd, mask, _, length = _INOTIFY_EVENT.unpack_from(data, offset)
                offset += _INOTIFY_EVENT.size
                name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
                offset += length
                self._take(wd, mask, name)
        try:
            self._timer.read(8)
        except BlockingIOError:
            pass
        for name in list(self._pending):
            self._appeared(name)
        if self._pending:
            self._wait_ms = min(max(1, 2 * self._wait_ms), 4096)
            _core.timer_set(self._timer, self._wait_ms)

    def _take(self, wd: int, mask: int, name: str) -> None:
        if mask & _core.IN_Q_OVERFLOW:
            self._compare()
        elif wd == self._wd and mask & (_core.IN_DELETE_SELF | _core.IN_IGNORED):
            self._follow()
            self._compare()
        elif wd == self._wd and mask & (_core.IN_CREATE | _core.IN_MOVED_TO):
            self._appeared(name)
        elif wd == self._wd and mask & (_core.IN_DELETE | _core.IN_MOVED_FROM):
            self._vanished(name)
        elif self._wd < 0 and os.fsencode(name) == os.path.basename(self._directory.rstrip(b"/")):
            self._follow()
            self._compare()

    def _next(self) -> Optional[NetnsEvent]:
        self._check()
        if not self._events:
            self._pump()
        return self._events.popleft() if self._events else None

    def _check(self) -> Union[_core.Epoll, _core.Descriptor]:
        if self._closed:
            raise OSError(errno.EBADF, "the watch is closed", os.fsdecode(self._directory))
        return self._epoll

    def get(self, timeout: Optional[float] = None) -> NetnsEvent:
        """The next event, waited for at most `timeout` seconds (None: without end, 0: not at all).

        Raises: TimeoutError; OSError(EBADF) if the watch is closed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            event = self._next()
            if event is not None:
                return event
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "no namespace was created or removed")
            self._waker.wait((self._check(),), left)

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> NetnsEvent:
        if self._closed:
            raise StopIteration
        try:
            return self.get(self._timeout)
        except TimeoutError:
            raise StopIteration from None
        except OSError:
            if self._closed:  # meanwhile
                raise StopIteration from None
            raise

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> NetnsEvent:
        if self._closed:
            raise StopAsyncIteration
        try:
            return await asyncio.wait_for(self._anext(), self._timeout)
        except asyncio.TimeoutError:
            raise StopAsyncIteration from None
        except OSError:
            if self._closed:
                raise StopAsyncIteration from None
            raise

    async def _anext(self) -> NetnsEvent:
        while True:
            event = self._next()
            if event is not None:
                return event
            await self._sleepers.wait(self.fileno())

    def fileno(self) -> int:
        """For select, poll, epoll and event loops: readable when `get(0)` may have something."""
        return self._check().fileno()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the iteration, in whatever thread it waits. Twice is fine, and so is a signal handler or a finalizer."""
        self._closed = True
        self._waker.wake()
        self._sleepers.end(self._epoll, self._inotify, self._timer)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed watch of {os.fsdecode(self._directory)}", ResourceWarning, source=self)
            self.close()


def watch(nspath: Optional[str] = None, timeout: Optional[float] = None) -> Watch:
    """Namespaces being created and removed in the run directory (or in `nspath`), by whomever, from now on.

        with watch() as events:
            for event, name in events:
                ...

    A namespace counts as created when it is mounted under its name, and as removed when the name is gone. The run
    directory need not exist yet. Iterating ends after `timeout` seconds without an event (None: never).

    Privilege: none. Raises: OSError(EMFILE, ENOSPC) at the limit of inotify instances or watches
    (fs.inotify.max_user_instances); FileNotFoundError if the parent of the run directory does not exist.
    """
    return Watch(nspath or reference.NETNS_RUN_DIR, timeout)
