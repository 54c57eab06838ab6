/* Reads requests as the kernel reads them, for what can name another namespace or a descriptor of this process.
 * Closed lists: a message type, a kind of link or a subsystem that is not here is refused, and so is an attribute
 * that is not where one beside it names namespaces: what a later kernel adds is no way out.
 * It knows neither the list nor a channel, and calls nothing. Called by policy.c, in the proxy only.
 */
#include "boundary.h"

#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/pkt_cls.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/veth.h>

enum { ATTRIBUTE_MASK = 0x3fff };    /* NLA_TYPE_MASK */
/* By number: older headers lack them. */
enum {
    LINK_NEW_NETNSID = 45, LINK_TARGET_NETNSID = 46, LINK_LAST = 69,    /* if_link.h: IFLA_TAILROOM */
    XDP_FD = 1, XDP_EXPECTED_FD = 8,
    ADDR_TARGET_NETNSID = 10, ADDR_LAST = 11,                           /* if_addr.h: IFA_PROTO */
    NEXTHOP_ENCAP_TYPE = 7, NEXTHOP_ENCAP = 8,                          /* nexthop.h */
    ENCAP_BPF = 6, ENCAP_SEG6_LOCAL = 7, ENCAP_LAST = 10,               /* lwtunnel.h: LWTUNNEL_ENCAP_XFRM */
    SEG6_LOCAL_PROGRAM = 8, SEG6_LOCAL_LAST = 11,                       /* seg6_local.h: SEG6_LOCAL_FLAVORS */
    RSVP_ACTIONS = 6, TCINDEX_ACTIONS = 7,          /* pkt_cls.h, of which later ones are without */
    EMATCH_LAST = 9,                                                    /* pkt_cls.h: TCF_EM_IPT */
    DIAG_REQUEST = 56, DIAG_STORAGES = 2, DIAG_LAST = 3,                /* inet_diag.h */
    MDB_ENTRY_ATTRIBUTES = 2, MDB_DEVICE = 8,                           /* if_bridge.h: MDBE_ATTR_IFINDEX */
    XFRM_FIRST = 0x10, XFRM_MIGRATION = 0x21, XFRM_LAST = 0x28,         /* xfrm.h: XFRM_MSG_GETDEFAULT */
    SUBSYSTEM_HOOK = 12,                                                /* nfnetlink.h */
    SET_EXPRESSION = 17, SET_EXPRESSIONS = 18,                          /* nf_tables.h */
    ELEMENT_EXPRESSIONS = 11, DYNSET_EXPRESSIONS = 10, OBJECT_LAST = 10 /* nf_tables.h: NFT_OBJECT_SYNPROXY */
};

struct span {
    const uint8_t *at;
    uint32_t len;
};

struct request {
    const uint8_t *data;             /* the whole of it: patches are offsets into it */
    const struct fns_patches *patches;
    uint32_t consumed;               /* patches met so far */
    uint16_t flags;                  /* of the message that is read */
};

/* ---- Attributes ------------------------------------------------------------------------------------- */

/* The next attribute of a span, and past it. 0 at the end or at what the kernel would not read on from. */
static int attribute_next(struct span *rest, uint32_t *type, struct span *value)
{
    struct nlattr attribute;
    uint32_t whole;

    if (rest->len < sizeof(attribute))
        return 0;
    memcpy(&attribute, rest->at, sizeof(attribute));
    if (attribute.nla_len < sizeof(attribute) || attribute.nla_len > rest->len)
        return 0;
    *type = attribute.nla_type & ATTRIBUTE_MASK;
    value->at = rest->at + sizeof(attribute);
    value->len = (uint32_t)(attribute.nla_len - sizeof(attribute));
    whole = (attribute.nla_len + 3u) & ~3u;
    if (whole > rest->len)
        whole = rest->len;
    rest->at += whole;
    rest->len -= whole;
    return 1;
}

static struct span span_from(struct span s, uint32_t offset)
{
    if (offset > s.len)
        offset = s.len;
    s.at += offset;
    s.len -= offset;
    return s;
}

/* Whether the value is a descriptor's number that we put there. The walk meets attributes in the order they lie in, as
 * patches do, so it is the next one. */
