/* Asks a generated policy IDENTITY_ROWS questions made from integers and prints a hash of the answers per block, so that
 * one program compares every machine and compiler; benchmarks/bit_identity.py makes the same questions in numpy.
 * `questions.h` says how many (IDENTITY_ROWS), each input's middle, spread and number of categories, and whether every
 * answer's bits are printed, too (IDENTITY_SHOW). */
#include <stdint.h>
#include <string.h>

#include "policy.h"
#include "port.h"
#include "questions.h"

#define GOLDEN_GAMMA 0x9E3779B97F4A7C15u

/* Finite corners: zeros, subnormals, the normal limits, neighbours of one, where tanh and exp saturate, integers' ends. */
static const uint32_t corners[] = {
    0x00000000u, 0x00000001u, 0x007FFFFFu, 0x00800000u, 0x00800001u, 0x33800000u, 0x3F000000u, 0x3F7FFFFFu, 0x3F800000u,
    0x3F800001u, 0x40000000u, 0x40A00000u, 0x41102CB4u, 0x41200000u, 0x41B00000u, 0x42AEAC50u, 0x42B0C0A5u, 0x42B17218u,
    0x42CFF1B5u, 0x4B000000u, 0x4B800000u, 0x4F000000u, 0x5F000000u, 0x7E967699u, 0x7F7FFFFEu, 0x7F7FFFFFu,
};
#define N_CORNERS (sizeof corners / sizeof corners[0])

/* SplitMix64 (Steele, Lea, Flood 2014): the n-th word needs no earlier one. */
static uint64_t mix(uint64_t n)
{
    uint64_t z = (n + 1u) * GOLDEN_GAMMA;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rows in turn: near the middle; any finite bits; corners only; near the middle with a corner here and there. */
static float question(uint32_t row, uint32_t column)
{
    const uint64_t word = mix((uint64_t)row * SIM2SKY_POLICY_N_OBSERVATION + column);
    const uint32_t high = (uint32_t)(word >> 32), kind = row % 4u;
    if (categories[column] > 0u) {
        return (float)(high % categories[column]);
    }
    if (kind == 2u || (kind == 3u && word % 4u == 0u)) {
        return from_bits(corners[high % N_CORNERS] | (uint32_t)(word << 28 & 0x80000000u));
    }
    if (kind == 1u) {
        return from_bits((high & 0x7F800000u) == 0x7F800000u ? high & ~0x40000000u : high);
    }
    const float unit = (float)((int32_t)(high >> 8) - 0x800000) * 0x1p-21f; /* [-4, 4), exact */
    const float away = spread[column] * unit;
    return middle[column] + away;
}

static void print_hex(uint64_t value, int digits)
{
    char text[17];
    for (int i = 0; i < digits; ++i) {
        text[i] = "0123456789abcdef"[value >> 4 * (digits - 1 - i) & 15u];
    }
    text[digits] = '\0';
    port_print(text);
}

int main(void)
{
    static sim2sky_policy policy;
    float observation[SIM2SKY_POLICY_N_OBSERVATION], action[SIM2SKY_POLICY_N_ACTION];
    uint64_t hash = 0u;
    uint32_t not_numbers = 0u, refused = 0u, first = 0u;
    sim2sky_policy_init(&policy);
    const uint32_t different = sim2sky_policy_test(&policy, &first);
    for (uint32_t row = 0u; row < IDENTITY_ROWS; ++row) {
        if (row % 512u == 0u) {
            sim2sky_policy_reset(&policy);
        }
        for (uint32_t i = 0u; i < SIM2SKY_POLICY_N_OBSERVATION; ++i) {
            observation[i] = question(row, i);
        }
        const uint64_t now_ns = (uint64_t)(row + 1u) * 1000000000u;
        refused += (sim2sky_policy_control(&policy, now_ns, observation, action) & SIM2SKY_POLICY_NATIVE) == 0u;
        for (uint32_t i = 0u; i < SIM2SKY_POLICY_N_ACTION; ++i) {
            uint32_t bits;
            memcpy(&bits, &action[i], sizeof bits);
            if ((bits & 0x7FFFFFFFu) > 0x7F800000u) { /* which NaN it is, IEEE 754 leaves to the machine */
                bits = 0x7FC00000u;
                ++not_numbers;
            }
            hash += mix((uint64_t)(row * SIM2SKY_POLICY_N_ACTION + i) << 32 | bits);
#ifdef IDENTITY_SHOW
            print_hex(bits, 8);
            port_print(i + 1u < SIM2SKY_POLICY_N_ACTION ? " " : "\n");
#endif
        }
        if (row % 1024u == 1023u || row + 1u == IDENTITY_ROWS) {
            port_print("hash ");
            print_hex(hash, 16);
            port_print("\n");
        }
    }
    port_print("golden ");
    print_hex(different, 8);
    port_print("\nrefused ");
    print_hex(refused, 8);
    port_print("\nnan ");
    print_hex(not_numbers, 8);
    port_print("\n");
    return 0;
}
