/* One ArduPilot: see fly.h. Control is taken and given back by mode changes. Whoever changes the mode meanwhile (the
 * pilot's switch, a failsafe) has control from then on: stick overrides are released at once. */
#include <stdio.h>

#include "fly.h"

#define SECOND INT64_C(1000000000)
#define TAKE_OVER_NS (2 * SECOND) /* the mode must have changed by then */
#define HAND_BACK_NS (3 * SECOND)
#define SETTLING_NS SECOND /* a heartbeat that was under way when the mode changed may still name the old one */
enum { RELEASES = 3, OUR_SYSTEM = 1 };

const char *fly_mode_name(uint32_t mode)
{
    static const char *const NAMES[] = {
        "MANUAL", "CIRCLE", "STABILIZE", "TRAINING", "ACRO", "FBWA", "FBWB", "CRUISE", "AUTOTUNE", NULL, "AUTO", "RTL",
        "LOITER", "TAKEOFF", "AVOID_ADSB", "GUIDED", "INITIALISING", NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        "THERMAL",
    };
    return mode < sizeof NAMES / sizeof NAMES[0] && NAMES[mode] != NULL ? NAMES[mode] : "an unknown mode";
}

void fly_put(fly *f, s2s_mav_message *m)
{
    if (f->n_out + S2S_MAV_MAX_FRAME <= sizeof f->out) {
        m->system = f->known ? f->system : OUR_SYSTEM; /* one system with the autopilot */
        m->component = S2S_MAV_COMP_ID_ONBOARD_COMPUTER;
        m->sequence = f->sequence++;
        f->n_out += s2s_mav_pack(m, f->out + f->n_out);
    }
}

static void put_sticks(fly *f, s2s_mav_message *m)
{
    m->payload[S2S_MAV_RC_CHANNELS_OVERRIDE_TARGET_SYSTEM] = f->system;
    m->payload[S2S_MAV_RC_CHANNELS_OVERRIDE_TARGET_COMPONENT] = f->component;
    fly_put(f, m);
}

static void put_timesync(fly *f, int64_t tc1, int64_t ts1)
{
    s2s_mav_message m;
    s2s_mav_init(&m, S2S_MAV_TIMESYNC);
    s2s_put_u64(m.payload + S2S_MAV_TIMESYNC_TC1, (uint64_t)tc1);
    s2s_put_u64(m.payload + S2S_MAV_TIMESYNC_TS1, (uint64_t)ts1);
    fly_put(f, &m);
}

void fly_ask_for_everything(fly *f)
{
    const double rate_hz = f->agent->config->rate_hz;
    const struct {
        uint32_t message;
        double hz;
    } wanted[] = {
        {S2S_MAV_ATTITUDE, 2.0 * rate_hz},
        {S2S_MAV_GLOBAL_POSITION_INT, rate_hz},
        {S2S_MAV_VFR_HUD, rate_hz},
        {S2S_MAV_RC_CHANNELS, 10.0},
        {S2S_MAV_HEARTBEAT, 4.0}, /* it names the mode: the pilot's switch must be seen soon */
        {S2S_MAV_SERVO_OUTPUT_RAW, 4.0},
        {S2S_MAV_SYS_STATUS, 1.0},
    };
    fly_forget(&f->requests, S2S_MAV_CMD_SET_MESSAGE_INTERVAL);
    fly_forget(&f->requests, S2S_MAV_CMD_REQUEST_MESSAGE);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        fly_ask(&f->requests, S2S_MAV_CMD_SET_MESSAGE_INTERVAL, (float)wanted[i].message,
                (float)s2s_nearest(1e6 / wanted[i].hz));
    }
    fly_ask(&f->requests, S2S_MAV_CMD_REQUEST_MESSAGE, (float)S2S_MAV_HOME_POSITION, 0.0f);
    for (uint32_t i = 0; i < FLY_PARAMETERS; i++) {
        if (!f->parameters.known[i]) {
            fly_forget(&f->requests, FLY_PARAMETER_KEY + i);
            fly_ask(&f->requests, FLY_PARAMETER_KEY + i, 0.0f, 0.0f);
        }
    }
}

/* Control */

static void given_up(fly *f)
{
    fly_forget(&f->requests, S2S_MAV_CMD_DO_SET_MODE);
    f->control = FLY_THEIRS;
    f->releases = RELEASES;
}

/* Control is theirs, whatever we wanted. */
static void lose(fly *f, const char *why)
{
    snprintf(f->lost, sizeof f->lost, "%s", why);
    if (f->control != FLY_THEIRS) {
        given_up(f);
    }
}

static void change_mode(fly *f, uint32_t mode, fly_control control)
{
    fly_forget(&f->requests, S2S_MAV_CMD_DO_SET_MODE);
    fly_ask(&f->requests, S2S_MAV_CMD_DO_SET_MODE, (float)S2S_MAV_MODE_FLAG_CUSTOM_MODE_ENABLED, (float)mode);
    f->control = control;
    f->since_ns = f->now_ns;
    fly_output_watch_reset(&f->outputs);
}

