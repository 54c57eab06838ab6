"""Where a gap is found among datagrams of mixed sizes. The kernel's queue is played here: a real one cannot be stopped
between taking the last datagram and looking at what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from isolation import unavailable
from relaybuild import HERE, PACKAGE

if not PACKAGE.is_dir():  # the tests of an installed package, away from the source
    pytest.skip("python: the source tree is not here", allow_module_level=True)

MEMORY = {60: 768, 72: 768, 400: 1280, 1300: 2304, 1404: 4352, 3000: 4352}  # bytes a datagram of that length takes
ROUTE, LINK = 60, 1404


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        unavailable("no C compiler")
    program = Path(tmp_path_factory.mktemp("gap")) / "gap_places"
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    subprocess.run([*command, f"-I{PACKAGE}", "-o", program, HERE / "gap_places.c"], check=True)

    def run(calls):
        done = subprocess.run([program], input="\n".join(calls) + "\n", check=True, capture_output=True, text=True)
        return [int(line) for line in done.stdout.split()]

    return run


class Queue:
    """A socket that has run over: `held` was queued before, and `later` follows as soon as the last of these is read."""

    def __init__(self, held, later, dropped):
        self.calls = [f"open {sum(map(MEMORY.get, held))}:{dropped}"]
        for number, length in enumerate(held, 1):
            rest = sum(map(MEMORY.get, held[number:] or later))
            self.calls.append(f"behind {length} {rest}:{dropped}")
        self.place = len(self.calls) - 1
        for number, length in enumerate(later, 1):
            self.calls.append(f"behind {length} {sum(map(MEMORY.get, later[number:]))}:{dropped}")
        self.calls.append(f"empty 0:{dropped}")


def found(places, *queues):
    """For each queue, how many calls behind its place the gap was found."""
    results = places([call for queue in queues for call in queue.calls])
    distances = []
    for queue in queues:
        mine, results = results[: len(queue.calls)], results[len(queue.calls) :]
        assert sum(mine) == 1, "told once"
        distances.append(mine.index(1) - queue.place)
    return distances


def test_nothing_follows(places):
    assert found(places, Queue([ROUTE, LINK, ROUTE], [], 5)) == [0]


def test_one_like_it_follows(places):
    assert found(places, Queue([ROUTE] * 4, [ROUTE], 5)) == [0]
    assert found(places, Queue([ROUTE, LINK], [LINK, ROUTE], 5)) == [0]


def test_a_small_one_follows_a_large_one(places):
    """There was no more in the queue than that one's own memory, as others of its length have told."""
    assert found(places, Queue([ROUTE, LINK, ROUTE, LINK], [ROUTE], 5)) == [0]
    assert found(places, Queue([LINK, ROUTE, ROUTE], [], 5), Queue([ROUTE, LINK], [ROUTE, ROUTE], 9)) == [0, 0]


def test_a_small_one_follows_the_first_large_one(places):
    """Its memory is not known yet: told, behind the one that follows."""
    assert found(places, Queue([ROUTE, ROUTE, LINK], [ROUTE], 5)) == [1]


def test_a_large_one_that_is_not_the_last(places):
    """What one of its length takes is known, and there was more than that."""
    assert found(places, Queue([LINK, ROUTE, LINK, ROUTE], [ROUTE, LINK], 5)) == [0]


def test_memory_of_one_about_to_be_dropped(places):
    """It counts for a moment: the lowest of some looks decides."""
    calls = ["open 3840:5", "behind 1300 3840:5 1536:5", "behind 60 768:5", "behind 60 0:5", "empty 0:5"]
    assert places(calls) == [0, 0, 0, 1, 0]


def test_any_order_of_sizes(places, rng):
    """Once every length was seen, each gap is found at its place."""
    queues = [Queue([*MEMORY, ROUTE], [], 1)]
    for dropped in range(2, 400):
        held = rng.choices(list(MEMORY), k=rng.randrange(1, 12))
        queues.append(Queue(held, rng.choices(list(MEMORY), k=rng.randrange(4)), dropped))
    assert found(places, *queues) == [0] * len(queues)
