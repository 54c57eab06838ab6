/* Network namespaces as the files above meet them: a name in the run directory, a descriptor, and a socket inside.
 * It decides nothing: what is a namespace is said here, who may have which one by policy.c.
 * Included by policy.c, control.c and start.c, in the proxy only. network_namespaces(7)
 */
#ifndef FASTNS_RELAY_NETNS_H
#define FASTNS_RELAY_NETNS_H

#include "proxy.h"

/* 0 and its identity for a descriptor of a network namespace, else -errno. ioctl_nsfs(2). */
int fns_netns_stat(int fd, struct stat *st);

/* Whether that can be a name in the run directory: one component of a path. */
int fns_netns_name_ok(const char *name, uint32_t len);

/* Where the name is, or would be. */
#define FNS_PATH_MAX (FNS_DIR_MAX + 1u + FNS_NAME_MAX + 1u)
void fns_netns_path(char path[FNS_PATH_MAX], const char *name, uint32_t len);

/* The namespace mounted under the name, opened, or -errno: EINVAL when something else stands there, which is not opened.
 * The caller sends names, not paths: what they mean is decided here, with our rights. */
int fns_netns_open(const char *name, uint32_t len);

/* Remembers which namespace the proxy starts in. 0, or -1 when there is no way back to it from another one: then sockets
 * are made by a helper that does not return either. */
int fns_netns_find_home(void);

/* A netlink socket inside a namespace, or -1 and *f. */
int fns_netns_socket(int nsfd, int family, struct failure *f);

#endif
