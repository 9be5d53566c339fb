/* What the requests do: functions, tensors, memory, timing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rpc_server.h"

#include <string.h>

#include "port.h"
#include "rpc_heap.h"
#include "rpc_wire.h"

/* Handles are never 0, which the client takes for "no such function", and never heap addresses. */
#define FUNCTION_HANDLE 0x0f000000u
#define EVALUATOR_HANDLE 0x0e000000u
#define MAX_EVALUATORS 4u

/* Device attributes that the client asks for (tvm::runtime::DeviceAttrKind). */
enum attribute {
    ATTRIBUTE_EXISTS = 0,
    ATTRIBUTE_NAME = 5,
    ATTRIBUTE_CLOCK_KHZ = 6,
    ATTRIBUTE_TOTAL_MEMORY = 14,
    ATTRIBUTE_AVAILABLE_MEMORY = 15
};

/* ---- tensors ---- */

uint64_t rpc_tensor_bytes(const rpc_tensor_t *tensor)
{
    uint64_t nbytes = (((uint64_t)tensor->dtype.bits * tensor->dtype.lanes) + 7u) / 8u;
    for (int32_t i = 0; i < tensor->ndim; ++i) {
        const int64_t extent = tensor->shape[i];
        /* Both factors stay below 2^31 and 2^32: the product cannot wrap. */
        if ((extent < 0) || (extent > INT32_MAX) || (nbytes > UINT32_MAX)) {
            (void)rpc_raise(NULL, "tensor is larger than the device's address space");
            return 0u;
        }
        nbytes *= (uint64_t)extent;
    }
    return nbytes;
}

void *rpc_tensor_data(const rpc_tensor_t *tensor, uint64_t nbytes)
{
    if (!rpc_heap_holds(tensor->data, tensor->byte_offset, nbytes)) {
        (void)rpc_raise(NULL, "tensor lies outside the device's memory");
        return NULL;
    }
    return (uint8_t *)tensor->data + (size_t)tensor->byte_offset;
}

static void *allocate(uint64_t nbytes)
{
    void *memory = rpc_heap_alloc(nbytes);
    if ((memory == NULL) && !rpc_failed()) {
        (void)rpc_raise("MemoryError", "the device has no ");
        if (nbytes > UINT32_MAX) {
            rpc_append("4 GiB");
        } else {
            rpc_append_number((uint32_t)nbytes);
            rpc_append(" bytes");
        }
        rpc_append(" left, the largest free block has ");
        rpc_append_number((uint32_t)rpc_heap_largest());
    }
    return memory;
}

/* ---- calls ---- */

static void append_fact(const char *name, uintptr_t value)
{
    rpc_append(name);
    rpc_append_hex(value);
}

static void raise_fault(void)
{
    (void)rpc_raise("DeviceFault", "");
    append_fact("pc=", port_fault.pc);
    append_fact(" lr=", port_fault.lr);
    append_fact(PORT_STATUS_NAME, port_fault.status);
    if (port_fault.has_address) {
        append_fact(" address=", port_fault.address);
    }
    if (port_fault.overflow) {
        rpc_append(" overflow=1");
    }
}

const char *rpc_fault_text(void)
{
    rpc_forget_error();
    raise_fault();
    return rpc_error_text();
}

typedef struct job {
    const rpc_entry_t *entry;
    const rpc_value_t *arguments;
    int32_t count;
    rpc_value_t *result;
    int status;
} job_t;

static void run_job(void *context)
{
    job_t *job = context;
    job->status = job->entry->function(job->entry->self, job->arguments, job->count, job->result);
}

static int call(const rpc_entry_t *entry, const rpc_value_t *arguments, int32_t count,
                rpc_value_t *result)
{
    job_t job = {entry, arguments, count, result, 0};
    if (port_protect(run_job, &job) != 0) {
        rpc_forget_error();
        raise_fault();
        return -1;
    }
    /* An error that was raised counts, whatever is returned: there is one answer to a call. */
    return ((job.status == 0) && !rpc_failed())
               ? 0
               : rpc_raise(NULL, "the function failed without a message");
}

/* ---- the client's time_evaluator ---- */

typedef struct evaluator {
    const rpc_entry_t *entry;
    uint32_t number;
    uint32_t repeat;
    uint32_t min_repeat_ms;
    uint32_t limit_zero;
} evaluator_t;

static evaluator_t evaluators[MAX_EVALUATORS];

static const rpc_entry_t *registered(const char *name)
{
    for (const rpc_entry_t *entry = rpc_registry; entry->name != NULL; ++entry) {
        if (strcmp(entry->name, name) == 0) {
            return entry;
        }
    }
    return NULL;
}

