"""C policies: a handwritten one, whose every answer a test can predict, and generated ones, whole and broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim2sky.agent.bundle import Bundle, write_bundle
from sim2sky.agent.contract import Contract
from sim2sky.deployment.export_c import c_sources
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
    m = len(contract.output.signals or contract.output.sizes)
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


def with_c(bundle: Bundle, change: Callable[[str, str], tuple[str, str]] | None = None) -> Bundle:
    """A bundle like this one, beside it, with a generated C policy; `change` gets source and header."""
    sources = c_sources(bundle.network(), bundle.contract, bundle.golden())
    texts = (sources.source, sources.header) if change is None else change(sources.source, sources.header)
    files = {name: bundle.read(name) for name in bundle.files if name != "contract.json"}
    files |= {"policy.c": texts[0].encode(), "policy.h": texts[1].encode()}
    return write_bundle(
        bundle.path.with_name(f"{bundle.path.name}-c"),
        agent=bundle.agent,
        contract=bundle.contract,
        formats={**bundle.formats, "c": "policy.c"},
        active=bundle.active,
        files=files,
        profile=bundle.profile,
        provenance=bundle.provenance,
    )


def broken(how: str) -> Callable[[str, str], tuple[str, str]]:
    """What makes a generated policy one that compiles and must not fly."""

    def inserted(source: str, statement: str) -> str:
        """The policy with something done in every step, though not where it replays its own vectors."""
        step = "        run(policy, observation);\n"
        assert source.count(step) == 1
        return source.replace(step, f"{step}        {statement}\n")

    def change(source: str, header: str) -> tuple[str, str]:
        match how:
            case "vector":  # the first of the embedded answers is another number
                changed, n = re.subn(r"(golden_action\[.*?\] = \{\s*)[^,]+,", r"\g<1>3.0f,", source, count=1)
                assert n == 1
                return changed, header
            case "network":
                return source, re.sub(r'(_POLICY_DIGEST ")[0-9a-f]{64}', r"\g<1>" + "0" * 64, header)
            case "contract":
                return source, re.sub(r'(_CONTRACT_HASH ")[0-9a-f]{64}', r"\g<1>" + "0" * 64, header)
            case "illegal":
                return inserted(source, "__builtin_trap();"), header
            case "segfault":
                return inserted(source, "*(volatile float *)(uintptr_t)8 = 0.0f;"), header
            case "slow":
                return inserted(source, "for (volatile int wait = 0; wait < 100000; wait++) {}"), header
            case "wrong":
                return inserted(source, "policy->action[0] += 0.001f;"), header
        raise AssertionError(how)

    return change


def fake_compiler(path: Path, body: str) -> Path:
    """A program that says it is gcc 9.9.9, and then does as told."""
    path.write_text(
        '#!/bin/sh\n[ "$1" = -dM ] && { for n in __GNUC__ __GNUC_MINOR__ __GNUC_PATCHLEVEL__; do echo "#define $n 9"; '
        "done; exit 0; }\n" + body
    )
    path.chmod(0o755)
    return path
