"""Linux network namespaces and netlink at the kernel's own speed, with pyroute2's API."""

__version__ = "0.1.0.dev0"
