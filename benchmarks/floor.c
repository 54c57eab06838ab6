/* The floor: the same work with plain system calls, no library and no interpreter.
 *
 * Each function works on the namespace at `path`, repeats its operation `count` times and returns the nanoseconds
 * that took (set-up not counted), or -errno. Built into a shared object by impls.py on first use.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RECV_SIZE 65536
#define CHUNK 65536

extern char **environ;

static int64_t now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int home(void)
{
	return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

static int open_in(int back, const char *path)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK};
	int fd, ns = open(path, O_RDONLY | O_CLOEXEC);

	if (ns < 0)
		return -1;
	if (setns(ns, CLONE_NEWNET)) {
		close(ns);
		return -1;
	}
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (setns(back, CLONE_NEWNET))
		abort();
	close(ns);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof addr)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int open_here(const char *path)
{
	int back = home(), fd = open_in(back, path), size = 8 << 20;

	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	close(back);
	return fd;
}

/* The time until now or the error, and `fd` closed. */
static int64_t finish(int fd, int64_t start, int err)
{
	int64_t took = now() - start;

	close(fd);
	return err < 0 ? err : took;
}

/* Answers whether more must come; 0: that was the last, negative: an error. */
typedef int take_fn(struct nlmsghdr *h, void *state);

/* Inlined, so that `take` is no call through a pointer in the middle of a dump. */
static inline __attribute__((always_inline)) int receive(int fd, take_fn *take, void *state)
{
	static char in[RECV_SIZE] __attribute__((aligned(8)));
	int more = 1;

	while (more > 0) {
		ssize_t got = recv(fd, in, sizeof in, 0);
		if (got < 0)
			return -errno;
		for (struct nlmsghdr *h = (void *)in; more > 0 && NLMSG_OK(h, got); h = NLMSG_NEXT(h, got))
			more = take(h, state);
	}
	return more;
}

static inline __attribute__((always_inline)) int ask(int fd, const void *data, size_t size, take_fn *take, void *state)
{
	return send(fd, data, size, 0) < 0 ? -errno : receive(fd, take, state);
}

int64_t floor_open_close(const char *path, int count)
{
	int back = home(), err = 0;
	int64_t start = now();

	for (int i = 0; i < count && !err; i++) {
		int fd = open_in(back, path);
		if (fd < 0)
			err = -errno;
		else
			close(fd);
	}
	return finish(back, start, err);
}

static void put(struct nlmsghdr *h, unsigned short type, const void *data, unsigned short size)
{
	struct rtattr *a = (struct rtattr *)((char *)h + NLMSG_ALIGN(h->nlmsg_len));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(a), data, size);
	h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + RTA_ALIGN(a->rta_len);
}

struct link_request {
	struct nlmsghdr h;
	struct ifinfomsg i;
};

struct named {
	uint32_t seq;
	char *name;
};

static int take_name(struct nlmsghdr *h, void *state)
{
	struct named *to = state;
	int left = (int)IFLA_PAYLOAD(h);

	if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_seq != to->seq)
		return -EPROTO;
	for (struct rtattr *a = IFLA_RTA(NLMSG_DATA(h)); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == IFLA_IFNAME)
			strncpy(to->name, RTA_DATA(a), 15);
	return 0;
}

int64_t floor_link_get(const char *path, int count, char *name)
{
	struct link_request req = {.h = {sizeof req, RTM_GETLINK, NLM_F_REQUEST, 0, 0}, .i = {.ifi_index = 1}};
	struct named to = {.name = name};
	int fd = open_here(path), err = 0;
	int64_t start;

	if (fd < 0)
		return -errno;
	start = now();
	for (int n = 0; n < count && !err; n++) {
		req.h.nlmsg_seq = ++to.seq;
		err = ask(fd, &req, sizeof req, take_name, &to);
	}
	return finish(fd, start, err);
}

struct seen {
	int64_t messages;
	uint64_t sum;
};

