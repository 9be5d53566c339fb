/* Link through semihosting on two pipes that the emulator inherits.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "board.h"
#include "port_buffer.h"
#include "port_internal.h"

enum semihosting {
    SYS_OPEN = 0x01,
    SYS_WRITE0 = 0x04,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_EXIT_EXTENDED = 0x20
};
#define OPEN_READ_BINARY 1u
#define OPEN_WRITE_BINARY 5u
#define APPLICATION_EXIT 0x20026u
#define BUFFER_BYTES 512u

extern uint8_t _heap_start[];
extern uint8_t _heap_end[];

static uint32_t host_in;
static uint32_t host_out;
uint8_t port_buffer[BUFFER_BYTES];
const size_t port_buffer_bytes = BUFFER_BYTES;

static uint32_t semihosting(enum semihosting operation, const uint32_t *arguments)
{
    register uint32_t r0 __asm__("r0") = (uint32_t)operation;
    register const uint32_t *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void port_exit(enum port_status status)
{
    const uint32_t arguments[2] = {APPLICATION_EXIT, (uint32_t)status};
    (void)semihosting(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}

void port_panic(const char *text)
{
    (void)semihosting(SYS_WRITE0, (const uint32_t *)(const void *)text);
    (void)semihosting(SYS_WRITE0, (const uint32_t *)(const void *)"\n");
    port_exit(PORT_FAULT);
}

static uint32_t open_file(const char *path, uint32_t mode)
{
    const uint32_t arguments[3] = {(uintptr_t)path, mode, strlen(path)};
    const uint32_t file = semihosting(SYS_OPEN, arguments);
    if (file == UINT32_MAX) {
        port_exit(PORT_NO_LINK);
    }
    return file;
}

void port_run(void (*serve)(void))
{
    host_in = open_file(BOARD_LINK_IN, OPEN_READ_BINARY);
    host_out = open_file(BOARD_LINK_OUT, OPEN_WRITE_BINARY);
    serve();
}

int port_read(void *destination, size_t nbytes)
{
    uint8_t *place = destination;
    while (nbytes != 0u) {
        const uint32_t arguments[3] = {host_in, (uintptr_t)place, nbytes};
        const uint32_t missing = semihosting(SYS_READ, arguments);
        if (missing >= nbytes) {
            port_exit(PORT_LINK_LOST); /* end of file: the host is gone */
        }
        place += nbytes - missing;
        nbytes = missing;
    }
    return 0;
}

void port_send(const void *source, size_t nbytes)
{
    const uint32_t arguments[3] = {host_out, (uintptr_t)source, nbytes};
    if ((nbytes != 0u) && (semihosting(SYS_WRITE, arguments) != 0u)) {
        port_exit(PORT_LINK_LOST);
    }
}

void port_heap(uint8_t **base, size_t *nbytes)
{
    *base = _heap_start;
    *nbytes = (size_t)(_heap_end - _heap_start);
}
