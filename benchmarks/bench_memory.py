"""Memory, shared pages in parts: what a held dump takes, and what open handles take. The clock counts bytes here."""

import pytest


@pytest.mark.operation("hold_routes")
@pytest.mark.timeout(300)
def bench_memory_of_held_dump(measure, benchmark, impl, routed, wired):
    netns, count = routed
    benchmark.extra_info["routes"] = count
    answers = measure(lambda: impl.hold_routes(netns, wired[0]), warm=False)
    assert answers[0] > count


@pytest.mark.operation("hold_handles")
@pytest.mark.timeout(300)
def bench_memory_of_handles(measure, benchmark, impl, many):
    prefix, count = many
    count = min(count, 100)
    benchmark.extra_info["namespaces"] = count
    processes = set(measure(lambda: impl.hold_handles(prefix, count), warm=False))
    assert processes == {{"fastns relay": 1, "pyroute2 0.7": count}.get(impl.name, 0)}
