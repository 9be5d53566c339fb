/* Runs one job block by block between two markers, and writes what it put out and how deep its
 * stack went. job.h says which job.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

#include "job.h"

#ifndef JOB_PREPARE
#define JOB_PREPARE(from) ((void)(from)) /* what is no part of the cost */
#endif

#define SYS_OPEN 0x01u
#define SYS_WRITE 0x05u
#define SYS_READ 0x06u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u
#define OPEN_READ 1u
#define OPEN_WRITE 5u
#define CPACR (*(volatile uint32_t *)0xe000ed88u)
#define PAINT 0xa5a5a5a5u
#define STACK_BYTES 32768u

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

void reset_handler(void);
static void fault(void);

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset_handler, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, (void *)fault, (void *)fault};

/* What a caller owns anyway: not counted as the job's memory. */
__attribute__((section(".io"), aligned(16))) static unsigned char job_in[JOB_BLOCKS * JOB_IN_BYTES];
__attribute__((section(".io"), aligned(16))) static unsigned char job_out[JOB_BLOCKS * JOB_OUT_BYTES];

static uint32_t semihosting(uint32_t operation, const uint32_t *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const uint32_t *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uint32_t status)
{
    const uint32_t arguments[2] = {APPLICATION_EXIT, status};
    (void)semihosting(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}

static void fault(void)
{
    leave(2u);
}

static void transfer(uint32_t operation, uint32_t mode, const char *path, uint32_t length, void *data,
                     uint32_t nbytes)
{
    const uint32_t open[3] = {(uintptr_t)path, mode, length};
    const uint32_t file = semihosting(SYS_OPEN, open);
    const uint32_t move[3] = {file, (uintptr_t)data, nbytes};
    if (file == UINT32_MAX || semihosting(operation, move) != 0u) {
        leave(3u);
    }
}

__attribute__((noipa)) void job_begin(void)
{
    __asm__ volatile("" ::: "memory");
}

__attribute__((noipa)) void job_end(void)
{
    __asm__ volatile("nop" ::: "memory");
}

/* Not merged into the reset handler, which must not touch the floating-point unit too early. */
__attribute__((noipa)) int main(void)
{
    uint32_t *sp;
    uint32_t *lowest;
    uint32_t stack;
    transfer(SYS_READ, OPEN_READ, "in.bin", 6u, job_in, sizeof(job_in));
    JOB_INIT();
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    lowest = sp - STACK_BYTES / sizeof(*sp);
    for (uint32_t *at = lowest; at < sp; ++at) {
        *(volatile uint32_t *)at = PAINT;
    }
    for (uint32_t block = 0u; block < JOB_BLOCKS; ++block) {
        const void *const from = &job_in[block * JOB_IN_BYTES];
        void *const to = &job_out[block * JOB_OUT_BYTES];
        JOB_PREPARE(from);
        job_begin();
        JOB_PROCESS(from, to);
        job_end();
    }
    while (lowest < sp && *(volatile uint32_t *)lowest == PAINT) {
        ++lowest;
    }
    stack = (uint32_t)((sp - lowest) * (int32_t)sizeof(*sp));
    transfer(SYS_WRITE, OPEN_WRITE, "out.bin", 7u, job_out, sizeof(job_out));
    transfer(SYS_WRITE, OPEN_WRITE, "stack.bin", 9u, &stack, sizeof(stack));
    leave(0u);
    return 0;
}

/* Loops that the compiler must not turn into calls of memcpy and memset: those would be code that
 * the job gets for nothing. */
void reset_handler(void)
{
    const uint32_t *from = data_load;
#if defined(__ARM_FP)
    CPACR |= 0xf00000u;
    __asm__ volatile("dsb\n\tisb");
#endif
    for (uint32_t *to = data_start; to < data_end; ++to) {
        *(volatile uint32_t *)to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; ++to) {
        *(volatile uint32_t *)to = 0u;
    }
    (void)main();
    for (;;) {
    }
}
