/* The sender's clock: see sender_clock.h. */
#include "sender_clock.h"

#define SECOND INT64_C(1000000000)
#define WINDOW_NS (10 * SECOND)
#define SLACK_NS (SECOND / 2)

static void forget(s2s_sender_clock *c)
{
    c->heard = c->has_before = c->has_exchanged = false;
    c->newest = c->least = c->least_before = c->window_ns = 0;
    c->exchanged = c->round_trip_ns = 0;
}

void s2s_sender_clock_init(s2s_sender_clock *c)
{
    c->restarts = 0;
    forget(c);
}

bool s2s_sender_clock_receipt(s2s_sender_clock *c, int64_t stamp_ns, int64_t now_ns)
{
    const int64_t difference = now_ns - stamp_ns;
    if (c->heard && stamp_ns < c->newest) {
        if (c->newest - stamp_ns <= SLACK_NS) {
            return false;
        }
        c->restarts++;
        forget(c);
    }
    c->newest = stamp_ns;
    if (!c->heard || now_ns - c->window_ns > WINDOW_NS) {
        c->has_before = c->heard;
        c->least_before = c->least;
        c->least = difference;
        c->window_ns = now_ns;
        c->heard = true;
    } else if (difference < c->least) {
        c->least = difference;
    }
    return true;
}

void s2s_sender_clock_timesync(s2s_sender_clock *c, int64_t sent_ns, int64_t stamp_ns, int64_t now_ns)
{
    const int64_t round_trip = now_ns - sent_ns;
    if (round_trip < 0 || round_trip > SECOND || !s2s_sender_clock_receipt(c, stamp_ns, now_ns)) {
        return;
    }
    if (!c->has_exchanged || round_trip <= c->round_trip_ns) {
        c->has_exchanged = true;
        c->round_trip_ns = round_trip;
        c->exchanged = sent_ns + round_trip / 2 - stamp_ns;
    } else {
        c->round_trip_ns += c->round_trip_ns / 10 + 1000;
    }
}

int64_t s2s_sender_clock_to_ours(const s2s_sender_clock *c, int64_t stamp_ns, int64_t now_ns)
{
    int64_t offset = c->heard ? c->least : now_ns - stamp_ns;
    if (c->has_before && c->least_before < offset) {
        offset = c->least_before;
    }
    if (c->has_exchanged && c->exchanged < offset) {
        offset = c->exchanged;
    }
    return stamp_ns + offset < now_ns ? stamp_ns + offset : now_ns;
}
