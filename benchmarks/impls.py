"""One adapter per library. Every method does `count` times the same work and returns the seconds that took.

Set-up (opening the handle a request runs on, making the input) is outside the measured time everywhere. Where a
program is measured (`ip`), its start is inside and shared by the items of one run, as it is for who uses it that way.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Callable, ClassVar, Iterator

RUN_DIR = "/var/run/netns"
NO_SUCH = 0x7FFFFFF  # an interface
RTM_GETLINK, RTM_GETROUTE = 18, 26
TRUE = next(path for path in ("/usr/bin/true", "/bin/true") if os.path.exists(path))


def timed(func: Callable[[], Any]) -> float:
    start = perf_counter()
    func()
    return perf_counter() - start


def address(number: int) -> str:
    return socket.inet_ntoa(number.to_bytes(4, "big"))


class Impl:
    """What is measured. An operation a library does not offer stays as it is here."""

    name: ClassVar[str]

    def open_close(self, netns: str, count: int) -> float:
        raise NotImplementedError

    def link_get(self, netns: str, count: int) -> tuple[float, str]:
        """Seconds and the interface's name as it was answered."""
        raise NotImplementedError

    def dump_routes(self, netns: str) -> tuple[float, int]:
        """Seconds and the number of messages; destination, its length and the interface are read from each."""
        raise NotImplementedError

    def dump_columns(self, netns: str) -> tuple[float, int]:
        """As dump_routes, into columns; each value of three columns is read."""
        raise NotImplementedError

    def dump_links(self, netns: str) -> tuple[float, int]:
        """Seconds and the number of messages; index, name and MTU are read from each."""
        raise NotImplementedError

    def storm(self, netns: str, first: int, count: int, oif: int) -> tuple[int, bool]:
        """How many events are received, with default settings, of `count` routes added from C; whether in order."""
        raise NotImplementedError

    def storm_asleep(self, netns: str, first: int, count: int, oif: int) -> tuple[int, bool]:
        """The same for a receiver that does nothing until the storm is over."""
        raise NotImplementedError

    def hold_routes(self, netns: str, small: str) -> tuple[int, int]:
        """Bytes that a kept dump takes, and its length; `small` is another namespace, to warm up on."""
        raise NotImplementedError

    def hold_handles(self, prefix: str, count: int) -> tuple[int, int]:
        """Bytes that open handles take, here and in processes they have, and how many processes those are."""
        raise NotImplementedError

    def add_routes(self, netns: str, first: int, count: int, oif: int) -> float:
        raise NotImplementedError

    def add_routes_batch(self, netns: str, first: int, count: int, oif: int) -> float:
        raise NotImplementedError

    def batch_some_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        """As add_routes_batch, each hundredth by an interface that is not there; and how many failed."""
        raise NotImplementedError

    def batch_all_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        raise NotImplementedError

    def event(self, netns: str, first: int, count: int, oif: int) -> float:
        """From asking for a route to having its event, one after the other."""
        raise NotImplementedError

    def each(self, prefix: str, count: int) -> tuple[float, int]:
        """As many, over handles that are open already."""
        raise NotImplementedError

    def create_remove(self, name: str, count: int) -> float:
        raise NotImplementedError

    def spawn(self, netns: str, count: int) -> float:
        raise NotImplementedError

    def many(self, prefix: str, count: int) -> tuple[float, int]:
        """Seconds and the number of links: a handle in each of the namespaces `prefix`0…, a dump on each, then close."""
        raise NotImplementedError

    def ndb(self, prefix: str, count: int) -> tuple[float, int]:
        """Seconds until pyroute2's NDB has loaded the namespaces `prefix`0…, and how many of their links it knows."""
        raise NotImplementedError


