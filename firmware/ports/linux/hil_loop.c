/* A HIL run: see hil_loop.h. */
#include "hil_loop.h"

#include <math.h>

#define SECOND INT64_C(1000000000)
#define HEARTBEAT_NS SECOND
#define ANNOUNCE_NS (SECOND / 10)
#define LATE 1.5                         /* periods without a state before the agent ticks without one */
#define AHEAD 2.0                        /* periods that a state's stamp may be ahead of the plant's time */
#define LATEST_USEC INT64_C(4000000000000000) /* 126 years: a later stamp is damage, and would overflow */
#define LATEST_NS (LATEST_USEC * 1000)

void hil_init(hil_loop *l, s2s_agent *agent, channel *link, bool realtime, double connect_timeout_s,
              double peer_timeout_s, const volatile sig_atomic_t *interrupted, problem *p)
{
    memset(l, 0, sizeof *l);
    l->agent = agent;
    l->link = link;
    l->realtime = realtime;
    l->connect_timeout_ns = (int64_t)(connect_timeout_s * 1e9);
    l->peer_timeout_ns = (int64_t)(peer_timeout_s * 1e9);
    l->interrupted = interrupted;
    l->problem = p;
    l->rate_hz = agent->config->rate_hz;
    l->late_ns = (int64_t)(LATE * 1e9 / l->rate_hz);
    l->home = s2s_geodetic_at(47.397742, 8.545594, 488.0); /* `HOME` of sim2sky/runtime/frames.py */
    l->episode = -1.0;
    l->running = true;
    l->beat_ns = l->sync_ns = -SECOND;
    l->state_usec = l->tick_usec = -1;
    s2s_mav_reader_init(&l->reader);
}

/* Sending */

static void flush(hil_loop *l)
{
    if (l->n_out > 0 && channel_send(l->link, l->out, l->n_out, l->problem) != EXIT_PASS) {
        l->running = false;
    }
    l->n_out = 0;
}

static void put(hil_loop *l, s2s_mav_message *m)
{
    if (l->n_out + S2S_MAV_MAX_FRAME > sizeof l->out) {
        flush(l);
    }
    m->system = HIL_SYSTEM;
    m->component = S2S_MAV_COMP_ID_ONBOARD_COMPUTER;
    m->sequence = l->sequence++;
    l->n_out += s2s_mav_pack(m, l->out + l->n_out);
}

static void announce(hil_loop *l, int64_t now)
{
    s2s_mav_message m;
    if (now - l->beat_ns >= (l->heard ? HEARTBEAT_NS : ANNOUNCE_NS)) {
        l->beat_ns = now;
        hil_heartbeat(&m, l->flying);
        put(l, &m);
    }
    if (l->realtime && l->heard && now - l->sync_ns >= HEARTBEAT_NS) {
        l->sync_ns = now;
        hil_timesync(&m, 0, now);
        put(l, &m);
    }
    flush(l);
}

/* Ticks */

static void tick(hil_loop *l, const s2s_sample *sample, int64_t now, int64_t received)
{
    s2s_tick t;
    s2s_agent_tick(l->agent, sample, &l->setpoint, now, (double)NAN, &t);
    hil_controls(&l->reply, &t, (uint64_t)l->tick_usec, !l->realtime);
    l->has_reply = true;
    put(l, &l->reply);
    flush(l);
    l->tick_ns = received;
    l->ticks++;
}

static void take_state(hil_loop *l, const s2s_mav_message *m, int64_t received)
{
    const uint64_t sent = s2s_get_u64(m->payload + S2S_MAV_HIL_STATE_QUATERNION_TIME_USEC);
    const int64_t usec = (int64_t)(sent < (uint64_t)LATEST_USEC ? sent : (uint64_t)LATEST_USEC);
    int64_t stamp = usec * 1000;
    if (!l->flying || usec < l->state_usec || usec == LATEST_USEC) {
        return;
    }
    if (usec == l->state_usec) {
        if (l->has_reply && !l->realtime) {
            put(l, &l->reply);
        }
        return;
    }
    if (l->told && (double)(usec - l->tick_usec) > AHEAD * 1e6 / l->rate_hz) {
        return; /* from the future: believed, it would look fresh for as long as the clock is ahead */
    }
    l->state_usec = usec;
    if (l->realtime) {
        stamp = l->has_offset && stamp + l->offset_ns < received ? stamp + l->offset_ns : received;
    }
    hil_sample(m, stamp, &l->home, &l->sample);
    l->has_sample = true;
    if (!l->told) {
        l->tick_usec = usec;
        tick(l, &l->sample, l->realtime ? received : stamp, received);
    }
}

