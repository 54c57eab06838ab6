/* The questions to ask before anything is done for the caller.
 * Answers only: 1 for yes and 0 for no, or where an errno goes back to the caller, that and 0 for yes.
 * Included by requests.c and control.c, in the proxy only.
 */
#ifndef FASTNS_RELAY_POLICY_H
#define FASTNS_RELAY_POLICY_H

#include "boundary.h"

/* Adds a name, or with len 0 a descriptor, to the list of namespaces; *fd is taken over. 0 or errno. */
int fns_policy_add(const char *name, uint32_t len, int *fd);

int fns_policy_allows_name(const char *name, uint32_t len);

/* A descriptor of a network namespace that is on the list, or whose name is. */
int fns_policy_allows_fd(int fd);

/* Of those the proxy was made for; with a list, or reading only, of those boundary.c knows as well. */
int fns_policy_allows_family(int family);

/* The closed list of options: 0, or errno. Nothing that takes a pointer, a descriptor or a filter. */
int fns_policy_setsockopt(int level, int option, const void *value, uint32_t len);
int fns_policy_getsockopt(int level, int option);

/* Whether a request stays within the namespaces of the list. The patches are made, and ascend without overlap. */
int fns_policy_allows_request(int family, const uint8_t *data, uint32_t len, const struct fns_patches *patches);

#endif
