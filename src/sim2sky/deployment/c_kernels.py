"""The C99 text of the kernels a generated policy is made of; `c_arithmetic.py` is the same arithmetic in numpy.

Every operation is rounded exactly once, whatever the compiler, its options and the width of the SIMD units: products
and sums that belong together are explicit fused multiply-adds, and sums run in a fixed order.
"""

from __future__ import annotations

from sim2sky.deployment.c_functions import FUNCTIONS

__all__ = ["PREAMBLE", "kernels"]


PREAMBLE = """\
#include <float.h>
#include <math.h> /* NAN and INFINITY only */
#include <stddef.h>

#if !defined(__GNUC__)
#error "needs GNU C (gcc, clang): explicit fused multiply-add"
#endif
#if defined(__FAST_MATH__) || (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0)
#error "needs strict IEEE 754 single precision: no -ffast-math, no x87"
#endif

#define STATIC_ASSERT(name, condition) typedef char assert_##name[(condition) ? 1 : -1]
STATIC_ASSERT(float_is_binary32, sizeof(float) == 4 && FLT_MANT_DIG == 24 && FLT_MAX_EXP == 128);

typedef union {
    float value;
    uint32_t bits;
} float_bits;

/* a * b + c, rounded once. (clang for 32-bit ARM does not say __FP_FAST_FMAF and would call the library's, newlib's
 * being wrong.) */
#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
#define fused(a, b, c) __builtin_fmaf((a), (b), (c))
#else
/* In double the product is exact; the sum is rounded to odd, which makes the second rounding right. */
static inline __attribute__((unused)) float fused(float a, float b, float c)
{
    double p = (double)a * (double)b, s = p + (double)c, back = s - p;
    double error = (p - (s - back)) + ((double)c - back);
    union {
        double value;
        uint64_t bits;
    } odd;
    odd.value = s;
    if (error != 0.0 && error - error == 0.0 && (odd.bits & 1u) == 0u) {
        odd.bits = (error > 0.0) == (s > 0.0) ? odd.bits + 1u : odd.bits - 1u;
    }
    return (float)odd.value;
}
#endif

/* Between inlined kernels clang no longer sees that the loops over a layer's values are free of dependences. */
#define NOINLINE __attribute__((noinline))

/* Eight floats (`lanes`), and twice eight for two inputs side by side (`pair`): vectors where the machine has them. */
#define FOR_1(f) f(0)
#define FOR_2(f) f(0) f(1)
#define FOR_4(f) FOR_2(f) f(2) f(3)
#define FOR_8(f) FOR_4(f) f(4) f(5) f(6) f(7)
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wunused-function" /* not every policy takes every one of these */
#endif
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef __m256 lanes;
#define lanes_load(p) _mm256_loadu_ps(p)
#define lanes_int8(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#define lanes_store(p, v) _mm256_storeu_ps((p), (v))
#define lanes_all(x) _mm256_set1_ps(x)
#define lanes_add(a, b) _mm256_add_ps((a), (b))
#define lanes_fma(a, b, c) _mm256_fmadd_ps((a), (b), (c))
#define SIMD 1
#elif defined(__aarch64__)
#include <arm_neon.h>
typedef struct {
    float32x4_t low, high;
} lanes;
static inline lanes lanes_of(float32x4_t low, float32x4_t high)
{
    lanes v;
    v.low = low;
    v.high = high;
    return v;
}
static inline lanes lanes_load(const float *p) { return lanes_of(vld1q_f32(p), vld1q_f32(p + 4)); }
static inline lanes lanes_all(float x) { return lanes_of(vdupq_n_f32(x), vdupq_n_f32(x)); }
static inline lanes lanes_add(lanes a, lanes b) { return lanes_of(vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)); }
static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return lanes_of(vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high));
}
static inline void lanes_store(float *p, lanes v)
{
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
}
static inline lanes lanes_int8(const int8_t *p)
{
    int16x8_t w = vmovl_s8(vld1_s8(p));
    return lanes_of(vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(w))));
}
#define SIMD 1
#endif
#if defined(SIMD) && defined(__AVX512F__)
typedef __m512 pair;
#define pair_of(first) _mm512_castpd_ps(_mm512_insertf64x4(_mm512_setzero_pd(), _mm256_castps_pd(first), 0))
#define pair_load(p) _mm512_loadu_ps(p)
#define pair_int8(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define pair_all(p) _mm512_mask_blend_ps(0xFF00, _mm512_set1_ps((p)[0]), _mm512_set1_ps((p)[1]))
#define pair_fma(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#define pair_sum(a) _mm256_add_ps(_mm512_castps512_ps256(a), \
                                  _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)))
#elif defined(SIMD)
typedef struct {
    lanes first, second;
} pair;
static inline pair pair_two(lanes first, lanes second)
{
    pair v;
    v.first = first;
    v.second = second;
    return v;
}
#define pair_of(first) pair_two((first), lanes_all(0.0f))
#define pair_load(p) pair_two(lanes_load(p), lanes_load((p) + 8))
#define pair_int8(p) pair_two(lanes_int8(p), lanes_int8((p) + 8))
#define pair_all(p) pair_two(lanes_all((p)[0]), lanes_all((p)[1]))
static inline pair pair_fma(pair a, pair b, pair c)
{
    return pair_two(lanes_fma(a.first, b.first, c.first), lanes_fma(a.second, b.second, c.second));
}
#define pair_sum(a) lanes_add((a).first, (a).second)
#endif
"""

