/* Engaging, flying, giving back: see fly.h. Commands are sent from the moment control is asked for until somebody else
 * has it. */
#include <stdarg.h>
#include <stdio.h>

#include "fly.h"

#define SECOND INT64_C(1000000000)
#define FINISH_NS (4 * SECOND)  /* for handing back at the end */
#define SILENCE_NS (2 * SECOND) /* worth telling the operator */
#define REFUSAL_NS (2 * SECOND) /* between two refusals with the same reasons */
#define CONNECT_WAIT_NS (SECOND / 20)
#define LAST_WAIT_NS (SECOND / 100)
#define LONGEST_S 1e9

void fly_init(fly *f, s2s_agent *agent, const fly_options *options, const fly_io *io, problem *error)
{
    memset(f, 0, sizeof *f);
    f->agent = agent;
    f->options = *options;
    f->io = io;
    f->error = error;
    f->timesync_ns = -SECOND;
    f->refused_ns = -REFUSAL_NS;
    f->period_ns = (int64_t)s2s_nearest(1e9 / agent->config->rate_hz);
    s2s_mav_reader_init(&f->reader);
    fly_telemetry_init(&f->telemetry);
    fly_output_watch_reset(&f->outputs);
    fly_switch_init(&f->engage, options->engage_channel);
    fly_switch_init(&f->kill, options->kill_channel);
}

void fly_tell(fly *f, const char *format, ...)
{
    char text[FLY_WORDS];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    f->io->say(f->io->context, text);
    fly_announce(&f->announcer, text);
}

/* Engaging and disengaging */

void fly_over(fly *f, const char *reason)
{
    f->engaged = f->wanted = false;
    f->announcer.engaged = false;
    f->announcer.guard = 0;
    f->announcer.trips = 0;
    fly_tell(f, "disengaged: %s", reason);
}

void fly_give_back(fly *f, const char *reason)
{
    f->wanted = false;
    if (!f->engaged || f->control == FLY_HANDED) {
        return;
    }
    snprintf(f->ending, sizeof f->ending, "%s", reason);
    if (s2s_guard_killed(&f->agent->guard)) { /* nothing that could start the motor is done */
        char why[200];
        fly_let_go(f);
        snprintf(why, sizeof why, "%s; killed: the sticks are the pilot's", reason);
        fly_over(f, why);
    } else {
        fly_hand_back(f);
    }
}

bool fly_obey(fly *f, fly_wish wish)
{
    s2s_guard *guard = &f->agent->guard;
    bool done = true;
    if (wish == FLY_ENGAGE) {
        return false; /* only the pilot's switch engages */
    }
    if (wish == FLY_DISENGAGE) {
        fly_give_back(f, "disengaged by a ground station");
    } else if (wish == FLY_KILL) {
        done = s2s_guard_kill(guard);
        fly_tell(f, "%s", done ? "killed: throttle zero, surfaces neutral" : "the limits disable the kill switch");
    } else if (wish == FLY_ARM) {
        done = s2s_guard_arm(guard);
        fly_tell(f, "%s", done ? "armed" : "not armed: the kill switch is latched, disarm first");
    } else {
        s2s_guard_disarm(guard);
        f->wanted = false;
        if (f->engaged) {
            fly_let_go(f);
            fly_over(f, "disarmed");
        }
        fly_tell(f, "disarmed");
    }
    return done;
}

/* Why the agent may not take control now. Unlike in Python a disarmed autopilot is a reason from the beginning. */
static uint32_t problems(const fly *f, bool has_sample, const s2s_sample *s)
{
    uint32_t found = f->control == FLY_THEIRS ? 0 : FLY_RETURNING;
    if (s2s_guard_killed(&f->agent->guard) || !f->armed) {
        found |= FLY_KILLED;
    }
    if (!has_sample) {
        return found | FLY_NO_ESTIMATE;
    }
    return found | fly_engagement_problems(&f->agent->config->guard, s, f->now_ns, f->telemetry.battery_v);
}

