/* Watches the state estimate: usable or not, fresh or not, inside the envelope or about to leave it. The C twin of
 * sim2sky/runtime/watch.py. */
#include "guard.h"

static bool sane(double value) { return -S2S_ABSURD < value && value < S2S_ABSURD; }

/* Attitude, rates, air data and altitude are numbers that an aircraft can have. */
static bool usable(const s2s_sample *s) {
    for (int i = S2S_ROLL; i <= S2S_CLIMB_RATE; i++) {
        if (!sane(s->value[i])) {
            return false;
        }
    }
    return true;
}

/* Time between two instants, whichever came first; no pair of them overflows. */
static uint64_t apart(int64_t a_ns, int64_t b_ns) {
    uint64_t a = (uint64_t)a_ns, b = (uint64_t)b_ns;
    return a_ns < b_ns ? b - a : a - b;
}

void s2s_watch_reset(s2s_watch *w, const s2s_guard_config *c) {
    *w = (s2s_watch){.wind = {.share = c->wind_share, .delay_s = c->wind_delay_s}};
}

/* How much farther inside a limit the aircraft must be, where it broke that limit. */
static double extra(uint32_t active, uint32_t trip, double hysteresis) {
    return (active & trip) != 0 ? hysteresis : 0.0;
}

static bool attitude_kept(const s2s_guard_config *c, const s2s_sample *s, double inside) {
    /* Where the rotation leads before the fallback law's command has stopped it. */
    double roll = s->value[S2S_ROLL], pitch = s->value[S2S_PITCH];
    double ahead_roll = roll + s->value[S2S_P] * c->turning_s, ahead_pitch = pitch + s->value[S2S_Q] * c->turning_s;
    return -c->roll_rad + inside <= s2s_min(roll, ahead_roll) && s2s_max(roll, ahead_roll) <= c->roll_rad - inside &&
           c->pitch_low_rad + inside <= s2s_min(pitch, ahead_pitch) &&
           s2s_max(pitch, ahead_pitch) <= c->pitch_high_rad - inside;
}

static uint32_t outside_air_limits(const s2s_guard_config *c, const s2s_sample *s, uint32_t was) {
    double airspeed = s->value[S2S_AIRSPEED], climb = s->value[S2S_CLIMB_RATE];
    double lowest, highest, losing = 0.0;
    uint32_t active = 0;
    s2s_escape_altitude_bounds(&c->escape, s, &lowest, &highest);
    if (lowest < c->floor_m + extra(was, S2S_TRIP_ALTITUDE_LOW, c->altitude_hysteresis_m)) {
        active |= S2S_TRIP_ALTITUDE_LOW;
    }
    if (highest > c->ceiling_m - extra(was, S2S_TRIP_ALTITUDE_HIGH, c->altitude_hysteresis_m)) {
        active |= S2S_TRIP_ALTITUDE_HIGH;
    }
    if (climb > 0.0) { /* the speed goes on falling until the nose is down again */
        losing = S2S_GRAVITY_MPS2 * climb / s2s_max(airspeed, 1.0) * S2S_NOSE_DOWN_S;
    }
    if (airspeed - losing < c->slow_mps + extra(was, S2S_TRIP_AIRSPEED_LOW, c->airspeed_hysteresis_mps)) {
        active |= S2S_TRIP_AIRSPEED_LOW;
    }
    if (airspeed > c->fast_mps - extra(was, S2S_TRIP_AIRSPEED_HIGH, c->airspeed_hysteresis_mps)) {
        active |= S2S_TRIP_AIRSPEED_HIGH;
    }
    if (-climb > c->sink_mps - extra(was, S2S_TRIP_SINK, c->airspeed_hysteresis_mps)) {
        active |= S2S_TRIP_SINK;
    }
    return active;
}

