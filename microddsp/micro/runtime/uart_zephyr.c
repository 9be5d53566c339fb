/* A UART of Zephyr's, received by interrupt into a ring.
 * SPDX-License-Identifier: Apache-2.0 */
#include <zephyr/device.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/ring_buffer.h>

#include "uart.h"

#if DT_HAS_CHOSEN(microddsp_link)
#define LINK_NODE DT_CHOSEN(microddsp_link)
#else
#define LINK_NODE DT_CHOSEN(zephyr_console)
#endif

static const struct device *const line = DEVICE_DT_GET(LINK_NODE);
RING_BUF_DECLARE(received, CONFIG_MICRODDSP_RING_BYTES);
static volatile int full;

/* Takes what the UART has, until the ring is full. Called with interrupts locked or from one. */
static void receive(void)
{
    uint8_t *place;
    uint32_t room;
    while ((room = ring_buf_put_claim(&received, &place, CONFIG_MICRODDSP_RING_BYTES)) != 0u) {
        const int got = uart_fifo_read(line, place, (int)room);
        (void)ring_buf_put_finish(&received, (got > 0) ? (uint32_t)got : 0u);
        if (got <= 0) {
            return;
        }
    }
    full = 1; /* the rest waits in the UART, or with a sender that obeys flow control */
    uart_irq_rx_disable(line);
}

static void on_interrupt(const struct device *device, void *context)
{
    ARG_UNUSED(context);
    while (!full && uart_irq_update(device) && uart_irq_rx_ready(device)) {
        receive();
    }
}

void uart_init(void)
{
    (void)uart_irq_callback_user_data_set(line, on_interrupt, NULL);
    uart_irq_rx_enable(line);
}

/* Sleeps here, not in the kernel's idle thread: a switch of threads for every byte would set the
 * memory protection unit anew each time, which takes longer than the byte. */
static void wait_for_some(void)
{
    const unsigned int key = irq_lock();
    if (full) {
        /* The interrupt of what came meanwhile was missed. */
        full = 0;
        uart_irq_rx_enable(line);
        receive();
    }
    if (ring_buf_is_empty(&received)) {
        k_cpu_idle();
    }
    irq_unlock(key);
}

uint8_t uart_read(void)
{
    uint8_t byte;
    while (ring_buf_get(&received, &byte, 1u) == 0u) {
        wait_for_some();
    }
    return byte;
}

void uart_write(const uint8_t *bytes, size_t nbytes)
{
    for (size_t i = 0u; i < nbytes; ++i) {
        uart_poll_out(line, bytes[i]);
    }
}
