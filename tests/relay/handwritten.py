"""Netlink requests written out by hand, for the tests of the relay: it knows bytes, no messages."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
import time
import warnings

SOL_NETLINK, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, STRICT = 270, 8, 10, 11, 12
NEWLINK, GETLINK, SETLINK, NEWADDR, GETADDR, NEWROUTE, GETROUTE, NEWNSID, GETNSID = 16, 18, 19, 20, 22, 24, 26, 88, 90
SO_RCVBUFFORCE = 33
REQUEST, ACK, DUMP, CREATE, EXCL = 1, 4, 0x300, 0x400, 0x200
LINK_GROUP, ROUTE_GROUP = 1, 0x40
WAIT = 30  # seconds: never decides a test, only ends one that hangs


def message(kind, flags, body, seq=1):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, seq, 0) + body


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def link_body(index=0, flags=0, change=0):
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, change)


def get_link(index=1, seq=1):
    return message(GETLINK, REQUEST, link_body(index), seq)


def add_route(number, seq=1, flags=REQUEST | CREATE, oif=1):
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 0, 1, 0)
    body += attribute(1, struct.pack(">I", (10 << 24) + number)) + attribute(4, struct.pack("=i", oif))
    return message(NEWROUTE, flags, body, seq)


def messages(data):
    offset = 0
    while offset < len(data):
        length, kind, flags, seq, _ = struct.unpack_from("=IHHII", data, offset)
        assert 16 <= length <= len(data) - offset
        yield kind, flags, seq, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def dump(transport, kind, body, seq=7, begin=None):
    """The parts of a dump; `begin` is called before the first is read."""
    transport.send(message(kind, REQUEST | DUMP, body, seq))
    if begin is not None:
        begin()
    found = []
    while True:
        for got, _, number, rest in messages(transport.recv(WAIT)):
            assert number == seq
            if got == 3:
                return found
            assert got != 2, struct.unpack_from("=i", rest)
            found.append((got, rest))


def routes(transport, **keywords):
    return dump(transport, GETROUTE, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 0, 0, 0, 0, 0), **keywords)


def error_of(data):
    kind, _, _, rest = next(messages(data))
    assert kind == 2
    return -struct.unpack_from("=i", rest)[0]


def link_up(transport, index=1):
    transport.send(message(SETLINK, REQUEST | ACK, link_body(index, 1, 1)))
    assert error_of(transport.recv(WAIT)) == 0


def load_routes(transport, count, first=0, chunk=500):
    for start in range(first, first + count, chunk):
        end = min(start + chunk, first + count)
        parts = [add_route(number) for number in range(start, end)]
        parts[-1] = add_route(end - 1, flags=REQUEST | CREATE | ACK)
        transport.send(b"".join(parts))
        assert error_of(transport.recv(WAIT)) == 0


def settle(proxy):
    """Until the proxy has read all that its sockets held when this was called, as far as the rings have room.

    Its loop looks at every socket in each turn and answers one of these in a turn: between two answers it has read from
    each that held something.
    """
    seen, now = -1, proxy.stats()["datagrams"]
    while now != seen:
        seen = now
        proxy.stats()
        now = proxy.stats()["datagrams"]


def arrived(proxy, channel):
    """All that is on its way to the channel, in order, with the errors among it in their places."""
    found = []
    while True:
        settle(proxy)
        before = len(found)
        while True:
            try:
                found.append(channel.recv(0))
            except TimeoutError:
                break
            except OSError as error:
                found.append(error)
        if len(found) == before:
            return found


def forced_buffers():
    """Whether a buffer may be larger than the system's limit: socket(7), SO_RCVBUFFORCE."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        except PermissionError:
            return False
    return True


def ended(pid, patience=WAIT):
    """Whether the process goes away or is only waiting for an init that does not reap."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.005)
    return False


def in_child(body):
    """Run body() in a forked child: what it raised, as text, or an empty text."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads run: that is what is tried
        pid = os.fork()
    if pid == 0:
        text = ""
        try:
            body()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        text = file.read().decode()
    status = os.waitpid(pid, 0)[1]
    return text if status == 0 else f"{text} wait status {status}"


def open_fds():
    return len(os.listdir("/proc/self/fd"))


class Storm:
    """Signals to the main thread while the block runs, every so many seconds or once.

    From a thread and not from a timer: the suite's own time limit is one.
    """

    def __init__(self, handler, seconds=0.001, *, once=False):
        self.handler, self.seconds, self.once = handler, seconds, once
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.wait(self.seconds):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            if self.once:
                return

    def __enter__(self):
        self.before = signal.signal(signal.SIGUSR1, self.handler)
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.over.set()
        self.thread.join()
        signal.signal(signal.SIGUSR1, self.before)


def ready(channel):
    return bool(select.select([channel.fileno()], [], [], 0)[0])


def wait_ready(channel):
    assert select.select([channel.fileno()], [], [], WAIT)[0]
