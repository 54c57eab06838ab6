"""IPRoute and NetNS on real namespaces, the same tests over the direct and the relay transport."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import subprocess
import sys
import time
import tracemalloc

import pyroute2
import pytest
from handles import plain, veth
from isolation import needs_tun
from pyroute2 import config
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from fastns import IPRoute, NetlinkError, NetNS, NSPopen
from fastns import netns as netns_module

pytestmark = pytest.mark.root


# ---- opening --------------------------------------------------------------------------------------------------


def test_flags_follow_open(nsname, transport):
    with pytest.raises(FileNotFoundError):
        NetNS(nsname, flags=0, transport=transport)
    assert nsname not in netns_module.listnetns()
    NetNS(nsname, flags=os.O_CREAT | os.O_EXCL, transport=transport).close()
    with pytest.raises(FileExistsError):
        NetNS(nsname, flags=os.O_CREAT | os.O_EXCL, transport=transport)
    NetNS(nsname, flags=os.O_CREAT, transport=transport).close()
    NetNS(nsname, flags=0, transport=transport).close()
    with NetNS(nsname, transport=transport) as handle:
        assert handle.status["netns"] == nsname
        assert handle.status["target"] == "localhost"


def test_every_kind_of_reference_is_the_same_namespace(netns, transport):
    path = f"/var/run/netns/{netns}"
    child = subprocess.Popen(["ip", "netns", "exec", netns, "sleep", "60"])
    with open(path) as file, NetNS(netns, transport=transport) as first:
        try:
            first.link("add", ifname="here", kind="bridge")
            deadline = time.monotonic() + 30
            while os.stat(f"/proc/{child.pid}/ns/net").st_ino != os.stat(path).st_ino:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for reference in (netns, netns.encode(), path, path.encode(), file.fileno(), file):
                with NetNS(reference, flags=0, transport=transport) as handle:
                    assert handle.link_lookup(ifname="here"), reference
                    assert handle.status["netns"] == reference
            with NetNS(pid=child.pid, flags=0, transport=transport) as handle:
                assert handle.link_lookup(ifname="here")
            with IPRoute(netns, transport=transport) as handle:
                assert handle.link_lookup(ifname="here")
            with IPRoute(transport=transport) as handle:
                assert not handle.link_lookup(ifname="here")
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "x" * 256])
def test_bad_names_are_refused_before_anything_happens(name, transport):
    before = netns_module.listnetns()
    with pytest.raises(ValueError):
        NetNS(name, transport=transport)
    assert netns_module.listnetns() == before


@pytest.mark.parametrize("reference", [1.5, object(), ["x"]])
def test_what_is_no_reference_is_a_type_error(reference, transport):
    with pytest.raises(TypeError):
        NetNS(reference, transport=transport)


def test_a_path_that_is_no_namespace_is_refused_and_untouched(tmp_path, transport):
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(OSError) as caught:
        NetNS(str(path), transport=transport)
    assert caught.value.filename == str(path)
    with pytest.raises(OSError):
        netns_module.remove(str(path))
    assert path.read_text() == "kept"


def test_wrong_options_name_themselves():
    with pytest.raises(ValueError, match="carrier pigeon"):
        IPRoute(transport="carrier pigeon")
    with pytest.raises(ValueError, match="sometimes"):
        IPRoute(dump_intr="sometimes")


def test_libc_is_kept_and_checked(nsname):
    class Libc:
        mount = umount2 = unshare = setns = syscall = None

    libc = Libc()
    with NetNS(nsname, libc=libc) as handle:
        assert handle.asyncore.libc is libc
    netns_module.remove(nsname)
    with pytest.raises(AttributeError):
        NetNS(nsname, libc="text")


def test_unprivileged_open_names_namespace_and_capability(netns):
    code = (
        "import os, sys; from fastns import NetNS\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try: NetNS(sys.argv[1], transport='direct')\n"
        "except PermissionError as error: print(error.filename, error)\n"
    )
    with open("/proc/self/uid_map") as uid_map:
        ids = sum(int(line.split()[2]) for line in uid_map)
    if ids < 65535:
        pytest.skip("kernel: a user namespace with one id has nobody to become")
    done = subprocess.run([sys.executable, "-c", code, netns], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    if "Permission denied" in done.stderr and "ModuleNotFoundError" in done.stderr:
        pytest.skip("python: the interpreter's files are not readable for others")
    assert netns in done.stdout and "CAP_SYS_ADMIN" in done.stdout, done


# ---- requests -------------------------------------------------------------------------------------------------


def test_results_equal_pyroute2s(netns, ns):
    index, _ = veth(ns)
    ns.link("add", ifname="br0", kind="bridge")
    ns.link("set", index=index, state="up", master=ns.link_lookup(ifname="br0")[0])
    ns.addr("add", index=index, address="10.0.0.1", prefixlen=24)
    ns.addr("add", index=index, address="fd00::1", prefixlen=64)
    ns.neigh("add", dst="10.0.0.9", lladdr="02:00:00:00:00:09", ifindex=index, state="permanent")
    ns.rule("add", table=100, src="10.1.0.0/16", priority=1000)
    ns.route("add", dst="10.9.0.0/16", gateway="10.0.0.7", oif=index)
    time.sleep(0.1)
    with pyroute2.NetNS(netns) as theirs:
        for call in (
            lambda x: x.link("dump"),
            lambda x: x.get_links(),
            lambda x: x.link("get", index=index),
            lambda x: x.addr("dump"),
            lambda x: x.get_addr(index=index),
            lambda x: x.get_addr(label="v0"),
            lambda x: x.get_addr(family=socket.AF_INET),
            lambda x: x.neigh("dump", ifindex=index, dst="10.0.0.9"),
            lambda x: x.rule("dump"),
            lambda x: x.rule("dump", table=100),
            lambda x: x.route("dump", table=254),
            lambda x: x.route("dump", family=socket.AF_INET, table=254, oif=index),
            lambda x: x.route("dump", family=socket.AF_INET, dst="10.9.0.0"),
            lambda x: x.route("dump", table=100),
            lambda x: x.get_routes(family=socket.AF_INET),
            lambda x: x.route("get", dst="10.9.0.1"),
            lambda x: x.get_default_routes(),
            lambda x: x.link("dump", kind="bridge"),
            lambda x: x.link("dump", kind="veth", master=x.link_lookup(ifname="br0")[0]),
            lambda x: x.link("dump", master=12345),
            lambda x: x.addr("dump", index=12345),
            lambda x: x.get_vlans(),
            lambda x: x.fdb("dump"),
            lambda x: x.get_qdiscs(),
            lambda x: x.tc("dump", index=index),
            lambda x: x.brport("dump"),
        ):
            for _ in range(10):  # the kernel goes on: duplicate address detection, neighbour states
                mine, other = call(ns), call(theirs)
                if [plain(m) for m in mine] == [plain(m) for m in other]:
                    break
                time.sleep(0.2)
            assert type(mine) is type(other)
            assert [plain(m) for m in mine] == [plain(m) for m in other]
            for m, o in zip(mine, other):
                assert isinstance(m, type(o))
        assert {m.get("name") for m in ns.get_ntables()} == {m.get("name") for m in theirs.get_ntables()}
        assert ns.link_lookup(ifname="v0") == theirs.link_lookup(ifname="v0") == [index]
        assert ns.link_lookup(kind="bridge") == theirs.link_lookup(kind="bridge")
        assert ns.link_lookup(ifname="absent") == theirs.link_lookup(ifname="absent") == []


def test_message_surface(ns):
    veth(ns)
    (link,) = ns.link("get", ifname="v0")
    assert isinstance(link, ifinfmsg)
    assert link["event"] == "RTM_NEWLINK"
    assert link["header"]["type"] == RTM_NEWLINK
    assert link["header"]["error"] is None
    assert link["header"]["target"] == "localhost"
    assert link.get("ifname") == link.get_attr("IFLA_IFNAME") == "v0"
    assert link.get(("linkinfo", "kind")) == link.get_nested("linkinfo", "kind") == "veth"
    assert link.get("nothing", 7) == 7
    assert ("IFLA_IFNAME", "v0") in [tuple(x) for x in link["attrs"]]
    copy = pickle.loads(pickle.dumps(link))
    assert copy.get("ifname") == "v0"
    assert plain(copy) == plain(link)


def test_dumps_are_tuples_or_generators(ns):
    veth(ns)
    assert isinstance(ns.link("dump"), tuple)
    assert isinstance(ns.get_links(), tuple)
    assert isinstance(ns.link("get", index=1), list)
    config.nlm_generator = True
    try:
        dump = ns.link("dump")
        assert iter(dump) is dump
        assert {m.get("ifname") for m in dump} == {"lo", "v0", "v1"}
        assert {m.get("ifname") for m in ns.get_links()} == {"lo", "v0", "v1"}
    finally:
        config.nlm_generator = False


def test_a_streamed_dump_holds_a_few_datagrams_at_a_time(ns):
    with ns.batch() as batch:
        for i in range(30_000):
            batch.route("add", dst=f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32", type="blackhole")
    config.nlm_generator = True
    tracemalloc.start()
    try:
        assert sum(msg.get("dst") is not None for msg in ns.route("dump", family=socket.AF_INET, table=254)) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # they are 1.8 MB as bytes
    finally:
        tracemalloc.stop()
        config.nlm_generator = False


def test_requests_inside_a_streamed_dump(ns):
    index, _ = veth(ns)
    ns.link("set", index=index, state="up")
    ns.addr("add", index=index, address="10.0.0.1", prefixlen=8)
    for i in range(300):
        ns.route("add", dst=f"10.1.{i >> 8}.{i & 255}/32", oif=index)
    config.nlm_generator = True
    try:
        seen = 0
        for route in ns.route("dump", family=socket.AF_INET, table=254):
            if route["dst_len"] == 32:
                ns.route("del", dst=f"{route.get('dst')}/32", oif=index)
                assert len(list(ns.link("dump"))) == 3
                seen += 1
        assert seen == 300
        abandoned = ns.route("dump")
        next(abandoned)
        abandoned.close()
        assert len(list(ns.link("dump"))) == 3
    finally:
        config.nlm_generator = False
    assert not [r for r in ns.route("dump", family=socket.AF_INET, table=254) if r["dst_len"] == 32]


def test_errors_carry_what_the_kernel_said(netns, ns):
    with pytest.raises(NetlinkError, match="Unknown device type") as caught:
        ns.link("add", ifname="x0", kind="nosuchkind")
    error = caught.value
    assert isinstance(error, pyroute2.NetlinkError)
    assert isinstance(error, OSError)
    assert error.code == error.errno == errno.EOPNOTSUPP
    assert error.netns == netns
    assert error.request.get("ifname") == "x0"
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.errno, str(again)) == (error.code, error.errno, str(error))
    with pytest.raises(pyroute2.NetlinkError) as caught:
        ns.link("set", index=4242, state="up")
    assert caught.value.code == errno.ENODEV
    assert ns.link("get", index=1)


def test_ensure_and_poll(ns):
    index, _ = veth(ns)
    found = ns.ensure(ns.addr, present=True, index=index, address="10.0.0.1", prefixlen=24)
    assert found[0].get("address") == "10.0.0.1"
    assert ns.ensure(ns.addr, present=True, index=index, address="10.0.0.1", prefixlen=24)
    assert not ns.ensure(ns.addr, present=False, index=index, address="10.0.0.1", prefixlen=24)
    assert ns.poll(ns.link, "dump", ifname="v0", timeout=5)
    with pytest.raises(TimeoutError):
        ns.poll(ns.link, "dump", ifname="absent", timeout=0.05, interval=0.01)


def test_move_a_link_by_name_descriptor_and_pid(netns_pair, transport):
    one, two = netns_pair
    with NetNS(one, transport=transport) as left, NetNS(two, transport=transport) as right:
        left.link("add", ifname="a0", kind="veth", peer="a1")
        left.link("set", index=left.link_lookup(ifname="a1")[0], net_ns_fd=two)
        assert right.link_lookup(ifname="a1") and not left.link_lookup(ifname="a1")
        with open(f"/var/run/netns/{two}") as file:
            left.link("add", ifname="b0", kind="veth", peer={"ifname": "b1", "net_ns_fd": file.fileno()})
            left.link("add", ifname="c0", kind="bridge")
            left.link("set", index=left.link_lookup(ifname="b0")[0], net_ns_fd=file.fileno())
        assert right.link_lookup(ifname="b0") and right.link_lookup(ifname="b1")


def test_netnsid_of_a_descriptor(netns_pair, transport):
    one, two = netns_pair
    with NetNS(one, transport=transport) as ns, open(f"/var/run/netns/{two}") as file:
        ns.set_netnsid(fd=file.fileno(), nsid=42)
        assert ns.get_netnsid(fd=file.fileno())["nsid"] == 42
        infos = {m.get("path"): m for m in ns.get_netns_info()}
        assert infos[f"/var/run/netns/{two}"]["netnsid"] == 42


def test_tuntap_and_probe_run_in_the_namespace(ns):
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("kernel: no /dev/net/tun")
    ns.link("add", ifname="tap0", kind="tuntap", mode="tap")
    assert ns.link_lookup(ifname="tap0")
    with IPRoute() as here:
        assert not here.link_lookup(ifname="tap0")
    ns.link("del", index=ns.link_lookup(ifname="tap0")[0])
    with pytest.raises(NetlinkError):
        ns.probe("add", kind="tcp", dst="127.0.0.1", port=1, timeout=1)


@needs_tun
@pytest.mark.parametrize("how", ["name", "pid"])
def test_tuntap_in_the_namespace_of_the_handle(netns_pair, transport, how):
    """Not in the one its name or its process has by now, nor in the caller's."""
    name, other = netns_pair
    child = None
    if how == "name":
        handle = NetNS(name, flags=0, transport=transport)
    else:
        child = NSPopen(name, ["cat"], stdin=subprocess.PIPE)
        handle = NetNS(pid=child.pid, flags=0, transport=transport)
    with handle:
        handle.link("add", ifname="tap0", kind="tuntap", mode="tap")
        if child is not None:
            child.communicate()
        netns_module.remove(name)
        netns_module.attach(name, os.getpid())
        handle.link("add", ifname="tap1", kind="tuntap", mode="tap")
        for ifname in ("tap0", "tap1"):
            assert handle.link_lookup(ifname=ifname)
            for reference in (None, name, other):
                with IPRoute(reference) as elsewhere:
                    assert not elsewhere.link_lookup(ifname=ifname)


