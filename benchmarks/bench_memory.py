"""Memory: what a held dump takes, and what the proxy process has of its own. The clock counts bytes here.

Each figure comes from a process of its own, so that nothing another library left in an allocator is counted.
"""

import os
import subprocess
import sys

import pytest
from impls import SLOW

HOLD = """
import gc, sys
sys.path[:0] = {path!r}
import impls
impl = next(impl for impl in impls.ALL if impl.name == {impl!r})
def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
impl.dump_links({small!r})  # imports and pools are not the dump's
impl.link_get({small!r}, 1)
gc.collect()
before = private()
count = impl.hold_routes({netns!r})
gc.collect()
print(count, private() - before)
"""

PROXY = """
import os, sys
sys.path[:0] = {path!r}
ballast = bytearray(os.urandom(1 << 20)) * 200  # what the parent holds must not matter
import fastns
with fastns.NetNS({netns!r}, flags=0, transport="relay") as ns:
    links = len(ns.get_links())
    children = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
    with open(f"/proc/{{children[0]}}/smaps_rollup") as lines:
        print(links, sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_")))
"""


def run(script, **values):
    import fastns

    path = [os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(fastns.__file__))]
    done = subprocess.run(
        [sys.executable, "-c", script.format(path=path, **values)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    count, nbytes = done.stdout.split()
    return float(nbytes), int(count)


@pytest.mark.operation("hold_routes")
def bench_memory_of_held_dump(measure, benchmark, impl, routed, wired, turn):
    netns, count = routed
    benchmark.extra_info["routes"] = count
    if turn and impl.name in SLOW:
        pytest.skip("kernel: once is enough")
    answers = measure(lambda: run(HOLD, impl=impl.name, netns=netns, small=wired[0]), rounds=1, warm=False)
    assert answers[0] > count


@pytest.mark.operation("proxy_memory")
def bench_memory_of_proxy(measure, impl, linked):
    netns, count = linked
    assert set(measure(lambda: run(PROXY, netns=netns), rounds=1, warm=False)) == {count}
