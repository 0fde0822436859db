/* One step of a network in emlearn's C, which has no normaliser and no limits: both are put around it here. */
#include "emlearn_net.h"
#include "ranges.h"

void step(const float *observation, float *action);

void step(const float *observation, float *action)
{
    float x[N_OBSERVATION];
    for (int i = 0; i < N_OBSERVATION; ++i) {
        const float y = (observation[i] - mean[i]) * scale[i];
        x[i] = y < -10.0f ? -10.0f : y > 10.0f ? 10.0f : y;
    }
    (void)net_regress(x, N_OBSERVATION, action, N_ACTION);
    for (int i = 0; i < N_ACTION; ++i) {
        action[i] = action[i] < -1.0f ? -1.0f : action[i] > 1.0f ? 1.0f : action[i];
    }
}
