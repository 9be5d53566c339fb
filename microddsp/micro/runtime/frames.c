/* The device's end of a serial line that loses, flips and doubles bytes; see frames.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "frames.h"

#include <string.h>

#include "port.h"
#include "uart.h"

#define HEAD_BYTES 11u
#define CRC_BYTES 4u
#define FULL 183u    /* the code of so many bytes with itself, and of no zero */
#define SEVERAL 200u /* codes from here on are of several zeros, those between of many */
#define MOST_LITERALS 6u
#define MOST_ZEROS 9u
#define MANY 16u
#define MOST_MANY ((SEVERAL - FULL - 1u) * MANY)
#define SENT_AT_ONCE 255u /* at least FULL */
#define CRC_OF_ALL 0xdebb20e3u /* of a frame together with its CRC */

typedef char payload_has_a_size[((FRAME_PAYLOAD >= 8u) && (FRAME_PAYLOAD <= 16384u)) ? 1 : -1];

static uint16_t session; /* 0: none */
static uint16_t next_in;
static uint8_t in[FRAME_PAYLOAD]; /* taken, not yet read */
static size_t in_at;
static size_t in_end;

static uint16_t first_out;
static uint8_t out[FRAME_PAYLOAD]; /* not acknowledged */
static size_t out_used;
static size_t limit;

static int owing;   /* an answer to a frame */
static int renewed; /* a session began, of which the server does not know yet */

static uint32_t crc32(uint32_t crc, uint8_t byte)
{
    static const uint32_t of_bits[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
        0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
        0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    crc ^= byte;
    crc = (crc >> 4) ^ of_bits[crc & 15u];
    return (crc >> 4) ^ of_bits[crc & 15u];
}

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)((uint32_t)at[0] | ((uint32_t)at[1] << 8));
}

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value & 0xffu);
    at[1] = (uint8_t)(value >> 8);
}

/* ---- out ---- */

/* A frame under way, encoded piece by piece while the UART sends. */
static struct {
    uint8_t coded[SENT_AT_ONCE + 4u]; /* a byte may end four codes */
    size_t used;
    size_t open;  /* where the next code will stand */
    size_t zeros; /* since */
    uint32_t crc;
} sending;

static void close_code(void)
{
    size_t literals = sending.used - sending.open - 1u;
    do {
        size_t zeros = sending.zeros;
        size_t code = literals + 1u;
        if ((literals == 0u) && (zeros >= MANY)) {
            zeros -= zeros % MANY;
            code = FULL + (zeros / MANY);
        } else if (zeros >= 2u) {
            zeros = (zeros < MOST_ZEROS) ? zeros : MOST_ZEROS;
            code = SEVERAL + (8u * literals) + zeros - 2u;
        } else {
            /* One zero, or none where there are as many bytes as a code can have. */
        }
        sending.coded[sending.open] = (uint8_t)code;
        sending.open = sending.used++;
        sending.zeros -= zeros;
        literals = 0u;
    } while (sending.zeros != 0u);
}

/* How many zeros a code may have behind so many bytes. */
static size_t most_zeros(size_t literals)
{
    if (literals == 0u) {
        return MOST_MANY;
    }
    return (literals <= MOST_LITERALS) ? MOST_ZEROS : 1u;
}

static void put(const uint8_t *bytes, size_t nbytes)
{
    for (size_t i = 0u; i < nbytes; ++i) {
        sending.crc = crc32(sending.crc, bytes[i]);
        if (bytes[i] == 0u) {
            ++sending.zeros;
            if (sending.zeros == most_zeros(sending.used - sending.open - 1u)) {
                close_code();
            }
        } else {
            if (sending.zeros != 0u) {
                close_code();
            }
            sending.coded[sending.used++] = bytes[i];
            if (sending.used - sending.open == FULL) {
                close_code();
            }
        }
        if (sending.used > SENT_AT_ONCE) {
            uart_write(sending.coded, sending.open);
            sending.used -= sending.open;
            (void)memmove(sending.coded, &sending.coded[sending.open], sending.used);
            sending.open = 0u;
        }
    }
}

static void send(enum frame_kind kind, uint16_t to, const uint8_t *payload, size_t nbytes)
{
    uint8_t head[HEAD_BYTES];
    uint8_t check[CRC_BYTES];
    head[0] = (uint8_t)kind;
    put16(&head[1], to);
    put16(&head[3], first_out);
    put16(&head[5], next_in);
    put16(&head[7], (uint16_t)FRAME_PAYLOAD);
    put16(&head[9], (uint16_t)nbytes);
    sending.coded[0] = 0u; /* ends whatever noise came before */
    sending.open = 1u;
    sending.used = 2u;
    sending.zeros = 0u;
    sending.crc = UINT32_MAX;
    put(head, sizeof(head));
    put(payload, nbytes);
    const uint32_t crc = ~sending.crc;
    put16(&check[0], (uint16_t)(crc & 0xffffu));
    put16(&check[2], (uint16_t)(crc >> 16));
    put(check, sizeof(check));
    ++sending.zeros;
    close_code();
    sending.coded[sending.open] = 0u;
    uart_write(sending.coded, sending.used);
}

static void answer(void)
{
    owing = 0;
    send(FRAME_DATA, session, out, (out_used < limit) ? out_used : limit);
}

/* ---- in ---- */

/* A frame that comes. Its payload goes to `in`, or nowhere while that is not read: no buffer of its
 * own is needed. */
static struct {
    uint8_t head[HEAD_BYTES];
    size_t nbytes;
    uint32_t crc;
} coming;

static int is_of_kind(enum frame_kind kind)
{
    return (coming.head[0] & (uint8_t)~FRAME_CHANGES) == (uint8_t)kind;
}