# Weights lie in blocks of eight outputs: per block, for each input, the eight weights of that input.
_WIDE = """
/* y = weight x + bias for `n_blocks` blocks of eight outputs: per block and input eight weights in a row. Every output
 * sums its even and its odd inputs apart, each in order, and adds the two. `n_in` is even, zeros behind the last. */
#ifdef SIMD
#define START(k) pair a##k = pair_of(%(simd_start)s);
#define STEP(k) a##k = pair_fma(%(simd_load)s(weight + k * 8 * n_in), xi, a##k);
#define STORE(k) lanes_store(y + 8 * k, %(simd_end)s);
#define DENSE(n) \\
    for (; n_blocks >= n; n_blocks -= n) { \\
        FOR_##n(START) \\
        for (size_t i = 0; i < n_in; i += 2) { \\
            pair xi = pair_all(x + i); \\
            FOR_##n(STEP) \\
            weight += 16; \\
        } \\
        FOR_##n(STORE) \\
        weight += 8 * n_in * (n - 1); \\
        %(advance)s \\
        y += 8 * n; \\
    }
#else
#define START(k) float a##k = %(start)s, b##k = 0.0f;
#define STEP_EVEN(k) a##k = fused(%(load)sweight[k], even, a##k);
#define STEP_ODD(k) b##k = fused(%(load)sweight[8 + k], odd, b##k);
#define STORE(k) y[k] = %(end)s;
#endif
static NOINLINE void dense%(suffix)s(const %(type)s *restrict weight, %(parameters)s,
                                const float *restrict x, float *restrict y, size_t n_in, size_t n_blocks)
{
#ifdef SIMD
#ifdef __AVX512F__
    DENSE(8)
#endif
    DENSE(4)
    DENSE(2)
    DENSE(1)
#else
    for (; n_blocks > 0; --n_blocks) {
        FOR_8(START)
        for (size_t i = 0; i < n_in; i += 2) {
            float even = x[i], odd = x[i + 1];
            FOR_8(STEP_EVEN)
            FOR_8(STEP_ODD)
            weight += 16;
        }
        FOR_8(STORE)
        %(scalar_advance)s
        y += 8;
    }
#endif
}
#undef START
#undef STEP
#undef STEP_EVEN
#undef STEP_ODD
#undef STORE
#undef DENSE
"""

_NARROW = """
/* y = weight x + bias for few outputs: eight lanes over the inputs, summed pairwise at the end. Weights lie output by
 * output; `n_in` is a multiple of eight, zeros behind the last input. */
static NOINLINE void dense_narrow%(suffix)s(const %(type)s *restrict weight, %(parameters)s, const float *restrict x,
                         float *restrict y, size_t n_in, size_t n_out)
{
    for (size_t k = 0; k < n_out; ++k) {
#ifdef SIMD
        float a[8];
        lanes sum = lanes_all(0.0f);
        for (size_t i = 0; i < n_in; i += 8) {
            sum = lanes_fma(%(lanes_load)s(weight + i), lanes_load(x + i), sum);
        }
        lanes_store(a, sum);
        float total = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
#else
#define START(k) float a##k = 0.0f;
#define STEP(k) a##k = fused(%(load)sweight[i + k], x[i + k], a##k);
        FOR_8(START)
        for (size_t i = 0; i < n_in; i += 8) {
            FOR_8(STEP)
        }
        float total = ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7));
#undef START
#undef STEP
#endif
        weight += n_in;
        y[k] = %(narrow_end)s;
    }
}
"""

