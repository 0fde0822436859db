/* What the Teensy does, without the Teensy: frames in, frames and servo pulses out, a tick per control period. No
 * clock, no I/O.
 *
 * What comes first decides until the power is switched off. A plain state estimate begins a flight: the agent ticks at
 * its own rate, the guard judges how old the state is. It begins disarmed, surfaces neutral and throttle closed, until
 * the question `A` arms it; `K` kills, `D` disarms, all else is ignored. A step of a processor-in-the-loop test begins a
 * bench test, in which nothing moves. Nor does anything before. */
#ifndef SIM2SKY_FLIGHT_H
#define SIM2SKY_FLIGHT_H

#include "pil.h"
#include "teensy_state.h"

enum { FLIGHT_MAX_FRAME = S2S_PIL_MAX_FRAME };

typedef enum {
    FLIGHT_WAITING,
    FLIGHT_FLYING,
    FLIGHT_BENCH,
    FLIGHT_REFUSED /* the golden vectors are answered wrongly: nothing is flown, ask `T` which */
} flight_phase;

typedef struct {
    s2s_pil pil; /* with the agent, and what reads the frames */
    s2s_teensy state;
    flight_phase phase;
    bool suffices; /* the plain protocol holds all that the policy observes */
    s2s_sample sample;
    s2s_setpoint setpoint; /* altitude, trim airspeed and heading as flown when it was armed */
    s2s_command command;
    int64_t period_ns, due_ns;
} flight;

void flight_init(flight *f, const s2s_agent_config *config);
/* Takes bytes from *data (advancing it, lowering *n) up to the end of the next frame; the length of the answer in `out`
 * (FLIGHT_MAX_FRAME bytes), 0 where there is none. */
size_t flight_take(flight *f, const uint8_t **data, size_t *n, int64_t now_ns, uint8_t *out);
/* To be called as often as possible: where a tick is due in flight, it is made, and the command's frame is in `out`. */
size_t flight_tick(flight *f, int64_t now_ns, uint8_t *out);
/* Width of the servo pulses, us: 1000 to 2000, surfaces centred at 1500. */
void flight_pulses_us(const flight *f, uint16_t *pulses);

#endif
