"""Programs that have exchanged the blocking functions of the standard library: eventlet's, gevent's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

TREE = Path(__file__).resolve().parent.parent
IMPORTS = "import fastns.aio, fastns.dropin, fastns.ipdb, fastns.iproute, fastns.monitor, fastns.nspopen, fastns.pool\n"
# `spawn`, `join` and `in_thread` (a thread of the system, waited for by the greenlet alone) as each library has them.
PATCH = {
    "eventlet": """
        import warnings
        warnings.simplefilter("ignore")
        import eventlet, eventlet.tpool
        eventlet.monkey_patch()
        spawn, join, in_thread = eventlet.spawn, lambda greenlet: greenlet.wait(), eventlet.tpool.execute
    """,
    "gevent": """
        import gevent, gevent.monkey
        gevent.monkey.patch_all()
        spawn, join = gevent.spawn, lambda greenlet: greenlet.get()
        def in_thread(func, *args):
            return gevent.get_hub().threadpool.spawn(func, *args).get()
    """,
}
COMMON = """
    import os, sys, time
    import fastns
    from fastns import IPDB, NSPopen, NetNS, netns
    name = sys.argv[1]

    mtus = iter(range(1300, 1400))

    def change(ns):
        ns.link("set", index=1, mtu=next(mtus))

    def soon():
        time.sleep(0.01)

    def begun(greenlet):
        for _ in range(5):
            time.sleep(0)
        return greenlet
"""


@pytest.fixture(params=sorted(PATCH))
def library(request):
    return request.param


@pytest.fixture(params=["before the import", "after the import"])
def patched(library, request):
    """What a program begins with that patches before or after it imports fastns."""
    patch = textwrap.dedent(PATCH[library])
    return patch + IMPORTS if request.param == "before the import" else IMPORTS + patch


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(TREE), *sys.path[1:]]))}


def run(beginning, program, *args):
    """One that blocks the hub where it should not waits for itself, until the time is over."""
    text = beginning + textwrap.dedent(COMMON) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text, *args],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


WAITS = {
    "monitor.get": """
        with NetNS(name, transport=TRANSPORT) as ns, ns.monitor() as events:
            waiter = begun(spawn(events.get))
            change(ns)
            assert join(waiter)["event"] == "RTM_NEWLINK"
    """,
    "monitor, iterated until it is closed": """
        with NetNS(name, transport=TRANSPORT) as ns:
            events = ns.monitor()
            waiter = begun(spawn(lambda: [item["event"] for item in events]))
            change(ns)
            soon()
            events.close()
            assert "RTM_NEWLINK" in join(waiter)
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
    "IPDB, an event": """
        with NetNS(name, transport=TRANSPORT) as ns, IPDB(nl=ns) as ip:
            dog = ip.watchdog("RTM_NEWLINK", ifname="lo", mtu=1444)
            waiter = begun(spawn(dog.wait, None))
            ns.link("set", index=1, mtu=1444)
            assert join(waiter)
    """,
}


@pytest.mark.parametrize("transport", ["direct", "relay"])
def test_the_other_greenlets_go_on(patched, transport, netns):
    """One program for all waits: it says which it has begun."""
    program = f"TRANSPORT = {transport!r}\n"
    for wait, body in WAITS.items():
        program += f"print({wait!r}, flush=True)\n{textwrap.dedent(body)}"
    assert run(patched, program, netns).splitlines() == list(WAITS)


def test_a_wait_has_its_end(patched, netns):
    run(
        patched,
        """
        def ends(wait):
            try:
                wait(timeout=0.01)
            except TimeoutError:
                return True

        with NetNS(name) as ns, ns.monitor() as events, netns.watch() as names:
            assert ends(events.get) and ends(names.get)
            assert os.path.exists(f"/proc/self/fd/{ns.fileno()}") and os.path.exists(f"/proc/self/fd/{names.fileno()}")
        """,
        netns,
    )


def test_processes(patched, netns):
    """Of gevent's own sort where gevent has patched before, of eventlet's likewise, else the interpreter's."""
    out = run(
        patched,
        """
        import subprocess
        here = os.readlink("/proc/self/ns/net")
        argv = ["readlink", "/proc/self/ns/net"]
        assert issubclass(NSPopen, sys.modules["fastns.nspopen"].subprocess.Popen) or IMPORTED_FIRST
        for options in ({}, {"exec_like_ip": True}, {"preexec_fn": os.getpid}, {"user": 65534, "group": 65534}):
            with NSPopen(name, argv, stdout=subprocess.PIPE, **options) as child:
                there = child.communicate()[0].decode().strip()
                assert child.wait() == 0
            assert there == f"net:[{netns.info(name).inode}]" != here, options
        child = NSPopen(name, ["sh", "-c", "echo $PPID; read x; exit 7"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        print(int(child.stdout.readline()) == os.getpid())
        child.stdin.close()
        assert child.wait() == 7
        child.release()
        try:
            NSPopen(name, ["/nonexistent/program"])
        except FileNotFoundError as error:
            assert error.filename == "/nonexistent/program"
        else:
            raise AssertionError
        """.replace("IMPORTED_FIRST", str(patched.startswith(IMPORTS))),
        netns,
    )
    assert out == "True\n"


