/* What speaks against engaging: see fly_engage.h. */
#include "fly_engage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { COURSES = 16, MOST_STEPS = 1000 };
#define WAY_HOME_STEP_M 5.0
#define HEADWAY 0.8 /* wind as a share of airspeed beyond which the way home is no longer certain */
#define SAID (S2S_TRIP_STALE_DATA | S2S_TRIP_NO_POSITION | S2S_TRIP_ATTITUDE | S2S_TRIP_ALTITUDE_LOW \
              | S2S_TRIP_ALTITUDE_HIGH | S2S_TRIP_AIRSPEED_LOW | S2S_TRIP_AIRSPEED_HIGH | S2S_TRIP_SINK \
              | S2S_TRIP_RANGE)

/* The winds to reckon with: that of the sample, or where it cannot be known the strongest from every side. */
static int winds_of(const s2s_guard_config *c, const s2s_sample *s, s2s_wind winds[COURSES / 2])
{
    s2s_wind_estimate now = {1.0, 0.0, {false, 0.0, 0.0}};
    s2s_wind_update(&now, s);
    if (now.wind.known) {
        winds[0] = now.wind;
        return 1;
    }
    for (int k = 0; k < COURSES / 2; k++) {
        const double course = 2.0 * S2S_PI * (2 * k) / COURSES;
        winds[k] = (s2s_wind){true, c->escape.wind_max_mps * s2s_cos(course), c->escape.wind_max_mps * s2s_sin(course)};
    }
    return COURSES / 2;
}

/* The closest that the aircraft comes to the fence, flying out over home on any course. */
static double closest(const s2s_guard_config *c, const s2s_sample *s, double airspeed_mps, const s2s_wind *winds, int n)
{
    s2s_sample level = *s;
    double margin_m = (double)INFINITY;
    level.value[S2S_ROLL] = level.value[S2S_CLIMB_RATE] = 0.0;
    level.value[S2S_AIRSPEED] = airspeed_mps;
    for (int k = 0; k < COURSES; k++) {
        level.value[S2S_YAW] = 2.0 * S2S_PI * k / COURSES;
        for (int i = 0; i < n; i++) {
            const s2s_way_home way = s2s_escape_range_margin(&c->escape, &c->fence, &level, 0.0, 0.0, 0.0, winds[i],
                                                             (double)INFINITY);
            margin_m = s2s_min(margin_m, way.margin_m);
        }
    }
    return margin_m;
}

static bool way_home_crosses(const s2s_guard_config *c, double north, double east)
{
    const double away = s2s_hypot(north, east) / WAY_HOME_STEP_M;
    const int steps = away < MOST_STEPS - 1 ? (int)away + 1 : MOST_STEPS;
    for (int k = 0; k < steps; k++) {
        if (s2s_fence_margin(&c->fence, north * k / steps, east * k / steps) < 0.0) {
            return true;
        }
    }
    return false;
}

/* The fence against the aircraft's turn, the wind and the way home. */
static uint32_t room_to_return(const s2s_guard_config *c, const s2s_watch *w)
{
    const s2s_sample *s = &w->sample;
    const double flown = c->fallback_airspeed_mps > 0.0 ? c->fallback_airspeed_mps : s->value[S2S_AIRSPEED];
    s2s_wind winds[COURSES / 2];
    uint32_t problems = 0;
    int n;
    if (!(flown > 0.0)) {
        return FLY_STILL;
    }
    n = winds_of(c, s, winds);
    for (int i = 0; i < n; i++) {
        if (s2s_hypot(winds[i].north, winds[i].east) > HEADWAY * flown) {
            return FLY_WIND;
        }
    }
    if (closest(c, s, flown, winds, n) < c->fence_buffer_m) {
        problems |= FLY_NO_ROOM;
    }
    if (s2s_loiter_radius(&c->escape, flown) + c->fence_buffer_m > s2s_fence_margin(&c->fence, 0.0, 0.0)) {
        problems |= FLY_NEAR;
    }
    if (w->has_fix && way_home_crosses(c, w->north, w->east)) {
        problems |= FLY_WAY_HOME;
    }
    return problems;
}

