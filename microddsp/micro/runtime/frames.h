/* Frames on a serial line. Between two zero bytes lies, encoded so that it has none itself:
 *
 *     kind 1 | session 2 | seq 2 | ack 2 | limit 2 | length 2 | payload | CRC-32 4    little endian
 *
 * Both sides number their bytes: `seq` is that of the payload's first, `ack` the next one that is
 * wanted, `limit` the most that the other side shall send at once. The first frame of each side
 * says so for the whole session. The device answers each frame of its session, and each damaged
 * one, with one frame, before it computes; a frame that asks, with the reply if it can. The host
 * asks where the device computed for a few milliseconds last time, and sends again until it has an
 * answer.
 *
 * Where FRAME_CHANGES is set in the kind, each byte of the payload is the exclusive or with that of
 * the last payload that was taken, as far as that reached: questions are much alike. The CRC is
 * that of what is meant: a device that has something else there finds the frame damaged, and the
 * host sends it again as it is.
 *
 * The code is COBS with runs of zeros, of which requests have many. A byte tells what follows:
 *
 *     1 to 182:   so many bytes less one, then one zero
 *     183:        182 bytes
 *     184 to 199: (code - 183) * 16 zeros
 *     200 to 255: (code - 200) / 8 bytes, then (code - 200) % 8 + 2 zeros
 *
 * The last zero of all is not the frame's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FRAMES_H
#define FRAMES_H

/* The longest payload, 8 to 16384 bytes. The link has two buffers of this size and 0.3 kB. */
#ifndef FRAME_PAYLOAD
#define FRAME_PAYLOAD 1024u
#endif

enum frame_kind {
    FRAME_HELLO = 0x31,   /* a host begins a session: the device forgets all others */
    FRAME_WELCOME = 0x32, /* its answer */
    FRAME_DATA = 0x33,
    FRAME_UNKNOWN = 0x34, /* the device has no session: it was reset */
    FRAME_ASK = 0x35,     /* data that the server's reply may answer */
    FRAME_CHANGES = 0x80  /* a bit of DATA and ASK, in frames of the host */
};

#endif /* FRAMES_H */
