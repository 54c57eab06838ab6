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

int64_t floor_open_close(const char *path, int count)
{
	int back = home();
	int64_t start = now(), took;

	for (int i = 0; i < count; i++) {
		int fd = open_in(back, path);
		if (fd < 0) {
			close(back);
			return -errno;
		}
		close(fd);
	}
	took = now() - start;
	close(back);
	return took;
}

static void put(struct nlmsghdr *h, unsigned short type, const void *data, unsigned short size)
{
	struct rtattr *a = (struct rtattr *)((char *)h + NLMSG_ALIGN(h->nlmsg_len));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(a), data, size);
	h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + RTA_ALIGN(a->rta_len);
}

int64_t floor_link_get(const char *path, int count, char *name)
{
	static char buf[RECV_SIZE] __attribute__((aligned(8)));
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
	} req = {.h = {sizeof req, RTM_GETLINK, NLM_F_REQUEST, 0, 0}, .i = {.ifi_index = 1}};
	int fd = open_here(path);
	int64_t start, took;

	if (fd < 0)
		return -errno;
	start = now();
	for (int n = 0; n < count; n++) {
		ssize_t got;
		struct nlmsghdr *h = (void *)buf;
		req.h.nlmsg_seq++;
		if (send(fd, &req, sizeof req, 0) < 0 || (got = recv(fd, buf, sizeof buf, 0)) < 0)
			goto fail;
		if (!NLMSG_OK(h, got) || h->nlmsg_type != RTM_NEWLINK || h->nlmsg_seq != req.h.nlmsg_seq) {
			errno = EPROTO;
			goto fail;
		}
		int left = (int)IFLA_PAYLOAD(h);
		for (struct rtattr *a = IFLA_RTA(NLMSG_DATA(h)); RTA_OK(a, left); a = RTA_NEXT(a, left))
			if (a->rta_type == IFLA_IFNAME)
				strncpy(name, RTA_DATA(a), 15);
	}
	took = now() - start;
	close(fd);
	return took;
fail:
	close(fd);
	return -errno;
}

/* Everything a dump of `type` (RTM_GETROUTE or RTM_GETLINK) brings; three fields read from each message. */
int64_t floor_dump(const char *path, int type, int family, int64_t *messages, uint64_t *sum)
{
	static char buf[RECV_SIZE] __attribute__((aligned(8)));
	struct {
		struct nlmsghdr h;
		char body[32];
	} req = {.h = {0, (uint16_t)type, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}};
	int fd = open_here(path), done = 0;
	int64_t start, took;

	if (fd < 0)
		return -errno;
	req.h.nlmsg_len = NLMSG_LENGTH(type == RTM_GETLINK ? sizeof(struct ifinfomsg) : sizeof(struct rtmsg));
	req.body[0] = (char)family;
	*messages = 0;
	*sum = 0;
	start = now();
	if (send(fd, &req, req.h.nlmsg_len, 0) < 0)
		goto fail;
	while (!done) {
		ssize_t got = recv(fd, buf, sizeof buf, 0);
		if (got < 0)
			goto fail;
		for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, got); h = NLMSG_NEXT(h, got)) {
			if (h->nlmsg_type == NLMSG_DONE) {
				done = 1;
				break;
			}
			if (h->nlmsg_type == NLMSG_ERROR) {
				errno = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
				goto fail;
			}
			++*messages;
			if (type == RTM_GETLINK) {
				struct ifinfomsg *i = NLMSG_DATA(h);
				int left = (int)IFLA_PAYLOAD(h);
				*sum += (uint64_t)i->ifi_index;
				for (struct rtattr *a = IFLA_RTA(i); RTA_OK(a, left); a = RTA_NEXT(a, left))
					if (a->rta_type == IFLA_IFNAME || a->rta_type == IFLA_MTU)
						*sum += *(unsigned char *)RTA_DATA(a);
			} else {
				struct rtmsg *r = NLMSG_DATA(h);
				int left = (int)RTM_PAYLOAD(h);
				*sum += r->rtm_dst_len;
				for (struct rtattr *a = RTM_RTA(r); RTA_OK(a, left); a = RTA_NEXT(a, left))
					if (a->rta_type == RTA_DST || a->rta_type == RTA_OIF)
						*sum += *(uint32_t *)RTA_DATA(a);
			}
		}
	}
	took = now() - start;
	close(fd);
	return took;
fail:
	close(fd);
	return -errno;
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