static void engage(fly *f, bool has_sample, const s2s_sample *s)
{
    const uint32_t found = problems(f, has_sample, s);
    f->wanted = false; /* one request, one answer: the pilot shall not be engaged by surprise later */
    if (found != 0) {
        if (found != f->refused || f->now_ns - f->refused_ns >= REFUSAL_NS) {
            char words[FLY_WORDS - 32];
            f->refused_ns = f->now_ns;
            fly_engagement_words(found, &f->agent->config->guard, s, f->now_ns, f->telemetry.battery_v, words,
                                 sizeof words);
            fly_tell(f, "not engaged: %s", words);
        }
        f->refused = found;
        return;
    }
    s2s_agent_reset(f->agent);
    memset(&f->setpoint, 0, sizeof f->setpoint);
    f->setpoint.value[S2S_SET_ALTITUDE] = s->value[S2S_ALTITUDE];
    f->setpoint.value[S2S_SET_AIRSPEED] = s->value[S2S_AIRSPEED];
    f->setpoint.value[S2S_SET_HEADING] = s->value[S2S_YAW];
    for (int i = 0; i < S2S_SETPOINT_VALUES; i++) {
        if ((f->options.given >> i & 1u) != 0) {
            f->setpoint.value[i] = f->options.setpoint.value[i];
        }
    }
    f->engaged = true;
    f->ending[0] = f->told[0] = '\0';
    f->engagements++;
    fly_take_over(f);
    fly_tell(f, "engaged");
}

/* One tick */

/* Switches, commands, and silence. */
static void listen(fly *f, bool has_sample, const s2s_sample *s)
{
    const uint16_t *widths;
    const uint32_t n = fly_telemetry_receiver(&f->telemetry, f->now_ns, &widths);
    const bool silent = has_sample && f->now_ns - s->time_ns > SILENCE_NS;
    fly_edge edge;
    if (fly_switch_update(&f->kill, widths, n, f->now_ns) == FLY_ON) {
        fly_obey(f, FLY_KILL);
    }
    edge = fly_switch_update(&f->engage, widths, n, f->now_ns);
    if (edge == FLY_ON) {
        f->wanted = true;
    } else if (edge == FLY_OFF) {
        fly_give_back(f, "disengaged by the pilot's switch");
    } else if (f->engaged && n == 0) {
        fly_give_back(f, "the receiver is silent");
    }
    fly_obey_all(f);
    if (silent != f->silent) {
        f->silent = silent;
        fly_tell(f, "%s", silent ? "nothing is heard from the aircraft" : "the aircraft is heard again");
    }
}

static void tell_guard(fly *f, const s2s_tick *t)
{
    static const char *const MODES[] = {"POLICY", "HOLD", "RETURN", "LOITER", "DESCEND", "TERMINATE", "KILLED"};
    static const char *const TRIPS[] = {
        "NONFINITE_STATE", "NONFINITE_ACTION", "STALE_DATA", "BLIND", "ATTITUDE", "ALTITUDE_LOW", "ALTITUDE_HIGH",
        "RANGE", "KILL", "SURFACE_LIMIT", "THROTTLE_LIMIT", "SLEW_LIMIT", "POLICY_LATE", "POLICY_DEAD",
        "OUT_OF_CONTRACT", "NO_POSITION", "AIRSPEED_LOW", "AIRSPEED_HIGH", "SINK", "BATTERY", "LOST", "BRIDGED",
        "BLENDED",
    };
    char words[FLY_WORDS - 64];
    size_t n = 0;
    words[0] = '\0';
    for (size_t i = 0; i < sizeof TRIPS / sizeof TRIPS[0]; i++) {
        if ((t->trips >> i & 1u) != 0 && n < sizeof words) {
            n += (size_t)snprintf(words + n, sizeof words - n, "%s%s", n > 0 ? "+" : " ", TRIPS[i]);
        }
    }
    fly_tell(f, "guard: %s%s", t->mode >= 0 && t->mode <= S2S_MODE_KILLED ? MODES[t->mode] : "?", words);
}

