/* MAVLink 2: messages as payload bytes, frames packed and found in a stream. The C twin of sim2sky/runtime/link.py.
 * Payloads are read and written with bytes.h at the places that mavlink_table.h names. Nothing is signed, and
 * signatures are not looked at: where messages must be signed, this is not enough. */
#ifndef SIM2SKY_MAVLINK_H
#define SIM2SKY_MAVLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "mavlink_table.h"

enum { S2S_MAV_MAX_PAYLOAD = 255, S2S_MAV_MAX_FRAME = 10 + S2S_MAV_MAX_PAYLOAD + 2 + 13 };

typedef struct {
    uint32_t id;
    uint8_t system, component, sequence;
    uint8_t payload[S2S_MAV_MAX_PAYLOAD]; /* what was cut off at the end is zero */
} s2s_mav_message;

void s2s_mav_init(s2s_mav_message *m, uint32_t id); /* all zero */

/* Packs a message of mavlink_table.h into `frame` (S2S_MAV_MAX_FRAME bytes); its length, 0 for another message. */
size_t s2s_mav_pack(const s2s_mav_message *m, uint8_t *frame);

/* Finds frames. `frames`: with a good checksum; `damaged`: places where bytes were no frame; `unknown`: messages that
 * the dialect does not have, skipped; `version1`: MAVLink 1 frames, not read. */
typedef struct {
    uint8_t buffer[S2S_MAV_MAX_FRAME];
    uint16_t size;
    bool in_step;
    uint32_t frames, damaged, unknown, version1;
} s2s_mav_reader;

void s2s_mav_reader_init(s2s_mav_reader *r);
/* Takes bytes from *data (advancing it, lowering *n) until a message is complete; false where none is: then all bytes
 * are taken. Call it until it says so. `whole`: the bytes begin and end with a message (a datagram). */
bool s2s_mav_read(s2s_mav_reader *r, const uint8_t **data, size_t *n, bool whole, s2s_mav_message *m);

#endif
