"""Handles of many namespaces: kept, found, dropped; and the same done in all of them."""

from __future__ import annotations

import errno
import gc
import os
import resource
import threading

import pytest

from fastns import NetlinkError, NetNS, Pool, Proxy
from fastns import netns as netns_module
from fastns.pool import raise_descriptor_limit

pytestmark = pytest.mark.root


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(autouse=True)
def keep_limits(limits):
    """A pool raises the limit of the process."""


@pytest.fixture
def names(nsname):
    made = [f"{nsname}-{n}" for n in range(12)]
    netns_module.create_many(made)
    yield made
    left = [name for name in made if netns_module.exists(name)]
    netns_module.remove_many(left)


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# ---- handles -------------------------------------------------------------------------------------------------


def test_a_handle_is_kept(names, transport):
    with Pool(transport=transport) as pool:
        first = pool[names[0]]
        assert pool[names[0]] is first
        assert isinstance(first, NetNS)
        assert [link.get("ifname") for link in first.get_links()] == ["lo"]
        assert pool[names[1]] is not first
        assert (len(pool), list(pool)) == (2, names[:2])
        assert names[0] in pool
        assert names[2] not in pool
    assert first.asyncore.closed


def test_a_missing_namespace_is_not_made(nsname):
    with Pool() as pool:
        with pytest.raises(FileNotFoundError):
            pool[nsname]
        assert not netns_module.exists(nsname)
        assert len(pool) == 0
    with Pool(flags=os.O_CREAT) as pool:
        pool[nsname]
        assert pool[nsname] is pool[nsname]
        assert netns_module.exists(nsname)


def test_the_one_used_longest_ago_goes(names):
    with Pool(max_handles=3) as pool:
        for name in names[:3]:
            pool[name]
        pool[names[0]]
        pool[names[3]]
        assert sorted(pool) == sorted([names[0], names[2], names[3]])
        held = pool[names[0]]
        before = descriptors()
        for name in names:
            pool[name]
        assert len(pool) == 3
        assert held.get_links()  # dropped by the pool, and still its holder's
        assert descriptors() <= before + 1
        del held
        assert descriptors() <= before


def test_a_closed_handle_is_opened_again(names):
    with Pool() as pool:
        pool[names[0]].close()
        assert pool[names[0]].get_links()


def test_a_replaced_namespace_is_noticed(names):
    with Pool() as pool:
        old = pool[names[0]]
        old.link("add", ifname="v0", kind="bridge")
        netns_module.remove(names[0])
        with pytest.raises(FileNotFoundError):
            pool[names[0]]
        assert names[0] not in pool
        netns_module.create(names[0])
        new = pool[names[0]]
        assert new is not old
        assert len(new.get_links()) == 1
        assert len(old.get_links()) == 2


def test_prune(names):
    with Pool() as pool:
        pool.each("link", names=names)
        netns_module.remove_many(names[:3])
        assert sorted(pool.prune()) == names[:3]
        assert len(pool) == len(names) - 3
        pool.discard(names[5])
        pool.discard(names[5])
        assert names[5] not in pool


def test_close(names):
    pool = Pool()
    pool[names[0]]
    pool.close()
    pool.close()
    with pytest.raises(OSError) as caught:
        pool[names[0]]
    assert caught.value.errno == errno.EBADF


def test_wrong_size():
    with pytest.raises(ValueError):
        Pool(max_handles=0)


def test_many_threads(names):
    with Pool(max_handles=5) as pool:
        failures = []

        def work(seed):
            try:
                for n in range(60):
                    name = names[(n * 7 + seed) % len(names)]
                    assert [link.get("ifname") for link in pool[name].link("dump")] == ["lo"]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(pool) <= 5


def test_in_a_forked_child(names):
    with Pool() as pool:
        pool[names[0]]
        pid = os.fork()
        if pid == 0:
            try:
                assert len(pool[names[0]].get_links()) == 1
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(pool[names[0]].get_links()) == 1


