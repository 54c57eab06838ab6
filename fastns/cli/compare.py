"""The same work through fastns, pyroute2 and `ip`, timed in turns: for `fastns demo` and `fastns bench`.

Short, and on the user's machine: which is faster and by what factor. The measurements to quote are those of `make bench`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import statistics
import subprocess
import time
from contextlib import nullcontext
from typing import Any, Callable, Iterable, Iterator

import pyroute2

from fastns import netns
from fastns.cli.base import fail
from fastns.cli.doctor import try_create, try_run_dir
from fastns.cli.rootless import enter_rootless, explain_rootless
from fastns.iproute import NetNS
from fastns.nspopen import NSPopen

CABLE = 30
COMPARED_ROUTES = 5_000
ROUNDS = 3

Timed = Callable[[int], float]  # does the work so often; seconds of one
Runs = dict[str, tuple[Timed, int]]  # contender: how it does it, and how often in one round


def enter_what_is_needed() -> None:
    """A user namespace where this one has no right to make network namespaces."""
    if try_create() or try_run_dir():
        try:
            enter_rootless()
        except OSError as error:
            fail(explain_rootless(error))
        refused = try_create() or try_run_dir()
        if refused:
            fail(refused)


def route_requests(count: int, gateway: str) -> Iterator[dict[str, Any]]:
    for number in range(count):
        block = number + (10 << 24)  # 10.0.0.0 and on
        yield {"dst": f"{block >> 24}.{block >> 16 & 255}.{block >> 8 & 255}.{block & 255}", "dst_len": 32, "gateway": gateway}


def read_routes(handle: Any) -> int:
    """Dump the IPv4 routes and read 3 fields of each; how many there were."""
    found = 0
    for route in handle.get_routes(family=socket.AF_INET):
        if route["dst_len"] == 32 and route.get("dst") and route.get("gateway"):
            found += 1
    return found


def spare_name(name: str) -> str:
    return f"{name}-again"


def get_link(handle: Any) -> Any:
    return handle.link("get", index=1)


def prepare_compared(name: str) -> None:
    with NetNS(name, flags=0, transport="direct") as ns:
        ns.link("add", ifname="demo2", kind="veth", peer="demo3")
        for link in ("demo2", "demo3"):
            (index,) = ns.link_lookup(ifname=link)
            ns.link("set", index=index, state="up")
        (index,) = ns.link_lookup(ifname="demo2")
        ns.addr("add", index=index, address="198.19.0.1", prefixlen=CABLE)
        for request in route_requests(COMPARED_ROUTES, "198.19.0.2"):
            ns.route("add", **request)


def comparisons(name: str, contenders: Iterable[str]) -> Iterator[tuple[str, Runs]]:
    """Each work, and how those of the contenders that can do it do."""
    ip = Ip(name)
    libraries: dict[str, tuple[Any, dict[str, Any]]] = {
        "fastns direct": (NetNS, {"transport": "direct"}),
        "fastns relay": (NetNS, {"transport": "relay"}),
        "pyroute2": (pyroute2.NetNS, {}),
    }
    wanted = tuple(contenders)

    def chosen(counts: tuple[int, int, int, int], make: Callable[..., Timed], by_ip: Timed | None) -> Runs:
        """`counts`: direct, relay, pyroute2, ip."""
        found: Runs = {}
        for (key, (cls, options)), count in zip(libraries.items(), counts):
            if key in wanted and count:
                found[key] = make(cls, options), count
        if "ip" in wanted and by_ip is not None and ip.found:
            found["ip"] = by_ip, counts[3]
        return found

    def opening(cls: Any, options: dict[str, Any]) -> Timed:
        return lambda n: clock(lambda: cls(name, **options).close(), n)

    def using(work: Callable[[Any], Any]) -> Callable[..., Timed]:
        def make(cls: Any, options: dict[str, Any]) -> Timed:
            def timed(n: int) -> float:
                with cls(name, flags=0, **options) as ns:
                    work(ns)
                    return clock(lambda: work(ns), n)

            return timed

        return make

    def adding(batched: bool) -> Callable[..., Timed]:
        def make(cls: Any, options: dict[str, Any]) -> Timed:
            def timed(n: int) -> float:
                with cls(name, flags=0, **options) as ns:
                    requests = list(compared_routes(n))
                    began = time.perf_counter()
                    with ns.batch() if batched and cls is NetNS else nullcontext(ns) as target:
                        for request in requests:
                            target.route("add", **request)
                    took = time.perf_counter() - began
                    for request in requests:
                        ns.route("del", **request)
                    return took / n

            return timed

        return make

    def creating(cls: Any, options: dict[str, Any]) -> Timed:
        module = netns if cls is NetNS else pyroute2.netns
        spare = spare_name(name)

        def both() -> None:
            module.create(spare)
            module.remove(spare)

        return lambda n: clock(both, n)

    def starting(cls: Any, options: dict[str, Any]) -> Timed:
        start = NSPopen if cls is NetNS else pyroute2.NSPopen

        def one() -> None:
            child = start(name, ["true"])
            child.wait()
            child.release()

        return lambda n: clock(one, n)

    yield "open and close a handle", chosen((100, 50, 8, 5), opening, ip.opening)
    yield "link('get', index=1)", chosen((300, 200, 60, 200), using(get_link), ip.getting)
    yield "route('add', …)", chosen((600, 300, 120, 300), adding(False), ip.adding)
    yield "route('add', …) in a batch", chosen((3000, 3000, 120, 0), adding(True), None)
    yield f"dump {COMPARED_ROUTES:,} routes", chosen((5, 5, 1, 2), using(read_routes), ip.dumping)
    yield "create and remove a namespace", chosen((10, 0, 10, 5), creating, ip.creating)
    yield "run `true` and wait (NSPopen)", chosen((10, 0, 5, 5), starting, ip.starting)


class Ip:
    """The same with the program: started anew, or with -batch where it is many of the same."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found = shutil.which("ip") is not None

    def run(self, *argv: str, lines: str = "") -> str:
        done = subprocess.run(["ip", *argv], input=lines, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(done.returncode, f"ip {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def batch(self, lines: str) -> None:
        self.run("-n", self.name, "-batch", "-", lines=lines)

    def opening(self, n: int) -> float:
        return clock(lambda: self.run("-n", self.name, "link", "show", "lo"), n)

    def getting(self, n: int) -> float:
        return clock(lambda: self.batch("link show lo\n" * n), 1) / n

    def adding(self, n: int) -> float:
        routes = [f"{request['dst']} via {request['gateway']}\n" for request in compared_routes(n)]
        took = clock(lambda: self.batch("".join(f"route add {route}" for route in routes)), 1) / n
        self.batch("".join(f"route del {route}" for route in routes))
        return took

    def dumping(self, n: int) -> float:
        return clock(lambda: self.run("-n", self.name, "-4", "route", "show"), n)

    def creating(self, n: int) -> float:
        spare = spare_name(self.name)

        def both() -> None:
            self.run("netns", "add", spare)
            self.run("netns", "del", spare)

        return clock(both, n)

    def starting(self, n: int) -> float:
        return clock(lambda: self.run("netns", "exec", self.name, "true"), n)


def compared_routes(count: int) -> Iterator[dict[str, Any]]:
    """Routes beside those that are there."""
    return ({**r, "dst": r["dst"].replace("10.", "11.", 1)} for r in route_requests(count, "198.19.0.2"))


def clock(work: Callable[[], Any], n: int) -> float:
    began = time.perf_counter()
    for _ in range(n):
        work()
    return (time.perf_counter() - began) / n


def compare(runs: Runs) -> dict[str, float]:
    """Rounds in turns; the median of each contender's, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, (work, count) in runs.items():
            times[name].append(work(count))
    return {name: statistics.median(found) for name, found in times.items()}


def show(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds >= 0.01 else f"{seconds * 1e6:,.0f} µs"


def discard(names: Iterable[str]) -> list[str]:
    """Remove these namespaces, and do not be interrupted half-way; what could not be removed, and why."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left = []
    for name in names:
        try:
            netns.remove(name)
        except FileNotFoundError:
            pass
        except OSError as error:
            left.append(f"{name}: {error.strerror}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return left
