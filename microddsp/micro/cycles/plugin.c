/* QEMU plugin: how often every translated block runs while a job does, and how often execution went
 * on in the block behind it (a branch at its end that was not taken).
 * Declares what it uses of QEMU's interface itself: distributions do not ship the header.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned int, void *);
typedef void (*at_exit)(plugin_id, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed, int, void *);
void qemu_plugin_register_atexit_cb(plugin_id, at_exit, void *);
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
static const char *path = "counts.txt";

static void block_runs(unsigned int cpu, void *data)
{
    struct block *block = data;
    (void)cpu;
    if (block->start == begin_address || block->start == end_address) {
        active = block->start == begin_address;
        last = NULL;
    } else if (active) {
        if (last != NULL && last->end == block->start) {
            ++last->fell_through;
        }
        ++block->runs;
        last = block;
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

static void write_counts(plugin_id id, void *data)
{
    FILE *file = fopen(path, "w");
    (void)id;
    (void)data;
    if (file == NULL) {
        return;
    }
    for (struct block *block = blocks; block != NULL; block = block->next) {
        if (block->runs != 0) {
            fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", block->start,
                    block->instructions, block->runs, block->fell_through);
        }
    }
    fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    (void)info;
    for (int i = 0; i < count; ++i) {
        if (strncmp(arguments[i], "begin=", 6) == 0) {
            begin_address = strtoull(arguments[i] + 6, NULL, 0);
        } else if (strncmp(arguments[i], "end=", 4) == 0) {
            end_address = strtoull(arguments[i] + 4, NULL, 0);
        } else if (strncmp(arguments[i], "out=", 4) == 0) {
            path = strdup(arguments[i] + 4);
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    qemu_plugin_register_atexit_cb(id, write_counts, NULL);
    return 0;
}