static int descriptor_ok(struct request *r, struct span value)
{
    uint32_t offset;
    int number;

    if (r->consumed == r->patches->count || value.len < sizeof(number))
        return 0;
    memcpy(&offset, r->patches->offsets + r->consumed, sizeof(offset));
    memcpy(&number, value.at, sizeof(number));
    if (value.at != r->data + offset || number != r->patches->fd[r->consumed])
        return 0;
    r->consumed++;
    return 1;
}

static int has_name(struct span value, const char *name)
{
    uint32_t at = 0;

    while (at < value.len && name[at] != 0 && value.at[at] == (uint8_t)name[at])
        at++;
    return name[at] == 0 && (at == value.len || value.at[at] == 0);
}

static int has_one_of(struct span value, const char *const *names)
{
    while (*names != NULL && !has_name(value, *names))
        names++;
    return *names != NULL;
}

/* ---- Links ------------------------------------------------------------------------------------------ */

/* `rtnl_link_ops` of net/ and drivers/. Not here: "ppp", which takes a descriptor and does not work without
 * (IFLA_PPP_DEV_FD, drivers/net/ppp/ppp_generic.c); "wwan", which takes a modem of the machine by its name
 * (IFLA_PARENT_DEV_NAME, drivers/net/wwan/wwan_core.c); "virt_wifi", an interface of a radio of the first namespace,
 * which is told of it (common_wiphy, drivers/net/wireless/virtual/virt_wifi.c); "hsr", of whose failures the first
 * namespace is told (net/hsr/hsr_netlink.c); "vsockmon", where all the machine's vsock packets come by
 * (drivers/net/vsockmon.c); "ipvlan" and "ipvtap", of which one on another sets the mode of all that share a device,
 * which may be elsewhere (ipvlan_link_new(), drivers/net/ipvlan/ipvlan_main.c). */
static const struct kind {
    char name[12];
    uint8_t peer;            /* the attribute that is a link of its own, with a namespace of its own */
    uint8_t descriptors;     /* attributes below this number take one */
    uint8_t last;            /* where there is either: the last attribute that was read */
    uint8_t below;           /* options are about what is below it, which may be elsewhere unless it is only made here */
} kinds[] = {
    {"veth", VETH_INFO_PEER, 0, VETH_INFO_PEER, 0},  /* drivers/net/veth.c */
    {"vxcan", VETH_INFO_PEER, 0, VETH_INFO_PEER, 0}, /* drivers/net/can/vxcan.c */
    {"netkit", VETH_INFO_PEER, 0, 9, 0},             /* drivers/net/netkit.c: IFLA_NETKIT_PEER_INFO, _TAILROOM */
    {"gtp", 0, 3, 8, 1},                             /* drivers/net/gtp.c: IFLA_GTP_FD0, IFLA_GTP_FD1, _LOCAL6 */
    {"batadv", 0, 0, 0, 0}, {"bond", 0, 0, 0, 0}, {"bridge", 0, 0, 0, 0}, {"can", 0, 0, 0, 0}, {"caif", 0, 0, 0, 0},
    {"dsa", 0, 0, 0, 0}, {"dummy", 0, 0, 0, 0}, {"ifb", 0, 0, 0, 0}, {"ipoib", 0, 0, 0, 0}, {"lowpan", 0, 0, 0, 0},
    {"nlmon", 0, 0, 0, 0}, {"ovpn", 0, 0, 0, 0}, {"team", 0, 0, 0, 0}, {"tun", 0, 0, 0, 0}, {"vcan", 0, 0, 0, 0},
    {"vlan", 0, 0, 0, 0}, {"vrf", 0, 0, 0, 0}, {"wireguard", 0, 0, 0, 0},
    {"amt", 0, 0, 0, 1}, {"bareudp", 0, 0, 0, 1}, {"erspan", 0, 0, 0, 1}, {"geneve", 0, 0, 0, 1}, {"gre", 0, 0, 0, 1},
    {"gretap", 0, 0, 0, 1}, {"ip6erspan", 0, 0, 0, 1}, {"ip6gre", 0, 0, 0, 1}, {"ip6gretap", 0, 0, 0, 1},
    {"ip6tnl", 0, 0, 0, 1}, {"ipip", 0, 0, 0, 1}, {"macsec", 0, 0, 0, 1}, {"macvlan", 0, 0, 0, 1},
    {"macvtap", 0, 0, 0, 1}, {"pfcp", 0, 0, 0, 1}, {"rmnet", 0, 0, 0, 1}, {"sit", 0, 0, 0, 1}, {"vti", 0, 0, 0, 1},
    {"vti6", 0, 0, 0, 1}, {"vxlan", 0, 0, 0, 1}, {"xfrm", 0, 0, 0, 1},
};