_FLOAT32 = {
    "suffix": "",
    "type": "float",
    "parameters": "const float *restrict bias",
    "simd_start": "lanes_load(bias + 8 * k)",
    "simd_load": "pair_load",
    "lanes_load": "lanes_load",
    "simd_end": "pair_sum(a##k)",
    "advance": "bias += 8 * n;",
    "start": "bias[k]",
    "load": "",
    "end": "a##k + b##k",
    "scalar_advance": "bias += 8;",
    "narrow_end": "total + bias[k]",
}
_INT8 = {
    "suffix": "_int8",
    "type": "int8_t",
    "parameters": "const float *restrict scale, const float *restrict bias",
    "simd_start": "lanes_all(0.0f)",
    "simd_load": "pair_int8",
    "lanes_load": "lanes_int8",
    "simd_end": "lanes_fma(pair_sum(a##k), lanes_load(scale + 8 * k), lanes_load(bias + 8 * k))",
    "advance": "scale += 8 * n; bias += 8 * n;",
    "start": "0.0f",
    "load": "(float)",
    "end": "fused(a##k + b##k, scale[k], bias[k])",
    "scalar_advance": "scale += 8;\n        bias += 8;",
    "narrow_end": "fused(total, scale[k], bias[k])",
}


_ONE_HOT = """
/* x: category indices; a value that is no index selects no category. */
static void one_hot(float *restrict y, const float *restrict x, const uint32_t *restrict sizes, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        for (uint32_t k = 0; k < sizes[i]; ++k) {
            *y++ = x[i] == (float)k ? 1.0f : 0.0f;
        }
    }
}
"""

_ARG_MAX = """
/* First index of the largest value in each group, as float; NaN where a value is NaN. */
static void arg_max(float *restrict y, const float *restrict x, const uint32_t *restrict sizes, float start, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        float best = x[0], sum = x[0];
        uint32_t index = 0;
        for (uint32_t k = 1; k < sizes[i]; ++k) {
            sum = x[k] != x[k] ? x[k] : sum;
            if (x[k] > best) {
                best = x[k];
                index = k;
            }
        }
        x += sizes[i];
        y[i] = sum != sum ? NAN : (float)index + start;
    }
}
"""

_MEAN_QUANTILE = """
static void mean_quantile(float *restrict y, const float *restrict x, size_t n_quantiles, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        float sum = x[i];
        for (size_t k = 1; k < n_quantiles; ++k) {
            sum = sum + x[k * n + i];
        }
        y[i] = sum / (float)n_quantiles;
    }
}
"""

_LSTM_CELL = """
/* gates: input, forget, candidate, output, n each. */
static NOINLINE void lstm_cell(const float *restrict gates, float *restrict hidden, float *restrict cell, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        float entry = sigmoid_of(gates[i]), forget = sigmoid_of(gates[n + i]);
        cell[i] = fused(forget, cell[i], entry * tanh_of(gates[2 * n + i]));
        hidden[i] = sigmoid_of(gates[3 * n + i]) * tanh_of(cell[i]);
    }
}
"""

_ORDER = {
    **FUNCTIONS,
    "dense": (_WIDE % _FLOAT32, ()),
    "dense_narrow": (_NARROW % _FLOAT32, ()),
    "dense_int8": (_WIDE % _INT8, ()),
    "dense_narrow_int8": (_NARROW % _INT8, ()),
    "one_hot": (_ONE_HOT, ()),
    "arg_max": (_ARG_MAX, ()),
    "mean_quantile": (_MEAN_QUANTILE, ()),
    "lstm_cell": (_LSTM_CELL, ("sigmoid", "tanh")),
}


def kernels(used: set[str]) -> str:
    """The text of the kernels named, and of those they need."""
    wanted = set(used)
    while more := {n for name in wanted for n in _ORDER[name][1]} - wanted:
        wanted |= more
    return "".join(text for name, (text, _) in _ORDER.items() if name in wanted)
