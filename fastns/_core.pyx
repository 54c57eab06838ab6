"""Namespaces, sockets, process start and the relay client. Knows no netlink messages."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen

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


# Each part is built on those before it; a connection and its channels are one pair.
include "core/extern.pxi"     # the relay's C, as the parts call it
include "core/descriptor.pxi" # what owns a descriptor
include "core/ns.pxi"         # entering, making and removing namespaces; devices, settings, watches
include "core/sock.pxi"       # a netlink socket of this process
include "core/wait.pxi"       # for descriptors, whoever else wants the thread, and what ends that
include "core/relay.pxi"      # the connection to a proxy process
include "core/channel.pxi"    # a netlink socket of a proxy process
include "core/spawn.pxi"      # starting a process inside a namespace