class Floor(Impl):
    """C with plain system calls in the same process."""

    name = "floor"
    _lib: ClassVar[ctypes.CDLL | None] = None

    @classmethod
    def lib(cls) -> ctypes.CDLL:
        if cls._lib is None:
            source = Path(__file__).with_name("floor.c")
            digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
            built = Path(tempfile.gettempdir()) / f"fastns-floor-{os.getuid()}-{digest}.so"
            if not built.exists():
                partial = built.with_suffix(f".{os.getpid()}")
                cc = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
                subprocess.run([cc, "-O2", "-shared", "-fPIC", str(source), "-o", str(partial)], check=True)
                partial.rename(built)
            cls._lib = ctypes.CDLL(str(built), use_errno=True)
        return cls._lib

    def call(self, function: str, *args: Any) -> float:
        entry = getattr(self.lib(), function)
        entry.restype = ctypes.c_int64
        result = entry(*args)
        if result < 0:
            raise OSError(-result, f"{function}: {os.strerror(-result)}")
        return float(result) / 1e9

    @staticmethod
    def path(netns: str) -> bytes:
        return f"{RUN_DIR}/{netns}".encode()

    def open_close(self, netns: str, count: int) -> float:
        return self.call("floor_open_close", self.path(netns), count)

    def link_get(self, netns: str, count: int) -> tuple[float, str]:
        name = ctypes.create_string_buffer(16)
        return self.call("floor_link_get", self.path(netns), count, name), name.value.decode()

    def dump(self, netns: str, kind: int, family: int) -> tuple[float, int]:
        count, total = ctypes.c_int64(), ctypes.c_uint64()
        took = self.call(
            "floor_dump", self.path(netns), kind, family, ctypes.byref(count), ctypes.byref(total)
        )
        return took, count.value

    def dump_routes(self, netns: str) -> tuple[float, int]:
        return self.dump(netns, RTM_GETROUTE, socket.AF_INET)

    dump_columns = dump_routes

    def dump_links(self, netns: str) -> tuple[float, int]:
        return self.dump(netns, RTM_GETLINK, 0)

    def add(
        self, netns: str, first: int, count: int, oif: int, chunked: int, every: int = 0
    ) -> tuple[float, int]:
        failed = ctypes.c_int64()
        number = ctypes.c_uint32(first)
        took = self.call(
            "floor_add_routes", self.path(netns), number, count, oif, chunked, every, ctypes.byref(failed)
        )
        return took, failed.value

    def add_routes(self, netns: str, first: int, count: int, oif: int) -> float:
        return self.add(netns, first, count, oif, 0)[0]

    def add_routes_batch(self, netns: str, first: int, count: int, oif: int) -> float:
        return self.add(netns, first, count, oif, 1)[0]

    def batch_some_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        return self.add(netns, first, count, oif, 1, 100)

    def batch_all_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        return self.add(netns, first, count, oif, 1, 1)

    def event(self, netns: str, first: int, count: int, oif: int) -> float:
        return self.call("floor_event", self.path(netns), ctypes.c_uint32(first), count, oif)

    def create_remove(self, name: str, count: int) -> float:
        return self.call("floor_create_remove", self.path(name), count)

    def spawn(self, netns: str, count: int) -> float:
        return self.call("floor_spawn", self.path(netns), TRUE.encode(), count)

    def many(self, prefix: str, count: int) -> tuple[float, int]:
        messages = ctypes.c_int64()
        return self.call("floor_many", self.path(prefix), count, ctypes.byref(messages)), messages.value


