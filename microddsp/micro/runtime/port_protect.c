/* A protected call where a fault can be returned from: the server goes on on its own stack.
 * SPDX-License-Identifier: Apache-2.0 */
#include "port.h"
#include "port_internal.h"

jmp_buf port_fault_return;
volatile port_fault_t port_fault;

int port_protect(void (*function)(void *context), void *context)
{
    if (setjmp(port_fault_return) != 0) {
        port_stack_watch();
        return 1;
    }
    port_fault_arm();
    function(context);
    port_fault_disarm();
    if (!port_stack_intact()) {
        static const port_fault_t unknown_place = {0u, 0u, 0u, 0u, 0, 1};
        port_stack_watch();
        port_fault = unknown_place;
        return 1;
    }
    return 0;
}
