/* What a request may hold where there is a list of namespaces: closed lists, taken from the kernel's own policies.
 * Answers only, as policy.h. It is told where descriptors were put, not what they are.
 * Included by way of policy.h, in the proxy only.
 */
#ifndef FASTNS_RELAY_BOUNDARY_H
#define FASTNS_RELAY_BOUNDARY_H

#include "proxy.h"

/* The numbers of our descriptors in a request: number `fd[i]` is at `offsets[i]`, ascending. */
struct fns_patches {
    const uint32_t *offsets;
    const int *fd;
    uint32_t count;
};

/* Families whose every write is under CAP_NET_ADMIN and whose requests are read here. */
int fns_boundary_knows_family(int family);

/* Whether all of a request stays in the socket's namespace and those its patches name, each of which has to be the value
 * of one attribute that takes such a descriptor. */
int fns_boundary_holds(int family, const uint8_t *data, uint32_t len, const struct fns_patches *patches);

#endif