class PythonAPI(Impl):
    """pyroute2's API, whoever implements it."""

    module: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    def package(self) -> Any:
        import importlib

        return importlib.import_module(self.module)

    def handle(self, netns: str) -> Any:
        return self.package().NetNS(netns, flags=0, **self.options)

    def open_close(self, netns: str, count: int) -> float:
        handle = self.handle

        def work() -> None:
            for _ in range(count):
                handle(netns).close()

        return timed(work)

    def link_get(self, netns: str, count: int) -> tuple[float, str]:
        with self.handle(netns) as ns:
            links: list[Any] = []

            def work() -> None:
                for _ in range(count):
                    links[:] = ns.link("get", index=1)
                    links[0].get_attr("IFLA_IFNAME")

            took = timed(work)
            return took, links[0].get_attr("IFLA_IFNAME")

    def dump_routes(self, netns: str) -> tuple[float, int]:
        with self.handle(netns) as ns:
            total = count = 0

            def work() -> None:
                nonlocal total, count
                for route in ns.get_routes(family=socket.AF_INET):
                    total += (
                        route["dst_len"]
                        + (route.get_attr("RTA_OIF") or 0)
                        + len(route.get_attr("RTA_DST") or "")
                    )
                    count += 1

            return timed(work), count

    def dump_links(self, netns: str) -> tuple[float, int]:
        with self.handle(netns) as ns:
            total = count = 0

            def work() -> None:
                nonlocal total, count
                for link in ns.get_links():
                    total += link["index"] + link.get_attr("IFLA_MTU") + len(link.get_attr("IFLA_IFNAME"))
                    count += 1

            return timed(work), count

    def storm(self, netns: str, first: int, count: int, oif: int, asleep: bool = False) -> tuple[int, bool]:
        received: list[bytes] = []
        over, enough = threading.Event(), threading.Event()

        def cause() -> None:
            Floor().add_routes_batch(netns, first, count, oif)
            over.set()
            for mark in range(1, 1000):  # routes below `first`, so that the receiver learns of the end
                Floor().add_routes_batch(netns, mark << 8, 1, oif)
                if enough.wait(0.1):
                    break

        thread = threading.Thread(target=cause)
        try:
            with self.handle(netns) as ns:
                ns.bind()
                thread.start()
                if asleep:
                    over.wait()
                while not enough.is_set():
                    routes = [message for message in ns.get() if message["event"] == "RTM_NEWROUTE"]
                    received += [socket.inet_aton(route.get_attr("RTA_DST")) for route in routes]
                    if received and (received[-1] < first.to_bytes(4, "big") or len(received) == count):
                        enough.set()
        except OSError:  # events were dropped; what comes after is not counted
            enough.set()
        thread.join()
        received = [dst for dst in received if dst >= first.to_bytes(4, "big")]
        return len(received), received == sorted(received)

    def storm_asleep(self, netns: str, first: int, count: int, oif: int) -> tuple[int, bool]:
        return self.storm(netns, first, count, oif, asleep=True)

    def event(self, netns: str, first: int, count: int, oif: int) -> float:
        prefixes = [f"{address(first + n)}/32" for n in range(count)]
        with self.handle(netns) as ns, self.handle(netns) as listener:
            listener.bind()

            def work() -> None:
                for prefix in prefixes:
                    ns.route("add", dst=prefix, oif=oif)
                    while not any(message["event"] == "RTM_NEWROUTE" for message in listener.get()):
                        pass

            return timed(work)

    def hold_routes(self, netns: str, small: str) -> tuple[int, int]:
        return self.alone("HOLD_ROUTES", netns, small)

    def hold_handles(self, prefix: str, count: int) -> tuple[int, int]:
        return self.alone("HOLD_HANDLES", prefix, count)

    def alone(self, script: str, *args: Any) -> tuple[int, int]:
        """In a process of its own, so that nothing left in an allocator by other work is counted."""
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            MEMORY + globals()[script],
            self.name,
            *map(str, args),
        ]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PATH}
        )
        nbytes, number = done.stdout.split()
        return int(nbytes), int(number)

    def add_routes(self, netns: str, first: int, count: int, oif: int) -> float:
        prefixes = [f"{address(first + n)}/32" for n in range(count)]
        with self.handle(netns) as ns:

            def work() -> None:
                for prefix in prefixes:
                    ns.route("add", dst=prefix, oif=oif)

            return timed(work)

    def create_remove(self, name: str, count: int) -> float:
        netns = self.package().netns

        def work() -> None:
            for _ in range(count):
                netns.create(name)
                netns.remove(name)

        return timed(work)

    def spawn(self, netns: str, count: int) -> float:
        popen = self.package().NSPopen

        def work() -> None:
            for _ in range(count):
                process = popen(netns, [TRUE])
                status = process.wait()
                process.release()
                if status:
                    raise RuntimeError(f"true ended with {status}")

        return timed(work)

    def many(self, prefix: str, count: int) -> tuple[float, int]:
        handles: list[Any] = []
        links = 0

        def work() -> None:
            nonlocal links
            for number in range(count):
                handles.append(self.handle(f"{prefix}{number}"))
                links += len(list(handles[-1].get_links()))

        try:
            return timed(work), links
        finally:
            for handle in handles:
                handle.close()

    def ndb(self, prefix: str, count: int) -> tuple[float, int]:
        # in a process of its own: NDB's threads, and what install() changes, end with it
        script = NDB.format(install="import fastns; fastns.install()" if self.module == "fastns" else "")
        command = [sys.executable, "-W", "ignore", "-c", script, prefix, str(count)]
        env = {**os.environ, "PYTHONPATH": PATH}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
        seconds, links = done.stdout.split()
        return float(seconds), int(links)