# ---- limits --------------------------------------------------------------------------------------------------


def test_the_limit_is_raised(limits):
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    Pool(max_handles=100).close()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert soft in (456, hard)
    raise_descriptor_limit(300)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft


def test_no_descriptors_left_is_a_clear_error(names, limits):
    with Pool(transport="direct") as pool:
        pool[names[0]]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 1, limits[1]))
        try:
            with pytest.raises(OSError, match="RLIMIT_NOFILE") as caught:
                for name in names:
                    pool[name]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert caught.value.errno == errno.EMFILE
        assert caught.value.filename in names


# ---- all at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_map(names, transport, workers, nsname):
    with Pool(transport=transport) as pool:
        asked = [names[2], nsname + "none", *names[5:]]
        found = pool.map(lambda ns: ns.link("get", ifname="lo")[0]["index"], asked, workers=workers)
        assert list(found) == asked
        assert isinstance(found.pop(nsname + "none"), FileNotFoundError)
        assert set(found.values()) == {1}
        failed = pool.map(lambda ns: ns.link("get", ifname="nosuch"), names, workers=workers, timeout=5)
        assert {type(error) for error in failed.values()} == {NetlinkError}
        assert {error.netns for error in failed.values()} == set(names)
        assert pool[names[0]].gettimeout() is None


def test_map_of_all(names):
    with Pool() as pool:
        found = pool.map(lambda ns: len(ns.link("dump")))
        assert set(names) <= set(found)


@pytest.mark.parametrize("max_handles", [3, 100])
def test_each(names, transport, max_handles, nsname):
    with Pool(max_handles, transport=transport) as pool:
        pool.each("link", "set", names, index=1, state="up")
        found = pool.each("link", names=[*names, nsname + "none"])
        assert isinstance(found.pop(nsname + "none"), FileNotFoundError)
        assert list(found) == names
        assert all([msg.get("ifname") for msg in links] == ["lo"] for links in found.values())
        assert {links[0].get("state") for links in found.values()} == {"up"}
        addresses = pool.each("addr", names=names, family=2)
        assert {msg.get("local") for found in addresses.values() for msg in found} == {"127.0.0.1"}
        filtered = pool.each("link", names=names, ifname="nosuch")
        assert set(filtered.values()) == {()}
        listed = pool.each("get_links", 1, names)
        assert all(len(links) == 1 for links in listed.values())


def test_each_gives_exceptions(names):
    with Pool() as pool:
        found = pool.each("link", "del", names, ifname="nosuch")
        assert {type(error) for error in found.values()} == {NetlinkError}
        assert all(isinstance(error, AttributeError) for error in pool.each("nosuch", names=names).values())


def test_one_proxy_for_all(names):
    with Proxy() as proxy, Pool(proxy=proxy) as pool:
        assert len(pool.each("link", names=names)) == len(names)
        assert proxy.stats()["channels"] == len(names)
    gc.collect()


# ---- namespaces in bulk --------------------------------------------------------------------------------------


def test_create_and_remove_many(nsname):
    made = [f"{nsname}-{n}" for n in range(20)]
    netns_module.create_many(iter(made), workers=3)
    try:
        assert set(made) <= set(netns_module.listnetns())
        inodes = {netns_module.info(name).inode for name in made}
        assert len(inodes) == 20
        with pytest.raises(FileExistsError) as caught:
            netns_module.create_many([made[3], f"{nsname}-x", made[4]])
        assert set(caught.value.failures) == {made[3], made[4]}
        made.append(f"{nsname}-x")
        assert netns_module.exists(made[-1])
    finally:
        netns_module.remove_many(made)
    assert not set(made) & set(netns_module.listnetns())
    with pytest.raises(FileNotFoundError) as caught:
        netns_module.remove_many(made[:2])
    assert set(caught.value.failures) == set(made[:2])
    netns_module.create_many([])
