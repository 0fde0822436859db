/* A guard on a computer with an operating system: many calls at once, as records of fixed layout. */
#include "guard_calls.h"

size_t s2s_guard_size(void) { return sizeof(s2s_guard); }

static s2s_guarded other(s2s_guard *g, int32_t what) {
    switch (what) {
    case S2S_CALL_RESET:
        s2s_guard_reset(g);
        break;
    case S2S_CALL_KILL:
        s2s_guard_kill(g);
        break;
    case S2S_CALL_DISARM:
        s2s_guard_disarm(g);
        break;
    default:
        s2s_guard_arm(g);
        break;
    }
    return (s2s_guarded){.mode = s2s_guard_killed(g) ? 1 : 0};
}

void s2s_guard_calls(s2s_guard *g, const s2s_guard_call *calls, s2s_guarded *answers, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const s2s_guard_call *c = &calls[i];
        if (c->what == S2S_CALL_STEP) {
            s2s_policy_state policy = (s2s_policy_state)c->policy;
            answers[i] = s2s_guard_step(g, &c->sample, &c->setpoint, &c->proposed, c->now_ns, policy, c->battery_v);
        } else {
            answers[i] = other(g, c->what);
        }
    }
}
