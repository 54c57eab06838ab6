"""What a proxy lets its caller do, and what it keeps itself from being able to do."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from handwritten import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    GETADDR,
    GETLINK,
    GETNSID,
    LISTEN_ALL_NSID,
    NEWADDR,
    NEWLINK,
    NEWNSID,
    REQUEST,
    SETLINK,
    SOL_NETLINK,
    WAIT,
    attribute,
    dump,
    error_of,
    get_link,
    link_body,
    link_up,
    message,
    messages,
)
from isolation import needs_ids

from fastns import NetNS, _core
from fastns import netns as netns_module
from fastns.proxy import Proxy

pytestmark = pytest.mark.root
PACKAGE = Path(_core.__file__).parent


def path_of(name):
    return f"{netns_module.NETNS_RUN_DIR}/{name}"


def refused(call):
    with pytest.raises(PermissionError) as caught:
        call()
    assert caught.value.errno == errno.EACCES
    return caught.value


# -- which namespaces


def test_only_namespaces_of_the_list(netns_pair):
    inside, outside = netns_pair
    with Proxy(netns=[inside]) as proxy, open(path_of(outside)) as file:
        proxy.open(inside).close()
        proxy.open(path_of(inside)).close()
        with open(path_of(inside)) as same:
            proxy.open(same).close()
        assert refused(lambda: proxy.open(outside)).filename == outside
        assert refused(lambda: proxy.open(path_of(outside))).filename == path_of(outside)
        for ref in (file, file.fileno(), outside.encode(), None):
            refused(lambda ref=ref: proxy.open(ref))
        refused(lambda: proxy.open(pid=os.getpid()))
        refused(lambda: proxy.open("no-such-namespace"))
        assert proxy.stats()["refused"] >= 7


@pytest.mark.parametrize("how", ["name", "bytes", "path", "descriptor", "file", "list"])
def test_list_takes_every_reference(netns, how):
    with open(path_of(netns)) as file:
        ref = {
            "name": netns,
            "bytes": netns.encode(),
            "path": path_of(netns),
            "descriptor": file.fileno(),
            "file": file,
            "list": (netns, file),
        }[how]
        with Proxy(netns=ref) as proxy:
            proxy.open(netns if how != "path" else path_of(netns)).close()
            proxy.open(file).close()
            refused(lambda: proxy.open(None))


def test_empty_list_allows_nothing(netns):
    with Proxy(netns=[]) as proxy:
        refused(lambda: proxy.open(netns))
        refused(lambda: proxy.open(None))


@pytest.mark.parametrize("bad", ["", ".", "a\0b", "x" * 256])
def test_list_with_what_cannot_be_a_name(bad):
    with pytest.raises(ValueError):
        Proxy(netns=[bad])


def test_list_with_what_is_not_there(netns):
    with pytest.raises(FileNotFoundError):
        Proxy(netns=[path_of("no-such-namespace")])
    with Proxy(netns=[netns, "not-yet"]) as proxy, pytest.raises(FileNotFoundError):
        proxy.open("not-yet")


def test_long_list(netns):
    with Proxy(netns=[f"n{i}" for i in range(1000)] + [netns]) as proxy:
        proxy.open(netns).close()
        refused(lambda: proxy.open("n1000"))


def test_name_means_what_stands_there_now(nsname):
    with Proxy(netns=[nsname]) as proxy:
        for _ in range(2):
            netns_module.create(nsname)
            channel = proxy.open(nsname)
            link_up(channel)
            channel.close()
            netns_module.remove(nsname)


def test_path_means_what_stood_there_then(netns_pair, tmp_path):
    """Whoever can change the path cannot change what the proxy was given."""
    first, second = netns_pair
    link = tmp_path / "link"
    link.symlink_to(path_of(first))
    with Proxy(netns=[str(link)]) as proxy:
        proxy.open(str(link)).close()
        link.unlink()
        link.symlink_to(path_of(second))
        refused(lambda: proxy.open(str(link)))
        proxy.open(path_of(first)).close()


def test_name_that_is_a_path_for_the_proxy(netns):
    """The proxy looks names up in its directory only, whatever the caller sends."""
    with Proxy() as proxy:
        client = proxy._client
        options = dict.fromkeys(("family", "rcvbuf", "sndbuf", "groups", "portid", "ring_size"), 0)
        options |= dict.fromkeys(("ext_ack", "strict_check", "all_ns", "cap_ack"), False)
        for name in (f"../netns/{netns}".encode(), b"/proc/self/ns/net", b".", b"..", b"a\0b"):
            with pytest.raises(OSError) as caught:
                client.open(name, -1, name, **options)
            assert caught.value.errno == errno.EINVAL
            assert caught.value.filename == name


# -- requests that name other namespaces


def move(request, fds=()):
    def send(channel):
        channel.send(request, fds)
        return channel.recv(WAIT)

    return send


NAME = attribute(3, b"fnsx0\0")
NUMBER = b"\xff\xff\xff\x7f"
PEER_INFO = {
    kind: attribute(
        18, attribute(1, kind + b"\0") + attribute(2 | nested, attribute(1, link_body() + NAME + inner))
    )
    for nested in (0, 0x8000)
    for kind in (b"veth", b"vxcan")
    for inner in (attribute(19, struct.pack("=I", 1)),)
}
ESCAPES = {
    "descriptor number": message(SETLINK, REQUEST | ACK, link_body() + NAME + attribute(28, NUMBER)),
    "descriptor number, nested flag": message(
        SETLINK, REQUEST | ACK, link_body() + NAME + attribute(28 | 0x8000, NUMBER)
    ),
    "process": message(SETLINK, REQUEST | ACK, link_body() + NAME + attribute(19, struct.pack("=I", 1))),
    "process, byte order flag": message(
        SETLINK, REQUEST | ACK, link_body() + NAME + attribute(19 | 0x4000, struct.pack("=I", 1))
    ),
    "namespace id": message(GETLINK, REQUEST, link_body(1) + attribute(46, struct.pack("=i", 0))),
    "namespace id, short header": message(
        GETLINK, REQUEST | DUMP, b"\0\0\0\0" + attribute(46, struct.pack("=i", 0))
    ),
    "lower device by id": message(
        NEWLINK, REQUEST | ACK | CREATE, link_body() + NAME + attribute(37, struct.pack("=i", 0))
    ),
    "peer of a veth": message(
        NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + NAME + PEER_INFO[b"veth"]
    ),
    "peer of a vxcan": message(
        NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + NAME + PEER_INFO[b"vxcan"]
    ),
    "addresses by id": message(
        GETADDR, REQUEST | DUMP, b"\2\0\0\0\0\0\0\0" + attribute(10, struct.pack("=i", 0))
    ),
    "address by id": message(
        NEWADDR, REQUEST | ACK, b"\2\0\0\0\1\0\0\0" + attribute(10, struct.pack("=i", 0))
    ),
    "id of a process": message(NEWNSID, REQUEST | ACK, b"\0\0\0\0" + attribute(2, struct.pack("=I", 1))),
    "id of a descriptor": message(NEWNSID, REQUEST | ACK, b"\0\0\0\0" + attribute(3, NUMBER)),
    "ids as seen elsewhere": message(
        GETNSID, REQUEST | DUMP, b"\0\0\0\0" + attribute(4, struct.pack("=i", 0))
    ),
}


@pytest.mark.parametrize("escape", sorted(ESCAPES))
@pytest.mark.parametrize("place", ["alone", "second"])
def test_request_cannot_name_another_namespace(netns, escape, place):
    request = ESCAPES[escape]
    if place == "second":
        request = get_link(seq=9) + request
    with Proxy(netns=netns) as proxy:
        channel = proxy.open(netns)
        channel.send(request)
        refused(lambda: channel.recv(WAIT))
        channel.send(get_link(seq=3))  # and the channel goes on
        assert next(messages(channel.recv(WAIT)))[2] == 3
        channel.close()


def test_large_request_cannot_either(netns):
    filler = message(3, REQUEST, b"\0" * 200_000)
    with Proxy(netns=netns) as proxy:
        channel = proxy.open(netns, sndbuf=1 << 20)
        channel.send(filler + ESCAPES["process"])
        refused(lambda: channel.recv(WAIT))
        channel.send(filler + get_link(seq=3))
        assert next(messages(channel.recv(WAIT)))[2] == 3
        channel.close()


def test_links_move_within_the_list(netns_pair, netns):
    first, second = netns_pair
    kind = attribute(18, attribute(1, b"veth\0"))
    with Proxy(netns=netns_pair) as proxy:
        here = proxy.open(first)
        here.send(message(NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + NAME + kind))
        assert error_of(here.recv(WAIT)) == 0
        request = message(SETLINK, REQUEST | ACK, link_body() + NAME + attribute(28, NUMBER))
        with open(path_of(netns)) as outside:
            here.send(request, [(len(request) - 4, outside.fileno())])
            refused(lambda: here.recv(WAIT))
        with open("/dev/null") as other:
            here.send(request, [(len(request) - 4, other.fileno())])
            refused(lambda: here.recv(WAIT))
        with open(path_of(second)) as inside:
            # the patch has to be where the attribute is
            here.send(request, [(20, inside.fileno())])
            refused(lambda: here.recv(WAIT))
            here.send(request, [(len(request) - 4, inside.fileno())])
            assert error_of(here.recv(WAIT)) == 0
        there = proxy.open(second)
        assert any(b"fnsx0\0" in rest for _, rest in dump(there, GETLINK, link_body()))
        here.close()
        there.close()


def test_peer_into_a_namespace_of_the_list(netns_pair):
    first, second = netns_pair
    peer = attribute(1, link_body() + NAME + attribute(28, NUMBER))
    info = attribute(18, attribute(1, b"veth\0") + attribute(2, peer))
    request = message(NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + attribute(3, b"fnsx1\0") + info)
    with Proxy(netns=netns_pair) as proxy, open(path_of(second)) as inside:
        here = proxy.open(first)
        here.send(request)
        refused(lambda: here.recv(WAIT))
        here.send(request, [(len(request) - 4, inside.fileno())])
        assert error_of(here.recv(WAIT)) == 0
        here.close()


def test_events_of_other_namespaces_are_refused(netns):
    with Proxy(netns=netns) as proxy:
        refused(lambda: proxy.open(netns, all_ns=True))
        channel = proxy.open(netns)
        refused(lambda: channel.setsockopt(SOL_NETLINK, LISTEN_ALL_NSID, 1))
        channel.close()
    with Proxy() as proxy:
        channel = proxy.open(netns, all_ns=True)
        channel.setsockopt(SOL_NETLINK, LISTEN_ALL_NSID, 0)
        channel.close()


# -- families, options


def test_families(netns):
    with Proxy(families=[0, 16]) as proxy:
        for family in (0, 16):
            proxy.open(netns, family=family).close()
        refused(lambda: proxy.open(netns, family=4))
    with Proxy(netns=netns) as proxy:
        refused(lambda: proxy.open(netns, family=16))
    with Proxy(netns=netns, families=[4]) as proxy:
        proxy.open(netns, family=4).close()
        refused(lambda: proxy.open(netns))
    for bad in ([32], [-1]):
        with pytest.raises(ValueError):
            Proxy(families=bad)


@pytest.mark.parametrize(
    ("level", "option", "value"),
    [
        (1, 26, b"\0" * 16),  # SO_ATTACH_FILTER: a pointer
        (1, 50, 3),  # SO_ATTACH_BPF: a descriptor
        (1, 36, 7),  # SO_MARK
        (1, 9999, 1),
        (270, 9999, 1),
        (6, 1, 1),
    ],
)
def test_options_outside_the_list(netns, level, option, value):
    with Proxy() as proxy:
        channel = proxy.open(netns)
        with pytest.raises(OSError) as caught:
            channel.setsockopt(level, option, value)
        assert caught.value.errno == errno.ENOPROTOOPT
        if level != 270:
            with pytest.raises(OSError) as caught:
                channel.getsockopt(level, 77 if level == 1 else option)
            assert caught.value.errno == errno.ENOPROTOOPT
        channel.close()


@pytest.mark.parametrize("value", [-1, (256 << 20) + 1, b"", b"\1"])
@needs_ids
def test_buffer_sizes_have_a_limit(netns, value):
    with Proxy() as proxy:
        channel = proxy.open(netns)
        for option in (7, 8, 32, 33):
            with pytest.raises(OSError) as caught:
                channel.setsockopt(1, option, value)
            assert caught.value.errno == errno.EINVAL
        channel.setsockopt(1, 33, 1 << 20)
        assert channel.getsockopt(1, 8) >= 1 << 20
        channel.close()


# -- read only


def test_read_only(netns_pair):
    with Proxy(read_only=True) as proxy:
        for name in netns_pair:
            channel = proxy.open(name)
            assert len(dump(channel, GETLINK, link_body())) >= 1
            channel.send(message(SETLINK, REQUEST | ACK, link_body(1, 1, 1)))
            assert error_of(channel.recv(WAIT)) == errno.EPERM
            channel.close()


@pytest.mark.parametrize("options", [{}, {"read_only": True}])
def test_more_sockets_follow_the_handle_not_the_name(netns, options):
    """Also where the proxy may not ask the kernel for the namespace of a socket."""
    with NetNS(netns, flags=0, transport="direct") as writer, Proxy(netns=netns, **options) as proxy:
        with NetNS(netns, flags=0, proxy=proxy) as ns:
            netns_module.remove(netns)
            netns_module.create(netns)
            with ns.monitor() as events:
                writer.link("set", index=1, state="up")
                assert events.get(WAIT)["state"] == "up"
            with ns.asyncore.transport.netns_fd() as first, writer.asyncore.transport.netns_fd() as second:
                assert os.path.samestat(os.fstat(first), os.fstat(second))


# -- what it keeps


def status_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


BROADCAST, NET_ADMIN, SYS_ADMIN = 1 << 11, 1 << 12, 1 << 21


@pytest.mark.parametrize(
    ("read_only", "kept"), [(False, BROADCAST | NET_ADMIN | SYS_ADMIN), (True, BROADCAST | SYS_ADMIN)]
)
def test_capabilities(read_only, kept):
    with Proxy(read_only=read_only) as proxy:
        status = status_of(proxy.pid)
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == kept
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"
        if _core.BUILD != "sanitized":
            assert status["Seccomp"].strip() == "2"
        assert status["Umask"].strip() == "0077"


DROP = """
import ctypes, errno, os, sys
from fastns import _core
from fastns.proxy import Proxy
sys.path.insert(0, {tests!r})
from handwritten import *
name, how = sys.argv[1:]
proxy = Proxy()
if how == "uid":
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
else:
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, data) == 0
try:
    nsfd = os.open("/var/run/netns/" + name, os.O_RDONLY)
    _core.NetlinkSocket(nsfd)
    raise SystemExit("privilege was not dropped")
