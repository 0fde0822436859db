/* Entries of the guard for whole arrays, for tests. */
#include "guard.h"

/* The action for every combination of switching trips (bit k of the index is the k-th of them) in one situation. */
void guard_answers(uint8_t *action, uint32_t situation) {
    uint32_t bits[32], n = 0;
    for (uint32_t bit = 1u; bit != 0; bit <<= 1) {
        if ((S2S_SWITCHING & bit) != 0) {
            bits[n++] = bit;
        }
    }
    for (uint32_t i = 0; i < 1u << n; i++) {
        uint32_t trips = 0;
        for (uint32_t k = 0; k < n; k++) {
            trips |= (i >> k & 1u) != 0 ? bits[k] : 0;
        }
        action[i] = (uint8_t)s2s_decide(trips, situation);
    }
}
