/* What a small flight controller sends and takes: see teensy_state.h. */
#include "teensy_state.h"

#include <math.h>

#include "bytes.h"
#include "real.h"

enum { TIME, ROLL, PITCH, YAW, P, Q, R, AX, AY, AZ, LATITUDE, LONGITUDE, ALTITUDE, VALUES };

#define CLIMB_FILTER_S 0.5

/* All finite, and angles, rates and position within what an aircraft can have. */
static bool usable(const double *v)
{
    for (int i = 0; i < VALUES; i++) {
        if (!isfinite(v[i])) {
            return false;
        }
    }
    for (int i = P; i <= R; i++) {
        if (fabs(v[i]) > 100.0) {
            return false;
        }
    }
    return v[TIME] >= 0.0 && v[TIME] < 1e6 && fabs(v[ROLL]) <= S2S_PI + 1e-3 && fabs(v[YAW]) / 2.0 <= S2S_PI + 1e-3
           && fabs(v[PITCH]) <= S2S_PI / 2.0 + 1e-3 && fabs(v[LATITUDE]) <= 90.0 && fabs(v[LONGITUDE]) <= 180.0
           && fabs(v[ALTITUDE]) <= 20000.0;
}

void s2s_teensy_init(s2s_teensy *t, double airspeed_mps)
{
    t->airspeed_mps = airspeed_mps;
    s2s_sender_clock_init(&t->clock);
    t->has_home = t->has_last = false;
    t->home = s2s_geodetic_at(0.0, 0.0, 0.0);
    t->climb_mps = t->last_time_s = t->last_altitude_m = 0.0;
}

static void climb(s2s_teensy *t, double time_s, double altitude_m)
{
    if (t->has_last && time_s > t->last_time_s) {
        const double step = time_s - t->last_time_s, rate = (altitude_m - t->last_altitude_m) / step;
        t->climb_mps += (rate - t->climb_mps) * s2s_min(step / CLIMB_FILTER_S, 1.0);
    }
    t->has_last = true;
    t->last_time_s = time_s;
    t->last_altitude_m = altitude_m;
}

bool s2s_teensy_state(s2s_teensy *t, const uint8_t *payload, int64_t now_ns, s2s_sample *out)
{
    static const int COPIED[] = {ROLL, PITCH, YAW, P, Q, R}; /* in the order of S2S_ROLL ... S2S_R */
    const uint32_t restarts = t->clock.restarts;
    double v[VALUES];
    int64_t stamp_ns;
    for (int i = 0; i < VALUES; i++) {
        v[i] = (double)s2s_get_f32(payload + 4 * i);
    }
    if (!usable(v)) {
        return false;
    }
    stamp_ns = (int64_t)s2s_nearest(v[TIME] * 1e9);
    if (!s2s_sender_clock_receipt(&t->clock, stamp_ns, now_ns)) {
        return false;
    }
    if (t->clock.restarts != restarts) {
        t->has_last = false;
        t->climb_mps = 0.0;
    }
    if (!t->has_home) {
        t->has_home = true;
        t->home = s2s_geodetic_at(v[LATITUDE], v[LONGITUDE], v[ALTITUDE]);
    }
    climb(t, v[TIME], v[ALTITUDE]);
    for (int i = 0; i <= S2S_R; i++) {
        out->value[i] = v[COPIED[i]];
    }
    out->time_ns = s2s_sender_clock_to_ours(&t->clock, stamp_ns, now_ns);
    out->value[S2S_AIRSPEED] = t->airspeed_mps;
    out->value[S2S_ALTITUDE] = v[ALTITUDE] - t->home.altitude_m;
    out->value[S2S_CLIMB_RATE] = t->climb_mps;
    s2s_geodetic_to_metres(&t->home, (int32_t)s2s_nearest(v[LATITUDE] * 1e7), (int32_t)s2s_nearest(v[LONGITUDE] * 1e7),
                           &out->value[S2S_NORTH], &out->value[S2S_EAST]);
    out->value[S2S_NORTH_SPEED] = out->value[S2S_EAST_SPEED] = (double)NAN;
    return true;
}

void s2s_teensy_command(const s2s_command *command, uint8_t *payload)
{
    for (int i = 0; i < S2S_CHANNELS; i++) {
        s2s_put_f32(payload + 4 * i, (float)command->channel[i]);
    }
}