static void get(uint8_t byte)
{
    const size_t at = coming.nbytes - HEAD_BYTES;
    if (coming.nbytes < HEAD_BYTES) {
        coming.head[coming.nbytes] = byte;
    } else if ((in_at == in_end) && (at < FRAME_PAYLOAD) && (at < get16(&coming.head[9]))) {
        if (((coming.head[0] & FRAME_CHANGES) != 0u) && (at < in_end)) {
            byte ^= in[at];
        }
        in[at] = byte;
    } else {
        /* Too long, too early, or its CRC. */
    }
    coming.crc = crc32(coming.crc, byte);
    ++coming.nbytes;
}

/* Waits for a frame; whether it is whole. */
static int receive(void)
{
    size_t left = 0u;  /* bytes to the next code */
    size_t zeros = 0u; /* before it */
    coming.nbytes = 0u;
    coming.crc = UINT32_MAX;
    uint8_t byte = uart_read();
    while (byte == 0u) {
        byte = uart_read();
    }
    for (; byte != 0u; byte = uart_read()) {
        if (left != 0u) {
            get(byte);
            --left;
            continue;
        }
        for (; zeros != 0u; --zeros) {
            get(0u);
        }
        if (byte >= SEVERAL) {
            left = (byte - SEVERAL) / 8u;
            zeros = ((byte - SEVERAL) % 8u) + 2u;
        } else if (byte > FULL) {
            zeros = (byte - FULL) * MANY;
        } else {
            left = byte - 1u;
            zeros = (byte == FULL) ? 0u : 1u;
        }
    }
    const int ended = (left == 0u) && (zeros != 0u);
    for (; zeros > 1u; --zeros) {
        get(0u);
    }
    return ended && (coming.crc == CRC_OF_ALL) && (coming.nbytes >= HEAD_BYTES + CRC_BYTES) &&
           (coming.nbytes == HEAD_BYTES + get16(&coming.head[9]) + CRC_BYTES);
}

static void obey_limit(void)
{
    const size_t theirs = get16(&coming.head[7]);
    limit = (theirs < FRAME_PAYLOAD) ? theirs : FRAME_PAYLOAD;
}

static void begin(uint16_t with)
{
    if (with == session) { /* the answer was lost */
        send(FRAME_WELCOME, session, NULL, 0u);
        return;
    }
    session = with;
    next_in = 0u;
    first_out = 0u;
    in_at = 0u;
    in_end = 0u;
    out_used = 0u;
    owing = 0;
    obey_limit();
    send(FRAME_WELCOME, session, NULL, 0u);
    renewed = 1;
}

static void take(void)
{
    const uint16_t acknowledged = (uint16_t)(get16(&coming.head[5]) - first_out);
    if (acknowledged <= out_used) {
        out_used -= acknowledged;
        (void)memmove(out, &out[acknowledged], out_used);
        first_out = (uint16_t)(first_out + acknowledged);
    }
    obey_limit();
    const size_t nbytes = get16(&coming.head[9]);
    const uint16_t known = (uint16_t)(next_in - get16(&coming.head[3]));
    if ((known < nbytes) && (in_at == in_end) && (nbytes <= FRAME_PAYLOAD)) {
        in_at = known;
        in_end = nbytes;
        next_in = (uint16_t)(next_in + (nbytes - known));
    }
}

/* Waits for a frame and does what it says; whether it wants an answer. */
static int hear(void)
{
    const int whole = receive();
    const int data = whole && (is_of_kind(FRAME_DATA) || is_of_kind(FRAME_ASK));
    const uint16_t of = get16(&coming.head[1]);
    if (whole && (coming.head[0] == FRAME_HELLO) && (of != 0u)) {
        begin(of);
    } else if (data && (of != session)) {
        if (session == 0u) {
            send(FRAME_UNKNOWN, of, NULL, 0u);
        }
    } else if (session != 0u) {
        if (data) {
            take();
        }
        return 1;
    } else {
        /* Noise before the first session. */
    }
    return 0;
}

static void step(void)
{
    if (owing) { /* the server has no reply yet: it waits for more */
        answer();
    }
    if (hear()) {
        owing = 1;
        if (!is_of_kind(FRAME_ASK)) {
            answer();
        }
    }
}

/* ---- the port ---- */

void port_run(void (*serve)(void))
{
    static const uint8_t up = 0u; /* no frame; tells only that from now on bytes are heard */
    uart_init();
    uart_write(&up, 1u);
    for (;;) {
        while (session == 0u) {
            step();
        }
        renewed = 0;
        serve();
    }
}

int port_read(void *destination, size_t nbytes)
{
    uint8_t *place = destination;
    while ((nbytes != 0u) && !renewed) {
        if (in_at == in_end) {
            step();
            continue;
        }
        const size_t there = in_end - in_at;
        const size_t part = (nbytes < there) ? nbytes : there;
        (void)memcpy(place, &in[in_at], part);
        in_at += part;
        place += part;
        nbytes -= part;
    }
    return renewed ? -1 : 0;
}

void port_write(const void *source, size_t nbytes)
{
    const uint8_t *from = source;
    while ((nbytes != 0u) && !renewed) { /* nobody waits for an answer of the old session */
        const size_t room = FRAME_PAYLOAD - out_used;
        const size_t part = (nbytes < room) ? nbytes : room;
        (void)memcpy(&out[out_used], from, part);
        out_used += part;
        from += part;
        nbytes -= part;
        if (nbytes != 0u) {
            answer();
            while (!hear() && !renewed) {
                /* Not for this session. What is answered next is not yet all in `out`. */
            }
        }
    }
}

void port_flush(void)
{
    if ((out_used != 0u) && !renewed) {
        answer();
    }
}
