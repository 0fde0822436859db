/* From an autopilot's telemetry to one state estimate, as old as the oldest of its parts: the twin of
 * sim2sky/runtime/mavlink_state.py for ArduPilot. No clock, no I/O. */
#ifndef SIM2SKY_FLY_TELEMETRY_H
#define SIM2SKY_FLY_TELEMETRY_H

#include "geodetic.h"
#include "mavlink.h"
#include "sender_clock.h"
#include "state.h"

enum { FLY_RECEIVER = 18, FLY_OUTPUTS = 16 };

typedef struct {
    s2s_sender_clock sender;
    s2s_geodetic home;
    bool has_home, has_attitude, has_position, has_airspeed, has_receiver;
    int64_t attitude_ns, position_ns, airspeed_ns, receiver_ns;
    double value[S2S_SAMPLE_VALUES]; /* as the parts come */
    double battery_v;                /* NaN until it says */
    uint32_t n_receiver, n_outputs;
    uint16_t receiver_us[FLY_RECEIVER], outputs_us[FLY_OUTPUTS];
} fly_telemetry;

void fly_telemetry_init(fly_telemetry *t);
void fly_telemetry_take(fly_telemetry *t, const s2s_mav_message *m, int64_t now_ns);
/* An answered TIMESYNC: asked at `sent_ns`, answered at `stamp_ns` of the autopilot's clock. */
void fly_telemetry_timesync(fly_telemetry *t, int64_t sent_ns, int64_t stamp_ns, int64_t now_ns);
const char *fly_telemetry_missing(const fly_telemetry *t); /* the first part that never came; NULL where all did */
bool fly_telemetry_sample(const fly_telemetry *t, s2s_sample *out); /* false until each part has come once */
/* Receiver pulse widths; their number, 0 where none came within a second. */
uint32_t fly_telemetry_receiver(const fly_telemetry *t, int64_t now_ns, const uint16_t **widths_us);

#endif
