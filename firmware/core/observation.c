/* See observation.h. Computed in double and rounded to float once, as numpy does. */
#include "observation.h"

#include "real.h"

#define CLIMB_GAIN 0.4 /* 1/s: altitude error to climb-rate reference */
#define CLIMB_LIMIT_MPS 3.0
#define BANK_GAIN 1.2 /* rad/rad: heading error to bank reference */
#define BANK_LIMIT_RAD 0.7

static double reference(double error, double gain, double limit)
{
    const double wanted = gain * error;
    return wanted > limit ? limit : s2s_max(wanted, -limit);
}

static double measured(uint8_t signal, const double *s, const double *t, const double *history)
{
    switch (signal) {
    case S2S_SIGNAL_ROLL: return s[S2S_ROLL];
    case S2S_SIGNAL_PITCH: return s[S2S_PITCH];
    case S2S_SIGNAL_P: return s[S2S_P];
    case S2S_SIGNAL_Q: return s[S2S_Q];
    case S2S_SIGNAL_R: return s[S2S_R];
    case S2S_SIGNAL_AIRSPEED: return s[S2S_AIRSPEED];
    case S2S_SIGNAL_CLIMB_RATE: return s[S2S_CLIMB_RATE];
    case S2S_SIGNAL_ALTITUDE_ERROR: return t[S2S_SET_ALTITUDE] - s[S2S_ALTITUDE];
    case S2S_SIGNAL_AIRSPEED_ERROR: return t[S2S_SET_AIRSPEED] - s[S2S_AIRSPEED];
    case S2S_SIGNAL_HEADING_ERROR: return s2s_wrap_angle(t[S2S_SET_HEADING] - s[S2S_YAW]);
    case S2S_SIGNAL_CLIMB_RATE_ERROR:
        return reference(t[S2S_SET_ALTITUDE] - s[S2S_ALTITUDE], CLIMB_GAIN, CLIMB_LIMIT_MPS) - s[S2S_CLIMB_RATE];
    case S2S_SIGNAL_BANK_ERROR:
        return reference(s2s_wrap_angle(t[S2S_SET_HEADING] - s[S2S_YAW]), BANK_GAIN, BANK_LIMIT_RAD) - s[S2S_ROLL];
    case S2S_SIGNAL_ROLL_ERROR: return s2s_wrap_angle(t[S2S_SET_ROLL] - s[S2S_ROLL]);
    case S2S_SIGNAL_PITCH_ERROR: return t[S2S_SET_PITCH] - s[S2S_PITCH];
    case S2S_SIGNAL_P_ERROR: return t[S2S_SET_P] - s[S2S_P];
    case S2S_SIGNAL_Q_ERROR: return t[S2S_SET_Q] - s[S2S_Q];
    case S2S_SIGNAL_R_ERROR: return t[S2S_SET_R] - s[S2S_R];
    default: return history[signal - S2S_SIGNAL_PREVIOUS];
    }
}

void s2s_observe(const s2s_observation_signal *signals, size_t n, const s2s_sample *s, const s2s_setpoint *t,
                 const double *history, float *observation)
{
    for (size_t i = 0; i < n; i++) {
        float value = (float)measured(signals[i].signal, s->value, t->value, history);
        if (value <= signals[i].low) value = signals[i].low; /* also for equal zeros, as np.maximum(value, low) */
        if (value >= signals[i].high) value = signals[i].high;
        observation[i] = value;
    }
}

double s2s_action_middle(const s2s_action_signal *a)
{
    return 0.5 * (a->low + a->high);
}

double s2s_action_to_command(const s2s_action_signal *a, double action)
{
    const double x = s2s_min(s2s_max(action, a->low), a->high);
    const double middle = s2s_action_middle(a);
    if (x >= middle)
        return a->command_neutral + (x - middle) / (a->high - middle) * (a->command_high - a->command_neutral);
    return a->command_neutral + (middle - x) / (middle - a->low) * (a->command_low - a->command_neutral);
}

double s2s_command_to_action(const s2s_action_signal *a, double command)
{
    const double up = a->command_high - a->command_neutral, down = a->command_neutral - a->command_low;
    const double delta = command - a->command_neutral;
    const double middle = s2s_action_middle(a);
    double x;
    if (delta >= 0.0)
        x = middle + (up != 0.0 ? delta / up * (a->high - middle) : 0.0);
    else
        x = middle + (down != 0.0 ? delta / down * (middle - a->low) : 0.0);
    return s2s_min(s2s_max(x, a->low), a->high);
}
