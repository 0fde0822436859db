/* See flight.h. */
#include "flight.h"

#include <math.h>
#include <string.h>

void flight_init(flight *f, const s2s_agent_config *config)
{
    uint32_t first;

    memset(f, 0, sizeof *f); /* surfaces neutral, throttle closed */
    s2s_pil_init(&f->pil, config);
    s2s_frame_reader_init(&f->reader);
    plain_state_init(&f->state, config->guard.gains.trim_airspeed_mps);
    f->suffices = plain_state_suffices(config);
    f->period_ns = (int64_t)SIM2SKY_POLICY_PERIOD_NS;
    f->phase = sim2sky_policy_test(&f->pil.agent.policy, &first) == 0 ? FLIGHT_WAITING : FLIGHT_REFUSED;
    s2s_agent_reset(&f->pil.agent);
}

static void begin(flight *f, int64_t now_ns)
{
    s2s_agent_reset(&f->pil.agent);
    f->setpoint.value[S2S_SET_ALTITUDE] = f->sample.value[S2S_ALTITUDE];
    f->setpoint.value[S2S_SET_AIRSPEED] = f->sample.value[S2S_AIRSPEED];
    f->setpoint.value[S2S_SET_HEADING] = f->sample.value[S2S_YAW];
    f->due_ns = now_ns;
    f->phase = FLIGHT_FLYING;
}

static void take_state(flight *f, const uint8_t *payload, int64_t now_ns)
{
    if (f->phase != FLIGHT_FLYING && !(f->phase == FLIGHT_WAITING && f->suffices)) return;
    if (plain_state_take(&f->state, payload, now_ns, &f->sample) && f->phase == FLIGHT_WAITING) begin(f, now_ns);
}

static size_t take_question(flight *f, const uint8_t *payload, size_t size, uint8_t *out)
{
    const uint8_t kind = size > 0 ? payload[0] : 0;
    uint8_t frame[S2S_PIL_MAX_FRAME];
    const uint8_t *from = frame;
    size_t left;

    if (f->phase == FLIGHT_FLYING && kind != 'K' && kind != 'D' && kind != 'A') return 0;
    if (f->phase == FLIGHT_WAITING && (kind == 'S' || kind == 'P')) f->phase = FLIGHT_BENCH;
    left = s2s_frame_encode(payload, size, frame);
    return s2s_pil_take(&f->pil, &from, &left, out);
}

size_t flight_take(flight *f, const uint8_t **data, size_t *n, int64_t now_ns, uint8_t *out)
{
    uint8_t payload[S2S_FRAME_MAX_PAYLOAD];
    const int size = s2s_frame_read(&f->reader, data, n, payload);

    if (size == S2S_FRAME_STATE) {
        take_state(f, payload, now_ns);
    } else if (size >= 0) {
        return take_question(f, payload, (size_t)size, out);
    }
    return 0;
}

size_t flight_tick(flight *f, int64_t now_ns, uint8_t *out)
{
    float values[S2S_CHANNELS];
    s2s_tick tick;

    if (f->phase != FLIGHT_FLYING || now_ns < f->due_ns) return 0;
    f->due_ns += f->period_ns;
    if (f->due_ns <= now_ns) f->due_ns = now_ns + f->period_ns; /* what is missed is not made up for */
    s2s_agent_tick(&f->pil.agent, &f->sample, &f->setpoint, now_ns, (double)NAN, &tick);
    f->command = tick.command;
    for (size_t i = 0; i < S2S_CHANNELS; i++)
        values[i] = (float)tick.command.channel[i];
    return s2s_frame_encode((const uint8_t *)values, sizeof values, out);
}

void flight_pulses_us(const flight *f, uint16_t *pulses)
{
    for (size_t i = 0; i < S2S_CHANNELS; i++) {
        const double value = f->command.channel[i];
        pulses[i] = (uint16_t)(i == S2S_THROTTLE ? 1000.0 + 1000.0 * value + 0.5 : 1500.0 + 500.0 * value + 0.5);
    }
}