/* Lockstep: a period ends at that time, whatever has come of its state. */
static void take_time(hil_loop *l, const s2s_mav_message *m, int64_t received)
{
    const uint64_t sent = s2s_get_u64(m->payload + S2S_MAV_SYSTEM_TIME_TIME_UNIX_USEC);
    const int64_t usec = (int64_t)(sent < (uint64_t)LATEST_USEC ? sent : (uint64_t)LATEST_USEC);
    if (!l->flying || l->realtime || usec < l->tick_usec || usec == LATEST_USEC) {
        return;
    }
    l->told = true;
    if (usec == l->tick_usec && l->has_reply) {
        put(l, &l->reply);
        return;
    }
    l->tick_usec = usec;
    if (!l->has_sample) {
        s2s_sample none = {0, {0}};
        for (int i = 0; i < S2S_SAMPLE_VALUES; i++) {
            none.value[i] = (double)NAN;
        }
        tick(l, &none, usec * 1000, received);
        return;
    }
    tick(l, &l->sample, usec * 1000, received);
}

static void take_timesync(hil_loop *l, const s2s_mav_message *m, int64_t now)
{
    const int64_t tc1 = s2s_get_i64(m->payload + S2S_MAV_TIMESYNC_TC1);
    const int64_t ts1 = s2s_get_i64(m->payload + S2S_MAV_TIMESYNC_TS1);
    int64_t round_trip;
    if (tc1 == 0) {
        s2s_mav_message answer;
        hil_timesync(&answer, now, ts1);
        put(l, &answer);
        return;
    }
    if (tc1 > LATEST_NS || tc1 < -LATEST_NS || ts1 > LATEST_NS || ts1 < -LATEST_NS) {
        return;
    }
    round_trip = now - ts1;
    /* The quickest exchange seen says most about the clocks; let it age so that drift is followed. */
    if (round_trip >= 0 && (!l->has_offset || (double)round_trip <= (double)l->round_trip_ns * 1.1)) {
        l->has_offset = true;
        l->offset_ns = ts1 + round_trip / 2 - tc1;
        l->round_trip_ns = round_trip;
    } else if (l->round_trip_ns < 10 * SECOND) { /* older than that any exchange will do */
        l->round_trip_ns = l->round_trip_ns * 11 / 10 + 1000;
    }
}

/* Commands */

static void acknowledge(hil_loop *l, const s2s_mav_message *m, uint8_t result)
{
    s2s_mav_message ack;
    hil_acknowledge(&ack, hil_command(m), result);
    put(l, &ack);
}

static uint8_t begin(hil_loop *l, const s2s_mav_message *m)
{
    const double episode = trunc(hil_parameter(m, 1)), rate_hz = hil_parameter(m, 6);
    if (!(fabs(rate_hz - l->rate_hz) <= 1e-6 * fmax(fabs(rate_hz), fabs(l->rate_hz)))) {
        return S2S_MAV_RESULT_DENIED;
    }
    if (episode != l->episode) { /* a repeated request must not reset twice */
        acknowledge(l, m, S2S_MAV_RESULT_IN_PROGRESS);
        flush(l);
        s2s_agent_reset(l->agent);
        l->heard_ns = clock_ns();
        l->episode = episode;
        l->flying = true;
        l->state_usec = l->tick_usec = -1;
        l->told = l->has_reply = l->has_sample = false;
        l->tick_ns = clock_ns();
    }
    return S2S_MAV_RESULT_ACCEPTED;
}