static const struct kind *kind_find(struct span name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (has_name(name, kinds[i].name))
            return &kinds[i];
    return NULL;
}

static int link_ok(struct request *r, struct span attributes, int depth);

static int kind_data_ok(struct request *r, const struct kind *kind, struct span data, int depth)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&data, &type, &value)) {
        if ((type < kind->descriptors && type != 0) || (type > kind->last && kind->last != 0))
            return 0;
        if (type == kind->peer && type != 0 && !link_ok(r, span_from(value, sizeof(struct ifinfomsg)), depth + 1))
            return 0;
    }
    return 1;
}

/* The kernel takes the last kind and the last data, in whatever order: so one of each. */
static int linkinfo_ok(struct request *r, struct span info, int depth)
{
    const struct kind *kind = NULL;
    struct span value, data = {NULL, 0};
    uint32_t type;
    int named = 0, given = 0;

    while (attribute_next(&info, &type, &value)) {
        switch (type) {
        case IFLA_INFO_KIND:
            if (named++)
                return 0;
            kind = kind_find(value);
            if (kind == NULL)
                return 0;
            break;
        case IFLA_INFO_DATA:
            if (given++)
                return 0;
            data = value;
            break;
        case IFLA_INFO_UNSPEC: case IFLA_INFO_XSTATS: case IFLA_INFO_SLAVE_KIND: case IFLA_INFO_SLAVE_DATA:
            break;           /* bond and bridge only: drivers/net/bonding/bond_netlink.c, net/bridge/br_netlink.c */
        default:
            return 0;
        }
    }
    if (!given)
        return 1;
    return kind != NULL && (!kind->below || (r->flags & NLM_F_EXCL) != 0) && kind_data_ok(r, kind, data, depth);
}

/* A program is a descriptor, and a negative number none: that takes a program off. */
static int xdp_ok(struct span xdp)
{
    struct span value;
    uint32_t type;
    int number;

    while (attribute_next(&xdp, &type, &value)) {
        if (type != XDP_FD && type != XDP_EXPECTED_FD)
            continue;
        if (value.len < sizeof(number))
            return 0;
        memcpy(&number, value.at, sizeof(number));
        if (number >= 0)
            return 0;
    }
    return 1;
}

/* ifla_policy of net/core/rtnetlink.c */
static int link_ok(struct request *r, struct span attributes, int depth)
{
    struct span value;
    uint32_t type;

    if (depth > 1)
        return 0;
    while (attribute_next(&attributes, &type, &value)) {
        switch (type) {
        case IFLA_NET_NS_PID: case IFLA_LINK_NETNSID: case LINK_NEW_NETNSID: case LINK_TARGET_NETNSID:
            return 0;
        case IFLA_NET_NS_FD:
            if (!descriptor_ok(r, value))
                return 0;
            break;
        case IFLA_LINKINFO:
            if (!linkinfo_ok(r, value, depth))
                return 0;
            break;
        case IFLA_XDP:
            if (!xdp_ok(value))
                return 0;
            break;
        default:
            if (type > LINK_LAST)
                return 0;
        }
    }
    return 1;
}

/* ---- The other messages of NETLINK_ROUTE ------------------------------------------------------------ */

/* ifa_ipv4_policy of net/ipv4/devinet.c, ifa_ipv6_policy of net/ipv6/addrconf.c */
static int address_ok(struct span attributes)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value))
        if (type == ADDR_TARGET_NETNSID || type > ADDR_LAST)
            return 0;
    return 1;
}

/* Where a VXLAN sends to: through a device of the namespace it was made in. vxlan_fdb_parse() and vxlan_xmit_one() of
 * drivers/net/vxlan/vxlan_core.c, vxlan_mdb_config_attrs_init() of vxlan_mdb.c */
static int names_device(struct span attributes, uint32_t device)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value))
        if (type == device)
            return 1;
    return 0;
}

static int mdb_ok(struct span attributes)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value))
        if (type == MDB_ENTRY_ATTRIBUTES && names_device(value, MDB_DEVICE))
            return 0;
    return 1;
}

/* rtnl_net_policy of net/core/net_namespace.c */
static int nsid_ok(struct request *r, struct span attributes)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value))
        if (type != NETNSA_NONE && type != NETNSA_NSID && (type != NETNSA_FD || !descriptor_ok(r, value)))
            return 0;
    return 1;
}

