"""`fastns monitor` on real namespaces: lines, JSON, colours, loss, namespaces coming and going, the ways to end it."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import pytest
from commands import COMMAND, ENV, Background, Terminal, ip, run

pytest.importorskip("click", reason="python: click is not installed")
pytest.importorskip("rich", reason="python: rich is not installed")

from rich.console import Console

from fastns import Lost, NetNS, ResyncBegin, ResyncEnd
from fastns.cli.monitor import GROUPS, Enough, Printer, Watcher

READY = "that was everything\n"


def change(first: str, second: str) -> None:
    """One of everything that is shown."""
    ip("-n", first, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", second)
    ip("-n", first, "link", "add", "br0", "type", "bridge")
    ip("-n", first, "link", "set", "v0", "up", "master", "br0", "alias", "a\x1b[31mb")
    ip("-n", second, "link", "set", "v1", "up")
    ip("-n", second, "addr", "add", "10.1.0.1/24", "dev", "v1")
    ip("-n", second, "route", "add", "10.2.0.0/16", "via", "10.1.0.3", "metric", "7")
    ip("-n", second, "route", "add", "unreachable", "10.3.0.0/16", "table", "99")
    ip("-n", second, "route", "add", "10.4.0.0/16", "nexthop", "via", "10.1.0.3", "weight", "2", "nexthop", "via", "10.1.0.4")
    ip("-n", second, "rule", "add", "from", "10.0.0.0/8", "table", "9", "pref", "70")
    ip("-n", second, "neigh", "add", "10.1.0.3", "lladdr", "02:00:00:00:00:01", "dev", "v1")
    ip("-n", second, "route", "del", "10.2.0.0/16")


@pytest.mark.root
def test_lines(netns_pair: tuple[str, str]) -> None:
    first, second = netns_pair
    with Background("monitor", "--initial", first, second) as monitor:
        monitor.until(READY, 2)
        change(first, second)
        text = monitor.until("- route   10.2.0.0/16")
        assert monitor.interrupt() == 130
    assert "\x1b" not in text
    stamp = r"^\d\d:\d\d:\d\d\.\d{3}  "
    for name, line in (
        (first, r"= link    lo #1 DOWN mtu 65536 00:00:00:00:00:00"),
        (first, r"\+ link    v0 #\d+ DOWN veth mtu 1500 [0-9a-f:]{17}"),
        (first, r"\+ link    v0 #\d+ UP.* veth mtu 1500 master br0 [0-9a-f:]{17} alias a\\x1b\[31mb"),
        (second, r"\+ addr    10.1.0.1/24 dev v1 scope global label v1"),
        (second, r"\+ route   10.2.0.0/16 via 10.1.0.3 dev v1 proto boot metric 7"),
        (second, r"\+ route   unreachable 10.3.0.0/16.* table 99 proto boot"),
        (second, r"\+ route   10.4.0.0/16 nexthop via 10.1.0.3 dev v1 weight 2 nexthop via 10.1.0.4 dev v1 weight 1 .*"),
        (second, r"\+ rule    70: from 10.0.0.0/8 lookup 9"),
        (second, r"\+ neigh   10.1.0.3 dev v1 lladdr 02:00:00:00:00:01 PERMANENT"),
        (second, r"- route   10.2.0.0/16 via 10.1.0.3 dev v1 proto boot metric 7"),
    ):
        assert re.search(f"{stamp}{name}  {line}$", text, re.M), line


@pytest.mark.root
def test_json_lines(netns: str) -> None:
    with Background("monitor", "--json", "--initial", "-g", "route", netns) as monitor:
        monitor.until('"resync-end"')
        ip("-n", netns, "link", "set", "lo", "up")
        ip("-n", netns, "route", "add", "10.2.0.0/16", "dev", "lo", "table", "300")
        lines = monitor.until('"10.2.0.0"').splitlines()
        assert monitor.interrupt() == 130
    items = [json.loads(line) for line in lines]
    assert {item["netns"] for item in items} == {netns}
    assert [items[0]["event"], items[0]["kinds"]] == ["resync-begin", ["route"]]
    (end,) = (item for item in items if item["event"] == "resync-end")
    assert end["complete"] is True
    route = items[-1]
    assert (route["event"], route["resync"]) == ("RTM_NEWROUTE", False)
    assert {"dst": "10.2.0.0", "dst_len": 16, "table": 300, "oif": 1, "family": 2}.items() <= route["data"].items()
    assert not [item for item in items if "LINK" in item["event"]]


@pytest.mark.root
def test_namespaces_come_and_go(netns_pair: tuple[str, str]) -> None:
    """With --all new ones are watched, and removed ones are let go: what was in them ends with their name."""
    netns, nsname = netns_pair
    ip("netns", "del", nsname)
    with Background("monitor", "--all", "--initial") as monitor:
        monitor.until(READY)
        ip("netns", "add", nsname)
        monitor.until(f"{nsname}  + namespace created")
        ip("-n", nsname, "link", "set", "lo", "up")
        monitor.until(f"{nsname}  + link    lo #1 UP")
        ip("-n", netns, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", nsname)
        monitor.until(f"{nsname}  + link    v1 ")
        ip("netns", "del", nsname)
        monitor.until(f"{nsname}  - namespace removed")
        monitor.until(f"{netns}  - link    v0 ")
        ip("netns", "add", nsname)
        monitor.until(f"{nsname}  + namespace created", 2)
        assert monitor.interrupt() == 130


@pytest.mark.root
def test_ends_with_the_last_namespace(netns: str) -> None:
    with Background("monitor", "--initial", netns) as monitor:
        monitor.until(READY)
        ip("netns", "del", netns)
        monitor.until("namespace removed")
        assert monitor.process.wait(60) == 0


@pytest.mark.root
def test_count_and_the_own_namespace(netns: str) -> None:
    argv = ["ip", "netns", "exec", netns, *COMMAND, "monitor", "--initial", "-g", "link", "-n", "1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENV) as child:
        while "that was" not in child.stdout.readline():
            pass
        ip("-n", netns, "link", "set", "lo", "up")
        assert "lo #1 UP" in child.stdout.readline()
        assert child.wait(60) == 0


@pytest.mark.root
def test_closed_pipe_ends_it(netns: str) -> None:
    """Also while nothing happens: a reader that is gone is noticed without something to write."""
    command = [*COMMAND, "monitor", "--initial", netns]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as child:
        while b"that was" not in child.stdout.readline():
            pass
        child.stdout.close()
        assert child.wait(60) == 1
        assert child.stderr.read() == b""


@pytest.mark.root
def test_terminal(netns: str) -> None:
    with Terminal("monitor", "--initial", netns) as terminal:
        terminal.until("that was everything")
        ip("-n", netns, "link", "set", "lo", "up")
        screen = terminal.until("\x1b[32mUP")
        assert "\x1b[32m+ \x1b[0m" in screen
        terminal.press(b"\x03")
        assert terminal.end() == 130


@pytest.mark.root
def test_names_are_escaped() -> None:
    name = "fns-\x1b]0;title\x07"
    ip("netns", "add", name)
    try:
        with Background("monitor", "--all", "--initial") as monitor:
            assert r"fns-\x1b]0;title\x07" in monitor.until(READY)
            assert not {"\x1b", "\x07"} & set(monitor.seen)
            assert monitor.interrupt() == 130
    finally:
        ip("netns", "del", name)


@pytest.mark.root
def test_errors(netns: str) -> None:
    assert "fns-nonexistent" in run("monitor", netns, "fns-nonexistent", code=1).stderr
    assert run("monitor", "--all", netns, code=2).stderr
    assert run("monitor", "-g", "nonsense", code=2).stderr


class Output(io.StringIO):
    """What is printed, looked at line by line: a look at all of it, again and again, would leave the printer no time."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self.complete = threading.Event()

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if '"lost"' in line:
                self.lost = True
            elif self.lost and '"resync-end", "complete": true' in line:
                self.complete.set()
        return super().write(text)


