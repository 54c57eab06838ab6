"""Namespaces, sockets, process start and the relay client. Knows no netlink messages."""

cimport cython
from libc.stdint cimport int64_t, uint32_t

from fastns cimport _linux as lx

import os

# How this module was built; benchmarks refuse anything but "release".
cdef extern from *:
    """
    #if defined(CYTHON_TRACE) && CYTHON_TRACE
    #define FASTNS_BUILD "traced"
    #elif defined(FASTNS_SANITIZE)
    #define FASTNS_BUILD "sanitized"
    #elif defined(FASTNS_COVERAGE)
    #define FASTNS_BUILD "coverage"
    #else
    #define FASTNS_BUILD "release"
    #endif
    """
    const char *FASTNS_BUILD

BUILD = FASTNS_BUILD.decode()

# Numbers of kernel headers that the standard library has not, for commands that start without pyroute2.
CAP_DAC_OVERRIDE = lx.CAP_DAC_OVERRIDE
CAP_NET_ADMIN = lx.CAP_NET_ADMIN
CAP_NET_RAW = lx.CAP_NET_RAW
CAP_SYS_PTRACE = lx.CAP_SYS_PTRACE
CAP_SYS_ADMIN = lx.CAP_SYS_ADMIN
SOL_NETLINK = lx.SOL_NETLINK
NETLINK_EXT_ACK = lx.NETLINK_EXT_ACK
NETLINK_CAP_ACK = lx.NETLINK_CAP_ACK
NETLINK_GET_STRICT_CHK = lx.NETLINK_GET_STRICT_CHK
NETLINK_LISTEN_ALL_NSID = lx.NETLINK_LISTEN_ALL_NSID
SO_RCVBUFFORCE = lx.SO_RCVBUFFORCE
SIOCGIFFLAGS = lx.SIOCGIFFLAGS
SIOCSIFFLAGS = lx.SIOCSIFFLAGS
IFF_UP = lx.IFF_UP


cdef object os_error(int err, str call, object filename=None):
    """The one converter of a failed system call: errno, a text that names the call, the user's reference."""
    if filename is None:
        return OSError(err, f"{call}: {os.strerror(err)}")
    return OSError(err, f"{call}: {os.strerror(err)}", filename)


include "core/ns.pxi"
include "core/sock.pxi"
include "core/relay.pxi"
include "core/channel.pxi"
include "core/spawn.pxi"