class FastnsDirect(PythonAPI):
    name = "fastns direct"
    module = "fastns"
    options: ClassVar[dict[str, Any]] = {"transport": "direct"}

    def dump_columns(self, netns: str) -> tuple[float, int]:
        with self.handle(netns) as ns:
            total = count = 0

            def work() -> None:
                nonlocal total, count
                routes = ns.table("route", family=socket.AF_INET)
                total = sum(memoryview(routes["oif"])) + sum(memoryview(routes["dst_len"]))
                count = len(routes)

            return timed(work), count

    def add_routes_batch(self, netns: str, first: int, count: int, oif: int) -> float:
        prefixes = [f"{address(first + n)}/32" for n in range(count)]
        with self.handle(netns) as ns:

            def work() -> None:
                with ns.batch() as batch:
                    for prefix in prefixes:
                        batch.route("add", dst=prefix, oif=oif)

            return timed(work)

    def failing(self, netns: str, first: int, count: int, oif: int, every: int) -> tuple[float, int]:
        items = [(f"{address(first + n)}/32", NO_SUCH if n % every == 0 else oif) for n in range(count)]
        failed = 0
        with self.handle(netns) as ns:

            def work() -> None:
                nonlocal failed
                with ns.batch(errors="collect") as batch:
                    for prefix, to in items:
                        batch.route("add", dst=prefix, oif=to)
                failed = len(batch.errors)

            return timed(work), failed

    def batch_some_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        return self.failing(netns, first, count, oif, 100)

    def batch_all_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        return self.failing(netns, first, count, oif, 1)

    def event(self, netns: str, first: int, count: int, oif: int) -> float:
        prefixes = [f"{address(first + n)}/32" for n in range(count)]
        with self.handle(netns) as ns, ns.monitor(groups=[7]) as monitor:

            def work() -> None:
                for prefix in prefixes:
                    ns.route("add", dst=prefix, oif=oif)
                    if monitor.get(10)["event"] != "RTM_NEWROUTE":
                        raise RuntimeError("another event")

            return timed(work)

    def each(self, prefix: str, count: int) -> tuple[float, int]:
        names = [f"{prefix}{number}" for number in range(count)]
        links = 0

        def work() -> None:
            nonlocal links
            links = sum(len(found) for found in pool.each("link", names=names).values())

        with self.package().Pool(count, **self.options) as pool:
            work()
            return timed(work), links


PATH = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parent.parent)))  # for scripts

MEMORY = """
import gc, os, sys
import impls
impl = next(impl for impl in impls.ALL if impl.name == sys.argv[1])
def children():
    return open(f"/proc/self/task/{os.getpid()}/children").read().split()
def share(pid="self"):
    gc.collect()
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
"""

HOLD_ROUTES = """
netns, small = sys.argv[2:]
impl.dump_links(small)  # imports and pools are not the dump's
impl.link_get(small, 1)
with impl.handle(netns) as ns:
    before = share()
    held = list(ns.get_routes(family=2))
    print(share() - before, len(held))
"""

