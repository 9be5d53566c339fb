/* Time from SysTick, which every Cortex-M has, or from the cycle counter of a real one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "port.h"
#include "port_internal.h"

#ifndef REGISTER
#define REGISTER(address) (*(volatile uint32_t *)(address))
#endif
#define SYST_CSR REGISTER(0xe000e010u)
#define SYST_RVR REGISTER(0xe000e014u)
#define SYST_CVR REGISTER(0xe000e018u)
#define SCB_ICSR REGISTER(0xe000ed04u)
#define SYST_RUN 7u /* processor clock, interrupt, enable */
#define SYST_TOP 0xffffffu
#define ICSR_SYST_CLEAR (1u << 25)

const uint32_t port_tick_hz = BOARD_TICK_HZ;

/* SysTick counts down in 24 bits; its interrupt counts the rounds. */
static volatile uint32_t rounds;

#ifdef BOARD_CYCLE_COUNTER
#define SCB_DEMCR REGISTER(0xe000edfcu)
#define DEMCR_TRCENA (1u << 24)
#define DWT_CTRL REGISTER(0xe0001000u)
#define DWT_CYCCNT REGISTER(0xe0001004u)
#define DWT_LAR REGISTER(0xe0001fb0u)
#define DWT_UNLOCK 0xc5acce55u /* a Cortex-M7 wants it */
#define CTRL_NO_CYCCNT (1u << 25)
#define CTRL_CYCCNT_RUNS 1u
#define TRIES 16

/* The counter of Armv7-M and Armv8-M has 32 bits. SysTick's interrupt comes often enough to see
 * each time that it began anew: `rounds` counts them, `seen` is where it was. */
static int counts_cycles;
static volatile uint32_t seen;

static void look_for_cycle_counter(void *context)
{
    int *moves = context;
    SCB_DEMCR |= DEMCR_TRCENA;
    if ((DWT_CTRL & CTRL_NO_CYCCNT) != 0u) {
        return;
    }
    DWT_LAR = DWT_UNLOCK;
    DWT_CTRL |= CTRL_CYCCNT_RUNS;
    const uint32_t before = DWT_CYCCNT;
    for (int i = 0; (i < TRIES) && (*moves == 0); ++i) {
        *moves = (DWT_CYCCNT != before);
    }
}

/* Where there is none, a debugger keeps it, or it stands still, SysTick does. An emulator faults. */
void port_ticks_init(void)
{
    int moves = 0;
    counts_cycles = (port_protect(look_for_cycle_counter, &moves) == 0) && (moves != 0);
}
#endif

void port_tick_handler(void)
{
#ifdef BOARD_CYCLE_COUNTER
    if (counts_cycles) {
        const uint32_t now = DWT_CYCCNT;
        rounds += (now < seen) ? 1u : 0u;
        seen = now;
        return;
    }
#endif
    ++rounds;
}

void port_ticks_restart(void)
{
    SYST_CSR = 0u;
    SYST_RVR = SYST_TOP;
    SYST_CVR = 0u;
    SCB_ICSR = ICSR_SYST_CLEAR;
    rounds = 0u;
    SYST_CSR = SYST_RUN;
#ifdef BOARD_CYCLE_COUNTER
    if (counts_cycles) {
        seen = 0u;
        DWT_CYCCNT = 0u;
    }
#endif
}

uint64_t port_ticks_now(void)
{
    uint32_t before;
    uint32_t value;
#ifdef BOARD_CYCLE_COUNTER
    if (counts_cycles) {
        uint32_t was;
        do {
            before = rounds;
            was = seen;
            value = DWT_CYCCNT;
        } while ((before != rounds) || (was != seen));
        return ((uint64_t)(before + ((value < was) ? 1u : 0u)) << 32) | value;
    }
#endif
    do {
        before = rounds;
        value = SYST_CVR;
    } while (before != rounds);
    return ((uint64_t)before * (SYST_TOP + 1u)) + ((0u - value) & SYST_TOP);
}

uint64_t port_ticks(void)
{
    const uint64_t ticks = port_ticks_now();
    SYST_CSR = 0u;
    return ticks;
}
