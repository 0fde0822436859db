/* Flying a fixed-wing aircraft behind ArduPilot, in MANUAL mode by stick overrides, engaged by the pilot's switch: the
 * twin of sim2sky/runtime/{flight_loop,mavlink_vehicle}.py for that case (ADR 0008). `fly_take`, `fly_after` and
 * `fly_tick` are told the time and do no I/O; `fly_run` has the clock and the link. */
#ifndef SIM2SKY_FLY_H
#define SIM2SKY_FLY_H

#include <signal.h>

#include "agent.h"
#include "fly_engage.h"
#include "fly_requests.h"
#include "fly_sticks.h"
#include "fly_watch.h"

enum { FLY_MAX_SEND = 4096, FLY_MAX_RECEIVE = 65536, FLY_STATIONS = 8, FLY_WORDS = 640, FLY_ASKED_MOST = 8 };
enum { FLY_MODE_MANUAL = 0, FLY_MODE_RTL = 11, FLY_MODE_LOITER = 12 }; /* ArduPlane mode.h */

typedef struct {
    uint32_t engage_channel, kill_channel; /* of the receiver, from 1; 0: no kill switch */
    uint32_t given;                        /* bit i: setpoint.value[i] is; the others are as flown when engaging */
    s2s_setpoint setpoint;
    uint32_t hand_back; /* FLY_MODE_LOITER or FLY_MODE_RTL */
    double duration_s, connect_timeout_s;
} fly_options;

/* The world: everything gets `context`. */
typedef struct {
    void *context;
    int64_t (*now)(void *context); /* monotonic, ns */
    /* Waits for bytes, at most FLY_MAX_RECEIVE; *n is 0 where none came in time. */
    int (*receive)(void *context, int64_t timeout_ns, uint8_t *data, size_t *n, problem *p);
    int (*send)(void *context, const uint8_t *data, size_t n, problem *p);
    void (*say)(void *context, const char *text); /* to the operator */
    bool whole;                                   /* what is received begins and ends with a message */
    const volatile sig_atomic_t *interrupted;
} fly_io;

typedef enum { FLY_THEIRS, FLY_ASKED, FLY_OURS, FLY_HANDED } fly_control; /* whose commands reach the actuators */
typedef enum { FLY_ENGAGE, FLY_DISENGAGE, FLY_KILL, FLY_DISARM, FLY_ARM } fly_wish;

/* What a ground station, or the autopilot by its own arming, asks of us. */
typedef struct {
    fly_wish wish;
    bool answer; /* somebody waits for one */
    uint16_t command;
    uint8_t system, component;
} fly_asked;

typedef struct {
    s2s_agent *agent;
    fly_options options;
    const fly_io *io;
    problem *error; /* why it ends */
    int64_t now_ns;

    /* The vehicle */
    s2s_mav_reader reader;
    uint8_t out[FLY_MAX_SEND], sequence;
    size_t n_out;
    uint64_t bytes_in;
    bool known, simulated, armed;
    uint8_t system, component;
    uint32_t mode;
    fly_control control;
    int64_t since_ns; /* when control was last asked for, got or given back */
    int64_t timesync_ns;
    uint32_t releases, restarts;
    size_t n_stations;
    uint8_t station[FLY_STATIONS][2];
    fly_asked asked[FLY_ASKED_MOST]; /* until the next tick */
    size_t n_asked;
    char lost[160]; /* what has just ended our control, or would have */
    fly_telemetry telemetry;
    fly_parameters parameters;
    fly_requests requests;
    fly_announcer announcer;
    fly_output_watch outputs;

    /* The loop */
    fly_switch engage, kill;
    int64_t period_ns, refused_ns;
    uint32_t refused;
    bool wanted, engaged, finishing, silent;
    s2s_setpoint setpoint;
    char told[160], ending[160];
    uint64_t engagements, ticks, policy_ticks;
} fly;

void fly_init(fly *f, s2s_agent *agent, const fly_options *options, const fly_io *io, problem *error);
int fly_run(fly *f); /* until the time is up or interrupted, and hands back; the exit code */

/* fly_vehicle.c */
void fly_ask_for_everything(fly *f);
void fly_take(fly *f, const s2s_mav_message *m, int64_t now_ns);
void fly_after(fly *f, int64_t now_ns); /* what was taken: who has control now, and what is due to be sent */
void fly_take_over(fly *f);
void fly_hand_back(fly *f);
void fly_let_go(fly *f); /* stops commanding at once and leaves the flight mode as it is */
void fly_send(fly *f, const s2s_command *command); /* nothing while control is theirs */
const char *fly_mode_name(uint32_t mode);
void fly_put(fly *f, s2s_mav_message *m); /* to be sent */
bool fly_from_autopilot(const fly *f, const s2s_mav_message *m);
bool fly_station_known(const fly *f, const s2s_mav_message *m);

/* fly_commands.c */
void fly_command(fly *f, const s2s_mav_message *m); /* a COMMAND_LONG */
void fly_ask_us(fly *f, fly_asked a);
void fly_obey_all(fly *f); /* what was asked since the last time; answers */

/* fly_loop.c */
void fly_tell(fly *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool fly_obey(fly *f, fly_wish wish); /* whether it was done */
void fly_over(fly *f, const char *reason); /* control is somebody else's */
void fly_give_back(fly *f, const char *reason);
void fly_tick(fly *f, int64_t now_ns);

#endif
