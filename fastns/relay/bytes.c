/* The few functions a compiler takes for granted wherever it copies, fills or compares: the proxy has no libc to have
 * them from, and the program may have put others in their place. The library's own, seen nowhere else.
 * They touch the bytes they are given. GCC manual, "Language Standards Supported by GCC", freestanding
 * Called by every file of the library, most often without being named.
 */
#include "kernel.h"

#include <stdint.h>
#include <string.h>

#if !defined(FASTNS_SANITIZE)    /* which has its own, that look where they write */

#define OURS __attribute__((used, visibility("hidden")))
#define AS_WRITTEN() __asm__ volatile("" ::: "memory")    /* or the loop is seen to be what it stands for */

OURS void *memcpy(void *to, const void *from, size_t len)
{
#if defined(__x86_64__)
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(len) : : "memory");
#else
    for (size_t i = 0; i < len; i++) {
        ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
        AS_WRITTEN();
    }
#endif
    return to;
}

OURS void *memmove(void *to, const void *from, size_t len)
{
    if ((uintptr_t)to - (uintptr_t)from >= len)
        return memcpy(to, from, len);
    while (len-- != 0) {
        ((uint8_t *)to)[len] = ((const uint8_t *)from)[len];
        AS_WRITTEN();
    }
    return to;
}

OURS void *memset(void *to, int value, size_t len)
{
#if defined(__x86_64__)
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(value) : "memory");
#else
    for (size_t i = 0; i < len; i++) {
        ((uint8_t *)to)[i] = (uint8_t)value;
        AS_WRITTEN();
    }
#endif
    return to;
}

OURS int memcmp(const void *a, const void *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        int difference = ((const uint8_t *)a)[i] - ((const uint8_t *)b)[i];
        if (difference != 0)
            return difference;
        AS_WRITTEN();
    }
    return 0;
}

OURS int bcmp(const void *a, const void *b, size_t len)
{
    return memcmp(a, b, len);
}

#endif
