/* Refuses a compiler that is set to other arithmetic than IEEE 754 in the precision that is written: the core would
 * fly, but not what was tested. */
#ifndef SIM2SKY_ARITHMETIC_H
#define SIM2SKY_ARITHMETIC_H

#include <float.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "sim2sky: build without -ffast-math, -ffinite-math-only and -Ofast"
#endif
#if FLT_EVAL_METHOD != 0
#error "sim2sky: float and double must be computed as such (FLT_EVAL_METHOD 0; on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

/* Some tool chains for microcontrollers set -fsingle-precision-constant by themselves (Arduino cores do). */
typedef char s2s_build_without_single_precision_constant[sizeof(0.1) == sizeof(double) ? 1 : -1];

#endif
