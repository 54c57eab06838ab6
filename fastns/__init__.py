"""Linux network namespaces and netlink at the kernel's own speed, with pyroute2's API."""

import importlib as _importlib
import os as _os
import types as _types
import typing as _typing

if _typing.TYPE_CHECKING:
    from fastns import netns
    from fastns.aio import AsyncIPRoute, AsyncNetNS
    from fastns.errors import BatchError, NetlinkDecodeError, NetlinkDumpInterrupted, NetlinkError, ProxyError
    from fastns.ipdb import IPDB
    from fastns.iproute import IPRoute, NetNS
    from fastns.monitor import Lost, ResyncBegin, ResyncEnd
    from fastns.nspopen import NSPopen
    from fastns.pool import Pool
    from fastns.proxy import Proxy

__all__ = [
    "IPDB",
    "AsyncIPRoute",
    "AsyncNetNS",
    "BatchError",
    "IPRoute",
    "Lost",
    "NSPopen",
    "NetNS",
    "NetlinkDecodeError",
    "NetlinkDumpInterrupted",
    "NetlinkError",
    "Pool",
    "Proxy",
    "ProxyError",
    "ResyncBegin",
    "ResyncEnd",
    "install",
    "netns",
    "uninstall",
]

__version__ = "0.1.0"

# Where the names are from: imported when they are first asked for, as pyroute2 alone takes a tenth of a second.
_HOMES = {
    "aio": "AsyncIPRoute AsyncNetNS",
    "errors": "BatchError NetlinkDecodeError NetlinkDumpInterrupted NetlinkError ProxyError",
    "ipdb": "IPDB",
    "iproute": "IPRoute NetNS",
    "monitor": "Lost ResyncBegin ResyncEnd",
    "netns": "",
    "nspopen": "NSPopen",
    "pool": "Pool",
    "proxy": "Proxy",
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names.split()}


if not _typing.TYPE_CHECKING:  # to a type checker every name would exist

    def __getattr__(name: str) -> _typing.Any:
        if name in _HOMES:
            return _importlib.import_module(f"fastns.{name}")
        if name not in _NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_importlib.import_module(f"fastns.{_NAMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def install(*modules: _types.ModuleType) -> None:
    """Put fastns behind pyroute2's names, see `fastns.dropin`."""
    from fastns import dropin

    dropin.install(*modules)


def uninstall() -> None:
    """Undo `install()`."""
    from fastns import dropin

    dropin.uninstall()


if _os.environ.get("FASTNS_INSTALL", "0") not in ("", "0"):
    install()
