# One builder for each kind of request, and `build` over them.

cdef inline object first_of(object value):
    """The filters' rule for indices: a list or tuple stands for its first item."""
    if type(value) is list or type(value) is tuple:
        return value[0] if len(value) else None
    return value


cdef bint build_route(_Kind kind, _Command command, dict kwarg, bint strict, Out *out) except -1:
    cdef PyObject *name_ref
    cdef PyObject *value_ref
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long number, family = 0, table = 0
    cdef int target_family, prefixlen
    cdef uint8_t address[16]
    cdef bint proto = False, type_ = False, has_family = False
    # addresses are checked against the message's family, which a later argument can still change
    cdef int targets = 0
    found = PyDict_GetItem(kwarg, "family")
    if found != NULL and found != <PyObject *> None:
        if not as_int(<object> found, &family):
            return False
        has_family = True
    while PyDict_Next(kwarg, &pos, &name_ref, &value_ref):
        found = PyDict_GetItem(kind.keys, <object> name_ref)
        if found == NULL or found == <PyObject *> None:
            return False
        if value_ref == <PyObject *> None:
            continue
        key = <_Key> <object> found
        value = <object> value_ref
        if key.op == OP_DST or key.op == OP_SRC or key.op == OP_GATEWAY:
            if key.op == OP_DST and PyUnicode_CheckExact(value):
                if value == "default" or value == "":
                    continue
                if value == "0" or value == "0.0.0.0" or value == "0.0.0.0/0":
                    family = lx.AF_INET
                    has_family = True
                    continue
                if value == "::" or value == "::/0":
                    family = lx.AF_INET6
                    has_family = True
                    continue
            if not parse_prefix(value, address, &target_family, &prefixlen):
                return False
            family = target_family
            has_family = True
            if key.op == OP_GATEWAY:
                if prefixlen >= 0:
                    return False
            else:
                name = "dst_len" if key.op == OP_DST else "src_len"
                if prefixlen < 0 and not PyDict_Contains(kwarg, name):
                    prefixlen = 32 if family == lx.AF_INET else 128
                if prefixlen >= 0 and not field_int(out, <_Key> kind.fields[name], prefixlen):
                    return False
            if not attr_put(out, key.nla, address, address_length(target_family)):
                return False
            targets |= 1 if target_family == lx.AF_INET else 2
        elif key.op == OP_NLA:
            if key.codec == CODEC_TARGET:
                # prefsrc
                if not PyUnicode_CheckExact(value) or not parse_prefix(value, address, &target_family, &prefixlen):
                    return False
                if prefixlen >= 0 or not attr_put(out, key.nla, address, address_length(target_family)):
                    return False
                targets |= 1 if target_family == lx.AF_INET else 2
            elif not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_INDEX_NLA:
            if not attr_value(out, key, first_of(value), 0):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
        elif key.op == OP_TABLE:
            if not as_int(value, &table) or not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_PRIORITY:
            if not as_int(value, &number):
                return False
            if number == 0 and family == lx.AF_INET6:
                value = _ip6_rt_prio_user()
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_NAMED:
            if (
                command.defaults
                and (value == 0 if PyLong_Check(value) else value == "" if PyUnicode_CheckExact(value) else False)
                and key.offset != (<_Key> kind.fields["scope"]).offset
            ):
                continue                                  # falsy: replaced by the default below
            if PyUnicode_CheckExact(value):
                found = PyDict_GetItem(key.names, value)
                if found == NULL:
                    return False
                value = <object> found
            if not field_put(out, key, value):
                return False
            if key.offset == (<_Key> kind.fields["proto"]).offset:
                proto = True
            elif key.offset == (<_Key> kind.fields["type"]).offset:
                type_ = True
        elif key.op == OP_RTFLAGS:
            if PyUnicode_CheckExact(value) or type(value) is list or type(value) is tuple:
                try:
                    value = key.aux(value)
                except Exception:
                    return False
            if not field_put(out, key, value):
                return False
        elif key.op == OP_METRICS:
            if not build_metrics(key, value, out):
                return False
        elif key.op == OP_MULTIPATH:
            # pyroute2 needs the family by now
            if not has_family or not build_multipath(key, value, out, &targets):
                return False
        else:
            return False
    if family == lx.AF_MPLS:
        return False
    if (targets & 1 and family != lx.AF_INET) or (targets & 2 and family != lx.AF_INET6):
        return False
    if not field_int(out, <_Key> kind.fields["family"], family):
        return False
    if command.defaults:
        if not proto and not field_put(out, <_Key> kind.fields["proto"], (<_Key> kind.keys["proto"]).names["static"]):
            return False
        if not type_ and not field_put(out, <_Key> kind.fields["type"], (<_Key> kind.keys["type"]).names["unicast"]):
            return False
    if not strict:
        field_int(out, <_Key> kind.fields["table"], table if 0 < table < 255 else lx.RT_TABLE_MAIN)
    return True


