/* Link of a process on this computer: two pipes that it inherits.
 * SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "board.h"
#include "port_buffer.h"

#define BUFFER_BYTES 65536u
#define LINK_LOST 4

uint8_t port_buffer[BUFFER_BYTES];
const size_t port_buffer_bytes = BUFFER_BYTES;

void port_run(void (*serve)(void))
{
    serve();
}

int port_read(void *destination, size_t nbytes)
{
    uint8_t *place = destination;
    while (nbytes != 0u) {
        const ssize_t found = read(BOARD_LINK_IN, place, nbytes);
        if (found <= 0) {
            _exit(LINK_LOST);
        }
        place += found;
        nbytes -= (size_t)found;
    }
    return 0;
}

void port_send(const void *source, size_t nbytes)
{
    const uint8_t *bytes = source;
    while (nbytes != 0u) {
        const ssize_t written = write(BOARD_LINK_OUT, bytes, nbytes);
        if (written <= 0) {
            _exit(LINK_LOST);
        }
        bytes += written;
        nbytes -= (size_t)written;
    }
}
