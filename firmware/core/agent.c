/* See agent.h.
 *
 * Time. The policy's own clock (`sim2sky_policy_control`) serves programs that call it at any rate. Here whoever calls
 * `s2s_agent_tick` paces, and the guard judges how old the state is; every tick is one step of the policy, as in
 * simulation and training. So the policy is given a time of its own, one control period per question: the step is
 * always native, never an intermediate one or one with jitter. A tick that does not ask it (the state is not finite)
 * costs it no time, and leaves its recurrent state as it was. */
#include "agent.h"

#include <math.h>
#include <string.h>

void s2s_agent_init(s2s_agent *a, const s2s_agent_config *config)
{
    memset(a, 0, sizeof *a);
    a->config = config;
    sim2sky_policy_init(&a->policy);
    s2s_guard_init(&a->guard, &config->guard);
    s2s_agent_reset(a);
}

void s2s_agent_reset(s2s_agent *a)
{
    for (size_t i = 0; i < S2S_HISTORY * S2S_CHANNELS; i++)
        a->history[i] = s2s_action_middle(&a->config->action[i % S2S_CHANNELS]);
    a->policy_time_ns = 0;
    sim2sky_policy_reset(&a->policy);
    s2s_guard_reset(&a->guard);
}

static bool all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

static void ask(s2s_agent *a, s2s_tick *out)
{
    sim2sky_policy_control(&a->policy, a->policy_time_ns, out->observation, out->action);
    a->policy_time_ns += SIM2SKY_POLICY_PERIOD_NS;
    if (!all_finite(out->action, S2S_CHANNELS))
        sim2sky_policy_reset(&a->policy); /* whatever made it so must not live on in a recurrent state */
}

void s2s_agent_tick(s2s_agent *a, const s2s_sample *s, const s2s_setpoint *t, int64_t now_ns, double battery_v,
                    s2s_tick *out)
{
    const s2s_action_signal *signal = a->config->action;
    s2s_command proposed;
    s2s_guarded guarded;

    s2s_observe(a->config->observation, SIM2SKY_POLICY_N_OBSERVATION, s, t, a->history, out->observation);
    for (size_t i = 0; i < S2S_CHANNELS; i++)
        out->action[i] = NAN;
    if (all_finite(out->observation, SIM2SKY_POLICY_N_OBSERVATION)) ask(a, out);
    const bool answered = all_finite(out->action, S2S_CHANNELS);
    for (size_t i = 0; i < S2S_CHANNELS; i++)
        proposed.channel[i] = answered ? s2s_action_to_command(&signal[i], (double)out->action[i]) : (double)NAN;
    /* In one program with the agent the policy is neither late nor dead. */
    guarded = s2s_guard_step(&a->guard, s, t, &proposed, now_ns, S2S_ANSWERED, battery_v);
    memmove(&a->history[S2S_CHANNELS], a->history, (S2S_HISTORY - 1) * S2S_CHANNELS * sizeof a->history[0]);
    for (size_t i = 0; i < S2S_CHANNELS; i++)
        a->history[i] = guarded.mode == S2S_MODE_POLICY ? (double)out->action[i]
                                                        : s2s_command_to_action(&signal[i], guarded.command.channel[i]);
    out->command = guarded.command;
    out->mode = guarded.mode;
    out->trips = guarded.trips;
}
