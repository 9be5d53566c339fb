/* Runs candidates for a kernel one after another, each on every set of values, between the markers.
 * candidates.h says how many there are.
 *
 * in.bin: which to leave out, a byte for each candidate, then the arena of each set.
 * out.bin: after each run a header (below) and the arena.
 * SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include "candidates.h"

#define SYS_SEEK 0x0au
#define DAMAGED 4u

struct header {
    uint32_t candidate;
    uint32_t set;
    uint32_t stack_bytes;
};

extern uint32_t text_end[];

static unsigned char left_out[(CANDIDATES + 3u) / 4u * 4u];
__attribute__((section(".io"), aligned(16))) static unsigned char arena[ARENA_BYTES];

static uint32_t sum_of_program(void)
{
    uint32_t sum = 0u;
    for (const uint32_t *at = (const uint32_t *)(const void *)vectors; at < text_end; ++at) {
        sum = (sum << 1 | sum >> 31) ^ *(volatile const uint32_t *)at;
    }
    return sum;
}

static void paint(uint32_t *from, uint32_t *to)
{
    for (; from < to; ++from) {
        *(volatile uint32_t *)from = PAINT;
    }
}

/* The same instructions around every candidate of every image. */
static __attribute__((noipa)) void run(void (*candidate)(unsigned char *))
{
    job_begin();
    candidate(arena);
    job_end();
}

__attribute__((noipa)) int main(void)
{
    const uint32_t in = open_file("in.bin", 6u, OPEN_READ);
    const uint32_t out = open_file("out.bin", 7u, OPEN_WRITE);
    const uint32_t sum = sum_of_program();
    uint32_t *sp;
    uint32_t *lowest;
    move_bytes(SYS_READ, in, left_out, sizeof(left_out));
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    lowest = stack_middle; /* deeper than this is not looked for */
    paint(lowest, sp);
    for (uint32_t candidate = 0u; candidate < CANDIDATES; ++candidate) {
        for (uint32_t set = 0u; set < SETS && left_out[candidate] == 0u; ++set) {
            struct header header = {candidate, set, 0u};
            uint32_t *used = lowest;
            const uint32_t seek[2] = {in, sizeof(left_out) + set * ARENA_BYTES};
            if (semihosting(SYS_SEEK, seek) != 0u) {
                leave(3u);
            }
            move_bytes(SYS_READ, in, arena, sizeof(arena));
            run(candidates[candidate]);
            while (used < sp && *(volatile uint32_t *)used == PAINT) {
                ++used;
            }
            header.stack_bytes = (uint32_t)((sp - used) * (int32_t)sizeof(*sp));
            paint(used, sp);
            if (sum_of_program() != sum) {
                leave(DAMAGED);
            }
            move_bytes(SYS_WRITE, out, &header, sizeof(header));
            move_bytes(SYS_WRITE, out, arena, sizeof(arena));
        }
    }
    leave(0u);
    return 0;
}
