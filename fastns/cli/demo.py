"""`fastns demo`: two namespaces, a cable, many routes, and the same requests through pyroute2."""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import select
import shutil
import sys
import time
import warnings
from contextlib import ExitStack
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Callable

import click
import pyroute2
from pyroute2.netlink.exceptions import NetlinkError as Pyroute2Error
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE

import fastns
from fastns import netns
from fastns.cli.base import INSIDE, JSON, stopped_by_signals
from fastns.cli.compare import (
    CABLE,
    COMPARED_ROUTES,
    compare,
    comparisons,
    discard,
    enter_what_is_needed,
    prepare_compared,
    read_routes,
    route_requests,
    show,
    spare_name,
)
from fastns.iproute import NetNS
from fastns.nspopen import NSPopen

if TYPE_CHECKING:
    from rich.console import Console

LEFT, RIGHT = "198.18.0.1", "198.18.0.2"  # RFC 2544: for tests, routed nowhere
CONTENDERS = ("fastns direct", "pyroute2")

# One echo request and its answer, for machines without ping(8). icmp(7).
PING = """
import os, select, socket, struct, sys, time
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xffff, 1)
body = b"fastns demo...."[:14]
began = time.perf_counter()
sock.sendto(struct.pack("!BBHHH", 8, 0, checksum(head + body), os.getpid() & 0xffff, 1) + body, (sys.argv[1], 0))
while select.select([sock], [], [], 5)[0]:
    answer = sock.recv(2048)
    if answer[20] == 0 and answer[24:26] == struct.pack("!H", os.getpid() & 0xffff):
        print(f"answer after {(time.perf_counter() - began) * 1e3:.3f} ms")
        sys.exit(0)
sys.exit(1)
"""


@click.command()
@click.option("--routes", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000), help="How many to load.")
@JSON
def demo(routes: int, as_json: bool) -> None:
    """Show fastns at work on two namespaces of its own, beside pyroute2. Leaves nothing behind.

    Without root it does so in a user namespace (`fastns rootless`).
    """
    enter_what_is_needed()
    from rich.console import Console

    console = Console(stderr=as_json, quiet=as_json)
    with stopped_by_signals():
        result = Demo(console, routes).run()
    if as_json:
        print(json.dumps(result, indent=2))


