/* What a channel's socket holds, for whoever finds that there is something.
 * The channel may be closed when these return, `sock` is -1 then: at its end of file, and when it broke the protocol.
 * Included by control.c and loop.c, in the proxy only.
 */
#ifndef FASTNS_RELAY_REQUESTS_H
#define FASTNS_RELAY_REQUESTS_H

#include "channel.h"

/* Serves some of what was sent, so that one channel does not keep the others waiting: the loop comes again while the
 * socket is readable. 1 when more may wait. */
int fns_requests_serve(struct chan *c);

/* All that was sent until now, and not what a caller goes on sending meanwhile. */
void fns_requests_drain(struct chan *c);

/* Of every channel, as the proxy ends: what was sent is done, whoever closed or died since. */
void fns_requests_drain_all(void);

/* Closed channels whose end of file the loop has not come to yet still hold a place, descriptors and a ring. These end
 * them now. What was sent through one before is done first, as it would have been in the loop.
 *
 * The one, as somebody asks for its ring. */
void fns_requests_sweep(struct chan *c);

/* All, as descriptors have run out. */
void fns_requests_sweep_all(void);

#endif
