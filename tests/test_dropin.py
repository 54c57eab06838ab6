"""fastns behind pyroute2's names, and pyroute2 as it was afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pyroute2
import pyroute2.ipdb
import pyroute2.netns
import pytest
from pyroute2 import netns as pyroute2_netns
from pyroute2.iproute import linux
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.generic.ethtool import NlEthtool
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.process import ChildProcess

import fastns
from fastns import aio, dropin, schema

TREE = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed():
    fastns.install()
    try:
        yield
    finally:
        fastns.uninstall()


@pytest.fixture
def no_child(monkeypatch):
    """pyroute2's way into a namespace is a forked child; with fastns nobody takes it."""

    def refuse(self, *args, **kwarg):
        raise AssertionError("a child process")

    monkeypatch.setattr(ChildProcess, "__init__", refuse)
    monkeypatch.setattr(ChildProcess, "__enter__", refuse)


def run(*args, **kwarg):
    env = {key: value for key, value in os.environ.items() if key != "FASTNS_INSTALL"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TREE), env.get("PYTHONPATH")]))
    env.update(kwarg.pop("env", {}))
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=env, check=False, timeout=60, **kwarg
    )


# ---- names ----------------------------------------------------------------------------------------------------


def test_names_mean_fastns(installed):
    assert dropin.installed()
    assert pyroute2.IPRoute is linux.IPRoute is pyroute2.iproute.IPRoute is fastns.IPRoute
    assert pyroute2.NetNS is linux.NetNS is pyroute2.iproute.NetNS is fastns.NetNS
    assert pyroute2.AsyncIPRoute is linux.AsyncIPRoute is aio.AsyncIPRoute
    assert pyroute2.NSPopen is pyroute2.nslink.nspopen.NSPopen is fastns.NSPopen
    assert pyroute2.IPDB is pyroute2.ipdb.IPDB is fastns.IPDB
    assert pyroute2.ndb.source.AsyncIPRoute is aio.AsyncIPRoute
    assert pyroute2.nslink.nspopen.setns is fastns.netns.setns
    assert fastns.IPRoute in pyroute2.modules and fastns.NetNS in pyroute2.__all__
    from pyroute2 import NetNS  # what is imported from now on

    assert NetNS is fastns.NetNS


@pytest.mark.parametrize("name", ["create", "remove", "listnetns", "setns", "create_socket", "_create", "_get_netnspath"])
def test_netns_functions_are_fastns(installed, name):
    assert getattr(pyroute2_netns, name) is getattr(fastns.netns, name)


