/* A board that Zephyr brings up: frames.c has the link, this file memory, faults and time.
 * SPDX-License-Identifier: Apache-2.0 */
#include <zephyr/fatal.h>
#include <zephyr/kernel.h>
#if __has_include(<zephyr/version.h>)
#include <zephyr/version.h>
#else
#include <version.h> /* until Zephyr 4.0 */
#endif

#include "port.h"

#if ZEPHYR_VERSION_CODE >= ZEPHYR_VERSION(3, 7, 0)
typedef struct arch_esf exception_frame_t;
#else
typedef z_arch_esf_t exception_frame_t;
#endif

/* ---- memory ---- */

void port_heap(uint8_t **base, size_t *nbytes)
{
    static uint8_t heap[CONFIG_MICRODDSP_HEAP_BYTES] __aligned(16);
    *base = heap;
    *nbytes = sizeof(heap);
}

void port_free_stack(uint32_t **low, uint32_t **high)
{
    /* The lowest word is the kernel's, which knows an overflow by it. */
    *low = (uint32_t *)k_current_get()->stack_info.start + 4;
    *high = __builtin_frame_address(0);
}

/* ---- faults ---- */

/* Each protected call is a thread of its own: the kernel ends it where it faults. */
static K_THREAD_STACK_DEFINE(call_stack, CONFIG_MICRODDSP_STACK_BYTES);
static struct k_thread call_thread;
static volatile int calling;
static volatile int faulted;
volatile port_fault_t port_fault;

#if defined(CONFIG_CPU_CORTEX_M)
/* The kernel has cleared the processor's CFSR when it tells its reason: the bits again. */
static uint32_t status_of(unsigned int reason)
{
    switch (reason) {
    case K_ERR_ARM_MEM_INSTRUCTION_ACCESS:
        return 1u << 0;
    case K_ERR_ARM_MEM_DATA_ACCESS:
        return 1u << 1;
    case K_ERR_ARM_BUS_INSTRUCTION_BUS:
        return 1u << 8;
    case K_ERR_ARM_BUS_PRECISE_DATA_BUS:
        return 1u << 9;
    case K_ERR_ARM_BUS_IMPRECISE_DATA_BUS:
        return 1u << 10;
    case K_ERR_ARM_USAGE_UNDEFINED_INSTRUCTION:
        return 1u << 16;
    case K_ERR_ARM_USAGE_ILLEGAL_EPSR:
        return 1u << 17;
    case K_ERR_ARM_USAGE_ILLEGAL_EXC_RETURN:
        return 1u << 18;
    case K_ERR_ARM_USAGE_NO_COPROCESSOR:
        return 1u << 19;
    case K_ERR_ARM_USAGE_UNALIGNED_ACCESS:
        return 1u << 24;
    case K_ERR_ARM_USAGE_DIV_0:
        return 1u << 25;
    default:
        return 0u;
    }
}
#endif

void k_sys_fatal_error_handler(unsigned int reason, const exception_frame_t *frame)
{
    static const port_fault_t nothing_known;
    if (!calling || (k_current_get() != &call_thread)) {
        k_fatal_halt(reason); /* in the server itself: nothing is left that could answer */
    }
    faulted = 1;
    port_fault = nothing_known;
    port_fault.overflow = (reason == K_ERR_STACK_CHK_FAIL) ? 1 : 0;
#if defined(CONFIG_CPU_CORTEX_M)
    port_fault.status = status_of(reason);
    if ((frame != NULL) && !port_fault.overflow) { /* of a stack that is too small nothing is sure */
        port_fault.pc = (uint32_t)frame->basic.pc;
        port_fault.lr = (uint32_t)frame->basic.lr;
    }
#else
    ARG_UNUSED(frame);
#endif
}

#if defined(CONFIG_FPU_SHARING)
#define CALL_OPTIONS K_FP_REGS
#else
#define CALL_OPTIONS 0
#endif

static void enter(void *function, void *context, void *unused)
{
    ARG_UNUSED(unused);
    ((void (*)(void *))function)(context);
}

int port_protect(void (*function)(void *context), void *context)
{
    faulted = 0;
    calling = 1;
    (void)k_thread_create(&call_thread, call_stack, K_THREAD_STACK_SIZEOF(call_stack), enter,
                          (void *)function, context, NULL, K_PRIO_PREEMPT(0), CALL_OPTIONS,
                          K_NO_WAIT);
    (void)k_thread_join(&call_thread, K_FOREVER);
    calling = 0;
    return faulted;
}

/* ---- time ---- */

#if !defined(CONFIG_MICRODDSP_EMULATED)
BUILD_ASSERT(CONFIG_MICRODDSP_CLOCK_HZ == CONFIG_SYS_CLOCK_HW_CYCLES_PER_SEC,
             "the clock of the project is not CONFIG_SYS_CLOCK_HW_CYCLES_PER_SEC");
#endif
const uint32_t port_tick_hz = CONFIG_MICRODDSP_CLOCK_HZ;

/* Cycles are exact and wrap within minutes; the uptime is coarse and does not. */
static int64_t uptime_before;
static uint32_t cycles_before;

void port_ticks_restart(void)
{
    uptime_before = k_uptime_ticks();
    cycles_before = k_cycle_get_32();
}

uint64_t port_ticks_now(void)
{
    const uint32_t exact = k_cycle_get_32() - cycles_before;
    const int64_t uptime = k_uptime_ticks() - uptime_before;
    const int64_t coarse = uptime * CONFIG_SYS_CLOCK_HW_CYCLES_PER_SEC / CONFIG_SYS_CLOCK_TICKS_PER_SEC;
    const int64_t wraps = (coarse - (int64_t)exact + INT32_MAX) >> 32;
    return ((uint64_t)((wraps > 0) ? wraps : 0) << 32) + exact;
}

uint64_t port_ticks(void)
{
    return port_ticks_now();
}
