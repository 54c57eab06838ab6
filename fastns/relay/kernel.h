/* What the kernel and libc have and their older headers lack; asks libc for all it has, so it is included first.
 * Names of numbers only: no code, no state, nothing of ours.
 * Every C file here includes it, by way of what it is built on.
 */
#ifndef FASTNS_RELAY_KERNEL_H
#define FASTNS_RELAY_KERNEL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#undef _FORTIFY_SOURCE          /* its checks are functions of libc */
#include <linux/netlink.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#ifndef NETLINK_EXT_ACK
#define NETLINK_EXT_ACK 11
#endif
#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif
#ifndef MADV_REMOVE
#define MADV_REMOVE 9
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#endif
