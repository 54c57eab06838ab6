"""Dumps, with three fields read from each message, from few messages to many."""

import pytest
from impls import Floor


@pytest.mark.operation("dump_routes", sizes="routes", bounds={"pyroute2": 100_000, "pyroute2 0.7": 100_000})
@pytest.mark.timeout(300)
def bench_dump_routes(measure, impl, size, growing_routes):
    netns = growing_routes(size)
    answers = measure(lambda: impl.dump_routes(netns), items=size)
    assert set(answers) == {Floor().dump_routes(netns)[1]}
    assert answers[0] > size


@pytest.mark.operation("dump_columns")
def bench_dump_columns(measure, benchmark, impl, routed):
    netns, count = routed
    benchmark.extra_info["routes"] = count
    answers = measure(lambda: impl.dump_columns(netns))
    assert set(answers) == {Floor().dump_routes(netns)[1]}


@pytest.mark.operation("dump_links", sizes="links")
@pytest.mark.timeout(300)
def bench_dump_links(measure, impl, size, growing_links):
    netns = growing_links(size)
    assert set(measure(lambda: impl.dump_links(netns), items=size)) == {size}
