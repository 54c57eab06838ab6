"""Bulk writes on real namespaces, over both transports: every item is accounted for, whatever fails."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import struct
import threading
import warnings

import pyroute2
import pytest
from isolation import needs_tun
from pyroute2.netlink.rtnl import RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fastns import NetNS
from fastns._codec import BatchBuffer
from fastns.errors import BatchError, BatchItemError, NetlinkError

pytestmark = pytest.mark.root
FIRST = 0x0B000000


@pytest.fixture
def ns(netns, transport):
    with NetNS(netns, flags=0, transport=transport) as handle:
        handle.link("set", index=1, state="up")
        yield handle


def prefix(number):
    return f"{socket.inet_ntoa(struct.pack('>I', FIRST + number))}/32"


def main_routes(ns):
    return sorted(
        msg.get_attr("RTA_DST")
        for msg in ns.get_routes(family=socket.AF_INET)
        if msg.get_attr("RTA_TABLE") == 254
    )


def expected(numbers):
    return sorted(prefix(n)[:-3] for n in numbers)


# ---- what is sent, and when ----------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_end(ns):
    with ns.batch() as batch:
        for n in range(10):
            batch.route("add", dst=prefix(n), oif=1)
        assert main_routes(ns) == []
        assert (batch.count, batch.sent, batch.not_sent) == (10, 0, range(10))
    assert main_routes(ns) == expected(range(10))
    assert batch.results == [()] * 10
    assert (batch.count, batch.sent, batch.errors) == (10, 10, [])


@pytest.mark.parametrize("count", [0, 1, 2, 1500, 5000])
def test_every_item_of_many_datagrams(ns, count):
    with ns.batch() as batch:
        for n in range(count):
            batch.route("add", dst=prefix(n), oif=1)
    assert main_routes(ns) == expected(range(count))
    assert len(batch.results) == count
    with ns.batch() as batch:
        for n in range(count):
            batch.route("del", dst=prefix(n), oif=1)
    assert main_routes(ns) == []


def test_chunk_is_the_number_of_items_sent_at_once(ns):
    with ns.batch(chunk=3) as batch:
        for n in range(7):
            batch.route("add", dst=prefix(n), oif=1)
        assert (batch.sent, batch.pending) == (6, 1)
        assert main_routes(ns) == expected(range(6))
    assert main_routes(ns) == expected(range(7))


def test_leaving_by_an_exception_sends_no_more_and_says_so(ns):
    with pytest.raises(ZeroDivisionError) as caught:
        with ns.batch(chunk=2) as batch:
            for n in range(5):
                batch.route("add", dst=prefix(n), oif=1)
            raise ZeroDivisionError
    assert main_routes(ns) == expected(range(4))
    assert batch.not_sent == range(4, 5)
    assert caught.value.__notes__ == ["fastns batch: 4 of 5 items sent, 0 of them failed, 1 not sent"]


def test_a_finished_batch_takes_nothing(ns):
    with ns.batch() as batch:
        pass
    for use in (
        lambda: batch.route("add", dst="10.0.0.0/8", oif=1),
        lambda: batch.tc("add", kind="pfifo", index=1),
        lambda: batch.message(b"\0" * 16),
        batch.flush,
        batch.__enter__,
        lambda: batch.load([]),
    ):
        with pytest.raises(ValueError, match="finished"):
            use()
    batch.close()


@pytest.mark.parametrize("options", [{"errors": "ignore"}, {"chunk": 0}, {"chunk": -1}])
def test_wrong_options(ns, options):
    with pytest.raises(ValueError):
        ns.batch(**options)


def test_an_unfinished_batch_warns(ns):
    batch = ns.batch()
    batch.route("add", dst=prefix(1), oif=1)
    with pytest.warns(ResourceWarning, match="0 of 1 items sent"):
        del batch
    assert main_routes(ns) == []


# ---- failures ------------------------------------------------------------------------------------------------


def test_raise_names_every_failed_item(ns):
    ns.route("add", dst=prefix(3), oif=1)
    with pytest.raises(BatchError) as caught:
        with ns.batch() as batch:
            for n in range(2000):
                batch.route("add", dst=prefix(n), oif=999 if n == 1700 else 1)
            batch.addr("add", index=1, address="10.0.0.1", prefixlen=99)
    error = caught.value
    assert isinstance(error, (NetlinkError, pyroute2.NetlinkError, OSError))
    assert [(e.index, e.code) for e in error.errors] == [
        (3, errno.EEXIST),
        (1700, errno.ENODEV),
        (2000, errno.EINVAL),
    ]
    assert error.code == errno.EEXIST
    assert error.errors[0].request.get("dst") == prefix(3)[:-3]
    assert isinstance(error.errors[0].request, rtmsg)
    assert error.errors[2].strerror == "ipv4: Invalid prefix length"
    assert (error.failed, error.count, error.sent, error.not_sent) == (3, 2001, 2001, range(2001, 2001))
    assert len(error.applied) == 1998
    assert "3 of 2001 requests failed" in str(error)
    assert "item 3: File exists" in str(error)
    assert main_routes(ns) == expected(n for n in range(2000) if n != 1700)
    copy = pickle.loads(pickle.dumps(error))
    assert [(e.index, e.code, e.strerror, e.request) for e in copy.errors] == [
        (e.index, e.code, e.strerror, e.request) for e in error.errors
    ]


def test_collect_leaves_errors_in_the_results(ns):
    with ns.batch(errors="collect") as batch:
        for _ in range(2):
            for n in range(2):
                batch.route("add", dst=prefix(n), oif=1)
    assert batch.results[:2] == [(), ()]
    assert [(type(x), x.index, x.code) for x in batch.results[2:]] == [
        (BatchItemError, 2, errno.EEXIST),
        (BatchItemError, 3, errno.EEXIST),
    ]
    assert batch.errors[0].netns == ns.status["netns"]
    assert batch.failed == 2


def test_stop_ends_behind_the_datagram_that_failed(ns):
    with pytest.raises(BatchError) as caught:
        with ns.batch(errors="stop", chunk=4) as batch:
            for n in range(100):
                batch.route("add", dst=prefix(n), oif=999 if n == 5 else 1)
    error = caught.value
    assert [e.index for e in error.errors] == [5]
    assert error.applied == [0, 1, 2, 3, 4, 6, 7]
    assert error.sent == 8
    assert main_routes(ns) == expected(error.applied)
    assert batch.closed
    assert batch.not_sent == range(8, 8)


def test_stop_says_what_was_not_sent(ns):
    batch = ns.batch(errors="stop", chunk=2)
    batch.route("add", dst=prefix(0), oif=1)
    batch.route("add", dst=prefix(0), oif=1)
    with pytest.raises(BatchError) as caught:
        batch.close()
    assert [e.index for e in caught.value.errors] == [1]
    assert caught.value.applied == [0]


@pytest.mark.parametrize("rcvbuf", [None, 2304], ids=["large", "small"])
def test_all_items_fail(ns, rcvbuf):
    """The answers never overrun the receive buffer, however small it is."""
    batch = ns.batch(errors="collect")
    if rcvbuf:
        batch._transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        batch._set_room(batch._transport.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    with batch:
        for n in range(300 if rcvbuf else 5000):
            batch.addr("add", index=1, address=f"10.0.{n >> 8}.{n & 255}", prefixlen=99)
    assert [e.index for e in batch.errors] == list(range(batch.count))
    assert {(e.code, e.strerror) for e in batch.errors} == {(errno.EINVAL, "ipv4: Invalid prefix length")}
    assert batch.unknown == []


def test_lost_answers_are_told(ns):
    """Should answers be dropped all the same, nobody is told that their items were done."""
    batch = ns.batch(errors="collect")
    batch._transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    with batch:
        for n in range(400):
            batch.route("add", dst=prefix(n), oif=1 if n % 2 else 999)
        batch.flush()
        batch.route("add", dst=prefix(400), oif=1)
    assert batch.unknown
    known = [e for e in batch.errors if e.code == errno.ENODEV]
    assert known
    assert known[0].index == 0
    assert {e.index for e in batch.errors} >= {n for n in range(400) if n % 2 == 0}
    assert len(batch.errors) == len(known) + len(batch.unknown)
    assert batch.results[400] == ()
    assert "not known" in batch.describe()


def test_a_lost_answer_is_an_error(ns):
    with pytest.raises(BatchError, match="not known"):
        with ns.batch() as batch:
            batch._transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            for n in range(400):
                batch.route("add", dst=prefix(n), oif=999)


def test_the_offending_attribute(ns):
    data = ifinfmsg()
    data["header"]["type"], data["header"]["flags"] = 16, 0x601
    data["attrs"] = [("IFLA_IFNAME", "x"), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "nosuch")]})]
    with ns.batch(errors="collect") as batch:
        batch.link("add", ifname="x", kind="veth", mtu=1)
        batch.message(data)
        batch.route("add", dst="10.0.0.0/8", oif=1, metrics={"mtu": 1500, "attrs": [(99, b"1234")]})
    names = [(e.index, e.attribute) for e in batch.errors]
    assert all(name is None or name.startswith(("IFLA_", "RTA_")) for _, name in names)


def test_wrong_arguments_raise_where_they_are_given(ns):
    with ns.batch() as batch:
        with pytest.raises(Exception) as ours:
            batch.route("add", dst="300.0.0.1/32", oif=1)
        with pytest.raises(ValueError):
            batch.tc("add", index=1)
        with pytest.raises(KeyError):
            batch.route("frobnicate", dst="10.0.0.0/8")
        batch.route("add", dst=prefix(0), oif=1)
    with pytest.raises(type(ours.value)):
        ns.route("add", dst="300.0.0.1/32", oif=1)
    assert main_routes(ns) == expected([0])


def test_a_dump_is_refused(ns):
    with ns.batch() as batch:
        with pytest.raises(ValueError, match="dump"):
            batch.link("dump")
        with pytest.raises(ValueError, match="dump"):
            batch.tc("dump", index=1)
    assert batch.count == 0


# ---- all methods ---------------------------------------------------------------------------------------------


def test_every_method(ns):
    with ns.batch() as batch:
        batch.link("add", ifname="v0", kind="veth", peer={"ifname": "v1"})
        batch.link("set", ifname="v0", state="up", mtu=1400)
        batch.link("add", ifname="br0", kind="bridge")
        batch.rule("add", table=77, priority=500)
    index = ns.link_lookup(ifname="v0")[0]
    bridge = ns.link_lookup(ifname="br0")[0]
    with ns.batch(errors="collect") as batch:
        batch.addr("add", index=index, address="10.9.0.1", prefixlen=24)
        batch.neigh("add", dst="10.9.0.7", lladdr="00:11:22:33:44:55", ifindex=index)
        batch.link("set", index=index, master=bridge)
        batch.fdb("add", ifindex=index, lladdr="00:11:22:33:44:66", master=bridge)
        batch.route("add", dst="10.10.0.0/16", gateway="10.9.0.9", oif=index)
        batch.route(
            "add",
            dst="10.11.0.0/16",
            multipath=[{"gateway": "10.9.0.9"}, {"gateway": "10.9.0.10", "hops": 5}],
        )
        batch.tc("add", kind="pfifo", index=index, handle="1:", limit=10)
        batch.brport("set", index=index, cost=7)
        batch.vlan_filter("add", index=index, vlan_info={"vid": 500})
    assert batch.results[:8] == [()] * 8
    try:
        ns.vlan_filter("add", index=index, vlan_info={"vid": 500})
        vlans = ()
    except NetlinkError as error:  # a kernel without VLAN filtering
        vlans = error.code
    assert getattr(batch.results[8], "code", ()) == vlans
    assert ns.get_addr(index=index)[0].get_attr("IFA_ADDRESS") == "10.9.0.1"
    assert ns.get_neighbours(ifindex=index, dst="10.9.0.7")
    assert [r.get_attr("FRA_TABLE") for r in ns.get_rules(priority=500)] == [77]
    routes = {r.get_attr("RTA_DST"): r for r in ns.get_routes(family=socket.AF_INET)}
    assert routes["10.10.0.0"].get_attr("RTA_GATEWAY") == "10.9.0.9"
    assert len(routes["10.11.0.0"].get_attr("RTA_MULTIPATH")) == 2
    link = ns.link("get", index=index)[0]
    assert link.get_attr("IFLA_MTU") == 1400
    assert link.get_attr("IFLA_QDISC") == "pfifo"
    assert link.get_attr("IFLA_MASTER") == bridge


def test_echo_brings_back_what_was_made(ns):
    with ns.batch(echo=True) as batch:
        for n in range(40):
            batch.link("add", ifname=f"e{n}", kind="veth", peer={"ifname": f"p{n}"})
    assert len(batch.results) == 40
    for n, messages in enumerate(batch.results):
        assert [m.get_attr("IFLA_IFNAME") for m in messages][-1] == f"e{n}"
        assert messages[-1]["index"] == ns.link_lookup(ifname=f"e{n}")[0]


def test_get_is_answered_among_the_others(ns):
    with ns.batch(errors="collect") as batch:
        batch.link("get", index=1)
        batch.route("add", dst=prefix(1), oif=1)
        batch.link("get", index=4711)
        batch.link("get", index=1)
    assert [m.get_attr("IFLA_IFNAME") for m in batch.results[0]] == ["lo"]
    assert batch.results[1] == ()
    assert batch.results[2].code == errno.ENODEV
    assert [m.get_attr("IFLA_IFNAME") for m in batch.results[3]] == ["lo"]


@needs_tun
def test_requests_that_are_no_netlink_keep_their_place(ns):
    with ns.batch(errors="collect") as batch:
        batch.link("add", ifname="v0", kind="veth", peer="v1")
        batch.link("add", ifname="tap0", kind="tuntap", mode="tap")
        batch.link("set", ifname="tap0", mtu=1300)
    assert batch.results == [(), (), ()]
    assert ns.link("get", ifname="tap0")[0].get_attr("IFLA_MTU") == 1300


def test_namespaces_by_name(ns, transport, nsname):
    from fastns import netns as netns_module

    other = nsname + "o"
    netns_module.create(other)
    try:
        with ns.batch() as batch:
            for n in range(30):
                batch.link("add", ifname=f"a{n}", kind="veth", peer={"ifname": f"b{n}", "net_ns_fd": other})
                batch.link("add", ifname=f"c{n}", kind="veth", peer=f"d{n}")
                batch.link("set", ifname=f"d{n}", net_ns_fd=other)
        with NetNS(other, flags=0, transport=transport) as there:
            names = {link.get_attr("IFLA_IFNAME") for link in there.get_links()}
        assert names >= {f"b{n}" for n in range(30)} | {f"d{n}" for n in range(30)}
    finally:
        netns_module.remove(other)


# ---- raw messages --------------------------------------------------------------------------------------------


def raw_route(number, flags=0x601 | 4):
    body = struct.pack("=8BI", 2, 32, 0, 0, 254, 4, 253, 1, 0)
    body += struct.pack("=HH4s", 8, 1, struct.pack(">I", FIRST + number)) + struct.pack("=HHI", 8, 4, 1)
    return struct.pack("=IHHII", 16 + len(body), RTM_NEWROUTE, flags, 12345, 6789) + body


def test_raw_messages(ns):
    message = rtmsg()
    message["header"]["type"], message["header"]["flags"] = RTM_NEWROUTE, 0x605
    message["family"], message["dst_len"], message["table"], message["type"], message["scope"] = (
        2,
        32,
        254,
        1,
        253,
    )
    message["attrs"] = [("RTA_DST", prefix(9)[:-3]), ("RTA_OIF", 1)]
    with ns.batch(errors="collect") as batch:
        batch.message(raw_route(0))
        batch.message(raw_route(1) + raw_route(2))
        batch.message(bytearray(raw_route(1)))
        batch.message(message)
    assert [getattr(r, "code", 0) for r in batch.results] == [0, 0, 0, errno.EEXIST, 0]
    assert main_routes(ns) == expected([0, 1, 2, 9])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\0" * 16,
        raw_route(0)[:-1],
        raw_route(0) + b"\1",
        raw_route(0, flags=4),
        struct.pack("=IHHII", 16, 3, 5, 0, 0),
        struct.pack("=IHHII", 20, 18, 0x301, 0, 0) + b"\0" * 4,
    ],
)
def test_raw_messages_the_kernel_would_skip(ns, data):
    with ns.batch() as batch:
        with pytest.raises(ValueError):
            batch.message(data)
    assert batch.count == 0


def test_sequence_numbers_wrap(ns):
    class Near(BatchBuffer):
        def flush(self):
            raise AssertionError

    near = Near(0xFFFFFFFE, 100, 1 << 30, False, False)
    for n in range(4):
        near.route("add", dst=prefix(n), oif=1)
    data = near._seal()
    step = len(data) // 4
    assert [struct.unpack_from("=I", data, n * step + 8)[0] for n in range(4)] == [
        0xFFFFFFFE,
        0xFFFFFFFF,
        0,
        1,
    ]
    assert [struct.unpack_from("=H", data, n * step + 6)[0] & 4 for n in range(4)] == [0, 0, 0, 4]
    answer = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -17) + data[2 * step : 2 * step + 16]
    assert not near._account(answer)
    assert near._account(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, 0) + data[3 * step : 3 * step + 16])
    assert [(f[0], f[1]) for f in near._failures] == [(2, 17)]


# ---- loading -------------------------------------------------------------------------------------------------


def items(count):
    for n in range(count):
        yield ("route", "add", {"dst": prefix(n), "oif": 1})


def test_load_a_generator(ns):
    seen = []
    report = ns.batch().load(items(5000), progress=lambda done, failed: seen.append((done, failed)))
    assert report == (5000, 0, 0)
    assert seen[-1] == (5000, 0)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert len(main_routes(ns)) == 5000


def test_load_reports_failures(ns):
    ns.batch().load(items(100))
    bad = []
    with pytest.raises(BatchError) as caught:
        ns.batch().load(items(200), each=lambda index, result: bad.append((index, result.code)))
    assert bad == [(n, errno.EEXIST) for n in range(100)]
    assert [e.index for e in caught.value.errors] == list(range(100))
    batch = ns.batch(errors="collect")
    assert batch.load(items(300)) == (100, 200, 0)
    assert batch.closed
    with pytest.raises(ValueError, match="each"):
        _ = batch.results


def test_load_keeps_a_bounded_number_of_errors(ns, monkeypatch):
    monkeypatch.setattr("fastns.batch.LOADED_ERRORS", 10)
    ns.batch().load(items(3000))
    batch = ns.batch(errors="collect")
    seen = []
    assert batch.load(items(3000), each=lambda index, result: seen.append(index)) == (0, 3000, 0)
    assert len(batch.errors) == 10
    assert batch.failed == 3000
    assert seen == list(range(3000))


def test_load_in_a_block(ns):
    with pytest.raises(BatchError) as caught:
        with ns.batch() as batch:
            batch.route("add", dst=prefix(0), oif=1)
            assert batch.load(items(10)) == (9, 1, 0)
            batch.route("add", dst=prefix(20), oif=1)
            batch.route("add", dst=prefix(20), oif=1)
    assert [e.index for e in caught.value.errors] == [1, 12]


def test_load_raw_and_wrong_items(ns):
    assert ns.batch().load([raw_route(0), ("route", "add", {"dst": prefix(1), "oif": 1})]) == (2, 0, 0)
    with pytest.raises(ValueError, match="nosuch") as caught:
        ns.batch().load([raw_route(2), ("nosuch", "add", {})])
    assert "1 not sent" in caught.value.__notes__[0]
    assert main_routes(ns) == expected([0, 1])

    def broken():
        yield raw_route(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ns.batch().load(broken())
    assert main_routes(ns) == expected([0, 1])


def test_load_with_stop(ns):
    ns.route("add", dst=prefix(7), oif=1)
    with pytest.raises(BatchError) as caught:
        ns.batch(errors="stop", chunk=5).load(items(1000))
    assert caught.value.sent == 10
    assert [e.index for e in caught.value.errors] == [7]


# ---- life ----------------------------------------------------------------------------------------------------


def test_many_batches_leave_nothing(ns):
    before = len(os.listdir("/proc/self/fd"))
    for n in range(50):
        with ns.batch() as batch:
            batch.route("replace", dst=prefix(n), oif=1)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_batches_of_one_handle_side_by_side(ns):
    def work(start):
        with ns.batch(chunk=50) as batch:
            for n in range(start, start + 500):
                batch.route("add", dst=prefix(n), oif=1)

    threads = [threading.Thread(target=work, args=(n * 500,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert ns.link("get", index=1)
    for thread in threads:
        thread.join()
    assert len(main_routes(ns)) == 2000


@pytest.mark.parametrize("transport", ["direct"], indirect=True)
def test_the_batch_follows_the_socket_not_the_name(ns, netns):
    """The namespace of the handle is meant, also when its name belongs to another one by now."""
    from fastns import netns as netns_module

    netns_module.remove(netns)
    netns_module.create(netns)
    with ns.batch() as batch:
        batch.route("add", dst=prefix(0), oif=1)
    assert main_routes(ns) == expected([0])


def test_interrupted_while_waiting(ns, monkeypatch):
    """What was sent and not answered is told as unknown; the batch is over, the handle is not."""

    class Interrupted:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def recv(self, timeout=None):
            signal.raise_signal(signal.SIGINT)
            return self.inner.recv(timeout)

    with pytest.raises(KeyboardInterrupt) as caught:
        with ns.batch(chunk=3) as batch:
            batch._transport = Interrupted(batch._transport)
            for n in range(5):
                batch.route("add", dst=prefix(n), oif=1)
    assert batch.unknown == [0, 1, 2]
    assert "the outcome is not known" in caught.value.__notes__[0]
    assert main_routes(ns) == expected(range(3))
    assert ns.link("get", index=1)


def test_a_mocked_handle(monkeypatch):
    monkeypatch.setattr(pyroute2.config, "mock_netlink", True)
    from fastns import IPRoute

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with IPRoute() as handle:
            batch = handle.batch()
            batch._finish()
            assert not handle.asyncore.socket.closed


def test_errors_are_a_sequence():
    from fastns.errors import BatchItemErrors

    errors = BatchItemErrors([(n, errno.EEXIST, b"", b"") for n in range(5)], "blue")
    assert len(errors) == 5
    assert errors[1] is errors[1]
    assert (errors[-1].index, errors[-1].netns) == (4, "blue")
    assert [error.index for error in errors[1:3]] == [1, 2]
    assert errors == list(errors)
    assert errors != []
    assert errors[2] in errors
    assert repr(errors) == repr(list(errors))
    copy = pickle.loads(pickle.dumps(errors))
    assert [(error.index, error.code, error.netns) for error in copy] == [
        (n, errno.EEXIST, "blue") for n in range(5)
    ]
    with pytest.raises(IndexError):
        errors[5]
