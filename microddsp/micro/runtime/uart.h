/* A serial line: what a board's driver implements for frames.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef UART_H
#define UART_H

#include <stddef.h>
#include <stdint.h>

void uart_init(void);

/* Waits for a byte. One that came with an error of the line may be given or left out. */
uint8_t uart_read(void);

/* Sends bytes; they may still be under way when it returns. */
void uart_write(const uint8_t *bytes, size_t nbytes);

#endif /* UART_H */
