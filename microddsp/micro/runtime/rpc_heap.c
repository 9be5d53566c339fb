/* First fit over a free list in address order, so that neighbours merge when they are released.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rpc_heap.h"

#include "port.h"

#if SIZE_MAX > UINT32_MAX
#define UNIT 32u
#else
#define UNIT 16u
#endif
#define FREE_MARK 0x46524545u
#define USED_MARK 0x55534544u

/* In front of every block; one unit long, so that blocks stay aligned. */
typedef struct header {
    size_t nbytes; /* with this header */
    struct header *next;
    uint32_t mark;
    uint32_t padding;
#if SIZE_MAX > UINT32_MAX
    uint64_t more_padding;
#endif
} header_t;

typedef char header_is_one_unit[(sizeof(header_t) == UNIT) ? 1 : -1];

static uint8_t *base;
static size_t total;
static header_t *free_list;

void rpc_heap_reset(void)
{
    port_heap(&base, &total);
    total -= total % UNIT;
    free_list = (header_t *)(void *)base;
    free_list->nbytes = total;
    free_list->next = NULL;
    free_list->mark = FREE_MARK;
}

void *rpc_heap_alloc(uint64_t nbytes)
{
    if (nbytes >= total) {
        return NULL;
    }
    const size_t payload = ((nbytes == 0u) ? 1u : (size_t)nbytes) + (UNIT - 1u);
    const size_t needed = payload - (payload % UNIT) + UNIT;
    header_t **link = &free_list;
    while ((*link != NULL) && ((*link)->nbytes < needed)) {
        link = &(*link)->next;
    }
    header_t *block = *link;
    if (block == NULL) {
        return NULL;
    }
    if (block->nbytes - needed >= 2u * UNIT) {
        header_t *rest = (header_t *)(void *)((uint8_t *)block + needed);
        rest->nbytes = block->nbytes - needed;
        rest->next = block->next;
        rest->mark = FREE_MARK;
        block->nbytes = needed;
        *link = rest;
    } else {
        *link = block->next;
    }
    block->next = NULL;
    block->mark = USED_MARK;
    return block + 1;
}

/* The allocated block that a byte of memory belongs to, or NULL. Marks alone do not tell: the host
 * may write the same into its own tensors. */
static header_t *block_of(const void *address)
{
    const uintptr_t place = (uintptr_t)address;
    if ((place < (uintptr_t)base + UNIT) || (place > (uintptr_t)base + total)) {
        return NULL;
    }
    header_t *block = (header_t *)(void *)base;
    while ((uintptr_t)block + block->nbytes <= place) {
        block = (header_t *)(void *)((uint8_t *)block + block->nbytes);
        if ((uintptr_t)block >= (uintptr_t)base + total) {
            return NULL;
        }
    }
    return ((block->mark == USED_MARK) && (place >= (uintptr_t)block + UNIT)) ? block : NULL;
}

static void merge_with_next(header_t *block)
{
    if ((header_t *)(void *)((uint8_t *)block + block->nbytes) == block->next) {
        block->nbytes += block->next->nbytes;
        block->next = block->next->next;
    }
}

int rpc_heap_release(void *address)
{
    header_t *block = block_of(address);
    if ((block == NULL) || (address != (const void *)(block + 1))) {
        return -1;
    }
    header_t *before = NULL;
    header_t *after = free_list;
    while ((after != NULL) && (after < block)) {
        before = after;
        after = after->next;
    }
    block->mark = FREE_MARK;
    block->next = after;
    merge_with_next(block);
    if (before == NULL) {
        free_list = block;
    } else {
        before->next = block;
        merge_with_next(before);
    }
    return 0;
}

int rpc_heap_holds(const void *address, uint64_t offset, uint64_t nbytes)
{
    const header_t *block = block_of(address);
    if (block == NULL) {
        return 0;
    }
    const uint64_t room = (uintptr_t)block + block->nbytes - (uintptr_t)address;
    return (offset <= room) && (nbytes <= room - offset);
}

size_t rpc_heap_total(void)
{
    return total;
}

size_t rpc_heap_available(void)
{
    size_t sum = 0u;
    for (const header_t *block = free_list; block != NULL; block = block->next) {
        sum += block->nbytes - UNIT;
    }
    return sum;
}

size_t rpc_heap_largest(void)
{
    size_t largest = 0u;
    for (const header_t *block = free_list; block != NULL; block = block->next) {
        largest = (block->nbytes - UNIT > largest) ? block->nbytes - UNIT : largest;
    }
    return largest;
}
