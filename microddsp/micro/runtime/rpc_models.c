/* Checks what the host gives before a model sees it; measures what the model does with it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rpc_models.h"

#include "port.h"
#include "rpc_wire.h"

#define STACK_PATTERN 0xa5a5a5a5u

static const char *status_text(int status)
{
    switch (status) {
    case -1:
        return "_ERR_NULL: a required pointer is NULL";
    case -2:
        return "_ERR_SIZE: the workspace is too small";
    case -3:
        return "_ERR_ALIGN: the workspace is not aligned";
    case -4:
        return "_ERR_NOT_READY: the model is not initialised";
    case -5:
        return "_ERR_NONFINITE: a state became NaN or infinite and was reset";
    case -6:
        return "_ERR_RANGE: the value cannot be set";
    default:
        return ": unknown status";
    }
}

static int check_status(const rpc_model_t *model, int status)
{
    if (status == 0) {
        return 0;
    }
    (void)rpc_raise(model->name, model->status_prefix);
    rpc_append(status_text(status));
    return -1;
}

/* A model that faulted is not ready either. */
static int prepare(rpc_model_t *model)
{
    if (model->ready) {
        return 0;
    }
    const int status = model->init();
    model->ready = (status == 0) ? 1 : 0;
    return check_status(model, status);
}

/* Of one block. */
static uint32_t bytes_of(const rpc_rule_t *rule)
{
    return rule->elements * (rule->bits / 8u);
}

/* Address of `blocks` blocks of a tensor, or NULL after rpc_raise(). */
static void *check_tensor(const rpc_value_t *value, const rpc_rule_t *rule, uint64_t blocks)
{
    if (value->type != RPC_TENSOR) {
        (void)rpc_raise(rule->name, "a tensor is needed");
        return NULL;
    }
    const rpc_tensor_t *tensor = value->as.tensor;
    if ((tensor->dtype.code != rule->code) || (tensor->dtype.bits != rule->bits) ||
        (tensor->dtype.lanes != 1u)) {
        (void)rpc_raise(rule->name, "tensor has another dtype");
        return NULL;
    }
    const uint64_t nbytes = blocks * bytes_of(rule);
    if (rpc_tensor_bytes(tensor) != nbytes) {
        (void)rpc_raise(rule->name, "tensor has another number of elements");
        return NULL;
    }
    void *data = rpc_tensor_data(tensor, nbytes);
    if ((data != NULL) && ((uintptr_t)data % (rule->bits / 8u) != 0u)) {
        (void)rpc_raise(rule->name, "tensor is not aligned");
        return NULL;
    }
    return data;
}

/* Checks every tensor; inputs hold `blocks` blocks, outputs one. */
static int check_tensors(rpc_model_t *model, const rpc_value_t *arguments, int32_t count,
                         int32_t wanted, uint64_t blocks, void **places)
{
    if ((count != wanted) || (model->tensors > RPC_MAX_ARGUMENTS)) {
        return rpc_raise(NULL, "wrong number of arguments");
    }
    for (int32_t i = 0; i < model->tensors; ++i) {
        places[i] =
            check_tensor(&arguments[i], &model->rules[i], (i < model->inputs) ? blocks : 1u);
        if (places[i] == NULL) {
            return -1;
        }
    }
    return prepare(model);
}

/* Inputs of the next block. */
static void advance(const rpc_model_t *model, void **places)
{
    for (int32_t i = 0; i < model->inputs; ++i) {
        places[i] = (uint8_t *)places[i] + bytes_of(&model->rules[i]);
    }
}

static uint32_t mark_sink[2];
static uint32_t *marks;
static uint32_t mark_count;

/* The last profile may have ended in a fault: its tensor may be gone. */
static void forget_marks(void)
{
    marks = mark_sink;
    mark_count = 2u;
}

static void fill(const rpc_model_t *model, void *const *places)
{
    if (model->fill != NULL) {
        model->fill(places);
    }
}

static int process(rpc_model_t *model, void *const *places)
{
    forget_marks();
    fill(model, places);
    model->ready = 0;
    const int status = model->run(places);
    model->ready = 1;
    if (model->fetch != NULL) {
        model->fetch(places);
    }
    return check_status(model, status);
}