static uint32_t positive(const rpc_value_t *value)
{
    const int64_t integer = value->as.integer;
    return ((value->type == RPC_INT) && (integer > 0) && (integer < INT32_MAX)) ? (uint32_t)integer
                                                                              : 0u;
}

/* (module, name, device type, device, number, repeat, min_repeat_ms, limit_zero, ...) */
static int make_evaluator(void *self, const rpc_value_t *arguments, int32_t count,
                          rpc_value_t *result)
{
    (void)self;
    if ((count < 8) || (arguments[1].type != RPC_STRING)) {
        return rpc_raise("RPCTimeEvaluator", "unexpected arguments");
    }
    const evaluator_t wanted = {registered(arguments[1].as.string), positive(&arguments[4]),
                                positive(&arguments[5]), positive(&arguments[6]),
                                positive(&arguments[7])};
    if (wanted.entry == NULL) {
        return rpc_raise("Cannot find function", arguments[1].as.string);
    }
    if ((wanted.number == 0u) || (wanted.repeat == 0u)) {
        return rpc_raise("RPCTimeEvaluator", "number and repeat must be positive");
    }
    for (uint32_t i = 0u; i < MAX_EVALUATORS; ++i) {
        if (evaluators[i].entry == NULL) {
            evaluators[i] = wanted;
            result->type = RPC_FUNCTION;
            result->as.bits = EVALUATOR_HANDLE + i;
            return 0;
        }
    }
    return rpc_raise("RPCTimeEvaluator", "too many are alive");
}

/* Seconds for one call, or a negative number after an error. */
static double measure(const evaluator_t *evaluator, const rpc_value_t *arguments, int32_t count)
{
    const double wanted_s = (double)evaluator->min_repeat_ms * 1e-3;
    uint32_t number = evaluator->number;
    uint32_t zeros = 0u;
    for (;;) {
        rpc_value_t ignored = {RPC_NONE, 0u, {0}};
        port_ticks_restart();
        for (uint32_t i = 0u; i < number; ++i) {
            if (call(evaluator->entry, arguments, count, &ignored) != 0) {
                return -1.0;
            }
        }
        const double seconds = (double)port_ticks() / (double)port_tick_hz;
        if (seconds <= 0.0) {
            ++zeros;
        }
        if ((seconds >= wanted_s) || (zeros > evaluator->limit_zero)) {
            return seconds / (double)number;
        }
        const double grown = (seconds > 0.0) ? (wanted_s / seconds * (double)number) + 1.0 : 0.0;
        const double least = ((double)number * 1.618) + 1.0;
        const double next = (grown > least) ? grown : least;
        number = (next < 1e9) ? (uint32_t)next : 1000000000u;
    }
}

static void run_evaluator(const evaluator_t *evaluator, const rpc_value_t *arguments,
                          int32_t count)
{
    double *seconds = allocate((uint64_t)evaluator->repeat * sizeof(double));
    if (seconds == NULL) {
        return;
    }
    for (uint32_t i = 0u; (i < evaluator->repeat) && !rpc_failed(); ++i) {
        seconds[i] = measure(evaluator, arguments, count);
    }
    if (!rpc_failed()) {
        const rpc_bytes_t blob = {(const char *)seconds, evaluator->repeat * sizeof(double)};
        rpc_value_t result = {RPC_BYTES, 0u, {0}};
        result.as.bytes = &blob;
        rpc_wire_reply_call(&result);
    }
    (void)rpc_heap_release(seconds);
}

/* The client asks for this before each copy of a tensor, until it has an answer. */
static int most_at_once(void *self, const rpc_value_t *arguments, int32_t count,
                        rpc_value_t *result)
{
    (void)self;
    (void)arguments;
    (void)count;
    result->type = RPC_INT;
    result->as.integer = INT32_MAX; /* requests are streams: there is no limit */
    return 0;
}

/* ---- function handles ---- */

static const rpc_entry_t of_the_server[] = {
    {"runtime.RPCTimeEvaluator", make_evaluator, NULL},
    {"tvm.rpc.server.GetCRTMaxPacketSize", most_at_once, NULL},
};
#define OF_THE_SERVER (sizeof(of_the_server) / sizeof(of_the_server[0]))

/* The first handles of our range are the server's own functions, the others are the registry. */
static const rpc_entry_t *function_at(uint32_t index)
{
    return (index < OF_THE_SERVER) ? &of_the_server[index] : &rpc_registry[index - OF_THE_SERVER];
}

