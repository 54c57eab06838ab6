/* What the caller may use: which namespaces, families, socket options and, inside requests, which ways of naming
 * another namespace. It answers: it sends nothing, changes nothing but its list and knows no channel.
 * requests.c and control.c ask before they act. Without a list everything the kernel allows the proxy is allowed.
 */
#include "policy.h"
#include "netns.h"

#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

enum { ATTRIBUTE_MASK = 0x3fff };    /* NLA_TYPE_MASK */
/* Of if_link.h, if_addr.h and net_namespace.h, by number: older headers lack them. */
enum { LINK_TARGET_NETNSID = 46, ADDR_TARGET_NETNSID = 10, NSID_TARGET = 4 };
enum { ALLOWED_STEP = 64 };

/* A name means whatever stands under it when it is used; anything else is held open, so that its inode number
 * cannot come to mean another namespace. */
struct allowed {
    dev_t dev;
    ino_t ino;
    uint32_t name_len;       /* 0: the namespace with that inode */
    char name[FNS_NAME_MAX + 1];
};

int fns_policy_add(const char *name, uint32_t len, int *fd)
{
    struct allowed *entry;
    struct stat st;

    if (proxy.allowed_count == FNS_ALLOWED_MAX)
        return E2BIG;
    if (proxy.allowed_count == proxy.allowed_room) {
        size_t size = sizeof(*entry);
        void *more = fns_call_mmap(NULL, size * (proxy.allowed_room + ALLOWED_STEP), PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fns_call_is_error(more))
            return (int)-(intptr_t)more;
        if (proxy.allowed != NULL) {
            memcpy(more, proxy.allowed, size * proxy.allowed_count);
            (void)fns_call_munmap((uintptr_t)proxy.allowed, size * proxy.allowed_room);
        }
        proxy.allowed = more;
        proxy.allowed_room += ALLOWED_STEP;
    }
    entry = &proxy.allowed[proxy.allowed_count];
    if (len != 0) {
        if (!fns_netns_name_ok(name, len))
            return EINVAL;
        memcpy(entry->name, name, len);
        entry->name_len = len;
    } else {
        int err = fns_netns_stat(*fd, &st);
        if (err < 0)
            return -err;
        entry->dev = st.st_dev;
        entry->ino = st.st_ino;
        *fd = -1;            /* stays open as long as the proxy */
    }
    proxy.allowed_count++;
    return 0;
}

static int restricted(void)
{
    return (proxy.config.flags & FNS_CONFIG_RESTRICTED) != 0;
}

int fns_policy_allows_name(const char *name, uint32_t len)
{
    if (!restricted())
        return 1;
    for (uint32_t i = 0; i < proxy.allowed_count; i++)
        if (proxy.allowed[i].name_len == len && memcmp(proxy.allowed[i].name, name, len) == 0)
            return 1;
    return 0;
}

int fns_policy_allows_fd(int fd)
{
    struct stat st, other;

    if (!restricted())
        return 1;
    if (fns_netns_stat(fd, &st) < 0)
        return 0;
    for (uint32_t i = 0; i < proxy.allowed_count; i++) {
        const struct allowed *entry = &proxy.allowed[i];
        if (entry->name_len == 0) {
            if (entry->ino == st.st_ino && entry->dev == st.st_dev)
                return 1;
        } else {
            int named = fns_netns_open(entry->name, entry->name_len);
            int same = named >= 0 && fns_call_fstat(named, &other) == 0 && other.st_ino == st.st_ino
                && other.st_dev == st.st_dev;
            close_fd(&named);
            if (same)
                return 1;
        }
    }
    return 0;
}

int fns_policy_allows_family(int family)
{
    return family >= 0 && family < 32 && (proxy.config.families >> family & 1u) != 0;
}

int fns_policy_setsockopt(int level, int option, const void *value, uint32_t len)
{
    int number = 0;

    if (level == SOL_NETLINK) {
        switch (option) {
        case NETLINK_ADD_MEMBERSHIP: case NETLINK_DROP_MEMBERSHIP: case NETLINK_PKTINFO:
        case NETLINK_BROADCAST_ERROR: case NETLINK_NO_ENOBUFS: case NETLINK_CAP_ACK: case NETLINK_EXT_ACK:
        case NETLINK_GET_STRICT_CHK:
            return 0;
        case NETLINK_LISTEN_ALL_NSID:    /* events of namespaces that are not on the list */
            return restricted() ? EACCES : 0;
        default:
            return ENOPROTOOPT;
        }
    }
    if (level != SOL_SOCKET)
        return ENOPROTOOPT;
    switch (option) {
    case SO_RCVBUF: case SO_SNDBUF: case SO_RCVBUFFORCE: case SO_SNDBUFFORCE:
        if (len < sizeof(number))
            return EINVAL;
        memcpy(&number, value, sizeof(number));
        return number < 0 || (uint32_t)number > FNS_BUFFER_MAX ? EINVAL : 0;
    default:
        return ENOPROTOOPT;
    }
}

