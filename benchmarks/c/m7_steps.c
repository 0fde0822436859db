/* Instructions of a generated policy's steps on the emulated Cortex-M7: least, mean and most, in decimal. */
#include <stdint.h>

#include "policy.h"
#include "port.h"
#include "rows.h"

static void print(uint64_t value, const char *end)
{
    char text[21], *at = text + 20;
    *at = '\0';
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value > 0u);
    port_print(at);
    port_print(end);
}

int main(void)
{
    static sim2sky_policy policy;
    float action[SIM2SKY_POLICY_N_ACTION];
    uint64_t least = UINT64_MAX, most = 0u, sum = 0u, now_ns = 0u;
    uint32_t first = 0u;
    sim2sky_policy_init(&policy);
    const uint32_t different = sim2sky_policy_test(&policy, &first);
    sim2sky_policy_reset(&policy);
    for (uint32_t i = 0u; i < N_ROWS; ++i) {
        now_ns += 1000000000u;
        const uint64_t start = port_instructions();
        (void)sim2sky_policy_control(&policy, now_ns, rows[i], action);
        const uint64_t end = port_instructions();
        const uint64_t spent = end - start - (port_instructions() - end);
        least = spent < least ? spent : least;
        most = spent > most ? spent : most;
        sum += spent;
    }
    print(least, " ");
    print((sum + N_ROWS / 2u) / N_ROWS, " ");
    print(most, "\n");
    return different == 0u ? 0 : 1;
}
