/* Times one step after another in C, for benchmarks/policy_latency.py. */
#define _POSIX_C_SOURCE 199309L
#include <stddef.h>
#include <stdint.h>
#include <time.h>

typedef void (*step)(const float *observation, float *action);

void time_steps(step one, const float *rows, size_t n_rows, size_t size, uint64_t *ns, size_t n, size_t calls);

/* ns[i]: of `calls` calls in a row; the observations are taken in turn. */
void time_steps(step one, const float *rows, size_t n_rows, size_t size, uint64_t *ns, size_t n, size_t calls)
{
    float action[64];
    size_t row = 0;
    for (size_t i = 0; i < n; ++i) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (size_t k = 0; k < calls; ++k) {
            one(rows + row * size, action);
            row = row + 1 < n_rows ? row + 1 : 0;
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        ns[i] = (uint64_t)((int64_t)(end.tv_sec - start.tv_sec) * 1000000000 + (end.tv_nsec - start.tv_nsec));
    }
}
