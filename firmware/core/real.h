/* Elementary functions in double precision made of +, -, *, /, sqrt (each rounded once, never fused) and the exact fmod:
 * the same bits on every IEEE machine and in Python (sim2sky/runtime/real.py is the twin, line by line). Total: no
 * argument traps or sets errno; infinite and NaN arguments give NaN where there is no better answer.
 * Build with -ffp-contract=off. */
#ifndef SIM2SKY_REAL_H
#define SIM2SKY_REAL_H

#include "arithmetic.h"

#define S2S_PI 3.141592653589793
#define S2S_GRAVITY_MPS2 9.80665

void s2s_sin_cos(double x, double *sine, double *cosine); /* of an angle, rad; distinct places */
double s2s_sin(double x);
double s2s_cos(double x);
double s2s_tan(double x);
double s2s_asin(double x); /* NaN outside [-1, 1] */
double s2s_atan(double x);
double s2s_atan2(double y, double x);
double s2s_hypot(double x, double y); /* sqrt(x*x + y*y), whatever overflows */
double s2s_wrap_angle(double angle);  /* to [-pi, pi), as Python's (a + pi) % tau - pi */
double s2s_min(double a, double b);   /* Python's min(a, b): a unless b < a */
double s2s_max(double a, double b);   /* Python's max(a, b): a unless b > a */

#endif
