/* TVM RPC server for a microcontroller: protocol 0.8.0, as TVM 0.27's stock client speaks it.
 *
 * The device needs no packet buffer: requests are read from the byte stream, tensor data goes
 * straight between the link and its place in the heap.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include <stddef.h>
#include <stdint.h>

/* Types of values as they are on the wire (tvm-ffi type indices). */
enum rpc_type {
    RPC_NONE = 0,
    RPC_INT = 1,
    RPC_BOOL = 2,
    RPC_FLOAT = 3,
    RPC_POINTER = 4,
    RPC_DTYPE = 5,
    RPC_DEVICE = 6,
    RPC_TENSOR = 7,
    RPC_STRING = 8,
    RPC_BYTES = 9,
    RPC_SMALL_STRING = 11,
    RPC_SMALL_BYTES = 12,
    RPC_STRING_OBJECT = 65,
    RPC_BYTES_OBJECT = 66,
    RPC_FUNCTION = 68,
    RPC_MODULE = 73
};

/* Element kinds of tensors (DLDataTypeCode). */
enum rpc_dtype_code {
    RPC_DTYPE_INT = 0,
    RPC_DTYPE_UINT = 1,
    RPC_DTYPE_FLOAT = 2,
    RPC_DTYPE_BOOL = 6
};

typedef struct rpc_device {
    int32_t type;
    int32_t id;
} rpc_device_t;

typedef struct rpc_dtype {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
} rpc_dtype_t;

typedef struct rpc_bytes {
    const char *data;
    size_t nbytes;
} rpc_bytes_t;

/* The layout of DLTensor on a 32-bit processor. */
typedef struct rpc_tensor {
    void *data;
    rpc_device_t device;
    int32_t ndim;
    rpc_dtype_t dtype;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} rpc_tensor_t;

/* The layout of TVMFFIAny. */
typedef struct rpc_value {
    int32_t type;
    uint32_t reserved;
    union {
        int64_t integer;
        uint64_t bits;
        double number;
        void *pointer;
        const char *string;
        const rpc_bytes_t *bytes;
        rpc_tensor_t *tensor;
        rpc_device_t device;
    } as;
} rpc_value_t;

/* A function that the host may call: tvm-ffi's "safe call". Returns 0, or what rpc_raise() gives.
 * Arguments live until it returns; `result` starts as RPC_NONE. */
typedef int (*rpc_function_t)(void *self, const rpc_value_t *arguments, int32_t count,
                              rpc_value_t *result);

typedef struct rpc_entry {
    const char *name;
    rpc_function_t function;
    void *self;
} rpc_entry_t;

/* Given by the application; ends with {NULL, NULL, NULL}. */
extern const rpc_entry_t rpc_registry[];

/* Notes an error for the host; the first one of a request counts. `subject` may be NULL.
 * Returns -1. */
int rpc_raise(const char *subject, const char *message);

/* Bytes of a tensor's elements; raises and returns 0 for a shape that is none. */
uint64_t rpc_tensor_bytes(const rpc_tensor_t *tensor);

/* Where the first element is, if `nbytes` from there lie inside one allocated block; else
 * raises, NULL. */
void *rpc_tensor_data(const rpc_tensor_t *tensor, uint64_t nbytes);

/* A line for the host's log. Only from a function that the host called. */
enum rpc_log_level {
    RPC_LOG_DEBUG = 10,
    RPC_LOG_INFO = 20,
    RPC_LOG_WARNING = 30,
    RPC_LOG_ERROR = 40
};
void rpc_log(enum rpc_log_level level, const char *text);

/* What is known of the last fault, as the host reads it. */
const char *rpc_fault_text(void);

/* Answers requests until the host connects anew. */
void rpc_serve(void);

#endif /* RPC_SERVER_H */
