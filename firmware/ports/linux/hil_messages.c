/* Messages of a HIL run: see hil_messages.h. */
#include "hil_messages.h"

#include <math.h>

#include "real.h"

enum { LOCKSTEP_FLAG = 1, MODE_SHIFT = 8, TRIPS_SHIFT = 32, VERSION_BYTES = 8 };

bool hil_wanted(uint32_t id)
{
    return id == S2S_MAV_HEARTBEAT || id == S2S_MAV_TIMESYNC || id == S2S_MAV_COMMAND_LONG
           || id == S2S_MAV_SET_ATTITUDE_TARGET || id == S2S_MAV_HIL_STATE_QUATERNION || id == S2S_MAV_STATUSTEXT
           || id == S2S_MAV_SYSTEM_TIME;
}

static void quaternion(const uint8_t *p, double q[4])
{
    for (int i = 0; i < 4; i++) {
        q[i] = (double)s2s_get_f32(p + 4 * i);
    }
}

void hil_sample(const s2s_mav_message *m, int64_t time_ns, const s2s_geodetic *home, s2s_sample *out)
{
    const uint8_t *p = m->payload;
    double q[4], *v = out->value;
    quaternion(p + S2S_MAV_HIL_STATE_QUATERNION_ATTITUDE_QUATERNION, q);
    out->time_ns = time_ns;
    s2s_quaternion_to_euler(q, &v[S2S_ROLL], &v[S2S_PITCH], &v[S2S_YAW]);
    v[S2S_P] = (double)s2s_get_f32(p + S2S_MAV_HIL_STATE_QUATERNION_ROLLSPEED);
    v[S2S_Q] = (double)s2s_get_f32(p + S2S_MAV_HIL_STATE_QUATERNION_PITCHSPEED);
    v[S2S_R] = (double)s2s_get_f32(p + S2S_MAV_HIL_STATE_QUATERNION_YAWSPEED);
    v[S2S_AIRSPEED] = s2s_get_u16(p + S2S_MAV_HIL_STATE_QUATERNION_IND_AIRSPEED) * 0.01;
    v[S2S_ALTITUDE] = s2s_get_i32(p + S2S_MAV_HIL_STATE_QUATERNION_ALT) * 0.001 - home->altitude_m;
    v[S2S_CLIMB_RATE] = -s2s_get_i16(p + S2S_MAV_HIL_STATE_QUATERNION_VZ) * 0.01;
    s2s_geodetic_to_metres(home, s2s_get_i32(p + S2S_MAV_HIL_STATE_QUATERNION_LAT),
                           s2s_get_i32(p + S2S_MAV_HIL_STATE_QUATERNION_LON), &v[S2S_NORTH], &v[S2S_EAST]);
    v[S2S_NORTH_SPEED] = s2s_get_i16(p + S2S_MAV_HIL_STATE_QUATERNION_VX) * 0.01;
    v[S2S_EAST_SPEED] = s2s_get_i16(p + S2S_MAV_HIL_STATE_QUATERNION_VY) * 0.01;
}

double hil_parameter(const s2s_mav_message *m, int number)
{
    return (double)s2s_get_f32(m->payload + S2S_MAV_COMMAND_LONG_PARAM1 + 4 * (number - 1));
}

uint16_t hil_command(const s2s_mav_message *m)
{
    return s2s_get_u16(m->payload + S2S_MAV_COMMAND_LONG_COMMAND);
}

static bool attitude_setpoint(const s2s_mav_message *m, s2s_setpoint *setpoint)
{
    const uint8_t *p = m->payload;
    double q[4], v[5], yaw;
    quaternion(p + S2S_MAV_SET_ATTITUDE_TARGET_Q, q);
    s2s_quaternion_to_euler(q, &v[0], &v[1], &yaw);
    v[2] = (double)s2s_get_f32(p + S2S_MAV_SET_ATTITUDE_TARGET_BODY_ROLL_RATE);
    v[3] = (double)s2s_get_f32(p + S2S_MAV_SET_ATTITUDE_TARGET_BODY_PITCH_RATE);
    v[4] = (double)s2s_get_f32(p + S2S_MAV_SET_ATTITUDE_TARGET_BODY_YAW_RATE);
    for (int i = 0; i < 5; i++) {
        if (!isfinite(v[i])) {
            return false;
        }
    }
    for (int i = 0; i < 5; i++) {
        setpoint->value[S2S_SET_ROLL + i] = v[i];
    }
    return true;
}

bool hil_setpoint(const s2s_mav_message *m, s2s_setpoint *setpoint)
{
    const double first = hil_parameter(m, 1), second = hil_parameter(m, 2);
    double value;
    int place;
    if (m->id == S2S_MAV_SET_ATTITUDE_TARGET) {
        return attitude_setpoint(m, setpoint);
    }
    if (hil_command(m) == S2S_MAV_CMD_DO_CHANGE_SPEED && first == S2S_SPEED_TYPE_AIRSPEED) {
        place = S2S_SET_AIRSPEED;
        value = second;
    } else if (hil_command(m) == S2S_MAV_CMD_DO_CHANGE_ALTITUDE && second == S2S_MAV_FRAME_GLOBAL_RELATIVE_ALT) {
        place = S2S_SET_ALTITUDE;
        value = first;
    } else if (hil_command(m) == S2S_MAV_CMD_GUIDED_CHANGE_HEADING && first == S2S_HEADING_TYPE_HEADING) {
        place = S2S_SET_HEADING;
        value = second * (S2S_PI / 180.0);
    } else {
        return false;
    }
    if (!isfinite(value)) {
        return false;
    }
    setpoint->value[place] = value;
    return true;
}

