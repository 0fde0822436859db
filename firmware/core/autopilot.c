/* Heading, airspeed and altitude by total energy control, bank and pitch by a cascade: the twin of
 * sim2sky/runtime/autopilot.py. */
#include "laws.h"

#define SLOW 0.85 /* share of the airspeed setpoint below which path gives way to airspeed at full throttle */

static double limited(double value, double low, double high)
{
    return s2s_min(s2s_max(value, low), high);
}

/* An integral goes on where its command is not limited, or leads back from the limit. */
static void integrate(double *integral, double raw, double command, double error, double gain, double dt, double limit)
{
    if (command == raw || (raw - command) * error < 0.0)
        *integral = limited(*integral + gain * error * dt, -limit, limit);
}

void s2s_autopilot_init(s2s_autopilot *a, const s2s_gains *gains, double dt_s)
{
    a->gains = gains;
    a->dt_s = dt_s;
    s2s_autopilot_reset(a);
}

void s2s_autopilot_reset(s2s_autopilot *a)
{
    a->throttle_integral = 0.0;
    a->balance_integral = 0.0;
    a->pitch_integral = 0.0;
    a->washout = 0.0;
    a->has_airspeed = false;
    a->airspeed = 0.0;
    a->acceleration = 0.0;
}

/* Throttle serves the sum of the energy rates, pitch their difference. */
static void energy(s2s_autopilot *a, const s2s_sample *s, const s2s_setpoint *t, double *pitch, double *throttle)
{
    const s2s_gains *g = a->gains;
    const double *v = s->value;
    double dt = a->dt_s, speed = s2s_max(v[S2S_AIRSPEED], 1.0);
    double innovation, climb_wanted, accel_wanted, gamma_wanted, accel_g_wanted, gamma, accel_g, total_error;
    double bank_load, raw, balance_error;

    if (!a->has_airspeed) {
        a->has_airspeed = true;
        a->airspeed = speed;
    }
    innovation = (speed - a->airspeed) / 0.5;
    a->airspeed += innovation * dt;
    a->acceleration = innovation;
    climb_wanted = limited(g->climb_gain * (t->value[S2S_SET_ALTITUDE] - v[S2S_ALTITUDE]), -g->climb_limit_mps,
                           g->climb_limit_mps);
    accel_wanted = limited(g->speed_gain * (t->value[S2S_SET_AIRSPEED] - a->airspeed), -g->accel_limit_mps2,
                           g->accel_limit_mps2);
    gamma_wanted = climb_wanted / speed;
    accel_g_wanted = accel_wanted / S2S_GRAVITY_MPS2;
    gamma = v[S2S_CLIMB_RATE] / speed;
    accel_g = a->acceleration / S2S_GRAVITY_MPS2;
    total_error = (gamma_wanted - gamma) + (accel_g_wanted - accel_g);

    bank_load = 1.0 / s2s_max(s2s_cos(v[S2S_ROLL]), 0.3) - 1.0;
    raw = g->trim_throttle + g->energy_p * total_error + g->energy_p * (gamma_wanted + accel_g_wanted)
          + a->throttle_integral + 0.3 * bank_load;
    *throttle = limited(raw, 0.0, 1.0);
    integrate(&a->throttle_integral, raw, *throttle, total_error, g->energy_i, dt, 0.6);
    if (raw > 1.0 && a->airspeed < SLOW * t->value[S2S_SET_AIRSPEED])
        gamma_wanted = s2s_min(gamma_wanted, gamma + accel_g - accel_g_wanted);
    balance_error = (gamma_wanted - gamma) - (accel_g_wanted - accel_g);
    raw = g->trim_pitch_rad + gamma_wanted + g->balance_p * balance_error + a->balance_integral
          + g->turn_pitch * bank_load;
    *pitch = limited(raw, -g->pitch_limit_rad, g->pitch_limit_rad);
    integrate(&a->balance_integral, raw, *pitch, balance_error, g->balance_i, dt, 0.3);
}

/* Inner loops: hold a bank and a pitch angle with a given throttle. */
static s2s_command attitude(s2s_autopilot *a, const s2s_sample *s, double bank_rad, double pitch_rad, double throttle)
{
    const s2s_gains *g = a->gains;
    const double *v = s->value;
    double ratio = g->trim_airspeed_mps / s2s_max(v[S2S_AIRSPEED], 1.0);
    double schedule = limited(ratio * ratio, 0.5, 2.0);
    double aileron = schedule * (g->roll_p * s2s_wrap_angle(bank_rad - v[S2S_ROLL]) - g->roll_d * v[S2S_P]);
    double pitch_error = pitch_rad - v[S2S_PITCH];
    double sin_roll, cos_roll, cos_pitch = s2s_cos(v[S2S_PITCH]);
    double turn_rate = S2S_GRAVITY_MPS2 / s2s_max(v[S2S_AIRSPEED], 1.0) * s2s_tan(limited(v[S2S_ROLL], -1.2, 1.2));
    double q_turn, elevator_raw, elevator, r_excess, rudder;
    s2s_command command;

    /* In a steady turn the body pitches at g/V * tan(phi) * sin(phi); damping must not fight it. */
    s2s_sin_cos(v[S2S_ROLL], &sin_roll, &cos_roll);
    q_turn = turn_rate * sin_roll * cos_pitch;
    elevator_raw = g->trim_elevator * schedule
                   + schedule * (g->pitch_p * pitch_error - g->pitch_d * (v[S2S_Q] - q_turn)) + a->pitch_integral;
    elevator = limited(elevator_raw, -1.0, 1.0);
    integrate(&a->pitch_integral, elevator_raw, elevator, pitch_error, g->pitch_i, a->dt_s, 0.4);

    /* Yaw damper on what is not the turn itself. */
    r_excess = v[S2S_R] - turn_rate * cos_roll * cos_pitch;
    a->washout += (r_excess - a->washout) * a->dt_s / g->yaw_washout_s;
    rudder = -schedule * g->yaw_damper * (r_excess - a->washout);
    command.channel[S2S_AILERON] = limited(aileron, -1.0, 1.0);
    command.channel[S2S_ELEVATOR] = elevator;
    command.channel[S2S_RUDDER] = limited(rudder, -1.0, 1.0);
    command.channel[S2S_THROTTLE] = limited(throttle, 0.0, 1.0);
    return command;
}

s2s_command s2s_autopilot_command(s2s_autopilot *a, const s2s_sample *s, const s2s_setpoint *t)
{
    const s2s_gains *g = a->gains;
    double pitch, throttle, bank;

    energy(a, s, t, &pitch, &throttle);
    bank = limited(g->bank_gain * s2s_wrap_angle(t->value[S2S_SET_HEADING] - s->value[S2S_YAW]), -g->bank_limit_rad,
                   g->bank_limit_rad);
    return attitude(a, s, bank, pitch, throttle);
}
