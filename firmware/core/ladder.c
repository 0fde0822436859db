/* The ladder of run-time assurance, as tabulated in guard_table.h: flags in, one action out. */
#include "guard.h"

static const s2s_rule RULES[] = S2S_RULES;

static bool applies(const s2s_rule *r, uint32_t trips, uint32_t situation) {
    return (r->any_of == 0 || (trips & r->any_of) != 0) && (trips & r->none_of) == 0 &&
           (situation & r->situation) == r->situation;
}

int32_t s2s_decide(uint32_t trips, uint32_t situation) {
    const s2s_rule *r = RULES;
    while (!applies(r, trips, situation)) {
        r++;
    }
    return r->action;
}