static uint32_t find_function(const char *name)
{
    for (uint32_t i = 0u; function_at(i)->name != NULL; ++i) {
        if (strcmp(name, function_at(i)->name) == 0) {
            return FUNCTION_HANDLE + i;
        }
    }
    return 0u;
}

static const rpc_entry_t *function_of(uint64_t handle)
{
    for (uint32_t i = 0u; function_at(i)->name != NULL; ++i) {
        if (handle == FUNCTION_HANDLE + i) {
            return function_at(i);
        }
    }
    return NULL;
}

static evaluator_t *evaluator_of(uint64_t handle)
{
    if ((handle < EVALUATOR_HANDLE) || (handle >= EVALUATOR_HANDLE + MAX_EVALUATORS)) {
        return NULL;
    }
    evaluator_t *found = &evaluators[handle - EVALUATOR_HANDLE];
    return (found->entry == NULL) ? NULL : found;
}

/* ---- requests ---- */

static void forget_session(void)
{
    rpc_heap_reset();
    (void)memset(evaluators, 0, sizeof(evaluators));
}

static void finish(const rpc_value_t *result)
{
    rpc_wire_drain();
    if (rpc_failed()) {
        rpc_wire_reply_error();
    } else {
        rpc_wire_reply(result);
    }
}

static void on_init(void)
{
    const rpc_value_t nothing = {RPC_NONE, 0u, {0}};
    const rpc_value_t *arguments;
    const char *version = rpc_wire_string(rpc_wire_u64());
    if (!rpc_failed()) {
        (void)rpc_wire_arguments(&arguments);
    }
    if (!rpc_failed() && (strcmp(version, RPC_PROTOCOL) != 0)) {
        (void)rpc_raise(NULL, "the device speaks RPC protocol " RPC_PROTOCOL ", the host ");
        rpc_append(version);
    }
    if (!rpc_failed()) {
        forget_session();
    }
    finish(&nothing);
}

static void on_call(void)
{
    rpc_value_t result = {RPC_NONE, 0u, {0}};
    const uint64_t handle = rpc_wire_u64();
    const rpc_value_t *arguments;
    const int32_t count = rpc_wire_arguments(&arguments);
    rpc_wire_drain();
    const evaluator_t *evaluator = evaluator_of(handle);
    const rpc_entry_t *entry = function_of(handle);
    if (!rpc_failed()) {
        if (evaluator != NULL) {
            run_evaluator(evaluator, arguments, count);
        } else if (entry == NULL) {
            (void)rpc_raise(NULL, "call of something that is no function of the device");
        } else if (call(entry, arguments, count, &result) == 0) {
            rpc_wire_reply_call(&result);
        } else {
            /* The reply below tells the host. */
        }
    }
    if (rpc_failed()) {
        rpc_wire_reply_error();
    }
}

static void on_copy_to_device(void)
{
    const rpc_value_t nothing = {RPC_NONE, 0u, {0}};
    const rpc_tensor_t *tensor = rpc_wire_tensor();
    const uint64_t nbytes = rpc_wire_u64();
    void *data = rpc_failed() ? NULL : rpc_tensor_data(tensor, nbytes);
    if (data != NULL) {
        rpc_wire_copy(data, nbytes);
    }
    finish(&nothing);
}

static void on_copy_from_device(void)
{
    const rpc_tensor_t *tensor = rpc_wire_tensor();
    const uint64_t nbytes = rpc_wire_u64();
    const void *data = rpc_failed() ? NULL : rpc_tensor_data(tensor, nbytes);
    rpc_wire_drain();
    if (data != NULL) {
        rpc_wire_reply_data(data, nbytes);
    } else {
        rpc_wire_reply_error();
    }
}

static void copy_on_device(const rpc_tensor_t *from, const rpc_tensor_t *to)
{
    const uint64_t nbytes = rpc_tensor_bytes(from);
    if ((rpc_tensor_bytes(to) != nbytes) && !rpc_failed()) {
        (void)rpc_raise(NULL, "copy between tensors of different sizes");
    }
    if (!rpc_failed()) {
        const void *source = rpc_tensor_data(from, nbytes);
        void *destination = rpc_tensor_data(to, nbytes);
        if ((source != NULL) && (destination != NULL)) {
            (void)memmove(destination, source, (size_t)nbytes);
        }
    }
}

