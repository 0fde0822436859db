/* Parameters and sticks of an ArduPilot: see fly_sticks.h. */
#include "fly_sticks.h"

#include <math.h>

#include "geodetic.h"

enum { OVERRIDE_TIME, MAP_ROLL, MAP_PITCH, MAP_THROTTLE, MAP_YAW, CALIBRATION };
enum { LOW, HIGH, TRIM, REVERSED };
enum { MYGCS = FLY_REQUIRED, GCS_SYSID, OPTIONS, EXPO };
enum { IGNORE = 65535, RELEASE = 0, STICKS = 4, OVERRIDDEN = 8, SHORTEST_US = 800, LONGEST_US = 2200 };
#define OVERRIDE_LIMIT_S 1.0
#define ABSURD 1e10 /* no parameter of these is larger */

const char *const FLY_PARAMETER[FLY_PARAMETERS] = {
    "RC_OVERRIDE_TIME", "RCMAP_ROLL", "RCMAP_PITCH", "RCMAP_THROTTLE", "RCMAP_YAW",
    "RC1_MIN", "RC1_MAX", "RC1_TRIM", "RC1_REVERSED", "RC2_MIN", "RC2_MAX", "RC2_TRIM", "RC2_REVERSED",
    "RC3_MIN", "RC3_MAX", "RC3_TRIM", "RC3_REVERSED", "RC4_MIN", "RC4_MAX", "RC4_TRIM", "RC4_REVERSED",
    "SYSID_MYGCS", "MAV_GCS_SYSID", "RC_OPTIONS", "MAN_EXPO_ROLL", "MAN_EXPO_PITCH", "MAN_EXPO_RUDDER",
};

/* Which RCMAP_ parameter names the channel of each command. */
static const int MAP[STICKS] = {MAP_ROLL, MAP_PITCH, MAP_YAW, MAP_THROTTLE};

int fly_parameter(const s2s_mav_message *m, double *value)
{
    const char *name = (const char *)m->payload + S2S_MAV_PARAM_VALUE_PARAM_ID;
    *value = (double)s2s_get_f32(m->payload + S2S_MAV_PARAM_VALUE_PARAM_VALUE);
    if (!(fabs(*value) <= ABSURD)) {
        return -1;
    }
    for (int i = 0; i < FLY_PARAMETERS; i++) {
        if (strncmp(name, FLY_PARAMETER[i], 16) == 0) {
            return i;
        }
    }
    return -1;
}

const char *fly_parameter_absent(const fly_parameters *p)
{
    for (int i = 0; i < FLY_REQUIRED; i++) {
        if (!p->known[i]) {
            return FLY_PARAMETER[i];
        }
    }
    return NULL;
}

static long long whole(const fly_parameters *p, int number)
{
    return (long long)p->value[number]; /* |value| <= ABSURD */
}

/* Of stick `i` in the order of a command: the receiver channel, from 0; what fly_setup_problem passed is 0..3. */
static int channel_of(const fly_parameters *p, int i)
{
    const long long number = whole(p, MAP[i]);
    return number >= 1 && number <= STICKS ? (int)number - 1 : 0;
}

static long long calibration(const fly_parameters *p, int channel, int what)
{
    return whole(p, CALIBRATION + 4 * channel + what);
}

static int calibration_problem(const fly_parameters *p, problem *out)
{
    uint32_t seen = 0;
    for (int i = 0; i < STICKS; i++) {
        const long long number = whole(p, MAP[i]);
        seen |= number >= 1 && number <= STICKS ? 1u << number : 1u;
    }
    if (seen != 0x1Eu) {
        return problem_set(out, EXIT_USAGE, "set these parameters: RCMAP_ROLL 1, RCMAP_PITCH 2, ...",
                           "the autopilot is not set up to be commanded: RCMAP_* put the sticks on the channels %lld, "
                           "%lld, %lld, %lld, not on 1 to 4",
                           whole(p, MAP[0]), whole(p, MAP[1]), whole(p, MAP[2]), whole(p, MAP[3]));
    }
    for (int i = 0; i < STICKS; i++) {
        const int n = channel_of(p, i);
        const long long low = calibration(p, n, LOW), trim = calibration(p, n, TRIM), high = calibration(p, n, HIGH);
        if (!(SHORTEST_US <= low && low < high && high <= LONGEST_US
              && (i == S2S_THROTTLE || (low < trim && trim < high)))) {
            return problem_set(out, EXIT_USAGE, "calibrate the radio",
                               "the autopilot is not set up to be commanded: RC%d_MIN, TRIM, MAX are %lld, %lld, %lld: "
                               "not calibrated",
                               n + 1, low, trim, high);
        }
    }
    return EXIT_PASS;
}

