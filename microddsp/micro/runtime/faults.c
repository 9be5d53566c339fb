/* Faults of any Cortex-M: told to the server, which goes on.
 * SPDX-License-Identifier: Apache-2.0 */
#include "port.h"
#include "port_internal.h"
#include "rpc_server.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SCB_SHCSR REGISTER(0xe000ed24u)
#define SCB_CFSR REGISTER(0xe000ed28u)
#define SCB_HFSR REGISTER(0xe000ed2cu)
#define SCB_MMFAR REGISTER(0xe000ed34u)
#define SCB_BFAR REGISTER(0xe000ed38u)
#define SHCSR_ENABLE (7u << 16) /* UsageFault, BusFault, MemManage */
#define MMFAR_VALID (1u << 7)
#define BFAR_VALID (1u << 15)
#define NOT_STACKED ((3u << 4) | (3u << 12)) /* MSTKERR, MLSPERR, STKERR, LSPERR */
#define STACK_LIMIT (1u << 20)              /* STKOF */
#define FPU_FPCCR REGISTER(0xe000ef34u)
#define FPCCR_SAVE_PENDING 1u

#define MPU_TYPE REGISTER(0xe000ed90u)
#define MPU_CTRL REGISTER(0xe000ed94u)
#define MPU_RNR REGISTER(0xe000ed98u)
#define MPU_RBAR REGISTER(0xe000ed9cu)
#define MPU_RASR REGISTER(0xe000eda0u)
#define MPU_ON_WITH_DEFAULT_MAP 5u
#define GUARD_BYTES (1u << 20)
#define GUARD_RASR ((1u << 28) | (19u << 1) | 1u) /* 2^(19 + 1) bytes, never executed, no access */

#define RED_ZONE 0xdeadbeefu
#define XPSR_THUMB (1u << 24)
#define EXC_FROM_THREAD (1u << 3)
#define EXC_BASIC_FRAME (1u << 4)

/* Words of an exception frame. */
enum frame {
    FRAME_LR = 5,
    FRAME_PC = 6,
    FRAME_XPSR = 7,
    FRAME_WORDS = 8
};
#define NEAR_WORDS 256

extern uint32_t _red_zone[];
extern uint32_t _stack_bottom[];
extern uint32_t _stack_top[];
extern uint8_t _text_start[];
extern uint8_t _text_end[];

/* The stack pointer of whoever waits for a fault; 0: nobody. */
static volatile uintptr_t armed;

uint32_t on_fault(uint32_t exc_return, uint32_t *frame);

