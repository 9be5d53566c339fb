/* Reset, vectors and faults of any Cortex-M; the linker script gives the addresses.
 * SPDX-License-Identifier: Apache-2.0 */
#include "port.h"
#include "port_internal.h"
#include "rpc_server.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SCB_CFSR REGISTER(0xe000ed28u)
#define SCB_HFSR REGISTER(0xe000ed2cu)
#define SCB_CPACR REGISTER(0xe000ed88u)
#define CPACR_FULL_FPU (0xfu << 20)
#define MPU_TYPE REGISTER(0xe000ed90u)
#define MPU_CTRL REGISTER(0xe000ed94u)
#define MPU_RNR REGISTER(0xe000ed98u)
#define MPU_RBAR REGISTER(0xe000ed9cu)
#define MPU_RASR REGISTER(0xe000eda0u)
#define MPU_ON_WITH_DEFAULT_MAP 5u
#define GUARD_BYTES (1u << 20)
#define GUARD_RASR ((1u << 28) | (19u << 1) | 1u) /* 2^(19 + 1) bytes, never executed, no access */
#define XPSR_THUMB (1u << 24)

/* Words of an exception frame. */
#define FRAME_PC 6
#define FRAME_XPSR 7

extern uint32_t _data_load[];
extern uint32_t _data_start[];
extern uint32_t _data_end[];
extern uint32_t _bss_start[];
extern uint32_t _bss_end[];
extern uint32_t _stack_bottom[];
extern uint32_t _stack_top[];

jmp_buf port_fault_return;
volatile int port_fault_armed;
volatile uint32_t port_fault_pc;
volatile uint32_t port_fault_status;

void reset_handler(void);
void hard_fault_handler(void);
void on_fault(uint32_t *frame);

void port_free_stack(uint32_t **low, uint32_t **high)
{
    *low = _stack_bottom;
    __asm__ volatile("mov %0, sp" : "=r"(*high));
}

/* The stack is at the bottom of RAM. What lies below may be readable nonsense on a real bus and
 * in an emulator: make an overflow a fault. */
static void guard_stack(void)
{
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
    __asm__ volatile("msr msplim, %0" : : "r"(_stack_bottom));
#elif !defined(__ARM_ARCH_6M__)
    if (MPU_TYPE != 0u) {
        MPU_RNR = 0u;
        MPU_RBAR = (uint32_t)(uintptr_t)_stack_bottom - GUARD_BYTES;
        MPU_RASR = GUARD_RASR;
        MPU_CTRL = MPU_ON_WITH_DEFAULT_MAP;
        __asm__ volatile("dsb\n isb");
    }
#endif
}

static void stop(void)
{
    port_exit(2);
}

static void return_from_fault(void)
{
    longjmp(port_fault_return, 1);
}

/* Runs inside the exception: makes it return into return_from_fault(). */
__attribute__((used)) void on_fault(uint32_t *frame)
{
    port_fault_pc = frame[FRAME_PC];
#if defined(__ARM_ARCH_6M__)
    port_fault_status = 0u;
#else
    port_fault_status = SCB_CFSR;
    SCB_CFSR = port_fault_status;
    SCB_HFSR = SCB_HFSR;
#endif
    if (!port_fault_armed) {
        stop(); /* in the server itself: nothing is left that could answer */
    }
    port_fault_armed = 0;
    frame[FRAME_PC] = (uint32_t)(uintptr_t)return_from_fault & ~1u;
    frame[FRAME_XPSR] = XPSR_THUMB;
}

/* This firmware has one stack, so that the frame is where MSP points. */
__attribute__((naked)) void hard_fault_handler(void)
{
    __asm__ volatile("mrs r0, msp\n"
                     "ldr r1, =on_fault\n"
                     "bx r1\n"
                     ".ltorg\n");
}

__attribute__((noreturn)) void reset_handler(void)
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
    guard_stack();
    port_init();
    rpc_serve();
    for (;;) {
    }
}

typedef void (*vector_t)(void);

__attribute__((section(".vectors"), used)) static const vector_t vectors[16] = {
    (vector_t)(uintptr_t)_stack_top,
    reset_handler,
    stop, /* NMI */
    hard_fault_handler,
    hard_fault_handler, /* MemManage, BusFault, UsageFault: not enabled, they escalate */
    hard_fault_handler,
    hard_fault_handler,
    hard_fault_handler, /* SecureFault */
    NULL,
    NULL,
    NULL,
    stop, /* SVCall */
    stop, /* debug monitor */
    NULL,
    stop, /* PendSV */
    port_tick_handler,
};