void fly_tick(fly *f, int64_t now_ns)
{
    s2s_sample s = {0, {0.0}};
    s2s_tick t;
    const bool has_sample = fly_telemetry_sample(&f->telemetry, &s);
    f->now_ns = now_ns;
    listen(f, has_sample, &s);
    if (f->wanted && !f->engaged && !f->finishing) {
        engage(f, has_sample, &s);
    }
    if (!f->engaged) {
        return;
    }
    if (!has_sample) { /* the autopilot was restarted: `fly_after` has ended it, or will */
        for (int i = 0; i < S2S_SAMPLE_VALUES; i++) {
            s.value[i] = (double)NAN;
        }
    }
    s2s_agent_tick(f->agent, &s, &f->setpoint, now_ns, f->telemetry.battery_v, &t);
    fly_send(f, &t.command);
    f->ticks++;
    f->policy_ticks += t.mode == S2S_MODE_POLICY;
    if (f->announcer.engaged && t.mode != f->announcer.guard) {
        tell_guard(f, &t);
    }
    f->announcer.engaged = true;
    f->announcer.guard = t.mode;
    f->announcer.trips = t.trips;
}

/* With clock and link */

static int64_t now(fly *f)
{
    return f->io->now(f->io->context);
}

static int flush(fly *f)
{
    const size_t n = f->n_out;
    f->n_out = 0;
    return n > 0 ? f->io->send(f->io->context, f->out, n, f->error) : EXIT_PASS;
}

static int receive(fly *f, int64_t timeout_ns)
{
    static uint8_t bytes[FLY_MAX_RECEIVE];
    const uint8_t *data = bytes;
    s2s_mav_message m;
    size_t n = 0;
    if (f->io->receive(f->io->context, timeout_ns, bytes, &n, f->error) != EXIT_PASS) {
        return f->error->exit_code;
    }
    f->bytes_in += n;
    while (s2s_mav_read(&f->reader, &data, &n, f->io->whole, &m)) {
        fly_take(f, &m, now(f));
    }
    if (f->error->exit_code != EXIT_PASS) {
        return f->error->exit_code;
    }
    fly_after(f, now(f));
    return flush(f);
}

static int cycle(fly *f, int64_t *due)
{
    int64_t remaining, late;
    while ((remaining = *due - now(f)) > 0) {
        if (receive(f, remaining) != EXIT_PASS) {
            return f->error->exit_code;
        }
    }
    if (receive(f, 0) != EXIT_PASS) {
        return f->error->exit_code;
    }
    fly_tick(f, now(f));
    if (flush(f) != EXIT_PASS) {
        return f->error->exit_code;
    }
    /* After a stall the lost ticks are not made up for: old commands are worth nothing. */
    late = now(f) - *due;
    f->announcer.late += f->engaged && late > f->period_ns;
    *due += ((late > 0 ? late / f->period_ns : 0) + 1) * f->period_ns;
    return EXIT_PASS;
}

static int silence(fly *f)
{
    if (f->reader.frames > 0) {
        return problem_set(f->error, EXIT_FAIL, "is this the autopilot's link?",
                           "MAVLink comes, but no autopilot's heartbeat");
    }
    if (f->reader.version1 > 0) {
        return problem_set(f->error, EXIT_FAIL, "ArduPilot: SERIALn_PROTOCOL 2", "the autopilot speaks MAVLink 1");
    }
    if (f->bytes_in > 0) {
        return problem_set(f->error, EXIT_FAIL, "is the baud rate right? ArduPilot: SERIALn_BAUD",
                           "%llu bytes came in %g s, but no MAVLink", (unsigned long long)f->bytes_in,
                           f->options.connect_timeout_s);
    }
    return problem_set(f->error, EXIT_FAIL, "is the autopilot powered, and this its MAVLink port?",
                       "nothing came in %g s", f->options.connect_timeout_s);
}

