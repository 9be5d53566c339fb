/* Reading requests and writing replies as a stream; nothing but arguments is kept in memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rpc_wire.h"

#include <string.h>

#include "port.h"

#define ARGUMENT_BYTES 1536u
#define MESSAGE_BYTES 200u
#define LINE_BYTES 120u
#define MAX_DIMENSIONS 16

static char message[MESSAGE_BYTES];
static int failed;

static uint64_t left; /* bytes of the request not yet read */

static union {
    uint64_t align;
    uint8_t bytes[ARGUMENT_BYTES];
} arena;
static size_t arena_used;

static rpc_value_t values[RPC_MAX_ARGUMENTS];

/* ---- errors ---- */

void rpc_append(const char *text)
{
    size_t used = strlen(message);
    while ((*text != '\0') && (used < MESSAGE_BYTES - 1u)) {
        message[used++] = *text++;
    }
    message[used] = '\0';
}

void rpc_append_number(uint32_t number)
{
    char digits[11];
    char *first = &digits[sizeof(digits) - 1u];
    *first = '\0';
    do {
        *--first = (char)('0' + (number % 10u));
        number /= 10u;
    } while (number != 0u);
    rpc_append(first);
}

int rpc_raise(const char *subject, const char *text)
{
    if (!failed) {
        failed = 1;
        message[0] = '\0';
        if (subject != NULL) {
            rpc_append(subject);
            rpc_append(": ");
        }
        rpc_append(text);
    }
    return -1;
}

void rpc_append_hex(uintptr_t number)
{
    char digits[(2u * sizeof(number)) + 3u];
    char *first = &digits[sizeof(digits) - 1u];
    *first = '\0';
    do {
        *--first = "0123456789abcdef"[number & 15u];
        number >>= 4;
    } while (number != 0u);
    *--first = 'x';
    *--first = '0';
    rpc_append(first);
}

int rpc_failed(void)
{
    return failed;
}

void rpc_forget_error(void)
{
    failed = 0;
}

const char *rpc_error_text(void)
{
    return message;
}

/* ---- the request ---- */

int rpc_wire_receive(int32_t *code)
{
    *code = 0;
    do {
        if (port_read(&left, sizeof(left)) != 0) {
            return -1;
        }
    } while (left == 0u);
    failed = 0;
    arena_used = 0u;
    rpc_wire_copy(code, sizeof(*code));
    return 0;
}

void rpc_wire_copy(void *destination, uint64_t nbytes)
{
    if (nbytes > left) {
        (void)rpc_raise(NULL, "RPC request is too short");
        return;
    }
    left -= nbytes;
    if (port_read(destination, (size_t)nbytes) != 0) {
        (void)memset(destination, 0, (size_t)nbytes);
        left = 0u;
        (void)rpc_raise(NULL, "the host began a new session");
    }
}

static int32_t read_i32(void)
{
    int32_t value = 0;
    rpc_wire_copy(&value, sizeof(value));
    return value;
}

uint64_t rpc_wire_u64(void)
{
    uint64_t value = 0u;
    rpc_wire_copy(&value, sizeof(value));
    return value;
}

void rpc_wire_drain(void)
{
    uint8_t ignored[64];
    while (left != 0u) {
        const size_t part = (left < sizeof(ignored)) ? (size_t)left : sizeof(ignored);
        left = (port_read(ignored, part) == 0) ? left - part : 0u;
    }
}

static void *take(uint64_t nbytes)
{
    const uint64_t rounded = (nbytes + 7u) & ~(uint64_t)7u;
    if ((nbytes > ARGUMENT_BYTES) || (rounded > ARGUMENT_BYTES - arena_used)) {
        (void)rpc_raise(NULL, "arguments are too large for the device");
        return NULL;
    }
    void *memory = &arena.bytes[arena_used];
    arena_used += (size_t)rounded;
    return memory;
}

const char *rpc_wire_string(uint64_t nbytes)
{
    if (nbytes > left) {
        (void)rpc_raise(NULL, "RPC string is longer than its request");
        return NULL;
    }
    char *text = take(nbytes + 1u);
    if (text != NULL) {
        rpc_wire_copy(text, nbytes);
        text[nbytes] = '\0';
    }
    return text;
}

rpc_tensor_t *rpc_wire_tensor(void)
{
    rpc_tensor_t *tensor = take(sizeof(*tensor));
    if (tensor == NULL) {
        return NULL;
    }
    (void)memset(tensor, 0, sizeof(*tensor));
    const uint64_t address = rpc_wire_u64();
    rpc_wire_copy(&tensor->device, sizeof(tensor->device));
    tensor->ndim = read_i32();
    rpc_wire_copy(&tensor->dtype, sizeof(tensor->dtype));
    if (failed) {
        return NULL;
    }
    if ((address >> 32) != 0u) {
        (void)rpc_raise(NULL, "tensor address has more than 32 bits");
        return NULL;
    }
    if ((tensor->ndim < 0) || (tensor->ndim > MAX_DIMENSIONS)) {
        (void)rpc_raise(NULL, "tensor has too many dimensions for the device");
        return NULL;
    }
    tensor->data = (void *)(uintptr_t)address;
    tensor->shape = take(8u * (uint32_t)tensor->ndim);
    if (tensor->shape == NULL) {
        return NULL;
    }
    rpc_wire_copy(tensor->shape, 8u * (uint32_t)tensor->ndim);
    tensor->byte_offset = rpc_wire_u64();
    return failed ? NULL : tensor;
}

