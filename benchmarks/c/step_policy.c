/* One step of a generated policy, every call native. */
#include "policy.h"

void step(const float *observation, float *action);

void step(const float *observation, float *action)
{
    static sim2sky_policy policy;
    static uint64_t now_ns;
    if (now_ns == 0u) {
        sim2sky_policy_init(&policy);
    }
    now_ns += 1000000000u;
    (void)sim2sky_policy_control(&policy, now_ns, observation, action);
}
