/* The guard between a policy and the actuators: monitor, switch, recovery, limits. The C twin of
 * sim2sky/runtime/{watch,ladder,safety}.py: same verdict, mode and command to the last bit. */
#ifndef SIM2SKY_GUARD_H
#define SIM2SKY_GUARD_H

#include "guard_table.h" /* generated: s2s_guard_config, trip bits, modes, actions, the ladder */
#include "laws.h"

typedef struct {
    s2s_command command;
    int32_t mode;   /* S2S_MODE_... */
    uint32_t trips; /* S2S_TRIP_... */
} s2s_guarded;

typedef struct s2s_guard s2s_guard; /* complete in guard_state.h: its size is known, and it lies where you want */
#include "guard_state.h"

void s2s_guard_init(s2s_guard *g, const s2s_guard_config *config);
void s2s_guard_reset(s2s_guard *g); /* new episode; a kill stays */
bool s2s_guard_kill(s2s_guard *g);
void s2s_guard_disarm(s2s_guard *g);
bool s2s_guard_arm(s2s_guard *g);
bool s2s_guard_killed(const s2s_guard *g);
s2s_guarded s2s_guard_step(s2s_guard *g, const s2s_sample *s, const s2s_setpoint *t, const s2s_command *proposed,
                           int64_t now_ns, s2s_policy_state policy, double battery_v);

#endif
