/* Before a policy is given the aircraft: do fence, home, wind and the way back fit together, here and now? The twin of
 * sim2sky/runtime/engagement.py. No clock, no I/O. */
#ifndef SIM2SKY_FLY_ENGAGE_H
#define SIM2SKY_FLY_ENGAGE_H

#include "guard.h"

/* What speaks against it: S2S_TRIP_... of the envelope and the data, and these. */
#define FLY_BATTERY S2S_TRIP_BATTERY
#define FLY_NO_ESTIMATE 0x1000000u
#define FLY_STILL 0x2000000u    /* no airspeed */
#define FLY_WIND 0x4000000u     /* too strong to come home */
#define FLY_NO_ROOM 0x8000000u  /* to turn before the fence, flying out over home */
#define FLY_NEAR 0x10000000u    /* the fence, for a circle around home */
#define FLY_WAY_HOME 0x20000000u /* crosses the fence */
#define FLY_KILLED 0x40000000u  /* or disarmed */
#define FLY_RETURNING 0x80000000u /* the autopilot is still taking over */

/* Of the state estimate, the guard's limits and the battery; 0 where nothing speaks against it. */
uint32_t fly_engagement_problems(const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns, double battery_v);
/* The same in words, separated by semicolons. */
void fly_engagement_words(uint32_t problems, const s2s_guard_config *c, const s2s_sample *s, int64_t now_ns,
                          double battery_v, char *out, size_t size);

#endif
