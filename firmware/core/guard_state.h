/* The parts of the guard and what they remember. Included by guard.h only; it makes `s2s_guard` complete. */
#ifndef SIM2SKY_GUARD_STATE_H
#define SIM2SKY_GUARD_STATE_H

#include "guard_table.h"
#include "laws.h"

/* ladder.c */
int32_t s2s_decide(uint32_t trips, uint32_t situation); /* S2S_ACTION_... */

/* watch.c: what is wrong */
typedef struct {
    s2s_sample sample; /* newest usable estimate */
    bool has_sample, has_fix;
    double north, east; /* newest usable position, m */
    int64_t fix_ns;
    s2s_wind_estimate wind;
    double side;     /* of the turn home as last predicted: 1 right, -1 left, 0 for none */
    uint32_t active; /* envelope trips */
    uint32_t battery;
    int32_t turning, blind_count, battery_count;
} s2s_watch;

void s2s_watch_reset(s2s_watch *w, const s2s_guard_config *c);
uint32_t s2s_watch_look(s2s_watch *w, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns,
                        double battery_v);

/* guard.c: what is done about it */
struct s2s_guard {
    const s2s_guard_config *config;
    s2s_watch watch;
    s2s_autopilot law;
    s2s_guidance guidance;
    s2s_command previous;
    s2s_setpoint hold; /* what the fallback law is given */
    double bump[S2S_CHANNELS]; /* what is still added to lead one command over into the next */
    double bridge;             /* ticks for which the last command may still be repeated */
    int32_t action, relieved_ticks, clear_ticks;
    bool has_previous, bumped, relieved, killed, disarmed;
};

#endif
