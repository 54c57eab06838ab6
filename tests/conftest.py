"""Fixtures, the privilege probe and the leak guard. See CONTRIBUTING.md for how to run which ring of tests."""

from __future__ import annotations

import gc
import os
import random
import secrets
import signal
import subprocess
import time
import traceback
import warnings
from typing import Iterator

import pytest
from guard import leaks, look
from hypothesis import HealthCheck, settings
from isolation import ON_HOST, RUN_DIR, STRICT, acquire, need_privilege, unavailable

from fastns.iproute import NetNS
from fastns.proxy import Proxy

# A gate gives the same answer twice; everything else looks for what is new. The workers of a parallel session take it
# from the environment.
SEED = int(os.environ.get("FASTNS_SEED") or (1 if STRICT else secrets.randbits(32)))
os.environ["FASTNS_SEED"] = str(SEED)

settings.register_profile(
    "fastns",
    deadline=None,
    derandomize=STRICT,
    print_blob=True,
    max_examples=int(os.environ.get("FASTNS_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("fastns")

FAILURE = pytest.StashKey[BaseException]()


def pytest_report_header(config: pytest.Config) -> list[str]:
    in_workers = config.pluginmanager.hasplugin("dsession")  # others run the tests, each in namespaces of its own
    if in_workers and ON_HOST:
        raise pytest.UsageError("FASTNS_TEST_HOST=1: tests beside each other would meet on the machine; without -n")
    rights = acquire(isolate=not in_workers and not ON_HOST).reason
    where = "this machine" if ON_HOST else "own network and mount namespace" + " of each worker" * in_workers
    return [f"fastns: FASTNS_SEED={SEED}, namespaces: {rights or where}"]


def pytest_collection(session: pytest.Session) -> None:
    """Before a module of tests is imported, in a worker too, which shows no header."""
    acquire()


def pytest_configure(config: pytest.Config) -> None:
    """A shell that runs us in the background has SIGINT and SIGQUIT ignored, which programs under test would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is not None:
        need_privilege()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Where all is promised to be there, a skip is a failure unless it is the kernel or the interpreter that lacks."""
    report = yield
    if call.excinfo is not None:
        item.stash[FAILURE] = call.excinfo.value
    if report.skipped and STRICT and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(("kernel:", "python:")):
            report.outcome = "failed"
            report.longrepr = f"skipped, which FASTNS_REQUIRE_ROOT=1 does not allow: {reason}"
    return report


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that FASTNS_SEED, printed in the session's header, brings back."""
    return random.Random(f"{SEED} {request.node.nodeid}")


def let_go(error: BaseException | None) -> None:
    """Close what the frames of a failed test hold, or it would fail the tests that follow."""
    if error is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        while error is not None:
            for frame, _ in traceback.walk_tb(error.__traceback__):
                try:
                    frame.clear()
                except RuntimeError:  # it still runs
                    continue
                len(frame.f_locals)  # before Python 3.13 a copy, which this brings up to date
            error = error.__context__
        gc.collect()


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing a test opens, starts or mounts may outlive it."""
    before = look()
    yield
    let_go(request.node.stash.get(FAILURE, None))
    found = leaks(before)
    if found:
        pytest.fail("the test left something behind:\n  " + "\n  ".join(found), pytrace=False)


def new_name() -> str:
    return f"fns-{secrets.token_hex(5)}"


def discard(name: str) -> None:
    """Remove the entry `name` in whatever half-made state it is."""
    path = os.path.join(RUN_DIR, name)
    for _ in range(8):  # a name can carry several mounts
        if subprocess.run(["umount", "-l", path], check=False, capture_output=True).returncode != 0:
            break
    try:
        os.unlink(path)
    except OSError:
        pass


@pytest.fixture
def nsname() -> Iterator[str]:
    """A fresh name in the run directory; whatever stands under it afterwards is removed."""
    need_privilege()
    name = new_name()
    try:
        yield name
    finally:
        discard(name)


def make(name: str) -> None:
    done = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        unavailable(f"ip netns add: {done.stderr.strip()}")


@pytest.fixture
def netns(nsname: str) -> str:
    """The name of a fresh, created namespace."""
    make(nsname)
    return nsname


@pytest.fixture
def missing() -> Iterator[str]:
    """A name without a namespace, beside the fixture `netns`."""
    name = new_name()
    yield name
    discard(name)


@pytest.fixture
def nsfd(netns: str) -> Iterator[int]:
    """A descriptor of the namespace `netns`."""
    fd = os.open(os.path.join(RUN_DIR, netns), os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def sleeper(netns: str) -> Iterator[int]:
    """The pid of a process inside `netns`."""
    inside = os.stat(os.path.join(RUN_DIR, netns)).st_ino
    process = subprocess.Popen(["ip", "netns", "exec", netns, "sleep", "600"])
    while os.stat(f"/proc/{process.pid}/ns/net").st_ino != inside:
        time.sleep(0.002)
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def netns_pair() -> Iterator[tuple[str, str]]:
    """The names of two fresh, created namespaces."""
    need_privilege()
    pair = new_name(), new_name()
    try:
        for name in pair:
            make(name)
        yield pair
    finally:
        for name in pair:
            discard(name)


@pytest.fixture
def ifname() -> Iterator[str]:
    """A fresh interface name, 11 characters; an interface of that name in the session's namespace is removed."""
    need_privilege()
    name = f"fns{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


@pytest.fixture(params=["direct", "relay"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def ns(netns: str, transport: str) -> Iterator[NetNS]:
    """A handle in `netns`, over the one transport and the other."""
    with NetNS(netns, transport=transport) as handle:
        yield handle


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made
