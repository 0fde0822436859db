/* Real-time scheduling: see realtime.h. Linux: sched(7), mlockall(2). */
#define _GNU_SOURCE
#include "realtime.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PRIORITY = 50, CAP_IPC_LOCK_BIT = 14 };

static void refused(const char *what, const char *why, const char *limit)
{
    char program[4096];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    fprintf(stderr,
            "%s (%s); allow it once with: sudo setcap cap_sys_nice,cap_ipc_lock+ep %s, or in "
            "/etc/security/limits.conf: %s\n",
            what, why, program, limit);
}

static bool may_lock(void)
{
    struct rlimit limit;
    unsigned long long effective = 0;
    char line[256];
    FILE *status;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) {
        return true;
    }
    status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        sscanf(line, "CapEff: %llx", &effective);
    }
    if (status != NULL) {
        fclose(status);
    }
    return (effective >> CAP_IPC_LOCK_BIT & 1) != 0;
}

void enter_realtime(void)
{
    const struct sched_param priority = {.sched_priority = PRIORITY};
    if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority) == 0) {
        fprintf(stderr, "real-time scheduling: SCHED_FIFO, priority %d\n", PRIORITY);
    } else {
        refused("real-time scheduling was refused", strerror(errno), "* - rtprio 50");
    }
    if (!may_lock()) {
        /* mlockall would succeed now and make allocations fail later, in flight. */
        refused("memory is not locked", "this user's limit is finite", "* - memlock unlimited");
    } else if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
        fprintf(stderr, "memory is locked in RAM\n");
    } else {
        refused("memory is not locked", strerror(errno), "* - memlock unlimited");
    }
}