/* Whether the aircraft is outside the fence, or soon could no longer turn before it. */
static bool leaving(s2s_watch *w, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns, bool recovering) {
    double age_s = s2s_min((double)apart(now_ns, w->fix_ns) * 1e-9, 1.0);
    double enough = c->fence_buffer_m + extra(w->active, S2S_TRIP_RANGE, c->range_hysteresis_m);
    if (recovering) { /* the turn is not as predicted while the attitude is being recovered: begin it early */
        enough += c->fence_buffer_m;
    }
    s2s_way_home way =
        s2s_escape_range_margin(&c->escape, &c->fence, s, w->north, w->east, age_s, w->wind.wind, enough);
    w->side = way.side;
    if (way.margin_m < enough) {
        w->turning = c->turn_ticks;
    } else if (w->turning > 0) { /* a swing of the nose makes the way home look short for a moment: turn on */
        w->turning--;
    }
    return w->turning > 0;
}

static uint32_t envelope(s2s_watch *w, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns) {
    uint32_t active = outside_air_limits(c, s, w->active);
    if (!attitude_kept(c, s, extra(w->active, S2S_TRIP_ATTITUDE, c->angle_margin_rad))) {
        active |= S2S_TRIP_ATTITUDE;
    }
    if (c->fence_enabled && w->has_fix && leaving(w, c, s, now_ns, active != 0)) {
        active |= S2S_TRIP_RANGE;
    }
    return active;
}

/* Takes in a usable estimate. */
static uint32_t take_in(s2s_watch *w, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns) {
    uint32_t trips = 0;
    w->sample = *s;
    w->has_sample = true;
    s2s_wind_update(&w->wind, s);
    if (sane(s->value[S2S_NORTH]) && sane(s->value[S2S_EAST])) {
        w->north = s->value[S2S_NORTH];
        w->east = s->value[S2S_EAST];
        w->fix_ns = s->time_ns;
        w->has_fix = true;
    }
    w->active = envelope(w, c, s, now_ns);
    for (uint32_t i = 0; i < c->bounds.n; i++) {
        const s2s_bound *b = &c->bounds.bound[i];
        if (!(b->low <= s->value[b->value] && s->value[b->value] <= b->high)) {
            trips |= S2S_TRIP_OUT_OF_CONTRACT;
        }
    }
    return trips;
}

/* Counts a tick of something that must last; the count ends at the limit, so it never overflows. */
static bool lasting(int32_t *count, int32_t limit) {
    if (*count < limit) {
        ++*count;
    }
    return *count >= limit;
}

static uint32_t outdated(s2s_watch *w, const s2s_guard_config *c, int64_t now_ns) {
    uint64_t age_ns = w->has_sample ? apart(now_ns, w->sample.time_ns) : UINT64_MAX;
    uint32_t trips = age_ns > c->stale_ns ? S2S_TRIP_STALE_DATA : 0;
    if (age_ns <= c->blind_ns) {
        w->blind_count = 0;
        return trips;
    }
    trips |= S2S_TRIP_BLIND;
    return lasting(&w->blind_count, c->lost_ticks) ? trips | S2S_TRIP_LOST : trips;
}

uint32_t s2s_watch_look(s2s_watch *w, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns,
                        double battery_v) {
    uint32_t trips = usable(s) ? take_in(w, c, s, now_ns) : S2S_TRIP_NONFINITE_STATE;
    trips |= outdated(w, c, now_ns);
    /* With the newest estimate, not with the clock: an old estimate as a whole is another matter. */
    if (c->fence_enabled && w->has_sample &&
        !(w->has_fix && apart(w->sample.time_ns, w->fix_ns) <= c->stale_ns)) {
        trips |= S2S_TRIP_NO_POSITION;
    }
    if (!(battery_v < c->battery_min_v)) { /* NaN: not measured */
        w->battery_count = 0;
    } else if (lasting(&w->battery_count, c->battery_ticks)) {
        w->battery = S2S_TRIP_BATTERY; /* for the rest of the flight: the load gone, the voltage recovers */
    }
    return trips | w->active | w->battery;
}
