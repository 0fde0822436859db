/* The floor: reads as many weights once, and does nothing else. N_WEIGHTS, a multiple of 64, is a macro of weights.h. */
#include "weights.h"

extern float weights[N_WEIGHTS]; /* visible outside, so that no compiler knows what they are */
void step(const float *observation, float *action);

float weights[N_WEIGHTS];

void step(const float *observation, float *action)
{
    float sum[64] = {0};
    for (unsigned i = 0; i < N_WEIGHTS; i += 64) {
        for (unsigned k = 0; k < 64; ++k) {
            sum[k] += weights[i + k];
        }
    }
    for (unsigned k = 1; k < 64; ++k) {
        sum[0] += sum[k];
    }
    action[0] = sum[0] + observation[0];
}
