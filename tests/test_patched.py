"""Programs that have exchanged the blocking functions of the standard library: eventlet's, gevent's."""

from __future__ import annotations

import textwrap

import pytest
from patching import PATCH, need, run

pytestmark = pytest.mark.root

IMPORTS = "import fastns.aio, fastns.dropin, fastns.ipdb, fastns.iproute, fastns.monitor, fastns.nspopen, fastns.pool\n"
COMMON = """
import asyncio, os, signal, subprocess, sys, time
import fastns
from fastns import IPDB, AsyncNetNS, NSPopen, NetNS, netns
name = sys.argv[1]

mtus = iter(range(1300, 1400))

def change(ns):
    ns.link("set", index=1, mtu=next(mtus))

def begun(greenlet):
    for _ in range(5):
        time.sleep(0)
    return greenlet

def ends(wait):
    try:
        wait(timeout=0.01)
    except TimeoutError:
        return True

def ask(ns):
    return sum(len(ns.get_links()) == len(ns.get_links()) == 1 for _ in range(200))
"""
# What others can see done only if it lets them: each waits for what the main greenlet does behind it.
WAITS = {
    "monitor.get": """
        with NetNS(name, transport=TRANSPORT) as ns, ns.monitor() as events:
            waiter = begun(spawn(events.get))
            change(ns)
            assert join(waiter)["event"] == "RTM_NEWLINK"
            assert ends(events.get)
            assert os.path.exists(f"/proc/self/fd/{ns.fileno()}") and os.path.exists(f"/proc/self/fd/{events.fileno()}")
    """,
    "monitor, iterated until it is closed": """
        with NetNS(name, transport=TRANSPORT) as ns:
            events = ns.monitor()
            seen = []
            waiter = begun(spawn(lambda: [seen.append(item["event"]) for item in events]))
            change(ns)
            while not seen:
                time.sleep(0)
            events.close()
            join(waiter)
            assert "RTM_NEWLINK" in seen
    """,
    "get": """
        with NetNS(name, transport=TRANSPORT) as ns:
            ns.bind()
            waiter = begun(spawn(ns.get))
            change(ns)
            assert join(waiter)[0]["event"] == "RTM_NEWLINK"
    """,
    "get, by two, and one of them gets nothing": """
        with NetNS(name, transport=TRANSPORT) as ns:
            ns.bind()
            waiters = [begun(spawn(ns.get)) for _ in range(2)]
            change(ns)
            change(ns)
            assert [join(waiter)[0]["event"] for waiter in waiters] == ["RTM_NEWLINK"] * 2
    """,
    "get, until it is closed": """
        ns = NetNS(name, transport=TRANSPORT)
        ns.bind()
        def wait():
            try:
                ns.get()
            except OSError as error:
                return error.errno
        waiter = begun(spawn(wait))
        ns.close()
        assert join(waiter) == 9
    """,
    "watch": """
        with netns.watch() as events:
            waiter = begun(spawn(events.get))
            netns.create(name + "w")
            assert join(waiter) == ("created", name + "w")
            netns.remove(name + "w")
            assert events.get() == ("removed", name + "w")
            assert ends(events.get)
    """,
    "IPDB": """
        with NetNS(name, transport=TRANSPORT) as ns, IPDB(nl=ns) as ip:
            done = []
            other = spawn(lambda: [done.append(len(ns.get_links())) or time.sleep(0) for _ in range(20)])
            for mtu in (1400, 1500):
                with ip.interfaces.lo as lo:
                    lo.mtu = mtu
            with ip.interfaces.lo as lo:
                lo.up()
            assert ns.get_links(1)[0].get("mtu") == 1500
            join(other)
            assert len(done) == 20
    """,
    "IPDB, events": """
        with NetNS(name, transport=TRANSPORT) as ns, IPDB(nl=ns) as ip, ip.eventqueue() as events:
            called = []
            ip.register_callback(lambda ipdb, msg, action: called.append(action))
            dog = ip.watchdog("RTM_NEWLINK", ifname="lo", mtu=1444)
            waiters = [begun(spawn(dog.wait, None)), begun(spawn(next, events))]
            ns.link("set", index=1, mtu=1444)
            assert [join(waiter) for waiter in waiters][1]["event"] == "RTM_NEWLINK"
            while "RTM_NEWLINK" not in called:
                time.sleep(0)
    """,
    "Pool.map": """
        both = [name, f"{netns.NETNS_RUN_DIR}/{name}"]
        with NetNS(name) as ns, fastns.Pool(transport=TRANSPORT) as pool:
            for workers in (1, 2):
                for one in both:
                    pool[one].bind()
                waiter = begun(spawn(pool.map, lambda ns: ns.get()[0]["event"], both, workers=workers))
                change(ns)
                assert join(waiter) == dict.fromkeys(both, "RTM_NEWLINK")
    """,
    "a coroutine": """
        ready = []
        async def events_of():
            async with AsyncNetNS(name, transport=TRANSPORT) as ns, ns.monitor() as events:
                ready.append(len([link async for link in await ns.get_links()]))
                async for item in events:
                    return item["event"]
        with NetNS(name) as ns:
            waiter = begun(spawn(asyncio.run, events_of()))
            while not ready:
                time.sleep(0)
            change(ns)
            assert (join(waiter), ready) == ("RTM_NEWLINK", [1])
    """,
}
# Of their own Popen, whose wait is green, NSPopen is made where they have put it there in time.
OF_PROCESSES = {
    "NSPopen.wait": """
        with NSPopen(name, ["cat"], stdin=subprocess.PIPE) as child:
            waiter = begun(spawn(child.wait))
            child.stdin.close()
            assert join(waiter) == 0
    """,
    "NSPopen.communicate": """
        reading, writing = os.pipe()
        with NSPopen(name, ["cat"], stdin=reading, stdout=subprocess.PIPE) as child:
            os.close(reading)
            waiter = begun(spawn(child.communicate))
            os.write(writing, b"text")
            os.close(writing)
            assert join(waiter) == (b"text", None)
    """,
}
WORK = {
    "a forked child": """
        with NetNS(name, transport="relay") as ns, ns.monitor() as events:
            pid = os.fork()
            if pid == 0:
                signal.alarm(60)
                with NetNS(name, transport="relay") as own, own.monitor() as seen:
                    change(own)
                    os._exit(seen.get()["event"] != "RTM_NEWLINK")
            assert os.waitpid(pid, 0)[1] == 0
            assert events.get()["event"] == "RTM_NEWLINK"
            next(mtus)
    """,
    "processes": """
        here = os.readlink("/proc/self/ns/net")
        argv = ["readlink", "/proc/self/ns/net"]
        user, group = os.getuid(), os.getgid()
        if open("/proc/self/uid_map").read().split()[2] == "4294967295":  # there are others
            user = group = 65534
        for options in ({}, {"exec_like_ip": True}, {"preexec_fn": os.getpid}, {"user": user, "group": group}):
            with NSPopen(name, argv, stdout=subprocess.PIPE, **options) as child:
                there = child.communicate()[0].decode().strip()
                assert child.wait() == 0
            assert there == f"net:[{netns.info(name).inode}]" != here, options
        child = NSPopen(name, ["sh", "-c", "echo $PPID; read x; exit 7"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert int(child.stdout.readline()) == os.getpid()
        child.stdin.close()
        assert child.wait() == 7
        child.release()
        child = NSPopen(name, ["sleep", "60"])
        pid = child.pid
        child.release()
        os.kill(pid, signal.SIGKILL)
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)
        try:
            NSPopen(name, ["/nonexistent/program"])
        except FileNotFoundError as error:
            assert error.filename == "/nonexistent/program"
        else:
            raise AssertionError
    """,
    "a handle shared by greenlets and threads of the system": """
        for transport in ("direct", "relay"):
            with NetNS(name, transport=transport) as ns, fastns.Pool(transport=transport) as pool:
                greenlets = [spawn(in_thread, ask, ns) for _ in range(3)]
                greenlets += [spawn(in_thread, lambda: ask(pool[name])) for _ in range(3)]
                greenlets += [spawn(ask, ns) for _ in range(3)]
                assert [join(greenlet) for greenlet in greenlets] == [200] * 9
    """,
    "a thread of the system that waits for events": """
        with NetNS(name) as ns, ns.monitor() as events:
            waiter = begun(spawn(in_thread, events.get))
            change(ns)
            assert join(waiter)["event"] == "RTM_NEWLINK"
            change(ns)
            assert events.get()["event"] == "RTM_NEWLINK"
    """,
    "pyroute2's names": """
        fastns.install()
        import pyroute2
        with pyroute2.NetNS(name) as ns:
            assert isinstance(ns, NetNS)
            assert ns.link_lookup(ifname="lo") == [1]
        fastns.uninstall()
    """,
}


@pytest.fixture(params=sorted(PATCH))
def library(request):
    return need(request.param)


@pytest.fixture(params=["patched first", "imported first"])
def order(request):
    return request.param


def run_each(library, order, parts, name, transport="auto"):
    """One program of all parts: it says which it has begun."""
    beginning = PATCH[library] + IMPORTS if order == "patched first" else IMPORTS + PATCH[library]
    program = beginning + COMMON + f"TRANSPORT = {transport!r}\n"
    for part, body in parts.items():
        program += f"print({part!r}, flush=True)\n{textwrap.dedent(body)}"
    done = run(["-c", program, name])
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == list(parts)


@pytest.mark.parametrize("transport", ["direct", "relay"])
def test_the_other_greenlets_go_on(library, order, transport, netns):
    run_each(library, order, {**WAITS, **(OF_PROCESSES if order == "patched first" else {})}, netns, transport)


def test_all_the_rest_works(library, order, netns):
    run_each(library, order, WORK, netns)