static int take_any(struct nlmsghdr *h, void *state)
{
	struct seen *seen = state;

	if (h->nlmsg_type == NLMSG_DONE)
		return 0;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
	seen->messages++;
	return 1;
}

static int take_link(struct nlmsghdr *h, void *state)
{
	struct seen *seen = state;
	struct ifinfomsg *i = NLMSG_DATA(h);
	int more = take_any(h, state), left = (int)IFLA_PAYLOAD(h);

	if (more <= 0)
		return more;
	seen->sum += (uint64_t)i->ifi_index;
	for (struct rtattr *a = IFLA_RTA(i); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == IFLA_IFNAME || a->rta_type == IFLA_MTU)
			seen->sum += *(unsigned char *)RTA_DATA(a);
	return 1;
}

static int take_route(struct nlmsghdr *h, void *state)
{
	struct seen *seen = state;
	struct rtmsg *r = NLMSG_DATA(h);
	int more = take_any(h, state), left = (int)RTM_PAYLOAD(h);

	if (more <= 0)
		return more;
	seen->sum += r->rtm_dst_len;
	for (struct rtattr *a = RTM_RTA(r); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == RTA_DST || a->rta_type == RTA_OIF)
			seen->sum += *(uint32_t *)RTA_DATA(a);
	return 1;
}

/* Everything a dump of `type` (RTM_GETROUTE or RTM_GETLINK) brings; three fields read from each message. */
int64_t floor_dump(const char *path, int type, int family, int64_t *messages, uint64_t *sum)
{
	struct {
		struct nlmsghdr h;
		char body[32];
	} req = {.h = {0, (uint16_t)type, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}};
	struct seen seen = {0, 0};
	int fd = open_here(path), err;
	int64_t start, took;

	if (fd < 0)
		return -errno;
	req.h.nlmsg_len = NLMSG_LENGTH(type == RTM_GETLINK ? sizeof(struct ifinfomsg) : sizeof(struct rtmsg));
	req.body[0] = (char)family;
	start = now();
	if (type == RTM_GETLINK)
		err = ask(fd, &req, req.h.nlmsg_len, take_link, &seen);
	else
		err = ask(fd, &req, req.h.nlmsg_len, take_route, &seen);
	took = finish(fd, start, err);
	*messages = seen.messages;
	*sum = seen.sum;
	return took;
}

static unsigned int route(char *at, uint32_t seq, uint32_t dst, int oif, int flags)
{
	struct nlmsghdr *h = (void *)at;
	struct rtmsg *r;
	uint32_t be = htonl(dst);

	memset(at, 0, NLMSG_LENGTH(sizeof *r));
	h->nlmsg_len = NLMSG_LENGTH(sizeof *r);
	h->nlmsg_type = RTM_NEWROUTE;
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | flags);
	h->nlmsg_seq = seq;
	r = NLMSG_DATA(h);
	r->rtm_family = AF_INET;
	r->rtm_dst_len = 32;
	r->rtm_table = RT_TABLE_MAIN;
	r->rtm_protocol = RTPROT_STATIC;
	r->rtm_scope = RT_SCOPE_LINK;
	r->rtm_type = RTN_UNICAST;
	put(h, RTA_DST, &be, 4);
	put(h, RTA_OIF, &oif, 4);
	return h->nlmsg_len;
}

struct acks {
	uint32_t last;
	int may_fail;
	int64_t failed;
};

static int take_ack(struct nlmsghdr *h, void *state)
{
	struct acks *acks = state;
	struct nlmsgerr *e = NLMSG_DATA(h);

	if (h->nlmsg_type != NLMSG_ERROR)
		return 1;
	if (e->error && !acks->may_fail)
		return e->error;
	acks->failed += e->error != 0;
	return h->nlmsg_seq != acks->last;
}

/* `count` host routes from `first` on. chunked: as many per send as fit, the last of each chunk acknowledged.
 * every: each so manieth fails, by an interface that is not there (0: none may); *failed counts those. */
