/* See plain_state.h. */
#include "plain_state.h"

#include <math.h>
#include <string.h>

#define CLIMB_FILTER_S 0.5
#define WINDOW_NS 10000000000 /* over which the smallest difference of the clocks is taken */
#define SLACK_NS 500000000    /* a stamp so much older than the newest is a late message; older still, a restart */

enum { TIME, ROLL, PITCH, YAW, P, Q, R, AX, AY, AZ, LATITUDE, LONGITUDE, ALTITUDE, VALUES };

void plain_state_init(plain_state *p, double airspeed_mps)
{
    memset(p, 0, sizeof *p);
    p->airspeed_mps = airspeed_mps;
}

bool plain_state_suffices(const s2s_agent_config *config)
{
    for (size_t i = 0; i < SIM2SKY_POLICY_N_OBSERVATION; i++) {
        const uint8_t signal = config->observation[i].signal;
        if (signal == S2S_SIGNAL_AIRSPEED || signal == S2S_SIGNAL_AIRSPEED_ERROR || signal == S2S_SIGNAL_CLIMB_RATE ||
            signal == S2S_SIGNAL_CLIMB_RATE_ERROR)
            return false;
    }
    return true;
}

/* Within what an aircraft can have; false for NaN. */
static bool usable(const double *v)
{
    for (size_t i = 0; i < VALUES; i++)
        if (!isfinite(v[i])) return false;
    return v[TIME] >= 0.0 && v[TIME] < 1e6 && fabs(v[ROLL]) <= S2S_PI + 1e-3 && fabs(v[YAW]) / 2.0 <= S2S_PI + 1e-3 &&
           fabs(v[PITCH]) <= S2S_PI / 2.0 + 1e-3 && fabs(v[P]) <= 100.0 && fabs(v[Q]) <= 100.0 && fabs(v[R]) <= 100.0 &&
           fabs(v[LATITUDE]) <= 90.0 && fabs(v[LONGITUDE]) <= 180.0 && fabs(v[ALTITUDE]) <= 20000.0;
}

/* Our time of something stamped by the sender. No message arrives before it was sent, so the smallest difference between
 * our receipt and the stamp bounds the offset of the clocks. False where the message is a late one. */
static bool on_our_clock(plain_state *p, int64_t stamp_ns, int64_t now_ns, int64_t *time_ns)
{
    const int64_t difference = now_ns - stamp_ns;
    int64_t offset;

    if (p->has_clock && stamp_ns < p->newest_ns) {
        if (p->newest_ns - stamp_ns <= SLACK_NS) return false;
        p->has_clock = p->has_before = p->has_last = false; /* the sender was started again */
        p->climb_mps = 0.0;
    }
    p->newest_ns = stamp_ns;
    if (!p->has_clock || now_ns - p->window_ns > WINDOW_NS) {
        p->has_before = p->has_clock;
        p->least_before_ns = p->least_ns;
        p->least_ns = difference;
        p->window_ns = now_ns;
        p->has_clock = true;
    } else if (difference < p->least_ns) {
        p->least_ns = difference;
    }
    offset = p->has_before && p->least_before_ns < p->least_ns ? p->least_before_ns : p->least_ns;
    *time_ns = stamp_ns + offset < now_ns ? stamp_ns + offset : now_ns;
    return true;
}

/* A plane tangent to the WGS-84 ellipsoid (Farrell, Aided Navigation, eq. 2.6-2.7). */
static void set_home(plain_state *p, const double *v)
{
    const double semi_major = 6378137.0, eccentricity2 = 6.69437999014e-3, rad_per_deg = S2S_PI / 180.0;
    const double latitude = v[LATITUDE] * rad_per_deg, sine = s2s_sin(latitude);
    const double w = sqrt(1.0 - eccentricity2 * sine * sine);

    p->home_latitude_deg = v[LATITUDE];
    p->home_longitude_deg = v[LONGITUDE];
    p->home_altitude_m = v[ALTITUDE];
    p->north_m_per_deg = semi_major * (1.0 - eccentricity2) / (w * w * w) * rad_per_deg;
    p->east_m_per_deg = semi_major / w * s2s_cos(latitude) * rad_per_deg;
    p->has_home = true;
}

bool plain_state_take(plain_state *p, const uint8_t *payload, int64_t now_ns, s2s_sample *sample)
{
    float received[VALUES];
    double v[VALUES], *s = sample->value;

    memcpy(received, payload, sizeof received); /* little-endian, as the chip is */
    for (size_t i = 0; i < VALUES; i++)
        v[i] = (double)received[i];
    if (!usable(v) || !on_our_clock(p, (int64_t)(v[TIME] * 1e9 + 0.5), now_ns, &sample->time_ns)) return false;
    if (!p->has_home) set_home(p, v);
    if (p->has_last && v[TIME] > p->last_time_s) {
        const double step = v[TIME] - p->last_time_s, rate = (v[ALTITUDE] - p->last_altitude_m) / step;
        p->climb_mps += (rate - p->climb_mps) * s2s_min(step / CLIMB_FILTER_S, 1.0);
    }
    p->last_time_s = v[TIME];
    p->last_altitude_m = v[ALTITUDE];
    p->has_last = true;
    s[S2S_ROLL] = v[ROLL];
    s[S2S_PITCH] = v[PITCH];
    s[S2S_YAW] = v[YAW];
    s[S2S_P] = v[P];
    s[S2S_Q] = v[Q];
    s[S2S_R] = v[R];
    s[S2S_AIRSPEED] = p->airspeed_mps;
    s[S2S_ALTITUDE] = v[ALTITUDE] - p->home_altitude_m;
    s[S2S_CLIMB_RATE] = p->climb_mps;
    s[S2S_NORTH] = (v[LATITUDE] - p->home_latitude_deg) * p->north_m_per_deg;
    s[S2S_EAST] = (v[LONGITUDE] - p->home_longitude_deg) * p->east_m_per_deg;
    s[S2S_NORTH_SPEED] = s[S2S_EAST_SPEED] = (double)NAN;
    return true;
}
