/* The whole agent on a computer with an operating system, for a program in another language: what it cannot know, and
 * the switches by one name. */
#include <stddef.h>

#include "agent.h"

size_t s2s_agent_size(void);
uint32_t s2s_agent_test(s2s_agent *a, uint32_t *first);
bool s2s_agent_switch(s2s_agent *a, int what);

size_t s2s_agent_size(void)
{
    return sizeof(s2s_agent);
}

/* Golden vectors that differ, and the first of them; the agent is reset. */
uint32_t s2s_agent_test(s2s_agent *a, uint32_t *first)
{
    const uint32_t different = sim2sky_policy_test(&a->policy, first);
    s2s_agent_reset(a);
    return different;
}

/* 'K' kill, 'D' disarm, 'A' arm, anything else: is it killed? */
bool s2s_agent_switch(s2s_agent *a, int what)
{
    switch (what) {
    case 'K':
        return s2s_guard_kill(&a->guard);
    case 'D':
        s2s_guard_disarm(&a->guard);
        return true;
    case 'A':
        return s2s_guard_arm(&a->guard);
    default:
        return s2s_guard_killed(&a->guard);
    }
}