int64_t floor_add_routes(const char *path, uint32_t first, int count, int oif, int chunked, int every, int64_t *failed)
{
	static char out[CHUNK] __attribute__((aligned(8)));
	struct acks acks = {.may_fail = every};
	int fd = open_here(path), err = 0;
	int64_t start;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &(int){1}, sizeof(int));
	start = now();
	for (int i = 0; i < count && !err;) {
		size_t used = 0;
		int last;
		do {
			int to = every && i % every == 0 ? 0x7ffffff : oif;
			last = !chunked || i + 1 == count || used + 2 * 64 > sizeof out;
			used += route(out + used, (uint32_t)i + 1, first + (uint32_t)i, to, last ? NLM_F_ACK : 0);
			i++;
		} while (!last);
		acks.last = (uint32_t)i;
		err = ask(fd, out, used, take_ack, &acks);
	}
	*failed = acks.failed;
	return finish(fd, start, err);
}

static int take_event(struct nlmsghdr *h, void *state)
{
	(void)state;
	return h->nlmsg_type == RTM_NEWROUTE ? 0 : -EPROTO;
}

/* From the request for a route to its event on a second socket. */
int64_t floor_event(const char *path, uint32_t first, int count, int oif)
{
	static char out[256] __attribute__((aligned(8)));
	int fd = open_here(path), events = open_here(path), group = RTNLGRP_IPV4_ROUTE, err = 0;
	int64_t start;

	if (fd < 0 || events < 0 || setsockopt(events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
		err = -errno;
	start = now();
	for (int i = 0; i < count && !err; i++) {
		unsigned int size = route(out, (uint32_t)i + 1, first + (uint32_t)i, oif, 0);
		err = send(fd, out, size, 0) < 0 ? -errno : receive(events, take_event, NULL);
	}
	close(events);
	return finish(fd, start, err);
}

int64_t floor_create_remove(const char *path, int count)
{
	int back = home(), err = 0;
	int64_t start = now();

	for (int i = 0; i < count && !err; i++) {
		int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
		if (fd < 0 || close(fd) || unshare(CLONE_NEWNET)) {
			err = -errno;
			break;
		}
		int mounted = mount("/proc/thread-self/ns/net", path, "none", MS_BIND, NULL);
		if (setns(back, CLONE_NEWNET))
			abort();
		if (mounted || umount2(path, MNT_DETACH) || unlink(path))
			err = -errno;
	}
	return finish(back, start, err);
}

int64_t floor_spawn(const char *path, const char *program, int count)
{
	char *argv[] = {(char *)program, NULL};
	int64_t start = now();

	for (volatile int i = 0; i < count; i++) {
		int status, ns = open(path, O_RDONLY | O_CLOEXEC);
		pid_t pid;
		if (ns < 0)
			return -errno;
		pid = vfork();
		if (pid == 0) {
			if (setns(ns, CLONE_NEWNET) == 0)
				execve(program, argv, environ);
			_exit(127);
		}
		close(ns);
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			return -errno;
		if (status)
			return -ECHILD;
	}
	return now() - start;
}

/* Open a socket in each of the namespaces `prefix`0 … and dump its links, all held open. */
int64_t floor_many(const char *prefix, int count, int64_t *messages)
{
	struct link_request req = {.h = {sizeof req, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}};
	int *fds = calloc((size_t)count, sizeof *fds), back = home(), opened = 0, err = 0;
	struct seen seen = {0, 0};
	char path[4096];
	int64_t start = now(), took;

	while (opened < count && !err) {
		snprintf(path, sizeof path, "%s%d", prefix, opened);
		if ((fds[opened] = open_in(back, path)) < 0)
			err = -errno;
		else
			err = ask(fds[opened++], &req, sizeof req, take_any, &seen);
	}
	*messages = seen.messages;
	took = now() - start;
	while (opened)
		close(fds[--opened]);
	free(fds);
	close(back);
	return err ? err : took;
}
