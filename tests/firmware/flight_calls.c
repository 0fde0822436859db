/* What a test of the Teensy port asks besides its own functions. */
#include "flight.h"

size_t flight_size(void);
int flight_phase_of(const flight *f);

size_t flight_size(void)
{
    return sizeof(flight);
}

int flight_phase_of(const flight *f)
{
    return (int)f->phase;
}
