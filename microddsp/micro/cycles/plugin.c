/* QEMU plugin: how often every translated block runs while a job does, and how often execution went
 * on in the block behind it (a branch at its end that was not taken). Each time that a job ended is
 * a section of the file. A job that runs more than `limit` instructions ends the emulator.
 * Declares what it uses of QEMU's interface itself: distributions do not ship the header.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATUS_LIMIT 9
#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned int, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

struct block {
    uint64_t start, end, instructions, runs, fell_through;
    struct block *next;
};

static struct block *blocks;
static struct block *last;
static bool active;
static uint64_t begin_address, end_address;
static uint64_t limit = UINT64_MAX;
static uint64_t executed_now;
static FILE *file;

static void end_section(void)
{
    fprintf(file, "section\n");
    for (struct block *block = blocks; block != NULL; block = block->next) {
        if (block->runs != 0) {
            fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", block->start,
                    block->instructions, block->runs, block->fell_through);
            block->runs = 0;
            block->fell_through = 0;
        }
    }
    fflush(file);
}

static void block_runs(unsigned int cpu, void *data)
{
    struct block *block = data;
    (void)cpu;
    if (block->start == begin_address || block->start == end_address) {
        if (active && block->start == end_address) {
            end_section();
        }
        active = block->start == begin_address;
        executed_now = 0;
        last = NULL;
    } else if (active) {
        if (last != NULL && last->end == block->start) {
            ++last->fell_through;
        }
        ++block->runs;
        last = block;
        executed_now += block->instructions;
        if (executed_now > limit) {
            _exit(STATUS_LIMIT);
        }
    }
}

static struct block *find(uint64_t start, uint64_t instructions)
{
    for (struct block *block = blocks; block != NULL; block = block->next) {
        if (block->start == start && block->instructions == instructions) {
            return block;
        }
    }
    return NULL;
}

static void block_translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    const size_t count = qemu_plugin_tb_n_insns(tb);
    struct qemu_plugin_insn *end = qemu_plugin_tb_get_insn(tb, count - 1);
    struct block *block = find(qemu_plugin_tb_vaddr(tb), count);
    (void)id;
    if (block == NULL) {
        block = calloc(1, sizeof(*block));
        if (block == NULL) {
            abort();
        }
        block->start = qemu_plugin_tb_vaddr(tb);
        block->end = qemu_plugin_insn_vaddr(end) + qemu_plugin_insn_size(end);
        block->instructions = count;
        block->next = blocks;
        blocks = block;
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, block_runs, 0, block);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    const char *path = "counts.txt";
    (void)info;
    for (int i = 0; i < count; ++i) {
        if (strncmp(arguments[i], "begin=", 6) == 0) {
            begin_address = strtoull(arguments[i] + 6, NULL, 0);
        } else if (strncmp(arguments[i], "end=", 4) == 0) {
            end_address = strtoull(arguments[i] + 4, NULL, 0);
        } else if (strncmp(arguments[i], "out=", 4) == 0) {
            path = arguments[i] + 4;
        } else if (strncmp(arguments[i], "limit=", 6) == 0) {
            limit = strtoull(arguments[i] + 6, NULL, 0);
        }
    }
    file = fopen(path, "w");
    if (file == NULL) {
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    return 0;
}
