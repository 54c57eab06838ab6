"""One small request and its parsed answer, on an open handle."""

import pytest
from impls import SLOW


@pytest.mark.operation("link_get")
def bench_link_get(measure, impl, wired, small):
    count = 2 if small else 50 if impl.name in SLOW else 1000
    assert set(measure(lambda: impl.link_get(wired[0], count), items=count)) == {"lo"}
