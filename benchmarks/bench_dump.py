"""Dumps with three fields read from each message."""

import pytest
from impls import SLOW, Floor


@pytest.mark.operation("dump_routes")
def bench_dump_routes(measure, benchmark, impl, routed):
    netns, count = routed
    slow = impl.name in SLOW
    benchmark.extra_info["routes"] = count
    answers = measure(lambda: impl.dump_routes(netns), rounds=1 if slow else 5)
    assert set(answers) == {Floor().dump_routes(netns)[1]}
    assert answers[0] > count


@pytest.mark.operation("dump_columns")
def bench_dump_columns(measure, benchmark, impl, routed):
    netns, count = routed
    benchmark.extra_info["routes"] = count
    answers = measure(lambda: impl.dump_columns(netns))
    assert set(answers) == {Floor().dump_routes(netns)[1]}


@pytest.mark.operation("dump_links")
def bench_dump_links(measure, benchmark, impl, linked):
    netns, count = linked
    benchmark.extra_info["links"] = count
    answers = measure(lambda: impl.dump_links(netns), rounds=3 if impl.name in SLOW else 10)
    assert set(answers) == {count}