int fly_setup_problem(const fly_parameters *p, uint8_t our_system, problem *out)
{
    const int gcs = p->known[GCS_SYSID] ? GCS_SYSID : MYGCS;
    const double time_s = p->value[OVERRIDE_TIME];
    if (!p->known[gcs] || p->value[gcs] != our_system) {
        return problem_set(out, EXIT_USAGE, "set it to the autopilot's own system number",
                           "the autopilot is not set up to be commanded: %s is %g, not %d: only that system's stick "
                           "commands are obeyed",
                           FLY_PARAMETER[gcs], p->known[gcs] ? p->value[gcs] : (double)NAN, our_system);
    }
    if (!(time_s > 0.0 && time_s <= OVERRIDE_LIMIT_S)) {
        return problem_set(out, EXIT_USAGE, "set these parameters: RC_OVERRIDE_TIME 0.5",
                           "the autopilot is not set up to be commanded: RC_OVERRIDE_TIME is %g s: for so long a dead "
                           "computer's last command is flown",
                           time_s);
    }
    if (p->known[OPTIONS] && (whole(p, OPTIONS) & 2) != 0) {
        return problem_set(out, EXIT_USAGE, "clear its bit 1",
                           "the autopilot is not set up to be commanded: RC_OPTIONS ignores overrides");
    }
    for (int i = EXPO; i < FLY_PARAMETERS; i++) {
        if (p->known[i] && p->value[i] != 0.0) {
            return problem_set(out, EXIT_USAGE, "set it to 0",
                               "the autopilot is not set up to be commanded: %s is %g: commands would be bent",
                               FLY_PARAMETER[i], p->value[i]);
        }
    }
    return calibration_problem(p, out);
}

static uint16_t width(const fly_parameters *p, int channel, double command, bool throttle)
{
    const double low = (double)calibration(p, channel, LOW), high = (double)calibration(p, channel, HIGH);
    const double trim = (double)calibration(p, channel, TRIM);
    const bool reversed = p->value[CALIBRATION + 4 * channel + REVERSED] == 1.0;
    double us;
    if (throttle) {
        us = low + (reversed ? 1.0 - command : command) * (high - low);
    } else {
        const double c = reversed ? -command : command;
        us = trim + c * (c >= 0.0 ? high - trim : trim - low);
    }
    us = s2s_nearest(us);
    /* No command of the guard's goes beyond; nothing may go beyond. */
    return (uint16_t)(us >= low ? (us <= high ? us : high) : low);
}

void fly_override(s2s_mav_message *m, const fly_parameters *p, const s2s_command *command)
{
    s2s_mav_init(m, S2S_MAV_RC_CHANNELS_OVERRIDE);
    for (int i = 0; i < OVERRIDDEN; i++) {
        s2s_put_u16(m->payload + S2S_MAV_RC_CHANNELS_OVERRIDE_CHAN1_RAW + 2 * i, IGNORE);
    }
    for (int i = 0; i < STICKS; i++) {
        const int n = channel_of(p, i);
        s2s_put_u16(m->payload + S2S_MAV_RC_CHANNELS_OVERRIDE_CHAN1_RAW + 2 * n,
                    width(p, n, command->channel[i], i == S2S_THROTTLE));
    }
}

void fly_release(s2s_mav_message *m)
{
    s2s_mav_init(m, S2S_MAV_RC_CHANNELS_OVERRIDE);
    for (int i = 0; i < OVERRIDDEN; i++) {
        s2s_put_u16(m->payload + S2S_MAV_RC_CHANNELS_OVERRIDE_CHAN1_RAW + 2 * i, i < STICKS ? RELEASE : IGNORE);
    }
}