/* A tunnel (net/core/lwtunnel.c), of a closed list of kinds: bpf_nl_policy of net/core/lwt_bpf.c and seg6_local_policy
 * of net/ipv6/seg6_local.c take programs. */
static int encap_ok(struct span attributes, uint32_t type_attribute, uint32_t encap_attribute)
{
    struct span rest = attributes, value, inner;
    uint32_t type, inner_type;
    uint16_t encap;
    int local = 0;

    while (attribute_next(&rest, &type, &value)) {
        if (type != type_attribute)
            continue;
        if (value.len < sizeof(encap))
            return 0;            /* some kernels read it beyond its end: lwtunnel_valid_encap_type_attr() */
        memcpy(&encap, value.at, sizeof(encap));
        if (encap == ENCAP_BPF || encap > ENCAP_LAST)
            return 0;
        local |= encap == ENCAP_SEG6_LOCAL;
    }
    while (local && attribute_next(&attributes, &type, &value))
        while (type == encap_attribute && attribute_next(&value, &inner_type, &inner))
            if (inner_type == SEG6_LOCAL_PROGRAM || inner_type > SEG6_LOCAL_LAST)
                return 0;
    return 1;
}

/* rtm_ipv4_policy of net/ipv4/fib_frontend.c, rtm_ipv6_policy of net/ipv6/route.c, and rtnh_next() of net/nexthop.h */
static int route_ok(struct span attributes)
{
    struct span rest = attributes, hops;
    uint32_t type;

    if (!encap_ok(attributes, RTA_ENCAP_TYPE, RTA_ENCAP))
        return 0;
    while (attribute_next(&rest, &type, &hops)) {
        struct rtnexthop hop;
        while (type == RTA_MULTIPATH && hops.len >= sizeof(hop)) {
            struct span inner = {hops.at + sizeof(hop), 0};
            memcpy(&hop, hops.at, sizeof(hop));
            if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > hops.len)
                break;
            inner.len = (uint32_t)(hop.rtnh_len - sizeof(hop));
            if (!encap_ok(inner, RTA_ENCAP_TYPE, RTA_ENCAP))
                return 0;
            hops = span_from(hops, (hop.rtnh_len + 3u) & ~3u);
        }
    }
    return 1;
}

/* ---- Traffic control -------------------------------------------------------------------------------- */

/* Qdiscs of net/sched/sch_*.c: the devices and blocks they name are of the socket's namespace, and none names another
 * kind. Not here: "teql0" and so on, which send for a link of the first namespace and set its size (sch_teql.c); "atm",
 * whose classes take a descriptor (TCA_ATM_FD, sch_atm.c, until 6.2); what programs register (bpf_qdisc.c). */
static const char *const qdiscs[] = {
    "bfifo", "blackhole", "cake", "cake_mq", "cbq", "cbs", "choke", "clsact", "codel", "drr", "dsmark", "dualpi2",
    "etf", "ets", "fq", "fq_codel", "fq_pie", "gred", "hfsc", "hhf", "htb", "ingress", "mq", "mqprio", "multiq",
    "netem", "noop", "noqueue", "pfifo", "pfifo_fast", "pfifo_head_drop", "pie", "plug", "prio", "qfq", "red", "sfb",
    "sfq", "skbprio", "taprio", "tbf", NULL
};

/* Actions of net/sched/act_*.c: the same. Not here: "bpf", which takes a descriptor (TCA_ACT_BPF_FD, act_bpf.c); "ipt"
 * and "xt", which take targets of iptables (act_ipt.c, until 6.7; as nft_compat.c below); "simple", which writes a text
 * of the request into the machine's log (act_simple.c). */
static const char *const actions[] = {
    "connmark", "csum", "ct", "ctinfo", "gact", "gate", "ife", "mirred", "mpls", "nat", "pedit", "police", "sample",
    "skbedit", "skbmod", "tunnel_key", "vlan", NULL
};

/* Filters of net/sched/cls_*.c, and which of their attributes is a list of actions, and which a tree of matches: the
 * arguments of tcf_exts_init() and tcf_em_tree_validate() there. The old TCA_*_POLICE is an action without a kind. Not
 * here: "bpf", which takes a descriptor (TCA_BPF_FD, cls_bpf.c). */
