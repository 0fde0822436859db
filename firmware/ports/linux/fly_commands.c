/* What ground stations, or the autopilot by its own arming, ask of us: see fly.h. */
#include <math.h>

#include "fly.h"

enum { MOST_CONFIRMATIONS = 16 }; /* how often a ground station that gets no answer may have repeated itself */

static void answer(fly *f, const fly_asked *a, uint8_t result)
{
    s2s_mav_message ack;
    s2s_mav_init(&ack, S2S_MAV_COMMAND_ACK);
    s2s_put_u16(ack.payload + S2S_MAV_COMMAND_ACK_COMMAND, a->command);
    ack.payload[S2S_MAV_COMMAND_ACK_RESULT] = result;
    ack.payload[S2S_MAV_COMMAND_ACK_TARGET_SYSTEM] = a->system;
    ack.payload[S2S_MAV_COMMAND_ACK_TARGET_COMPONENT] = a->component;
    fly_put(f, &ack);
}

static void obey(fly *f, const fly_asked *a)
{
    const bool done = fly_obey(f, a->wish);
    if (a->answer) {
        answer(f, a, done ? S2S_MAV_RESULT_ACCEPTED : S2S_MAV_RESULT_DENIED);
    }
}

/* Notes it for the next tick; where too much waits it is obeyed at once: no kill is forgotten. */
void fly_ask_us(fly *f, fly_asked a)
{
    if (f->n_asked < FLY_ASKED_MOST) {
        f->asked[f->n_asked++] = a;
    } else {
        obey(f, &a);
    }
}

void fly_obey_all(fly *f)
{
    for (size_t i = 0; i < f->n_asked; i++) {
        obey(f, &f->asked[i]);
    }
    f->n_asked = 0;
}

/* Whether all parameters from `first` (0..6) on are left out, 0 or NaN: a damaged command is most likely caught so. */
static bool unused(const s2s_mav_message *m, size_t first)
{
    for (size_t i = first; i < 7; i++) {
        const float value = s2s_get_f32(m->payload + S2S_MAV_COMMAND_LONG_PARAM1 + 4 * i);
        if (!(value == 0.0f || isnan(value))) {
            return false;
        }
    }
    return m->payload[S2S_MAV_COMMAND_LONG_CONFIRMATION] < MOST_CONFIRMATIONS;
}

/* A command for us, from the autopilot or a ground station that has said that it is one. */
void fly_command(fly *f, const s2s_mav_message *m)
{
    const uint16_t number = s2s_get_u16(m->payload + S2S_MAV_COMMAND_LONG_COMMAND);
    const float first = s2s_get_f32(m->payload + S2S_MAV_COMMAND_LONG_PARAM1);
    fly_asked a = {FLY_ENGAGE, true, number, m->system, m->component};
    if (!f->known || m->payload[S2S_MAV_COMMAND_LONG_TARGET_SYSTEM] != f->system
        || m->payload[S2S_MAV_COMMAND_LONG_TARGET_COMPONENT] != S2S_MAV_COMP_ID_ONBOARD_COMPUTER
        || !(fly_from_autopilot(f, m) || fly_station_known(f, m))) {
        return;
    }
    if (unused(m, 1) && number == S2S_MAV_CMD_NAV_GUIDED_ENABLE && (first == 0.0f || first == 1.0f)) {
        a.wish = first == 1.0f ? FLY_ENGAGE : FLY_DISENGAGE;
    } else if (unused(m, 1) && number == S2S_MAV_CMD_COMPONENT_ARM_DISARM && (first == 0.0f || first == 1.0f)) {
        a.wish = first == 1.0f ? FLY_ARM : FLY_DISARM;
    } else if (unused(m, 1) && number == S2S_MAV_CMD_DO_FLIGHTTERMINATION && first == 1.0f) {
        a.wish = FLY_KILL;
    } else {
        answer(f, &a, S2S_MAV_RESULT_UNSUPPORTED);
        return;
    }
    fly_ask_us(f, a);
}
