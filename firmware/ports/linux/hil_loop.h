/* The loop around a flight agent in a HIL run: the twin of sim2sky/runtime/loop.py, message for message. Lockstep (the
 * plant's time) or real time (the clock's). */
#ifndef SIM2SKY_HIL_LOOP_H
#define SIM2SKY_HIL_LOOP_H

#include <signal.h>

#include "channel.h"
#include "hil_messages.h"

typedef struct {
    s2s_agent *agent;
    channel *link;
    bool realtime;
    int64_t connect_timeout_ns, peer_timeout_ns;
    const volatile sig_atomic_t *interrupted;
    problem *problem;

    double rate_hz, episode;
    s2s_geodetic home;
    s2s_setpoint setpoint;
    bool flying, running, heard, told, has_sample, has_reply, has_offset;
    int64_t heard_ns, beat_ns, sync_ns, late_ns, tick_ns;
    int64_t offset_ns, round_trip_ns;
    int64_t state_usec, tick_usec;
    s2s_sample sample;
    s2s_mav_message reply;
    s2s_mav_reader reader;
    uint8_t out[CHANNEL_MAX_SEND];
    size_t n_out;
    uint8_t sequence;
    uint64_t ticks, late_ticks;
} hil_loop;

void hil_init(hil_loop *l, s2s_agent *agent, channel *link, bool realtime, double connect_timeout_s,
              double peer_timeout_s, const volatile sig_atomic_t *interrupted, problem *p);
/* Serves the plant until it says shut down, or Ctrl-C; the exit code. */
int hil_run(hil_loop *l);

#endif
