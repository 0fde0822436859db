/* An autopilot's telemetry: see fly_telemetry.h. */
#include "fly_telemetry.h"

#include <math.h>

#define MS INT64_C(1000000)
#define RECEIVER_LIFE_NS (1000 * MS)
#define LATEST_NS INT64_C(4000000000000000000) /* 126 years: damage beyond sense */

void fly_telemetry_init(fly_telemetry *t)
{
    memset(t, 0, sizeof *t);
    s2s_sender_clock_init(&t->sender);
    t->battery_v = (double)NAN;
}

/* The sender was restarted: nothing of before belongs to what comes now. */
static void forget_if_restarted(fly_telemetry *t, uint32_t restarts)
{
    if (t->sender.restarts != restarts) {
        t->has_attitude = t->has_position = t->has_airspeed = false;
    }
}

/* Our time of a message stamped at the beginning of its payload; false where it is older than one that came before. */
static bool stamp(fly_telemetry *t, const s2s_mav_message *m, int64_t now_ns, int64_t *time_ns)
{
    const int64_t sent_ns = (int64_t)s2s_get_u32(m->payload) * MS;
    const uint32_t restarts = t->sender.restarts;
    if (!s2s_sender_clock_receipt(&t->sender, sent_ns, now_ns)) {
        return false;
    }
    forget_if_restarted(t, restarts);
    *time_ns = s2s_sender_clock_to_ours(&t->sender, sent_ns, now_ns);
    return true;
}

void fly_telemetry_timesync(fly_telemetry *t, int64_t sent_ns, int64_t stamp_ns, int64_t now_ns)
{
    const uint32_t restarts = t->sender.restarts;
    if (sent_ns > now_ns || sent_ns < 0 || stamp_ns > LATEST_NS || stamp_ns < -LATEST_NS) {
        return;
    }
    s2s_sender_clock_timesync(&t->sender, sent_ns, stamp_ns, now_ns);
    forget_if_restarted(t, restarts);
}

static double f32(const s2s_mav_message *m, size_t place)
{
    return (double)s2s_get_f32(m->payload + place);
}

static void take_attitude(fly_telemetry *t, const s2s_mav_message *m, int64_t now_ns)
{
    if (!stamp(t, m, now_ns, &t->attitude_ns)) {
        return;
    }
    t->has_attitude = true;
    if (m->id == S2S_MAV_ATTITUDE) {
        for (size_t i = 0; i < 6; i++) { /* roll, pitch, yaw and their rates, in the order of a sample */
            t->value[S2S_ROLL + i] = f32(m, S2S_MAV_ATTITUDE_ROLL + 4 * i);
        }
        return;
    }
    const double q[4] = {
        f32(m, S2S_MAV_ATTITUDE_QUATERNION_Q1), f32(m, S2S_MAV_ATTITUDE_QUATERNION_Q2),
        f32(m, S2S_MAV_ATTITUDE_QUATERNION_Q3), f32(m, S2S_MAV_ATTITUDE_QUATERNION_Q4),
    };
    s2s_quaternion_to_euler(q, &t->value[S2S_ROLL], &t->value[S2S_PITCH], &t->value[S2S_YAW]);
    for (size_t i = 0; i < 3; i++) {
        t->value[S2S_P + i] = f32(m, S2S_MAV_ATTITUDE_QUATERNION_ROLLSPEED + 4 * i);
    }
}

static void take_position(fly_telemetry *t, const s2s_mav_message *m, int64_t now_ns)
{
    const uint8_t *p = m->payload;
    int64_t time_ns;
    if (!stamp(t, m, now_ns, &time_ns) || !t->has_home) {
        return;
    }
    t->has_position = true;
    t->position_ns = time_ns;
    s2s_geodetic_to_metres(&t->home, s2s_get_i32(p + S2S_MAV_GLOBAL_POSITION_INT_LAT),
                           s2s_get_i32(p + S2S_MAV_GLOBAL_POSITION_INT_LON), &t->value[S2S_NORTH],
                           &t->value[S2S_EAST]);
    t->value[S2S_ALTITUDE] = s2s_get_i32(p + S2S_MAV_GLOBAL_POSITION_INT_RELATIVE_ALT) * 1e-3;
    t->value[S2S_NORTH_SPEED] = s2s_get_i16(p + S2S_MAV_GLOBAL_POSITION_INT_VX) * 0.01;
    t->value[S2S_EAST_SPEED] = s2s_get_i16(p + S2S_MAV_GLOBAL_POSITION_INT_VY) * 0.01;
    t->value[S2S_CLIMB_RATE] = -(s2s_get_i16(p + S2S_MAV_GLOBAL_POSITION_INT_VZ) * 0.01);
}

