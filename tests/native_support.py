"""A handwritten C policy with the interface of the generated ones, whose every answer a test can predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim2sky.agent.contract import Contract
from sim2sky.deployment.native_build import compile_policy
from sim2sky.deployment.toolchain import find_compiler

N_GOLDEN = 4


def running_sum(contract: Contract, *, discrete: bool = False, wrong: int | None = None) -> tuple[str, str]:
    """Source and header of a policy that answers the sum over its episode of all inputs, plus the action's number.

    Args:
        contract: gives sizes, rate and hash.
        discrete: answer categories: the sum's integral part.
        wrong: this golden vector's answer is off by one bit.
    """
    n = sum(len(spec.signals) for spec in contract.inputs)
    m = len(contract.output.signals)
    header = f"""\
#ifndef SIM2SKY_POLICY_H
#define SIM2SKY_POLICY_H
#include <stdint.h>
#define SIM2SKY_POLICY_N_OBSERVATION {n}
#define SIM2SKY_POLICY_N_ACTION {m}
#define SIM2SKY_POLICY_N_GOLDEN {N_GOLDEN}
#define SIM2SKY_POLICY_RATE_HZ {contract.rate_hz or 0.0}
#define SIM2SKY_POLICY_CONTRACT_HASH "{contract.hash}"
#define SIM2SKY_POLICY_DIGEST "{"0" * 64}"
#define SIM2SKY_POLICY_NATIVE 1u
#define SIM2SKY_POLICY_INTERMEDIATE 2u
#define SIM2SKY_POLICY_JITTER 4u
#define SIM2SKY_POLICY_NONFINITE 8u
typedef struct {{ float sum, action[{m}]; uint64_t last_ns; uint32_t began; int64_t jitter_ns; }} sim2sky_policy;
void sim2sky_policy_init(sim2sky_policy *p);
void sim2sky_policy_reset(sim2sky_policy *p);
uint32_t sim2sky_policy_test(sim2sky_policy *p, uint32_t *first);
uint32_t sim2sky_policy_control(sim2sky_policy *p, uint64_t time_ns, const float *observation, float *action);
#endif
"""
    answers = [float(np.nextafter(np.float32(i), np.float32(9))) if i == wrong else float(i) for i in range(N_GOLDEN)]
    truncate = "(float)(int32_t)" if discrete else ""
    source = f"""\
#include "policy.h"
#define PERIOD_NS (SIM2SKY_POLICY_RATE_HZ > 0.0 ? (uint64_t)(1e9 / SIM2SKY_POLICY_RATE_HZ) : 0u)
static const float golden[{N_GOLDEN}] = {{{", ".join(f"{a.hex()}f" for a in answers)}}};
void sim2sky_policy_init(sim2sky_policy *p) {{ sim2sky_policy_reset(p); }}
void sim2sky_policy_reset(sim2sky_policy *p) {{ p->sum = 0.0f; p->began = 0; p->last_ns = 0; }}
uint32_t sim2sky_policy_control(sim2sky_policy *p, uint64_t time_ns, const float *observation, float *action) {{
    int i;
    if (p->began && time_ns - p->last_ns < PERIOD_NS) {{
        for (i = 0; i < {m}; i++) action[i] = p->action[i];
        return SIM2SKY_POLICY_INTERMEDIATE;
    }}
    p->began = 1;
    p->last_ns = time_ns;
    for (i = 0; i < {n}; i++)
        if (!(observation[i] - observation[i] == 0.0f)) {{
            for (i = 0; i < {m}; i++) action[i] = p->action[i] = (float)(0.0 / 0.0);
            return SIM2SKY_POLICY_NONFINITE;
        }}
    for (i = 0; i < {n}; i++) p->sum += observation[i];
    for (i = 0; i < {m}; i++) action[i] = p->action[i] = {truncate}(p->sum + (float)i);
    return SIM2SKY_POLICY_NATIVE;
}}
uint32_t sim2sky_policy_test(sim2sky_policy *p, uint32_t *first) {{
    float observation[{n}] = {{0}}, action[{m}];
    uint32_t k, differing = 0;
    for (k = 0; k < {N_GOLDEN}; k++) {{
        sim2sky_policy_reset(p);
        observation[0] = (float)k;
        (void)sim2sky_policy_control(p, 0, observation, action);
        if (action[0] != golden[k] && differing++ == 0) *first = k;
    }}
    return differing;
}}
"""
    return source, header


def library(folder: Path, sources: tuple[str, str]) -> bytes:
    return compile_policy(*sources, folder / "policy.so", find_compiler()).read_bytes()
