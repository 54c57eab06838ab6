"""A kernel of our own: what the real one may answer but hardly does, and without privilege."""

from __future__ import annotations

import socket

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg


class FakeKernel:
    """Answers requests from a table, over a datagram socketpair."""

    def __init__(self, answers):
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.answers = answers
        self.requests = []

    def fileno(self):
        return self.near.fileno()

    def setsockopt(self, *args):
        pass

    def send(self, data):
        msg = nlmsg(bytes(data))
        msg.decode()
        self.requests.append(bytes(data))
        for answer in self.answers(len(self.requests), msg["header"]["sequence_number"]):
            self.far.send(answer)
        return len(data)

    def recv(self, size):
        return self.near.recv(size)

    def close(self):
        self.near.close()
        self.far.close()


def route(seq, flags, dst="10.0.0.0"):
    msg = rtmsg()
    msg["header"].update(type=24, flags=flags, sequence_number=seq)
    msg["family"], msg["dst_len"] = socket.AF_INET, 8
    msg["attrs"] = [("RTA_DST", dst)]
    msg.encode()
    return bytes(msg.data)


def done(seq, flags=2):
    return b"\x14\0\0\0\x03\0" + flags.to_bytes(2, "little") + seq.to_bytes(4, "little") + bytes(8)
