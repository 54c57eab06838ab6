"""`fastns load`: the lines of `ip -batch` beside `ip` itself, errors with their lines, policies, progress."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from commands import COMMAND, ENV, Background, Terminal, ip, run, wait_for
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click", reason="python: click is not installed")
pytest.importorskip("rich", reason="python: rich is not installed")

from fastns import NetNS
from fastns.cli import lines as cli_lines

SETUP = """
link add name b0 up type bridge stp_state 1 forward_delay 400 ageing_time 10000
link add v0 address 02:00:00:00:00:01 type veth peer name v1 address 02:00:00:00:00:02 mtu 1400
link set v0 up master b0
link set dev v1 up txqueuelen 77 alias "an alias"
link set b0 address 02:00:00:00:00:03 up
link add vx0 address 02:00:00:00:00:04 type vxlan id 42 remote 10.1.0.9 dstport 4789 nolearning ttl 9
link add link v1 name m0 address 02:00:00:00:00:05 type macvlan mode bridge
link add gone type veth peer gone2
link set v1 promisc on
link set v1 multicast off arp off
link set m0 name m1
link del gone
addr add 10.1.0.2/24 brd + dev v1
addr add 10.1.9.2 peer 10.1.9.3/32 dev v1 label v1:x
a a 10.1.8.2/30 dev v1 scope link metric 20 noprefixroute
address add 10.1.7.2/24 dev v1
address del 10.1.7.2/24 dev v1
addr replace 2001:db8:1::2/64 dev v1 nodad
-6 addr add 2001:db8:2::2/64 dev v1 nodad valid_lft forever preferred_lft forever
"""
ROUTES = """
# what a router has
route add 10.2.0.0/24 via 10.1.0.1 dev v1
route add 10.2.1.0/24 via 10.1.0.1 dev v1 proto static metric 20
r a 10.2.2.0/24 dev v1
route add 10.2.3/24 dev v1 scope global src 10.1.0.2
route add to 10.2.4.7 via 10.1.0.1 table 100 tos 0x10
route add 10.2.5.0/255.255.255.0 via 10.1.0.1 onlink dev v1 mtu 1300 advmss 1200 initcwnd 20
ip route add blackhole 10.2.6.0/24
route add unreachable 10.2.7.0/24 metric 9
route add local 10.2.8.1 dev lo
route add broadcast 10.2.8.255 dev v1 table local
route add 10.2.9.0/24 nexthop via 10.1.0.1 dev v1 weight 3 nexthop via 10.1.0.5 dev v1
route add default via 10.1.0.1
route append 10.2.0.0/24 via 10.1.0.4 dev v1
route replace 10.2.1.0/24 via 10.1.0.7 dev v1 metric 20
route change 10.2.1.0/24 via 10.1.0.8 dev v1 metric 20
route add 10.2.10.0/24 via inet6 2001:db8:1::1 dev v1
route add throw 10.2.11.0/24
route add 10.2.12.0/24 via \\
    10.1.0.1     # goes on
