/* What plant and flight agent tell each other: the agent's half of sim2sky/runtime/messages.py (ADR 0005). */
#ifndef SIM2SKY_HIL_MESSAGES_H
#define SIM2SKY_HIL_MESSAGES_H

#include "agent.h"
#include "geodetic.h"
#include "mavlink.h"

enum {
    HIL_SYSTEM = 1,
    HIL_EPISODE_START = S2S_MAV_CMD_USER_1, /* parameters: episode, seed in four parts, control rate */
    HIL_EPISODE_END = S2S_MAV_CMD_USER_2,   /* episode, success */
};

bool hil_wanted(uint32_t id); /* whether an agent reads it */

/* The state in a HIL_STATE_QUATERNION; `time_ns` is its time on our clock. */
void hil_sample(const s2s_mav_message *m, int64_t time_ns, const s2s_geodetic *home, s2s_sample *out);
/* Sets what a COMMAND_LONG or SET_ATTITUDE_TARGET sets; false, and nothing changes, where that is nothing or not
 * finite. */
bool hil_setpoint(const s2s_mav_message *m, s2s_setpoint *setpoint);

double hil_parameter(const s2s_mav_message *m, int number); /* of a COMMAND_LONG; 1..7 */
uint16_t hil_command(const s2s_mav_message *m);

void hil_heartbeat(s2s_mav_message *m, bool flying);
void hil_timesync(s2s_mav_message *m, int64_t tc1, int64_t ts1);
void hil_acknowledge(s2s_mav_message *m, uint16_t command, uint8_t result);
void hil_attitude_target(s2s_mav_message *m, const s2s_mav_message *request); /* receipt of a SET_ATTITUDE_TARGET */
void hil_controls(s2s_mav_message *m, const s2s_tick *tick, uint64_t time_usec, bool lockstep);
void hil_version(s2s_mav_message *m, const s2s_agent_config *config);

#endif
