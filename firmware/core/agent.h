/* One tick of an agent in flight: state estimate in, guarded command out. The C twin of
 * sim2sky/runtime/{flight_agent,observation}.py. No clock, no I/O. */
#ifndef SIM2SKY_AGENT_H
#define SIM2SKY_AGENT_H

#include "guard.h"
#include "observation.h"
#include "policy.h" /* generated: SIM2SKY_POLICY_... and the four calls */

/* From the contract and the safety limits of one bundle; written by sim2sky/deployment/firmware_config.py. */
typedef struct {
    double rate_hz;
    const s2s_observation_signal *observation; /* SIM2SKY_POLICY_N_OBSERVATION of them */
    s2s_action_signal action[S2S_CHANNELS];
    s2s_guard_config guard;
    uint8_t bundle_digest[32], contract_hash[32];
    const char *policy; /* SIM2SKY_POLICY_IDENTITY of its policy: it neither compiles nor links with another */
} s2s_agent_config;

typedef struct {
    s2s_command command; /* finite and within the limits, always */
    float action[S2S_CHANNELS];
    float observation[SIM2SKY_POLICY_N_OBSERVATION];
    int32_t mode;
    uint32_t trips;
} s2s_tick;

typedef struct {
    const s2s_agent_config *config;
    sim2sky_policy policy;
    s2s_guard guard;
    double history[S2S_HISTORY * S2S_CHANNELS]; /* previous actions, newest first */
    uint64_t policy_time_ns;                    /* of the policy's next step, see agent.c */
} s2s_agent;

extern const s2s_agent_config s2s_config; /* of the bundle this firmware was built for */

void s2s_agent_init(s2s_agent *a, const s2s_agent_config *config);
void s2s_agent_reset(s2s_agent *a);
void s2s_agent_tick(s2s_agent *a, const s2s_sample *s, const s2s_setpoint *t, int64_t now_ns, double battery_v,
                    s2s_tick *out);

#endif
