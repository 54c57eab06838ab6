"""Many calls of everything public: no descriptor, child, thread or memory more afterwards.

CASES has an entry for every public function; test_every_public_function_has_a_case says which is missing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
from dataclasses import is_dataclass
from typing import Any, Callable

import pytest
from guard import children, close_shared_proxy, descriptors, threads

import fastns
import fastns.netns as fnetns

pytestmark = pytest.mark.root

CYCLES = int(os.environ.get("FASTNS_LEAK_CYCLES", "10000"))
SLACK = 768 << 10  # bytes: what an allocator's arenas may move without anything being lost


def resident() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def counts() -> tuple[int, int, int]:
    return len(descriptors()), len(children()), len(threads())


def assert_no_growth(work: Callable[[], Any], times: int) -> None:
    """Memory may rise while pools fill; what is lost with each call rises by the same again with each round."""
    for _ in range(max(times // 10, 3)):
        work()
    gc.collect()
    held = counts()
    growth = []
    for _ in range(5):
        before = resident()
        for _ in range(times):
            work()
        gc.collect()
        assert counts() == held
        growth.append(resident() - before)
        if growth[-1] < SLACK:
            return
    pytest.fail(f"resident memory grew by {growth} bytes in rounds of {times} calls")


TRANSPORTS = ["direct", "relay"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_open_and_close(netns, transport):
    assert_no_growth(lambda: fastns.NetNS(netns, flags=0, transport=transport).close(), CYCLES)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_failing_open(transport):
    def work():
        with pytest.raises(FileNotFoundError):
            fastns.NetNS("fns-no-such-namespace", flags=0, transport=transport)

    assert_no_growth(work, CYCLES // 20)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_requests_on_one_handle(netns, transport):
    with fastns.NetNS(netns, flags=0, transport=transport) as ns:

        def work():
            ns.link("get", index=1)
            ns.get_links()
            with pytest.raises(fastns.NetlinkError):
                ns.link("get", index=12345)

        assert_no_growth(work, CYCLES // 20)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_events(netns, transport):
    def work():
        with fastns.NetNS(netns, flags=0, transport=transport) as ns:
            ns.bind()
            ns.link("set", index=1, state="up")
            ns.link("set", index=1, state="down")
            assert ns.get()

    assert_no_growth(work, CYCLES // 50)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_messages_kept_and_dropped(netns, transport):
    with fastns.NetNS(netns, flags=0, transport=transport) as ns:
        kept: list[Any] = []

        def work():
            kept[:] = ns.get_links()
            [dict(message) for message in kept]

        assert_no_growth(work, CYCLES // 20)


def in_namespace(netns):
    with fnetns.entered(netns):
        pass


def run_true(netns):
    process = fastns.NSPopen(netns, ["true"], stdout=subprocess.PIPE)
    process.communicate()
    process.release()


def make_and_remove(netns):
    fnetns.create(netns + "x")
    fnetns.remove(netns + "x")


def make_and_remove_many(netns):
    names = [f"{netns}{number}" for number in range(4)]
    fnetns.create_many(names)
    fnetns.remove_many(names)


def attach_and_remove(netns):
    fnetns.attach(netns + "y", os.getpid())
    fnetns.remove(netns + "y")


def set_and_back(netns):
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fnetns.setns(netns, flags=0)
        fnetns.setns(here)
    finally:
        os.close(here)


def push_and_pop(netns):
    fnetns.pushns(netns)
    fnetns.popns()


def push_drop_back(netns):
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fnetns.pushns(netns)
        fnetns.dropns()
        fnetns.setns(here)
    finally:
        os.close(here)


def watch_a_little(netns):
    with fnetns.watch():
        pass


def read_sysctl(netns):
    assert fnetns.sysctl(netns)["net.ipv4.ip_forward"] in ("0", "1")


def proxy_and_close(netns):
    fastns.Proxy().close()


def asynchronous(cls, *args):
    async def use():
        async with cls(*args) as handle:
            [link async for link in await handle.get_links()]

    asyncio.run(use())


def pool_and_close(netns):
    with fastns.Pool(16) as pool:
        pool[netns].get_links()


def install_and_back(netns):
    fastns.install()
    fastns.uninstall()


# name -> (work, times)
CASES: dict[str, tuple[Callable[[str], Any], int]] = {
    "fastns.AsyncIPRoute": (lambda netns: asynchronous(fastns.AsyncIPRoute), 100),
    "fastns.AsyncNetNS": (lambda netns: asynchronous(fastns.AsyncNetNS, netns), 100),
    "fastns.IPDB": (lambda netns: fastns.IPDB(nl=fastns.NetNS(netns)).release(), 100),
    "fastns.IPRoute": (lambda netns: fastns.IPRoute().close(), 1000),
    "fastns.NetNS": (lambda netns: fastns.NetNS(netns).close(), 1000),
    "fastns.NSPopen": (run_true, 100),
    "fastns.Pool": (pool_and_close, 100),
    "fastns.Proxy": (proxy_and_close, 50),
    "fastns.install": (install_and_back, 50),
    "fastns.uninstall": (install_and_back, 50),
    "fastns.netns.Sysctl": (read_sysctl, 500),
    "fastns.netns.Watch": (watch_a_little, 300),
    "fastns.netns.attach": (attach_and_remove, 100),
    "fastns.netns.create": (make_and_remove, 100),
    "fastns.netns.create_socket": (lambda netns: fnetns.create_socket(netns).close(), 1000),
    "fastns.netns.create_many": (make_and_remove_many, 20),
    "fastns.netns.remove_many": (make_and_remove_many, 20),
    "fastns.netns.dropns": (push_drop_back, 500),
    "fastns.netns.entered": (in_namespace, 1000),
    "fastns.netns.exists": (fnetns.exists, 1000),
    "fastns.netns.getnsfd": (lambda netns: os.close(fnetns.getnsfd(netns)), 1000),
    "fastns.netns.info": (fnetns.info, 50),
    "fastns.netns.listnetns": (lambda netns: fnetns.listnetns(), 1000),
    "fastns.netns.ns_pids": (lambda netns: fnetns.ns_pids(), 20),
    "fastns.netns.pid_to_ns": (lambda netns: fnetns.pid_to_ns(), 20),
    "fastns.netns.open_ref": (lambda netns: os.close(fnetns.open_ref(netns)[0]), 1000),
    "fastns.netns.popns": (push_and_pop, 500),
    "fastns.netns.pushns": (push_and_pop, 500),
    "fastns.netns.remove": (make_and_remove, 100),
    "fastns.netns.run_in": (lambda netns: fnetns.run_in(netns, os.getpid), 500),
    "fastns.netns.setns": (set_and_back, 1000),
    "fastns.netns.sysctl": (read_sysctl, 500),
    "fastns.netns.watch": (watch_a_little, 300),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(CASES))
def test_many_calls_of(name, netns):
    work, times = CASES[name]
    try:
        assert_no_growth(lambda: work(netns), times)
    finally:
        close_shared_proxy()


def public_functions() -> list[str]:
    found = []
    for module in (fastns, fnetns):
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith("fastns"):
                continue
            if isinstance(thing, type) and (issubclass(thing, (Exception, tuple)) or is_dataclass(thing)):
                continue
            found.append(f"{module.__name__}.{name}")
    return found


def test_every_public_function_has_a_case():
    assert sorted(set(public_functions()) - set(CASES)) == []