void fly_take_over(fly *f)
{
    change_mode(f, FLY_MODE_MANUAL, FLY_ASKED);
    f->releases = 0;
}

void fly_hand_back(fly *f)
{
    if (f->control == FLY_ASKED || f->control == FLY_OURS) {
        change_mode(f, f->options.hand_back, FLY_HANDED);
    }
}

void fly_let_go(fly *f)
{
    if (f->control != FLY_THEIRS) {
        given_up(f);
    }
}

void fly_send(fly *f, const s2s_command *command)
{
    s2s_mav_message m;
    if (f->control != FLY_THEIRS) {
        fly_override(&m, &f->parameters, command);
        put_sticks(f, &m);
        fly_output_watch_commanded(&f->outputs, command, f->now_ns);
    }
}

static void got_control(fly *f)
{
    f->control = FLY_OURS;
    f->since_ns = f->now_ns;
}

static void mode_heard(fly *f)
{
    const bool manual = f->mode == FLY_MODE_MANUAL;
    char why[96];
    if (f->control == FLY_ASKED && manual) {
        fly_forget(&f->requests, S2S_MAV_CMD_DO_SET_MODE);
        got_control(f);
    } else if (f->control == FLY_OURS && !manual && f->now_ns - f->since_ns > SETTLING_NS) {
        snprintf(why, sizeof why, "the pilot or a failsafe chose %s", fly_mode_name(f->mode));
        lose(f, why);
    } else if (f->control == FLY_HANDED && !manual) {
        given_up(f);
    }
}

static void acknowledged(fly *f, const s2s_mav_message *m)
{
    const uint16_t command = s2s_get_u16(m->payload + S2S_MAV_COMMAND_ACK_COMMAND);
    const uint8_t result = m->payload[S2S_MAV_COMMAND_ACK_RESULT];
    char why[96];
    if (!fly_answered(&f->requests, command) || command != S2S_MAV_CMD_DO_SET_MODE) {
        return;
    }
    if (f->control == FLY_ASKED && result == S2S_MAV_RESULT_ACCEPTED) {
        got_control(f);
    } else if (f->control == FLY_ASKED) {
        snprintf(why, sizeof why, "the autopilot refused MANUAL mode (result %d)", result);
        lose(f, why);
    } else if (f->control == FLY_HANDED && result == S2S_MAV_RESULT_ACCEPTED) {
        given_up(f);
    }
}

static void watch_control(fly *f)
{
    const int64_t waited = f->now_ns - f->since_ns;
    char why[96];
    if (f->control == FLY_ASKED && waited > TAKE_OVER_NS) {
        lose(f, "the autopilot did not change to MANUAL mode");
    } else if (f->control == FLY_HANDED && waited > HAND_BACK_NS) {
        snprintf(why, sizeof why, "the autopilot did not change to %s: the sticks are the pilot's",
                 fly_mode_name(f->options.hand_back));
        lose(f, why);
    }
}

static void watch_restart(fly *f)
{
    if (f->telemetry.sender.restarts != f->restarts) {
        f->restarts = f->telemetry.sender.restarts;
        lose(f, "the autopilot was restarted: its clock went back");
        fly_ask_for_everything(f);
    }
}

/* Messages */

/* Whether a heartbeat is that of an autopilot, not of a ground station, a camera or another companion. */
static bool is_autopilot(uint8_t type, uint8_t autopilot)
{
    return autopilot != S2S_MAV_AUTOPILOT_INVALID && type != S2S_MAV_TYPE_GCS
           && type != S2S_MAV_TYPE_ONBOARD_CONTROLLER && type != S2S_MAV_TYPE_GIMBAL && type != S2S_MAV_TYPE_ADSB
           && type != S2S_MAV_TYPE_CAMERA && type != S2S_MAV_TYPE_ANTENNA_TRACKER;
}

bool fly_station_known(const fly *f, const s2s_mav_message *m)
{
    for (size_t i = 0; i < f->n_stations; i++) {
        if (f->station[i][0] == m->system && f->station[i][1] == m->component) {
            return true;
        }
    }
    return false;
}

bool fly_from_autopilot(const fly *f, const s2s_mav_message *m)
{
    return f->known && m->system == f->system && m->component == f->component;
}

static void refuse(fly *f, uint8_t type, uint8_t autopilot)
{
    if (f->known) {
        lose(f, "another autopilot answers now");
    } else if (autopilot == S2S_MAV_AUTOPILOT_PX4) {
        problem_set(f->error, EXIT_USAGE, "fly it with python -m sim2sky.runtime.main fly",
                    "not supported: PX4 with the agent without Python");
    } else if (autopilot != S2S_MAV_AUTOPILOT_ARDUPILOTMEGA) {
        problem_set(f->error, EXIT_USAGE, "ArduPilot is", "not supported: the autopilot with MAV_AUTOPILOT %d",
                    autopilot);
    } else {
        problem_set(f->error, EXIT_USAGE, "it commands a fixed-wing aircraft; is the right firmware on the autopilot?",
                    "not supported: the aircraft type with MAV_TYPE %d", type);
    }
}

