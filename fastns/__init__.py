"""Linux network namespaces and netlink at the kernel's own speed, with pyroute2's API."""

from fastns import netns
from fastns.errors import NetlinkDecodeError, NetlinkDumpInterrupted, NetlinkError, ProxyError
from fastns.iproute import IPRoute, NetNS
from fastns.nspopen import NSPopen

__all__ = [
    "IPRoute",
    "NSPopen",
    "NetNS",
    "NetlinkDecodeError",
    "NetlinkDumpInterrupted",
    "NetlinkError",
    "ProxyError",
    "netns",
]

__version__ = "0.1.0.dev0"
