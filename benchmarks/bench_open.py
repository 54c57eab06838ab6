"""Open and close a handle in a namespace."""

import pytest
from impls import SLOW


@pytest.mark.operation("open_close")
def bench_open_close(measure, impl, wired, small):
    count = 2 if small or impl.name in (*SLOW, "iproute2") else 200
    measure(lambda: impl.open_close(wired[0], count), items=count)