route del 10.2.2.0/24
route add 10.2.13.0/24 via 10.1.0.1 proto 44
route del 10.2.13.0/24 via 10.1.0.1
route del throw 10.2.11.0/24
-6 route add default via 2001:db8:1::1
route add 2001:db8:9::/48 via 2001:db8:1::1 dev v1 metric 7 mtu 1300
route add 2001:db8:a::/48 dev v1
-6 route add unreachable 2001:db8:b::/48
route del 2001:db8:a::/48
neigh add 10.1.0.1 lladdr 02:00:00:00:01:01 dev v1
neigh add 10.1.0.3 lladdr 02:00:00:00:01:03 dev v1 nud stale
n replace 10.1.0.1 lladdr 02:00:00:00:01:09 nud permanent dev v1
neigh add 10.1.0.4 lladdr 02:00:00:00:01:04 dev v1 nud permanent
neigh del 10.1.0.4 dev v1
neigh add proxy 10.1.0.200 dev v1
neigh add 2001:db8:1::1 lladdr 02:00:00:00:01:01 dev v1 router
rule add from 10.0.0.0/8 table 100 pref 77
rule add to 10.3.0.0/16 iif v1 lookup main priority 78
rule add fwmark 0x10/0xff blackhole pref 79
rule add not from 10.4.0.0/16 pref 80 table 101
-6 rule add from 2001:db8::/32 table 100 pref 81
rule add from all pref 82 table 103
rule del pref 82
"""


def state(name: str) -> dict[str, Any]:
    """What `ip` shows of a namespace, without what no file decides."""
    found = {}
    for family in ("-4", "-6"):
        for what in ("route show table all", "rule", "neigh show nud all", "neigh show proxy", "addr"):
            text = ip("-n", name, "-j", "-d", family, *what.split())
            items = json.loads(text or "[]")
            items = [item for item in items if not str(item.get("dst", "")).startswith(("fe80", "ff", "224."))]
            # a link that has nothing but the kernel's own address is shown once that is made
            found[family, what] = sorted(text for text in map(clean, items) if '"addr_info": []' not in text)
    found["link"] = [clean(item) for item in json.loads(ip("-n", name, "-j", "-d", "link"))]
    return found


VOLATILE = {
    "used", "confirmed", "updated", "cacheinfo", "operstate", "flags", "inet6_addr_gen_mode", "hello_timer", "gc_timer",
    "tcn_timer", "topology_change_timer", "bridge_id", "root_id", "designated_root", "designated_bridge", "hold_timer",
    "message_age_timer", "forward_delay_timer", "state", "topology_change", "topology_change_detected", "root_path_cost",
    "expires", "designated_port", "designated_cost", "port_id", "no", "id", "root_port",
}  # fmt: skip


def clean(item: Any) -> str:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in VOLATILE}
        if isinstance(value, list):
            kept = [without(v) for v in value]
            return [v for v in kept if not (isinstance(v, dict) and str(v.get("local", "")).startswith("fe80"))]
        return value

    return json.dumps(without(item), sort_keys=True)


@pytest.mark.root
def test_lines_do_what_ip_does(netns_pair: tuple[str, str], tmp_path: Any) -> None:
    ours, theirs = netns_pair
    for name in netns_pair:
        ip("-n", name, "link", "set", "lo", "up")
    for part in (SETUP, ROUTES):
        file = tmp_path / "lines"
        # `ip -batch` has no place for "ip" nor "-6" in a line
        plain = re.sub(r"^-6.*\n", "", part.replace("\nip ", "\n"), flags=re.M)
        six = re.findall(r"^-6 (.*\n)", part, re.M)
        ip("-n", theirs, "-batch", "-", input=plain)
        ip("-n", theirs, "-6", "-batch", "-", input="".join(six))
        file.write_text(part)
        done = run("load", ours, str(file))
        assert done.stderr == ""
        count = sum(bool(line.strip() and line[0] not in "# ") for line in part.splitlines())
        assert done.stdout.startswith(f"{count} applied, 0 failed, ")
        mine, other = state(ours), state(theirs)
        for key, value in other.items():
            assert mine[key] == value, key


@pytest.mark.root
def test_links_go_to_other_namespaces(netns_pair: tuple[str, str]) -> None:
    first, second = netns_pair
    text = f"link add x0 type veth peer name x1 netns {second}\nlink set x0 netns {second}\n"
    assert run("load", first, "-", input=text).stdout.startswith("2 applied, 0 failed")
    shown = [link["ifname"] for link in json.loads(ip("-n", second, "-j", "link"))]
    assert {"x0", "x1"} <= set(shown)


@pytest.mark.root
def test_json_lines(netns: str) -> None:
    text = "\n".join([
        '["link", "add", {"ifname": "v0", "kind": "veth", "peer": {"ifname": "v1"}}]',
        '["link", "set", {"index": "v0", "state": "up"}]',
        '["link", "set", {"index": "v1", "state": "up"}]',
        '["addr", "add", {"index": "v0", "address": "10.1.0.1", "prefixlen": 24}]',
        '["route", "add", {"dst": "10.2.0.0/16", "oif": "v0", "priority": 9}]',
        '["route", "add", {"dst": "10.3.0.0/16", "multipath": [{"oif": "v0", "gateway": "10.1.0.7"}]}]',
        '["route", "add", {"dst": "10.4.0.0/16", "oif": "no-such"}]',
        '["route", "add", {"dst": "10.5.0.0/16", "oif": 999}]',
        '["route", {"dst": "10.4.0.0/16"}]',
        '["rm", "add", {}]',
        "[" * 100_000,
        '{"route": 1}',
        '["route", "add", {"dst": 1e99}]',
        '["route", "add", {"dst": ["x", {}]}]',
        '["link", "add", {"kind": 7, "ifname": null}]',
    ])  # fmt: skip
    done = run("load", netns, "-", "--json", input=text, code=1)
    report = json.loads(done.stdout)
    assert (report["applied"], report["failed"], report["unknown"]) == (6, 9, 0)
    assert sorted(error["line"] for error in report["errors"]) == list(range(7, 16))
    assert "no device 'no-such'" in done.stderr
    shown = [item["dst"] for item in json.loads(ip("-n", netns, "-j", "route"))]
    assert shown == ["10.1.0.0/24", "10.2.0.0/16", "10.3.0.0/16"]


FAILING = "".join(f"route add blackhole 10.0.0.{number}\n" for number in (1, 2, 1, 3, 2, 4)) + "route add so-what\n"


@pytest.mark.root
@pytest.mark.parametrize(("policy", "code"), [("raise", 1), ("collect", 0)])
def test_errors_name_their_lines(netns: str, tmp_path: Any, policy: str, code: int) -> None:
    file = tmp_path / "routes"
    file.write_text(FAILING)
    done = run("load", "--errors", policy, netns, str(file), code=code)
    assert done.stdout.startswith("4 applied, 3 failed, ")
    assert sorted(done.stderr.splitlines()) == [
        f"fastns: {file}:3: File exists (route add blackhole 10.0.0.1)",
        f"fastns: {file}:5: File exists (route add blackhole 10.0.0.2)",
        f"fastns: {file}:7: route: 'so-what' is no address (route add so-what)",
    ]


@pytest.mark.root
def test_stop_stops(netns: str) -> None:
    done = run("load", "--errors", "stop", "--chunk", "1", netns, "-", input=FAILING, code=1)
    assert done.stdout.startswith("2 applied, 1 failed, the rest not sent, ")
    assert len(json.loads(ip("-n", netns, "-j", "route"))) == 2
    done = run("load", "--errors", "stop", netns, "-", input="nonsense\n" + FAILING, code=1)
    assert done.stdout.startswith("0 applied, 1 failed, the rest not sent, ")


@pytest.mark.root
def test_many_lines_and_who_failed(netns: str, rng: Any) -> None:
    """Numbers of lines stay right over many datagrams, comments between."""
    lines, wrong = [], []
    for number in range(20_000):
        if rng.random() < 0.1:
            lines.append("# nothing" if rng.random() < 0.5 else "")
        lines.append(f"route add blackhole 10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        if rng.random() < 0.02:
            lines.append(lines[-1])
            wrong.append(len(lines))
    done = run("load", "--json", netns, "-", input="\n".join(lines), code=1)
    report = json.loads(done.stdout)
    assert report["applied"] == 20_000
    assert [error["line"] for error in report["errors"]] == wrong
    assert {(error["errno"], error["error"]) for error in report["errors"]} == {(17, "File exists")}


@pytest.mark.root
def test_names_in_errors_are_escaped(netns: str) -> None:
    done = run("load", netns, "-", input="route add \x1b[31mred dev \x07\n", code=1)
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr
    assert r"\x1b[31mred" in done.stderr


def test_load_into_what_is_not_there(tmp_path: Any) -> None:
    assert "fns-nonexistent" in run("load", "fns-nonexistent", "-", input="", code=1).stderr
    run("load", "fns-nonexistent", str(tmp_path / "missing"), code=2)
    run("load", "fns-nonexistent", "-", "--errors", "some", code=2)


@pytest.mark.root
def test_progress_on_a_terminal(netns: str, tmp_path: Any) -> None:
    file = tmp_path / "routes"
    file.write_text("".join(f"route add blackhole 10.0.{n >> 8}.{n & 255}\n" for n in range(5000)) + "route x\n")
    with Terminal("load", netns, str(file)) as terminal:
        assert terminal.end() == 1
    assert "loading" in terminal.screen and "sent" in terminal.screen
    assert f"{file}:5001" in terminal.screen
    assert "5,000 applied, 1 failed" in terminal.screen


@pytest.mark.root
def test_interrupted_while_reading(netns: str) -> None:
    with Background("load", netns, "-", stdin=subprocess.PIPE) as loading:
        loading.process.stdin.write(b"".join(b"route add blackhole 10.0.%d.%d\n" % divmod(n, 256) for n in range(9000)))
        loading.process.stdin.flush()
        wait_for(lambda: ip("-n", netns, "route").count("\n") > 1000)
        assert loading.interrupt() == 130


@given(st.lists(st.sampled_from((SETUP + ROUTES).split()) | st.text(max_size=8), max_size=12))
def test_no_line_does_anything_but_parse_or_name_what_is_wrong(words: list[str]) -> None:
    try:
        item = cli_lines.parse(" ".join(words), lambda device: 7)
    except ValueError as error:
        assert str(error)
    else:
        assert item is None or (isinstance(item[0], str) and isinstance(item[2], dict))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["multipath", "oif", "dst", "index"]), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["route", "link", "rm", 7, None]), values, values)
def test_no_json_line_does_either(method: Any, command: Any, arguments: Any) -> None:
    text = json.dumps([method, command, arguments])
    try:
        item = cli_lines.parse(text, lambda device: 7)
    except ValueError as error:
        assert str(error)
    else:
        assert item is not None and isinstance(item[2], dict)


@pytest.mark.root
@pytest.mark.parametrize("line", ["link add \0 type veth", "route add 10.0.0.0/8 dev \0", "link add \udc80 type ifb",
                                  "route add 10.0.0.0/8 dev \udc80", "link set lo netns \0", 'link add "', "link set lo alias"])  # fmt: skip
def test_strange_lines_are_told_and_left_out(netns: str, line: str) -> None:
    text = f"{line}\nroute add blackhole 10.0.0.1\n".encode(errors="surrogateescape")
    done = subprocess.run([*COMMAND, "load", netns, "-"], input=text, capture_output=True, env=ENV, check=False)
    assert b"Traceback" not in done.stderr
    assert (done.returncode, done.stdout[:19]) == (1, b"1 applied, 1 failed"), done
    assert b"-:1: " in done.stderr


@pytest.mark.root
def test_refused_items_of_a_batch(netns: str) -> None:
    """Batch.load hands on what cannot be made into a request, and goes on."""
    items = [
        ("route", "add", {"dst": "10.0.0.0/8", "type": "blackhole"}),
        ("route", "add", {"dst": "nonsense", "gateway": "x"}),
        ("link", "set", {"index": 1, "net_ns_fd": "fns-nonexistent"}),
        ("what", "add", {}),
        b"no message",
        ("route", "add", {"dst": "11.0.0.0/8", "type": "blackhole"}),
    ]
    told = []
    with NetNS(netns, flags=0) as ns:
        report = ns.batch().load(items, refused=lambda item, error: told.append((item, type(error))))
        assert report == (2, 0, 0)
        assert [item for item, _ in told] == items[1:5]
        with pytest.raises((OSError, ValueError)):
            ns.batch(errors="collect").load(items[1:])
