"""Environment record, fixtures, and the clock of the benchmarks.

The clock: an adapter measures its own work (the C floor in C), and `measure` hands those seconds, divided by the
number of items, to pytest-benchmark as if they had passed. So set-up and checks never count, and every number is
seconds per item.

The order: things compared alternate. Each is measured in PASSES passes, and a pass goes once through all of them, so
that a machine that becomes slower does so for all. report.py takes the median of all rounds of all passes.
"""

from __future__ import annotations

import os
import platform
import resource
import secrets
import subprocess
import sys
from importlib import metadata
from typing import Any, Callable, Iterator

import pytest
from impls import ALL, Elsewhere, Floor, Impl, offering
from isolation import acquire, need_privilege, privilege

PASSES = int(os.environ.get("FASTNS_BENCH_PASSES", "3"))


class Clock:
    """Stands still but for what `measure` adds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


def enabled(config: pytest.Config) -> bool:
    return not config.getoption("benchmark_disable", False) or config.getoption("benchmark_enable", False)


def pytest_configure(config: pytest.Config) -> None:
    for category in (
        "ResourceWarning",
        "pytest.PytestUnraisableExceptionWarning",
    ):  # the other libraries' own
        config.addinivalue_line("filterwarnings", f"ignore::{category}")
    config.addinivalue_line("markers", "operation(name, method=, sizes=): what a benchmark measures")
    if not enabled(config):
        return
    import fastns._core

    if fastns._core.BUILD != "release":
        pytest.exit(f"benchmarks say nothing about a {fastns._core.BUILD} build", returncode=4)


def pytest_report_header() -> list[str]:
    acquire()
    return [f"fastns: namespaces: {privilege.reason or ('own' if privilege.isolated else 'of this machine')}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("operation")
    if marker is None:
        return
    small = not enabled(metafunc.config)
    sizes = marker.kwargs.get("sizes")
    if sizes:
        metafunc.parametrize("size", sizes[:1] if small else sizes)
    passes = range(1 if small or sizes else PASSES)
    metafunc.parametrize("turn", passes, ids=[f"pass{n}" for n in passes])
    method = marker.kwargs.get("method", marker.args[0])
    metafunc.parametrize("impl", offering(method), ids=lambda impl: impl.name.replace(" ", "-"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def order(item: pytest.Item) -> tuple[str, str, int]:
        spec = getattr(item, "callspec", None)
        return str(item.path), item.name.split("[")[0], spec.params.get("turn", 0) if spec else 0

    items.sort(key=order)  # stable: within a pass the adapters keep their order


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "none"

    ip = subprocess.run(["ip", "-V"], check=False, capture_output=True, text=True)
    machine_info.update(
        kernel=platform.release(),
        cpus=os.cpu_count(),
        python=sys.version.split()[0],
        fastns=version("fastns"),
        pyroute2=version("pyroute2"),
        iproute2=(ip.stdout or ip.stderr).strip(),
        as_root=os.geteuid() == 0,
    )


def pytest_sessionfinish() -> None:
    for impl in ALL:
        if isinstance(impl, Elsewhere):
            impl.stop()


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest) -> bool:
    """Only as a test: sizes are small and each thing runs once."""
    return not enabled(request.config)


@pytest.fixture
def measure(
    benchmark: Any, small: bool, impl: Impl, turn: int, request: pytest.FixtureRequest
) -> Callable[..., list[Any]]:
    """measure(work, items, rounds): work() -> seconds, or (seconds, answer); gives the answers of all rounds."""
    need_privilege()
    benchmark._timer = CLOCK
    benchmark.group = request.node.get_closest_marker("operation").args[0]
    benchmark.extra_info.update(impl=impl.name, turn=turn)
    if "size" in request.fixturenames:
        benchmark.extra_info["size"] = request.getfixturevalue("size")

    def run(work: Callable[[], Any], items: int = 1, rounds: int = 10, warm: bool = True) -> list[Any]:
        answers = []

        def one() -> None:
            result = work()
            took, answer = result if isinstance(result, tuple) else (result, None)
            CLOCK.now += took / items
            answers.append(answer)

        benchmark.extra_info["items"] = items
        benchmark.pedantic(
            one, rounds=1 if small else rounds, iterations=1, warmup_rounds=0 if small or not warm else 1
        )
        return answers

    return run


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def fresh_name() -> str:
    return f"bench-{secrets.token_hex(4)}"


@pytest.fixture
def name() -> Iterator[str]:
    """A name no namespace has."""
    need_privilege()
    name = fresh_name()
    yield name
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def make_wired() -> tuple[str, int]:
    """A namespace with a veth pair that is up, and the index of its end."""
    need_privilege()
    netns = fresh_name()
    ip("netns", "add", netns)
    ip("-n", netns, "link", "set", "lo", "up")
    ip("-n", netns, "link", "add", "b0", "type", "veth", "peer", "name", "b1")
    for end in ("b0", "b1"):
        ip("-n", netns, "link", "set", end, "up")
    listing = subprocess.run(
        ["ip", "-n", netns, "-o", "link", "show", "b0"], check=True, capture_output=True, text=True
    )
    return netns, int(listing.stdout.split(":")[0])


@pytest.fixture(scope="session")
def wired() -> Iterator[tuple[str, int]]:
    netns, index = make_wired()
    yield netns, index
    ip("netns", "del", netns)


@pytest.fixture
def fresh_wired() -> Iterator[tuple[str, int]]:
    netns, index = make_wired()
    yield netns, index
    ip("netns", "del", netns)


@pytest.fixture(scope="session")
def routed(small: bool) -> Iterator[tuple[str, int]]:
    """A namespace with many routes, and how many its main table has (FASTNS_BENCH_ROUTES)."""
    count = int(os.environ.get("FASTNS_BENCH_ROUTES", "200" if small else "100000"))
    netns, index = make_wired()
    Floor().add_routes_batch(netns, 0x0B000000, count, index)
    yield netns, count
    ip("netns", "del", netns)


@pytest.fixture(scope="session")
def linked(small: bool) -> Iterator[tuple[str, int]]:
    """A namespace with many links, and how many (FASTNS_BENCH_LINKS)."""
    pairs = int(os.environ.get("FASTNS_BENCH_LINKS", "20" if small else "1000")) // 2
    netns, _ = make_wired()
    lines = "".join(f"link add l{n} type veth peer name m{n}\n" for n in range(pairs))
    subprocess.run(
        ["ip", "-n", netns, "-batch", "-"], input=lines, check=True, text=True, capture_output=True
    )
    yield netns, 2 * pairs + 3
    ip("netns", "del", netns)


@pytest.fixture(scope="session")
def many(small: bool) -> Iterator[tuple[str, int]]:
    """Many namespaces: their common prefix, and how many (FASTNS_BENCH_NAMESPACES)."""
    need_privilege()
    count = int(os.environ.get("FASTNS_BENCH_NAMESPACES", "3" if small else "1000"))
    prefix = fresh_name() + "-"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for command in ("add", "del"):
        if command == "del":
            yield prefix, count
        lines = "".join(f"netns {command} {prefix}{number}\n" for number in range(count))
        subprocess.run(["ip", "-batch", "-"], input=lines, check=True, text=True, capture_output=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="session")
def growing_routes() -> Iterator[Callable[[int], str]]:
    """A namespace with at least that many routes, asked for in rising order."""
    netns, index = make_wired()
    have = 0

    def grow(size: int) -> str:
        nonlocal have
        if size > have:
            Floor().add_routes_batch(netns, 0x0B000000 + have, size - have, index)
            have = size
        return netns

    yield grow
    ip("netns", "del", netns)


@pytest.fixture(scope="session")
def growing_links() -> Iterator[Callable[[int], str]]:
    """A namespace with exactly that many links (an odd number: `lo` and pairs), asked for in rising order."""
    need_privilege()
    netns = fresh_name()
    ip("netns", "add", netns)
    have = 1

    def grow(size: int) -> str:
        nonlocal have
        pairs = range(have // 2, size // 2)
        lines = "".join(f"link add l{n} type veth peer name m{n}\n" for n in pairs)
        subprocess.run(
            ["ip", "-n", netns, "-batch", "-"], input=lines, check=True, text=True, capture_output=True
        )
        have = max(have, size)
        return netns

    yield grow
    ip("netns", "del", netns)
