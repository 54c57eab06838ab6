"""What exchanges the blocking functions of the standard library, eventlet and gevent, and programs that begin with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parent.parent
# `spawn`, `join` and `in_thread` (a thread of the system, waited for by the greenlet alone) as each library has them.
PATCH = {
    "eventlet": textwrap.dedent("""
        import warnings
        warnings.simplefilter("ignore")
        import eventlet, eventlet.tpool
        eventlet.monkey_patch()
        spawn, join, in_thread = eventlet.spawn, lambda greenlet: greenlet.wait(), eventlet.tpool.execute
    """),
    "gevent": textwrap.dedent("""
        import gevent, gevent.monkey
        gevent.monkey.patch_all()
        spawn, join = gevent.spawn, lambda greenlet: greenlet.get()
        def in_thread(func, *args):
            return gevent.get_hub().threadpool.spawn(func, *args).get()
    """),
}


def need(library: str) -> str:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"python: {library} is not installed")
    return library


def run(arguments: list[str], timeout: float = 100, **more: str) -> subprocess.CompletedProcess[str]:
    """A program that blocks the hub where it should not waits for itself, until the time is over: then what it has said
    is told, and where it stands."""
    path = os.pathsep.join(filter(None, [str(TREE), *sys.path[1:]]))
    return subprocess.run(
        ["timeout", "--signal=ABRT", str(timeout), sys.executable, "-X", "faulthandler", *arguments],
        env={**os.environ, "PYTHONPATH": path, **more},
        cwd=TREE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
