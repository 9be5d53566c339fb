/* Time from SysTick, which every Cortex-M has.
 * SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "port.h"
#include "port_internal.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
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

void port_tick_handler(void)
{
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
}

uint64_t port_ticks_now(void)
{
    uint32_t before;
    uint32_t value;
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
