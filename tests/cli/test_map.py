"""`fastns map` and `fastns top` on real namespaces: who is connected with whom, pictures, numbers, terminals."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import xml.etree.ElementTree as xml
import zlib
from pathlib import Path
from typing import Any, Iterator

import pytest
from commands import COMMAND, ENV, Background, Terminal, ip, run
from isolation import RUN_DIR, need_privilege, need_tool

pytest.importorskip("click", reason="python: click is not installed")
pytest.importorskip("rich", reason="python: rich is not installed")

from rich.console import Console

from fastns import netns
from fastns.cli import map as cli_map
from fastns.cli import top as cli_top
from fastns.cli.topology import look

KEEP = os.environ.get("FASTNS_PICTURES")  # a folder where the pictures are kept to be looked at


class Lab:
    """Three hosts on a bridge in a router, everywhere the same indexes; a cable in one, a macvlan moved away."""

    def __init__(self, mark: str) -> None:
        self.blue, self.red, self.green, self.router = self.names = [
            f"{mark}-{name}" for name in ("blue", "red", "green", "router")
        ]

    def build(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
        router = self.router
        ip("-n", router, "link", "add", "br0", "index", "9", "type", "bridge")
        ip("-n", router, "link", "set", "br0", "up")
        ip("-n", router, "addr", "add", "10.0.0.254/24", "dev", "br0")
        for number, name in enumerate((self.blue, self.red, self.green), 1):
            peer = ["peer", "name", f"to{number}", "index", str(10 + number), "netns", router]
            ip("-n", name, "link", "add", "eth0", "index", "7", "type", "veth", *peer)
            ip("-n", router, "link", "set", f"to{number}", "up", "master", "br0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "addr", "add", f"10.0.0.{number}/24", "dev", "eth0")
        ip("-n", self.blue, "link", "add", "x0", "index", "11", "type", "veth", "peer", "name", "x1", "index", "12")
        ip("-n", self.green, "link", "add", "link", "eth0", "name", "m0", "index", "13", "type", "macvlan", "mode", "bridge")
        ip("-n", self.green, "link", "set", "m0", "netns", self.red)
        # blue and red to each other, with the very indexes the router's cables have
        peer = ["peer", "name", "d1", "index", "14", "netns", self.red]
        ip("-n", self.blue, "link", "add", "d0", "index", "14", "type", "veth", *peer)

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    need_privilege()
    made = Lab(f"fns{os.urandom(3).hex()}")
    try:
        made.build()
        yield made
    finally:
        made.remove()


def links(names: list[str], *more: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(run("map", "--format", "json", *names, *more).stdout)
    return {(item["name"], link["name"]): link for item in found for link in item["links"]}


@pytest.mark.root
def test_other_ends(lab: Lab) -> None:
    shown = links(lab.names)
    ends = {key: (link["peer"]["netns"], link["peer"]["name"]) for key, link in shown.items() if link["peer"]}
    expected = {
        (lab.blue, "eth0"): (lab.router, "to1"),
        (lab.red, "eth0"): (lab.router, "to2"),
        (lab.green, "eth0"): (lab.router, "to3"),
        (lab.blue, "x0"): (lab.blue, "x1"),
        (lab.blue, "d0"): (lab.red, "d1"),
    }
    expected = {**expected, **{end: start for start, end in expected.items()}}
    assert ends == {**expected, (lab.red, "m0"): (lab.green, "eth0")}
    assert {shown[lab.router, f"to{n}"]["master"] for n in (1, 2, 3)} == {"br0"}
    assert shown[lab.router, "br0"]["addresses"][0] == "10.0.0.254/24"


@pytest.mark.root
def test_the_rest_of_the_world(lab: Lab) -> None:
    """An end outside of what is shown is said to be so, and never taken for a link that happens to have its index."""
    shown = links([lab.router, lab.green])
    assert shown[lab.green, "eth0"]["peer"] == {"netns": lab.router, "name": "to3"}
    assert shown[lab.router, "to1"]["peer"] is None
    assert shown[lab.router, "to1"]["unknown_nsid"] is not None
    assert "a namespace that is not shown" in run("map", lab.router).stdout


@pytest.mark.root
def test_ids_after_names_moved(lab: Lab, nsname: str) -> None:
    """The same namespace under two names is one; ids are asked for, so a path serves as well."""
    path = os.path.join(RUN_DIR, nsname)
    open(path, "w").close()
    subprocess.run(["mount", "--bind", os.path.join(RUN_DIR, lab.blue), path], check=True)
    try:
        shown = json.loads(run("map", "-f", "json", path, lab.router, lab.blue).stdout)
    finally:
        subprocess.run(["umount", path], check=True)
    assert [item["name"] for item in shown] == [path, lab.router]
    assert {"netns": path, "name": "eth0"} in [link["peer"] for link in shown[1]["links"]]


@pytest.mark.root
def test_text(lab: Lab) -> None:
    text = run("map", *lab.names).stdout
    assert "\x1b" not in text
    assert re.search(rf"^{lab.blue}\n├── eth0 \(veth\) 10.0.0.1/24  <-> {lab.router}:to1$", text, re.M)
    assert re.search(rf"^    ├── to2 \(veth\)  <-> {lab.red}:eth0$", text, re.M)
    assert re.search(rf"m0 \(macvlan, down\)  on {lab.green}:eth0$", text, re.M)
    assert " lo " not in text and " lo (loopback, down)" in run("map", "--loopback", *lab.names).stdout
    assert re.search(rf"^{lab.router}$", run("map").stdout, re.M)
    assert re.search(r"^\.  this namespace", run("map").stdout, re.M)


def parsed(svg: bytes) -> tuple[set[str], int]:
    """The texts of a picture, and how many edges it has."""
    root = xml.fromstring(svg)
    space = {"s": "http://www.w3.org/2000/svg"}
    texts = {(element.text or "").strip() for element in root.iterfind(".//s:text", space)}
    return texts, len(root.findall(".//s:g[@class='edge']", space))


@pytest.mark.root
def test_pictures(lab: Lab, tmp_path: Path) -> None:
    need_tool("dot")
    folder = Path(KEEP) if KEEP else tmp_path
    run("map", "-o", str(folder / "map.svg"), *lab.names)
    texts, edges = parsed((folder / "map.svg").read_bytes())
    assert {*lab.names, "br0", "eth0", "10.0.0.3/24", "to1", "m0"} <= texts
    assert edges == 5 + 3 + 1  # cables, ports, the macvlan
    run("map", "-o", str(folder / "map.png"), *lab.names)
    assert picture(folder / "map.png") > 1000
    dot = run("map", "-f", "dot", *lab.names).stdout
    assert dot.startswith("graph fastns {") and dot.count("subgraph") == 4
    run("map", "-o", str(tmp_path / "map.txt"), *lab.names)
    assert (tmp_path / "map.txt").read_text() == run("map", *lab.names).stdout


def picture(path: Path) -> int:
    """How many bytes of a PNG's pixels are not white."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, pixels = 8, b""
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        pixels += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return sum(byte not in (0, 255) for byte in zlib.decompress(pixels))