def test_a_module_imported_while_installed_is_restored_too(installed):
    code = """
        import fastns, sys, pyroute2
        original = pyroute2.AsyncIPRoute
        fastns.install()
        import pyroute2.dhcp.hooks as module
        assert module.AsyncIPRoute is not original
        fastns.uninstall()
        assert module.AsyncIPRoute is original
    """
    done = run("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


def test_uninstall_restores_everything():
    def look():
        return {
            (name, key): value
            for name, module in list(sys.modules.items())
            if name.split(".")[0] == "pyroute2"
            for key, value in vars(module).items()
        }

    before, lists = look(), (list(pyroute2.modules), list(pyroute2.__all__))
    marshal = dict(vars(Marshal))
    fastns.install()
    fastns.install()
    fastns.uninstall()
    fastns.uninstall()
    after = look()
    assert {key for key in before if after.get(key) is not before[key]} == set()
    assert lists == (pyroute2.modules, pyroute2.__all__)
    assert dict(vars(Marshal)) == marshal
    assert type(MarshalRtnl()) is MarshalRtnl
    assert not dropin.installed()


def test_names_already_imported_elsewhere_on_request():
    module = types.ModuleType("prog")
    original = module.NetNS = pyroute2.NetNS
    module.create = pyroute2_netns.create
    other = types.ModuleType("other")
    other.NetNS = original
    fastns.install(module)
    try:
        assert module.NetNS is fastns.NetNS and module.create is fastns.netns.create
        assert other.NetNS is original
        fastns.install(other)
        assert other.NetNS is fastns.NetNS
    finally:
        fastns.uninstall()
    assert module.NetNS is other.NetNS is original and module.create is pyroute2_netns.create


def test_mocked_namespaces(installed):
    pyroute2.config.mock_netns = True
    try:
        assert type(pyroute2_netns.create("anything")).__name__ == "LocalMock"
    finally:
        pyroute2.config.mock_netns = False


# ---- decoding -------------------------------------------------------------------------------------------------


def dump_of_links():
    with fastns.IPRoute() as ipr:
        ipr.asyncore.transport.send(
            __import__("struct").pack("=IHHIIBxHiII", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 9, 0, 0, 0, 0, 0, 0)
        )
        return bytes(ipr.asyncore.transport.recv(10))


def test_every_marshal_decodes_through_fastns():
    class Own(MarshalRtnl):
        """A program's own."""

    data = dump_of_links()
    before = list(Own().parse(data))
    fastns.install()
    try:
        for cls in (MarshalRtnl, Own):
            marshal = cls()
            assert isinstance(marshal, cls) and isinstance(marshal, schema._FastMarshal)
            assert list(marshal.parse(data)) == before
        assert all(isinstance(msg, ifinfmsg) for msg in Own().parse(data) if msg["header"]["type"] == 16)
    finally:
        fastns.uninstall()


def test_a_marshal_with_its_own_parser_keeps_it(installed):
    class Own(Marshal):
        def parse(self, data, seq=None, callback=None, skip_alien_seq=False):
            yield nlmsg()

    assert len(list(Own().parse(b"anything"))) == 1


def test_a_marshal_with_its_own_place_for_the_key(installed):
    marshal = MarshalRtnl()
    marshal.key_format, marshal.key_offset, marshal.key_mask = "I", 2, 0xFFFF0000  # type << 16
    plain = list(marshal.parse(dump_of_links()))
    assert not any(isinstance(msg, ifinfmsg) for msg in plain)
    marshal.msg_map.update({key << 16: value for key, value in tuple(marshal.msg_map.items())})
    assert any(isinstance(msg, ifinfmsg) for msg in marshal.parse(dump_of_links()))


def test_a_message_with_less_in_it_equals_a_received_one(installed):
    """pyroute2's comparison: nothing of the left is missing on the right."""
    msg = next(msg for msg in MarshalRtnl().parse(dump_of_links()) if isinstance(msg, ifinfmsg))
    sample = ifinfmsg()
    sample.setvalue({"index": msg["index"], "attrs": [("IFLA_IFNAME", msg.get("ifname"))], "event": msg["event"]})
    for field in [name for name, _ in ifinfmsg.fields if name in sample and name != "index"]:
        del sample[field]
    assert (sample == msg) is True and (sample != msg) is False
    sample["attrs"] = [("IFLA_IFNAME", "other")]
    assert (sample != msg) is True and (sample == msg) is False


def test_marshals_made_before_are_not_touched():
    marshal = MarshalRtnl()
    fastns.install()
    try:
        assert type(marshal) is MarshalRtnl and list(marshal.parse(dump_of_links()))
    finally:
        fastns.uninstall()


def test_batch_compiler_gives_the_same_bytes():
    def compiled():
        batch = pyroute2.IPBatch()
        try:
            batch.link("add", index=550, ifname="test", kind="dummy")
            batch.link("set", index=550, state="up")
            batch.addr("add", index=550, address="10.0.0.2", prefixlen=24)
            data = bytes(batch.batch)
            batch.reset()
            assert batch.batch == b""
        finally:
            batch.close()
        messages = []
        while data:
            size = int.from_bytes(data[:4], sys.byteorder)
            messages.append((data[:8], data[16:size]))  # without sequence and port number
            data = data[size:]
        return messages

    theirs = compiled()
    fastns.install()
    try:
        assert issubclass(pyroute2.IPBatch, fastns.IPRoute)
        assert compiled() == theirs
    finally:
        fastns.uninstall()


# ---- handles and sockets --------------------------------------------------------------------------------------


@pytest.mark.root
def test_handles_in_namespaces(installed, no_child, netns):
    with pyroute2.NetNS(netns) as ns, pyroute2.IPRoute(netns=netns) as ipr, pyroute2.RawIPRoute() as raw:
        ns.link("add", ifname="h0", kind="ifb")
        assert ipr.link_lookup(ifname="h0")
        assert raw.get_links()[0].get("ifname")

    async def names():
        async with pyroute2.AsyncIPRoute(netns=netns) as ipr:
            return [link.get("ifname") async for link in await ipr.get_links()]

    assert "h0" in asyncio.run(names())


@pytest.mark.root
@pytest.mark.parametrize("echo", [False, True])
def test_what_requests_return(netns_pair, echo):
    """Acknowledgements and echoed objects included."""
    original = pyroute2.IPRoute

    def answers(cls, netns):
        with cls(netns=netns, nlm_echo=echo) as ipr:
            requests = [
                (ipr.link, "add", {"ifname": "a0", "kind": "ifb", "index": 7}),
                (ipr.link, "set", {"index": 7, "state": "up"}),
                (ipr.link, "get", {"index": 7}),
                (ipr.addr, "add", {"index": 7, "address": "10.0.0.1", "prefixlen": 24}),
                (ipr.route, "add", {"dst": "10.1.0.0/24", "gateway": "10.0.0.2"}),
                (ipr.route, "get", {"dst": "10.1.0.1"}),
                (ipr.rule, "add", {"table": 100, "priority": 100}),
                (ipr.neigh, "add", {"dst": "10.0.0.9", "lladdr": "02:00:00:00:00:01", "ifindex": 7}),
                (ipr.neigh, "del", {"dst": "10.0.0.9", "lladdr": "02:00:00:00:00:01", "ifindex": 7}),
                (ipr.route, "del", {"dst": "10.1.0.0/24"}),
                (ipr.link, "del", {"index": 7}),
            ]
            found = []
            for method, command, spec in requests:
                answer = method(command, **spec)
                found.append((type(answer), [(msg["event"], msg["header"]["error"]) for msg in answer]))
            return found

    theirs = answers(original, netns_pair[0])
    assert theirs[1] == (list, [("NLMSG_ERROR", None)]) and len(theirs) == 11
    fastns.install()
    try:
        assert answers(pyroute2.IPRoute, netns_pair[1]) == theirs
    finally:
        fastns.uninstall()


@pytest.mark.root
def test_classes_derived_before_go_on(netns):
    class Derived(pyroute2.IPRoute):
        pass

    fastns.install()
    try:
        with Derived(netns=netns) as ipr:
            assert [link.get("ifname") for link in ipr.get_links()] == ["lo"]
            assert type(ipr.asyncore).__module__ == "pyroute2.iproute.linux"
    finally:
        fastns.uninstall()


@pytest.mark.root
def test_namespace_functions(installed, no_child, nsname):
    pyroute2_netns.create(nsname)
    assert nsname in pyroute2_netns.listnetns()
    pyroute2_netns.pushns(nsname)
    pyroute2_netns.popns()
    sock = pyroute2_netns.create_socket(nsname)
    sock.close()
    pyroute2_netns.remove(nsname)
    assert nsname not in pyroute2_netns.listnetns()


SOCKET = """
import sys
import fastns
fastns.install()
import pyroute2
from pyroute2.process import ChildProcess

def refuse(*args, **kwarg):
    raise AssertionError("a child process")

ChildProcess.__init__ = refuse
try:
    getattr(pyroute2, sys.argv[1])(netns=sys.argv[2]).close()
except AssertionError:
    raise
except (pyroute2.NetlinkError, OSError) as error:
    print(error)
"""


@pytest.mark.root
@pytest.mark.parametrize(
    "name", "GenericNetlinkSocket NlEthtool WireGuard DL IPVS MPTCP TaskStats NL80211 Conntrack IPRSocket".split()
)
def test_other_sockets_open_without_a_fork(netns, name):
    done = run("-c", SOCKET, name, netns)  # in a process of its own: those that fail leave their sockets open
    assert done.returncode == 0, done.stderr
    if done.stdout:
        pytest.skip(f"kernel: no {name}: {done.stdout.strip()}")


@pytest.mark.root
def test_another_protocol_in_a_namespace(installed, no_child, netns):
    with fastns.NetNS(netns) as ns:
        ns.link("set", index=1, state="up")
    with NlEthtool(netns=netns) as ethtool:
        try:
            state = ethtool.get_linkstate("lo")
        except pyroute2.NetlinkError as error:
            pytest.skip(f"kernel: no ethtool netlink: {error}")
        assert state[0].get_attr("ETHTOOL_A_LINKSTATE_LINK") == 1


@pytest.mark.root
def test_processes(installed, netns):
    with pyroute2.NSPopen(netns, ["ip", "-br", "link"], stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0].split()[0] == "lo"
    process.release()


@pytest.mark.root
def test_database_of_old(installed, netns_pair):
    main, other = netns_pair
    with pyroute2.IPDB(nl=pyroute2.NetNS(main)) as db, pyroute2.IPDB(nl=pyroute2.NetNS(other)) as target:
        db.create(ifname="v0", kind="veth", peer="v1").commit()
        with db.interfaces.v1 as link:
            link.net_ns_fd = other
        assert "v1" in target.interfaces


@pytest.mark.root
def test_name_of_a_namespace_in_a_request_leaves_nothing_open(netns_pair):
    """pyroute2's own engine, fastns's decoding: what the encoding opens is closed all the same."""

    class Derived(pyroute2.IPRoute):
        pass

    main, other = netns_pair
    fastns.install()
    try:
        with Derived(netns=main) as ipr:
            ipr.link("add", ifname="v0", kind="veth", peer="v1")
            (index,) = ipr.link_lookup(ifname="v1")
            before = set(os.listdir("/proc/self/fd"))
            ipr.link("set", index=index, net_ns_fd=other)
            assert set(os.listdir("/proc/self/fd")) == before
    finally:
        fastns.uninstall()


# ---- NDB ------------------------------------------------------------------------------------------------------

NDB = """
import sys, time
import fastns
fastns.install()
from pyroute2 import NDB
from pyroute2.process import ChildProcess

def refuse(*args, **kwarg):
    raise AssertionError("a child process")

ChildProcess.__init__ = refuse
names = sys.argv[1:]
sources = [{"target": name, "kind": "netns", "netns": name} for name in names]
with NDB(log="off", sources=sources) as ndb:
    for source in ndb.sources.asyncore.values() if hasattr(ndb.sources, "asyncore") else ():
        assert type(source.nl).__module__ == "fastns.aio", type(source.nl)
    one, two = names[:2]
    ndb.interfaces.create(
        target=one, ifname="n0", kind="veth", peer={"ifname": "n1", "net_ns_fd": two}
    ).commit()
    ndb.interfaces.wait(target=two, ifname="n1", timeout=20)
    for name, ifname, address in ((one, "n0", "10.0.0.1/24"), (two, "n1", "10.0.0.2/24")):
        with ndb.interfaces[{"target": name, "ifname": ifname}] as link:
            link.set(state="up")
            link.add_ip(address)
    with fastns.NetNS(two) as ns:  # from outside: the source hears of it
        ns.link("add", ifname="e0", kind="ifb")
    ndb.interfaces.wait(target=two, ifname="e0", timeout=20)
    ndb.routes.create(target=one, dst="10.1.0.0/24", gateway="10.0.0.2").commit()
    print(sorted((record.target, record.ifname) for record in ndb.interfaces.dump()))
    print(sorted((r.target, r.address) for r in ndb.addresses.dump() if r.address.startswith("10.")))
    with fastns.NetNS(one) as ns:
        print([r.get("gateway") for r in ns.get_routes(family=2) if r.get("dst") == "10.1.0.0"])
"""


@pytest.mark.root
def test_ndb_with_several_namespaces(netns_pair):
    one, two = netns_pair
    done = run("-c", NDB, one, two)
    assert done.returncode == 0, done.stderr
    links, addresses, routes = done.stdout.splitlines()
    expected = [(one, "lo"), (one, "n0"), (two, "e0"), (two, "lo"), (two, "n1")]
    assert links == repr(sorted(expected))
    assert addresses == repr(sorted([(one, "10.0.0.1"), (two, "10.0.0.2")]))
    assert routes == "['10.0.0.2']"


# ---- the command and the environment --------------------------------------------------------------------------

SCRIPT = """\
import sys
from pyroute2 import NetNS
print(NetNS.__module__, __name__, sys.argv[1:])
import helper
raise SystemExit(7)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "prog.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("")
    return tmp_path / "prog.py"


def test_script(script, tmp_path):
    done = run("-m", "fastns.dropin", str(script), "a", "--b")
    assert (done.returncode, done.stdout) == (7, "fastns.iproute __main__ ['a', '--b']\n"), done.stderr


def test_module(script):
    done = run("-m", "fastns.dropin", "-m", "prog", "a", cwd=script.parent)
    assert (done.returncode, done.stdout) == (7, "fastns.iproute __main__ ['a']\n"), done.stderr


def test_code():
    code = "import sys, pyroute2; print(pyroute2.NetNS.__module__, __name__, sys.argv)"
    done = run("-m", "fastns.dropin", "-c", code, "a")
    assert (done.returncode, done.stdout) == (0, "fastns.iproute __main__ ['-c', 'a']\n"), done.stderr


@pytest.mark.parametrize("args", [(), ("-m",), ("-c",)])
def test_usage(args):
    done = run("-m", "fastns.dropin", *args)
    assert done.returncode == 2 and done.stderr.startswith("usage:")
    assert run("-m", "fastns.dropin", "--help").stdout.startswith("usage:")


@pytest.mark.parametrize(
    ("value", "where"), [("1", "fastns.iproute"), ("0", "pyroute2.iproute.linux"), ("", "pyroute2.iproute.linux")]
)
def test_environment(value, where):
    code = "import fastns, pyroute2; print(pyroute2.NetNS.__module__)"
    done = run("-c", code, env={"FASTNS_INSTALL": value})
    assert (done.returncode, done.stdout.strip()) == (0, where), done.stderr


def test_import_changes_nothing():
    code = """
        import pyroute2
        before = {key: value for key, value in vars(pyroute2).items()}
        import fastns, fastns.dropin
        assert all(vars(pyroute2)[key] is value for key, value in before.items())
    """
    done = run("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


def test_installing_is_quick(installed):
    fastns.uninstall()
    start = time.process_time()
    fastns.install()
    assert time.process_time() - start < 5  # a mistake in the search, not a benchmark
