/* What flows through a flight agent each tick: the C twin of sim2sky/runtime/state.py and of the enums in
 * sim2sky/runtime/ladder.py. Body frame forward, right, down; world north, east, down; SI units; time in nanoseconds. */
#ifndef SIM2SKY_STATE_H
#define SIM2SKY_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "arithmetic.h"

enum { S2S_AILERON, S2S_ELEVATOR, S2S_RUDDER, S2S_THROTTLE, S2S_CHANNELS };

/* State estimate at one instant. `value` order is that of the fields of `Sample` after `time_ns`. */
enum {
    S2S_ROLL, S2S_PITCH, S2S_YAW, S2S_P, S2S_Q, S2S_R, S2S_AIRSPEED, S2S_ALTITUDE, S2S_CLIMB_RATE, S2S_NORTH, S2S_EAST,
    S2S_NORTH_SPEED, S2S_EAST_SPEED, S2S_SAMPLE_VALUES
};
typedef struct {
    int64_t time_ns;
    double value[S2S_SAMPLE_VALUES]; /* rad, rad/s, m/s, m */
} s2s_sample;

/* What the agent is asked to follow, in the order of the fields of `Setpoint`. */
enum {
    S2S_SET_ALTITUDE, S2S_SET_AIRSPEED, S2S_SET_HEADING, S2S_SET_ROLL, S2S_SET_PITCH, S2S_SET_P, S2S_SET_Q, S2S_SET_R,
    S2S_SETPOINT_VALUES
};
typedef struct {
    double value[S2S_SETPOINT_VALUES];
} s2s_setpoint;

/* Surfaces -1..1 (positive: right, up, right), throttle 0..1. */
typedef struct {
    double channel[S2S_CHANNELS];
} s2s_command;

typedef enum { S2S_ANSWERED, S2S_LATE, S2S_DEAD } s2s_policy_state;

/* Velocity of the air, m/s. */
typedef struct {
    bool known;
    double north, east;
} s2s_wind;

#endif
