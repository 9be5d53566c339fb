/* Link of a process on this computer: two pipes that it inherits.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "board.h"
#include "port.h"

#define BUFFER_BYTES 65536u
#define LINK_LOST 4

static uint8_t buffer[BUFFER_BYTES];
static size_t buffered;

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

static void send(const uint8_t *bytes, size_t nbytes)
{
    while (nbytes != 0u) {
        const ssize_t written = write(BOARD_LINK_OUT, bytes, nbytes);
        if (written <= 0) {
            _exit(LINK_LOST);
        }
        bytes += written;
        nbytes -= (size_t)written;
    }
}

void port_write(const void *source, size_t nbytes)
{
    if (nbytes > BUFFER_BYTES - buffered) {
        port_flush();
    }
    if (nbytes > BUFFER_BYTES) {
        send(source, nbytes);
    } else {
        (void)memcpy(&buffer[buffered], source, nbytes);
        buffered += nbytes;
    }
}

void port_flush(void)
{
    send(buffer, buffered);
    buffered = 0u;
}