int rpc_process(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result)
{
    rpc_model_t *model = self;
    void *places[RPC_MAX_ARGUMENTS];
    (void)result;
    if (check_tensors(model, arguments, count, model->tensors, 1u, places) != 0) {
        return -1;
    }
    return process(model, places);
}

/* Bytes of a block with what is between it and the next one. */
static uint32_t room_of(const rpc_rule_t *rule)
{
    return (bytes_of(rule) + 7u) & ~7u;
}

int rpc_process_bytes(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result)
{
    static rpc_bytes_t answer;
    rpc_model_t *model = self;
    void *places[RPC_MAX_ARGUMENTS];
    rpc_rule_t rule = {"room", RPC_DTYPE_UINT, 8u, 0u};
    if ((count != model->inputs + 1) || (model->tensors > RPC_MAX_ARGUMENTS)) {
        return rpc_raise(NULL, "wrong number of arguments");
    }
    for (int32_t i = 0; i < model->inputs; ++i) {
        const rpc_value_t *value = &arguments[i];
        if ((value->type != RPC_BYTES) || (value->as.bytes->nbytes != bytes_of(&model->rules[i]))) {
            return rpc_raise(model->rules[i].name, "the bytes of a block are needed");
        }
        places[i] = (void *)(uintptr_t)value->as.bytes->data;
    }
    for (int32_t i = model->inputs; i < model->tensors; ++i) {
        rule.elements += room_of(&model->rules[i]);
    }
    uint8_t *room = check_tensor(&arguments[model->inputs], &rule, 1u);
    if ((room != NULL) && ((uintptr_t)room % 8u != 0u)) {
        return rpc_raise(rule.name, "tensor is not aligned");
    }
    if ((room == NULL) || (prepare(model) != 0)) {
        return -1;
    }
    answer.data = (const char *)room;
    answer.nbytes = rule.elements;
    for (int32_t i = model->inputs; i < model->tensors; ++i) {
        places[i] = room;
        room += room_of(&model->rules[i]);
    }
    result->type = RPC_BYTES;
    result->as.bytes = &answer;
    return process(model, places);
}

int rpc_reset(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result)
{
    rpc_model_t *model = self;
    (void)arguments;
    (void)count;
    (void)result;
    if (prepare(model) != 0) {
        return -1;
    }
    model->reset();
    return 0;
}

int rpc_set(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result)
{
    rpc_setter_t *setter = self;
    (void)result;
    if (count != 1) {
        return rpc_raise(NULL, "wrong number of arguments");
    }
    const void *value = check_tensor(&arguments[0], &setter->rule, 1u);
    if ((value == NULL) || (prepare(setter->model) != 0)) {
        return -1;
    }
    return check_status(setter->model, setter->set(value));
}

/* ---- time ---- */

void rpc_profile_mark(uint32_t mark)
{
    if (mark < mark_count) {
        marks[mark] = (uint32_t)port_ticks_now();
    }
}

/* A measurement of nothing: what the call and the counter take themselves. */
static __attribute__((noinline)) int run_nothing(void *const *places)
{
    __asm__ volatile("" : : "r"(places) : "memory");
    return 0;
}

static __attribute__((noinline)) int run_marks(void *const *places)
{
    __asm__ volatile("" : : "r"(places) : "memory");
    rpc_profile_mark(0u);
    rpc_profile_mark(1u);
    return 0;
}

static __attribute__((noinline)) uint32_t ticks_of(rpc_run_t function, void *const *places,
                                                   int *status)
{
    port_ticks_restart();
    *status = function(places);
    return (uint32_t)port_ticks();
}

/* The tensor behind the model's own, `blocks` times `each` ticks. */
static uint32_t *check_ticks(const rpc_model_t *model, const rpc_value_t *arguments, int32_t count,
                             uint32_t each, uint64_t *blocks)
{
    const rpc_rule_t rule = {"ticks", RPC_DTYPE_INT, 32u, each};
    if ((count != model->tensors + 1) || (arguments[model->tensors].type != RPC_TENSOR)) {
        (void)rpc_raise(NULL, "wrong number of arguments");
        return NULL;
    }
    const rpc_value_t *ticks = &arguments[model->tensors];
    *blocks = rpc_tensor_bytes(ticks->as.tensor) / (each * sizeof(int32_t));
    return check_tensor(ticks, &rule, *blocks);
}

