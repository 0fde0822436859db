/* State estimate and setpoint to the observation a contract names, and actions to commands and back. The C twin of
 * sim2sky/runtime/observation.py and of `ActionSignal` in sim2sky/agent/contract.py: same values to the last bit. */
#ifndef SIM2SKY_OBSERVATION_H
#define SIM2SKY_OBSERVATION_H

#include <stddef.h>

#include "state.h"

enum { S2S_HISTORY = 3 }; /* how many previous actions an observation may name */

/* How an observation scalar follows from state and setpoint; in the order of `SIGNALS` in observation.py. */
typedef enum {
    S2S_SIGNAL_ROLL, S2S_SIGNAL_PITCH, S2S_SIGNAL_P, S2S_SIGNAL_Q, S2S_SIGNAL_R, S2S_SIGNAL_AIRSPEED,
    S2S_SIGNAL_CLIMB_RATE, S2S_SIGNAL_ALTITUDE_ERROR, S2S_SIGNAL_AIRSPEED_ERROR, S2S_SIGNAL_HEADING_ERROR,
    S2S_SIGNAL_CLIMB_RATE_ERROR, S2S_SIGNAL_BANK_ERROR, S2S_SIGNAL_ROLL_ERROR, S2S_SIGNAL_PITCH_ERROR,
    S2S_SIGNAL_P_ERROR, S2S_SIGNAL_Q_ERROR, S2S_SIGNAL_R_ERROR,
    S2S_SIGNAL_PREVIOUS /* + (age - 1) * channels + channel, age 1..S2S_HISTORY */
} s2s_signal;

typedef struct {
    uint8_t signal;
    float low, high; /* a value outside is clipped; a NaN stays */
} s2s_observation_signal;

/* Straight lines through (low, command_low), (middle, command_neutral), (high, command_high). */
typedef struct {
    double low, high, command_low, command_neutral, command_high;
} s2s_action_signal;

/* One observation of `n` scalars. `history`: previous actions, newest first, S2S_CHANNELS each, in policy's units. */
void s2s_observe(const s2s_observation_signal *signals, size_t n, const s2s_sample *s, const s2s_setpoint *t,
                 const double *history, float *observation);
double s2s_action_middle(const s2s_action_signal *a);                   /* the action of the neutral command */
double s2s_action_to_command(const s2s_action_signal *a, double action); /* the action is clipped to its limits first */
double s2s_command_to_action(const s2s_action_signal *a, double command);

#endif