def test_binary_dump_and_load(ns):
    index, peer = veth(ns)
    ns.link("set", index=index, state="up")
    ns.link("set", index=peer, state="up")
    ns.addr("add", index=index, address="10.0.0.1", prefixlen=24)
    ns.route("add", dst="10.7.0.0/16", oif=index)
    data = ns.route_dumps(family=socket.AF_INET)
    ns.route("del", dst="10.7.0.0/16", oif=index)
    ns.route_loads(data)
    assert [r for r in ns.get_routes(family=socket.AF_INET) if r.get("dst") == "10.7.0.0"]


def test_flush(ns):
    index, _ = veth(ns)
    ns.link("set", index=index, state="up")
    for i in range(1, 4):
        ns.addr("add", index=index, address=f"10.0.0.{i}", prefixlen=24)
    ns.rule("add", table=77, priority=77)
    ns.route("add", dst="10.3.0.0/16", oif=index, table=500)
    ns.flush_routes(table=500)
    ns.flush_rules(priority=77)
    ns.flush_addr(index=index)
    assert not ns.get_addr(index=index, family=socket.AF_INET)
    assert not ns.rule("dump", table=77)
    assert not ns.route("dump", table=500)


def test_nlm_request_batch_compile_and_policy(ns):
    answer = ns.nlm_request(ifinfmsg(), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP)
    assert [m.get("ifname") for m in answer] == ["lo"]
    requests = []
    for index in (1, 1):
        msg = ifinfmsg()
        msg["index"] = index
        msg["header"].update(type=RTM_GETLINK, flags=NLM_F_REQUEST | 4)
        requests.append(msg)
    assert len(ns.nlm_request_batch(requests)) >= 2

    class mine(ifinfmsg):
        pass

    ns.register_policy(RTM_NEWLINK, mine)
    assert isinstance(ns.link("get", index=1)[0], mine)
    ns.unregister_policy(RTM_NEWLINK)
    ns.register_policy({RTM_NEWLINK: ifinfmsg})
    with pytest.raises(TypeError):
        ns.register_policy("links")
    with ns.compile():
        pass


def test_ipbatch_buffer_through_sendto(ns):
    batch = pyroute2.IPBatch()
    try:
        batch.link("add", ifname="bat0", kind="bridge")
        batch.link("add", ifname="bat1", kind="bridge")
        data = bytes(batch.asyncore.batch)
    finally:
        batch.close()
    ns.sendto(data, (0, 0))
    assert ns.poll(ns.link, "dump", ifname="bat1", timeout=5)
    assert ns.link_lookup(ifname="bat0")


def test_callbacks_see_answers(ns):
    seen = []
    ns.register_callback(seen.append, lambda m: m.get("ifname") == "lo")
    ns.link("dump")
    ns.unregister_callback(seen.append)
    ns.link("dump")
    assert [m.get("ifname") for m in seen] == ["lo"]


def test_more_requests_than_a_16_bit_pool_has(ns):
    pool = ns.asyncore.addr_pool
    assert len({pool.alloc() for _ in range(70000)}) == 70000
    pool.first = pool.last = 0xFFFFFFFE
    pool.counter = iter(range(0xFFFFFFFE, 0x100000010))
    for _ in range(6):
        assert ns.link("get", index=1)
        assert len(ns.link("dump")) == 1
