/* printf() of firmware ends in the host's log: standard output as information, errors as warnings.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stddef.h>

#include "rpc_server.h"

#define LINE_BYTES 120
#define ARENA_BYTES 1024u
#define STANDARD_ERROR 2

int _write(int file, const char *data, int nbytes);
void *_sbrk(ptrdiff_t nbytes);

static char line[LINE_BYTES + 1];
static int used;

int _write(int file, const char *data, int nbytes)
{
    for (int i = 0; i < nbytes; ++i) {
        if (data[i] != '\n') {
            line[used++] = data[i];
        }
        if ((data[i] == '\n') || (used == LINE_BYTES)) {
            line[used] = '\0';
            used = 0;
            rpc_log((file == STANDARD_ERROR) ? RPC_LOG_WARNING : RPC_LOG_INFO, line);
        }
    }
    return nbytes;
}

/* For the C library's own files, no more: the memory that is left belongs to the host's tensors. */
void *_sbrk(ptrdiff_t nbytes)
{
    static uint8_t arena[ARENA_BYTES] __attribute__((aligned(8)));
    static size_t taken;
    if ((nbytes < 0) || ((size_t)nbytes > ARENA_BYTES - taken)) {
        errno = ENOMEM;
        return (void *)-1;
    }
    void *const first = &arena[taken];
    taken += (size_t)nbytes;
    return first;
}
