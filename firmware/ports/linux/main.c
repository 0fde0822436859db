/* sim2sky-agent: the flight agent of one bundle as a program without Python. It is the far end of a HIL run, as
 * `python -m sim2sky.runtime.main` is; with the word `fly` it flies an aircraft (fly_main.c). Exit codes: 0 told to
 * shut down, 1 failed, 2 misuse, 130 interrupted. */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "hil_loop.h"
#include "realtime.h"

static const char USAGE[] =
    "usage: sim2sky-agent --link LINK [--realtime] [--connect-timeout S] [--peer-timeout S]\n"
    "       sim2sky-agent fly --vehicle LINK ...   (an aircraft; see sim2sky-agent fly --help)\n"
    "Fly the bundle in this program over a MAVLink link to a plant (a HIL run).\n"
    "  --link LINK          udp:HOST:PORT, tcp:HOST:PORT, serial:DEVICE:BAUD; hosts as numbers\n"
    "  --realtime           real time, scheduled so where the system allows it; default is lockstep with the plant\n"
    "  --connect-timeout S  seconds to wait for the plant, default 30\n"
    "  --peer-timeout S     seconds of silence that end the run, default 5\n";

enum { LINK = 1, REALTIME, CONNECT_TIMEOUT, PEER_TIMEOUT, HELP, UNSUPPORTED };

static const struct option OPTIONS[] = {
    {"link", required_argument, NULL, LINK},
    {"realtime", no_argument, NULL, REALTIME},
    {"connect-timeout", required_argument, NULL, CONNECT_TIMEOUT},
    {"peer-timeout", required_argument, NULL, PEER_TIMEOUT},
    {"help", no_argument, NULL, HELP},
    /* What the Python agent has and this one has not. */
    {"log", required_argument, NULL, UNSUPPORTED},
    {"overwrite", no_argument, NULL, UNSUPPORTED},
    {"format", required_argument, NULL, UNSUPPORTED},
    {"excitation", required_argument, NULL, UNSUPPORTED},
    {NULL, 0, NULL, 0},
};

typedef struct {
    const char *link;
    bool realtime, help;
    double connect_timeout_s, peer_timeout_s;
} settings;

static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static int parse(int argc, char **argv, settings *s, problem *p)
{
    int option, index = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", OPTIONS, &index)) != -1) {
        const char *name = OPTIONS[index].name;
        if (option == LINK) {
            s->link = optarg;
        } else if (option == REALTIME) {
            s->realtime = true;
        } else if (option == CONNECT_TIMEOUT || option == PEER_TIMEOUT) {
            double *to = option == CONNECT_TIMEOUT ? &s->connect_timeout_s : &s->peer_timeout_s;
            if (parse_seconds(name, optarg, to, p) != EXIT_PASS) {
                return p->exit_code;
            }
        } else if (option == HELP) {
            s->help = true;
            return EXIT_PASS;
        } else if (option == UNSUPPORTED) {
            return problem_set(p, EXIT_USAGE, "fly it with python -m sim2sky.runtime.main",
                               "not supported: --%s in the agent without Python", name);
        } else {
            return problem_set(p, EXIT_USAGE, "sim2sky-agent --help", "unknown option, or one without its value: %s",
                               argv[optind - 1]);
        }
    }
    if (optind < argc) {
        return problem_set(p, EXIT_USAGE, "sim2sky-agent --help", "unknown argument '%s'", argv[optind]);
    }
    if (s->link == NULL) {
        return problem_set(p, EXIT_USAGE, "for example --link udp:127.0.0.1:14560", "--link is missing");
    }
    return EXIT_PASS;
}

int main(int argc, char **argv)
{
    static s2s_agent agent;
    static hil_loop loop;
    static channel link;
    struct sigaction action;
    settings s = {NULL, false, false, 30.0, 5.0};
    problem p = {EXIT_PASS, "", ""};
    int code;
    if (argc > 1 && strcmp(argv[1], "fly") == 0) {
        return fly_main(argc - 1, argv + 1);
    }
    if (parse(argc, argv, &s, &p) != EXIT_PASS) {
        return say_problem(&p);
    }
    if (s.help) {
        fputs(USAGE, stdout);
        return EXIT_PASS;
    }
    memset(&action, 0, sizeof action);
    action.sa_handler = interrupt;
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    if (test_policy(&agent.policy, &p) != EXIT_PASS) {
        return say_problem(&p);
    }
    s2s_agent_init(&agent, &s2s_config);
    if (channel_open(&link, s.link, s.connect_timeout_s, &p) != EXIT_PASS) {
        channel_close(&link);
        return say_problem(&p);
    }
    if (s.realtime) {
        enter_realtime();
    }
    hil_init(&loop, &agent, &link, s.realtime, s.connect_timeout_s, s.peer_timeout_s, &interrupted, &p);
    code = hil_run(&loop);
    channel_close(&link);
    if (s.realtime) {
        fprintf(stderr, "%llu ticks, %llu of them without a new state\n", (unsigned long long)loop.ticks,
                (unsigned long long)loop.late_ticks);
    }
    if (code == EXIT_INTERRUPTED) {
        fprintf(stderr, "interrupted\n");
        return code;
    }
    return code == EXIT_PASS ? code : say_problem(&p);
}