cdef bint build_metrics(_Key key, object value, Out *out) except -1:
    cdef Py_ssize_t at = out.length
    cdef PyObject *found
    if type(value) is not dict or attr_reserve(out, key.nla, 0) == NULL:
        return False
    for name, metric in (<dict> value).items():
        found = PyDict_GetItem(key.names, name) if type(name) is str else NULL
        if found == NULL:
            return False
        if metric is not None and not attr_value(out, <_Key> <object> found, metric, 0):
            return False
    if out.length == at + 4:
        out.length = at              # no metrics, no attribute
    else:
        close_attr(out, at)
    return True


cdef bint build_multipath(_Key key, object value, Out *out, int *targets) except -1:
    """Next hops: struct rtnexthop and attributes."""
    cdef Py_ssize_t at = out.length, hop_at
    cdef PyObject *found
    cdef _Key attr
    cdef long long numbers[3]
    cdef uint8_t address[16]
    cdef uint8_t *hop
    cdef int family, prefixlen, i
    cdef tuple names = ("flags", "hops", "oif")
    if (type(value) is not list and type(value) is not tuple) or len(value) == 0:
        return False
    if attr_reserve(out, key.nla, 0) == NULL:
        return False
    for item in value:
        if type(item) is not dict:
            return False
        for i in range(3):
            found = PyDict_GetItem(<dict> item, names[i])
            numbers[i] = 0
            if found != NULL and not as_int(<object> found, &numbers[i]):
                return False
        if numbers[0] < 0 or numbers[0] > 255 or numbers[1] < 0 or numbers[1] > 255:
            return False
        if numbers[2] < -0x80000000LL or numbers[2] > 0x7FFFFFFF:
            return False
        hop_at = out.length
        # the place of an attribute's header and four bytes is that of a struct rtnexthop
        hop = <uint8_t *> attr_reserve(out, 0, 4)
        if hop == NULL:
            return False
        hop -= 4
        hop[2] = <uint8_t> numbers[0]
        hop[3] = <uint8_t> numbers[1]
        store_int(hop + 4, numbers[2], 4)
        for name, argument in (<dict> item).items():
            if type(name) is not str:
                return False
            if argument is None or name in names:
                continue
            found = PyDict_GetItem(key.names, name)
            if found == NULL:
                return False
            attr = <_Key> <object> found
            if attr.codec == CODEC_TARGET:
                if name == "newdst" or not parse_prefix(argument, address, &family, &prefixlen) or prefixlen >= 0:
                    return False
                if not attr_put(out, attr.nla, address, address_length(family)):
                    return False
                targets[0] |= 1 if family == lx.AF_INET else 2
            elif name == "encap" or not attr_value(out, attr, argument, 0):
                return False
        close_attr(out, hop_at)
    close_attr(out, at)
    return True


cdef object _prio_user = None


cdef object _ip6_rt_prio_user():
    global _prio_user
    if _prio_user is None:
        from pyroute2.netlink.rtnl.rtmsg import IP6_RT_PRIO_USER
        _prio_user = IP6_RT_PRIO_USER
    return _prio_user


