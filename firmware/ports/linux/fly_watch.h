/* A switch on the pilot's transmitter, and an eye on the autopilot's outputs: the twins of
 * sim2sky/runtime/{rc_switch,output_watch}.py. No clock, no I/O. */
#ifndef SIM2SKY_FLY_WATCH_H
#define SIM2SKY_FLY_WATCH_H

#include "fly_telemetry.h"

typedef enum { FLY_NO_EDGE, FLY_ON, FLY_OFF } fly_edge;

/* One receiver channel as a switch. What it was when we began is no change. Between low and high, and without a
 * plausible pulse, it keeps its position. */
typedef struct {
    uint32_t channel;            /* from 1; 0: there is none */
    int32_t position, candidate; /* 1 on, 0 off, -1 not known */
    int64_t since_ns;
} fly_switch;

void fly_switch_init(fly_switch *s, uint32_t channel);
fly_edge fly_switch_update(fly_switch *s, const uint16_t *widths_us, uint32_t n, int64_t now_ns);

/* How far commands and outputs moved over three seconds, in slices of a tenth: nothing is kept for each message. */
enum { FLY_SLICES = 30 };
typedef struct {
    int64_t number; /* of the slice of time; -1: empty */
    double command_low[S2S_CHANNELS], command_high[S2S_CHANNELS];
    bool has_command, has_output;
    uint16_t output_low[FLY_OUTPUTS], output_high[FLY_OUTPUTS];
} fly_slice;

typedef struct {
    fly_slice slice[FLY_SLICES];
} fly_output_watch;

void fly_output_watch_reset(fly_output_watch *w); /* control has just changed hands */
void fly_output_watch_commanded(fly_output_watch *w, const s2s_command *command, int64_t now_ns);
/* Takes note of the outputs; true where they do not follow the commands. */
bool fly_output_watch_put_out(fly_output_watch *w, const uint16_t *widths_us, int64_t now_ns);

#endif
