/* MAVLink 2 frames: see mavlink.h. */
#include "mavlink.h"

enum { MAGIC = 0xFD, HEADER = 10, MAGIC_1 = 0xFE, HEADER_1 = 6, SIGNED = 1, SIGNATURE = 13, CHECKSUM = 2 };

static const struct {
    uint16_t id;
    uint8_t seed;
} SEEDS[] = {S2S_MAV_SEEDS};

static const struct {
    uint16_t id;
    uint8_t size;
} SIZES[] = {S2S_MAV_SIZES};

/* The checksum seed of a message, or -1. */
static int seed_of(uint32_t id)
{
    size_t low = 0, high = S2S_MAV_KNOWN;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (SEEDS[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < S2S_MAV_KNOWN && SEEDS[low].id == id ? SEEDS[low].seed : -1;
}

static size_t size_of(uint32_t id)
{
    for (size_t i = 0; i < sizeof SIZES / sizeof SIZES[0]; i++) {
        if (SIZES[i].id == id) {
            return SIZES[i].size;
        }
    }
    return 0;
}

/* CRC-16/MCRF4XX, as the MAVLink specification has it. */
static uint16_t crc_step(uint16_t crc, uint8_t byte)
{
    const uint8_t low = (uint8_t)(byte ^ (crc & 0xFF));
    const uint8_t t = (uint8_t)(low ^ (low << 4));
    return (uint16_t)((crc >> 8) ^ (t << 8) ^ (t << 3) ^ (t >> 4));
}

void s2s_mav_init(s2s_mav_message *m, uint32_t id)
{
    memset(m, 0, sizeof *m);
    m->id = id;
}

size_t s2s_mav_pack(const s2s_mav_message *m, uint8_t *frame)
{
    size_t size = size_of(m->id);
    uint16_t crc = 0xFFFF;
    if (size == 0) {
        return 0;
    }
    while (size > 1 && m->payload[size - 1] == 0) {
        size--;
    }
    frame[0] = MAGIC;
    frame[1] = (uint8_t)size;
    frame[2] = frame[3] = 0;
    frame[4] = m->sequence;
    frame[5] = m->system;
    frame[6] = m->component;
    s2s_put_u16(frame + 7, (uint16_t)(m->id & 0xFFFF));
    frame[9] = (uint8_t)(m->id >> 16);
    memcpy(frame + HEADER, m->payload, size);
    for (size_t i = 1; i < HEADER + size; i++) {
        crc = crc_step(crc, frame[i]);
    }
    s2s_put_u16(frame + HEADER + size, crc_step(crc, (uint8_t)seed_of(m->id)));
    return HEADER + size + CHECKSUM;
}

void s2s_mav_reader_init(s2s_mav_reader *r)
{
    memset(r, 0, sizeof *r);
    r->in_step = true;
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

/* Keep the bytes from `from` to `to` for later; what lies before is done with, what lies behind is not yet taken. */
static void keep(s2s_mav_reader *r, const stream *s, size_t from, size_t to, const uint8_t **data, size_t *n)
{
    for (size_t i = from; i < to; i++) {
        r->buffer[i - from] = at(s, i);
    }
    r->size = (uint16_t)(to - from);
    *data += to - s->n_kept;
    *n -= to - s->n_kept;
}

/* Whether the checksum behind the bytes from `from` to `end` is theirs. */
static bool sound(const stream *s, size_t from, size_t end, int seed)
{
    uint16_t crc = 0xFFFF;
    for (size_t i = from; i < end; i++) {
        crc = crc_step(crc, at(s, i));
    }
    return crc_step(crc, (uint8_t)seed) == (uint16_t)(at(s, end) | at(s, end + 1) << 8);
}

/* Length of a whole MAVLink 1 frame at `start`; 0 where there is none. */
static size_t version1(const stream *s, size_t start)
{
    size_t end;
    int seed;
    if (at(s, start) != MAGIC_1 || s->n - start < HEADER_1 + CHECKSUM) {
        return 0;
    }
    end = start + HEADER_1 + at(s, start + 1);
    seed = seed_of(at(s, start + 5));
    if (end + CHECKSUM > s->n || seed < 0) {
        return 0;
    }
    return sound(s, start + 1, end, seed) ? end + CHECKSUM - start : 0;
}

static void take(const stream *s, size_t start, s2s_mav_message *m)
{
    const size_t size = at(s, start + 1);
    m->sequence = at(s, start + 4);
    m->system = at(s, start + 5);
    m->component = at(s, start + 6);
    for (size_t i = 0; i < S2S_MAV_MAX_PAYLOAD; i++) {
        m->payload[i] = i < size ? at(s, start + HEADER + i) : 0;
    }
}

bool s2s_mav_read(s2s_mav_reader *r, const uint8_t **data, size_t *n, bool whole, s2s_mav_message *m)
{
    const stream s = {r->buffer, *data, r->size, r->size + *n};
    size_t i = 0;
    r->in_step = r->in_step || whole;
    while (i < s.n) {
        size_t length;
        int seed;
        if (at(&s, i) != MAGIC) {
            if ((length = version1(&s, i)) > 0) {
                r->version1++;
                i += length;
                continue;
            }
            while (i < s.n && at(&s, i) != MAGIC) {
                i++;
            }
            r->damaged++;
            r->in_step = false;
            continue;
        }
        if (s.n - i < HEADER) {
            break;
        }
        length = HEADER + (size_t)at(&s, i + 1) + CHECKSUM + ((at(&s, i + 2) & SIGNED) != 0 ? SIGNATURE : 0);
        if (i + length > s.n && !whole) {
            break;
        }
        m->id = at(&s, i + 7) | (uint32_t)at(&s, i + 8) << 8 | (uint32_t)at(&s, i + 9) << 16;
        seed = seed_of(m->id);
        /* A frame with an unknown number cannot be checked: it is believed, and skipped whole, only right after a good
         * one. What looks like a frame while searching after damage may be the inside of another. */
        if (i + length > s.n || (at(&s, i + 2) & ~SIGNED) != 0 || (seed < 0 && !r->in_step)
            || (seed >= 0 && !sound(&s, i + 1, i + HEADER + at(&s, i + 1), seed))) {
            r->damaged++;
            r->in_step = false;
            i++; /* look for the next frame inside: a damaged length must not swallow it */
            continue;
        }
        r->in_step = true;
        if (seed < 0) {
            r->unknown++;
            i += length;
            continue;
        }
        r->frames++;
        take(&s, i, m);
        i += length;
        keep(r, &s, i, i > s.n_kept ? i : s.n_kept, data, n);
        return true;
    }
    if (whole && i < s.n) {
        r->damaged++;
        i = s.n;
    }
    keep(r, &s, i, s.n, data, n);
    return false;
}
