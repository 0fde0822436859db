/* Words, times and the policy's test: see command.h. */
#include "command.h"

#include <stdio.h>
#include <stdlib.h>

int say_problem(const problem *p)
{
    fprintf(stderr, "error: %s\n", p->message);
    if (p->hint[0] != '\0') {
        fprintf(stderr, "  -> %s\n", p->hint);
    }
    return p->exit_code;
}

int parse_seconds(const char *option, const char *text, double *out, problem *p)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out > 0.0 && *out <= 86400.0)) {
        return problem_set(p, EXIT_USAGE, "seconds, up to 86400", "--%s %s is no time", option, text);
    }
    return EXIT_PASS;
}

int test_policy(sim2sky_policy *policy, problem *p)
{
    uint32_t first = 0;
    const uint32_t different = sim2sky_policy_test(policy, &first);
    if (different == 0) {
        fprintf(stderr, "%lu golden vectors are answered to the last bit\n", (unsigned long)SIM2SKY_POLICY_N_GOLDEN);
        return EXIT_PASS;
    }
    return problem_set(p, EXIT_FAIL, "do not fly; build the program again, for this machine",
                       "the policy answers %lu of %lu golden vectors differently on this machine, the first is row %lu "
                       "of the bundle's golden.npz",
                       (unsigned long)different, (unsigned long)SIM2SKY_POLICY_N_GOLDEN, (unsigned long)first);
}
