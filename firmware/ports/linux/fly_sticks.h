/* ArduPilot's parameters that decide how it is commanded, and a surface command as the stick positions that it passes
 * on in MANUAL mode: the twin of sim2sky/runtime/actuation.py. No clock, no I/O. */
#ifndef SIM2SKY_FLY_STICKS_H
#define SIM2SKY_FLY_STICKS_H

#include "mavlink.h"
#include "problem.h"
#include "state.h"

/* The first FLY_REQUIRED must be there; older or newer releases do not have all of the others. */
enum { FLY_REQUIRED = 21, FLY_PARAMETERS = 27 };
extern const char *const FLY_PARAMETER[FLY_PARAMETERS];

typedef struct {
    bool known[FLY_PARAMETERS];
    double value[FLY_PARAMETERS];
} fly_parameters;

/* Which parameter a PARAM_VALUE holds, and its value; -1 for another, or where it is no finite number. */
int fly_parameter(const s2s_mav_message *m, double *value);
const char *fly_parameter_absent(const fly_parameters *p); /* the first required one that is; NULL where none is */
/* What keeps us from commanding that autopilot, with what to set instead: EXIT_PASS where nothing does. */
int fly_setup_problem(const fly_parameters *p, uint8_t our_system, problem *out);

/* RC_CHANNELS_OVERRIDE through the receiver's calibration, so that its `norm_input()` gives the command back. Only the
 * four channels of the sticks are overridden: mode switch and kill switch stay the pilot's. */
void fly_override(s2s_mav_message *m, const fly_parameters *p, const s2s_command *command);
void fly_release(s2s_mav_message *m); /* the sticks' channels go back to the receiver */

#endif
