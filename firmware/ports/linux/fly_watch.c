/* The pilot's switch and the autopilot's outputs: see fly_watch.h. */
#include "fly_watch.h"

#include <math.h>

enum { LOW_US = 1300, HIGH_US = 1700, SHORTEST_US = 800, LONGEST_US = 2200, STILL_US = 5 };
enum { LONG_ENOUGH = FLY_SLICES * 9 / 10, FOLLOWED = 3 }; /* slices; by then an output has followed */
#define STEADY_NS INT64_C(150000000) /* RC_CHANNELS comes ten times a second: two of them must agree */
#define SLICE_NS INT64_C(100000000)
#define MOVED 0.2 /* of full travel: a command that changed by so much must be seen at an output */

void fly_switch_init(fly_switch *s, uint32_t channel)
{
    s->channel = channel;
    s->position = s->candidate = -1;
    s->since_ns = 0;
}

static int32_t position_of(uint16_t width_us)
{
    if (width_us < SHORTEST_US || width_us > LONGEST_US || (width_us > LOW_US && width_us < HIGH_US)) {
        return -1;
    }
    return width_us >= HIGH_US;
}

fly_edge fly_switch_update(fly_switch *s, const uint16_t *widths_us, uint32_t n, int64_t now_ns)
{
    int32_t seen, before;
    if (s->channel == 0) {
        return FLY_NO_EDGE;
    }
    seen = n >= s->channel ? position_of(widths_us[s->channel - 1]) : -1;
    if (seen < 0 || seen != s->candidate) {
        s->candidate = seen;
        s->since_ns = now_ns;
        return FLY_NO_EDGE;
    }
    if (now_ns - s->since_ns < STEADY_NS || seen == s->position) {
        return FLY_NO_EDGE;
    }
    before = s->position;
    s->position = seen;
    return before < 0 ? FLY_NO_EDGE : seen == 1 ? FLY_ON : FLY_OFF;
}

void fly_output_watch_reset(fly_output_watch *w)
{
    memset(w, 0, sizeof *w);
    for (int i = 0; i < FLY_SLICES; i++) {
        w->slice[i].number = -1;
    }
}

/* The slice of that time, emptied where it held an older one. */
static fly_slice *slice_at(fly_output_watch *w, int64_t number)
{
    fly_slice *s = &w->slice[(uint64_t)number % FLY_SLICES];
    if (s->number != number) {
        s->number = number;
        s->has_command = false;
        s->has_output = false;
    }
    return s;
}

void fly_output_watch_commanded(fly_output_watch *w, const s2s_command *command, int64_t now_ns)
{
    fly_slice *s = slice_at(w, now_ns / SLICE_NS);
    for (int i = 0; i < S2S_CHANNELS; i++) {
        const double c = command->channel[i];
        s->command_low[i] = s->has_command && s->command_low[i] < c ? s->command_low[i] : c;
        s->command_high[i] = s->has_command && s->command_high[i] > c ? s->command_high[i] : c;
    }
    s->has_command = true;
}

/* Largest change of any output over the window, microseconds; *oldest is the slice of the first one. */
static int travelled(const fly_output_watch *w, int64_t newest, int64_t *oldest)
{
    int most = 0;
    *oldest = newest;
    for (int i = 0; i < FLY_OUTPUTS; i++) {
        int low = 65535, high = 0;
        for (int k = 0; k < FLY_SLICES; k++) {
            const fly_slice *s = &w->slice[k];
            if (s->number > newest - FLY_SLICES && s->has_output) {
                *oldest = s->number < *oldest ? s->number : *oldest;
                low = s->output_low[i] < low ? s->output_low[i] : low;
                high = s->output_high[i] > high ? s->output_high[i] : high;
            }
        }
        most = high - low > most ? high - low : most;
    }
    return most;
}

/* Largest change of any command that the outputs must show: sent after the first of them, not just before the last. */
static double moved(const fly_output_watch *w, int64_t first_output, int64_t newest)
{
    double most = 0.0;
    for (int i = 0; i < S2S_CHANNELS; i++) {
        double low = (double)INFINITY, high = -(double)INFINITY;
        for (int k = 0; k < FLY_SLICES; k++) {
            const fly_slice *s = &w->slice[k];
            if (s->number > first_output && s->number <= newest - FOLLOWED && s->has_command) {
                low = s->command_low[i] < low ? s->command_low[i] : low;
                high = s->command_high[i] > high ? s->command_high[i] : high;
            }
        }
        most = high - low > most ? high - low : most;
    }
    return most;
}

bool fly_output_watch_put_out(fly_output_watch *w, const uint16_t *widths_us, int64_t now_ns)
{
    const int64_t newest = now_ns / SLICE_NS;
    fly_slice *s = slice_at(w, newest);
    int64_t oldest;
    for (int i = 0; i < FLY_OUTPUTS; i++) {
        const uint16_t v = widths_us[i];
        s->output_low[i] = s->has_output && s->output_low[i] < v ? s->output_low[i] : v;
        s->output_high[i] = s->has_output && s->output_high[i] > v ? s->output_high[i] : v;
    }
    s->has_output = true;
    return travelled(w, newest, &oldest) <= STILL_US && newest - oldest >= LONG_ENOUGH
           && moved(w, oldest, newest) >= MOVED;
}
