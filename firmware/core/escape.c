/* How close to fence, floor and ceiling the aircraft would come if the fallback law took over now: the twin of
 * sim2sky/runtime/escape.py. */
#include "laws.h"

#include <math.h>

#define STEP_S 0.4
#define MAX_STEPS 45
#define LOST_M (-50.0)
#define MAX_BANK_RAD 1.2
#define STRAIGHT_RAD 0.1
#define UNDECIDED_RAD 2.4
#define HOMEWARD2 0.5
#define STOP_S 0.15
#define MAX_SWING_RADPS 5.0

static double limited(double value, double low, double high)
{
    return s2s_min(s2s_max(value, low), high);
}

double s2s_turn_side(double error_rad, double roll_rad, double previous)
{
    if (fabs(error_rad) > UNDECIDED_RAD) {
        if (previous != 0.0)
            return previous;
        if (fabs(roll_rad) > STRAIGHT_RAD)
            return roll_rad < 0.0 ? -1.0 : 1.0;
    }
    return error_rad < 0.0 ? -1.0 : 1.0;
}

double s2s_heading_for(double course_rad, double airspeed_mps, s2s_wind wind)
{
    double sin_course, cos_course, ratio;

    if (!wind.known)
        return course_rad;
    s2s_sin_cos(course_rad, &sin_course, &cos_course);
    ratio = (wind.east * cos_course - wind.north * sin_course) / s2s_max(airspeed_mps, 1.0);
    return fabs(ratio) < 0.95 ? course_rad - s2s_asin(ratio) : course_rad;
}

/* Straight on until the bank is right, then a turn's diameter, in the wind. */
static double reach(const s2s_escape *e, double speed, double wind, double latency)
{
    double rate = S2S_GRAVITY_MPS2 * e->tan_bank / speed;
    double straight = latency + 2.0 * e->roll_s;

    return speed * (straight + 2.0 / rate) + wind * (straight + 1.5 * S2S_PI / rate);
}

/* Smallest distance to the border in a turn to one side, until the aircraft flies home. */
static double turn_margin(const s2s_escape *e, const s2s_fence *f, double side, double north, double east,
                          double heading, double roll, double speed, s2s_wind wind)
{
    double wanted = side * e->bank_rad, margin;
    int step;

    if (roll * side > e->bank_rad) /* a steeper bank is no tighter turn: the lift for it is not there */
        roll = wanted;
    margin = s2s_fence_margin(f, north, east);
    for (step = 0; step < MAX_STEPS; ++step) {
        double off = roll - wanted;
        double turn = S2S_GRAVITY_MPS2 * s2s_tan(wanted + off * e->half_decay) / speed;
        double sin_course, cos_course, v_north, v_east, at;

        roll = wanted + off * e->decay;
        s2s_sin_cos(heading + 0.5 * turn * STEP_S, &sin_course, &cos_course);
        v_north = speed * cos_course + wind.north;
        v_east = speed * sin_course + wind.east;
        north += v_north * STEP_S;
        east += v_east * STEP_S;
        heading += turn * STEP_S;
        at = s2s_fence_margin(f, north, east);
        if (at < margin) {
            margin = at;
            if (at < LOST_M)
                break;
        } else {
            double inward = -(north * v_north + east * v_east);
            double ahead = HOMEWARD2 * (north * north + east * east) * (v_north * v_north + v_east * v_east);

            if (inward > 0.0 && inward * inward > ahead && roll * side > 0.0)
                break;
        }
    }
    return margin;
}

s2s_way_home s2s_escape_range_margin(const s2s_escape *e, const s2s_fence *f, const s2s_sample *s, double north,
                                     double east, double age_s, s2s_wind wind, double enough)
{
    const double *v = s->value;
    s2s_way_home way = {s2s_fence_margin(f, north, east), 0.0};
    double speed = limited(v[S2S_AIRSPEED], e->slowest_mps, 1e3), latency = e->latency_s + age_s;
    double far, roll, turn, sin_course, cos_course, sin_roll, cos_roll, swing, heading, margin, home, side, longer;

    if (!wind.known) { /* the strongest, away from home */
        double away = s2s_hypot(north, east);
        double share = away > 1.0 ? e->wind_max_mps / away : 0.0;

        wind.known = true;
        wind.north = north * share;
        wind.east = east * share;
    }
    if (way.margin_m <= 0.0)
        return way;
    far = reach(e, speed, s2s_hypot(wind.north, wind.east), latency);
    if (way.margin_m - far >= enough) {
        way.margin_m -= far;
        return way;
    }
    /* While nobody has reacted yet the aircraft flies on in the turn and in the roll it is in. */
    roll = limited(s2s_wrap_angle(v[S2S_ROLL]) + v[S2S_P] * e->command_s, -MAX_BANK_RAD, MAX_BANK_RAD);
    turn = S2S_GRAVITY_MPS2 * s2s_tan(limited(roll, -e->bank_rad, e->bank_rad)) / speed;
    s2s_sin_cos(v[S2S_YAW] + 0.5 * turn * latency, &sin_course, &cos_course);
    north += (speed * cos_course + wind.north) * latency;
    east += (speed * sin_course + wind.east) * latency;
    /* Heading is measured now, position was before. A nose that swings, swings on until it is stopped. */
    s2s_sin_cos(v[S2S_ROLL], &sin_roll, &cos_roll);
    swing = (v[S2S_Q] * sin_roll + v[S2S_R] * cos_roll) / s2s_max(s2s_cos(v[S2S_PITCH]), 0.5);
    heading = v[S2S_YAW] + limited(swing, -MAX_SWING_RADPS, MAX_SWING_RADPS) * (e->command_s + STOP_S);
    margin = s2s_min(way.margin_m, s2s_fence_margin(f, north, east));
    home = s2s_heading_for(s2s_atan2(-east, -north), speed, wind);
    side = s2s_turn_side(s2s_wrap_angle(home - heading), roll, 0.0);
    way.margin_m = s2s_min(margin, turn_margin(e, f, side, north, east, heading, roll, speed, wind));
    way.side = side;
    if (way.margin_m >= enough || way.margin_m == margin)
        return way;
    longer = s2s_min(margin, turn_margin(e, f, -side, north, east, heading, roll, speed, wind));
    if (longer > way.margin_m) {
        way.margin_m = longer;
        way.side = -side;
    }
    return way;
}

void s2s_escape_altitude_bounds(const s2s_escape *e, const s2s_sample *s, double *lowest, double *highest)
{
    double altitude = s->value[S2S_ALTITUDE], climb = s->value[S2S_CLIMB_RATE], speed = s->value[S2S_AIRSPEED];
    double wait = e->command_s + e->roll_s * s2s_min(fabs(s->value[S2S_ROLL]), MAX_BANK_RAD) / MAX_BANK_RAD;
    double turning = altitude + climb * wait + 0.5 * climb * fabs(climb) / e->pull_mps2;
    double missing = s2s_max(e->reserve2 - speed * speed, 0.0) / (2.0 * S2S_GRAVITY_MPS2);

    *lowest = s2s_min(altitude, turning) - missing;
    *highest = s2s_max(altitude, turning);
}
