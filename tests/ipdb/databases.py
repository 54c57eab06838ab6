"""What the tests of IPDB ask of iproute2 and of time."""

from __future__ import annotations

import json
import subprocess
import time

BAD_MAC = "11:22:33:44:55:66"  # multicast: refused by every driver


def until(condition, timeout=10):
    """Wait for an event that another party causes."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def ip(netns, *args):
    """What iproute2 does or says inside the namespace, as JSON."""
    done = subprocess.run(
        ["ip", "-n", netns, "-j", "-d", *args], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.stdout.strip() else []


def addresses(netns, ifname):
    return {
        (item["local"], item["prefixlen"])
        for link in ip(netns, "addr", "show", "dev", ifname)
        for item in link["addr_info"]
        if item["scope"] != "link"
    }
