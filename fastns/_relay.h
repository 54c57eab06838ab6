/* The proxy process after fork, and the ring both ends share. Never Python.h. */
#ifndef FASTNS_RELAY_H
#define FASTNS_RELAY_H
#endif
