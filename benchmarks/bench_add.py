"""Add routes: one by one, each acknowledged before the next; and in a batch, each accounted for."""

import itertools

import pytest
from impls import SLOW, Floor


def add(measure, method, netns, index, count, rounds):
    before = Floor().dump_routes(netns)[1]
    firsts = itertools.count(0x0B000000, 1 << 16)
    answers = measure(lambda: method(netns, next(firsts), count, index), items=count, rounds=rounds)
    assert Floor().dump_routes(netns)[1] == before + count * len(answers)


@pytest.mark.operation("add_routes")
def bench_add_routes(measure, impl, fresh_wired, small):
    count = 2 if small else 100 if impl.name in SLOW else 5000
    add(measure, impl.add_routes, *fresh_wired, count, 5)


@pytest.mark.operation("add_routes_batch")
def bench_add_routes_batch(measure, impl, fresh_wired, small):
    count = 2 if small else 20000
    add(measure, impl.add_routes_batch, *fresh_wired, count, 5)


def fail(measure, method, netns, index, count, failing):
    before = Floor().dump_routes(netns)[1]
    firsts = itertools.count(0x0B000000, 1 << 16)
    answers = measure(lambda: method(netns, next(firsts), count, index), items=count, rounds=5)
    assert set(answers) == {failing}
    assert Floor().dump_routes(netns)[1] == before + (count - failing) * len(answers)


@pytest.mark.operation("batch_some_fail")
def bench_batch_some_fail(measure, impl, fresh_wired, small):
    count = 200 if small else 20000
    fail(measure, impl.batch_some_fail, *fresh_wired, count, count // 100)


@pytest.mark.operation("batch_all_fail")
def bench_batch_all_fail(measure, impl, fresh_wired, small):
    count = 20 if small else 20000
    fail(measure, impl.batch_all_fail, *fresh_wired, count, count)
