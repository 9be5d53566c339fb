/* Runs one job block by block between two markers, and writes what it put out and how deep its
 * stack went. job.h says which job.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

#include "frame.h"
#include "job.h"

#ifndef JOB_PREPARE
#define JOB_PREPARE(from) ((void)(from)) /* what is no part of the cost */
#endif

/* What a caller owns anyway: not counted as the job's memory. */
__attribute__((section(".io"), aligned(16))) static unsigned char job_in[JOB_BLOCKS * JOB_IN_BYTES];
__attribute__((section(".io"), aligned(16))) static unsigned char job_out[JOB_BLOCKS * JOB_OUT_BYTES];

/* Not merged into the reset handler, which must not touch the floating-point unit too early. */
__attribute__((noipa)) int main(void)
{
    uint32_t *sp;
    uint32_t *lowest;
    uint32_t stack;
    move_bytes(SYS_READ, open_file("in.bin", 6u, OPEN_READ), job_in, sizeof(job_in));
    JOB_INIT();
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    lowest = stack_middle; /* deeper than this is not looked for */
    for (uint32_t *at = lowest; at < sp; ++at) {
        *(volatile uint32_t *)at = PAINT;
    }
    for (uint32_t block = 0u; block < JOB_BLOCKS; ++block) {
        const void *from = &job_in[block * JOB_IN_BYTES];
        void *to = &job_out[block * JOB_OUT_BYTES];
        JOB_PREPARE(from);
        /* What makes the pointers, these or the next, is not the job's: none of it in between. They
         * are those of arrays, and the compiler knows that. */
        __asm__ volatile("" : "+r"(from), "+r"(to), "+r"(block));
        if (from == 0 || to == 0) {
            __builtin_unreachable();
        }
        job_begin();
        JOB_PROCESS(from, to);
        job_end();
        __asm__ volatile("" : "+r"(block));
    }
    while (lowest < sp && *(volatile uint32_t *)lowest == PAINT) {
        ++lowest;
    }
    stack = (uint32_t)((sp - lowest) * (int32_t)sizeof(*sp));
    move_bytes(SYS_WRITE, open_file("out.bin", 7u, OPEN_WRITE), job_out, sizeof(job_out));
    move_bytes(SYS_WRITE, open_file("stack.bin", 9u, OPEN_WRITE), &stack, sizeof(stack));
    leave(0u);
    return 0;
}