int rpc_time_blocks(void *self, const rpc_value_t *arguments, int32_t count, rpc_value_t *result)
{
    rpc_model_t *model = self;
    void *places[RPC_MAX_ARGUMENTS];
    uint64_t blocks = 0u;
    int status = 0;
    uint32_t *ticks = check_ticks(model, arguments, count, 1u, &blocks);
    if ((ticks == NULL) ||
        (check_tensors(model, arguments, count, model->tensors + 1, blocks, places) != 0)) {
        return -1;
    }
    forget_marks();
    model->ready = 0;
    for (uint64_t k = 0u; (k < blocks) && (status == 0); ++k) {
        fill(model, places);
        ticks[k] = ticks_of(model->run, places, &status);
        advance(model, places);
    }
    model->ready = 1;
    if (status != 0) {
        return check_status(model, status);
    }
    result->type = RPC_INT;
    result->as.integer = (int64_t)ticks_of(run_nothing, places, &status);
    return 0;
}

int rpc_profile_blocks(void *self, const rpc_value_t *arguments, int32_t count,
                       rpc_value_t *result)
{
    rpc_model_t *model = self;
    void *places[RPC_MAX_ARGUMENTS];
    uint64_t rows = 0u;
    int status = 0;
    const uint32_t columns = model->marks + 1u;
    if (model->marks < 2u) {
        return rpc_raise(model->name, "is not built for a profile");
    }
    uint32_t *ticks = check_ticks(model, arguments, count, columns, &rows);
    if (ticks == NULL) {
        return -1;
    }
    if (rows == 0u) {
        return rpc_raise(NULL, "no room for the ticks");
    }
    if (check_tensors(model, arguments, count, model->tensors + 1, rows - 1u, places) != 0) {
        return -1;
    }
    model->ready = 0;
    mark_count = model->marks;
    for (uint64_t k = 0u; (k < rows - 1u) && (status == 0); ++k) {
        marks = &ticks[k * columns];
        fill(model, places);
        marks[model->marks] = ticks_of(model->run, places, &status);
        advance(model, places);
    }
    model->ready = 1;
    forget_marks();
    if (status == 0) {
        uint32_t *const last = &ticks[(rows - 1u) * columns];
        (void)ticks_of(run_marks, places, &status);
        last[1] = mark_sink[0];
        last[2] = mark_sink[1];
        last[0] = ticks_of(run_nothing, places, &status);
    }
    (void)result;
    return check_status(model, status);
}

/* ---- stack ---- */

/* Bytes of stack below this function that a call uses. */
static __attribute__((noinline)) uint32_t depth_of(rpc_run_t function, void *const *places,
                                                   int *status)
{
    uint32_t *low;
    uint32_t *high;
    port_free_stack(&low, &high);
    for (volatile uint32_t *word = low; word < high; ++word) {
        *word = STACK_PATTERN;
    }
    *status = function(places);
    const volatile uint32_t *deepest = low;
    while ((deepest < high) && (*deepest == STACK_PATTERN)) {
        ++deepest;
    }
    return (uint32_t)((uintptr_t)high - (uintptr_t)deepest);
}

int rpc_stack_high_water(void *self, const rpc_value_t *arguments, int32_t count,
                         rpc_value_t *result)
{
    rpc_model_t *model = self;
    void *places[RPC_MAX_ARGUMENTS];
    int status = 0;
    if (check_tensors(model, arguments, count, model->tensors, 1u, places) != 0) {
        return -1;
    }
    forget_marks();
    fill(model, places);
    model->ready = 0;
    const uint32_t used = depth_of(model->run, places, &status);
    model->ready = 1;
    if (status != 0) {
        return check_status(model, status);
    }
    result->type = RPC_INT;
    result->as.integer = (int64_t)used - (int64_t)depth_of(model->run_nothing, places, &status);
    return 0;
}
