/* The last step before the proxy serves: from here on it can only do what its work takes.
 * It reads the configuration, and says in `keeps_namespaces` what the capabilities that are left mean for channels.
 * Included by start.c, in the proxy only. capabilities(7), landlock(7), seccomp(2)
 */
#ifndef FASTNS_RELAY_POWER_H
#define FASTNS_RELAY_POWER_H

#include "proxy.h"

/* 0, or -1 and *f. The process becomes a user and a group of its own, which own no file, where the caller may give its
 * own away and names can still be looked up then. What is kept, of what the caller had:
 *
 *   CAP_SYS_ADMIN      enters namespaces
 *   CAP_NET_ADMIN      changes them, and asks a socket for its namespace; not when the proxy is read-only
 *   CAP_NET_BROADCAST  hears the events of all namespaces that have an id in one; not when there is a list of namespaces
 *
 * no right to change files (Landlock, where the kernel has it), and the system calls in the table of power.c, with the
 * arguments that are there. Any other call kills the proxy: the caller learns of SIGSYS by its status. Only a kernel
 * without seccomp goes without, and only a proxy that has no policy to keep. A sanitized build has no filter, as
 * sanitizers have calls of their own, and one that measures coverage lets pass what it does not know.
 *
 * Nothing can be had back afterwards, and no_new_privs is set, so that no program can give it either.
 */
int fns_power_drop(struct failure *f);

#endif