void hil_heartbeat(s2s_mav_message *m, bool flying)
{
    s2s_mav_init(m, S2S_MAV_HEARTBEAT);
    m->payload[S2S_MAV_HEARTBEAT_TYPE] = S2S_MAV_TYPE_ONBOARD_CONTROLLER;
    m->payload[S2S_MAV_HEARTBEAT_AUTOPILOT] = S2S_MAV_AUTOPILOT_INVALID;
    m->payload[S2S_MAV_HEARTBEAT_BASE_MODE] = S2S_MAV_MODE_FLAG_HIL_ENABLED | S2S_MAV_MODE_FLAG_CUSTOM_MODE_ENABLED;
    m->payload[S2S_MAV_HEARTBEAT_SYSTEM_STATUS] = flying ? S2S_MAV_STATE_ACTIVE : S2S_MAV_STATE_STANDBY;
    m->payload[S2S_MAV_HEARTBEAT_MAVLINK_VERSION] = 3;
}

void hil_timesync(s2s_mav_message *m, int64_t tc1, int64_t ts1)
{
    s2s_mav_init(m, S2S_MAV_TIMESYNC);
    s2s_put_u64(m->payload + S2S_MAV_TIMESYNC_TC1, (uint64_t)tc1);
    s2s_put_u64(m->payload + S2S_MAV_TIMESYNC_TS1, (uint64_t)ts1);
}

void hil_acknowledge(s2s_mav_message *m, uint16_t command, uint8_t result)
{
    s2s_mav_init(m, S2S_MAV_COMMAND_ACK);
    s2s_put_u16(m->payload + S2S_MAV_COMMAND_ACK_COMMAND, command);
    m->payload[S2S_MAV_COMMAND_ACK_RESULT] = result;
    m->payload[S2S_MAV_COMMAND_ACK_TARGET_SYSTEM] = HIL_SYSTEM;
    m->payload[S2S_MAV_COMMAND_ACK_TARGET_COMPONENT] = S2S_MAV_COMP_ID_AUTOPILOT1;
}

void hil_attitude_target(s2s_mav_message *m, const s2s_mav_message *request)
{
    s2s_mav_init(m, S2S_MAV_ATTITUDE_TARGET);
    /* Time, attitude, rates and thrust begin both messages, alike. */
    memcpy(m->payload, request->payload, S2S_MAV_ATTITUDE_TARGET_TYPE_MASK);
    m->payload[S2S_MAV_ATTITUDE_TARGET_TYPE_MASK] = request->payload[S2S_MAV_SET_ATTITUDE_TARGET_TYPE_MASK];
}

static uint8_t mode_flags(int32_t mode)
{
    const uint8_t armed = S2S_MAV_MODE_FLAG_SAFETY_ARMED | S2S_MAV_MODE_FLAG_HIL_ENABLED;
    if (mode == S2S_MODE_KILLED) {
        return S2S_MAV_MODE_FLAG_HIL_ENABLED;
    }
    return (uint8_t)(armed | (mode == S2S_MODE_POLICY ? S2S_MAV_MODE_FLAG_GUIDED_ENABLED
                                                      : S2S_MAV_MODE_FLAG_STABILIZE_ENABLED));
}

void hil_controls(s2s_mav_message *m, const s2s_tick *tick, uint64_t time_usec, bool lockstep)
{
    const uint64_t flags = (lockstep ? LOCKSTEP_FLAG : 0u) | (uint64_t)(uint32_t)tick->mode << MODE_SHIFT
                           | (uint64_t)tick->trips << TRIPS_SHIFT;
    s2s_mav_init(m, S2S_MAV_HIL_ACTUATOR_CONTROLS);
    s2s_put_u64(m->payload + S2S_MAV_HIL_ACTUATOR_CONTROLS_TIME_USEC, time_usec);
    s2s_put_u64(m->payload + S2S_MAV_HIL_ACTUATOR_CONTROLS_FLAGS, flags);
    for (int i = 0; i < S2S_CHANNELS; i++) {
        s2s_put_f32(m->payload + S2S_MAV_HIL_ACTUATOR_CONTROLS_CONTROLS + 4 * i, (float)tick->command.channel[i]);
    }
    m->payload[S2S_MAV_HIL_ACTUATOR_CONTROLS_MODE] = mode_flags(tick->mode);
}

void hil_version(s2s_mav_message *m, const s2s_agent_config *config)
{
    const uint64_t capabilities =
        S2S_MAV_PROTOCOL_CAPABILITY_MAVLINK2 | S2S_MAV_PROTOCOL_CAPABILITY_SET_ATTITUDE_TARGET;
    uint64_t uid = 0;
    s2s_mav_init(m, S2S_MAV_AUTOPILOT_VERSION);
    for (int i = 0; i < VERSION_BYTES; i++) {
        uid = uid << 8 | config->bundle_digest[i];
    }
    s2s_put_u64(m->payload + S2S_MAV_AUTOPILOT_VERSION_CAPABILITIES, capabilities);
    s2s_put_u64(m->payload + S2S_MAV_AUTOPILOT_VERSION_UID, uid);
    memcpy(m->payload + S2S_MAV_AUTOPILOT_VERSION_FLIGHT_CUSTOM_VERSION, config->bundle_digest, VERSION_BYTES);
    memcpy(m->payload + S2S_MAV_AUTOPILOT_VERSION_MIDDLEWARE_CUSTOM_VERSION, config->contract_hash, VERSION_BYTES);
}