static const struct classifier {
    char name[12];
    uint8_t actions, matches;
} classifiers[] = {
    {"basic", TCA_BASIC_ACT, TCA_BASIC_EMATCHES}, {"cgroup", TCA_CGROUP_ACT, TCA_CGROUP_EMATCHES},
    {"flow", TCA_FLOW_ACT, TCA_FLOW_EMATCHES}, {"flower", TCA_FLOWER_ACT, 0}, {"fw", TCA_FW_ACT, 0},
    {"matchall", TCA_MATCHALL_ACT, 0}, {"route", TCA_ROUTE4_ACT, 0}, {"rsvp", RSVP_ACTIONS, 0},
    {"rsvp6", RSVP_ACTIONS, 0}, {"tcindex", TCINDEX_ACTIONS, 0}, {"u32", TCA_U32_ACT, 0},
};

/* The kernel asks whether the kind is that of what is there already: options without one are for what we cannot know.
 * It does not for classes, of which only those of the qdisc "atm" could be told something else. */
static int qdisc_ok(struct span attributes)
{
    struct span value;
    uint32_t type;
    int named = 0, given = 0;

    while (attribute_next(&attributes, &type, &value)) {
        if (type == TCA_KIND && !has_one_of(value, qdiscs))
            return 0;
        named |= type == TCA_KIND;
        given |= type == TCA_OPTIONS;
    }
    return named || !given;
}

/* tcf_action_init() of net/sched/act_api.c */
static int actions_ok(struct span list)
{
    struct span action, value;
    uint32_t type;

    while (attribute_next(&list, &type, &action))
        while (attribute_next(&action, &type, &value))
            if (type == TCA_ACT_KIND && !has_one_of(value, actions))
                return 0;
    return 1;
}

/* tcf_em_tree_validate() of net/sched/ematch.c: each with a number of net/sched/em_*.c. em_ipset.c is of the namespace,
 * em_ipt.c takes two of iptables' matches, of which neither has a descriptor. */
static int matches_ok(struct span tree)
{
    struct tcf_ematch_hdr header;
    struct span list, match;
    uint32_t type, number;

    while (attribute_next(&tree, &type, &list))
        while (type == TCA_EMATCH_TREE_LIST && attribute_next(&list, &number, &match)) {
            if (match.len < sizeof(header))
                return 0;
            memcpy(&header, match.at, sizeof(header));
            if (header.kind > EMATCH_LAST)
                return 0;
        }
    return 1;
}

static int filter_options_ok(const struct classifier *kind, struct span options)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&options, &type, &value))
        if ((type == kind->actions && !actions_ok(value)) || (type == kind->matches && type != 0 && !matches_ok(value)))
            return 0;
    return 1;
}

/* The kernel takes the last kind, so there is one; without, the options are for what we cannot know. */
static int filter_ok(struct span attributes)
{
    const struct classifier *kind = NULL, *end = classifiers + sizeof(classifiers) / sizeof(classifiers[0]);
    struct span rest = attributes, value;
    uint32_t type;

    while (attribute_next(&rest, &type, &value)) {
        if (type != TCA_KIND)
            continue;
        if (kind != NULL)
            return 0;
        for (kind = classifiers; kind != end && !has_name(value, kind->name); kind++)
            ;
        if (kind == end)
            return 0;
    }
    while (attribute_next(&attributes, &type, &value))
        if (type == TCA_OPTIONS && (kind == NULL || !filter_options_ok(kind, value)))
            return 0;
    return 1;
}

/* tc_ctl_action() and find_dump_kind() of net/sched/act_api.c */
static int action_message_ok(struct span attributes)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value))
        if (type == TCA_ACT_TAB && !actions_ok(value))
            return 0;
    return 1;
}

/* ---- The types of NETLINK_ROUTE --------------------------------------------------------------------- */

/* What the body of a message may hold. */
enum body { NOTHING_NAMED, LINKS, ADDRESSES, NEIGHBOURS, MDBS, NSIDS, ROUTES, NEXTHOPS, QDISCS, FILTERS, ACTIONS };
enum { NEW = 1, DEL = 2, GET = 4, SET = 8 };

/* By (type - RTM_BASE) / 4, the kinds of request the kernel registers a function for. NOTHING_NAMED: no attribute of it
 * names a namespace, a process or a descriptor. */
