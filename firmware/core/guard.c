/* Monitor, switch, recovery (after ASTM F3269), then hard limits. The C twin of sim2sky/runtime/safety.py: whatever
 * comes in, what goes out is finite and within the limits; when nothing is wrong the command passes bit for bit. */
#include "guard.h"

static const int32_t MODES[] = S2S_MODES;

static bool by_law(int32_t action) {
    return action == S2S_ACTION_HOLD || (action >= S2S_ACTION_RETURN && action <= S2S_ACTION_DESCEND);
}

static bool by_policy(int32_t action) { return action <= S2S_ACTION_REPEAT; }

static double magnitude(double value) { return value < 0.0 ? -value : value; }

static bool finite(const s2s_command *c) {
    for (int i = 0; i < S2S_CHANNELS; i++) {
        if (!isfinite(c->channel[i])) {
            return false;
        }
    }
    return true;
}

void s2s_guard_reset(s2s_guard *g) {
    const s2s_guard_config *c = g->config;
    bool killed = g->killed, disarmed = g->disarmed;
    *g = (s2s_guard){.config = c, .killed = killed, .disarmed = disarmed, .bridge = c->bridge_ticks};
    s2s_watch_reset(&g->watch, c);
    s2s_autopilot_init(&g->law, &c->gains, c->dt_s);
}

void s2s_guard_init(s2s_guard *g, const s2s_guard_config *config) {
    g->config = config;
    g->killed = g->disarmed = false;
    s2s_guard_reset(g);
}

bool s2s_guard_killed(const s2s_guard *g) { return g->killed || g->disarmed; }

bool s2s_guard_kill(s2s_guard *g) {
    g->killed = g->killed || g->config->kill_enabled;
    return g->killed;
}

void s2s_guard_disarm(s2s_guard *g) {
    g->disarmed = true;
    g->killed = false;
}

bool s2s_guard_arm(s2s_guard *g) {
    g->disarmed = false; /* a latched kill needs another disarming first */
    return !g->killed;
}

/* Airspeed for the fallback law: configured, or the setpoint's, or the one flown; within the limits. */
static double airspeed_for(const s2s_guard *g, double wanted_mps) {
    const s2s_guard_config *c = g->config;
    double speed = c->fallback_airspeed_mps > 0.0 ? c->fallback_airspeed_mps : wanted_mps;
    if (!(speed > 0.0 && isfinite(speed))) {
        speed = g->watch.sample.value[S2S_AIRSPEED];
    }
    return s2s_min(s2s_max(speed, c->slowest_mps), c->fastest_mps);
}

/* An altitude, moved inside floor and ceiling by the buffer and twice the hysteresis. */
static double safe_altitude(const s2s_guard_config *c, double altitude_m) {
    return s2s_min(s2s_max(altitude_m, c->lowest_m), c->highest_m);
}

static bool at_home(const s2s_guard *g) {
    const s2s_watch *w = &g->watch;
    return w->has_fix && s2s_hypot(w->north, w->east) <
                             S2S_HOME_RADII * s2s_loiter_radius(&g->config->escape, airspeed_for(g, 0.0));
}

static uint32_t situation(s2s_guard *g, uint32_t trips) {
    uint32_t flags = g->bridge >= 1.0 && g->has_previous ? S2S_SITUATION_BRIDGE : 0;
    if (g->relieved) {
        if ((trips & S2S_SWITCHING) != 0) {
            g->clear_ticks = 0;
        } else if (g->clear_ticks < g->config->recovery_ticks) {
            g->clear_ticks++;
        }
        if (g->clear_ticks < g->config->recovery_ticks) {
            flags |= S2S_SITUATION_SETTLING;
        }
        if (g->relieved_ticks >= g->config->return_ticks) {
            flags |= S2S_SITUATION_PERSISTENT;
        }
    }
    if (((trips & S2S_TRIP_BATTERY) != 0 || (flags & S2S_SITUATION_PERSISTENT) != 0) && at_home(g)) {
        flags |= S2S_SITUATION_HOME;
    }
    return flags;
}

/* Remembers who flew. */
static void account(s2s_guard *g, int32_t action) {
    const s2s_guard_config *c = g->config;
    if (action == S2S_ACTION_POLICY) {
        g->relieved = false;
        g->relieved_ticks = 0;
        g->bridge = s2s_min(g->bridge + c->bridge_refill, c->bridge_ticks);
    } else if (action == S2S_ACTION_REPEAT) {
        g->bridge -= 1.0;
    } else {
        g->relieved = true;
        if (g->relieved_ticks < c->return_ticks) {
            g->relieved_ticks++;
        }
        g->bridge = 0.0;
        if (action == S2S_ACTION_STOP) { /* armed again, the fallback law takes the aircraft over first */
            g->clear_ticks = -1;
        }
    }
    g->action = action;
}

/* Where the fallback law is sent from now on. */
static void aim(s2s_guard *g, int32_t action) {
    const s2s_watch *w = &g->watch;
    const s2s_sample *s = &w->sample;
    double *heading = &g->hold.value[S2S_SET_HEADING];
    if (action != g->action) {
        g->guidance.side = w->side;
    }
    if (action == S2S_ACTION_HOLD) {
        return; /* as before */
    }
    if (action == S2S_ACTION_CIRCLE || !w->has_fix) {
        *heading = s2s_guidance_circle(s);
    } else if (action == S2S_ACTION_RETURN) {
        *heading = s2s_guidance_home(&g->guidance, s, w->north, w->east, w->wind.wind);
    } else {
        *heading = s2s_guidance_loiter(&g->config->escape, s, w->north, w->east, w->wind.wind,
                                       g->hold.value[S2S_SET_AIRSPEED]);
        if (action == S2S_ACTION_DESCEND) {
            g->hold.value[S2S_SET_ALTITUDE] = safe_altitude(g->config, -INFINITY);
        }
    }
}

