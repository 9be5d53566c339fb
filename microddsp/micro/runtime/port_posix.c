/* A device that is a process: stack, heap, time and faults from the operating system.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "board.h"
#include "port.h"
#include "port_internal.h"
#include "rpc_server.h"

#define GUARD_BYTES 65536u
#define RED_ZONE 0xdeadbeefu
#define RED_ZONE_WORDS 16u

static volatile sig_atomic_t armed;
static uint8_t *stack; /* guard, red zone, stack */
static uint8_t heap[BOARD_HEAP_BYTES] __attribute__((aligned(64)));
static uint8_t handler_stack[65536] __attribute__((aligned(64)));

void port_heap(uint8_t **base, size_t *nbytes)
{
    *base = heap;
    *nbytes = sizeof(heap);
}

/* ---- time ---- */

const uint32_t port_tick_hz = 1000000000u;
static uint64_t started;

static uint64_t now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return ((uint64_t)time.tv_sec * 1000000000u) + (uint64_t)time.tv_nsec;
}

void port_ticks_restart(void)
{
    started = now();
}

uint64_t port_ticks_now(void)
{
    return now() - started;
}

uint64_t port_ticks(void)
{
    return port_ticks_now();
}

/* ---- stack ---- */

static uint32_t *red_zone(void)
{
    return (uint32_t *)(void *)(stack + GUARD_BYTES);
}

__attribute__((noinline)) void port_free_stack(uint32_t **low, uint32_t **high)
{
    *low = red_zone() + RED_ZONE_WORDS;
    *high = __builtin_frame_address(0);
}

void port_stack_watch(void)
{
    for (uint32_t i = 0u; i < RED_ZONE_WORDS; ++i) {
        red_zone()[i] = RED_ZONE;
    }
}

int port_stack_intact(void)
{
    int intact = 1;
    for (uint32_t i = 0u; i < RED_ZONE_WORDS; ++i) {
        intact &= (red_zone()[i] == RED_ZONE) ? 1 : 0;
    }
    return intact;
}

/* ---- faults ---- */

void port_fault_arm(void)
{
    armed = 1;
}

void port_fault_disarm(void)
{
    armed = 0;
}

static uintptr_t program_counter(const void *context)
{
    const ucontext_t *at = context;
#if defined(__x86_64__)
    return (uintptr_t)at->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)at->uc_mcontext.pc;
#else
    (void)at;
    return 0u;
#endif
}

static uintptr_t stack_pointer(const void *context)
{
    const ucontext_t *at = context;
#if defined(__x86_64__)
    return (uintptr_t)at->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    return (uintptr_t)at->uc_mcontext.sp;
#else
    (void)at;
    return UINTPTR_MAX;
#endif
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    const uintptr_t bottom = (uintptr_t)(red_zone() + RED_ZONE_WORDS);
    const uintptr_t sp = stack_pointer(context);
    const uintptr_t address = (uintptr_t)info->si_addr;
    port_fault.pc = program_counter(context);
    port_fault.lr = 0u;
    port_fault.status = (uint32_t)number;
    port_fault.address = address;
    port_fault.has_address = ((number == SIGSEGV) || (number == SIGBUS)) ? 1 : 0;
    port_fault.overflow =
        ((sp < bottom) || ((address >= (uintptr_t)stack) && (address < bottom))) ? 1 : 0;
    if (!armed) { /* in the server itself */
        const char *text = rpc_fault_text();
        (void)fprintf(stderr, "%s\n", text);
        _exit(PORT_FAULT);
    }
    armed = 0;
    longjmp(port_fault_return, 1);
}

static void *serve(void *unused)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    const stack_t other = {.ss_sp = handler_stack, .ss_size = sizeof(handler_stack)};
    struct sigaction action = {0};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    (void)sigaltstack(&other, NULL);
    for (size_t i = 0u; i < sizeof(signals) / sizeof(signals[0]); ++i) {
        (void)sigaction(signals[i], &action, NULL);
    }
    port_stack_watch();
    port_run(rpc_serve);
    return unused;
}

int main(void)
{
    const size_t nbytes = GUARD_BYTES + (RED_ZONE_WORDS * sizeof(uint32_t)) + BOARD_STACK_BYTES;
    const size_t whole = (nbytes + 65535u) & ~(size_t)65535u;
    pthread_attr_t attributes;
    pthread_t server;
    stack = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if ((stack == MAP_FAILED) || (mprotect(stack, GUARD_BYTES, PROT_NONE) != 0) ||
        (pthread_attr_init(&attributes) != 0) ||
        (pthread_attr_setstack(&attributes, stack + GUARD_BYTES, whole - GUARD_BYTES) != 0) ||
        (pthread_create(&server, &attributes, serve, NULL) != 0)) {
        perror("microddsp device");
        return EXIT_FAILURE;
    }
    (void)pthread_join(server, NULL);
    return EXIT_SUCCESS;
}