/* Waits until it speaks; finds out what it is and whether it can be commanded. */
static int connect_vehicle(fly *f)
{
    const int64_t deadline = now(f) + (int64_t)(f->options.connect_timeout_s * 1e9);
    bool asked = false;
    int64_t remaining;
    const char *absent;
    while ((remaining = deadline - now(f)) > 0) {
        if (f->known && !asked) {
            asked = true;
            fly_ask_for_everything(f);
        }
        if (asked && fly_telemetry_missing(&f->telemetry) == NULL && f->requests.n == 0
            && fly_parameter_absent(&f->parameters) == NULL) {
            break;
        }
        if (*f->io->interrupted) {
            return f->error->exit_code = EXIT_INTERRUPTED;
        }
        if (receive(f, remaining < CONNECT_WAIT_NS ? remaining : CONNECT_WAIT_NS) != EXIT_PASS) {
            return f->error->exit_code;
        }
    }
    if (!f->known) {
        return silence(f);
    }
    if ((absent = fly_parameter_absent(&f->parameters)) != NULL) {
        return problem_set(f->error, EXIT_FAIL, "is the link slow or lossy, or the firmware very old?",
                           "the autopilot does not say its parameter %s", absent);
    }
    if (fly_setup_problem(&f->parameters, f->system, f->error) != EXIT_PASS) {
        return f->error->exit_code;
    }
    if ((absent = fly_telemetry_missing(&f->telemetry)) != NULL) {
        return problem_set(f->error, EXIT_FAIL, "home is set once there is a GPS fix; airspeed comes in VFR_HUD",
                           "the autopilot does not send %s", absent);
    }
    return EXIT_PASS;
}

/* Hands back to the autopilot, commanding until it flies, for a few seconds at most. */
static int finish(fly *f, const char *reason)
{
    const int64_t deadline = now(f) + FINISH_NS;
    int64_t due = now(f);
    f->now_ns = due;
    f->finishing = true;
    fly_give_back(f, reason);
    while (f->engaged && now(f) < deadline) {
        if (cycle(f, &due) != EXIT_PASS) {
            return f->error->exit_code;
        }
    }
    if (f->engaged) {
        char why[200];
        fly_let_go(f);
        snprintf(why, sizeof why, "%s; the autopilot did not confirm", reason);
        fly_over(f, why);
    }
    for (int i = 0; i < 3; i++) { /* the last announcements, and the stick overrides' release */
        if (receive(f, LAST_WAIT_NS) != EXIT_PASS) {
            return f->error->exit_code;
        }
    }
    return EXIT_PASS;
}

static int fly_on(fly *f)
{
    const double duration_s = f->options.duration_s;
    int64_t due = now(f);
    const int64_t end = duration_s < LONGEST_S ? due + (int64_t)(duration_s * 1e9) : INT64_MAX;
    while (!*f->io->interrupted && now(f) < end) {
        if (cycle(f, &due) != EXIT_PASS) {
            return f->error->exit_code;
        }
    }
    return finish(f, *f->io->interrupted ? "interrupted" : "the time is up");
}

int fly_run(fly *f)
{
    if (connect_vehicle(f) != EXIT_PASS) {
        return f->error->exit_code;
    }
    fly_tell(f, "connected: %sArduPilot (system %d), mode %s", f->simulated ? "virtual " : "", f->system,
             fly_mode_name(f->mode));
    if (fly_on(f) != EXIT_PASS) {
        if (f->engaged) {
            fly_over(f, "the link broke");
        }
        snprintf(f->error->hint, sizeof f->error->hint,
                 "nothing can be handed back; the autopilot flies on by itself once our commands are missing");
        return f->error->exit_code;
    }
    return *f->io->interrupted ? EXIT_INTERRUPTED : EXIT_PASS;
}
