/* The loop: what happened on which of the sockets, and whose work that is.
 * It reads no message and no datagram. The epoll set is made here; who opens a socket puts it in.
 * Called by start.c once the process is ready; it ends when the caller is gone.
 */
#include "loop.h"
#include "control.h"
#include "requests.h"

enum { EVENTS = 64, PATIENCE_MS = 2000 };

static int parent_watch(void)
{
    pid_t parent = fns_call_getppid();

    /* 0: the parent is in another PID namespace, so only the end of file tells. */
    if (parent == 0) {
        proxy.config.parent = 0;
        return 0;
    }
    proxy.parent = fns_call_pidfd_open(parent);
    if (fns_call_getppid() != parent || parent != proxy.config.parent)
        return -1;
    if (proxy.parent >= 0)
        (void)fns_proxy_watch(EPOLL_CTL_ADD, proxy.parent, EPOLLIN, tag(KIND_PARENT, 0, 0));
    return 0;
}

int fns_loop_prepare(struct failure *f)
{
    int err;

    err = proxy.epoll = fns_call_epoll_create(EPOLL_CLOEXEC);
    if (err >= 0)
        err = fns_proxy_watch(EPOLL_CTL_ADD, proxy.config.control, EPOLLIN, tag(KIND_CONTROL, 0, 0));
    if (err < 0)
        return failed(f, FNS_AT_EPOLL, -err);
    return parent_watch() < 0 ? failed(f, FNS_AT_PROTOCOL, ECHILD) : 0;
}

/* 0 to go on, -1 when the caller is gone. */
static int event_dispatch(const struct epoll_event *event)
{
    uint64_t value = event->data.u64;
    struct chan *c;

    switch (tag_kind(value)) {
    case KIND_PARENT:
        return -1;
    case KIND_CONTROL:
        return fns_control_serve(event->events);
    case KIND_CHANNEL:
        c = fns_channel_tagged(value);
        if (c != NULL)
            (void)fns_requests_serve(c);
        return 0;
    default:
        c = fns_channel_tagged(value);
        if (c != NULL && c->stalled)
            fns_channel_error(c);
        else if (c != NULL && fns_channel_pump(c) < 0)
            fns_channel_close(c);
        return 0;
    }
}

static void events_serve(void)
{
    struct epoll_event events[EVENTS];

    for (;;) {
        int n = fns_call_epoll_wait(proxy.epoll, events, EVENTS, proxy.parent >= 0 ? -1 : PATIENCE_MS);
        for (int i = 0; i < n; i++)
            if (event_dispatch(&events[i]) < 0)
                return;
        /* Without a pidfd: a forked copy of the caller may keep the control socket open after its end. */
        if (n == 0 && fns_call_getppid() != proxy.config.parent)
            return;
    }
}

void fns_loop_run(void)
{
    events_serve();
    fns_requests_drain_all();
}
