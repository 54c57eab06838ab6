"""Environment record, fixtures, and the clock of the benchmarks.

The clock: an adapter measures its own work (the C floor in C), and `measure` hands those seconds, divided by the
number of items, to pytest-benchmark as if they had passed. So set-up and checks never count, and every number is
seconds per item.

The order: things compared alternate. Each is measured in PASSES passes, and a pass goes once through all of them, so
that a machine that becomes slower does so for all. report.py takes the median of all rounds of all passes.

The length: a pass gives each SECONDS and at least one round. What takes longer than LONG is measured in one pass only.
"""

from __future__ import annotations

import os
import platform
import resource
import secrets
import subprocess
import sys
from importlib import metadata
from time import perf_counter
from typing import Any, Callable, Iterator

import pytest
from impls import ALL, Elsewhere, Floor, Impl, offering
from isolation import acquire, need_privilege, privilege

PASSES = int(os.environ.get("FASTNS_BENCH_PASSES", "3"))
SECONDS = 0.4
LONG = 3.0
SIZES = {
    "routes": (10, 100, 1_000, 10_000, 100_000, 1_000_000),
    "links": (1, 11, 101, 1_001),  # `lo` and pairs
    "namespaces": (1, 10, 100, 1_000),
}


def largest(unit: str, default: int) -> int:
    return int(os.environ.get(f"FASTNS_BENCH_{unit.upper()}", str(default)))


LARGEST = {unit: largest(unit, sizes[-1]) for unit, sizes in SIZES.items()}


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
    config.addinivalue_line(
        "markers",
        "operation(name, sizes=, bounds=): the adapter's method that is measured, and on how many of what",
    )
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
    name, unit = marker.args[0], marker.kwargs.get("sizes")
    bounds = marker.kwargs.get("bounds", {})  # beyond these numbers of items a library takes minutes
    sizes = [size for size in SIZES[unit] if size <= LARGEST[unit]][: 1 if small else None] if unit else [1]
    cases = [
        pytest.param(size, turn, impl, id=f"{size}-pass{turn}-{impl.name}".replace(" ", "-"))
        for size in sizes
        for turn in range(1 if small else PASSES)
        for impl in offering(name)
        if size <= bounds.get(impl.name, size)
    ]
    metafunc.parametrize("size, turn, impl", cases)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Stable: the cases of one benchmark keep their order.
    items.sort(key=lambda item: (str(item.path), item.name.split("[")[0]))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    import fastns

    ip = subprocess.run(["ip", "-V"], check=True, stdout=subprocess.PIPE, text=True)
    machine_info.update(
        kernel=platform.release(),
        cpus=os.cpu_count(),
        memory=f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        passes=PASSES,
        python=sys.version.split()[0],
        fastns=fastns.__version__,
        pyroute2=metadata.version("pyroute2"),
        pyroute2_old=next((impl.version() for impl in ALL if isinstance(impl, Elsewhere)), "none"),
        iproute2=ip.stdout.strip().replace("ip utility, ", ""),
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


LONG_ONES: set[tuple[str, int, str]] = set()


@pytest.fixture
def measure(
    benchmark: Any, small: bool, impl: Impl, size: int, turn: int, request: pytest.FixtureRequest
) -> Callable[..., list[Any]]:
    """measure(work, items, rounds): work() -> seconds, or (seconds, answer); gives the answers of all rounds.

    The first round warms up and tells how many rounds there is time for. Where there is time for none, or
    warm=False, it is the measured one.
    """
    need_privilege()
    marker = request.node.get_closest_marker("operation")
    case = marker.args[0], size, impl.name
    benchmark._timer = CLOCK
    benchmark.group = marker.args[0]
    benchmark.extra_info.update(impl=impl.name, turn=turn)
    if "sizes" in marker.kwargs:
        benchmark.extra_info["size"] = size

    def run(work: Callable[[], Any], items: int = 1, rounds: int = 10, warm: bool = True) -> list[Any]:
        if case in LONG_ONES:
            pytest.skip("kernel: long, once is enough")
        answers = []

        def sample() -> float:
            result = work()
            took, answer = result if isinstance(result, tuple) else (result, None)
            answers.append(answer)
            return took / items

        start = perf_counter()
        first = [sample()]
        took = perf_counter() - start
        if took > LONG:
            LONG_ONES.add(case)
        if warm and not small and took <= SECONDS:
            first.clear()
            rounds = min(rounds, 1 + int(SECONDS / took))
        else:
            rounds = 1

        def one() -> None:
            CLOCK.now += first.pop() if first else sample()

        benchmark.pedantic(one, rounds=rounds, iterations=1)
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
    """A namespace with many routes, and how many its main table has."""
    count = 200 if small else min(100_000, LARGEST["routes"])
    netns, index = make_wired()
    Floor().add_routes_batch(netns, 0x0B000000, count, index)
    yield netns, count
    ip("netns", "del", netns)


@pytest.fixture(scope="session")
def events(small: bool) -> int:
    """How many make a storm."""
    return 300 if small else largest("events", 100_000)


@pytest.fixture(scope="session")
def many(small: bool) -> Iterator[tuple[str, int]]:
    """Many namespaces: their common prefix, and how many."""
    need_privilege()
    count = 3 if small else LARGEST["namespaces"]
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