static void heartbeat(fly *f, const s2s_mav_message *m)
{
    const uint8_t type = m->payload[S2S_MAV_HEARTBEAT_TYPE], autopilot = m->payload[S2S_MAV_HEARTBEAT_AUTOPILOT];
    const uint8_t flags = m->payload[S2S_MAV_HEARTBEAT_BASE_MODE];
    const bool armed = (flags & S2S_MAV_MODE_FLAG_SAFETY_ARMED) != 0, first = !f->known;
    if (type == S2S_MAV_TYPE_GCS && f->n_stations < FLY_STATIONS && !fly_station_known(f, m)) {
        f->station[f->n_stations][0] = m->system;
        f->station[f->n_stations++][1] = m->component;
    }
    if (!is_autopilot(type, autopilot) || (f->known && !fly_from_autopilot(f, m))) {
        return;
    }
    if (autopilot != S2S_MAV_AUTOPILOT_ARDUPILOTMEGA || type != S2S_MAV_TYPE_FIXED_WING) {
        refuse(f, type, autopilot);
        return;
    }
    f->known = true;
    f->system = m->system;
    f->component = m->component;
    f->simulated = (flags & S2S_MAV_MODE_FLAG_HIL_ENABLED) != 0;
    if (!first && armed != f->armed) {
        fly_ask_us(f, (fly_asked){armed ? FLY_ARM : FLY_DISARM, false, 0, 0, 0});
    }
    f->armed = armed;
    f->mode = s2s_get_u32(m->payload + S2S_MAV_HEARTBEAT_CUSTOM_MODE);
    mode_heard(f);
}

static void timesync(fly *f, const s2s_mav_message *m)
{
    const int64_t tc1 = s2s_get_i64(m->payload + S2S_MAV_TIMESYNC_TC1);
    const int64_t ts1 = s2s_get_i64(m->payload + S2S_MAV_TIMESYNC_TS1);
    if (tc1 == 0) {
        put_timesync(f, f->now_ns, ts1);
    } else {
        fly_telemetry_timesync(&f->telemetry, ts1, tc1, f->now_ns);
        watch_restart(f);
    }
}

void fly_take(fly *f, const s2s_mav_message *m, int64_t now_ns)
{
    f->now_ns = now_ns;
    if (m->id == S2S_MAV_HEARTBEAT) {
        heartbeat(f, m);
    } else if (m->id == S2S_MAV_COMMAND_LONG) {
        fly_command(f, m);
    } else if (!fly_from_autopilot(f, m)) {
        return;
    } else if (m->id == S2S_MAV_TIMESYNC) {
        timesync(f, m);
    } else if (m->id == S2S_MAV_PARAM_VALUE) {
        double value;
        const int i = fly_parameter(m, &value);
        if (i >= 0 && fly_answered(&f->requests, FLY_PARAMETER_KEY + (uint32_t)i)) {
            f->parameters.known[i] = true;
            f->parameters.value[i] = value;
        }
    } else if (m->id == S2S_MAV_COMMAND_ACK) {
        acknowledged(f, m);
    } else {
        fly_telemetry_take(&f->telemetry, m, now_ns);
        if (m->id == S2S_MAV_SERVO_OUTPUT_RAW && f->control == FLY_OURS && f->telemetry.n_outputs > 0
            && fly_output_watch_put_out(&f->outputs, f->telemetry.outputs_us, now_ns)) {
            lose(f, "the autopilot's outputs do not follow our commands: is its safety switch on?");
        }
        watch_restart(f);
    }
}

void fly_after(fly *f, int64_t now_ns)
{
    s2s_mav_message m;
    size_t at = 0;
    f->now_ns = now_ns;
    watch_control(f);
    while (fly_announcement_due(&f->announcer, now_ns, &m)) {
        fly_put(f, &m);
    }
    while (fly_request_due(&f->requests, &at, now_ns, f->system, f->component, &m)) {
        fly_put(f, &m);
    }
    if (f->known && now_ns - f->timesync_ns >= SECOND) {
        f->timesync_ns = now_ns;
        put_timesync(f, 0, now_ns);
    }
    if (f->releases > 0) {
        f->releases--;
        fly_release(&m);
        put_sticks(f, &m);
    }
    if (f->lost[0] != '\0' && strcmp(f->lost, f->told) != 0) {
        fly_tell(f, "%s", f->lost);
    }
    if (f->lost[0] != '\0') {
        memcpy(f->told, f->lost, sizeof f->told);
    }
    if (f->engaged && f->control == FLY_THEIRS) {
        fly_over(f, f->lost[0] != '\0' ? f->lost : f->ending[0] != '\0' ? f->ending : "the autopilot took over");
    }
    f->lost[0] = '\0';
}