@pytest.mark.parametrize("transport", ["direct", "relay"])
def test_a_handle_is_shared_by_greenlets_and_threads_of_the_system(patched, transport, netns):
    run(
        patched,
        f"""
        def ask(ns):
            return sum(len(ns.get_links()) == len(ns.get_links()) == 1 for _ in range(200))

        with NetNS(name, transport={transport!r}) as ns, fastns.Pool(transport={transport!r}) as pool:
            greenlets = [spawn(in_thread, ask, ns) for _ in range(3)]
            greenlets += [spawn(in_thread, lambda: ask(pool[name])) for _ in range(3)]
            greenlets += [spawn(ask, ns) for _ in range(3)]
            assert [join(greenlet) for greenlet in greenlets] == [200] * 9
        """,
        netns,
    )


def test_a_thread_of_the_system_waits_for_events(patched, netns):
    run(
        patched,
        """
        with NetNS(name) as ns, ns.monitor() as events:
            waiter = begun(spawn(in_thread, events.get))
            soon()
            ns.link("set", index=1, state="up")
            assert join(waiter)["event"] == "RTM_NEWLINK"
            ns.link("set", index=1, state="down")
            assert events.get()["event"] == "RTM_NEWLINK"
        """,
        netns,
    )


def test_a_forked_child(patched, netns):
    run(
        patched,
        """
        import signal
        signal.alarm(60)
        with NetNS(name, transport="relay") as ns, ns.monitor() as events:
            pid = os.fork()
            if pid == 0:
                with NetNS(name, transport="relay") as own, own.monitor() as seen:
                    own.link("set", index=1, state="up")
                    os._exit(seen.get()["event"] != "RTM_NEWLINK")
            assert os.waitpid(pid, 0)[1] == 0
            assert events.get()["event"] == "RTM_NEWLINK"
        """,
        netns,
    )


def test_pyroute2s_names(patched, netns):
    run(
        patched,
        """
        fastns.install()
        import pyroute2
        with pyroute2.NetNS(name) as ns:
            assert isinstance(ns, NetNS)
            assert ns.link_lookup(ifname="lo") == [1]
        fastns.uninstall()
        """,
        netns,
    )


# Files of tests, and those of them that are about what the library has exchanged.
CORE = {
    "tests/test_batch.py": {},
    "tests/test_dropin.py": {},
    "tests/test_iproute.py": {},
    "tests/test_iproute_events.py": {"test_readiness[epoll": "eventlet gevent", "test_readiness[poll": "eventlet"},
    "tests/test_monitor.py": {},
    "tests/test_nspopen.py": {
        "test_communicate_timeout_and_again": "eventlet gevent",  # their output so far is none
        "test_files_have_fcntl_methods_and_stay_files": "eventlet gevent",  # files of their own
        "test_text_modes": "gevent",
        "test_preexec_fn_that_fails": "gevent",  # raises what that raised
        "test_release_leaves_a_running_child": "gevent",  # which waits by itself
        "test_unreleased_objects_warn": "gevent",  # warns of none
    },
    "tests/test_pool.py": {},
    "tests/test_table.py": {},
    "tests/ipdb/test_commit.py": {},
    "tests/netns/test_watch.py": {"test_watch_descriptor_limit": "gevent"},  # the hub of a forked child takes some
}
FEW = {"FASTNS_EXAMPLES": "5", "FASTNS_STORMS": "2", "FASTNS_LEAK_CYCLES": "100", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.mark.parametrize("path", sorted(CORE))
def test_the_core_of_the_suite(library, path):
    program = textwrap.dedent(PATCH[library]) + "import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    options = ["-q", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
    options += ["-o", "addopts=--strict-markers --import-mode=importlib -ra"]
    options += ["-W", "ignore:Using fork:DeprecationWarning"]  # eventlet's opinion
    for test, libraries in CORE[path].items():
        if library in libraries.split():
            options += ["--deselect", f"{path}::{test}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *options, path],
        env={**environment(), **FEW},
        cwd=TREE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
