/* A fixed stream of harmless and hostile doubles, and a hash of answers: the same on every machine, so that a program
 * on an emulated chip can be compared with the same program here by one number. */
#ifndef STREAM_H
#define STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t state;
} stream;

/* xorshift64* of S. Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled" (2016) */
static inline uint64_t stream_bits(stream *s)
{
    s->state ^= s->state >> 12;
    s->state ^= s->state << 25;
    s->state ^= s->state >> 27;
    return s->state * 0x2545F4914F6CDD1Du;
}

static inline uint64_t stream_below(stream *s, uint64_t n)
{
    return (stream_bits(s) >> 16) % n;
}

/* In [low, high) */
static inline double stream_between(stream *s, double low, double high)
{
    return low + (high - low) * ((double)(stream_bits(s) >> 11) * 0x1p-53);
}

static inline double stream_of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Not a number, infinite, either zero, denormal, huge, next to a corner of the functions; or any 64 bits at all. */
static inline double stream_hostile(stream *s)
{
    static const double corners[] = {
        0.0, 1.0, 0x1p-1022, 0x1p-1074, 0x1.fffffffffffffp-1023, 1e300, 0x1.fffffffffffffp+1023, 1e6, 0x1p52, 0x1p53,
        3.141592653589793, 6.283185307179586, 1.5707963267948966, 0.7853981633974483, 0.41421356237309503, 1.2, 0.5,
        1e-160, 1e160, 0.95, 2.4, 0.1, 1e3, 1e-9
    };
    uint64_t pick = stream_below(s, 64);
    uint64_t sign = stream_bits(s) & 0x8000000000000000u;
    uint64_t bits;

    if (pick < sizeof corners / sizeof corners[0]) {
        memcpy(&bits, &corners[pick], sizeof bits);
        if (stream_below(s, 4) == 0)
            bits += stream_below(s, 5) - 2u; /* neighbours */
    } else if (pick < 30) {
        bits = 0x7FF8000000000000u;
    } else if (pick < 36) {
        bits = 0x7FF0000000000000u;
    } else {
        bits = stream_bits(s);
    }
    return stream_of_bits(bits ^ sign);
}

#define STREAM_HASH 0xCBF29CE484222325u

/* FNV-1a over the bits of a double; all NaN are one. */
static inline uint64_t stream_hash(uint64_t hash, double value)
{
    uint64_t bits;
    int i;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        bits = 0x7FF8000000000000u;
    for (i = 0; i < 8; ++i) {
        hash = (hash ^ (bits & 0xFFu)) * 0x100000001B3u;
        bits >>= 8;
    }
    return hash;
}

/* 16 digits, then the end of the line. */
static inline void stream_hex(uint64_t value, char text[18])
{
    int i;
    for (i = 0; i < 16; ++i)
        text[i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15u];
    text[16] = '\n';
    text[17] = '\0';
}

#endif
