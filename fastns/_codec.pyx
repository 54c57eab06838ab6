"""Netlink messages: decode, encode, iterate. Knows bytes, no sockets."""

from fastns cimport _linux as lx

include "_build.pxi"
include "_decode.pxi"
include "_batch.pxi"
