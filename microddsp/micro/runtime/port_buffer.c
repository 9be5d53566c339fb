/* What is written waits here until the server flushes: a link is asked once for a reply.
 * SPDX-License-Identifier: Apache-2.0 */
#include "port_buffer.h"

#include <string.h>

static size_t buffered;

void port_write(const void *source, size_t nbytes)
{
    if (nbytes > port_buffer_bytes - buffered) {
        port_flush();
    }
    if (nbytes > port_buffer_bytes) {
        port_send(source, nbytes);
    } else {
        (void)memcpy(&port_buffer[buffered], source, nbytes);
        buffered += nbytes;
    }
}

void port_flush(void)
{
    port_send(port_buffer, buffered);
    buffered = 0u;
}
