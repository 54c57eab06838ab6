"""A handler that raises out of the middle of a call: no descriptor is lost, none closed twice, no thread stays inside."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import socket
import threading
import warnings
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Coroutine

import pytest
from faults import here
from guard import descriptors
from interrupted import Struck, alarmed, alone, bytecodes
from isolation import need_tool
from programs import no_child_is_left, until

import fastns
from fastns import IPRoute, NetNS, Pool, Proxy
from fastns import netns as ns
from fastns.ipdb import IPDB
from fastns.proxy import close_shared

pytestmark = pytest.mark.root

CYCLES = int(os.environ.get("FASTNS_LEAK_CYCLES", "10000"))
ALARMS = min(5000, CYCLES // 20)
MOMENTS = min(1000, CYCLES // 20)
FOLDER = str(Path(fastns.__file__).parent)
# Where a handler's exception goes nowhere, so there is nothing to find out: `finished` is called by a loop, which logs it.
UNTOUCHED = ("__del__",)


def entered(netns: str) -> None:
    with ns.entered(netns):
        pass


def run_in(netns: str) -> None:
    ns.run_in(netns, int)


def create_socket(netns: str) -> None:
    ns.create_socket(netns, socket.AF_INET, socket.SOCK_DGRAM).close()


def sysctl(netns: str) -> None:
    settings = ns.sysctl(netns)
    settings["net.ipv4.ip_forward"] = settings["net.ipv4.ip_forward"]


def create(netns: str) -> None:
    try:
        ns.create(f"{netns}-made")
    finally:
        with suppress(FileNotFoundError):
            ns.remove(f"{netns}-made")


def open_made(netns: str) -> None:
    try:
        NetNS(f"{netns}-made", transport="direct").close()
    finally:
        with suppress(FileNotFoundError):
            ns.remove(f"{netns}-made")


def attach(netns: str) -> None:
    try:
        ns.attach(f"{netns}-made", os.getpid())
    finally:
        with suppress(FileNotFoundError):
            ns.remove(f"{netns}-made")


def info(netns: str) -> None:
    assert ns.info(netns).alive
    assert ns.exists(netns)


def watch(netns: str) -> None:
    with ns.watch() as events, suppress(TimeoutError):
        events.get(0)


def setns(netns: str) -> None:
    ns.setns(netns)


def push_and_pop(netns: str) -> None:
    ns.pushns(netns)
    ns.popns()


def push_and_drop(netns: str) -> None:
    ns.pushns()
    ns.dropns()


def direct(netns: str) -> None:
    with NetNS(netns, flags=0, transport="direct") as handle:
        handle.link("get", index=1)


def direct_by_pid(netns: str) -> None:
    with IPRoute(pid=os.getpid(), transport="direct") as handle:
        handle.getsockname()


def monitor(netns: str) -> None:
    with NetNS(netns, flags=0, transport="direct") as handle, handle.monitor() as events, suppress(TimeoutError):
        events.get(0)


def bound(netns: str) -> None:
    with NetNS(netns, flags=0, transport="direct") as handle:
        handle.bind()
        with suppress(TimeoutError):
            handle.asyncore.next_event(0)


def relay(netns: str) -> None:
    with NetNS(netns, flags=0, transport="relay") as handle:
        handle.link("get", index=1)


def relayed_here(netns: str) -> None:
    with IPRoute(transport="relay") as handle:
        handle.getsockname()


def batch(netns: str) -> None:
    with NetNS(netns, flags=0, transport="direct") as handle, handle.batch(errors="collect") as changes:
        changes.link("set", index=4000, net_ns_fd=netns)


def pool(netns: str) -> None:
    with Pool(2, transport="direct") as handles:
        handles[netns].getsockname()


def listed(netns: str) -> None:
    Proxy(netns=[netns, ns.NETNS_RUN_DIR + "/" + netns]).close()


@cache
def loop() -> asyncio.AbstractEventLoop:
    """One for all: what asyncio itself would lose at its start is not looked at."""
    return asyncio.new_event_loop()


def run(work: Coroutine[Any, Any, None]) -> None:
    loop().run_until_complete(work)


def database(netns: str) -> None:
    with IPDB(NetNS(netns, flags=0, transport="direct"), callbacks=[lambda *_: None]) as made:
        made.interfaces.lo.mtu = 60000
        made.commit()


WAYS: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (
        entered, run_in, create_socket, sysctl, create, open_made, attach, info, watch, setns, push_and_pop,
        push_and_drop, direct, direct_by_pid, monitor, bound, relay, relayed_here, batch, pool, listed, database,
    )
}  # fmt: skip


def traced(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name not in UNTOUCHED and (code.co_filename.startswith(FOLDER) or code.co_filename == socket.__file__)


class Held:
    """What the process holds, once the call's own things are made: to be the same after each exception."""

    def __init__(self, netns: str, way: str) -> None:
        warnings.simplefilter("ignore", ResourceWarning)
        self.netns, self.way, self.home = netns, WAYS[way], here()
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.call()
        self.call()
        self.restore()
        self.before = self.descriptors()

    def descriptors(self) -> list[str]:
        """By what they are; a shared proxy may be another one each time."""
        close_shared()
        if self.way in (relay, relayed_here):
            self.call()
        gc.collect()
        return sorted(re.sub(r"socket:.*", "socket", text) for text in descriptors().values())

    def call(self) -> None:
        self.way(self.netns)

    def restore(self) -> None:
        if self.way in (setns, push_and_pop, push_and_drop):  # which stop where they are when they are interrupted
            ns.setns(self.fd)
            with suppress(IndexError):
                while True:
                    ns.dropns()
        assert here() == self.home
        for name in ns.listnetns():
            if name == f"{self.netns}-made":
                ns.remove(name)

    def check(self) -> None:
        gc.collect()
        until(lambda: not [one for one in threading.enumerate() if one.name.startswith("IPDB")])  # they end by themselves
        left = self.descriptors()
        assert left == self.before, [(Counter(left) - Counter(self.before)), Counter(self.before) - Counter(left)]
        close_shared()
        no_child_is_left()


