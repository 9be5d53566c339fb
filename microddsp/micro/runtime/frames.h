/* Frames on a serial line. Between two zero bytes lies, encoded so that it has none itself (COBS):
 *
 *     kind 1 | session 2 | seq 2 | ack 2 | limit 1 | length 1 | payload | CRC-32 4    little endian
 *
 * Both sides number their bytes: `seq` is that of the payload's first, `ack` the next one that is
 * wanted, `limit` the most that the other side shall send at once. The device answers each frame of
 * its session, and each damaged one, with one frame; the host sends again until it has an answer.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FRAMES_H
#define FRAMES_H

#define FRAME_PAYLOAD 224u

enum frame_kind {
    FRAME_HELLO = 0x31,   /* a host begins a session: the device forgets all others */
    FRAME_WELCOME = 0x32, /* its answer */
    FRAME_DATA = 0x33,
    FRAME_UNKNOWN = 0x34 /* the device has no session: it was reset */
};

#endif /* FRAMES_H */
