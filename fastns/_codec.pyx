"""Netlink messages: decode, encode, iterate. Knows bytes, no sockets."""
