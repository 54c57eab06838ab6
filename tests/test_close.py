"""close() in a signal handler, a finalizer and another thread, in the middle of anything; and what is open at the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import threading
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterator

import pytest
from guard import descriptors
from interrupted import alone
from programs import script

from fastns import NetNS, Pool, Proxy
from fastns import netns as ns
from fastns.aio import AsyncNetNS
from fastns.ipdb import IPDB

pytestmark = pytest.mark.root

ROUNDS = 40


@contextmanager
def monitor(netns: str, transport: str = "direct") -> Iterator[tuple[Any, Callable[[], Any]]]:
    with NetNS(netns, flags=0, transport=transport) as handle, handle.monitor() as events:
        yield events.close, lambda: events.get(0.001)


@contextmanager
def handle(netns: str, transport: str = "direct") -> Iterator[tuple[Any, Callable[[], Any]]]:
    with NetNS(netns, flags=0, transport=transport) as opened:
        yield opened.close, lambda: opened.link("get", index=1)


@contextmanager
def reader(netns: str) -> Iterator[tuple[Any, Callable[[], Any]]]:
    with NetNS(netns, flags=0, transport="direct") as opened:
        opened.bind()
        yield opened.close, lambda: opened.asyncore.next_event(0.001)


@contextmanager
def watch(netns: str) -> Iterator[tuple[Any, Callable[[], Any]]]:
    with ns.watch() as events:
        yield events.close, lambda: events.get(0.001)


@contextmanager
def pool(netns: str) -> Iterator[tuple[Any, Callable[[], Any]]]:
    with Pool(1, transport="direct") as handles:
        yield handles.close, lambda: (handles.discard(netns), handles[netns])


@contextmanager
def proxy(netns: str) -> Iterator[tuple[Any, Callable[[], Any]]]:
    with Proxy(default=True) as made:
        yield made.close, lambda: made.open(netns).close()


@contextmanager
def database(netns: str) -> Iterator[tuple[Any, Callable[[], Any]]]:
    opened = NetNS(netns, flags=0, transport="direct")
    with IPDB(opened) as made:
        yield made.release, lambda: dict(made.interfaces.lo)


@contextmanager
def asynchronous(netns: str, transport: str = "direct") -> Iterator[tuple[Any, Callable[[], Any]]]:
    opened = AsyncNetNS(netns, flags=0, transport=transport)

    async def ask() -> None:
        await opened.link("get", index=1)
        _ = [link async for link in await opened.get_links()]

    with contextlib.closing(asyncio.new_event_loop()) as loop, contextlib.closing(opened):
        yield opened.close, lambda: loop.run_until_complete(ask())
        loop.run_until_complete(loop.shutdown_default_executor())


def relayed_monitor(netns: str) -> Any:
    return monitor(netns, "relay")


def relayed_handle(netns: str) -> Any:
    return handle(netns, "relay")


def relayed_asynchronous(netns: str) -> Any:
    return asynchronous(netns, "relay")


OPENED = {
    function.__name__: function
    for function in (
        monitor, relayed_monitor, handle, relayed_handle, reader, watch, pool, proxy, database, asynchronous,
        relayed_asynchronous,
    )
}  # fmt: skip


def use(call: Callable[[], Any], closed: Callable[[], bool]) -> None:
    """Until it is closed, and once more."""
    done = False
    while not done:
        done = closed()
        with suppress(OSError, KeyError, AttributeError, RuntimeError):
            call()


def in_a_handler(netns: str, what: str, rng: random.Random) -> None:
    closings = []
    with OPENED[what](netns) as (close, call):

        def handler(*_: Any) -> None:
            close()
            closings.append(1)

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.003), 0.0001)
        use(call, lambda: len(closings) > 3)
        signal.setitimer(signal.ITIMER_REAL, 0)


def in_a_finalizer(netns: str, what: str, rng: random.Random) -> None:
    """Which the collector runs at some allocation."""
    closings: list[int] = []
    kept: list[Any] = []

    class Closing:
        def __init__(self, close: Callable[[], Any]) -> None:
            self.close, self.me = close, self

        def __del__(self) -> None:
            self.close()
            closings.append(1)

    gc.set_threshold(rng.randrange(20, 200))
    with OPENED[what](netns) as (close, call):
        Closing(close)
        Closing(close)
        use(lambda: (kept.append([[] for _ in range(20)]), call()), lambda: len(closings) > 1)


def in_threads(netns: str, what: str, rng: random.Random) -> None:
    go = threading.Event()
    with OPENED[what](netns) as (close, call):
        threads = [threading.Thread(target=lambda: (go.wait(), close())) for _ in range(3)]
        for thread in threads:
            thread.start()
        use(call, lambda: go.set() or not any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()


WHERE = {function.__name__: function for function in (in_a_handler, in_a_finalizer, in_threads)}


def rounds(netns: str, what: str, where: str, seed: str) -> None:
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        WHERE[where](netns, what, rng)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("what", OPENED)
def test_close(netns: str, rng: random.Random, what: str, where: str) -> None:
    alone(rounds, netns, what, where, str(rng.random()))


def next_event(netns: str, transport: str) -> tuple[Any, Callable[[], Any]]:
    opened = NetNS(netns, flags=0, transport=transport)
    opened.bind()
    return opened, opened.asyncore.next_event


def next_item(netns: str, transport: str) -> tuple[Any, Callable[[], Any]]:
    events = NetNS(netns, flags=0, transport=transport).monitor()
    return events, lambda: list(events)


def next_event_of_a_loop(netns: str, transport: str) -> tuple[Any, Callable[[], Any]]:
    opened = AsyncNetNS(netns, flags=0, transport=transport)

    async def wait() -> None:
        await opened.bind()
        _ = [message async for message in opened.get()]

    return opened, lambda: asyncio.run(wait())


def next_item_of_a_loop(netns: str, transport: str) -> tuple[Any, Callable[[], Any]]:
    events = AsyncNetNS(netns, flags=0, transport=transport).monitor()

    async def wait() -> None:
        _ = [item async for item in events]

    return events, lambda: asyncio.run(wait())


def next_namespace(netns: str, transport: str) -> tuple[Any, Callable[[], Any]]:
    events = ns.watch()
    return events, lambda: list(events)


def next_namespace_of_a_loop(netns: str, transport: str) -> tuple[Any, Callable[[], Any]]:
    events = ns.watch()

    async def wait() -> None:
        _ = [event async for event in events]

    return events, lambda: asyncio.run(wait())


WAITS = {
    function.__name__: function
    for function in (
        *(next_event, next_item, next_namespace),
        *(next_event_of_a_loop, next_item_of_a_loop, next_namespace_of_a_loop),
    )
}


def waits_end(netns: str, what: str) -> None:
    """Nothing comes that is waited for; and who waits once more hears the same."""
    NetNS(netns, flags=0, transport="relay").close()
    before: list[str] = []
    for transport in ("direct", "relay") * 3:
        for where in ("handler", "thread"):
            opened, wait = WAITS[what](netns, transport)
            if where == "handler":
                signal.signal(signal.SIGALRM, lambda *_, close=opened.close: close())
                signal.setitimer(signal.ITIMER_REAL, 0.02)
            else:
                threading.Timer(0.02, opened.close).start()
            for _ in range(2):
                with suppress(OSError):
                    wait()
            del opened, wait
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        gc.collect()
        left = sorted(text.partition(":")[0] for text in descriptors().values())
        before = before or left
        assert left == before


@pytest.mark.parametrize("what", WAITS)
def test_waits_end(netns: str, what: str) -> None:
    alone(waits_end, netns, what)


LEFT_OPEN = """
import asyncio, os, sys, threading
import fastns
from fastns import IPRoute, NetNS, Pool, Proxy, aio, netns
from fastns.ipdb import IPDB
from fastns.nspopen import NSPopen

