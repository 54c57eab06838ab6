"""Network namespaces by name: make, remove, list, watch, enter. pyroute2's `netns` module, without its forks.

A namespace reference is a name in the run directory, a path (anything with a "/" in it), an open descriptor, a
file object, or `pid=`. Two references are the same namespace when device and inode are equal, never by path.

A failed system call is an OSError whose text names the call (and the capability that was missing) and whose
`filename` is the reference as it was given. A name that cannot be one is a ValueError, and what is no reference at
all a TypeError, both before any system call. Nothing here forks, so everything may be called from any thread. In a
forked child everything works that works in its parent; only what a thread has pushed stays with that thread.

Source: network_namespaces(7), setns(2), unshare(2), ip-netns(8).
"""

from __future__ import annotations

import sys
import types
from typing import Any

from fastns.netns import discovery, entering, names, opening, reference, settings, watching
from fastns.netns.discovery import NetnsInfo, exists, info, ns_pids, pid_to_ns
from fastns.netns.entering import create_socket, dropns, entered, popns, pushns, run_in, setns
from fastns.netns.names import _create as _create
from fastns.netns.names import _get_netnspath as _get_netnspath
from fastns.netns.names import attach, create, create_many, listnetns, remove, remove_many
from fastns.netns.opening import getnsfd, open_ref
from fastns.netns.reference import NETNS_RUN_DIR
from fastns.netns.reference import HasFileno as HasFileno
from fastns.netns.reference import Ref as Ref
from fastns.netns.settings import Sysctl, sysctl
from fastns.netns.watching import NetnsEvent, Watch, watch

__all__ = [
    "NETNS_RUN_DIR",
    "NetnsEvent",
    "NetnsInfo",
    "Sysctl",
    "Watch",
    "attach",
    "create",
    "create_many",
    "create_socket",
    "dropns",
    "entered",
    "exists",
    "getnsfd",
    "info",
    "listnetns",
    "ns_pids",
    "open_ref",
    "pid_to_ns",
    "popns",
    "pushns",
    "remove",
    "remove_many",
    "run_in",
    "setns",
    "sysctl",
    "watch",
]


class _Face(types.ModuleType):
    """What is set here, the run directory or a test's double, is set where the functions look it up."""

    def __setattr__(self, name: str, value: Any) -> None:
        for room in (discovery, entering, names, opening, reference, settings, watching):
            if name in vars(room):
                setattr(room, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face

# Pickles and oslo.privsep name a function by its module: the public one, whatever file it stands in.
for _public in map(globals().__getitem__, __all__):
    if callable(_public):
        _public.__module__ = __name__
del _public
