/* The heap that the host allocates tensors from.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RPC_HEAP_H
#define RPC_HEAP_H

#include <stddef.h>
#include <stdint.h>

/* Forgets every block; the memory comes from port_heap(). */
void rpc_heap_reset(void);

/* 16-byte aligned memory, or NULL if no free block is large enough. Zero bytes give a block too. */
void *rpc_heap_alloc(uint64_t nbytes);

/* Gives a block back. Returns 0, or -1 if `address` is not the start of an allocated block. */
int rpc_heap_release(void *address);

/* Whether the `nbytes` from `address` + `offset` lie inside one allocated block, which `address`
 * belongs to. */
int rpc_heap_holds(const void *address, uint64_t offset, uint64_t nbytes);

size_t rpc_heap_total(void);
size_t rpc_heap_available(void);
size_t rpc_heap_largest(void);

#endif /* RPC_HEAP_H */
