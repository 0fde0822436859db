/* What the C library of a machine answers to the same arguments: to see that libraries differ. */
#include "port.h"
#include "stream.h"

#include <math.h>

int main(void)
{
    stream s = {7};
    int i, k;
    for (i = 0; i < 2000; ++i) {
        double x = stream_between(&s, -4.0, 4.0), y = stream_between(&s, -1.0, 1.0);
        double answers[] = {sin(x), cos(x), tan(x), asin(y), atan2(x, y), hypot(x, y)};
        for (k = 0; k < 6; ++k) {
            char text[18];
            uint64_t bits;
            memcpy(&bits, &answers[k], sizeof bits);
            stream_hex(bits, text);
            port_print(text);
        }
    }
    return 0;
}
