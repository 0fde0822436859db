/* The 0xAA55 serial protocol: header AA 55, payload length (1 byte), payload, CRC-16 of length and payload (reflected
 * polynomial 0xA001, initial value 0xFFFF), low byte first. The C twin of sim2sky/runtime/teensy.py's frames. */
#ifndef SIM2SKY_FRAME_H
#define SIM2SKY_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum { S2S_FRAME_MAX_PAYLOAD = 255, S2S_FRAME_OVERHEAD = 5, S2S_FRAME_STATE = 52, S2S_FRAME_COMMAND = 16 };

uint16_t s2s_crc16(const uint8_t *data, size_t n);
size_t s2s_frame_encode(const uint8_t *payload, size_t n, uint8_t *out); /* out: n + 5 bytes; returns how many */

/* Finds frames in a stream. Feed it bytes; damaged ones are counted, and the search goes on inside of them. */
typedef struct {
    uint8_t buffer[S2S_FRAME_MAX_PAYLOAD + S2S_FRAME_OVERHEAD];
    uint16_t size;
    uint32_t frames, damaged;
} s2s_frame_reader;

void s2s_frame_reader_init(s2s_frame_reader *r);
/* Takes bytes from *data (advancing it, lowering *n) until one payload is complete; its length, or -1 where none is
 * yet: then all bytes are taken. Call it until it says -1: a payload may be followed by another without a new byte.
 * The payload lies in `payload` (at least 255 bytes). */
int s2s_frame_read(s2s_frame_reader *r, const uint8_t **data, size_t *n, uint8_t *payload);

#endif
