"""Time per item against the number of items: whether what is fast for one size stays so for others."""

import pytest
from impls import SLOW, Floor

# Beyond these numbers a library takes minutes.
BOUND = {"growth_routes": 100_000, "growth_links": 1_001, "growth_namespaces": 100}


def bounded(impl, operation, size):
    if impl.name in (*SLOW, "iproute2") and size > BOUND[operation]:
        pytest.skip("kernel: takes too long")


@pytest.mark.operation(
    "growth_routes", method="dump_routes", sizes=(10, 100, 1_000, 10_000, 100_000, 1_000_000)
)
@pytest.mark.timeout(600)
def bench_growth_routes(measure, impl, size, growing_routes):
    bounded(impl, "growth_routes", size)
    netns = growing_routes(size)
    rounds = 1 if impl.name in SLOW and size > 1000 else max(3, min(100, 100_000 // size))
    answers = measure(lambda: impl.dump_routes(netns), items=size, rounds=rounds)
    assert set(answers) == {Floor().dump_routes(netns)[1]}


@pytest.mark.operation("growth_links", method="dump_links", sizes=(1, 11, 101, 1_001))
@pytest.mark.timeout(300)
def bench_growth_links(measure, impl, size, growing_links):
    bounded(impl, "growth_links", size)
    netns = growing_links(size)
    rounds = 3 if impl.name in SLOW else max(5, min(100, 10_000 // size))
    assert set(measure(lambda: impl.dump_links(netns), items=size, rounds=rounds)) == {size}


@pytest.mark.operation("growth_namespaces", method="many", sizes=(1, 10, 100, 1_000))
@pytest.mark.timeout(300)
def bench_growth_namespaces(measure, impl, size, many):
    bounded(impl, "growth_namespaces", size)
    prefix, _ = many
    rounds = 1 if impl.name in SLOW else max(3, min(30, 1_000 // size))
    assert set(measure(lambda: impl.many(prefix, size), items=size, rounds=rounds)) == {size}
