/* The loop of the proxy: made, then run until the caller is gone.
 * One thread and one epoll set, level-triggered, so whatever is left of an event comes again.
 * Included by start.c, in the proxy only. epoll(7)
 */
#ifndef FASTNS_RELAY_LOOP_H
#define FASTNS_RELAY_LOOP_H

#include "proxy.h"

/* Makes the epoll set, with the control socket in it and where the kernel has that a descriptor of the caller's process:
 * the end of the control socket says too little, as a process the caller has forked may hold a copy of it. 0, or -1 and
 * *f, also when the caller has ended since the fork. */
int fns_loop_prepare(struct failure *f);

/* Serves. Returns when the caller is gone or can no longer be answered; the process has nothing to do then. */
void fns_loop_run(void);

#endif
