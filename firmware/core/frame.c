/* 0xAA55 frames: see frame.h. */
#include "frame.h"

enum { HEADER_FIRST = 0xAA, HEADER_SECOND = 0x55 };

/* One nibble at a time: 32 bytes of table. */
static const uint16_t CRC[16] = {
    0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401,
    0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400,
};

static uint16_t crc_step(uint16_t crc, uint8_t byte)
{
    crc = (uint16_t)((crc >> 4) ^ CRC[(crc ^ byte) & 15]);
    return (uint16_t)((crc >> 4) ^ CRC[(crc ^ (byte >> 4)) & 15]);
}

uint16_t s2s_crc16(const uint8_t *data, size_t n)
{
    uint16_t crc = 0xFFFF;
    for (size_t i = 0; i < n; i++) {
        crc = crc_step(crc, data[i]);
    }
    return crc;
}

size_t s2s_frame_encode(const uint8_t *payload, size_t n, uint8_t *out)
{
    uint16_t crc;
    out[0] = HEADER_FIRST;
    out[1] = HEADER_SECOND;
    out[2] = (uint8_t)n;
    for (size_t i = 0; i < n; i++) {
        out[3 + i] = payload[i];
    }
    crc = s2s_crc16(out + 2, n + 1);
    out[n + 3] = (uint8_t)(crc & 0xFF);
    out[n + 4] = (uint8_t)(crc >> 8);
    return n + S2S_FRAME_OVERHEAD;
}

void s2s_frame_reader_init(s2s_frame_reader *r)
{
    r->size = 0;
    r->frames = r->damaged = 0;
}

/* What is kept from before and what is new, as one run of bytes. */
typedef struct {
    const uint8_t *kept, *fresh;
    size_t n_kept, n;
} stream;

static uint8_t at(const stream *s, size_t i)
{
    return i < s->n_kept ? s->kept[i] : s->fresh[i - s->n_kept];
}

/* Where the next header begins, or a first half of one at the very end, or the end. */
static size_t find_header(const stream *s, size_t from)
{
    for (size_t i = from; i < s->n; i++) {
        if (at(s, i) == HEADER_FIRST && (i + 1 == s->n || at(s, i + 1) == HEADER_SECOND)) {
            return i;
        }
    }
    return s->n;
}

static int whole(const stream *s, size_t start, size_t end)
{
    uint16_t crc = 0xFFFF;
    for (size_t i = start + 2; i < end - 2; i++) {
        crc = crc_step(crc, at(s, i));
    }
    return crc == (uint16_t)(at(s, end - 2) | at(s, end - 1) << 8);
}

/* Keep the bytes from `from` to `to` for later; what lies before is done with, what lies behind is not yet taken. */
static void keep(s2s_frame_reader *r, const stream *s, size_t from, size_t to, const uint8_t **data, size_t *n)
{
    for (size_t i = from; i < to; i++) {
        r->buffer[i - from] = at(s, i);
    }
    r->size = (uint16_t)(to - from);
    *data += to - s->n_kept;
    *n -= to - s->n_kept;
}

int s2s_frame_read(s2s_frame_reader *r, const uint8_t **data, size_t *n, uint8_t *payload)
{
    const stream s = {r->buffer, *data, r->size, r->size + *n};
    size_t position = 0;
    while (s.n - position >= S2S_FRAME_OVERHEAD) {
        const size_t start = find_header(&s, position);
        size_t end;
        if (start != position) {
            r->damaged++;
            position = start;
            continue;
        }
        end = position + S2S_FRAME_OVERHEAD + at(&s, position + 2);
        if (end > s.n) {
            break;
        }
        if (whole(&s, position, end)) {
            const int length = at(&s, position + 2);
            for (size_t i = 0; i < (size_t)length; i++) {
                payload[i] = at(&s, position + 3 + i);
            }
            r->frames++;
            keep(r, &s, end, end > s.n_kept ? end : s.n_kept, data, n);
            return length;
        }
        r->damaged++;
        position++; /* look for the next frame inside: a damaged length must not swallow it */
    }
    keep(r, &s, position, s.n, data, n);
    return -1;
}
