/* `sim2sky-agent fly`: its command line, the clock and the link. Options have the names and defaults of
 * `python -m sim2sky.runtime.main fly`. Exit codes: 0 flown and handed back, 1 failed, 2 misuse, 130 interrupted (and
 * handed back). */
#define _GNU_SOURCE
#include <ctype.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "command.h"
#include "fly.h"
#include "realtime.h"

static const char USAGE[] =
    "usage: sim2sky-agent fly --vehicle LINK [--engage rc:N] [--kill rc:N] [--setpoint NAME=VALUE,...]\n"
    "                         [--hand-back loiter|rtl] [--duration S] [--connect-timeout S] [--realtime]\n"
    "Fly the bundle in this program on a fixed-wing aircraft behind ArduPilot.\n"
    "  --vehicle LINK       udp:HOST:PORT, tcp:HOST:PORT, serial:DEVICE:BAUD; hosts as numbers\n"
    "  --engage rc:N        receiver channel of the switch that engages and disengages, default rc:7\n"
    "  --kill rc:N          receiver channel of a kill switch; default none\n"
    "  --setpoint           altitude=m,airspeed=m/s,heading=deg,...; else as flown when engaging\n"
    "  --hand-back          mode of the autopilot afterwards, default loiter\n"
    "  --duration S         seconds; default until interrupted\n"
    "  --connect-timeout S  seconds to wait for the aircraft, default 30\n"
    "  --realtime           real-time scheduling where the system allows it\n";

enum { VEHICLE = 1, ENGAGE, KILL, SETPOINT, HAND_BACK, DURATION, CONNECT_TIMEOUT, REALTIME, HELP, UNSUPPORTED };

static const struct option OPTIONS[] = {
    {"vehicle", required_argument, NULL, VEHICLE},
    {"engage", required_argument, NULL, ENGAGE},
    {"kill", required_argument, NULL, KILL},
    {"setpoint", required_argument, NULL, SETPOINT},
    {"hand-back", required_argument, NULL, HAND_BACK},
    {"duration", required_argument, NULL, DURATION},
    {"connect-timeout", required_argument, NULL, CONNECT_TIMEOUT},
    {"realtime", no_argument, NULL, REALTIME},
    {"help", no_argument, NULL, HELP},
    /* What the Python agent has and this one has not. */
    {"bundle", required_argument, NULL, UNSUPPORTED},
    {"log", required_argument, NULL, UNSUPPORTED},
    {"overwrite", no_argument, NULL, UNSUPPORTED},
    {"signing-key", required_argument, NULL, UNSUPPORTED},
    {"source", required_argument, NULL, UNSUPPORTED},
    {"excitation", required_argument, NULL, UNSUPPORTED},
    {"json", no_argument, NULL, UNSUPPORTED},
    {NULL, 0, NULL, 0},
};

typedef struct {
    const char *vehicle;
    bool realtime, help;
    fly_options fly;
} settings;

static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* The channel in rc:N. */
static int receiver_channel(const char *text, uint32_t *out, problem *p)
{
    const char *digits = text + 3;
    unsigned long number = 0;
    if (strncmp(text, "rc:", 3) == 0 && isdigit((unsigned char)digits[0]) && strlen(digits) <= 2
        && (digits[1] == '\0' || isdigit((unsigned char)digits[1]))) {
        number = strtoul(digits, NULL, 10);
    }
    if (number < 1 || number > FLY_RECEIVER) {
        return problem_set(p, EXIT_USAGE, "for example rc:7", "'%.40s' is no receiver channel", text);
    }
    if (number <= 4) {
        return problem_set(p, EXIT_USAGE, "take a switch: channel 5 or above", "receiver channel %lu is a stick",
                           number);
    }
    *out = (uint32_t)number;
    return EXIT_PASS;
}

/* altitude=150,airspeed=18,heading=90: metres, m/s, degrees and degrees per second. */
static int parse_setpoint(const char *text, fly_options *o, problem *p)
{
    static const char *const NAMES[S2S_SETPOINT_VALUES] = {
        "altitude", "airspeed", "heading", "roll", "pitch", "p", "q", "r",
    };
    while (*text != '\0') {
        const size_t length = strcspn(text, ",");
        const char *equals = memchr(text, '=', length);
        const size_t name = equals != NULL ? (size_t)(equals - text) : length;
        char *end = NULL;
        double value;
        int i = 0;
        while (i < S2S_SETPOINT_VALUES && (strlen(NAMES[i]) != name || strncmp(NAMES[i], text, name) != 0)) {
            i++;
        }
        if (i == S2S_SETPOINT_VALUES) {
            return problem_set(p, EXIT_USAGE, "known: altitude, airspeed, heading, roll, pitch, p, q, r",
                               "--setpoint: there is no '%.*s' to follow", (int)(name < 40 ? name : 40), text);
        }
        value = equals != NULL ? strtod(equals + 1, &end) : (double)NAN;
        if (equals == NULL || end != text + length || end == equals + 1 || !isfinite(value)) {
            return problem_set(p, EXIT_USAGE, "for example altitude=150,heading=90", "--setpoint: '%.*s' is no number",
                               (int)(length < 40 ? length : 40), text);
        }
        o->setpoint.value[i] = i < S2S_SET_HEADING ? value : value * (S2S_PI / 180.0);
        o->given |= 1u << i;
        text += length + (text[length] == ',');
    }
    return EXIT_PASS;
}

