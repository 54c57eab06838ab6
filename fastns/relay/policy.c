/* What the caller may use: which namespaces, families, socket options and requests. How a request is read is
 * boundary.c's. It answers: it sends nothing, changes nothing but its list and knows no channel.
 * requests.c and control.c ask before they act. Without a list everything the kernel allows the proxy is allowed.
 */
#include "policy.h"
#include "netns.h"

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
    if (family < 0 || family >= 32 || (proxy.config.families >> family & 1u) == 0)
        return 0;
    return (proxy.config.flags & (FNS_CONFIG_RESTRICTED | FNS_CONFIG_READ_ONLY)) == 0
        || fns_boundary_knows_family(family);
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

int fns_policy_allows_request(int family, const uint8_t *data, uint32_t len, const struct fns_patches *patches)
{
    if (!restricted())
        return 1;
    for (uint32_t i = 0; i < patches->count; i++)
        if (!fns_policy_allows_fd(patches->fd[i]))
            return 0;
    return fns_boundary_holds(family, data, len, patches);
}