static void get_attribute(const rpc_value_t *arguments, rpc_value_t *result)
{
    const rpc_device_t device = arguments[0].as.device;
    result->type = RPC_INT;
    switch (arguments[1].as.integer) {
    case ATTRIBUTE_EXISTS:
        result->as.integer = ((device.type == 1) && (device.id == 0)) ? 1 : 0;
        break;
    case ATTRIBUTE_NAME:
        result->type = RPC_STRING;
        result->as.string = PORT_DEVICE_NAME;
        break;
    case ATTRIBUTE_CLOCK_KHZ:
        result->as.integer = (int64_t)port_tick_hz / 1000;
        break;
    case ATTRIBUTE_TOTAL_MEMORY:
        result->as.integer = (int64_t)rpc_heap_total();
        break;
    case ATTRIBUTE_AVAILABLE_MEMORY:
        result->as.integer = (int64_t)rpc_heap_available();
        break;
    default:
        result->type = RPC_NONE;
        break;
    }
}

/* Whether the arguments have these types (0: any); raises if not. */
static int check(const rpc_value_t *arguments, int32_t count, int32_t first, int32_t second)
{
    const int32_t wanted[2] = {first, second};
    int ok = (count >= 2) ? 1 : 0;
    for (int i = 0; (i < 2) && ok; ++i) {
        ok = ((wanted[i] == 0) || (arguments[i].type == wanted[i])) ? 1 : 0;
    }
    if (!ok) {
        (void)rpc_raise(NULL, "RPC request with unexpected arguments");
    }
    return ok;
}

static void on_system_call(int32_t code)
{
    rpc_value_t result = {RPC_NONE, 0u, {0}};
    const rpc_value_t *arguments;
    const int32_t count = rpc_wire_arguments(&arguments);
    const rpc_value_t *const a = arguments;
    if (rpc_failed()) {
        finish(&result);
        return;
    }
    switch (code) {
    case RPC_CODE_GET_FUNCTION:
        if ((count < 1) || (a[0].type != RPC_STRING)) {
            (void)rpc_raise(NULL, "RPC request with unexpected arguments");
        } else {
            result.type = RPC_POINTER;
            result.as.bits = find_function(a[0].as.string);
        }
        break;
    case RPC_CODE_FREE_HANDLE: {
        evaluator_t *evaluator = (count >= 1) ? evaluator_of(a[0].as.bits) : NULL;
        if (evaluator != NULL) {
            evaluator->entry = NULL;
        }
        break;
    }
    case RPC_CODE_GET_ATTRIBUTE:
        if (check(a, count, RPC_DEVICE, RPC_INT)) {
            get_attribute(a, &result);
        }
        break;
    case RPC_CODE_ALLOC:
        if (check(a, count, RPC_DEVICE, RPC_INT)) {
            result.type = RPC_POINTER;
            result.as.bits = (uintptr_t)allocate(a[1].as.bits);
        }
        break;
    case RPC_CODE_ALLOC_WITH_SCOPE:
        if (check(a, count, RPC_TENSOR, 0)) {
            const uint64_t nbytes = rpc_tensor_bytes(a[0].as.tensor);
            result.type = RPC_POINTER;
            result.as.bits = rpc_failed() ? 0u : (uintptr_t)allocate(nbytes);
        }
        break;
    case RPC_CODE_FREE:
        if (check(a, count, RPC_DEVICE, RPC_POINTER) &&
            (rpc_heap_release(a[1].as.pointer) != 0)) {
            (void)rpc_raise(NULL, "free of memory that is not allocated");
        }
        break;
    case RPC_CODE_COPY_ON_DEVICE:
        if (check(a, count, RPC_TENSOR, RPC_TENSOR)) {
            copy_on_device(a[0].as.tensor, a[1].as.tensor);
        }
        break;
    case RPC_CODE_SET_DEVICE:
    case RPC_CODE_SYNC:
    case RPC_CODE_NEW_STREAM:
    case RPC_CODE_FREE_STREAM:
    case RPC_CODE_SET_STREAM:
    case RPC_CODE_GET_STREAM:
        /* One processor, one queue: there is nothing to wait for. */
        break;
    default:
        (void)rpc_raise(NULL, "the device does not know RPC request ");
        rpc_append_number((uint32_t)code);
        break;
    }
    finish(&result);
}

void rpc_serve(void)
{
    int32_t code;
    forget_session();
    rpc_wire_ready();
    while (rpc_wire_receive(&code) == 0) {
        switch (code) {
        case RPC_CODE_SHUTDOWN:
            rpc_wire_drain();
            forget_session();
            break;
        case RPC_CODE_INIT:
            on_init();
            break;
        case RPC_CODE_CALL:
            on_call();
            break;
        case RPC_CODE_COPY_TO_DEVICE:
            on_copy_to_device();
            break;
        case RPC_CODE_COPY_FROM_DEVICE:
            on_copy_from_device();
            break;
        default:
            on_system_call(code);
            break;
        }
    }
}
