/* See flight.h. */
#include "flight.h"

#include <math.h>
#include <string.h>

/* Whether the 13 values of the plain protocol hold all that the policy observes: nobody measures airspeed or climb rate,
 * and a policy is not to fly on what is made up for the fallback law (`UNMEASURED` in runtime/teensy.py). */
static bool suffices(const s2s_agent_config *config)
{
    for (size_t i = 0; i < SIM2SKY_POLICY_N_OBSERVATION; i++) {
        const uint8_t signal = config->observation[i].signal;
        if (signal == S2S_SIGNAL_AIRSPEED || signal == S2S_SIGNAL_AIRSPEED_ERROR || signal == S2S_SIGNAL_CLIMB_RATE ||
            signal == S2S_SIGNAL_CLIMB_RATE_ERROR)
            return false;
    }
    return true;
}

void flight_init(flight *f, const s2s_agent_config *config)
{
    uint32_t first;

    memset(f, 0, sizeof *f); /* surfaces neutral, throttle closed */
    s2s_pil_init(&f->pil, config);
    s2s_teensy_init(&f->state, config->guard.gains.trim_airspeed_mps);
    f->suffices = suffices(config);
    f->period_ns = (int64_t)SIM2SKY_POLICY_PERIOD_NS;
    f->phase = sim2sky_policy_test(&f->pil.agent.policy, &first) == 0 ? FLIGHT_WAITING : FLIGHT_REFUSED;
    s2s_agent_reset(&f->pil.agent);
}

static void take_state(flight *f, const uint8_t *payload, int64_t now_ns)
{
    if (f->phase != FLIGHT_FLYING && !(f->phase == FLIGHT_WAITING && f->suffices)) return;
    if (s2s_teensy_state(&f->state, payload, now_ns, &f->sample) && f->phase == FLIGHT_WAITING) {
        s2s_agent_reset(&f->pil.agent);
        s2s_guard_disarm(&f->pil.agent.guard);
        f->due_ns = now_ns;
        f->phase = FLIGHT_FLYING;
    }
}

/* The switches, in flight. Armed again, the agent begins afresh and follows what is flown now. */
static size_t take_switch(flight *f, int size, uint8_t *out)
{
    const bool killed = s2s_guard_killed(&f->pil.agent.guard);
    const size_t n = s2s_pil_answer(&f->pil, size, out);

    if (killed && !s2s_guard_killed(&f->pil.agent.guard)) {
        s2s_agent_reset(&f->pil.agent);
        f->setpoint.value[S2S_SET_ALTITUDE] = f->sample.value[S2S_ALTITUDE];
        f->setpoint.value[S2S_SET_AIRSPEED] = f->sample.value[S2S_AIRSPEED];
        f->setpoint.value[S2S_SET_HEADING] = f->sample.value[S2S_YAW];
    }
    return n;
}

size_t flight_take(flight *f, const uint8_t **data, size_t *n, int64_t now_ns, uint8_t *out)
{
    const int size = s2s_frame_read(&f->pil.reader, data, n, f->pil.question);
    const uint8_t kind = size > 0 ? f->pil.question[0] : 0;

    if (size == S2S_FRAME_STATE) {
        take_state(f, f->pil.question, now_ns);
        return 0;
    }
    if (f->phase == FLIGHT_FLYING)
        return kind == 'K' || kind == 'D' || kind == 'A' ? take_switch(f, size, out) : 0;
    if (f->phase == FLIGHT_WAITING && (kind == 'S' || kind == 'P')) f->phase = FLIGHT_BENCH;
    return s2s_pil_answer(&f->pil, size, out);
}

size_t flight_tick(flight *f, int64_t now_ns, uint8_t *out)
{
    uint8_t payload[S2S_FRAME_COMMAND];
    s2s_tick tick;

    if (f->phase != FLIGHT_FLYING || now_ns < f->due_ns) return 0;
    f->due_ns += f->period_ns;
    if (f->due_ns <= now_ns) f->due_ns = now_ns + f->period_ns; /* what is missed is not made up for */
    s2s_agent_tick(&f->pil.agent, &f->sample, &f->setpoint, now_ns, (double)NAN, &tick);
    f->command = tick.command;
    s2s_teensy_command(&tick.command, payload);
    return s2s_frame_encode(payload, sizeof payload, out);
}

void flight_pulses_us(const flight *f, uint16_t *pulses)
{
    for (size_t i = 0; i < S2S_CHANNELS; i++) {
        const double value = f->command.channel[i];
        pulses[i] = (uint16_t)(i == S2S_THROTTLE ? 1000.0 + 1000.0 * value + 0.5 : 1500.0 + 500.0 * value + 0.5);
    }
}