@pytest.mark.root
def test_pictures_without_graphviz(netns: str, tmp_path: Path) -> None:
    env = {**ENV, "PATH": str(tmp_path)}
    done = run("map", "-o", str(tmp_path / "map.svg"), netns, env=env, code=1)
    assert "apt-get install graphviz" in done.stderr
    assert not (tmp_path / "map.svg").exists()
    assert run("map", netns, env=env).stdout.startswith(netns)


@pytest.mark.root
def test_hostile_names(tmp_path: Path) -> None:
    name = 'fns-"];\\N\x1b[31m\n<b>'
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "add", 'v"\\l', "type", "veth", "peer", "<&>")
        ip("-n", name, "link", "set", "<&>", "alias", "\x1b]0;x\x07")
        text = run("map", name).stdout
        assert not {"\x1b", "\x07"} & set(text)
        assert r"\x1b]0;x\x07" in text
        need_tool("dot")
        texts, edges = parsed(run("map", "-f", "svg", name).stdout.encode())
        assert {r'fns-"];\N\x1b[31m\n<b>', r'v"\l', "<&>"} <= texts
        assert edges == 1
    finally:
        ip("netns", "del", name)


@pytest.mark.root
def test_map_misused(netns: str, tmp_path: Path) -> None:
    assert "fns-nonexistent" in run("map", "fns-nonexistent", code=1).stderr
    assert ".png" in run("map", "-o", str(tmp_path / "map.xyz"), netns, code=2).stderr
    (Path(RUN_DIR) / f"{netns}-dead").touch()
    try:
        assert re.search(rf"^{netns}-dead  .*dead", run("map").stdout, re.M)
    finally:
        (Path(RUN_DIR) / f"{netns}-dead").unlink()


@pytest.mark.root
def test_map_of_what_vanishes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = netns.listnetns()
    monkeypatch.setattr(netns, "listnetns", lambda: [*listed, "fns-nonexistent"])
    names = [namespace.name for namespace in look(()).namespaces]
    assert set(lab.names) < set(names) and "fns-nonexistent" not in names


# top


@pytest.mark.root
def test_top_once(lab: Lab) -> None:
    child = subprocess.Popen(["ip", "netns", "exec", lab.red, "sleep", "600"])
    try:
        wanted = json.loads(ip("-n", lab.red, "-j", "route", "show", "table", "main"))
        shown = json.loads(run("top", "--once", "--json", "-i", "0.2", lab.red, lab.router).stdout)
    finally:
        child.kill()
        child.wait()
    red, router = shown["namespaces"]
    assert (red["name"], red["state"], red["links"], red["processes"]) == (lab.red, "alive", 4, 1)
    assert red["addresses"] >= 1 and red["routes"] >= len(wanted)
    assert (router["links"], router["processes"]) == (5, 0)
    assert router["rx_bytes"] >= 0


