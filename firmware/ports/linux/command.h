/* What both command lines of sim2sky-agent have in common. */
#ifndef SIM2SKY_COMMAND_H
#define SIM2SKY_COMMAND_H

#include "policy.h"
#include "problem.h"

int say_problem(const problem *p); /* on stderr; gives its exit code back */
int parse_seconds(const char *option, const char *text, double *out, problem *p);
/* The policy must give, on this machine, the very answers that were computed when it was exported. */
int test_policy(sim2sky_policy *policy, problem *p);
int fly_main(int argc, char **argv); /* `sim2sky-agent fly ...`; argv[0] is `fly` */

#endif
