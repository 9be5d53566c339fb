/* Between startup.c and the port.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef PORT_INTERNAL_H
#define PORT_INTERNAL_H

/* Ends the emulation with a status. */
__attribute__((noreturn)) void port_exit(int status);

/* SysTick's interrupt. */
void port_tick_handler(void);

#endif /* PORT_INTERNAL_H */