/* `count` host routes from `first` on. chunked: as many per send as fit, the last of each chunk acknowledged.
 * every: each so manieth fails, by an interface that is not there (0: none may); *failed counts those. */
int64_t floor_add_routes(const char *path, uint32_t first, int count, int oif, int chunked, int every, int64_t *failed)
{
	static char out[CHUNK] __attribute__((aligned(8))), in[RECV_SIZE] __attribute__((aligned(8)));
	int fd = open_here(path);
	int64_t start, took;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &(int){1}, sizeof(int));
	*failed = 0;
	start = now();
	for (int i = 0, done = 0; i < count;) {
		size_t used = 0;
		do {
			int last = !chunked || i + 1 == count || used + 2 * 64 > sizeof out;
			int to = every && i % every == 0 ? 0x7ffffff : oif;
			used += route(out + used, (uint32_t)i + 1, first + (uint32_t)i, to, last ? NLM_F_ACK : 0);
			i++;
			if (last)
				break;
		} while (1);
		if (send(fd, out, used, 0) < 0)
			goto fail;
		for (done = 0; !done;) {
			ssize_t got = recv(fd, in, sizeof in, 0);
			if (got < 0)
				goto fail;
			for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, got); h = NLMSG_NEXT(h, got)) {
				struct nlmsgerr *e = NLMSG_DATA(h);
				if (h->nlmsg_type != NLMSG_ERROR)
					continue;
				if (e->error && !every) {
					errno = -e->error;
					goto fail;
				}
				*failed += e->error != 0;
				done = h->nlmsg_seq == (uint32_t)i;
			}
		}
	}
	took = now() - start;
	close(fd);
	return took;
fail:
	close(fd);
	return -errno;
}

/* From the request for a route to its event on a second socket. */
int64_t floor_event(const char *path, uint32_t first, int count, int oif)
{
	static char out[256] __attribute__((aligned(8))), in[RECV_SIZE] __attribute__((aligned(8)));
	int fd = open_here(path), events = open_here(path), group = RTNLGRP_IPV4_ROUTE;
	int64_t start, took;

	if (fd < 0 || events < 0 || setsockopt(events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
		goto fail;
	start = now();
	for (int i = 0; i < count; i++) {
		struct nlmsghdr *h = (void *)in;
		unsigned int size = route(out, (uint32_t)i + 1, first + (uint32_t)i, oif, 0);
		if (send(fd, out, size, 0) < 0 || recv(events, in, sizeof in, 0) < 0)
			goto fail;
		if (h->nlmsg_type != RTM_NEWROUTE) {
			errno = EPROTO;
			goto fail;
		}
	}
	took = now() - start;
	close(fd);
	close(events);
	return took;
fail:
	took = -errno;
	close(fd);
	close(events);
	return took;
}

int64_t floor_create_remove(const char *path, int count)
{
	int back = home();
	int64_t start = now(), took;

	for (int i = 0; i < count; i++) {
		int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
		if (fd < 0 || close(fd) || unshare(CLONE_NEWNET))
			goto fail;
		int mounted = mount("/proc/thread-self/ns/net", path, "none", MS_BIND, NULL);
		if (setns(back, CLONE_NEWNET))
			abort();
		if (mounted || umount2(path, MNT_DETACH) || unlink(path))
			goto fail;
	}
	took = now() - start;
	close(back);
	return took;
fail:
	close(back);
	return -errno;
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
	static char buf[RECV_SIZE] __attribute__((aligned(8)));
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
	} req = {.h = {sizeof req, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}};
	int *fds = calloc((size_t)count, sizeof *fds), back = home(), opened = 0, err = 0;
	char path[4096];
	int64_t start = now(), took;

	*messages = 0;
	for (int i = 0; i < count && !err; i++) {
		int done = 0;
		snprintf(path, sizeof path, "%s%d", prefix, i);
		if ((fds[i] = open_in(back, path)) < 0) {
			err = errno;
			break;
		}
		opened++;
		if (send(fds[i], &req, sizeof req, 0) < 0)
			err = errno;
		while (!done && !err) {
			ssize_t got = recv(fds[i], buf, sizeof buf, 0);
			if (got < 0) {
				err = errno;
				break;
			}
			for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, got); h = NLMSG_NEXT(h, got)) {
				if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
					done = 1;
					break;
				}
				++*messages;
			}
		}
	}
	took = now() - start;
	while (opened)
		close(fds[--opened]);
	close(back);
	free(fds);
	return err ? -err : took;
}