int fns_policy_getsockopt(int level, int option)
{
    if (level == SOL_NETLINK)
        return 0;
    if (level != SOL_SOCKET)
        return ENOPROTOOPT;
    switch (option) {
    case SO_RCVBUF: case SO_SNDBUF: case SO_TYPE: case SO_DOMAIN: case SO_PROTOCOL: case SO_ERROR:
    case SO_MEMINFO:
        return 0;
    default:
        return ENOPROTOOPT;
    }
}

/* ---- Requests of a proxy with a list ---------------------------------------------------------------- */

struct span {
    const uint8_t *at;
    uint32_t len;
};

struct request {
    const uint8_t *data;             /* the whole request: patches are offsets into it */
    const uint32_t *offsets;
    uint32_t patches;
};

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

/* Whether the four bytes there are a descriptor we put in, which was checked against the list. */
static int is_patched(const struct request *r, const uint8_t *at)
{
    for (uint32_t i = 0; i < r->patches; i++) {
        uint32_t offset;
        memcpy(&offset, r->offsets + i, sizeof(offset));
        if (r->data + offset == at)
            return 1;
    }
    return 0;
}

static int link_ok(const struct request *r, struct span attributes, int depth);

/* What follows the kind: for pairs, a link of its own with a namespace of its own. The kind is not looked at, as
 * the pair kinds share the layout and a kernel may grow more of them. */
static int info_data_ok(const struct request *r, struct span data, int depth)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&data, &type, &value))
        if (type == VETH_INFO_PEER && value.len >= sizeof(struct ifinfomsg)
            && !link_ok(r, span_from(value, sizeof(struct ifinfomsg)), depth + 1))
            return 0;
    return 1;
}

static int link_ok(const struct request *r, struct span attributes, int depth)
{
    struct span value, inner;
    uint32_t type, inner_type;

    if (depth > 2)
        return 0;
    while (attribute_next(&attributes, &type, &value)) {
        switch (type) {
        case IFLA_NET_NS_PID: case IFLA_LINK_NETNSID: case LINK_TARGET_NETNSID:
            return 0;
        case IFLA_NET_NS_FD:
            if (!is_patched(r, value.at))
                return 0;
            break;
        case IFLA_LINKINFO:
            while (attribute_next(&value, &inner_type, &inner))
                if (inner_type == IFLA_INFO_DATA && !info_data_ok(r, inner, depth))
                    return 0;
            break;
        default:
            break;
        }
    }
    return 1;
}

static int has_none_of(struct span attributes, uint32_t first, uint32_t second, uint32_t third)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value))
        if (type == first || type == second || type == third)
            return 0;
    return 1;
}

static int nsid_ok(const struct request *r, struct span attributes)
{
    struct span value;
    uint32_t type;

    while (attribute_next(&attributes, &type, &value)) {
        if (type == NETNSA_PID || type == NSID_TARGET)
            return 0;
        if (type == NETNSA_FD && !is_patched(r, value.at))
            return 0;
    }
    return 1;
}

static int message_ok(const struct request *r, uint32_t type, struct span body)
{
    switch (type) {
    case RTM_NEWLINK: case RTM_DELLINK: case RTM_GETLINK: case RTM_SETLINK:
        /* A short dump request has a one-byte header, and attributes right after it. */
        if (body.len < sizeof(struct ifinfomsg) && !link_ok(r, span_from(body, 4), 0))
            return 0;
        return link_ok(r, span_from(body, sizeof(struct ifinfomsg)), 0);
    case RTM_NEWADDR: case RTM_DELADDR: case RTM_GETADDR:
        return has_none_of(span_from(body, sizeof(struct ifaddrmsg)), ADDR_TARGET_NETNSID, ADDR_TARGET_NETNSID,
                           ADDR_TARGET_NETNSID);
    case RTM_NEWNSID: case RTM_DELNSID: case RTM_GETNSID:
        return nsid_ok(r, span_from(body, 4));
    default:
        return 1;
    }
}

/* Read as netlink_rcv_skb() reads it. */
int fns_policy_allows_request(int family, const uint8_t *data, uint32_t len, const uint32_t *offsets, const int *fd,
                              uint32_t patches)
{
    struct request r = {data, offsets, patches};
    struct span rest = {data, len};

    if (!restricted())
        return 1;
    for (uint32_t i = 0; i < patches; i++)
        if (!fns_policy_allows_fd(fd[i]))
            return 0;
    if (family != NETLINK_ROUTE)
        return 1;
    while (rest.len >= sizeof(struct nlmsghdr)) {
        struct nlmsghdr header;
        struct span body = {rest.at + sizeof(header), 0};
        uint32_t whole;

        memcpy(&header, rest.at, sizeof(header));
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > rest.len)
            return 1;            /* the kernel stops here as well */
        body.len = (uint32_t)(header.nlmsg_len - sizeof(header));
        if (!message_ok(&r, header.nlmsg_type, body))
            return 0;
        whole = (header.nlmsg_len + 3u) & ~3u;
        if (whole > rest.len)
            whole = rest.len;
        rest = span_from(rest, whole);
    }
    return 1;
}
