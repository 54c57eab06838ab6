/* The control socket, for the start and the loop.
 * One request at a time, each with one reply: while a reply waits for room in the socket, no further request is taken.
 * Included by loop.c and start.c, in the proxy only. What requests and replies look like is in relay.h.
 */
#ifndef FASTNS_RELAY_CONTROL_H
#define FASTNS_RELAY_CONTROL_H

#include "proxy.h"

/* Sends the HELLO, the first that the caller hears, which says whether the proxy can serve: `f` without an errno, or the
 * step of its set-up that failed. 0 when it is sent. */
int fns_control_hello(const struct failure *f);

/* The control socket has these epoll events: a request, or room for the reply that waits. 0 to go on, -1 when the
 * proxy's work is done:
 * - the caller has closed its end, or is gone
 * - no reply will ever arrive, and the caller waits for one
 */
int fns_control_serve(uint32_t events);

#endif
