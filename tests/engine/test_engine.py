"""A handle on a kernel of our own."""

from __future__ import annotations

import pyroute2
import pytest
from fakekernel import FakeKernel, done, route
from pyroute2 import config

from fastns import IPRoute


@pytest.mark.parametrize("mark", ["part", "done"])
def test_an_interrupted_dump_is_repeated(mark):
    def answers(attempt, seq):
        bad = 0x10 if attempt < 3 else 0
        return [route(seq, 2 | (bad if mark == "part" else 0)), done(seq, 2 | (bad if mark == "done" else 0))]

    kernel = FakeKernel(answers)
    with IPRoute(use_socket=kernel) as ipr:
        assert len(ipr.route("dump")) == 1
    assert len(kernel.requests) == 3


@pytest.mark.parametrize("policy", ["retry", "raise", "flag"])
@pytest.mark.parametrize("generator", [False, True])
def test_a_dump_interrupted_for_ever(policy, generator):
    kernel = FakeKernel(lambda attempt, seq: [route(seq, 2), route(seq, 0x12), done(seq)])
    config.nlm_generator = generator
    try:
        with IPRoute(use_socket=kernel, dump_intr=policy) as ipr:
            if policy == "flag":
                assert [bool(m["header"]["flags"] & 0x10) for m in ipr.route("dump")] == [False, True]
            else:
                with pytest.raises(pyroute2.NetlinkDumpInterrupted):
                    list(ipr.route("dump"))
    finally:
        config.nlm_generator = False
    assert len(kernel.requests) == (10 if policy == "retry" and not generator else 1)


def test_strangers_answers_are_never_delivered():
    def answers(attempt, seq):
        return [route(seq - 1, 0, "10.9.9.9"), route(seq, 2), done(seq)]

    with IPRoute(use_socket=FakeKernel(answers)) as ipr:
        ipr.asyncore.addr_pool.alloc()
        assert [m.get("dst") for m in ipr.route("dump")] == ["10.0.0.0"]


def test_a_silent_kernel_is_a_timeout():
    with IPRoute(use_socket=FakeKernel(lambda attempt, seq: []), timeout=0.05) as ipr:
        with pytest.raises(TimeoutError):
            ipr.route("dump")
        ipr.settimeout(0.01)
        assert ipr.gettimeout() == 0.01
        with pytest.raises(TimeoutError):
            ipr.link("get", index=1)


def test_pyroute2s_mock_engine_serves():
    config.mock_netlink = True
    try:
        with IPRoute() as ipr:
            assert [m.get("ifname") for m in ipr.link("dump")] == ["lo", "eth0"]
            assert ipr.link_lookup(ifname="lo") == [1]
            assert len(ipr.get_addr(index=1)) == 1 and ipr.get_routes(oif=2, table=254)
            engine = ipr.asyncore.use_socket
        engine.loopback_r.close()
        engine.loopback_w.close()
    finally:
        config.mock_netlink = False