static void take_receiver(fly_telemetry *t, const s2s_mav_message *m, int64_t now_ns)
{
    const uint8_t count = m->payload[S2S_MAV_RC_CHANNELS_CHANCOUNT];
    t->has_receiver = true;
    t->receiver_ns = now_ns;
    t->n_receiver = count < FLY_RECEIVER ? count : FLY_RECEIVER;
    for (size_t i = 0; i < FLY_RECEIVER; i++) {
        t->receiver_us[i] = s2s_get_u16(m->payload + S2S_MAV_RC_CHANNELS_CHAN1_RAW + 2 * i);
    }
}

static void take_outputs(fly_telemetry *t, const s2s_mav_message *m)
{
    if (m->payload[S2S_MAV_SERVO_OUTPUT_RAW_PORT] != 0) {
        return;
    }
    t->n_outputs = FLY_OUTPUTS;
    for (size_t i = 0; i < FLY_OUTPUTS; i++) {
        const size_t place =
            i < 8 ? S2S_MAV_SERVO_OUTPUT_RAW_SERVO1_RAW + 2 * i : S2S_MAV_SERVO_OUTPUT_RAW_SERVO9_RAW + 2 * (i - 8);
        t->outputs_us[i] = s2s_get_u16(m->payload + place);
    }
}

void fly_telemetry_take(fly_telemetry *t, const s2s_mav_message *m, int64_t now_ns)
{
    const uint8_t *p = m->payload;
    int64_t unused;
    if (m->id == S2S_MAV_ATTITUDE || m->id == S2S_MAV_ATTITUDE_QUATERNION) {
        take_attitude(t, m, now_ns);
    } else if (m->id == S2S_MAV_GLOBAL_POSITION_INT) {
        take_position(t, m, now_ns);
    } else if (m->id == S2S_MAV_LOCAL_POSITION_NED) {
        stamp(t, m, now_ns, &unused); /* ArduPilot does not say where home is in that frame */
    } else if (m->id == S2S_MAV_VFR_HUD) {
        t->has_airspeed = true;
        t->airspeed_ns = now_ns; /* it carries no time stamp */
        t->value[S2S_AIRSPEED] = f32(m, S2S_MAV_VFR_HUD_AIRSPEED);
    } else if (m->id == S2S_MAV_RC_CHANNELS) {
        take_receiver(t, m, now_ns);
    } else if (m->id == S2S_MAV_SERVO_OUTPUT_RAW) {
        take_outputs(t, m);
    } else if (m->id == S2S_MAV_SYS_STATUS) {
        const uint16_t mv = s2s_get_u16(p + S2S_MAV_SYS_STATUS_VOLTAGE_BATTERY);
        t->battery_v = mv == 65535 ? (double)NAN : mv * 1e-3;
    } else if (m->id == S2S_MAV_HOME_POSITION) {
        t->has_home = true;
        t->home = s2s_geodetic_at(s2s_get_i32(p + S2S_MAV_HOME_POSITION_LATITUDE) * 1e-7,
                                  s2s_get_i32(p + S2S_MAV_HOME_POSITION_LONGITUDE) * 1e-7,
                                  s2s_get_i32(p + S2S_MAV_HOME_POSITION_ALTITUDE) * 1e-3);
    }
}

const char *fly_telemetry_missing(const fly_telemetry *t)
{
    return !t->has_attitude   ? "ATTITUDE"
           : !t->has_home     ? "HOME_POSITION"
           : !t->has_position ? "GLOBAL_POSITION_INT"
           : !t->has_airspeed ? "VFR_HUD"
                              : NULL;
}

bool fly_telemetry_sample(const fly_telemetry *t, s2s_sample *out)
{
    if (!t->has_attitude || !t->has_position || !t->has_airspeed) {
        return false;
    }
    out->time_ns = t->attitude_ns < t->position_ns ? t->attitude_ns : t->position_ns;
    if (t->airspeed_ns < out->time_ns) {
        out->time_ns = t->airspeed_ns;
    }
    memcpy(out->value, t->value, sizeof out->value);
    return true;
}

uint32_t fly_telemetry_receiver(const fly_telemetry *t, int64_t now_ns, const uint16_t **widths_us)
{
    *widths_us = t->receiver_us;
    return t->has_receiver && now_ns - t->receiver_ns <= RECEIVER_LIFE_NS ? t->n_receiver : 0;
}
