/* Little-endian numbers in a byte buffer, on any machine and at any alignment. */
#ifndef SIM2SKY_BYTES_H
#define SIM2SKY_BYTES_H

#include <stdint.h>
#include <string.h>

static inline void s2s_put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v & 0xFF);
    p[1] = (uint8_t)(v >> 8);
}

static inline void s2s_put_u32(uint8_t *p, uint32_t v)
{
    s2s_put_u16(p, (uint16_t)(v & 0xFFFF));
    s2s_put_u16(p + 2, (uint16_t)(v >> 16));
}

static inline void s2s_put_u64(uint8_t *p, uint64_t v)
{
    s2s_put_u32(p, (uint32_t)(v & 0xFFFFFFFFu));
    s2s_put_u32(p + 4, (uint32_t)(v >> 32));
}

static inline void s2s_put_f32(uint8_t *p, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    s2s_put_u32(p, bits);
}

static inline void s2s_put_f64(uint8_t *p, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    s2s_put_u64(p, bits);
}

static inline uint16_t s2s_get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t s2s_get_u32(const uint8_t *p)
{
    return s2s_get_u16(p) | (uint32_t)s2s_get_u16(p + 2) << 16;
}

static inline uint64_t s2s_get_u64(const uint8_t *p)
{
    return s2s_get_u32(p) | (uint64_t)s2s_get_u32(p + 4) << 32;
}

static inline int16_t s2s_get_i16(const uint8_t *p)
{
    const uint16_t bits = s2s_get_u16(p);
    int16_t v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline int32_t s2s_get_i32(const uint8_t *p)
{
    const uint32_t bits = s2s_get_u32(p);
    int32_t v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline int64_t s2s_get_i64(const uint8_t *p)
{
    const uint64_t bits = s2s_get_u64(p);
    int64_t v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline float s2s_get_f32(const uint8_t *p)
{
    const uint32_t bits = s2s_get_u32(p);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline double s2s_get_f64(const uint8_t *p)
{
    const uint64_t bits = s2s_get_u64(p);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

#endif
