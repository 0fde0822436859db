/* Processor in the loop: see pil.h. */
#include "pil.h"

#include <string.h>

enum {
    N_OBSERVATION = SIM2SKY_POLICY_N_OBSERVATION, N_ACTION = SIM2SKY_POLICY_N_ACTION,
    STEP_SIZE = 1 + 8 + 8 + 8 * S2S_SAMPLE_VALUES + 8 * S2S_SETPOINT_VALUES + 8,
    STEP_ANSWER_SIZE = 1 + 4 + 4 + 8 + 8 * S2S_CHANNELS + 4 * S2S_CHANNELS + 4 * N_OBSERVATION,
    POLICY_SIZE = 1 + 8 + 4 * N_OBSERVATION
};

/* An agent with a longer observation needs longer frames than this protocol has. */
typedef char step_answer_fits[(int)STEP_ANSWER_SIZE <= (int)S2S_FRAME_MAX_PAYLOAD ? 1 : -1];

typedef struct {
    uint8_t *at;
} writer;

static void put(writer *w, const void *value, size_t size)
{
    memcpy(w->at, value, size);
    w->at += size;
}

static void put_u32(writer *w, uint32_t value)
{
    put(w, &value, sizeof value);
}

static void put_u16(writer *w, uint16_t value)
{
    put(w, &value, sizeof value);
}

static void put_u8(writer *w, uint8_t value)
{
    put(w, &value, sizeof value);
}

static void get(const uint8_t **from, void *value, size_t size)
{
    memcpy(value, *from, size);
    *from += size;
}

static uint8_t nibble(char digit)
{
    return (uint8_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static void identify(const s2s_pil *p, writer *w)
{
    static const char digest[] = SIM2SKY_POLICY_DIGEST;
    const s2s_agent_config *c = p->agent.config;

    put_u8(w, S2S_PIL_VERSION);
    put(w, c->contract_hash, sizeof c->contract_hash);
    put(w, c->bundle_digest, sizeof c->bundle_digest);
    for (size_t i = 0; i < 32u; i++) {
        put_u8(w, (uint8_t)(nibble(digest[2u * i]) << 4 | nibble(digest[2u * i + 1u])));
    }
    put_u16(w, N_OBSERVATION);
    put_u16(w, N_ACTION);
    put_u32(w, SIM2SKY_POLICY_N_GOLDEN);
    put(w, &c->rate_hz, sizeof c->rate_hz);
    put_u32(w, p->reader.damaged);
}

static void self_test(s2s_pil *p, writer *w)
{
    uint32_t first = 0;
    const uint32_t different = sim2sky_policy_test(&p->agent.policy, &first);

    sim2sky_policy_reset(&p->agent.policy);
    put_u32(w, SIM2SKY_POLICY_N_GOLDEN);
    put_u32(w, different);
    put_u32(w, first);
}

__attribute__((weak)) uint64_t s2s_pil_instructions(void)
{
    return 0;
}

static uint64_t since(const s2s_pil *p, uint64_t start)
{
    return s2s_pil_instructions() - start - p->call_instructions;
}

static void ask_policy(s2s_pil *p, const uint8_t *from, writer *w)
{
    float observation[N_OBSERVATION], action[N_ACTION];
    uint64_t time_ns, start, instructions;
    uint32_t status;

    get(&from, &time_ns, sizeof time_ns);
    get(&from, observation, sizeof observation);
    start = s2s_pil_instructions();
    status = sim2sky_policy_control(&p->agent.policy, time_ns, observation, action);
    instructions = since(p, start);
    put_u32(w, status);
    put(w, action, sizeof action);
    put(w, &instructions, sizeof instructions);
}

static void step(s2s_pil *p, const uint8_t *from, writer *w)
{
    s2s_sample sample;
    s2s_setpoint setpoint;
    s2s_tick tick;
    int64_t now_ns;
    double battery_v;
    uint64_t start, instructions;

    get(&from, &now_ns, sizeof now_ns);
    get(&from, &sample.time_ns, sizeof sample.time_ns);
    get(&from, sample.value, sizeof sample.value);
    get(&from, setpoint.value, sizeof setpoint.value);
    get(&from, &battery_v, sizeof battery_v);
    start = s2s_pil_instructions();
    s2s_agent_tick(&p->agent, &sample, &setpoint, now_ns, battery_v, &tick);
    instructions = since(p, start);
    put(w, &tick.mode, sizeof tick.mode);
    put_u32(w, tick.trips);
    put(w, &instructions, sizeof instructions);
    put(w, tick.command.channel, sizeof tick.command.channel);
    put(w, tick.action, sizeof tick.action);
    put(w, tick.observation, sizeof tick.observation);
}

static size_t expected_size(uint8_t kind)
{
    switch (kind) {
    case 'I': case 'T': case 'R': case 'F': case 'K': case 'D': case 'A': case 'Q':
        return 1u;
    case 'P':
        return POLICY_SIZE;
    case 'S':
        return STEP_SIZE;
    default:
        return 0u;
    }
}

static void answer(s2s_pil *p, writer *w)
{
    const uint8_t kind = p->question[0];
    s2s_agent *a = &p->agent;

    put_u8(w, (uint8_t)(kind - 'A' + 'a'));
    switch (kind) {
    case 'I':
        identify(p, w);
        break;
    case 'T':
        self_test(p, w);
        break;
    case 'R':
        s2s_agent_reset(a);
        break;
    case 'F':
        sim2sky_policy_reset(&a->policy);
        break;
    case 'P':
        ask_policy(p, p->question + 1, w);
        break;
    case 'S':
        step(p, p->question + 1, w);
        break;
    case 'K':
        put_u8(w, s2s_guard_kill(&a->guard));
        break;
    case 'D':
        s2s_guard_disarm(&a->guard);
        put_u8(w, 1u);
        break;
    case 'A':
        put_u8(w, s2s_guard_arm(&a->guard));
        break;
    default:
        p->ended = true;
        break;
    }
}

void s2s_pil_init(s2s_pil *p, const s2s_agent_config *config)
{
    uint64_t start;

    s2s_agent_init(&p->agent, config);
    s2s_frame_reader_init(&p->reader);
    p->damaged = 0;
    p->ended = false;
    start = s2s_pil_instructions();
    p->call_instructions = s2s_pil_instructions() - start;
}

size_t s2s_pil_answer(s2s_pil *p, int size, uint8_t *out)
{
    uint8_t payload[S2S_FRAME_MAX_PAYLOAD];
    writer w = {payload};

    if (size < 0) {
        if (p->reader.damaged == p->damaged) {
            return 0;
        }
        put_u8(&w, 'e');
        put_u8(&w, S2S_PIL_DAMAGED);
    } else if (size == 0 || (size_t)size != expected_size(p->question[0])) {
        put_u8(&w, 'e');
        put_u8(&w, size > 0 && expected_size(p->question[0]) > 0u ? S2S_PIL_LENGTH : S2S_PIL_UNKNOWN);
    } else {
        answer(p, &w);
    }
    p->damaged = p->reader.damaged;
    return s2s_frame_encode(payload, (size_t)(w.at - payload), out);
}

size_t s2s_pil_take(s2s_pil *p, const uint8_t **data, size_t *n, uint8_t *out)
{
    return s2s_pil_answer(p, s2s_frame_read(&p->reader, data, n, p->question), out);
}
