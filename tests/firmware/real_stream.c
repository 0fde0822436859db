/* Every function of real.h over the stream: as a library for the comparison with Python, as a program for the hash. */
#include "port.h"
#include "real.h"
#include "stream.h"

enum { REAL_FUNCTIONS = 11, REAL_CASES = 120000 };

void real_inputs(uint64_t seed, size_t n, double *x, double *y);
void real_answers(int function, size_t n, const double *x, const double *y, double *out);
int main(void);

static double argument(stream *s)
{
    switch (stream_below(s, 8)) {
    case 0: return stream_hostile(s);
    case 1: return stream_between(s, -2e6, 2e6);
    case 2: return stream_between(s, -1e3, 1e3);
    case 3: /* at a multiple of pi / 2, and close to it */
        return (double)(stream_below(s, 2000) - 1000u) * 1.5707963267948966 + stream_between(s, -1e-9, 1e-9);
    case 4: return stream_between(s, -1.0, 1.0);
    default: return stream_between(s, -4.0, 4.0);
    }
}

/* Now and then twice the same, as both zero. */
static void arguments(stream *s, double *x, double *y)
{
    *x = argument(s);
    *y = stream_below(s, 16) == 0 ? *x : argument(s);
}

void real_inputs(uint64_t seed, size_t n, double *x, double *y)
{
    stream s = {seed};
    size_t i;
    for (i = 0; i < n; ++i) {
        arguments(&s, &x[i], &y[i]);
    }
}

static double answer(int function, double x, double y)
{
    double s, c;
    switch (function) {
    case 0: return s2s_sin(x);
    case 1: return s2s_cos(x);
    case 2: return s2s_tan(x);
    case 3: return s2s_asin(x);
    case 4: return s2s_atan(x);
    case 5: return s2s_atan2(x, y);
    case 6: return s2s_hypot(x, y);
    case 7: return s2s_wrap_angle(x);
    case 8: return s2s_min(x, y);
    case 9: return s2s_max(x, y);
    default: s2s_sin_cos(x, &s, &c); return s2s_min(s, c);
    }
}

void real_answers(int function, size_t n, const double *x, const double *y, double *out)
{
    size_t i;
    for (i = 0; i < n; ++i)
        out[i] = answer(function, x[i], y[i]);
}

int main(void)
{
    int function;
    for (function = 0; function < REAL_FUNCTIONS; ++function) {
        stream s = {1};
        uint64_t hash = STREAM_HASH;
        char text[18];
        long i;
        for (i = 0; i < REAL_CASES; ++i) {
            double x, y;
            arguments(&s, &x, &y);
            hash = stream_hash(hash, answer(function, x, y));
        }
        stream_hex(hash, text);
        port_print(text);
    }
    return 0;
}