static int take(int option, const char *name, const char *value, settings *s, problem *p)
{
    switch (option) {
    case VEHICLE:
        s->vehicle = value;
        if (strncmp(value, "teensy:", 7) == 0) {
            return problem_set(p, EXIT_USAGE, "fly it with python -m sim2sky.runtime.main fly",
                               "not supported: a Teensy with the agent without Python");
        }
        return EXIT_PASS;
    case ENGAGE:
        if (strcmp(value, "now") == 0 || strcmp(value, "mavlink") == 0) {
            return problem_set(p, EXIT_USAGE, "the pilot's switch engages: --engage rc:7",
                               "not supported: --engage %s in the agent without Python", value);
        }
        return receiver_channel(value, &s->fly.engage_channel, p);
    case KILL:
        return receiver_channel(value, &s->fly.kill_channel, p);
    case SETPOINT:
        return parse_setpoint(value, &s->fly, p);
    case HAND_BACK:
        if (strcmp(value, "loiter") != 0 && strcmp(value, "rtl") != 0) {
            return problem_set(p, EXIT_USAGE, "loiter or rtl", "--hand-back %.40s: not known", value);
        }
        s->fly.hand_back = strcmp(value, "rtl") == 0 ? FLY_MODE_RTL : FLY_MODE_LOITER;
        return EXIT_PASS;
    case DURATION:
        return parse_seconds(name, value, &s->fly.duration_s, p);
    case CONNECT_TIMEOUT:
        return parse_seconds(name, value, &s->fly.connect_timeout_s, p);
    case REALTIME:
        s->realtime = true;
        return EXIT_PASS;
    default:
        return problem_set(p, EXIT_USAGE, "fly it with python -m sim2sky.runtime.main fly",
                           "not supported: --%s in the agent without Python", name);
    }
}

static int parse(int argc, char **argv, settings *s, problem *p)
{
    int option, index = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", OPTIONS, &index)) != -1) {
        if (option == HELP) {
            s->help = true;
            return EXIT_PASS;
        }
        if (option == '?' || option == ':') {
            return problem_set(p, EXIT_USAGE, "sim2sky-agent fly --help",
                               "unknown option, or one without its value: %.100s", argv[optind - 1]);
        }
        if (take(option, OPTIONS[index].name, optarg, s, p) != EXIT_PASS) {
            return p->exit_code;
        }
    }
    if (optind < argc) {
        return problem_set(p, EXIT_USAGE, "sim2sky-agent fly --help", "unknown argument '%.100s'", argv[optind]);
    }
    if (s->vehicle == NULL) {
        return problem_set(p, EXIT_USAGE, "for example --vehicle serial:/dev/ttyACM0:921600", "--vehicle is missing");
    }
    if (s->fly.kill_channel == s->fly.engage_channel) {
        return problem_set(p, EXIT_USAGE, "take two switches", "receiver channel %lu cannot both engage and kill",
                           (unsigned long)s->fly.kill_channel);
    }
    return EXIT_PASS;
}

/* The world */

static int64_t io_now(void *context)
{
    (void)context;
    return clock_ns();
}

static int io_receive(void *context, int64_t timeout_ns, uint8_t *data, size_t *n, problem *p)
{
    return channel_receive(context, timeout_ns, data, n, p);
}

static int io_send(void *context, const uint8_t *data, size_t n, problem *p)
{
    return channel_send(context, data, n, p);
}

static void io_say(void *context, const char *text)
{
    (void)context;
    fprintf(stderr, "%s\n", text);
}

static void catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = interrupt;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL); /* a service manager's stop hands back, too */
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

int fly_main(int argc, char **argv)
{
    static s2s_agent agent;
    static fly flight;
    static channel link;
    settings s = {.fly = {.engage_channel = 7, .hand_back = FLY_MODE_LOITER, .duration_s = (double)INFINITY,
                          .connect_timeout_s = 30.0}};
    fly_io io = {&link, io_now, io_receive, io_send, io_say, false, &interrupted};
    problem p = {EXIT_PASS, "", ""};
    int code;
    if (parse(argc, argv, &s, &p) != EXIT_PASS) {
        return say_problem(&p);
    }
    if (s.help) {
        fputs(USAGE, stdout);
        return EXIT_PASS;
    }
    if (test_policy(&agent.policy, &p) != EXIT_PASS) {
        return say_problem(&p);
    }
    s2s_agent_init(&agent, &s2s_config);
    catch_signals();
    if (channel_open(&link, s.vehicle, s.fly.connect_timeout_s, &p) != EXIT_PASS) {
        channel_close(&link);
        return say_problem(&p);
    }
    io.whole = link.whole;
    fprintf(stderr, "waiting for the aircraft on %s\n", s.vehicle);
    if (s.realtime) {
        enter_realtime();
    }
    fly_init(&flight, &agent, &s.fly, &io, &p);
    code = fly_run(&flight);
    channel_close(&link);
    fprintf(stderr, "%llu engagements, %llu ticks, %llu of them the policy's, %lu late\n",
            (unsigned long long)flight.engagements, (unsigned long long)flight.ticks,
            (unsigned long long)flight.policy_ticks, (unsigned long)flight.announcer.late);
    if (code == EXIT_INTERRUPTED) {
        fprintf(stderr, "interrupted\n");
        return code;
    }
    return code == EXIT_PASS ? code : say_problem(&p);
}
