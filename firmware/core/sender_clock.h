/* When something was measured, on our clock: the C twin of sim2sky/runtime/sender_clock.py. */
#ifndef SIM2SKY_SENDER_CLOCK_H
#define SIM2SKY_SENDER_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint32_t restarts; /* how often the sender's time went back */
    bool heard, has_before, has_exchanged;
    int64_t newest, least, least_before, window_ns; /* least: the smallest difference of receipt and stamp */
    int64_t exchanged, round_trip_ns;               /* by the quickest TIMESYNC */
} s2s_sender_clock;

void s2s_sender_clock_init(s2s_sender_clock *c);
/* Take note of a stamped message; false where it is older than the newest, but not by so much that it restarted. */
bool s2s_sender_clock_receipt(s2s_sender_clock *c, int64_t stamp_ns, int64_t now_ns);
/* Take note of an answered TIMESYNC: asked at `sent_ns`, answered at `stamp_ns` of the sender's clock. */
void s2s_sender_clock_timesync(s2s_sender_clock *c, int64_t sent_ns, int64_t stamp_ns, int64_t now_ns);
/* Our time of something stamped `stamp_ns`; never after `now_ns`. */
int64_t s2s_sender_clock_to_ours(const s2s_sender_clock *c, int64_t stamp_ns, int64_t now_ns);

#endif
