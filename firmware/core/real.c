/* Elementary functions that give the same bits everywhere: the twin of sim2sky/runtime/real.py. */
#include "real.h"

#include <math.h>
#include <stdbool.h>

#define TWO_PI 6.283185307179586

void s2s_sin_cos(double x, double *sine, double *cosine)
{
    double n, r, z, s, c;
    int quadrant;

    if (!(-1e6 < x && x < 1e6)) {
        if (!(-INFINITY < x && x < INFINITY)) {
            *sine = *cosine = NAN;
            return;
        }
        x = fmod(x, TWO_PI);
    }
    n = x * 0.6366197723675814 + 6755399441055744.0 - 6755399441055744.0;
    r = x - n * 1.5707963267341256 - n * 6.077100506303966e-11 - n * 2.0222662487959506e-21;
    z = r * r;
    s = r + r * (z * (-0.1666666666666663 + z * (0.008333333333322063 + z * (-0.00019841269829542577 + z * (
        2.7557313604515405e-06 + z * (-2.5050745036157456e-08 + z * 1.589606741813015e-10))))));
    c = 1.0 + z * (-0.5 + z * (0.041666666666666595 + z * (-0.0013888888888872975 + z * (2.4801587288800055e-05 + z * (
        -2.755731416398449e-07 + z * (2.0875698709569314e-09 + z * -1.1358423568062624e-11))))));
    quadrant = (int)n & 3;
    if (quadrant == 0) {
        *sine = s;
        *cosine = c;
    } else if (quadrant == 1) {
        *sine = c;
        *cosine = -s;
    } else if (quadrant == 2) {
        *sine = -s;
        *cosine = -c;
    } else {
        *sine = -c;
        *cosine = s;
    }
}

double s2s_sin(double x)
{
    double s, c;
    s2s_sin_cos(x, &s, &c);
    return s;
}

double s2s_cos(double x)
{
    double s, c;
    s2s_sin_cos(x, &s, &c);
    return c;
}

double s2s_tan(double x)
{
    double s, c;
    s2s_sin_cos(x, &s, &c);
    return s / c;
}

/* Arc tangent for 0 <= t <= 1. */
static double arc(double t)
{
    bool turned = t > 0.41421356237309503; /* tan(pi / 8) */
    double z, a;

    if (turned)
        t = (t - 1.0) / (t + 1.0);
    z = t * t;
    a = t + t * (z * (-0.333333333333332 + z * (0.19999999999953236 + z * (-0.14285714280165224 + z * (
        0.11111110782084717 + z * (-0.09090897723145203 + z * (0.07692059678608927 + z * (-0.06663098748612262 + z * (
        0.05847855869128975 + z * (-0.05039174702868947 + z * (0.03806173132930204 + z * -0.017904582743924827
        )))))))))));
    return turned ? 0.7853981633974483 + (a + 3.061616997868383e-17) : a;
}

double s2s_atan(double x)
{
    double t = fabs(x);
    return copysign(t > 1.0 ? 1.5707963267948966 - (arc(1.0 / t) - 6.123233995736766e-17) : arc(t), x);
}

double s2s_atan2(double y, double x)
{
    double ay = fabs(y), ax = fabs(x), angle;
    bool behind = copysign(1.0, x) < 0.0;

    if (ay > ax) {
        angle = arc(ax / ay);
        if (behind)
            angle = 1.5707963267948966 + (angle + 6.123233995736766e-17);
        else
            angle = 1.5707963267948966 - (angle - 6.123233995736766e-17);
        return copysign(angle, y);
    }
    if (ax > 0.0)
        angle = arc(ay / ax);
    else if (ax == ay)
        angle = 0.0;
    else
        return NAN;
    return copysign(behind ? S2S_PI - (angle - 1.2246467991473532e-16) : angle, y);
}

double s2s_asin(double x)
{
    return -1.0 <= x && x <= 1.0 ? s2s_atan2(x, sqrt((1.0 - x) * (1.0 + x))) : NAN;
}

double s2s_hypot(double x, double y)
{
    return sqrt(x * x + y * y);
}

double s2s_wrap_angle(double angle)
{
    double turned = angle + S2S_PI, rest;

    if (!(-INFINITY < turned && turned < INFINITY))
        return NAN;
    rest = fmod(turned, TWO_PI);
    if (rest < 0.0)
        rest += TWO_PI;
    return rest - S2S_PI;
}

double s2s_min(double a, double b)
{
    return b < a ? b : a;
}

double s2s_max(double a, double b)
{
    return b > a ? b : a;
}