static s2s_command law_command(s2s_guard *g, int32_t action, const s2s_setpoint *asked, uint32_t trips) {
    const s2s_sample *s = &g->watch.sample;
    if (!by_law(g->action)) {
        s2s_autopilot_reset(&g->law);
        g->hold.value[S2S_SET_ALTITUDE] = safe_altitude(g->config, s->value[S2S_ALTITUDE]);
        g->hold.value[S2S_SET_AIRSPEED] = airspeed_for(g, asked->value[S2S_SET_AIRSPEED]);
        g->hold.value[S2S_SET_HEADING] = s->value[S2S_YAW];
    }
    aim(g, action);
    s2s_setpoint to = g->hold;
    if ((trips & S2S_TRIP_AIRSPEED_LOW) != 0) { /* speed first, or height is lost for nothing */
        to.value[S2S_SET_ALTITUDE] = s->value[S2S_ALTITUDE] - S2S_NOSE_DOWN_M;
    }
    s2s_command command = s2s_autopilot_command(&g->law, s, &to);
    if (!finite(&command)) { /* finite but absurd states overflow */
        s2s_autopilot_reset(&g->law);
        return g->config->trim;
    }
    return command;
}

/* What the action commands, before it is led over and limited. */
static s2s_command command_of(s2s_guard *g, int32_t action, const s2s_setpoint *asked, const s2s_command *proposed,
                              uint32_t trips) {
    switch (action) {
    case S2S_ACTION_POLICY:
        return *proposed;
    case S2S_ACTION_REPEAT:
        return g->previous;
    case S2S_ACTION_TRIM:
        return g->config->trim;
    case S2S_ACTION_TERMINATE:
        return g->config->glide;
    default:
        return law_command(g, action, asked, trips);
    }
}

/* Whether what is still added is too much to be left out in one step. */
static bool still_apart(const s2s_guard *g) {
    double most = 0.0;
    for (int i = 0; i < S2S_CHANNELS; i++) {
        most = s2s_max(most, magnitude(g->bump[i]));
    }
    return most >= S2S_BLENDED_OUT;
}

/* Bumpless transfer: after a change of hands the first command continues the last one, and the difference fades. Not
 * where the fallback law must act at once. */
static uint32_t lead_over(s2s_guard *g, int32_t action, s2s_command *command, uint32_t trips) {
    bool from_policy = by_policy(g->action), to_policy = action == S2S_ACTION_POLICY;
    if (action == S2S_ACTION_REPEAT) {
        return trips | S2S_TRIP_BRIDGED;
    }
    if (g->has_previous && g->action != S2S_ACTION_STOP &&
        ((to_policy && !from_policy) || (by_law(action) && from_policy))) {
        g->bumped = true;
        for (int i = 0; i < S2S_CHANNELS; i++) {
            g->bump[i] = g->previous.channel[i] - command->channel[i];
        }
    }
    if (!g->bumped) {
        return trips;
    }
    if ((trips & S2S_URGENT) != 0 || !(to_policy || by_law(action)) || !still_apart(g)) {
        g->bumped = false;
        return trips;
    }
    for (int i = 0; i < S2S_CHANNELS; i++) {
        command->channel[i] += g->bump[i];
        g->bump[i] *= g->config->fade;
    }
    return trips | S2S_TRIP_BLENDED;
}

/* Slew limits, then absolute limits; identity for a command within both. */
static uint32_t limit(const s2s_guard *g, s2s_command *command, uint32_t trips) {
    const s2s_guard_config *c = g->config;
    for (int i = 0; i < S2S_CHANNELS; i++) {
        double *value = &command->channel[i], slew = c->slew.channel[i];
        double low = c->low.channel[i], high = c->high.channel[i];
        double change = *value - g->previous.channel[i];
        if (g->has_previous && magnitude(change) > slew) {
            *value = g->previous.channel[i] + (change < 0.0 ? -slew : slew);
            trips |= S2S_TRIP_SLEW_LIMIT;
        }
        if (*value < low || *value > high) {
            *value = s2s_min(s2s_max(*value, low), high);
            trips |= i == S2S_THROTTLE ? S2S_TRIP_THROTTLE_LIMIT : S2S_TRIP_SURFACE_LIMIT;
        }
    }
    return trips;
}

s2s_guarded s2s_guard_step(s2s_guard *g, const s2s_sample *s, const s2s_setpoint *t, const s2s_command *proposed,
                           int64_t now_ns, s2s_policy_state policy, double battery_v) {
    uint32_t trips = s2s_watch_look(&g->watch, g->config, s, now_ns, battery_v);
    if (!finite(proposed)) {
        trips |= S2S_TRIP_NONFINITE_ACTION;
    }
    if (policy != S2S_ANSWERED) {
        trips |= policy == S2S_DEAD ? S2S_TRIP_POLICY_DEAD | S2S_TRIP_POLICY_LATE : S2S_TRIP_POLICY_LATE;
    }
    if (s2s_guard_killed(g)) {
        trips |= S2S_TRIP_KILL;
    }
    int32_t action = s2s_decide(trips, situation(g, trips));
    s2s_command command = {{0.0, 0.0, 0.0, 0.0}}; /* of STOP: at once, without slew */
    if (action == S2S_ACTION_STOP) {
        g->bumped = false;
    } else {
        command = command_of(g, action, t, proposed, trips);
        trips = lead_over(g, action, &command, trips);
        trips = limit(g, &command, trips);
    }
    account(g, action);
    g->previous = command;
    g->has_previous = true;
    return (s2s_guarded){.command = command, .mode = MODES[action], .trips = trips};
}
