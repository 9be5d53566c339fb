/* Between the files of a port.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef PORT_INTERNAL_H
#define PORT_INTERNAL_H

#include <setjmp.h>

enum port_status {
    PORT_RESET = 0, /* what an emulator gives when the processor resets itself */
    PORT_FAULT = 2,
    PORT_NO_LINK = 3,
    PORT_LINK_LOST = 4
};

/* Ends the emulation with a status. */
__attribute__((noreturn)) void port_exit(enum port_status status);

/* The end after a fault that nobody waits for: tells it as well as it can. */
__attribute__((noreturn)) void port_panic(const char *text);

/* Once, before anything can fault. */
void port_faults_init(void);
void port_fault_handler(void);

/* For port_protect.c. Between arm and disarm a fault ends in longjmp(port_fault_return, 1) with
 * `port_fault` filled in; otherwise it stops the device. */
extern jmp_buf port_fault_return;
void port_fault_arm(void);
void port_fault_disarm(void);

/* Paints the words below the stack, and tells whether nothing has written there since. */
void port_stack_watch(void);
int port_stack_intact(void);

/* SysTick's interrupt, and what a counter needs once, when faults are caught already. */
void port_tick_handler(void);
void port_ticks_init(void);

#endif /* PORT_INTERNAL_H */