cdef bint build_addr(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *name_ref
    cdef PyObject *value_ref
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long number
    cdef long long lifetimes[2]
    cdef long long family = 0
    cdef bint has_family = False
    cdef int target_family, prefixlen = -1, parsed
    cdef Py_ssize_t size, address_size = 0
    cdef const char *text
    cdef uint8_t address[16]
    cdef uint8_t local[16]
    cdef uint8_t *at
    cdef bint has_local = False
    cdef int lifetimes_left = 0
    while PyDict_Next(kwarg, &pos, &name_ref, &value_ref):
        found = PyDict_GetItem(kind.keys, <object> name_ref)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if value_ref == <PyObject *> None:
            if key.op == OP_NLA or key.op == OP_FIELD or key.op == OP_INDEX:
                continue
            return False              # seen by what pyroute2 does at the end
        value = <object> value_ref
        if key.op == OP_ADDRESS:
            if not parse_prefix(value, address, &target_family, &parsed):
                return False
            if parsed >= 0:
                prefixlen = parsed
            address_size = address_length(target_family)
            if not attr_put(out, key.nla, address, address_size):
                return False
        elif key.op == OP_LOCAL:
            if not attr_value(out, key, value, 0):
                return False
            has_local = True
        elif key.op == OP_PREFIXLEN:
            if PyUnicode_CheckExact(value):
                text = PyUnicode_AsUTF8AndSize(value, &size) if (<str> value).isascii() else NULL
                if text == NULL:
                    return False
                prefixlen = parse_prefixlen(text, size)
                if prefixlen < 0:
                    return False
            elif not as_int(value, &number) or number < 0 or number > 255:
                return False
            else:
                prefixlen = <int> number
        elif key.op == OP_INDEX:
            if not field_put(out, key, first_of(value)):
                return False
        elif key.op == OP_NLA:
            # a truth value asks pyroute2 to compute the broadcast address
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
            has_family = True
        elif key.op == OP_LIFETIME:
            # every one of them rewrites the attribute, which so stands where the last one does
            if lifetimes_left == 0:
                lifetimes_left = build_lifetimes(kwarg, lifetimes)
                if lifetimes_left == 0:
                    return False
            lifetimes_left -= 1
            if lifetimes_left:
                continue
            at = <uint8_t *> attr_reserve(out, key.nla, 16)
            if at == NULL:
                return False
            memset(at, 0, 16)
            store_int(at, lifetimes[0], 4)
            store_int(at + 4, lifetimes[1], 4)
        else:
            return False
    if not has_family:
        if address_size == 0:
            return False
        family = lx.AF_INET if address_size == 4 else lx.AF_INET6
    if prefixlen < 0:
        if family == lx.AF_INET:
            prefixlen = 32
        elif family == lx.AF_INET6:
            prefixlen = 128
        else:
            prefixlen = 0
    if not field_int(out, <_Key> kind.fields["family"], family):
        return False
    if not field_int(out, <_Key> kind.fields["prefixlen"], prefixlen):
        return False
    if not has_local and address_size and family == lx.AF_INET:
        return attr_put(out, (<_Key> kind.keys["local"]).nla, address, address_size)
    return True


cdef int build_lifetimes(dict kwarg, long long *lifetimes) except -1:
    """preferred and valid, under either name. How many there are; 0 if they are not plain."""
    cdef int i, count = 0
    cdef PyObject *one
    cdef PyObject *other
    for i in range(2):
        one = PyDict_GetItem(kwarg, "valid" if i else "preferred")
        other = PyDict_GetItem(kwarg, "valid_lft" if i else "preferred_lft")
        if one != NULL and other != NULL:
            return 0
        if one == NULL:
            one = other
        lifetimes[i] = 0xFFFFFFFF
        if one != NULL:
            count += 1
            if not as_int(<object> one, &lifetimes[i]) or lifetimes[i] < 0 or lifetimes[i] > 0xFFFFFFFF:
                return 0
    return count if lifetimes[1] >= lifetimes[0] else 0


cdef bint build_neigh(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *name_ref
    cdef PyObject *value_ref
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long family = 0, state = 0, flags = 0
    cdef int dst_family = 0, prefixlen
    cdef uint8_t address[16]
    cdef bint has_state = False, has_family = False
    cdef _Key flags_key = <_Key> kind.fields["flags"]
    while PyDict_Next(kwarg, &pos, &name_ref, &value_ref):
        found = PyDict_GetItem(kind.keys, <object> name_ref)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if value_ref == <PyObject *> None:
            if key.op == OP_NLA or key.op == OP_INDEX:
                continue
            return False              # seen by fdb(), or by what pyroute2 does at the end
        value = <object> value_ref
        if key.op == OP_NEIGH_DST:
            if not parse_prefix(value, address, &dst_family, &prefixlen) or prefixlen >= 0:
                return False
            if not attr_put(out, key.nla, address, address_length(dst_family)):
                return False
        elif key.op == OP_NLA:
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_INDEX:
            if not field_put(out, key, first_of(value)):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
            has_family = True
        elif key.op == OP_NAMED:
            if kind.number == KIND_FDB and PyDict_Contains(kwarg, "nud") and PyDict_Contains(kwarg, "state"):
                return False
            if PyUnicode_CheckExact(value):
                # fdb() does arithmetic on it
                if kind.number == KIND_FDB and command.defaults:
                    return False
                value = neigh_state(key, value)
                if value is None:
                    return False
            if not as_int(value, &state):
                return False
            has_state = True
        elif key.op == OP_FIELD:
            if key.offset == flags_key.offset:
                if not as_int(value, &flags):
                    return False
            elif not field_put(out, key, value):
                return False
        else:
            return False
    if kind.number == KIND_FDB:
        family = lx.AF_BRIDGE
        has_family = True
        if command.defaults and not state & lx.NUD_NOARP:
            state |= lx.NUD_NOARP
            has_state = True
            if not state & (lx.NUD_PERMANENT | lx.NUD_REACHABLE):
                state |= lx.NUD_PERMANENT
            if not flags & (lx.NTF_SELF | lx.NTF_MASTER):
                flags |= lx.NTF_SELF
    if not has_state and not command.get:
        state = lx.NUD_PERMANENT
    if not has_family:
        family = dst_family
    return (
        field_int(out, <_Key> kind.fields["family"], family)
        and field_int(out, <_Key> kind.fields["state"], state)
        and field_int(out, flags_key, flags)
    )


cdef object neigh_state(_Key key, object value):
    """pyroute2's translation of names, remembered."""
    cdef PyObject *found = PyDict_GetItem(key.names, value)
    if found != NULL:
        return <object> found
    try:
        state = key.aux(value)
    except Exception:
        return None
    if len(key.names) < 256:
        key.names[value] = state
    return state


cdef bint build_rule(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *name_ref
    cdef PyObject *value_ref
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long family = lx.AF_INET, table = 0
    cdef int target_family, prefixlen
    cdef uint8_t address[16]
    cdef bint priority = False, action = False, has_table = False
    while PyDict_Next(kwarg, &pos, &name_ref, &value_ref):
        found = PyDict_GetItem(kind.keys, <object> name_ref)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if value_ref == <PyObject *> None:
            if key.op == OP_NLA and (<object> name_ref) != "priority":
                continue
            return False              # seen by what pyroute2 does at the end
        value = <object> value_ref
        if key.op == OP_DST or key.op == OP_SRC:
            if key.op == OP_DST and PyUnicode_CheckExact(value) and (
                value == "0" or value == "0.0.0.0" or value == "0.0.0.0/0" or value == "::" or value == "::/0"
            ):
                return False
            if not parse_prefix(value, address, &target_family, &prefixlen):
                return False
            family = target_family
            name = "dst_len" if key.op == OP_DST else "src_len"
            if prefixlen < 0 and not PyDict_Contains(kwarg, name):
                prefixlen = 32 if family == lx.AF_INET else 128
            if prefixlen >= 0 and not field_int(out, <_Key> kind.fields[name], prefixlen):
                return False
            if not attr_put(out, key.nla, address, address_length(target_family)):
                return False
        elif key.op == OP_NLA:
            if (<object> name_ref) == "priority":
                priority = True
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not as_int(value, &family):
                return False
        elif key.op == OP_TABLE:
            if not as_int(value, &table) or not attr_value(out, key, value, 0):
                return False
            has_table = True
        elif key.op == OP_NAMED:
            if PyUnicode_CheckExact(value):
                found = PyDict_GetItem(key.names, value)
                if found == NULL:
                    return False
                value = <object> found
            if not field_put(out, key, value):
                return False
            action = True
        else:
            return False
    if not priority and not attr_value(out, <_Key> kind.keys["priority"], _rule_priority(), 0):
        return False
    if has_table and not action:
        if not field_put(out, <_Key> kind.fields["action"], (<_Key> kind.keys["action"]).names["to_tbl"]):
            return False
    return (
        field_int(out, <_Key> kind.fields["family"], family)
        and field_int(out, <_Key> kind.fields["table"], table if 0 <= table <= 255 else lx.RT_TABLE_COMPAT)
    )


cdef object _default_priority = None


cdef object _rule_priority():
    global _default_priority
    if _default_priority is None:
        from pyroute2.requests.rule import DEFAULT_FRA_PRIORITY
        _default_priority = DEFAULT_FRA_PRIORITY
    return _default_priority


cdef bint build_link(_Kind kind, _Command command, dict kwarg, Out *out) except -1:
    cdef PyObject *name_ref
    cdef PyObject *value_ref
    cdef Py_ssize_t pos = 0
    cdef PyObject *found
    cdef _Key key
    cdef object value
    cdef long long flags = 0, change = 0, family = 0
    cdef Py_ssize_t info_at, data_at, size
    cdef const char *text
    cdef _LinkData data = None
    cdef bint specific = False
    found = PyDict_GetItem(kwarg, "kind")
    if found != NULL and found != <PyObject *> None:
        value = <object> found
        if not PyUnicode_CheckExact(value):
            return False
        data = _link_data(kind, value)
        if data is None:
            return False
    # visible to state= and arp= before they are processed themselves
    found = PyDict_GetItem(kwarg, "flags")
    if found != NULL and found != <PyObject *> None and not as_int(<object> found, &flags):
        return False
    found = PyDict_GetItem(kwarg, "change")
    if found != NULL and found != <PyObject *> None and not as_int(<object> found, &change):
        return False
    while PyDict_Next(kwarg, &pos, &name_ref, &value_ref):
        if data is not None and PyDict_Contains(data.keys, <object> name_ref):
            specific = True
            continue
        found = PyDict_GetItem(kind.keys, <object> name_ref)
        if found == NULL:
            return False
        key = <_Key> <object> found
        if value_ref == <PyObject *> None:
            if key.op == OP_PEER:
                return False
            continue
        value = <object> value_ref
        if key.op == OP_NLA:
            if not attr_value(out, key, value, 0):
                return False
        elif key.op == OP_INDEX:
            if not field_put(out, key, first_of(value)):
                return False
        elif key.op == OP_FIELD:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_FAMILY:
            if not field_put(out, key, value):
                return False
        elif key.op == OP_STATE:
            if not PyUnicode_CheckExact(value):
                return False
            if value == "up":
                flags |= lx.IFF_UP
            elif value != "down":
                return False
            change |= lx.IFF_UP
        elif key.op == OP_ARP or key.op == OP_NOARP:
            if not PyLong_Check(value):
                return False
            if (not value) == (key.op == OP_ARP):
                flags |= lx.IFF_NOARP
            change |= lx.IFF_NOARP
        elif key.op == OP_FLAGS:
            if not as_int(value, &flags):
                return False
        elif key.op == OP_CHANGE:
            if not as_int(value, &change):
                return False
        elif key.op == OP_KIND:
            pass
        elif key.op == OP_PEER:
            if data is None or not data.peer:
                return False
            specific = True
        else:
            return False
    if not field_int(out, <_Key> kind.fields["flags"], flags):
        return False
    if not field_int(out, <_Key> kind.fields["change"], change):
        return False
    if data is None:
        return True
    info_at = out.length
    if attr_reserve(out, data.info, 0) == NULL:
        return False
    text = PyUnicode_AsUTF8AndSize(kwarg["kind"], &size)
    if size > 64 or not attr_put(out, data.kind, text, size + 1):
        return False
    if specific:
        data_at = out.length
        if attr_reserve(out, data.data, 0) == NULL:
            return False
        pos = 0
        while PyDict_Next(kwarg, &pos, &name_ref, &value_ref):
            found = PyDict_GetItem(data.keys, <object> name_ref)
            if found != NULL:
                if found == <PyObject *> None or not attr_value(out, <_Key> <object> found, <object> value_ref, 0):
                    return False
            elif data.peer and (<object> name_ref) == "peer":
                if not build_peer(<_Key> kind.keys["peer"], data.peer, <object> value_ref, out):
                    return False
        close_attr(out, data_at)
    close_attr(out, info_at)
    return True


cdef inline void close_attr(Out *out, Py_ssize_t at) noexcept nogil:
    (<uint16_t *> (out.data + at))[0] = <uint16_t> (out.length - at)


cdef bint build_peer(_Key peer, int nla_type, object value, Out *out) except -1:
    """VETH_INFO_PEER: an interface message of its own, inside an attribute."""
    cdef Py_ssize_t at = out.length
    cdef dict keys = peer.aux[0]
    cdef Py_ssize_t header = peer.aux[1]
    cdef void *fields = attr_reserve(out, nla_type, header)
    cdef PyObject *found
    if fields == NULL:
        return False
    memset(fields, 0, header)
    if type(value) is dict:
        for name, argument in (<dict> value).items():
            found = PyDict_GetItem(keys, name)
            if found == NULL or argument is None:
                return False
            if not attr_value(out, <_Key> <object> found, argument, 0):
                return False
    elif not attr_value(out, <_Key> keys["ifname"], value, 0):
        return False
    close_attr(out, at)
    return True


cdef bint build_dump(_Kind kind, dict kwarg, bint strict, Out *out) except -1:
    """Only family= and ext_mask= reach the kernel, the rest filters its answer."""
    cdef PyObject *found
    cdef long long family = 0
    if PyDict_Contains(kwarg, "dump_filter") or PyDict_Contains(kwarg, "request_filter"):
        return False
    if PyDict_Contains(kwarg, "command_map"):
        return False
    for name in kwarg:
        if name == "family":
            if not as_int(kwarg[name], &family) or family == lx.AF_MPLS:
                return False
        elif name == "ext_mask" and kind.number == KIND_LINK:
            if not attr_value(out, <_Key> kind.keys[name], kwarg[name], 0):
                return False
    if kind.number == KIND_FDB:
        family = lx.AF_BRIDGE
    if kind.number == KIND_ROUTE and not strict:
        field_int(out, <_Key> kind.fields["table"], lx.RT_TABLE_MAIN)
    return field_int(out, <_Key> kind.fields["family"], family)


def build(
    str kind not None, command, dict kwarg not None, bint echo=False, uint32_t seq=0, uint32_t pid=0,
    bint strict_check=False, bint ack_gets=True
):
    """The complete request pyroute2 sends for `kind`(`command`, **`kwarg`), or None.

    kind: link, addr, route, neigh, rule, fdb. seq and pid are the header's sequence number and port id; echo sets
    NLM_F_ECHO where pyroute2 sets it; strict_check is the handle's option of that name, which changes route requests.
    ack_gets=False leaves out NLM_F_ACK with `get`, which pyroute2 sets: the kernel always answers these with data
    or an error, and the acknowledgement is one more datagram to receive.

    None means that some argument is not of a known plain kind, or is not valid: pyroute2's own code then has to
    build the request, or raise its exception. With `dump`, only family= and ext_mask= are part of the request; other
    arguments filter the answer, which is the caller's business (and so is checking them).
    The arguments are never changed.
    """
    cdef Out out
    cdef lx.nlmsghdr *header
    if not build_into(kind, command, kwarg, echo, seq, pid, strict_check, &out):
        return None
    header = <lx.nlmsghdr *> out.data
    # in rtnetlink, types of GET requests are 4n + 2
    if not ack_gets and header.nlmsg_type % 4 == 2:
        header.nlmsg_flags &= ~<uint16_t> lx.NLM_F_ACK
    return PyBytes_FromStringAndSize(<char *> out.data, out.length)


cdef bint build_into(
    str kind, object command, dict kwarg, bint echo, uint32_t seq, uint32_t pid, bint strict_check, Out *out
) except -1:
    """False where `build` returns None."""
    cdef _Kind table
    cdef _Command cmd
    cdef bint done
    cdef lx.nlmsghdr *header
    cdef PyObject *found = PyDict_GetItem(_KINDS, kind)
    if found != NULL:
        table = <_Kind> <object> found
    else:
        table = _make_kind(kind)
        if table is None:
            return False
    if not PyUnicode_CheckExact(command):
        return False
    found = PyDict_GetItem(table.commands, command)
    if found == NULL:
        return False
    cmd = <_Command> <object> found
    out.length = table.header
    memset(out.data, 0, table.header)
    if cmd.dump:
        done = build_dump(table, kwarg, strict_check, out)
    elif table.number == KIND_ROUTE:
        done = build_route(table, cmd, kwarg, strict_check, out)
    elif table.number == KIND_ADDR:
        done = build_addr(table, cmd, kwarg, out)
    elif table.number == KIND_LINK:
        done = build_link(table, cmd, kwarg, out)
    elif table.number == KIND_RULE:
        done = build_rule(table, cmd, kwarg, out)
    else:
        done = build_neigh(table, cmd, kwarg, out)
    if not done:
        return False
    header = <lx.nlmsghdr *> out.data
    header.nlmsg_len = <uint32_t> out.length
    header.nlmsg_type = <uint16_t> cmd.type
    header.nlmsg_flags = <uint16_t> (cmd.echo_flags if echo else cmd.flags)
    header.nlmsg_seq = seq
    header.nlmsg_pid = pid
    return True
