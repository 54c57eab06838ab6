"""Linux network namespaces and netlink at the kernel's own speed, with pyroute2's API."""

from fastns import netns
from fastns.errors import NetlinkDecodeError, NetlinkDumpInterrupted, NetlinkError, ProxyError
from fastns.ipdb import IPDB
from fastns.iproute import IPRoute, NetNS
from fastns.nspopen import NSPopen
from fastns.proxy import Proxy

__all__ = [
    "IPDB",
    "IPRoute",
    "NSPopen",
    "NetNS",
    "NetlinkDecodeError",
    "NetlinkDumpInterrupted",
    "NetlinkError",
    "Proxy",
    "ProxyError",
    "netns",
]

__version__ = "0.1.0.dev0"
