/* What every measured program has: start, semihosting, the two markers that the plugin looks for.
 * Included once, by the file with main().
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FRAME_H
#define FRAME_H

#include <stdint.h>

#define SYS_OPEN 0x01u
#define SYS_WRITE 0x05u
#define SYS_READ 0x06u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u
#define OPEN_READ 1u
#define OPEN_WRITE 5u
#define CPACR (*(volatile uint32_t *)0xe000ed88u)
#define PAINT 0xa5a5a5a5u

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[];
extern uint32_t stack_middle[], stack_top[];

void reset_handler(void);
static void fault(void);

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset_handler, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, (void *)fault, (void *)fault};

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

static uint32_t open_file(const char *path, uint32_t length, uint32_t mode)
{
    const uint32_t open[3] = {(uintptr_t)path, mode, length};
    const uint32_t file = semihosting(SYS_OPEN, open);
    if (file == UINT32_MAX) {
        leave(3u);
    }
    return file;
}

static void move_bytes(uint32_t operation, uint32_t file, void *data, uint32_t nbytes)
{
    const uint32_t move[3] = {file, (uintptr_t)data, nbytes};
    if (semihosting(operation, move) != 0u) {
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

int main(void);

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

#endif /* FRAME_H */