@pytest.mark.root
def test_loss_is_shown_and_the_state_read_anew(netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers too small for a storm: at its place stands how much is missing, and behind it the state."""
    out = Output()
    monkeypatch.setattr(sys, "stdout", out)
    options = {"groups": [7], "resync": 0.0, "initial": False, "rcvbuf": 5000, "ring_size": 65536}
    with Watcher(Printer(True, False, None), [netns], options) as watcher:
        with NetNS(netns, flags=0) as ns, ns.batch() as batch:
            for number in range(20_000):
                batch.route("add", dst=f"10.9.{number >> 8}.{number & 255}", dst_len=32, type="blackhole")
        ending = threading.Thread(target=lambda: (out.complete.wait(), ip("netns", "del", netns)))
        ending.start()
        watcher.run()
        ending.join()
    items = [json.loads(line) for line in out.getvalue().splitlines()]
    events = [item["event"] for item in items]
    assert events.index("lost") < events.index("resync-begin") < events.index("resync-end")
    routes = {item["data"]["dst"] for item in items if item["event"] == "RTM_NEWROUTE"}
    assert len(routes) == 20_000
    assert events[-1] == "removed"


@pytest.mark.root
def test_rendering(netns: str) -> None:
    """What the lines look like where people read."""
    printer = Printer(False, True, 3)
    printer.console = Console(record=True, width=100, force_terminal=True, color_system="truecolor", file=io.StringIO())

    class Named:
        name = "blue"
        devices: dict[int, str] = {}
        learn = staticmethod(lambda msg: None)
        device = staticmethod(lambda index: "v0")

    with NetNS(netns, flags=0) as ns:
        (link,) = ns.get_links()
        events = [link, Lost(1, 0.0), Lost(12345, 0.0), Lost(None, 0.0), ResyncBegin((("link", 0),), 0.0), link]
        with pytest.raises(Enough):
            for item in [*events, ResyncEnd((("link", 0),), False, 0.0), ResyncEnd((("link", 0),), True, 0.0), link]:
                printer.item(Named, item)
    text = printer.console.export_text(clear=False)
    assert "! 1 event is missing here" in text and "! 12,345 events are missing here" in text
    assert "! events are missing here" in text and "it changed meanwhile" in text
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3}  blue  [+!=] ", line) for line in text.splitlines())
    assert len(text.splitlines()) == 9
    svg = printer.console.export_svg(title="fastns monitor")
    assert "12,345" in svg
    if "FASTNS_PICTURES" in os.environ:
        with open(os.path.join(os.environ["FASTNS_PICTURES"], "monitor.svg"), "w") as file:
            file.write(svg)


KINDS = """
ip link set lo up
ip link add p0 type ifb
ip link set p0 up
ip addr add 10.1.0.1/24 dev p0
ip neigh add 10.1.0.2 lladdr 02:00:00:00:00:01 dev p0
ip rule add from 10.0.0.0/8 table 9 pref 70
tc qdisc add dev p0 clsact
tc filter add dev p0 ingress protocol ip u32 match u32 0 0 flowid 1:1
tc chain add dev p0 ingress chain 7
ip nexthop add id 5 dev lo
ip nexthop add id 6 via 10.1.0.2 dev p0
ip nexthop add id 7 via 10.1.0.3 dev p0
ip nexthop add id 8 group 6,3/7
ip nexthop add id 9 blackhole
ip route add 10.7.0.0/24 nhid 6
ip nexthop del id 5
"""


def change_of_every_kind(name: str) -> None:
    for line in KINDS.strip().splitlines():
        program, *words = line.split()
        subprocess.run([program, "-n", name, *words], check=True, capture_output=True)


@pytest.mark.root
@pytest.mark.parametrize("which", ["--all", "{}"])
@pytest.mark.parametrize("groups", [[], ["-g", "tc", "-g", "nexthop"]])
def test_next_hops_and_chains(netns: str, which: str, groups: list[str]) -> None:
    with Background("monitor", "--initial", *groups, which.format(netns)) as monitor:
        monitor.until(READY)
        change_of_every_kind(netns)
        text = monitor.until("- nexthop id 5 dev lo\n")
    expected = [
        r"\+ nexthop id 5 dev lo",
        r"\+ nexthop id 6 via 10.1.0.2 dev p0",
        r"\+ nexthop id 8 group 6,3/7",
        r"\+ nexthop id 9 blackhole",
        r"- nexthop id 5 dev lo",
    ]
    if groups:
        expected += [
            r"\+ qdisc   clsact dev p0 handle ffff: parent ffff:fff1",
            r"\+ chain   0 dev p0 parent ffff:",
            r"\+ chain   7 dev p0 parent ffff:",
            r"\+ tfilter u32 dev p0 handle 8000:800 parent ffff:fff2",
        ]
    for line in expected:
        assert re.search(f"  {line}$", text, re.M), line


@pytest.mark.root
@pytest.mark.parametrize("group", GROUPS)
def test_every_group(netns_pair: tuple[str, str], group: str) -> None:
    """Each line has its event, and each event a line."""
    first, second = netns_pair
    with Background("monitor", "--json", "--initial", "-g", group, first) as monitor:
        monitor.until('"resync-end"')
        change_of_every_kind(first)
        ip("-n", first, "netns", "set", second, "77")
        if group != "mdb":
            monitor.until('"RTM_')
            monitor.until("}\n", 3)
    lines = monitor.seen.rpartition("\n")[0].splitlines()
    events = [item["event"] for item in map(json.loads, lines) if "resync" in item]
    assert all(event.startswith("RTM_") for event in events)


def proxy_of(pid: int) -> int:
    """The child of a command that receives its events."""
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.root
@pytest.mark.parametrize("which", [["--all"], ["{}", "{}"]])
def test_the_death_of_its_proxy_ends_it(netns_pair: tuple[str, str], which: list[str]) -> None:
    """What had come of every namespace is shown, then that no more comes, and the command fails."""
    names = [word.format(name) for word, name in zip(which, netns_pair)]
    with Background("monitor", "--initial", "-g", "link", *names) as monitor:
        monitor.until(READY, 2)
        os.kill(proxy_of(monitor.process.pid), signal.SIGSTOP)
        monitor.process.send_signal(signal.SIGSTOP)
        for name in netns_pair:
            ip("-n", name, "link", "set", "lo", "up")
        os.kill(proxy_of(monitor.process.pid), signal.SIGKILL)
        monitor.process.send_signal(signal.SIGCONT)
        out, err = monitor.process.communicate(timeout=60)
        assert monitor.process.returncode == 1
    assert out.decode().count("- namespace failed") == 2
    assert err.count(b"was killed by signal 9") == 2
    assert b"Traceback" not in err
