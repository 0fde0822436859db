/* Running estimate of the wind: the twin of sim2sky/runtime/wind.py. */
#include "laws.h"

#include <math.h>

#define MAX_BANK_RAD 1.2
#define MAX_ALPHA_RAD 0.3
#define ABSURD_MPS 1e6

/* Ground velocity, which is measured, minus air velocity. */
static s2s_wind wind_of(const s2s_sample *s, double delay_s)
{
    const double *v = s->value;
    double north = v[S2S_NORTH_SPEED], east = v[S2S_EAST_SPEED], speed = s2s_max(v[S2S_AIRSPEED], 1.0);
    double bank = s2s_min(s2s_max(v[S2S_ROLL], -MAX_BANK_RAD), MAX_BANK_RAD);
    double sin_bank, cos_bank, sin_path, alpha, turn_rate, sin_course, cos_course, level;
    s2s_wind wind = {false, 0.0, 0.0};

    if (!(-ABSURD_MPS < north && north < ABSURD_MPS && -ABSURD_MPS < east && east < ABSURD_MPS))
        return wind;
    s2s_sin_cos(bank, &sin_bank, &cos_bank);
    sin_path = s2s_min(s2s_max(v[S2S_CLIMB_RATE] / speed, -1.0), 1.0);
    alpha = s2s_min(s2s_max((v[S2S_PITCH] - s2s_asin(sin_path)) / cos_bank, -MAX_ALPHA_RAD), MAX_ALPHA_RAD);
    turn_rate = S2S_GRAVITY_MPS2 * (sin_bank / cos_bank) / speed;
    s2s_sin_cos(v[S2S_YAW] - alpha * sin_bank - turn_rate * delay_s, &sin_course, &cos_course);
    level = speed * sqrt((1.0 - sin_path) * (1.0 + sin_path));
    wind.north = north - level * cos_course;
    wind.east = east - level * sin_course;
    wind.known = true;
    return wind;
}

void s2s_wind_update(s2s_wind_estimate *w, const s2s_sample *s)
{
    s2s_wind now = wind_of(s, w->delay_s);

    if (!now.known)
        return;
    if (w->wind.known) {
        now.north = w->wind.north + (now.north - w->wind.north) * w->share;
        now.east = w->wind.east + (now.east - w->wind.east) * w->share;
    }
    w->wind = now;
}