def between_bytecodes(netns: str, way: str, seed: str) -> None:
    held = Held(netns, way)
    bytecodes(held.call, traced)  # Python 3.12 and 3.13 tell of the bytecodes of a later trace only
    held.restore()
    total = bytecodes(held.call, traced)
    held.restore()
    assert total > 20
    struck = 0
    moments = range(1, total)
    for moment in moments if total <= MOMENTS else random.Random(seed).sample(moments, MOMENTS):
        try:
            bytecodes(held.call, traced, moment)
        except Struck:
            struck += 1
        held.restore()
    assert struck > min(total, MOMENTS) / 2
    held.check()


def by_a_signal(netns: str, way: str, seed: str) -> None:
    held = Held(netns, way)
    rng = random.Random(seed)
    for _ in range(ALARMS):
        alarmed(held.call, rng.uniform(0.000001, 0.001))
        held.restore()
    held.check()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_between_any_two_bytecodes(netns: str, rng: random.Random, way: str) -> None:
    alone(between_bytecodes, netns, way, str(rng.random()))


def closes_nothing_twice(netns: str) -> None:
    """To be run under strace."""
    between_bytecodes(netns, "create_socket", "")


def test_nothing_is_closed_twice(netns: str, tmp_path: Path) -> None:
    need_tool("strace")
    log = tmp_path / "calls"
    alone(closes_nothing_twice, netns, prefix=("strace", "-f", "-qq", "-e", "trace=close", "-o", str(log)))
    assert "EBADF" not in log.read_text()


# What a handler raises in the callback of a weak reference, which ends the threads of a database, goes nowhere. Handles of
# asyncio are not here: its loop and its executor are not fit for more where a handler has raised inside them.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "database"])
def test_by_a_signal(netns: str, rng: random.Random, way: str) -> None:
    alone(by_a_signal, netns, way, str(rng.random()))
