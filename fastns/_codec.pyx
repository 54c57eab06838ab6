"""Netlink messages: decode, encode, iterate. Knows bytes, no sockets."""

from fastns cimport _linux as lx

# From the kernel: bytes to messages.
include "codec/decode_plan.pxi"     # what of pyroute2's classes decoding goes by, compiled once for each class
include "codec/decode.pxi"          # bytes -> the dict of a message, and the objects that put it off
include "codec/lazy.pxi"            # what such an object answers from its bytes alone
include "codec/datagram.pxi"        # a datagram -> messages; errors, ends of dumps
# To the kernel: arguments of a call to bytes, without a message.
include "codec/build.pxi"           # values of arguments -> bytes of fields and attributes
include "codec/build_tables.pxi"    # what the arguments mean, read from pyroute2's classes
include "codec/build_kinds.pxi"     # a builder for each kind of request
include "codec/buffers.pxi"         # messages that stay bytes: found, patched, scanned for acknowledgements
include "codec/batch.pxi"           # many requests in one buffer, and the answers to them
# To the kernel: message objects to bytes.
include "codec/encode_plan.pxi"     # what of pyroute2's classes encoding goes by, compiled once for each class
include "codec/encode.pxi"          # message objects -> bytes
# From the kernel: bytes to columns.
include "codec/table.pxi"           # the Python face of table.h and arrow.h
