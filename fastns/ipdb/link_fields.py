"""Which values of a link are whose: the link's own, its kind's, its port's, the database's."""

from __future__ import annotations

from socket import AF_INET
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

known_kinds: dict[str | None, frozenset[str]] = {}


def fields_of_kind(kind: str | None) -> frozenset[str]:
    """The names of the values that belong to one kind of link, as they are spelled in requests."""
    fields = known_kinds.get(kind)
    if fields is None:
        cls = ifinfmsg.ifinfo.data_map.get(kind)
        names: list[str] = []
        for row in getattr(cls, "nla_map", ()):
            name = row[0] if isinstance(row[0], str) else row[1]
            names.append(ifinfmsg.nla2name(name) if name.startswith("IFLA_") else name.lower())
        fields = known_kinds[kind] = frozenset(names)
    return fields


bridge_port_fields = frozenset(ifinfmsg.nla2name(row[0]) for row in ifinfmsg.ifinfo.bridge_slave_data.nla_map)

bridge_times = frozenset(
    "br_" + name
    for name in (
        "hello_time max_age ageing_time forward_delay mcast_membership_intvl mcast_querier_intvl mcast_query_intvl "
        "mcast_query_response_intvl mcast_startup_query_intvl"
    ).split()
)
bridge_settable = bridge_times | {
    "br_" + name
    for name in (
        "stp_state priority vlan_filtering vlan_protocol group_fwd_mask mcast_snooping mcast_router nf_call_iptables "
        "nf_call_ip6tables nf_call_arptables vlan_default_pvid mcast_querier"
    ).split()
}

# what a link says of itself but does not take in a request
link_readonly = frozenset(
    "attrs header event stats stats64 map af_spec linkinfo protinfo change unknown operstate qdisc carrier "
    "carrier_changes carrier_up_count carrier_down_count min_mtu max_mtu xdp family ifi_type index neighbours "
    "num_tx_queues num_rx_queues gso_max_segs gso_max_size gso_ipv4_max_size gro_max_size gro_ipv4_max_size tso_max_size "
    "tso_max_segs allmulti promiscuity linkmode parent_dev_name parent_dev_bus_name phys_port_name phys_switch_id "
    "link_netnsid netns_immutable max_pacing_offload_horizon perm_address __align flags_changed dpll_pin "
    "phys_port_id prop_list proto_down_reason".split()
)
link_dropped = frozenset(
    "header linkinfo protinfo af_spec attrs event map stats stats64 change __align prop_list".split()
)
# what makes a link the one it was, when it is made again
link_identity = ("kind", "ifname", "index", "address", "mtu", "txqlen", "group", "ifalias", "master", "link")
link_virtual = frozenset("ipdb_scope ipdb_priority ipaddr ports vlans net_ns_fd net_ns_pid kind".split())


def vlan_info_of(vlan: Any) -> dict[str, Any]:
    return {"vid": vlan["vid"], "flags": vlan.get("flags", 0)}


def address_of(msg: Any) -> Any:
    return msg.get_attr("IFA_LOCAL") if msg["family"] == AF_INET else msg.get_attr("IFA_ADDRESS")
