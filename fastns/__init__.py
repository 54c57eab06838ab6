"""Linux network namespaces and netlink at the kernel's own speed, with pyroute2's API."""

import os as _os
import types as _types

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

__version__ = "0.1.0.dev0"


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