class Demo:
    def __init__(self, console: Console, routes: int) -> None:
        self.owner = os.getpid()
        self.console = console
        self.routes = routes
        mark = secrets.token_hex(4)
        self.left, self.right = f"fastns-{mark}-left", f"fastns-{mark}-right"
        self.extra = f"fastns-{mark}-more"
        self.result: dict[str, Any] = {
            "fastns": fastns.__version__,
            "pyroute2": getattr(pyroute2, "__version__", None),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "cpus": len(os.sched_getaffinity(0)),
            "rootless": bool(os.environ.get(INSIDE)),
            "namespaces": [self.left, self.right],
        }

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def run(self) -> dict[str, Any]:
        where = "a user namespace of its own" if self.result["rootless"] else f"{netns.NETNS_RUN_DIR} of this machine"
        self.say(f"fastns {fastns.__version__}, pyroute2 {self.result['pyroute2']}, Linux {self.result['kernel']}")
        try:
            with ExitStack() as stack:
                self.build(stack, where)
                self.ping()
                self.load()
                self.dump()
            self.compare()
        finally:
            if os.getpid() == self.owner:
                self.remove()
        self.report()
        return self.result

    def build(self, stack: ExitStack, where: str) -> None:
        self.a = stack.enter_context(NetNS(self.left, flags=os.O_CREAT | os.O_EXCL, transport="direct"))
        self.b = stack.enter_context(NetNS(self.right, flags=os.O_CREAT | os.O_EXCL, transport="direct"))
        self.say(f"created   {self.left} and {self.right} in {where}")
        self.a.link("add", ifname="demo0", kind="veth", peer={"ifname": "demo1", "net_ns_fd": self.right})
        for ns, name, address in ((self.a, "demo0", LEFT), (self.b, "demo1", RIGHT)):
            (index,) = ns.link_lookup(ifname=name)
            ns.addr("add", index=index, address=address, prefixlen=CABLE)
            ns.link("set", index=index, state="up")
        self.say(f"cabled    demo0 {LEFT}/{CABLE} <-> demo1 {RIGHT}/{CABLE}")

    def ping(self) -> None:
        wait_for_carrier(self.a, "demo0")
        if shutil.which("ping"):
            argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", RIGHT]
        else:
            argv = [sys.executable, "-I", "-c", PING, RIGHT]
        with NSPopen(self.left, argv, stdout=PIPE, text=True) as child:
            try:
                out, _ = child.communicate(timeout=30)
            except BaseException:
                child.kill()
                raise
        if child.returncode != 0:
            raise OSError(child.returncode, f"no answer to ping: {out.strip()}")
        line = out.strip().splitlines()[-1]
        self.result["ping"] = line
        self.say(f"pinged    {line} (NSPopen, pid {child.pid})")

    def load(self) -> None:
        """Load the routes. Their events pile up in the proxy process's ring meanwhile, and are read now and then."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with ExitStack() as stack:
            watcher = Watcher(stack.enter_context(NetNS(self.left, flags=0)), self.routes)
            progress = stack.enter_context(Progress(*columns, console=self.console, refresh_per_second=5))
            loaded = progress.add_task("loading", total=self.routes)
            seen = progress.add_task("events", total=self.routes)
            reading = 0.0

            def tell(count: int) -> None:
                nonlocal reading
                began = time.perf_counter()
                watcher.read(0)
                progress.update(loaded, completed=count)
                progress.update(seen, completed=watcher.seen)
                reading += time.perf_counter() - began

            began = time.perf_counter()
            self.add_routes(tell)
            took = time.perf_counter() - began - reading
            watcher.read(3)
            progress.update(seen, completed=watcher.seen)
        self.result["load"] = {"routes": self.routes, "seconds": took}
        self.result["events"] = {"expected": self.routes, "received": watcher.seen, "lost_records": watcher.lost}
        self.say(f"loaded    {self.routes:,} routes in {took:.2f} s, {took / self.routes * 1e6:.1f} µs each (batch)")
        lost = f", loss reported {watcher.lost} times" if watcher.lost else ""
        self.say(f"received  {watcher.seen:,} events through the proxy process{lost}")

    def add_routes(self, tell: Callable[[int], Any]) -> None:
        """tell(count) every thousand routes, and at the end."""
        with self.a.batch() as batch:
            for number, request in enumerate(route_requests(self.routes, RIGHT), 1):
                batch.route("add", **request)
                if number % 1000 == 0:
                    tell(number)
        tell(self.routes)

    def dump(self) -> None:
        began = time.perf_counter()
        found = read_routes(self.a)
        took = time.perf_counter() - began
        if found < self.routes:
            raise OSError(0, f"the dump has {found} routes, {self.routes} were loaded")
        self.result["dump"] = {"routes": found, "seconds": took}
        self.say(f"dumped    {found:,} routes, 3 fields read from each, in {took * 1e3:.0f} ms")

    def compare(self) -> None:
        """The same requests through both libraries, on a namespace with fewer routes."""
        with self.console.status("the same through pyroute2"), ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # pyroute2 forks, which Python 3.12 warns about in a process with threads
            netns.create(self.extra)
            prepare_compared(self.extra)
            try:
                self.result["comparison"] = [
                    compared(work, compare(runs)) for work, runs in comparisons(self.extra, CONTENDERS)
                ]
            except Pyroute2Error as error:
                raise OSError(error.code, f"pyroute2: {error}") from None

    def remove(self) -> None:
        left = discard((self.left, self.right, self.extra, spare_name(self.extra)))
        self.result["removed"] = not left
        self.say("removed   everything" if not left else f"could not remove {'; '.join(left)}")

    def report(self) -> None:
        from rich.table import Table

        table = Table(title=f"the same requests, medians, namespace with {COMPARED_ROUTES:,} routes")
        for title in ("work", "pyroute2", "fastns", "times"):
            table.add_column(title, justify="left" if title == "work" else "right")
        for row in self.result["comparison"]:
            table.add_row(row["work"], show(row["pyroute2_s"]), show(row["fastns_s"]), f"{row['ratio']:.1f}")
        self.console.print(table)


def compared(work: str, seconds: dict[str, float]) -> dict[str, Any]:
    ours, theirs = (seconds[name] for name in CONTENDERS)
    return {"work": work, "pyroute2_s": theirs, "fastns_s": ours, "ratio": theirs / ours}


class Watcher:
    """Counts the route events of a handle; they reach it through the shared proxy process."""

    def __init__(self, handle: Any, expected: int) -> None:
        self.handle = handle
        self.expected = expected
        self.seen = self.lost = 0
        handle.bind(RTMGRP_IPV4_ROUTE)
        self.poll = select.poll()
        self.poll.register(handle.fileno(), select.POLLIN)

    def read(self, patience: float) -> None:
        """Read what is there; with `patience`, until all have come or nothing has for that many seconds."""
        while self.seen < self.expected and self.poll.poll(patience * 1000):
            try:
                messages = self.handle.get()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            self.seen += sum(message["event"] == "RTM_NEWROUTE" for message in messages)


def wait_for_carrier(handle: Any, ifname: str) -> None:
    """A new cable carries nothing until the kernel's link watch has seen it, up to a second later."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        (link,) = handle.link("get", ifname=ifname)
        if link.get("operstate") == "UP":
            return
        time.sleep(0.01)