static const struct { uint8_t requests, body; } rtnetlink[] = {
    {NEW | DEL | GET | SET, LINKS},      /* 16 link: net/core/rtnetlink.c */
    {NEW | DEL | GET, ADDRESSES},        /* 20 addr: net/ipv4/devinet.c, net/ipv6/addrconf.c, net/phonet/pn_netlink.c,
                                          * net/mctp/device.c */
    {NEW | DEL | GET, ROUTES},           /* 24 route: fib_frontend.c, ipmr.c of net/ipv4, route.c, ip6mr.c of net/ipv6,
                                          * net/mpls/af_mpls.c, net/phonet/pn_netlink.c, net/can/gw.c,
                                          * net/mctp/route.c */
    {NEW | DEL | GET, NEIGHBOURS},       /* 28 neigh: net/core/neighbour.c, fdb of rtnetlink.c, net/mctp/neigh.c */
    {NEW | DEL | GET, NOTHING_NAMED},    /* 32 rule: net/core/fib_rules.c */
    {NEW | DEL | GET, QDISCS},           /* 36 qdisc: net/sched/sch_api.c */
    {NEW | DEL | GET, QDISCS},           /* 40 tclass: net/sched/sch_api.c */
    {NEW | DEL | GET, FILTERS},          /* 44 tfilter: net/sched/cls_api.c */
    {NEW | DEL | GET, ACTIONS},          /* 48 action: net/sched/act_api.c */
    {0, NOTHING_NAMED},                  /* 52 prefix: only told, net/ipv6/addrconf.c */
    {GET, ADDRESSES},                    /* 56 multicast: net/ipv4/devinet.c, net/ipv6/addrconf.c */
    {GET, ADDRESSES},                    /* 60 anycast: net/ipv6/addrconf.c */
    {GET | SET, NOTHING_NAMED},          /* 64 neightbl: net/core/neighbour.c */
    {0, NOTHING_NAMED},                  /* 68 nduseropt: only told, net/ipv6/ndisc.c */
    {NEW | DEL | GET, NOTHING_NAMED},    /* 72 addrlabel: net/ipv6/addrlabel.c */
    {0, NOTHING_NAMED},                  /* 76 dcb: its tables go by the number of a link, of whatever namespace
                                          * (dcb_app_list, net/dcb/dcbnl.c) */
    {GET, NOTHING_NAMED},                /* 80 netconf: net/ipv4/devinet.c, net/ipv6/addrconf.c, net/mpls/af_mpls.c */
    {NEW | DEL | GET, MDBS},             /* 84 mdb: net/core/rtnetlink.c, net/bridge/br_mdb.c, vxlan_mdb.c */
    {NEW | GET, NSIDS},                  /* 88 nsid: net/core/net_namespace.c */
    {GET | SET, NOTHING_NAMED},          /* 92 stats: net/core/rtnetlink.c */
    {0, NOTHING_NAMED},                  /* 96 cachereport: only told, net/ipv4/ipmr.c, net/ipv6/ip6mr.c */
    {NEW | DEL | GET, FILTERS},          /* 100 chain: net/sched/cls_api.c */
    {NEW | DEL | GET, NEXTHOPS},         /* 104 nexthop: net/ipv4/nexthop.c */
    {NEW | DEL, LINKS},                  /* 108 linkprop: net/core/rtnetlink.c */
    {NEW | DEL | GET, NOTHING_NAMED},    /* 112 vlan: net/bridge/br_vlan.c */
    {GET, NOTHING_NAMED},                /* 116 nexthopbucket: net/ipv4/nexthop.c */
    {NEW | DEL | GET, NOTHING_NAMED},    /* 120 tunnel: drivers/net/vxlan/vxlan_vnifilter.c */
};

static int route_message_ok(struct request *r, uint32_t type, struct span body)
{
    uint32_t group = (type - RTM_BASE) / 4;

    if (group >= sizeof(rtnetlink) / sizeof(rtnetlink[0]) || (rtnetlink[group].requests >> (type & 3) & 1) == 0)
        return 0;
    switch (rtnetlink[group].body) {
    case LINKS:
        /* A short dump request has a one-byte header, and attributes right after it. */
        return link_ok(r, span_from(body, body.len < sizeof(struct ifinfomsg) ? 4 : sizeof(struct ifinfomsg)), 0);
    case ADDRESSES:
        return address_ok(span_from(body, sizeof(struct ifaddrmsg)));
    case NEIGHBOURS:             /* of others than new ones it is a device of this namespace */
        return type != RTM_NEWNEIGH || !names_device(span_from(body, sizeof(struct ndmsg)), NDA_IFINDEX);
    case MDBS:
        return mdb_ok(span_from(body, 8));
    case NSIDS:
        return nsid_ok(r, span_from(body, 4));
    case ROUTES:
        return route_ok(span_from(body, sizeof(struct rtmsg)));
    case NEXTHOPS:
        return encap_ok(span_from(body, 8), NEXTHOP_ENCAP_TYPE, NEXTHOP_ENCAP);
    case QDISCS:
        return qdisc_ok(span_from(body, sizeof(struct tcmsg)));
    case FILTERS:
        return filter_ok(span_from(body, sizeof(struct tcmsg)));
    case ACTIONS:
        return action_message_ok(span_from(body, sizeof(struct tcamsg)));
    default:
        return 1;
    }
}