HOLD_HANDLES = """
prefix, count = sys.argv[2], int(sys.argv[3])
impl.dump_links(prefix + "0")  # imports are not the handles'
before = share()
handles = [impl.handle(f"{prefix}{number}") for number in range(count)]
for handle in handles:
    list(handle.get_links())
print(share() - before + sum(map(share, children())), len(children()))
for handle in handles:
    handle.close()
"""

NDB = """
{install}
import sys
from time import perf_counter
from pyroute2 import NDB
names = [sys.argv[1] + str(number) for number in range(int(sys.argv[2]))]
start = perf_counter()
ndb = NDB(log="off", sources=[dict(target=name, kind="netns", netns=name) for name in names])
took = perf_counter() - start
print(took, sum(record.index > 0 for record in ndb.interfaces.dump()))
ndb.close()
"""


class FastnsRelay(FastnsDirect):
    name = "fastns relay"
    options: ClassVar[dict[str, Any]] = {"transport": "relay"}
    create_remove = Impl.create_remove  # goes through no handle, so there is nothing to compare
    spawn = Impl.spawn

    ndb = Impl.ndb  # the handles are AsyncIPRoute, whose events come through the proxy in either case


class Pyroute2(PythonAPI):
    name = "pyroute2"
    module = "pyroute2"


class Iproute2(Impl):
    """`ip`, with `-batch` where several items are one piece of work."""

    name = "iproute2"

    @staticmethod
    def ip(*args: str, lines: Iterator[str] | None = None) -> str:
        text = None if lines is None else "".join(lines)
        return subprocess.run(["ip", *args], input=text, check=True, stdout=subprocess.PIPE, text=True).stdout

    def batch(self, netns: str, lines: list[str]) -> float:
        return timed(lambda: self.ip("-n", netns, "-batch", "-", lines=iter(lines)))

    def open_close(self, netns: str, count: int) -> float:
        return timed(lambda: [self.ip("-n", netns, "link", "show", "lo") for _ in range(count)])

    def link_get(self, netns: str, count: int) -> tuple[float, str]:
        out = ""

        def work() -> None:
            nonlocal out
            out = self.ip("-n", netns, "-batch", "-", lines=iter(["link show dev lo\n"] * count))

        return timed(work), out.split()[1].rstrip(":")

    def dump_routes(self, netns: str) -> tuple[float, int]:
        return self._show(netns, "-4", "route", "show", "table", "all")

    def dump_links(self, netns: str) -> tuple[float, int]:
        return self._show(netns, "-o", "link", "show")

    def _show(self, netns: str, *args: str) -> tuple[float, int]:
        with tempfile.TemporaryFile() as out:
            took = timed(lambda: subprocess.run(["ip", "-n", netns, *args], check=True, stdout=out))
            out.seek(0)
            return took, out.read().count(b"\n")

    def add_routes(self, netns: str, first: int, count: int, oif: int) -> float:
        device = self.ip("-n", netns, "-o", "link", "show").split("\n")
        name = (
            next(line.split()[1] for line in device if line.startswith(f"{oif}:")).rstrip(":").split("@")[0]
        )
        return self.batch(
            netns, [f"route add {address(first + n)}/32 dev {name} proto static\n" for n in range(count)]
        )

    add_routes_batch = add_routes

    def batch_some_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        return self.failing(netns, first, count, oif, 100)

    def batch_all_fail(self, netns: str, first: int, count: int, oif: int) -> tuple[float, int]:
        return self.failing(netns, first, count, oif, 1)

    def failing(self, netns: str, first: int, count: int, oif: int, every: int) -> tuple[float, int]:
        # `ip` looks interfaces up itself: what fails here is a gateway that nothing reaches.
        lines = [f"route add {address(first + n)}/32 via 255.255.255.254\n" for n in range(count)]
        name = self.ip("-n", netns, "-o", "link", "show").split(f"{oif}: ")[1].split("@")[0].split(":")[0]
        for n in range(count):
            if n % every:
                lines[n] = f"route add {address(first + n)}/32 dev {name} proto static\n"
        command = ["ip", "-n", netns, "-force", "-batch", "-"]
        text = "".join(lines)
        failed = 0

        def work() -> None:
            nonlocal failed
            done = subprocess.run(command, input=text, check=False, capture_output=True, text=True)
            failed = done.stderr.count("Command failed")

        return timed(work), failed

    def create_remove(self, name: str, count: int) -> float:
        def work() -> None:
            for _ in range(count):
                self.ip("netns", "add", name)
                self.ip("netns", "del", name)

        return timed(work)

    def spawn(self, netns: str, count: int) -> float:
        return timed(lambda: [self.ip("netns", "exec", netns, TRUE) for _ in range(count)])

    def storm(self, netns: str, first: int, count: int, oif: int) -> tuple[int, bool]:
        with tempfile.TemporaryFile() as out:
            command = ["ip", "-n", netns, "-4", "monitor", "route"]
            monitor = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
            sleep(0.5)
            Floor().add_routes_batch(netns, first, count, oif)
            size = -1
            while os.fstat(out.fileno()).st_size > size and monitor.poll() is None:
                size = os.fstat(out.fileno()).st_size
                sleep(0.5)
            monitor.kill()
            monitor.wait()
            out.seek(0)
            return out.read().count(b"\n"), True

    def many(self, prefix: str, count: int) -> tuple[float, int]:
        links = 0

        def work() -> None:
            nonlocal links
            for number in range(count):
                links += self.ip("-n", f"{prefix}{number}", "-o", "link", "show").count("\n")

        return timed(work), links