static void take_command(hil_loop *l, const s2s_mav_message *m)
{
    const double first = hil_parameter(m, 1), second = hil_parameter(m, 2);
    const uint16_t command = hil_command(m);
    s2s_guard *guard = &l->agent->guard;
    uint8_t result = S2S_MAV_RESULT_ACCEPTED;
    bool finite = true;
    for (int i = 1; i <= 6; i++) {
        finite = finite && isfinite(hil_parameter(m, i));
    }
    if (hil_setpoint(m, &l->setpoint)) {
        /* done */
    } else if (!finite) {
        result = S2S_MAV_RESULT_DENIED;
    } else if (command == HIL_EPISODE_START) {
        result = begin(l, m);
    } else if (command == HIL_EPISODE_END) {
        if (first == l->episode) {
            l->flying = false;
        }
    } else if (command == S2S_MAV_CMD_DO_FLIGHTTERMINATION) {
        result = first == 1.0 && s2s_guard_kill(guard) ? S2S_MAV_RESULT_ACCEPTED : S2S_MAV_RESULT_DENIED;
    } else if (command == S2S_MAV_CMD_COMPONENT_ARM_DISARM && first == 0.0) {
        s2s_guard_disarm(guard);
    } else if (command == S2S_MAV_CMD_COMPONENT_ARM_DISARM && first == 1.0) {
        result = s2s_guard_arm(guard) ? S2S_MAV_RESULT_ACCEPTED : S2S_MAV_RESULT_DENIED;
    } else if (command == S2S_MAV_CMD_REQUEST_MESSAGE && first == S2S_MAV_AUTOPILOT_VERSION) {
        s2s_mav_message version;
        hil_version(&version, l->agent->config);
        put(l, &version);
    } else if (command == S2S_MAV_CMD_PREFLIGHT_REBOOT_SHUTDOWN && second == 2.0) {
        l->running = false;
    } else {
        result = S2S_MAV_RESULT_UNSUPPORTED;
    }
    acknowledge(l, m, result);
}

static void handle(hil_loop *l, const s2s_mav_message *m)
{
    const int64_t now = clock_ns();
    l->heard = true;
    l->heard_ns = now;
    if (m->id == S2S_MAV_HIL_STATE_QUATERNION) {
        take_state(l, m, now);
    } else if (m->id == S2S_MAV_COMMAND_LONG) {
        take_command(l, m);
    } else if (m->id == S2S_MAV_SET_ATTITUDE_TARGET) {
        if (hil_setpoint(m, &l->setpoint)) {
            s2s_mav_message receipt;
            hil_attitude_target(&receipt, m);
            put(l, &receipt);
        }
    } else if (m->id == S2S_MAV_TIMESYNC) {
        take_timesync(l, m, now);
    } else if (m->id == S2S_MAV_SYSTEM_TIME) {
        take_time(l, m, now);
    }
}

static int64_t patience(const hil_loop *l, int64_t now)
{
    if (l->realtime && l->flying) {
        return l->tick_ns + l->late_ns - now;
    }
    return l->heard ? HEARTBEAT_NS : ANNOUNCE_NS;
}

static int receive(hil_loop *l, int64_t timeout_ns)
{
    static uint8_t bytes[CHANNEL_MAX_DATAGRAM];
    const uint8_t *data = bytes;
    s2s_mav_message m;
    size_t n;
    if (channel_receive(l->link, timeout_ns, bytes, &n, l->problem) != EXIT_PASS) {
        return l->problem->exit_code;
    }
    while (s2s_mav_read(&l->reader, &data, &n, l->link->whole, &m)) {
        if (hil_wanted(m.id)) {
            handle(l, &m);
        }
    }
    return EXIT_PASS;
}

int hil_run(hil_loop *l)
{
    const int64_t started = clock_ns();
    l->heard_ns = started;
    while (l->running && !*l->interrupted) {
        int64_t now = clock_ns();
        announce(l, now);
        if (receive(l, patience(l, now)) != EXIT_PASS) {
            return l->problem->exit_code;
        }
        now = clock_ns();
        if (l->realtime && l->flying && l->has_sample && now - l->tick_ns >= l->late_ns) {
            l->late_ticks++;
            tick(l, &l->sample, now, now);
        }
        flush(l);
        if (!l->heard && now - started > l->connect_timeout_ns) {
            return problem_set(l->problem, EXIT_FAIL, "is it running, and is the link address right?",
                               "the plant never spoke");
        }
        if (l->heard && now - l->heard_ns > l->peer_timeout_ns) {
            return problem_set(l->problem, EXIT_FAIL, "", "the plant fell silent for %g s after %llu ticks",
                               (double)l->peer_timeout_ns * 1e-9, (unsigned long long)l->ticks);
        }
    }
    return *l->interrupted ? EXIT_INTERRUPTED : l->problem->exit_code;
}
