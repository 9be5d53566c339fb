/* The device's end of a serial line that loses, flips and doubles bytes; see frames.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "frames.h"

#include <string.h>

#include "port.h"
#include "uart.h"

#define HEAD_BYTES 9u
#define CRC_BYTES 4u
#define FRAME_BYTES (HEAD_BYTES + FRAME_PAYLOAD + CRC_BYTES)
#define CODED_BYTES (FRAME_BYTES + 1u) /* below 255 bytes one more is enough */

typedef char frames_fit_one_code[(FRAME_BYTES <= 254u) ? 1 : -1];

static uint16_t session; /* 0: none */
static uint16_t next_in;
static uint8_t in[FRAME_PAYLOAD]; /* taken, not yet read */
static size_t in_at;
static size_t in_end;

static uint16_t first_out;
static uint8_t out[FRAME_PAYLOAD]; /* not acknowledged */
static size_t out_used;
static size_t limit;

static int renewed; /* a session began, of which the server does not know yet */

static uint32_t crc32(const uint8_t *bytes, size_t nbytes)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0u; i < nbytes; ++i) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
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

static void send(enum frame_kind kind, uint16_t to, const uint8_t *payload, size_t nbytes)
{
    static uint8_t coded[CODED_BYTES + 2u]; /* [0]: end of whatever noise came before */
    uint8_t *const frame = &coded[2];
    frame[0] = (uint8_t)kind;
    put16(&frame[1], to);
    put16(&frame[3], first_out);
    put16(&frame[5], next_in);
    frame[7] = (uint8_t)FRAME_PAYLOAD;
    frame[8] = (uint8_t)nbytes;
    if (nbytes != 0u) {
        (void)memcpy(&frame[HEAD_BYTES], payload, nbytes);
    }
    const size_t checked = HEAD_BYTES + nbytes;
    const uint32_t crc = crc32(frame, checked);
    put16(&frame[checked], (uint16_t)(crc & 0xffffu));
    put16(&frame[checked + 2u], (uint16_t)(crc >> 16));
    /* Each zero becomes the distance to the next one. */
    const size_t end = checked + CRC_BYTES;
    size_t zero = 1u;
    coded[0] = 0u;
    for (size_t i = 2u; i < end + 2u; ++i) {
        if (coded[i] == 0u) {
            coded[zero] = (uint8_t)(i - zero);
            zero = i;
        }
    }
    coded[zero] = (uint8_t)(end + 2u - zero);
    uart_write(coded, end + 2u);
    uart_write(coded, 1u);
}

static void answer(void)
{
    send(FRAME_DATA, session, out, (out_used < limit) ? out_used : limit);
}

/* ---- in ---- */

/* Undoes the code in place; the frame's length, or 0 if there is none. */
static size_t decode(uint8_t *bytes, size_t nbytes)
{
    size_t at = 0u;
    size_t end = 0u;
    while (at < nbytes) {
        const size_t code = bytes[at++];
        if ((code == 0u) || (at + code - 1u > nbytes)) {
            return 0u;
        }
        for (size_t i = 1u; i < code; ++i) {
            bytes[end++] = bytes[at++];
        }
        if (at < nbytes) {
            bytes[end++] = 0u;
        }
    }
    if ((end < HEAD_BYTES + CRC_BYTES) || (end != HEAD_BYTES + bytes[8] + CRC_BYTES)) {
        return 0u;
    }
    const size_t checked = end - CRC_BYTES;
    const uint32_t crc =
        (uint32_t)get16(&bytes[checked]) | ((uint32_t)get16(&bytes[checked + 2u]) << 16);
    return (crc == crc32(bytes, checked)) ? end : 0u;
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
    limit = FRAME_PAYLOAD;
    send(FRAME_WELCOME, session, NULL, 0u);
    renewed = 1;
}

static void take(const uint8_t *frame)
{
    const uint16_t acknowledged = (uint16_t)(get16(&frame[5]) - first_out);
    if (acknowledged <= out_used) {
        out_used -= acknowledged;
        (void)memmove(out, &out[acknowledged], out_used);
        first_out = (uint16_t)(first_out + acknowledged);
    }
    limit = (frame[7] < FRAME_PAYLOAD) ? frame[7] : FRAME_PAYLOAD;
    const size_t nbytes = frame[8];
    const uint16_t known = (uint16_t)(next_in - get16(&frame[3]));
    if ((known < nbytes) && (in_at == in_end) && (nbytes <= FRAME_PAYLOAD)) {
        in_at = 0u;
        in_end = nbytes - known;
        (void)memcpy(in, &frame[HEAD_BYTES + known], in_end);
        next_in = (uint16_t)(next_in + in_end);
    }
}

/* Waits for a frame and does what it says. */
static void step(void)
{
    static uint8_t frame[CODED_BYTES];
    size_t nbytes = 0u;
    int fits = 1;
    for (uint8_t byte = uart_read(); (byte != 0u) || (nbytes == 0u); byte = uart_read()) {
        if (byte == 0u) {
            continue;
        }
        if (nbytes == CODED_BYTES) {
            fits = 0;
            nbytes = 0u;
        }
        frame[nbytes++] = byte;
    }
    const int whole = (fits && (decode(frame, nbytes) != 0u)) ? 1 : 0;
    const uint16_t of = get16(&frame[1]);
    if (whole && (frame[0] == FRAME_HELLO) && (of != 0u)) {
        begin(of);
    } else if (whole && (frame[0] == FRAME_DATA) && (of != session)) {
        if (session == 0u) {
            send(FRAME_UNKNOWN, of, NULL, 0u);
        }
    } else if (session != 0u) {
        if (whole && (frame[0] == FRAME_DATA)) {
            take(frame);
        }
        answer();
    } else {
        /* Noise before the first session. */
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
            while (out_used == FRAME_PAYLOAD) {
                step();
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
