/* Instructions of one call on the emulated Cortex-M7, ours and newlib's, in the order of FUNCTIONS in
 * elementary_functions.py, after the loop itself: a hexadecimal sum of 1000 calls a line. */
#include "port.h"
#include "real.h"
#include "stream.h"

#include <math.h>

enum { N = 1000 };

static double x[N], y[N];
static volatile double sink;

static void show(uint64_t begun, uint64_t ended)
{
    char text[18];
    stream_hex(ended - begun, text);
    port_print(text);
}

#define MEASURE(expression)                        \
    do {                                           \
        uint64_t begun = port_instructions();      \
        for (int i = 0; i < N; ++i)                \
            sink = (expression);                   \
        show(begun, port_instructions());          \
    } while (0)

int main(void)
{
    stream s = {7};
    for (int i = 0; i < N; ++i) {
        x[i] = stream_between(&s, -4.0, 4.0);
        y[i] = stream_between(&s, -1.0, 1.0);
    }
    MEASURE(x[i] + y[i]); /* the loop itself */
    MEASURE(s2s_sin(x[i]));
    MEASURE(sin(x[i]));
    MEASURE(s2s_cos(x[i]));
    MEASURE(cos(x[i]));
    MEASURE(s2s_tan(x[i]));
    MEASURE(tan(x[i]));
    MEASURE(s2s_asin(y[i]));
    MEASURE(asin(y[i]));
    MEASURE(s2s_atan2(x[i], y[i]));
    MEASURE(atan2(x[i], y[i]));
    MEASURE(s2s_hypot(x[i], y[i]));
    MEASURE(hypot(x[i], y[i]));
    return 0;
}