@pytest.mark.root
def test_top_rates(lab: Lab) -> None:
    """What goes through: a second look knows how much it was, and it is nothing for a namespace made anew."""
    pool = cli_top.Pool()
    with pool:
        looks = cli_top.Looks(pool, (lab.blue, lab.red))
        assert looks.take()[0]["rx_bytes"] is None
        with netns.entered(lab.blue):
            import socket

            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                for _ in range(100):
                    sock.sendto(bytes(1000), ("10.0.0.255", 9))
        blue, _ = looks.take()
        assert blue["tx_bytes"] > 0 and blue["tx_packets"] > 0
        ip("netns", "del", lab.blue)
        assert [row["state"] for row in looks.take()] == ["gone", "alive"]
        ip("netns", "add", lab.blue)
        row = looks.take()[0]
        assert (row["state"], row["links"], row["tx_bytes"]) == ("alive", 1, None)


@pytest.mark.root
def test_top_goes_on_while_namespaces_vanish(lab: Lab) -> None:
    with Background("top", "-i", "0.05", "--sort", "links") as top:
        text = top.until(lab.blue)
        assert text.split("\n")[0].split()[:4] == ["name", "links", "addresses", "routes"]
        lab.remove()
        later = top.until("\nname", top.seen.count("\nname") + 20)
        assert lab.blue not in later.split("\nname")[-2]
        assert top.interrupt() == 130


@pytest.mark.root
def test_top_on_a_terminal(lab: Lab) -> None:
    with Terminal("top", "-i", "0.05") as terminal:
        terminal.until(lab.blue)
        terminal.until("Ctrl-C ends")
        assert "\x1b[?1049h" in terminal.screen
        terminal.press(b"\x03")
        assert terminal.end() == 130
    assert terminal.screen.rindex("\x1b[?1049l") > terminal.screen.rindex("\x1b[?1049h")
    assert "\x1b[?25h" in terminal.screen  # the cursor is back
    with Terminal("top", "-i", "0.05") as terminal:
        terminal.until(lab.blue)
        os.kill(terminal.pid, 15)
        assert terminal.end() == 143
    assert "\x1b[?1049l" in terminal.screen


@pytest.mark.root
def test_top_into_a_closed_pipe(netns: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "top", "-i", "0.05", netns], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
    ) as child:
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(60) == 1
        assert child.stderr.read() == b""


def test_screen_is_cut_to_its_height() -> None:
    row = {"state": "alive", "links": 3, "addresses": 4, "routes": 100_000, "processes": 1, "rx_bytes": 1.5e9,
           "tx_bytes": 0.0, "rx_packets": 1e6, "tx_packets": None}  # fmt: skip
    rows = [{"name": f"ns{number}\x1b[2J", **row} for number in range(100)]
    console = Console(record=True, width=110, height=24, force_terminal=True, file=io.StringIO())
    console.print(cli_top.screen(rows, 24, 2.0))
    text = console.export_text(clear=False)
    assert len(text.splitlines()) == 24 and "… and 80 more" in text
    assert re.search(r"ns19\\x1b\[2J +3 +4 +100,000 +1 +1.5 GB +0 B +1,000,000", text)
    if KEEP:
        (Path(KEEP) / "top.svg").write_text(console.export_svg(title="fastns top"))


@pytest.mark.root
def test_every_connection_is_drawn_once(lab: Lab) -> None:
    world = look(tuple(lab.names))
    assert cli_map.dot(world, False).count(" -- ") == 9
    assert cli_map.as_text(world, True).count("<->") == 10


@pytest.mark.root
def test_the_own_namespace_takes_no_privilege(netns: str) -> None:
    """What it runs in may be looked at by whoever runs there, also where no namespace may be entered."""
    need_tool("setpriv")
    prefix = ["ip", "netns", "exec", netns]
    if os.geteuid() == 0:
        prefix += ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    shown = json.loads(run("map", "-f", "json", ".", prefix=prefix).stdout)
    assert [link["name"] for link in shown[0]["links"]] == ["lo"]
    (row,) = json.loads(run("top", ".", "--once", "--json", "-i", "0.1", prefix=prefix).stdout)["namespaces"]
    assert (row["state"], row["links"]) == ("alive", 1)
    assert "Operation not permitted" in run("top", netns, "--once", "-i", "0.1", prefix=prefix).stdout
    with subprocess.Popen(
        [*prefix, *COMMAND, "monitor", "--initial", "-n", "1"], stdout=subprocess.PIPE, text=True, env=ENV
    ) as child:
        while "that was" not in child.stdout.readline():
            pass
        ip("-n", netns, "link", "set", "lo", "up")
        assert "lo #1 UP" in child.stdout.read()
    assert child.returncode == 0
