"""A storm of route events, caused from C at full speed; how many of them arrive. The clock counts events here."""

import itertools
import os

import pytest
from impls import Floor


def count_events(measure, benchmark, impl, method, wired, small):
    netns, index = wired
    count = int(os.environ.get("FASTNS_BENCH_EVENTS", "300" if small else "100000"))
    benchmark.extra_info["events"] = count

    def work():
        storm = lambda: Floor().add_routes_batch(netns, 0x0B000000, count, index)  # noqa: E731
        received, in_order = method(netns, storm, count)
        return float(received), (received, in_order)

    answers = measure(work, rounds=1, warm=False)
    if impl.name == "fastns relay":
        assert answers == [(count, True)]


@pytest.mark.operation("storm")
@pytest.mark.timeout(300)
def bench_event_storm(measure, benchmark, impl, fresh_wired, small):
    count_events(measure, benchmark, impl, impl.storm, fresh_wired, small)


@pytest.mark.operation("storm_asleep")
@pytest.mark.timeout(300)
def bench_event_storm_asleep(measure, benchmark, impl, fresh_wired, small):
    count_events(measure, benchmark, impl, impl.storm_asleep, fresh_wired, small)


@pytest.mark.operation("event")
def bench_event(measure, impl, fresh_wired, small):
    netns, index = fresh_wired
    count = 2 if small else 1000
    firsts = itertools.count(0x0B000000, 1 << 16)
    measure(lambda: impl.event(netns, next(firsts), count, index), items=count, rounds=5)
