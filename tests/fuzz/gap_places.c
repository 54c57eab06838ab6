/* Where fastns/relay/gap.h finds gaps, told what the kernel would say: one line of standard input for each call,
 * `open LOOKS`, `behind LEN LOOKS` or `empty LOOKS`, and a line with its result for each. LOOKS are QUEUED:DROPPED, what
 * one look after the other sees; the last one stays.
 */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static char *looks;
static unsigned int queued, dropped;

static int told(int fd, int level, int option, void *value, socklen_t *len)
{
    unsigned int *info = value;
    int used = 0;

    (void)fd, (void)level, (void)option, (void)len;
    if (sscanf(looks, " %u:%u%n", &queued, &dropped, &used) == 2)
        looks += used;
    memset(info, 0, *len);
    info[0] = queued;     /* SK_MEMINFO_RMEM_ALLOC */
    info[8] = dropped;    /* SK_MEMINFO_DROPS */
    return 0;
}

#define fns_call_getsockopt told
#include "gap.h"
#undef fns_call_getsockopt

int main(void)
{
    struct fns_gap gap = {0};
    char line[512], call[16];
    unsigned int len;
    int used;

    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (sscanf(line, "%15s%n", call, &used) != 1)
            return 1;
        looks = line + used;
        if (strcmp(call, "open") == 0) {
            printf("%d\n", fns_gap_open(&gap, 0));
        } else if (strcmp(call, "empty") == 0) {
            printf("%d\n", fns_gap_empty(&gap, 0));
        } else {
            if (sscanf(looks, "%u%n", &len, &used) != 1)
                return 1;
            looks += used;
            printf("%d\n", fns_gap_behind(&gap, 0, len));
        }
    }
    return 0;
}
