/* The 13 values that a small flight controller sends, as a state estimate; the command as the 4 values it takes. The C
 * twin of `TeensyVehicle` in sim2sky/runtime/teensy.py. Home is where the aircraft was when it was first heard. */
#ifndef SIM2SKY_TEENSY_STATE_H
#define SIM2SKY_TEENSY_STATE_H

#include "frame.h"
#include "geodetic.h"
#include "sender_clock.h"
#include "state.h"

typedef struct {
    double airspeed_mps; /* nobody measures it: the fallback law's trim speed */
    s2s_sender_clock clock;
    bool has_home, has_last;
    s2s_geodetic home;
    double climb_mps, last_time_s, last_altitude_m;
} s2s_teensy;

void s2s_teensy_init(s2s_teensy *t, double airspeed_mps);
/* The state in a payload of S2S_FRAME_STATE bytes that was received at `now_ns`; false, and `out` untouched, where its
 * values are impossible or older than those already heard. */
bool s2s_teensy_state(s2s_teensy *t, const uint8_t *payload, int64_t now_ns, s2s_sample *out);
/* The payload, S2S_FRAME_COMMAND bytes, that commands the actuators. */
void s2s_teensy_command(const s2s_command *command, uint8_t *payload);

#endif
