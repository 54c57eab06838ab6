"""The words of `ip` for the kernel's numbers: read by `fastns load`, written by `fastns monitor`.

Only the words that are always there; those an administrator adds are in iproute2's files, see `words.rt_file`.
"""

from __future__ import annotations

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl import fibmsg, ifaddrmsg, ifinfmsg, ndmsg, rt_proto, rt_scope, rt_type

from fastns.schema import constant

TABLES = {name: constant(rtnl, f"RT_TABLE_{name.upper()}") for name in ("unspec", "default", "main", "local")}
PROTOCOLS = {name: rt_proto[name] for name in ("unspec", "redirect", "kernel", "boot", "static", "ra")}
SCOPES = {
    "global": rt_scope["universe"],
    **{name: rt_scope[name] for name in ("universe", "site", "link", "host", "nowhere")},
}
ROUTE_TYPES = {
    name: rt_type[name]
    for name in "unicast local broadcast anycast multicast blackhole unreachable prohibit throw nat".split()
}
RULE_ACTIONS = {
    "blackhole": fibmsg.FR_ACT_BLACKHOLE,
    "unreachable": fibmsg.FR_ACT_UNREACHABLE,
    "prohibit": fibmsg.FR_ACT_PROHIBIT,
}
FIB_RULE_INVERT = constant(fibmsg, "FIB_RULE_INVERT")
NEIGHBOUR_STATES: dict[str, int] = ndmsg.states
NEIGHBOUR_FLAGS = {
    "use": ndmsg.NTF_USE,
    "proxy": ndmsg.NTF_PROXY,
    "extern_learn": ndmsg.NTF_EXT_LEARNED,
    "router": ndmsg.NTF_ROUTER,
}
ADDRESS_FLAGS = {
    "nodad": ifaddrmsg.IFA_F_NODAD,
    "home": ifaddrmsg.IFA_F_HOMEADDRESS,
    "mngtmpaddr": ifaddrmsg.IFA_F_MANAGETEMPADDR,
    "noprefixroute": ifaddrmsg.IFA_F_NOPREFIXROUTE,
}
LINK_FLAGS = {
    "promisc": ifinfmsg.IFF_PROMISC,
    "allmulticast": ifinfmsg.IFF_ALLMULTI,
    "multicast": ifinfmsg.IFF_MULTICAST,
    "arp": ifinfmsg.IFF_NOARP,
}
