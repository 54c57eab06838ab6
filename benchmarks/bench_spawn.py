"""Run `true` in a namespace and wait for it."""

import pytest


@pytest.mark.operation("spawn")
def bench_spawn_true(measure, impl, wired, small):
    count = 1 if small else 20
    measure(lambda: impl.spawn(wired[0], count), items=count)
