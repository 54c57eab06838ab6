# What the arguments mean: tables read from pyroute2's classes on first use.

_KINDS: dict = {}


def _field_keys(msg_class):
    keys = {}
    offset = lx.NLMSG_HDRLEN
    for name, fmt in msg_class.fields:
        size = struct.calcsize(fmt)
        if "x" not in fmt:
            key = _Key()
            key.op, key.offset, key.size = OP_FIELD, offset, size
            key.low, key.high = _int_range(fmt)
            keys[name] = key
        offset += size
    return keys, offset


def _int_range(fmt):
    bits = 8 * struct.calcsize(fmt)
    if fmt[-1].islower():
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, min((1 << bits) - 1, (1 << 63) - 1)


def _plain_encoder(cls):
    """True if nothing in the class changes what pyroute2's generic encoder does."""
    from pyroute2.netlink import nla_base

    return all(
        getattr(cls, name) is getattr(nla_base, name)
        for name in ("encode", "ft_encode", "encode_field", "encode_nlas", "setvalue", "getvalue", "header")
    )


def _attr_key(prime, names_of=None):
    """The _Key of an entry of a compiled nla table, or None if its type is not a plain one."""
    from pyroute2.netlink import nlmsg_atoms

    cls = prime["class"]
    if not isinstance(cls, type) or prime["nla_array"] or prime["init"] is not None:
        return None
    key = _Key()
    key.op = OP_NLA
    key.nla = prime["type"] | prime["nla_flags"] | cls.nla_flags
    texts = {
        nlmsg_atoms.asciiz: CODEC_STRZ,
        nlmsg_atoms.string: CODEC_STR,
        nlmsg_atoms.ipaddr: CODEC_IPADDR,
        nlmsg_atoms.ip4addr: CODEC_IP4,
        nlmsg_atoms.ip6addr: CODEC_IP6,
        nlmsg_atoms.target: CODEC_TARGET,
        nlmsg_atoms.l2addr: CODEC_MAC,
        nlmsg_atoms.lladdr: CODEC_LLADDR,
        nlmsg_atoms.flag: CODEC_FLAG,
    }
    if cls in texts:
        key.codec = texts[cls]
        return key
    if not _plain_encoder(cls) or cls.nla_map or len(cls.fields) != 1:
        return None
    name, fmt = cls.fields[0]
    if name != "value" or fmt.lstrip("<>=!") not in ("B", "H", "I", "Q", "b", "h", "i", "q") or cls.align != 4:
        return None
    key.codec = CODEC_BE if fmt[0] in ">!" else CODEC_INT
    key.size = struct.calcsize(fmt)
    key.low, key.high = _int_range(fmt)
    if cls.value_map:
        # names become numbers; a number that is itself somebody's name would be translated too
        values = list(cls.value_map.values())
        if any(isinstance(x, int) for x in values):
            return None
        key.names = {v: k for k, v in cls.value_map.items() if isinstance(v, str)}
    return key


def _compiled(msg_class):
    """pyroute2's table of attributes by name: it compiles it when the class is first instantiated."""
    msg_class()
    return msg_class._nlmsg_base__r_nla_map


def _attr_keys(msg_class, prefix):
    """Argument name -> _Key of every plain attribute, by the rule of `name2nla()`."""
    keys = {}
    for name, prime in _compiled(msg_class).items():
        key = _attr_key(prime)
        if key is not None and name.startswith(prefix) and name.upper() == name and name.count(prefix) == 1:
            keys[name[len(prefix):].lower()] = key
    return keys


def _commands(table, defaults=()):
    from pyroute2.netlink import NLM_F_ECHO
    from pyroute2.netlink.nlsocket import NetlinkRequest

    commands = {}
    for names, (msg_type, mode) in table.items():
        for name in names.split():
            command = _Command()
            command.type = msg_type
            command.flags = NetlinkRequest.flags[mode]
            command.echo_flags = command.flags | (0 if mode in ("get", "dump") else NLM_F_ECHO)
            command.dump = name in ("dump", "show")
            command.get = name == "get"
            command.defaults = name in defaults
            commands[name] = command
    return commands


def _special(int op, dict names=None, _Key base=None, object aux=None):
    cdef _Key key = base.with_op(op) if base is not None else _Key()
    key.op = op
    if names is not None:
        key.names = names
    if aux is not None:
        key.aux = aux
    return key


