/* Headings for the fallback law: the twin of sim2sky/runtime/guidance.py. */
#include "laws.h"

#include <math.h>

#define AHEAD_RAD 2.0
#define DECIDED_RAD 1.0
#define CIRCLE_RAD 0.35
#define RADII 1.5
#define MIN_RADIUS_M 60.0

double s2s_loiter_radius(const s2s_escape *e, double airspeed_mps)
{
    return s2s_max(RADII * (airspeed_mps * airspeed_mps) / (S2S_GRAVITY_MPS2 * e->tan_bank), MIN_RADIUS_M);
}

double s2s_guidance_home(s2s_guidance *g, const s2s_sample *s, double north_m, double east_m, s2s_wind wind)
{
    const double *v = s->value;
    double heading = s2s_heading_for(s2s_atan2(-east_m, -north_m), v[S2S_AIRSPEED], wind);
    double error = s2s_wrap_angle(heading - v[S2S_YAW]);

    if (fabs(error) < DECIDED_RAD) {
        g->side = 0.0;
        return s2s_wrap_angle(heading);
    }
    if (g->side == 0.0)
        g->side = s2s_turn_side(error, v[S2S_ROLL], 0.0);
    if (error * g->side < 0.0) /* the longer way round, because it was begun or chosen */
        return s2s_wrap_angle(v[S2S_YAW] + g->side * AHEAD_RAD);
    return s2s_wrap_angle(heading);
}

double s2s_guidance_loiter(const s2s_escape *e, const s2s_sample *s, double north_m, double east_m, s2s_wind wind,
                           double airspeed_mps)
{
    double radius = s2s_loiter_radius(e, airspeed_mps), away = s2s_hypot(north_m, east_m);
    double course = s2s_atan2(east_m, north_m) + S2S_PI / 2.0 + s2s_atan(2.0 * (away - radius) / radius);

    return s2s_wrap_angle(s2s_heading_for(course, s->value[S2S_AIRSPEED], wind));
}

double s2s_guidance_circle(const s2s_sample *s)
{
    return s2s_wrap_angle(s->value[S2S_YAW] + CIRCLE_RAD);
}
