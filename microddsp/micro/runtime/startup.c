/* Reset and vectors of any Cortex-M; the linker script gives the addresses.
 * SPDX-License-Identifier: Apache-2.0 */
#include "port.h"
#include "port_internal.h"
#include "rpc_server.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SCB_CPACR REGISTER(0xe000ed88u)
#define CPACR_FULL_FPU (0xfu << 20)

extern uint32_t _data_load[];
extern uint32_t _data_start[];
extern uint32_t _data_end[];
extern uint32_t _bss_start[];
extern uint32_t _bss_end[];
extern uint32_t _handler_stack_top[];

void reset_handler(void);
void start(void);

/* For a port whose counter needs nothing. */
__attribute__((weak)) void port_ticks_init(void)
{
}

static void stop(void)
{
    port_exit(PORT_FAULT);
}

__attribute__((used, noreturn)) void start(void)
{
    const uint32_t *from = _data_load;
    for (uint32_t *to = _data_start; to < _data_end; ++to) {
        *to = *from++;
    }
    for (uint32_t *to = _bss_start; to < _bss_end; ++to) {
        *to = 0u;
    }
#if defined(__ARM_FP)
    SCB_CPACR |= CPACR_FULL_FPU;
    __asm__ volatile("dsb\n isb");
#endif
    port_faults_init();
    port_ticks_init();
    port_run(rpc_serve);
    for (;;) {
    }
}

/* The program has the process stack, handlers the main one: a fault is told even if the program's
 * stack is what was too small. */
__attribute__((naked, noreturn)) void reset_handler(void)
{
    __asm__ volatile("ldr r0, =_stack_top\n"
                     "msr psp, r0\n"
                     "movs r0, #2\n"
                     "msr control, r0\n"
                     "isb\n"
                     "ldr r0, =start\n"
                     "bx r0\n"
                     ".ltorg\n");
}

typedef void (*vector_t)(void);

__attribute__((section(".vectors"), used)) static const vector_t vectors[16] = {
    (vector_t)(uintptr_t)_handler_stack_top,
    reset_handler,
    stop, /* NMI */
    port_fault_handler, /* HardFault, MemManage, BusFault, UsageFault, SecureFault */
    port_fault_handler,
    port_fault_handler,
    port_fault_handler,
    port_fault_handler,
    NULL,
    NULL,
    NULL,
    stop, /* SVCall */
    stop, /* debug monitor */
    NULL,
    stop, /* PendSV */
    port_tick_handler,
};
