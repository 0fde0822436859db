/* What the tests of the flying agent without Python ask besides its own functions: one flight at a time. */
#include <math.h>

#include "fly.h"

static s2s_agent agent;
static fly flight;
static problem error;
static volatile sig_atomic_t interrupted;
static fly_io io;

int test_fly(const fly_io *world, uint32_t engage, uint32_t kill, uint32_t given, const double *setpoint,
             uint32_t hand_back, double duration_s, double connect_timeout_s);
void test_interrupt(void);
const char *test_error(bool hint);
uint64_t test_counter(int which);
size_t test_size_of_telemetry(void);
size_t test_size_of_watch(void);
size_t test_size_of_requests(void);

int test_fly(const fly_io *world, uint32_t engage, uint32_t kill, uint32_t given, const double *setpoint,
             uint32_t hand_back, double duration_s, double connect_timeout_s)
{
    fly_options o = {engage, kill, given, {{0.0}}, hand_back, duration_s, connect_timeout_s};
    memcpy(o.setpoint.value, setpoint, sizeof o.setpoint.value);
    io = *world;
    io.interrupted = &interrupted;
    interrupted = 0;
    memset(&error, 0, sizeof error);
    memset(&agent, 0, sizeof agent);
    sim2sky_policy_init(&agent.policy);
    s2s_agent_init(&agent, &s2s_config);
    fly_init(&flight, &agent, &o, &io, &error);
    return fly_run(&flight);
}

void test_interrupt(void)
{
    interrupted = 1;
}

const char *test_error(bool hint)
{
    return hint ? error.hint : error.message;
}

uint64_t test_counter(int which)
{
    switch (which) {
    case 0: return flight.engagements;
    case 1: return flight.ticks;
    case 2: return flight.policy_ticks;
    case 3: return flight.engaged;
    case 4: return (uint64_t)flight.control;
    case 5: return s2s_guard_killed(&agent.guard);
    case 6: return flight.announcer.late;
    default: return flight.requests.n;
    }
}

size_t test_size_of_telemetry(void)
{
    return sizeof(fly_telemetry);
}

size_t test_size_of_watch(void)
{
    return sizeof(fly_output_watch);
}

size_t test_size_of_requests(void)
{
    return sizeof(fly_requests);
}