def _nested_key(int op, prime, cls, prefix=None):
    """An attribute with attributes of its own, or None if its class has ways of its own."""
    if not (_plain_encoder(cls) or op == OP_MULTIPATH) or not prefix and tuple(cls.fields):
        return None
    key = _special(op)
    (<_Key> key).nla = prime["type"] | prime["nla_flags"] | cls.nla_flags
    (<_Key> key).names = _attr_keys(cls, prefix or cls.prefix)
    (<_Key> key).names.pop("unspec", None)
    return key


cdef dict _text_values(table):
    return {k: v for k, v in table.items() if isinstance(k, str) and isinstance(v, int)}


cdef _Kind _make_kind(str name):
    from pyroute2.netlink import rtnl
    from pyroute2.netlink.rtnl import ndmsg, rt_proto, rt_scope, rt_type
    from pyroute2.netlink.rtnl.fibmsg import FR_ACT_NAMES, fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
    from pyroute2.netlink.rtnl.rtmsg import nh, rtmsg

    cdef _Kind kind = _Kind()
    cdef dict keys
    if name == "route":
        kind.number = KIND_ROUTE
        kind.fields, kind.header = _field_keys(rtmsg)
        keys = _attr_keys(rtmsg, "RTA_")
        for gone in ("via", "newdst", "encap", "encap_type"):
            keys.pop(gone, None)
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["dst"] = _special(OP_DST, base=keys["dst"])
        keys["src"] = _special(OP_SRC, base=keys["src"])
        keys["gateway"] = _special(OP_GATEWAY, base=keys["gateway"])
        keys["oif"] = _special(OP_INDEX_NLA, base=keys["oif"])
        keys["iif"] = _special(OP_INDEX_NLA, base=keys["iif"])
        keys["priority"] = _special(OP_PRIORITY, base=keys["priority"])
        keys["table"] = _special(OP_TABLE, base=_attr_keys(rtmsg, "RTA_")["table"])
        keys["proto"] = _special(OP_NAMED, _text_values(rt_proto), kind.fields["proto"])
        keys["type"] = _special(OP_NAMED, _text_values(rt_type), kind.fields["type"])
        keys["scope"] = _special(OP_NAMED, _text_values(rt_scope), kind.fields["scope"])
        keys["flags"] = _special(OP_RTFLAGS, base=kind.fields["flags"], aux=rtmsg.names2flags)
        table = _compiled(rtmsg)
        keys["metrics"] = _nested_key(OP_METRICS, table["RTA_METRICS"], rtmsg.metrics)
        if (
            [tuple(x) for x in nh.fields] == [("flags", "B"), ("hops", "B"), ("oif", "i")]
            and [tuple(x) for x in nh.cell_header] == [("length", "H")]
            and table["RTA_MULTIPATH"]["nla_array"]
            and rtmsg.get_nh(None) is nh
        ):
            keys["multipath"] = _nested_key(OP_MULTIPATH, table["RTA_MULTIPATH"], nh, "RTA_")
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWROUTE, "create"),
                "set replace": (rtnl.RTM_NEWROUTE, "replace"),
                "change": (rtnl.RTM_NEWROUTE, "change"),
                "append": (rtnl.RTM_NEWROUTE, "append"),
                "del remove delete": (rtnl.RTM_DELROUTE, "req"),
                "get": (rtnl.RTM_GETROUTE, "get"),
                "show dump": (rtnl.RTM_GETROUTE, "dump"),
            },
            defaults=("add", "set", "replace", "change", "append"),
        )
    elif name == "addr":
        kind.number = KIND_ADDR
        kind.fields, kind.header = _field_keys(ifaddrmsg)
        keys = _attr_keys(ifaddrmsg, "IFA_")
        flags = keys["flags"]
        keys.pop("unspec", None)
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        # flags go into the attribute only, the field stays 0
        keys["flags"] = flags
        keys["index"] = _special(OP_INDEX, base=kind.fields["index"])
        keys["address"] = _special(OP_ADDRESS, base=keys["address"])
        keys["local"] = _special(OP_LOCAL, base=keys["local"])
        keys["prefixlen"] = _special(OP_PREFIXLEN, base=kind.fields["prefixlen"])
        prime = _compiled(ifaddrmsg)["IFA_CACHEINFO"]
        if [x[1] for x in prime["class"].fields] == ["I"] * 4 and [x[0] for x in prime["class"].fields[:2]] == [
            "ifa_preferred", "ifa_valid"
        ] and _plain_encoder(prime["class"]):
            for lifetime, number in (("preferred", 0), ("preferred_lft", 0), ("valid", 1), ("valid_lft", 1)):
                key = _special(OP_LIFETIME)
                (<_Key> key).nla, (<_Key> key).size = prime["type"], number
                keys[lifetime] = key
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWADDR, "create"),
                "del remove delete": (rtnl.RTM_DELADDR, "req"),
                "replace": (rtnl.RTM_NEWADDR, "replace"),
                "dump": (rtnl.RTM_GETADDR, "dump"),
            }
        )
    elif name == "neigh" or name == "fdb":
        kind.number = KIND_NEIGH if name == "neigh" else KIND_FDB
        kind.fields, kind.header = _field_keys(ndmsg.ndmsg)
        keys = _attr_keys(ndmsg.ndmsg, "NDA_")
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["dst"] = _special(OP_NEIGH_DST, base=keys["dst"])
        keys["index"] = _special(OP_INDEX, base=kind.fields["ifindex"])
        keys["ifindex"] = keys["index"]
        keys["state"] = _special(OP_NAMED, {}, kind.fields["state"], ndmsg.states_a2n)
        keys["nud"] = keys["state"]
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWNEIGH, "create"),
                "set replace": (rtnl.RTM_NEWNEIGH, "replace"),
                "change": (rtnl.RTM_NEWNEIGH, "change"),
                "del remove delete": (rtnl.RTM_DELNEIGH, "req"),
                "dump": (rtnl.RTM_GETNEIGH, "dump"),
                "get": (rtnl.RTM_GETNEIGH, "get"),
                "append": (rtnl.RTM_NEWNEIGH, "append"),
            },
            defaults=("add", "del", "append"),
        )
    elif name == "rule":
        kind.number = KIND_RULE
        kind.fields, kind.header = _field_keys(fibmsg)
        keys = _attr_keys(fibmsg, "FRA_")
        nla_table = keys["table"]
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["dst"] = _special(OP_DST, base=keys["dst"])
        keys["src"] = _special(OP_SRC, base=keys["src"])
        keys["table"] = _special(OP_TABLE, base=nla_table)
        actions = _text_values(FR_ACT_NAMES)
        for long_name, value in list(actions.items()):
            if long_name.startswith("FR_ACT_"):
                actions.setdefault(long_name[7:].lower(), value)
                actions.setdefault(long_name[7:], value)
        keys["action"] = _special(OP_NAMED, actions, kind.fields["action"])
        kind.commands = _commands(
            {
                "add": (rtnl.RTM_NEWRULE, "create"),
                "del remove delete": (rtnl.RTM_DELRULE, "req"),
                "dump": (rtnl.RTM_GETRULE, "root"),
            }
        )
    elif name == "link":
        kind.number = KIND_LINK
        kind.fields, kind.header = _field_keys(ifinfmsg)
        keys = _attr_keys(ifinfmsg, "IFLA_")
        # changed or dropped by pyroute2's filters
        for gone in ("unspec", "carrier", "carrier_changes", "alt_ifname", "tso_max_segs", "tso_max_size"):
            keys.pop(gone, None)
        table = _compiled(ifinfmsg)
        netns = dict(table["IFLA_NET_NS_FD"])
        fd_key = _Key()
        fd_key.op, fd_key.codec, fd_key.size, fd_key.high = OP_NLA, CODEC_INT, 4, 0xFFFFFFFF
        fd_key.nla = netns["type"] | netns["nla_flags"] | netns["class"].nla_flags
        if [tuple(x) for x in netns["class"].fields] == [("value", "I")]:
            keys["net_ns_fd"] = fd_key
        peer_keys = dict(keys)
        keys["altname"] = _attr_key(table["IFLA_ALT_IFNAME"])
        keys.update(kind.fields)
        keys["family"] = _special(OP_FAMILY, base=kind.fields["family"])
        keys["index"] = _special(OP_INDEX, base=kind.fields["index"])
        keys["flags"] = _special(OP_FLAGS, base=kind.fields["flags"])
        keys["change"] = _special(OP_CHANGE, base=kind.fields["change"])
        keys["mask"] = keys["change"]
        keys["state"] = _special(OP_STATE)
        keys["arp"] = _special(OP_ARP)
        keys["noarp"] = _special(OP_NOARP)
        keys["kind"] = _special(OP_KIND)
        keys["peer"] = _special(OP_PEER, aux=(peer_keys, struct.calcsize("".join(x[1] for x in ifinfveth.fields))))
        kind.specific = {}
        kind.commands = _commands(
            {
                "set": (rtnl.RTM_NEWLINK, "req"),
                "update": (rtnl.RTM_SETLINK, "create"),
                "add": (rtnl.RTM_NEWLINK, "create"),
                "del remove delete": (rtnl.RTM_DELLINK, "req"),
                "dump": (rtnl.RTM_GETLINK, "dump"),
                "get": (rtnl.RTM_GETLINK, "get"),
            }
        )
    else:
        return None
    kind.keys = keys
    _KINDS[name] = kind
    return kind


