"""A storm of route events, caused from C at full speed; how many of them arrive. The clock counts events here."""

import os

import pytest
from impls import Floor


@pytest.mark.operation("storm")
@pytest.mark.timeout(300)
def bench_event_storm(measure, benchmark, impl, fresh_wired, small):
    netns, index = fresh_wired
    count = int(os.environ.get("FASTNS_BENCH_EVENTS", "300" if small else "100000"))
    benchmark.extra_info["events"] = count

    def work():
        storm = lambda: Floor().add_routes_batch(netns, 0x0B000000, count, index)  # noqa: E731
        received = impl.storm(netns, storm, count)
        return float(received), received

    answers = measure(work, rounds=1, warm=False)
    if impl.name == "fastns relay":
        assert answers == [count]
