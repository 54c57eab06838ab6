"""Handles of many namespaces: kept open, found by name, and used all at once."""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from fastns import _codec, netns
from fastns.engine.request import Dump
from fastns.iproute import BUILT, UNFILTERED, NetNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["Pool"]

T = TypeVar("T")
AHEAD = 128  # requests sent before the first answer is read: each takes up to 32 KiB in the kernel
SPARE_DESCRIPTORS = 256
DESCRIPTORS = 2  # of a handle, at most, until events are asked for


class PooledNetNS(NetNS):
    """A handle the pool opened. Who holds it may use it; it is closed with its last reference."""

    def __del__(self) -> None:
        engine = self.__dict__.get("asyncore")
        if engine is not None and not engine.closed and engine.owner == os.getpid():
            engine.close()


class Pool:
    """Handles by name: opened at first use, kept, and reopened when the name means another namespace by now.

        with fastns.Pool() as pool:
            pool["blue"].link("set", ifname="lo", state="up")
            everything = pool.each("link")                  # {name: links or the exception}
            counts = pool.map(lambda ns: len(ns.get_routes()), ["blue", "red"])

    `max_handles` bounds how many are kept; the one used longest ago goes first. A handle that was handed out goes on
    working until its holder lets it go, whatever the pool does. Keywords are those of `NetNS`, but that a missing
    namespace is not created unless `flags` says so. The soft limit of open descriptors (RLIMIT_NOFILE) is raised as
    far as `max_handles` needs it and the hard limit allows.

    Threads may share a pool. In a forked child it is empty. Privilege and errors are those of `NetNS`; where
    descriptors run out, the OSError (EMFILE) names the limit.
    """

    def __init__(
        self,
        max_handles: int = 4096,
        *,
        transport: str = "auto",
        proxy: Any = None,
        flags: int = 0,
        **options: Any,
    ) -> None:
        if max_handles < 1:
            raise ValueError(f"max_handles {max_handles} is less than 1")
        self.max_handles = max_handles
        self._options = {"transport": transport, "proxy": proxy, "flags": flags, **options}
        self._handles: OrderedDict[Any, tuple[tuple[int, int] | None, PooledNetNS]] = OrderedDict()
        self._owner = os.getpid()
        self._closed = False
        raise_descriptor_limit(max_handles * DESCRIPTORS + SPARE_DESCRIPTORS)

    # ---- handles ------------------------------------------------------------------------------------------

    def __getitem__(self, name: Any) -> NetNS:
        """The handle of the namespace that has this name now. FileNotFoundError if there is none."""
        if self._owner != os.getpid():
            self._after_fork()
        here = identity(name)
        mine = None
        while True:
            self._check()
            kept = self._handles.get(name)
            if kept is not None and kept[0] == here and here is not None and not kept[1].asyncore.closed:
                with suppress(KeyError):  # let go of meanwhile
                    self._handles.move_to_end(name)
                return kept[1]  # another thread may have been faster; ours goes with its reference
            if kept is not None:
                self._let_go(name, kept)
            if mine is None:
                handle = self._open(name)
                if here is None:
                    here = identity(name)
                mine = (here, handle)
            if self._handles.setdefault(name, mine) is mine:
                break
        while len(self._handles) > self.max_handles:
            with suppress(KeyError):
                self._handles.popitem(last=False)
        if self._closed:
            self.close()
        self._check()
        return handle

    # No lock: a signal handler or a finalizer, whatever it interrupts, may close the pool or ask it for a handle. Each
    # access to the dictionary is a step of its own, after which it may have changed.

    def _check(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the pool is closed")

    def _let_go(self, name: Any, kept: tuple[Any, PooledNetNS]) -> None:
        """Keep this handle no longer; one that has taken its place stays."""
        other = self._handles.pop(name, kept)
        if other is not kept:
            self._handles.setdefault(name, other)

    def _open(self, name: Any) -> PooledNetNS:
        try:
            return PooledNetNS(name, **self._options)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise OSError(
                error.errno,
                f"{error.strerror}: {len(self._handles)} handles are open in the pool, the limit of descriptors "
                f"(RLIMIT_NOFILE) is {soft}, {hard} at most; raise it, or lower max_handles",
                name,
            ) from None

    def _after_fork(self) -> None:
        """The parent's handles stay the parent's."""
        self._owner = os.getpid()
        handles, self._handles = self._handles, OrderedDict()
        for _, handle in handles.values():
            handle.close()

    def __contains__(self, name: Any) -> bool:
        return name in self._handles

    def __len__(self) -> int:
        """How many handles are kept."""
        return len(self._handles)

    def discard(self, name: Any) -> None:
        """Keep the handle of this name no longer."""
        self._handles.pop(name, None)

    def prune(self) -> list[Any]:
        """Let go of the handles whose namespace was removed or replaced; their names."""
        names = []
        for name, kept in list(self._handles.items()):
            if identity(name) != kept[0]:
                self._let_go(name, kept)
                names.append(name)
        return names

    # ---- all at once --------------------------------------------------------------------------------------

    def map(
        self,
        func: Callable[[NetNS], T],
        names: Iterable[Any] | None = None,
        *,
        workers: int = 1,
        timeout: float | None = None,
    ) -> dict[Any, T | Exception]:
        """Call a function with the handle of each name: what it returned, or the exception it raised, by name.

        `names`: all in the run directory if None. `workers` is the number of threads; more than one helps where the
        kernel's work dominates, which it does without the GIL. `timeout`, in seconds, bounds each wait of a handle
        for an answer while the function runs.
        """
        listed = list(netns.listnetns() if names is None else names)

        def call(name: Any) -> T | Exception:
            try:
                handle = self[name]
                if timeout is None:
                    return func(handle)
                before = handle.gettimeout()
                handle.settimeout(timeout)
                try:
                    return func(handle)
                finally:
                    handle.settimeout(before)
            except Exception as error:
                return error

        if workers <= 1 or len(listed) <= 1:
            return {name: call(name) for name in listed}
        results: dict[Any, Any] = dict.fromkeys(listed)
        waiting = deque(results)

        def work() -> None:
            while True:
                try:
                    name = waiting.popleft()
                except IndexError:
                    return
                results[name] = call(name)

        with ThreadPoolExecutor(min(workers, len(listed))) as executor:
            for future in [executor.submit(work) for _ in range(min(workers, len(listed)))]:
                future.result()
        return results

    def each(
        self, method: str, command: str = "dump", names: Iterable[Any] | None = None, **arguments: Any
    ) -> dict[Any, Any]:
        """The same request in many namespaces: what `ns.METHOD(command, **arguments)` gives, by name, or its exception.

        Dumps are sent to many namespaces before the first answer is read. `names`: all in the run directory if None.
        """
        listed = list(netns.listnetns() if names is None else names)
        if not (command in ("dump", "show") and method in BUILT and UNFILTERED.issuperset(arguments)):
            return self.map(lambda ns: getattr(ns, method)(command, **arguments), listed)
        results: dict[Any, Any] = dict.fromkeys(listed)
        sent: deque[tuple[Any, NetNS, Any, int]] = deque()
        for name in results:
            try:
                handle = self[name]
                engine = handle.asyncore
                seq = engine.addr_pool.alloc()
                data = None
                if engine.plain and engine.dumping is None:
                    data = _codec.build(
                        method, command, arguments, engine.nlm_echo, seq, engine.owner, engine.strict_check
                    )
                if data is None:
                    results[name] = getattr(handle, method)(command, **arguments)
                    continue
                engine.expect(seq)
                engine.submit(data, seq, True)
                sent.append((name, handle, data, seq))
            except Exception as error:
                results[name] = error
            if len(sent) >= AHEAD:
                self._take_answer(sent, results)
        while sent:
            self._take_answer(sent, results)
        return results

    def _take_answer(self, sent: deque[tuple[Any, NetNS, Any, int]], results: dict[Any, Any]) -> None:
        name, handle, data, seq = sent.popleft()
        try:
            engine = handle.asyncore
            results[name] = tuple(engine.collect(Dump(engine, [data], seq, sent=True)))
        except Exception as error:
            results[name] = error
        finally:
            handle.asyncore.forget(seq)

    # ---- life ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every handle. Twice is fine; afterwards every use is OSError EBADF."""
        self._closed = True
        while self._handles:
            with suppress(KeyError):
                self._handles.popitem()[1][1].close()

    def __iter__(self) -> Iterator[Any]:
        """The names of the kept handles, the one used longest ago first."""
        return iter(list(self._handles))

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<fastns.Pool of {len(self._handles)} handles>"


def identity(name: Any) -> tuple[int, int] | None:
    """What says that two references are the same namespace: device and inode. None for what is not there."""
    try:
        if isinstance(name, int):
            found = os.fstat(name)
        else:
            text = os.fsencode(name)
            found = os.stat(text if b"/" in text else os.path.join(os.fsencode(netns.NETNS_RUN_DIR), text))
    except (OSError, TypeError):
        return None
    return found.st_dev, found.st_ino


def raise_descriptor_limit(wanted: int) -> None:
    """Raise the soft limit of open descriptors to `wanted`, or as near to it as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        pass