/* ---- Other families --------------------------------------------------------------------------------- */

/* net/core/sock_diag.c, and what of it looks at the sockets of one namespace: net/ipv4/inet_diag.c, net/unix/diag.c,
 * net/netlink/diag.c, net/packet/diag.c, net/xdp/xsk_diag.c. A map of sockets is a descriptor. */
static int diag_message_ok(uint32_t type, struct span body)
{
    struct span attributes = span_from(body, DIAG_REQUEST), value;
    uint32_t number;

    if ((type != SOCK_DIAG_BY_FAMILY && type != SOCK_DESTROY) || body.len == 0)
        return 0;
    switch (body.at[0]) {
    case AF_UNIX: case AF_NETLINK: case AF_PACKET: case AF_XDP:
        return 1;
    case AF_INET: case AF_INET6:
        while (attribute_next(&attributes, &number, &value))
            if (number == DIAG_STORAGES || number > DIAG_LAST)
                return 0;
        return 1;
    default:
        return 0;
    }
}

/* Expressions of net/netfilter/nft_*.c: the devices, sets, objects and queues they name are of the socket's namespace.
 * Not here: "match" and "target" (nft_compat.c), of which some take descriptors and files, or are the machine's. */
static const char *const expressions[] = {
    "bitwise", "byteorder", "cmp", "connlimit", "counter", "ct", "dup", "dynset", "exthdr", "fib", "flow_offload", "fwd",
    "hash", "immediate", "inner", "last", "limit", "log", "lookup", "masq", "meta", "nat", "notrack", "numgen", "objref",
    "osf", "payload", "queue", "quota", "range", "redir", "reject", "rt", "socket", "synproxy", "tproxy", "tunnel",
    "xfrm", NULL
};

static int expression_ok(struct span expression, int depth);

/* Expressions within attributes: one in `single`, and a list of them in `list`. */
static int expressions_ok(struct span attributes, uint32_t single, uint32_t list, int depth)
{
    struct span value, expression;
    uint32_t type, number;

    while (attribute_next(&attributes, &type, &value)) {
        if (type == single && type != 0 && !expression_ok(value, depth))
            return 0;
        while (type == list && attribute_next(&value, &number, &expression))
            if (!expression_ok(expression, depth))
                return 0;
    }
    return 1;
}

/* nf_tables_expr_parse() of net/netfilter/nf_tables_api.c; nft_dynset.c has some of its own, which have none. */
static int expression_ok(struct span expression, int depth)
{
    struct span rest = expression, value;
    uint32_t type;
    int dynset = 0;

    while (attribute_next(&rest, &type, &value)) {
        if (type != NFTA_EXPR_NAME)
            continue;
        if (!has_one_of(value, expressions))
            return 0;
        dynset |= has_name(value, "dynset");
    }
    while (dynset && attribute_next(&expression, &type, &value))
        if (type == NFTA_EXPR_DATA
            && (depth > 0 || !expressions_ok(value, NFTA_DYNSET_EXPR, DYNSET_EXPRESSIONS, depth + 1)))
            return 0;
    return 1;
}

