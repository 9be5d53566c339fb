/* Buffered writing over a link that takes any number of bytes at once.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef PORT_BUFFER_H
#define PORT_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "port.h"

/* The port gives the memory and the link. */
extern uint8_t port_buffer[];
extern const size_t port_buffer_bytes;
void port_send(const void *source, size_t nbytes);

#endif /* PORT_BUFFER_H */