uint32_t fly_engagement_problems(const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns, double battery_v)
{
    s2s_watch watch;
    uint32_t trips, problems;
    s2s_watch_reset(&watch, c);
    trips = s2s_watch_look(&watch, c, s, now_ns, battery_v);
    if ((trips & S2S_TRIP_NONFINITE_STATE) != 0) {
        return S2S_TRIP_NONFINITE_STATE;
    }
    problems = trips & SAID;
    if (battery_v < c->battery_min_v) {
        problems |= FLY_BATTERY;
    }
    return watch.has_sample && c->fence_enabled ? problems | room_to_return(c, &watch) : problems;
}

static const struct {
    uint32_t bit;
    const char *words;
} WORDS[] = {
    {FLY_RETURNING, "the autopilot is still taking over"},
    {FLY_KILLED, "the kill switch is latched, or the aircraft disarmed"},
    {FLY_NO_ESTIMATE, "no state estimate"},
    {S2S_TRIP_NONFINITE_STATE, "the state estimate holds values that are no numbers, or absurd ones"},
    {S2S_TRIP_STALE_DATA, "the state estimate is too old"},
    {S2S_TRIP_NO_POSITION, "there is no position, so the fence cannot be watched"},
    {S2S_TRIP_ATTITUDE, "bank or pitch is outside the limits"},
    {S2S_TRIP_ALTITUDE_LOW, "the altitude, or where the descent would end, is too near the floor"},
    {S2S_TRIP_ALTITUDE_HIGH, "the altitude, or where the climb would end, is too near the ceiling"},
    {S2S_TRIP_AIRSPEED_LOW, "the airspeed is below airspeed_min_mps"},
    {S2S_TRIP_AIRSPEED_HIGH, "the airspeed is above airspeed_max_mps"},
    {S2S_TRIP_SINK, "the aircraft sinks faster than sink_max_mps"},
    {S2S_TRIP_RANGE, "the aircraft is outside the fence, or could not turn before it"},
    {FLY_BATTERY, "the battery is below battery_min_voltage"},
    {FLY_STILL, "the aircraft does not move through the air: engage it in flight"},
    {FLY_WIND, "too much wind for the airspeed: the aircraft might not come home"},
    {FLY_NO_ROOM, "no room to turn before the fence, flying out over home: widen it, or move home"},
    {FLY_NEAR, "the fence is too near for a circle around home"},
    {FLY_WAY_HOME, "the straight way home crosses the fence: fly to where it does not"},
};

void fly_engagement_words(uint32_t problems, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns,
                          double battery_v, char *out, size_t size)
{
    const double turn = 180.0 / S2S_PI;
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++) {
        if ((problems & WORDS[i].bit) != 0 && n < size) {
            n += (size_t)snprintf(out + n, size - n, "%s%s", n > 0 ? "; " : "", WORDS[i].words);
        }
    }
    if (problems != 0 && (problems & ~(FLY_RETURNING | FLY_KILLED | FLY_NO_ESTIMATE)) != 0 && n < size) {
        snprintf(out + n, size - n,
                 " (%.0f ms old, bank %.0f, pitch %.0f degrees, %.0f m, %.1f m/s, %.0f m north, %.0f m east, %.1f V; "
                 "floor %.0f m, ceiling %.0f m)",
                 (double)(now_ns - s->time_ns) * 1e-6, s->value[S2S_ROLL] * turn, s->value[S2S_PITCH] * turn,
                 s->value[S2S_ALTITUDE], s->value[S2S_AIRSPEED], s->value[S2S_NORTH], s->value[S2S_EAST], battery_v,
                 c->floor_m, c->ceiling_m);
    }
}
