"""What tests of handles look at."""

from __future__ import annotations

import time


def plain(msg):
    """A message without what differs from one request to the next."""
    data = msg.dump()
    data["header"] = {k: v for k, v in data["header"].items() if k in ("type", "length", "error", "target")}
    data["attrs"] = [
        attr for attr in data["attrs"] if attr[0] not in ("IFLA_STATS64", "IFLA_STATS", "IFLA_AF_SPEC")
    ]
    return data


def veth(ns, name="v0", peer="v1"):
    ns.link("add", ifname=name, kind="veth", peer=peer)
    return [ns.link_lookup(ifname=x)[0] for x in (name, peer)]


def until(ns, wanted, timeout=30):
    seen = []
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for msg in ns.get():
            seen.append(msg)
            if wanted(msg):
                return seen
    raise AssertionError(f"the event did not come: {seen}")
