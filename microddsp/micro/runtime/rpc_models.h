/* Models as the host calls them: tensors are checked, blocks are run, timed and profiled.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RPC_MODELS_H
#define RPC_MODELS_H

#include "rpc_server.h"

/* What a tensor of one block must be. */
typedef struct rpc_rule {
    const char *name;
    uint8_t code;
    uint8_t bits;
    uint32_t elements;
} rpc_rule_t;

/* Runs one block on checked tensors; a status of the model. */
typedef int (*rpc_run_t)(void *const *places);

typedef struct rpc_model {
    const char *name;
    const char *status_prefix;
    const rpc_rule_t *rules; /* inputs, then outputs */
    int32_t inputs;
    int32_t tensors;
    int (*init)(void);
    void (*reset)(void);
    /* Where inputs and outputs lie in the model's workspace: copy them there and from there, which
     * is no part of the time. NULL otherwise. */
    void (*fill)(void *const *places);
    void (*fetch)(void *const *places);
    rpc_run_t run;
    rpc_run_t run_nothing; /* as `run`, with an empty function in the model's place */
    uint32_t marks; /* of a profile; 0: not built for one */
    int ready;
} rpc_model_t;

/* A number of a model that the host may change. */
typedef struct rpc_setter {
    rpc_model_t *model;
    rpc_rule_t rule;
    int (*set)(const void *value);
} rpc_setter_t;

/* set_<name>(value float32): a number of the model; `self` is a setter. */
int rpc_set(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result);

/* For the registry, with a model as `self`.
 *
 * process(inputs..., outputs...): one block.
 * process_bytes(the bytes of each input..., room uint8) -> the bytes of all outputs: one block in one
 *     call. They lie in `room`, each at a multiple of 8.
 * reset(): forget the signal.
 * time_blocks(inputs of k blocks..., outputs of one..., ticks int32 (k)) -> overhead in ticks.
 *     Each element is the time of one process(), overhead included.
 * profile_blocks(inputs of k blocks..., outputs of one..., ticks int32 (k + 1, marks + 1)):
 *     the time at each mark and at the end; the last row is the overhead, and the times of two
 *     marks with nothing between.
 * stack_high_water(inputs..., outputs...) -> bytes of stack that one block used. */
int rpc_process(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result);
int rpc_process_bytes(void *self, const rpc_value_t *arguments, int32_t count,
                      rpc_value_t *result);
int rpc_reset(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result);
int rpc_time_blocks(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result);
int rpc_profile_blocks(void *self, const rpc_value_t *arguments, int32_t count,
                       rpc_value_t *result);
int rpc_stack_high_water(void *self, const rpc_value_t *arguments, int32_t count,
                         rpc_value_t *result);

/* Called by a model that is built for a profile. */
void rpc_profile_mark(uint32_t mark);

#endif /* RPC_MODELS_H */