except PermissionError:
    pass
channel = proxy.open(name)
link_up(channel)
load_routes(channel, 100)
assert len(routes(channel)) >= 100
try:
    os.readlink(f"/proc/{{proxy.pid}}/cwd")
    raise SystemExit("the proxy can be looked into")
except PermissionError:
    pass
channel.close()
proxy.close()
"""


@pytest.mark.parametrize("how", ["uid", "capabilities"])
@needs_ids
def test_survives_the_caller_dropping_everything(netns, how):
    script = DROP.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, netns, how],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr


PLAIN = """
import os, sys
sys.path.insert(0, {tests!r})
from handwritten import *
from fastns.proxy import Proxy
if os.geteuid() == 0 and len(sys.argv) == 1:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
with Proxy() as proxy:
    channel = proxy.open()
    channel.send(get_link())
    assert channel.recv(WAIT)
    channel.close()
    for name in sys.argv[1:]:
        for number in range(3):
            channel = proxy.open(name)
            link_up(channel)
            load_routes(channel, 100, first=100 * number)
            assert len(routes(channel)) >= 100 * (number + 1)
            channel.close()
    if len(sys.argv) == 1:
        other = os.open({other!r}, os.O_RDONLY)
        try:
            proxy.open(other)
            raise SystemExit("entered")
        except PermissionError as error:
            assert error.filename == other and "setns" in error.strerror, error
"""


def plain(netns):
    return PLAIN.format(tests=str(Path(__file__).parent), other=path_of(netns))


@needs_ids
def test_without_any_privilege(netns):
    """The namespace one is in works, another is refused by the kernel with the step that failed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", plain(netns)], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("own", [[], ["--net"], ["--net", "--pid", "--fork", "--mount-proc"]])
def test_rootless(netns, own):
    """In a user namespace, with the network namespace of the parent (no way back: a helper enters) or one's own."""
    inside = (
        "mount -t tmpfs none /run && mkdir /run/netns && touch /run/netns/mine && "
        "unshare --net sh -c 'mount --bind /proc/self/ns/net /run/netns/mine' && exec \"$@\""
    )
    unshare = ["unshare", "--user", "--map-root-user", "--mount", *own]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("kernel: no user namespaces here")
    done = subprocess.run(
        [*unshare, "sh", "-c", inside, "sh", sys.executable, "-c", plain(netns), "mine"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
