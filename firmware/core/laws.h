/* The classical laws below the guard: autopilot, guidance, fence, prediction of the way home, wind. C twins of
 * sim2sky/runtime/{autopilot,guidance,geofence,escape,wind}.py, equal to the last bit. What Python computes once in a
 * constructor is computed there and arrives here as a constant. No heap, no recursion, no libm but sqrt and fmod. */
#ifndef SIM2SKY_LAWS_H
#define SIM2SKY_LAWS_H

#include "real.h"
#include "state.h"

/* Gains, in the order of the fields of `AutopilotGains`. */
typedef struct {
    double trim_elevator, trim_throttle, trim_pitch_rad, trim_airspeed_mps;
    double climb_gain, climb_limit_mps, speed_gain, accel_limit_mps2;
    double energy_p, energy_i, balance_p, balance_i;
    double bank_gain, bank_limit_rad, pitch_limit_rad;
    double roll_p, roll_d, pitch_p, pitch_i, pitch_d, turn_pitch;
    double yaw_damper, yaw_washout_s, throttle_p, throttle_i;
    double p_feedforward, rate_p, rate_i;
} s2s_gains;

/* Heading, airspeed, altitude: the only task the fallback law flies. */
typedef struct {
    const s2s_gains *gains;
    double dt_s;
    double throttle_integral, balance_integral, pitch_integral, washout;
    bool has_airspeed;
    double airspeed, acceleration;
} s2s_autopilot;

void s2s_autopilot_init(s2s_autopilot *a, const s2s_gains *gains, double dt_s);
void s2s_autopilot_reset(s2s_autopilot *a);
s2s_command s2s_autopilot_command(s2s_autopilot *a, const s2s_sample *s, const s2s_setpoint *t);

/* One edge: corner, vector to the next corner, squared length (at least 1e-9). */
typedef struct {
    double north, east, d_north, d_east, length2;
} s2s_edge;

typedef struct {
    double radius_m;           /* infinite: none */
    uint16_t n_polygons;
    const uint16_t *n_edges;   /* per polygon */
    const s2s_edge *edges;     /* of all polygons, in order */
} s2s_fence;

double s2s_fence_margin(const s2s_fence *f, double north_m, double east_m);

/* Constants of `Escape` and `Guidance`. */
typedef struct {
    double bank_rad, tan_bank, roll_s, decay, half_decay, latency_s, command_s, slowest_mps, pull_mps2, wind_max_mps;
    double reserve2;
} s2s_escape;

typedef struct {
    double margin_m, side;
} s2s_way_home;

s2s_way_home s2s_escape_range_margin(const s2s_escape *e, const s2s_fence *f, const s2s_sample *s, double north,
                                     double east, double age_s, s2s_wind wind, double enough);
void s2s_escape_altitude_bounds(const s2s_escape *e, const s2s_sample *s, double *lowest, double *highest);
double s2s_turn_side(double error_rad, double roll_rad, double previous);
double s2s_heading_for(double course_rad, double airspeed_mps, s2s_wind wind);

typedef struct {
    double side;
} s2s_guidance;

double s2s_loiter_radius(const s2s_escape *e, double airspeed_mps); /* uses tan_bank */
double s2s_guidance_home(s2s_guidance *g, const s2s_sample *s, double north_m, double east_m, s2s_wind wind);
double s2s_guidance_loiter(const s2s_escape *e, const s2s_sample *s, double north_m, double east_m, s2s_wind wind,
                           double airspeed_mps);
double s2s_guidance_circle(const s2s_sample *s);

typedef struct {
    double share, delay_s;
    s2s_wind wind;
} s2s_wind_estimate;

void s2s_wind_update(s2s_wind_estimate *w, const s2s_sample *s);

#endif