name, end = sys.argv[1:]
ns = NetNS(name, flags=0)
direct = NetNS(name, flags=0, transport="direct")
relay = NetNS(name, flags=0, transport="relay")
proxy = Proxy()
events, more = direct.monitor(), relay.monitor()
pool = Pool()
pool[name]
database = IPDB(NetNS(name, flags=0))
watch = netns.watch()
child = NSPopen(name, ["true"])
child.wait()
asynchronous = aio.AsyncNetNS(name, flags=0)
batch = direct.batch()
inside = netns.entered(name)
opened = netns.open_ref(name)
if end == "cycle":
    for thing in (ns, direct, relay, proxy, events, pool, database, watch):
        sys.modules["kept"] = [thing, sys.modules.get("kept")]
if end == "raise":
    raise RuntimeError("the end")
if end == "thread":
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
if end == "_exit":
    os._exit(0)
sys.exit(0)
"""


@pytest.mark.parametrize("end", ["exit", "cycle", "raise", "thread", "_exit"])
@pytest.mark.parametrize("options", [(), ("-X", "dev"), ("-W", "error")], ids=["plain", "dev", "error"])
def test_left_open_at_the_end(netns: str, end: str, options: tuple[str, ...]) -> None:
    said = script(LEFT_OPEN, netns, end, options=options, check=False).stderr
    if options != ("-W", "error"):
        assert "Exception ignored" not in said
    lines = [line for line in said.splitlines() if line and not line.startswith((" ", "Traceback"))]
    strange = [line for line in lines if "Warning: un" not in line and "RuntimeError: the end" not in line]
    assert [line for line in strange if "Exception ignored" not in line] == []
