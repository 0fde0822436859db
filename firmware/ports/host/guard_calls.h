/* A guard on a computer with an operating system: many calls at once, as records of fixed layout. */
#ifndef SIM2SKY_GUARD_CALLS_H
#define SIM2SKY_GUARD_CALLS_H

#include <stddef.h>

#include "guard.h"

enum { S2S_CALL_STEP, S2S_CALL_RESET, S2S_CALL_KILL, S2S_CALL_DISARM, S2S_CALL_ARM };

typedef struct {
    s2s_sample sample;
    s2s_setpoint setpoint;
    s2s_command proposed;
    int64_t now_ns;
    double battery_v;
    int32_t policy; /* s2s_policy_state */
    int32_t what;   /* S2S_CALL_...; but for a step nothing else of the record is read */
} s2s_guard_call;

size_t s2s_guard_size(void);
/* One answer per call. Of those that are no step the mode says whether the guard is killed afterwards. */
void s2s_guard_calls(s2s_guard *g, const s2s_guard_call *calls, s2s_guarded *answers, size_t n);

#endif
