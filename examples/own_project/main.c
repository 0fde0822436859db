/* The agent in a project of one's own: replay the golden vectors, then fly three control periods of a level flight.
 *
 *     sim2sky firmware BUNDLE -o project --port sources
 *     cd project/sim2sky && cc -std=c99 -O3 -ffp-contract=off -I. ../../main.c *.c -lm -o ../agent */
#include <math.h>
#include <stdio.h>

#include "agent.h"

static s2s_agent agent;

int main(void)
{
    uint32_t first;
    s2s_agent_init(&agent, &s2s_config);
    const uint32_t different = sim2sky_policy_test(&agent.policy, &first);
    printf("golden vectors: %u of %d differ\n", (unsigned)different, SIM2SKY_POLICY_N_GOLDEN);
    if (different != 0) return 1;
    s2s_agent_reset(&agent);

    s2s_setpoint wanted = {{0}};
    wanted.value[S2S_SET_ALTITUDE] = 160.0;
    wanted.value[S2S_SET_AIRSPEED] = 18.0;
    for (int k = 0; k < 3; k++) {
        /* From your sensors, and your clock. */
        s2s_sample state = {.time_ns = (int64_t)(k * 1e9 / s2s_config.rate_hz)};
        state.value[S2S_PITCH] = 0.05;
        state.value[S2S_AIRSPEED] = 18.0;
        state.value[S2S_ALTITUDE] = 150.0;
        state.value[S2S_NORTH_SPEED] = state.value[S2S_EAST_SPEED] = NAN; /* not measured */

        s2s_tick tick;
        s2s_agent_tick(&agent, &state, &wanted, state.time_ns, NAN, &tick);
        const double *command = tick.command.channel; /* to your servos */
        printf("mode %d: aileron %+.3f, elevator %+.3f, rudder %+.3f, throttle %.3f\n", (int)tick.mode,
               command[S2S_AILERON], command[S2S_ELEVATOR], command[S2S_RUDDER], command[S2S_THROTTLE]);
    }
    return 0;
}