static uintptr_t stack_pointer(void)
{
    uintptr_t sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

void port_free_stack(uint32_t **low, uint32_t **high)
{
    *low = _stack_bottom;
    *high = (uint32_t *)stack_pointer();
}

__attribute__((noinline)) void port_fault_arm(void)
{
    armed = stack_pointer();
}

void port_fault_disarm(void)
{
    armed = 0u;
}

void port_stack_watch(void)
{
    for (volatile uint32_t *word = _red_zone; word < _stack_bottom; ++word) {
        *word = RED_ZONE;
    }
}

int port_stack_intact(void)
{
    int intact = 1;
    for (const volatile uint32_t *word = _red_zone; word < _stack_bottom; ++word) {
        intact &= (*word == RED_ZONE) ? 1 : 0;
    }
    return intact;
}

/* The stack and its red zone are at the bottom of RAM. What lies below may be readable nonsense
 * on a real bus and in an emulator: make an overflow a fault where the core can. */
void port_faults_init(void)
{
    port_stack_watch();
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
    __asm__ volatile("msr psplim, %0" : : "r"(_stack_bottom));
#elif !defined(__ARM_ARCH_6M__)
    if (MPU_TYPE != 0u) {
        MPU_RNR = 0u;
        MPU_RBAR = (uint32_t)(uintptr_t)_red_zone - GUARD_BYTES;
        MPU_RASR = GUARD_RASR;
        MPU_CTRL = MPU_ON_WITH_DEFAULT_MAP;
        __asm__ volatile("dsb\n isb");
    }
#endif
#if !defined(__ARM_ARCH_6M__)
    SCB_SHCSR |= SHCSR_ENABLE;
#endif
}

static void return_from_fault(void)
{
    longjmp(port_fault_return, 1);
}

/* Whether the instruction before an address is a call: BL, or BLX of a register. */
static int follows_call(uintptr_t address)
{
    if (((address & 1u) == 0u) || (address < (uintptr_t)_text_start + 5u) ||
        (address >= (uintptr_t)_text_end)) {
        return 0;
    }
    const uint16_t *next = (const uint16_t *)(address - 1u);
    return (((next[-1] & 0xff87u) == 0x4780u) ||
            (((next[-2] & 0xf800u) == 0xf000u) && ((next[-1] & 0xd000u) == 0xd000u)))
               ? 1
               : 0;
}

/* The innermost return address on the stack: where nothing could be stacked, it tells at least
 * which function went too far. */
static uintptr_t return_address(const uint32_t *from)
{
    for (const uint32_t *word = from; word < _stack_top; ++word) {
        if (follows_call(*word)) {
            return *word;
        }
    }
    return 0u;
}

static void note(uint32_t *frame)
{
    uint32_t status = 0u;
    port_fault.has_address = 0;
#if !defined(__ARM_ARCH_6M__)
    status = SCB_CFSR;
    if ((status & (MMFAR_VALID | BFAR_VALID)) != 0u) {
        port_fault.has_address = 1;
        port_fault.address = ((status & MMFAR_VALID) != 0u) ? SCB_MMFAR : SCB_BFAR;
    }
    SCB_CFSR = status;
    SCB_HFSR = SCB_HFSR;
#endif
    /* With a stack limit the pointer stops there, and nothing was stacked. */
    const int lost = ((status & NOT_STACKED) != 0u) || (frame < _red_zone) ||
                     (((status & STACK_LIMIT) != 0u) && (frame <= _stack_bottom));
    port_fault.status = status;
    port_fault.overflow =
        (lost || ((status & STACK_LIMIT) != 0u) || (frame < _stack_bottom)) ? 1 : 0;
    port_fault.pc = lost ? 0u : frame[FRAME_PC];
    port_fault.lr = lost ? 0u : frame[FRAME_LR];
    /* The pointer may have been lowered for a frame that did not fit. A large one may hold old
     * return addresses: then nothing is said. */
    if (lost && (frame + NEAR_WORDS >= _red_zone)) {
        const uint32_t *const from = frame + FRAME_WORDS;
        port_fault.lr = return_address((from < _red_zone) ? _red_zone : from);
    }
}

/* Runs inside the exception; it returns into return_from_fault(), on the stack that the server
 * had when it armed. */
__attribute__((used)) uint32_t on_fault(uint32_t exc_return, uint32_t *frame)
{
    note(frame);
    if ((armed == 0u) || ((exc_return & EXC_FROM_THREAD) == 0u)) {
        port_panic(rpc_fault_text()); /* in the server itself: nothing is left that could answer */
    }
    uint32_t *const made = (uint32_t *)((armed - 64u) & ~(uintptr_t)7u);
    armed = 0u;
    for (uint32_t i = 0u; i < FRAME_WORDS; ++i) {
        made[i] = 0u;
    }
    made[FRAME_PC] = (uint32_t)(uintptr_t)return_from_fault & ~1u;
    made[FRAME_XPSR] = XPSR_THUMB;
    __asm__ volatile("msr psp, %0" : : "r"(made));
#if defined(__ARM_FP)
    FPU_FPCCR &= ~FPCCR_SAVE_PENDING; /* nobody wants the registers of what failed */
#endif
    return exc_return | EXC_BASIC_FRAME;
}

/* The program's stack is the process stack. */
__attribute__((naked)) void port_fault_handler(void)
{
    __asm__ volatile("mov r0, lr\n"
                     "mrs r1, psp\n"
                     "bl on_fault\n"
                     "bx r0\n");
}