/* nf_tables_cb of net/netfilter/nf_tables_api.c: where expressions are, and objects by their number */
static int nftables_ok(uint32_t type, struct span attributes)
{
    struct span value, element;
    uint32_t attribute, number;

    switch (type) {
    case NFT_MSG_NEWRULE:
        return expressions_ok(attributes, 0, NFTA_RULE_EXPRESSIONS, 0);
    case NFT_MSG_NEWSET:
        return expressions_ok(attributes, SET_EXPRESSION, SET_EXPRESSIONS, 0);
    case NFT_MSG_NEWSETELEM:
        while (attribute_next(&attributes, &attribute, &value))
            while (attribute == NFTA_SET_ELEM_LIST_ELEMENTS && attribute_next(&value, &number, &element))
                if (!expressions_ok(element, NFTA_SET_ELEM_EXPR, ELEMENT_EXPRESSIONS, 0))
                    return 0;
        return 1;
    case NFT_MSG_NEWOBJ:
        while (attribute_next(&attributes, &attribute, &value))
            if (attribute == NFTA_OBJ_TYPE
                && (value.len < 4 || value.at[0] || value.at[1] || value.at[2] || value.at[3] > OBJECT_LAST))
                return 0;
        return 1;
    default:
        return 1;
    }
}

/* How many types the subsystems of net/netfilter/ have, all of one namespace but fingerprints and helpers, which are the
 * machine's (nfnetlink_osf.c, nfnetlink_cthelper.c). */
static const uint8_t nfnetlink[] = {
    [NFNL_SUBSYS_CTNETLINK] = 8, [NFNL_SUBSYS_CTNETLINK_EXP] = 4,       /* nf_conntrack_netlink.c */
    [NFNL_SUBSYS_QUEUE] = 4,                                            /* nfnetlink_queue.c */
    [NFNL_SUBSYS_ULOG] = 2,                                             /* nfnetlink_log.c */
    [NFNL_SUBSYS_IPSET] = 16,                                           /* ipset/ip_set_core.c */
    [NFNL_SUBSYS_ACCT] = 5,                                             /* nfnetlink_acct.c */
    [NFNL_SUBSYS_CTNETLINK_TIMEOUT] = 5,                                /* nfnetlink_cttimeout.c */
    [NFNL_SUBSYS_NFTABLES] = 34,                                        /* nf_tables_api.c */
    [NFNL_SUBSYS_NFT_COMPAT] = 1,                                       /* nft_compat.c: which revisions there are */
    [SUBSYSTEM_HOOK] = 1,                                               /* nfnetlink_hook.c */
};

static int netfilter_message_ok(uint32_t type, struct span body)
{
    uint32_t subsystem = type >> 8, number = type & 0xff;

    if (type == NFNL_MSG_BATCH_BEGIN || type == NFNL_MSG_BATCH_END)
        return 1;
    return subsystem < sizeof(nfnetlink) && number < nfnetlink[subsystem]
        && (subsystem != NFNL_SUBSYS_NFTABLES || nftables_ok(number, span_from(body, sizeof(struct nfgenmsg))));
}

static int message_ok(struct request *r, int family, uint32_t type, struct span body)
{
    if (type < NLMSG_MIN_TYPE)
        return 1;                /* passed over by all of them */
    switch (family) {
    case NETLINK_ROUTE:
        return route_message_ok(r, type, body);
    case NETLINK_SOCK_DIAG:
        return diag_message_ok(type, body);
    case NETLINK_XFRM:           /* xfrma_policy of net/xfrm/xfrm_user.c names nothing. Of a migration many kernels tell
                                  * the first namespace: xfrm_send_migrate(). */
        return type >= XFRM_FIRST && type <= XFRM_LAST && type != XFRM_MIGRATION;
    case NETLINK_NETFILTER:
        return netfilter_message_ok(type, body);
    default:
        return 0;
    }
}

int fns_boundary_knows_family(int family)
{
    return family == NETLINK_ROUTE || family == NETLINK_SOCK_DIAG || family == NETLINK_XFRM
        || family == NETLINK_NETFILTER;
}

/* Read as netlink_rcv_skb() reads it. */
int fns_boundary_holds(int family, const uint8_t *data, uint32_t len, const struct fns_patches *patches)
{
    struct request r = {data, patches, 0, 0};
    struct span rest = {data, len};

    while (rest.len >= sizeof(struct nlmsghdr)) {
        struct nlmsghdr header;
        struct span body = {rest.at + sizeof(header), 0};

        memcpy(&header, rest.at, sizeof(header));
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > rest.len)
            break;               /* the kernel stops here as well */
        body.len = (uint32_t)(header.nlmsg_len - sizeof(header));
        r.flags = header.nlmsg_flags;
        if (!message_ok(&r, family, header.nlmsg_type, body))
            return 0;
        rest = span_from(rest, (header.nlmsg_len + 3u) & ~3u);
    }
    return r.consumed == patches->count;
}
