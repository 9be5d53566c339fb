/* What the RPC server needs from a board.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef PORT_H
#define PORT_H

#include <stddef.h>
#include <stdint.h>

/* Prepares the link to the host and runs the server; a link where a host can connect anew starts
 * it again then. */
void port_run(void (*serve)(void));

/* Reads exactly `nbytes`; waits for them. 0, or -1 if the host connected anew: `serve` is to return
 * then. Does not return if the host is gone. */
int port_read(void *destination, size_t nbytes);

/* Writes `nbytes`; they may stay in a buffer until port_flush(), or are dropped if the
 * host connected anew. */
void port_write(const void *source, size_t nbytes);
void port_flush(void);

/* The memory that tensors are allocated from, 16-byte aligned. */
void port_heap(uint8_t **base, size_t *nbytes);

/* Starts counting ticks from zero. */
void port_ticks_restart(void);

/* Ticks since port_ticks_restart(); port_ticks() stops the counter. */
uint64_t port_ticks_now(void);
uint64_t port_ticks(void);
extern const uint32_t port_tick_hz;

/* Bytes of stack below the caller's frame that are free: [low, high). */
void port_free_stack(uint32_t **low, uint32_t **high);

/* What stopped a protected call. */
typedef struct port_fault {
    uintptr_t pc;      /* 0: not known */
    uintptr_t lr;      /* where the function was called from, as far as is known */
    uintptr_t address; /* of the access */
    uint32_t status;   /* CFSR; 0 where the core has none. In a process, the number of a signal. */
    int has_address;
    int overflow; /* the stack was too small */
} port_fault_t;

#if defined(__arm__)
#define PORT_STATUS_NAME " status="
#define PORT_DEVICE_NAME "cortex-m"
#else
#define PORT_STATUS_NAME " signal="
#define PORT_DEVICE_NAME "host"
#endif

extern volatile port_fault_t port_fault;

/* Calls `function(context)`. Returns 0, or 1 where a fault or a stack that is too small ended it,
 * which `port_fault` tells. A fault outside of such a call stops the device. */
int port_protect(void (*function)(void *context), void *context);

#endif /* PORT_H */
