/* UART 0 of Arm's CMSDK, as the MPS2 boards AN385, AN386 and AN500 have it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "uart.h"

#define UART(offset) (*(volatile uint32_t *)(0x40004000u + (offset)))
#define UART_DATA UART(0x00u)
#define UART_STATE UART(0x04u)
#define UART_CTRL UART(0x08u)
#define UART_BAUDDIV UART(0x10u)
#define STATE_TX_FULL 1u
#define STATE_RX_FULL 2u
#define CTRL_TX_RX 3u

void uart_init(void)
{
    UART_BAUDDIV = BOARD_TICK_HZ / BOARD_BAUD;
    UART_CTRL = CTRL_TX_RX;
}

uint8_t uart_read(void)
{
    while ((UART_STATE & STATE_RX_FULL) == 0u) {
    }
    return (uint8_t)UART_DATA;
}

void uart_write(const uint8_t *bytes, size_t nbytes)
{
    for (size_t i = 0u; i < nbytes; ++i) {
        while ((UART_STATE & STATE_TX_FULL) != 0u) {
        }
        UART_DATA = bytes[i];
    }
}
