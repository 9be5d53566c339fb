/* A board behind a serial line: frames.c has the link, this file the rest.
 * SPDX-License-Identifier: Apache-2.0 */
#include "port.h"
#include "port_internal.h"

extern uint8_t _heap_start[];
extern uint8_t _heap_end[];

void port_heap(uint8_t **base, size_t *nbytes)
{
    *base = _heap_start;
    *nbytes = (size_t)(_heap_end - _heap_start);
}

/* A board that starts anew tells the host that it knows no session. */
void port_exit(enum port_status status)
{
    (void)status;
    *(volatile uint32_t *)0xe000ed0cu = 0x05fa0004u; /* AIRCR.SYSRESETREQ */
    for (;;) {
    }
}

void port_panic(const char *text)
{
    (void)text;
    port_exit(PORT_FAULT);
}
