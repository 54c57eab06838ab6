"""fastns behind pyroute2's names, for programs nobody wants to edit.

    import fastns
    fastns.install()             # from here on pyroute2.NetNS is fastns.NetNS, and so on

    $ python -m fastns.dropin script.py …     # the same for a whole program, before its first line
    $ python -m fastns.dropin -m package …    # or for a module, or for -c 'code'

With `FASTNS_INSTALL=1` in the environment `import fastns` does it. Nothing is done at the start of the interpreter:
a program that never imports fastns is not touched by the variable, it needs one of the two forms above.

What is put in the place of pyroute2's own: `IPRoute`, `NetNS`, `AsyncIPRoute`, `IPBatch`, `RawIPRoute`, `NSPopen`,
`IPDB`, the functions of `pyroute2.netns`, and decoding. The functions include `create_socket`, by which every other
socket of pyroute2 (generic netlink, WireGuard, conntrack, nftables, ipset, ethtool, devlink, diag, …) gets into a
namespace without a fork; every marshal made from then on, pyroute2's or a program's own, decodes through fastns; and
NDB runs on `AsyncIPRoute`.

Names that a program has already imported (`from pyroute2 import NetNS`) are its own and stay what they were: install
before, or name the modules: `install(sys.modules["prog.net"])`. Objects that exist already are not changed. Classes
already derived from pyroute2's keep their base class.

Threads: one call at a time; other threads may see either implementation while it runs. Fork: children inherit.
Privilege: none.
"""

from __future__ import annotations

import importlib
import sys
import types
from _thread import RLock
from typing import Any

__all__ = ["install", "installed", "uninstall"]

_lock = RLock()
_replaced: dict[int, tuple[Any, Any]] = {}  # id of pyroute2's object: it, and fastns's
_patched: list[tuple[Any, str, Any]] = []  # objects, their attribute, what it was (_ABSENT: nothing of its own)
_modules: list[types.ModuleType] = []
_ABSENT = object()


def _pairs() -> list[tuple[Any, Any]]:
    """pyroute2's objects and what stands in for each."""
    import pyroute2
    import pyroute2.ipdb
    import pyroute2.netns
    from pyroute2.iproute import linux

    from fastns import netns
    from fastns.aio import AsyncIPRoute
    from fastns.ipdb import IPDB
    from fastns.iproute import IPRoute, NetNS
    from fastns.nspopen import NSPopen

    pairs: list[tuple[Any, Any]] = [
        (linux.IPRoute, IPRoute),
        (linux.NetNS, NetNS),
        (linux.AsyncIPRoute, AsyncIPRoute),
        (linux.IPBatch, _derived(linux.IPBatch, IPRoute, reset=linux.IPBatch.reset, batch=property(_batch))),
        (linux.RawIPRoute, _derived(linux.RawIPRoute, IPRoute)),
        (pyroute2.NSPopen, NSPopen),
        (pyroute2.ipdb.IPDB, IPDB),
    ]
    for name, function in vars(pyroute2.netns).items():
        own = getattr(netns, name, None)
        # by its name: most are wrapped, so that they say they come from elsewhere
        if isinstance(function, types.FunctionType) and isinstance(own, types.FunctionType) and function is not own:
            pairs.append((function, own))
    return pairs


def _batch(self: Any) -> Any:
    """The bytes collected so far."""
    return self.asyncore.batch


def _derived(original: Any, base: type, **methods: Any) -> type:
    """A class of pyroute2 that is a thin layer over IPRoute, over fastns's."""

    def __init__(self: Any, *args: Any, **kwarg: Any) -> None:
        base.__init__(self, *args, **kwarg)  # type: ignore[misc]
        if methods:
            self.reset()

    space = {"__init__": __init__, "__doc__": original.__doc__, "__module__": original.__module__, **methods}
    return type(original.__name__, (base, original), space)


def _patches() -> list[tuple[Any, str, Any]]:
    """Attributes of pyroute2's classes that change."""
    from pyroute2.iproute import linux
    from pyroute2.netlink import clean_cbs
    from pyroute2.netlink.marshal import Marshal
    from pyroute2.netlink.nlsocket import NetlinkRequest

    from fastns.schema import _FastMarshal, marshal_class

    def new(cls: type, *args: Any, **kwarg: Any) -> Any:
        return object.__new__(cls if issubclass(cls, _FastMarshal) else marshal_class(cls))

    old_cleanup = NetlinkRequest.cleanup

    def cleanup(self: Any) -> None:
        old_cleanup(self)
        # what the encoding has opened (a namespace by its name); pyroute2 closes it when it decodes the answer,
        # which a lazily read answer never is
        for close in clean_cbs.__dict__.pop(self.msg_seq, ()):
            close()

    # classes derived from pyroute2's IPRoute before now go on over its engine, whatever the name stands for
    init = linux.IPRoute.__init__
    space = {**vars(linux), "AsyncIPRoute": linux.AsyncIPRoute}
    own_init = types.FunctionType(init.__code__, space, init.__name__, init.__defaults__, init.__closure__)
    own_init.__kwdefaults__ = init.__kwdefaults__
    return [
        (Marshal, "__new__", staticmethod(new)),
        (NetlinkRequest, "cleanup", cleanup),
        (linux.IPRoute, "__init__", own_init),
    ]


def _swap(table: dict[int, Any], modules: list[types.ModuleType]) -> None:
    """Exchange objects by identity in the modules of pyroute2 and in those given."""
    loaded = [module for name, module in tuple(sys.modules.items()) if name.split(".")[0] == "pyroute2"]
    for module in [*loaded, *modules]:
        space = getattr(module, "__dict__", None)
        if not isinstance(space, dict):
            continue
        for name, value in tuple(space.items()):
            if id(value) in table:
                space[name] = table[id(value)]
            elif name in ("modules", "__all__") and isinstance(value, list):
                value[:] = [table.get(id(item), item) for item in value]


def install(*modules: types.ModuleType) -> None:
    """Put fastns behind pyroute2's names, and behind those the given modules have imported from it.

    A second call only adds modules.
    """
    with _lock:
        _modules.extend(modules)
        if not _replaced:
            patches = _patches()
            for original, own in _pairs():
                _replaced[id(original)] = original, own
            for owner, name, value in patches:
                _patched.append((owner, name, vars(owner).get(name, _ABSENT)))
                setattr(owner, name, value)
        _swap({key: own for key, (_, own) in _replaced.items()}, list(modules))


def uninstall() -> None:
    """Undo `install()`: pyroute2's names mean its own objects again. Without a preceding `install()` nothing happens."""
    with _lock:
        if not _replaced:
            return
        _swap({id(own): original for original, own in _replaced.values()}, _modules)
        for owner, name, value in reversed(_patched):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        _patched.clear()
        _replaced.clear()
        _modules.clear()


def installed() -> bool:
    """Whether `install()` is in force."""
    return bool(_replaced)


USAGE = "usage: python -m fastns.dropin (script.py | -m module | -c code) [argument …]"


def main(argv: list[str]) -> None:
    """Install, then run a script, a module or code as `__main__`, as the interpreter itself would."""
    import os
    import runpy

    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else 2)
    what, rest = argv[0], argv[1:]
    if what in ("-m", "-c") and not rest:
        print(USAGE, file=sys.stderr)
        raise SystemExit(2)
    # this file is __main__ now; what is installed belongs to the module of its name
    importlib.import_module("fastns.dropin").install()
    if what == "-m":
        sys.argv[:] = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        sys.path[0] = ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.argv[:] = argv
        sys.path[0] = os.path.dirname(os.path.abspath(what))
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