@cython.final
cdef class _LinkData:
    """What goes into IFLA_LINKINFO for one `kind=`."""
    cdef dict keys           # argument -> _Key
    cdef int info            # attribute types
    cdef int kind
    cdef int data
    cdef int peer            # VETH_INFO_PEER, or 0
    cdef object cls


# Arguments with a meaning of their own: a link class that has an attribute of that name is not a plain one.
_NOT_SPECIFIC = frozenset(
    ("index", "flags", "change", "family", "ifi_type", "kind", "state", "arp", "noarp", "mask", "altname", "address",
     "link", "master", "group", "carrier", "info_kind", "peer", "linkinfo", "vf", "xdp_fd", "mode")
)


cdef _LinkData _link_data(_Kind kind, str name):
    """The plan for one link kind, or None when it is not plain. Kinds can be registered at any time, so the class is
    looked up on every call and the plan is kept with it."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth

    cdef _LinkData plan
    cls = ifinfmsg.ifinfo.data_map.get(name)
    plan = kind.specific.get(name)
    if plan is not None and plan.cls is cls:
        return plan
    # the first two are created through /dev/net/tun; the filters treat slaves differently
    if name in ("tuntap", "tun") or name.endswith("_slave") or not name:
        return None
    plan = _LinkData()
    plan.cls = cls
    plan.keys = {}
    message = _compiled(ifinfmsg)["IFLA_LINKINFO"]
    info = _compiled(ifinfmsg.ifinfo)
    if not _plain_encoder(ifinfmsg.ifinfo) or tuple(ifinfmsg.ifinfo.fields):
        return None
    plan.info = message["type"] | message["nla_flags"] | message["class"].nla_flags
    plan.kind = info["IFLA_INFO_KIND"]["type"]
    plan.data = info["IFLA_INFO_DATA"]["type"] | info["IFLA_INFO_DATA"]["nla_flags"]
    if cls is not None:
        if not _plain_encoder(cls) or tuple(cls.fields) or not isinstance(cls.nla_map, (tuple, list)):
            return None
        plan.data |= cls.nla_flags
        table = _compiled(cls)
        prefix = cls.prefix or "IFLA_"
        for entry in cls.nla_map:
            # the second: a class derived from one whose table was made already, which it goes on using
            if not isinstance(entry[0], str) or entry[0] not in table:
                return None
            short = entry[0][len(prefix):].lower()
            key = _attr_key(table[entry[0]])
            if short in _NOT_SPECIFIC:
                return None
            # also the names that are not plain: they take precedence over a link's own argument of that name
            plan.keys[short] = key
            if name == "vlan" and short in ("vlan_flags", "vlan_egress_qos", "vlan_ingress_qos"):
                plan.keys[short] = None
        mode = "IFLA_%s_MODE" % name.upper()
        if mode in table:
            plan.keys["mode"] = _attr_key(table[mode])
        if name == "veth" and "VETH_INFO_PEER" in table:
            peer = table["VETH_INFO_PEER"]
            plan.peer = peer["type"] | peer["nla_flags"] | ifinfveth.nla_flags
    kind.specific[name] = plan
    return plan
