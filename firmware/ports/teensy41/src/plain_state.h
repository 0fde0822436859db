/* State estimates of the plain 0xAA55 protocol (13 float32) as samples: checked, from home, on our clock. The C twin of
 * sim2sky/runtime/{teensy,sender_clock,frames}.py. Nobody measures airspeed or climb rate: the sample holds the trim
 * airspeed throughout, and the climb rate is the altitude's, filtered. */
#ifndef SIM2SKY_PLAIN_STATE_H
#define SIM2SKY_PLAIN_STATE_H

#include "agent.h"

typedef struct {
    double airspeed_mps;
    bool has_home, has_last, has_clock, has_before;
    double home_latitude_deg, home_longitude_deg, home_altitude_m, north_m_per_deg, east_m_per_deg;
    double climb_mps, last_time_s, last_altitude_m;
    int64_t newest_ns, least_ns, least_before_ns, window_ns; /* sender's clock against ours */
} plain_state;

void plain_state_init(plain_state *p, double airspeed_mps);
/* Takes a payload of S2S_FRAME_STATE bytes; false where it is no possible state, or an older one than the last. */
bool plain_state_take(plain_state *p, const uint8_t *payload, int64_t now_ns, s2s_sample *sample);
/* Whether the 13 values hold all that a policy observes. */
bool plain_state_suffices(const s2s_agent_config *config);

#endif
