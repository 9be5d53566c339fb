/* One request in, one reply out. Private to the RPC server.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RPC_WIRE_H
#define RPC_WIRE_H

#include "rpc_server.h"

#define RPC_PROTOCOL "0.8.0"
#define RPC_MAX_ARGUMENTS 24

/* Request and reply codes (tvm/runtime/rpc: RPCCode). */
enum rpc_code {
    RPC_CODE_SHUTDOWN = 1,
    RPC_CODE_INIT,
    RPC_CODE_CALL,
    RPC_CODE_RETURN,
    RPC_CODE_EXCEPTION,
    RPC_CODE_COPY_FROM_DEVICE,
    RPC_CODE_COPY_TO_DEVICE,
    RPC_CODE_COPY_ACK,
    RPC_CODE_GET_FUNCTION,
    RPC_CODE_FREE_HANDLE,
    RPC_CODE_SET_DEVICE,
    RPC_CODE_GET_ATTRIBUTE,
    RPC_CODE_ALLOC,
    RPC_CODE_FREE,
    RPC_CODE_SYNC,
    RPC_CODE_COPY_ON_DEVICE,
    RPC_CODE_ALLOC_WITH_SCOPE,
    RPC_CODE_NEW_STREAM,
    RPC_CODE_FREE_STREAM,
    RPC_CODE_SET_STREAM,
    RPC_CODE_GET_STREAM,
    RPC_CODE_LOG = 0x474f4c /* ours, to the bridge: TVM never sees it */
};

/* Says once that the device is up: a packet of no bytes. */
void rpc_wire_ready(void);

/* Waits for a request, forgets the last one's arguments and error, returns its code. */
int rpc_wire_receive(int32_t *code);

/* Parts of the request. A request that is too short raises and gives zeros. */
uint64_t rpc_wire_u64(void);
void rpc_wire_copy(void *destination, uint64_t nbytes);
const char *rpc_wire_string(uint64_t nbytes);
rpc_tensor_t *rpc_wire_tensor(void);
int32_t rpc_wire_arguments(const rpc_value_t **arguments);

/* Reads what is left of the request; call before a reply. */
void rpc_wire_drain(void);

/* Replies. A function's carries the value and its type, a system call's the value alone. */
void rpc_wire_reply(const rpc_value_t *value);
void rpc_wire_reply_call(const rpc_value_t *value);
void rpc_wire_reply_data(const void *data, uint64_t nbytes);
void rpc_wire_reply_error(void);

/* Errors of the request; rpc_raise() begins one. */
int rpc_failed(void);
void rpc_forget_error(void);
const char *rpc_error_text(void);
void rpc_append(const char *text);
void rpc_append_hex(uintptr_t number);
void rpc_append_number(uint32_t number);

#endif /* RPC_WIRE_H */
