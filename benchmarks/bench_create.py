"""Create a namespace and remove it again."""

import os

import pytest


@pytest.mark.operation("create_remove")
def bench_create_remove(measure, impl, name, small):
    count = 1 if small else 20
    measure(lambda: impl.create_remove(name, count), items=count)
    assert name not in os.listdir("/var/run/netns")
