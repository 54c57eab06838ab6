/* The proxy as a process of the caller's: started and waited for.
 * These run in the caller's process, without the GIL where it is Python, and touch nothing there.
 * Called by fastns/core/: relay.pxi, and spawn.pxi for other children that no exit signal tells of. clone(2)
 */
#ifndef FASTNS_RELAY_START_H
#define FASTNS_RELAY_START_H

#include "relay.h"

/* Starts the proxy; its pid, or -errno. The clone is raw: no fork handler of any library runs in a child that
 * will never use that library. Without an exit signal the caller's SIGCHLD handlers and its wait(-1) never
 * meet this child; fns_start_wait() does. */
pid_t fns_start_fork(const struct fns_config *config);

/* pid when it has ended, 0 when it runs, -errno (ECHILD: somebody else took its status). */
pid_t fns_start_wait(pid_t pid, int *status, int block);

#endif