static void read_bytes(rpc_value_t *value)
{
    const uint64_t nbytes = rpc_wire_u64();
    const char *text = rpc_wire_string(nbytes);
    if (value->type == RPC_STRING) {
        value->as.string = text;
        return;
    }
    rpc_bytes_t *bytes = take(sizeof(*bytes));
    if (bytes != NULL) {
        bytes->data = text;
        bytes->nbytes = (size_t)nbytes;
        value->as.bytes = bytes;
    }
}

static void read_value(rpc_value_t *value)
{
    (void)memset(value, 0, sizeof(*value));
    value->type = read_i32();
    switch (value->type) {
    case RPC_NONE:
        break;
    case RPC_INT:
    case RPC_BOOL:
    case RPC_FLOAT:
    case RPC_DTYPE:
    case RPC_DEVICE:
    case RPC_FUNCTION:
    case RPC_MODULE:
        value->as.bits = rpc_wire_u64();
        break;
    case RPC_POINTER:
        value->as.bits = rpc_wire_u64();
        if ((value->as.bits >> 32) != 0u) {
            (void)rpc_raise(NULL, "handle has more than 32 bits");
        }
        break;
    case RPC_TENSOR:
        value->as.tensor = rpc_wire_tensor();
        break;
    case RPC_STRING_OBJECT:
    case RPC_SMALL_STRING:
    case RPC_BYTES_OBJECT:
    case RPC_SMALL_BYTES: {
        /* Objects carry their type a second time. */
        const int32_t kind = read_i32();
        value->type = (kind == RPC_STRING_OBJECT) ? RPC_STRING : RPC_BYTES;
        read_bytes(value);
        break;
    }
    case RPC_STRING:
    case RPC_BYTES:
        read_bytes(value);
        break;
    default:
        (void)rpc_raise(NULL, "the device does not take arguments of this type");
        break;
    }
}

int32_t rpc_wire_arguments(const rpc_value_t **arguments)
{
    const int32_t count = read_i32();
    *arguments = values;
    if ((count < 0) || (count > RPC_MAX_ARGUMENTS)) {
        (void)rpc_raise(NULL, "too many arguments for the device");
        return 0;
    }
    for (int32_t i = 0; (i < count) && !failed; ++i) {
        read_value(&values[i]);
    }
    return failed ? 0 : count;
}

/* ---- replies ---- */

static void write_i32(int32_t value)
{
    port_write(&value, sizeof(value));
}

static void write_u64(uint64_t value)
{
    port_write(&value, sizeof(value));
}

static void write_head(int32_t code, uint64_t body)
{
    write_u64(sizeof(code) + body);
    write_i32(code);
}

static uint64_t size_of(const rpc_value_t *value)
{
    switch (value->type) {
    case RPC_NONE:
        return 4u;
    case RPC_STRING:
        return 12u + (uint64_t)strlen(value->as.string);
    case RPC_BYTES:
        return 12u + (uint64_t)value->as.bytes->nbytes;
    default:
        return 12u;
    }
}

static void write_value(const rpc_value_t *value)
{
    /* A function travels as an opaque handle. */
    write_i32((value->type == RPC_FUNCTION) ? RPC_POINTER : value->type);
    switch (value->type) {
    case RPC_NONE:
        break;
    case RPC_STRING:
        write_u64(strlen(value->as.string));
        port_write(value->as.string, strlen(value->as.string));
        break;
    case RPC_BYTES:
        write_u64(value->as.bytes->nbytes);
        port_write(value->as.bytes->data, value->as.bytes->nbytes);
        break;
    case RPC_POINTER:
    case RPC_FUNCTION:
        write_u64((uintptr_t)value->as.pointer);
        break;
    default:
        write_u64(value->as.bits);
        break;
    }
}

void rpc_wire_ready(void)
{
    write_u64(0u);
    port_flush();
}

void rpc_wire_reply(const rpc_value_t *value)
{
    write_head(RPC_CODE_RETURN, 4u + size_of(value));
    write_i32(1);
    write_value(value);
    port_flush();
}

void rpc_wire_reply_call(const rpc_value_t *value)
{
    rpc_value_t type = {RPC_INT, 0u, {0}};
    switch (value->type) {
    case RPC_STRING:
        type.as.integer = RPC_STRING_OBJECT;
        break;
    case RPC_BYTES:
        type.as.integer = RPC_BYTES_OBJECT;
        break;
    default:
        type.as.integer = value->type;
        break;
    }
    write_head(RPC_CODE_RETURN, 4u + size_of(&type) + size_of(value));
    write_i32(2);
    write_value(&type);
    write_value(value);
    port_flush();
}

void rpc_wire_reply_data(const void *data, uint64_t nbytes)
{
    write_head(RPC_CODE_COPY_ACK, nbytes);
    port_write(data, (size_t)nbytes);
    port_flush();
}

void rpc_wire_reply_error(void)
{
    rpc_value_t text = {RPC_STRING, 0u, {0}};
    text.as.string = message;
    write_head(RPC_CODE_EXCEPTION, 4u + size_of(&text));
    write_i32(1);
    write_value(&text);
    port_flush();
}

void rpc_log(enum rpc_log_level level, const char *text)
{
    char line[LINE_BYTES]; /* first the text, which may fault, then the packet */
    size_t nbytes = 0u;
    while ((nbytes < LINE_BYTES) && (text[nbytes] != '\0')) {
        line[nbytes] = text[nbytes];
        ++nbytes;
    }
    write_head(RPC_CODE_LOG, sizeof(int32_t) + nbytes);
    write_i32((int32_t)level);
    port_write(line, nbytes);
    port_flush();
}
