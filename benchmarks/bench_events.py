"""A storm of route events, caused from C at full speed; how many of them arrive. The clock counts events here."""

import itertools

import pytest


def count_events(measure, benchmark, impl, method, wired, count, small):
    netns, index = wired
    benchmark.extra_info["events"] = count

    def work():
        received, in_order = method(netns, 0x0B000000, count, index)
        return float(received), (received, in_order)

    answers = measure(work, warm=False)
    ((received, in_order),) = answers
    assert in_order
    if small and impl.name.startswith("fastns"):
        assert received == count


@pytest.mark.operation("storm")
@pytest.mark.timeout(100)
def bench_event_storm(measure, benchmark, impl, fresh_wired, events, small):
    count_events(measure, benchmark, impl, impl.storm, fresh_wired, events, small)


@pytest.mark.operation("storm_asleep")
@pytest.mark.timeout(100)
def bench_event_storm_asleep(measure, benchmark, impl, fresh_wired, events, small):
    count_events(measure, benchmark, impl, impl.storm_asleep, fresh_wired, events, small)


@pytest.mark.operation("event")
def bench_event(measure, impl, fresh_wired, small):
    netns, index = fresh_wired
    count = 2 if small else 100
    firsts = itertools.count(0x0B000000, 1 << 16)
    measure(lambda: impl.event(netns, next(firsts), count, index), items=count)