class Subprocess(Impl):
    """What starting the same program costs without any namespace."""

    name = "subprocess"

    def spawn(self, netns: str, count: int) -> float:
        return timed(lambda: [subprocess.run([TRUE], check=True) for _ in range(count)])


class Elsewhere(Impl):
    """Another release of a library, in a process of its own interpreter that runs the adapter and times it there."""

    name = "pyroute2 0.7"
    adapter = "pyroute2"

    def __init__(self, python: str) -> None:
        self.python = python
        self.process: subprocess.Popen[str] | None = None

    def ask(self, operation: str, *args: Any) -> Any:
        if self.process is None:
            self.process = subprocess.Popen(
                [self.python, "-W", "ignore", __file__, self.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([operation, *args]) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except BaseException:  # a late answer would be taken for that of the next question
            self.process.kill()
            self.stop()
            raise
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}: {answer}")
        return tuple(answer) if isinstance(answer, list) else answer

    def version(self) -> str:
        script = "from importlib.metadata import version; print(version('pyroute2'))"
        return subprocess.run(
            [self.python, "-c", script], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None

    def asked(operation: str) -> Any:
        return lambda self, *args: self.ask(operation, *args)

    open_close, link_get, add_routes = asked("open_close"), asked("link_get"), asked("add_routes")
    dump_routes, dump_links = asked("dump_routes"), asked("dump_links")
    event = asked("event")  # no storm: after one, get() may wait for ever
    hold_routes, hold_handles = asked("hold_routes"), asked("hold_handles")
    create_remove, spawn = asked("create_remove"), asked("spawn")
    many, ndb = asked("many"), asked("ndb")


OLD_PYTHON = os.environ.get("FASTNS_BENCH_PYROUTE2_07", "")  # an interpreter that has pyroute2 0.7.12
ALL: list[Impl] = [Floor(), FastnsDirect(), FastnsRelay(), Pyroute2(), Iproute2(), Subprocess()]
if OLD_PYTHON:
    ALL.append(Elsewhere(OLD_PYTHON))
SLOW = ("pyroute2", "pyroute2 0.7")


def offering(operation: str) -> list[Impl]:
    return [impl for impl in ALL if getattr(type(impl), operation) is not getattr(Impl, operation)]


def serve(adapter: str) -> None:
    """One request in, one answer out, for Elsewhere."""
    impl = next(impl for impl in ALL if impl.name == adapter)
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        operation, *args = json.loads(line)
        try:
            answer = getattr(impl, operation)(*args)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
