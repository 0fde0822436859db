"""Generated policies in tests: made from a network, compiled, loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tests.c_support import build_shared
from tests.export_support import observations

from sim2sky.agent.contract import ActionSignal, Contract, Input, Output, Signal
from sim2sky.agent.golden import GoldenVectors
from sim2sky.agent.layers import ArgMax, Network, OneHot, Threshold
from sim2sky.deployment.c_arithmetic import CPolicy, Weights
from sim2sky.deployment.export_c import CSources, c_sources
from sim2sky.deployment.toolchain import Compiler

GLUE = """
#include "policy.h"
#include <stddef.h>
uint32_t glue_size(void);
uint32_t glue_size(void) { return (uint32_t)sizeof(sim2sky_policy); }
void glue_rows(sim2sky_policy *policy, uint32_t n, const float *rows, const uint8_t *starts, float *actions);
void glue_rows(sim2sky_policy *policy, uint32_t n, const float *rows, const uint8_t *starts, float *actions)
{
    uint64_t time_ns = 0;
    for (uint32_t k = 0; k < n; ++k, time_ns += 1000000000u) {
        if (starts[k]) {
            sim2sky_policy_reset(policy);
        }
        (void)sim2sky_policy_control(policy, time_ns, rows + (size_t)k * SIM2SKY_POLICY_N_OBSERVATION,
                                     actions + (size_t)k * SIM2SKY_POLICY_N_ACTION);
    }
}
"""


def contract_of(network: Network, rate_hz: float = 50.0) -> Contract:
    """A contract that fits the network."""
    inputs = []
    for head in network.inputs:
        signals = tuple(Signal(f"{head.key}_{i}", "1", "", -10.0, 10.0) for i in range(head.size))
        sizes = next((layer.sizes for layer in head.layers if isinstance(layer, OneHot)), ())
        kind = "multi_discrete" if sizes else "box"
        inputs.append(Input(head.key, kind, (head.size,), "int64" if sizes else "float32", signals, sizes))
    last = network.layers[-1] if network.layers else None
    if isinstance(last, ArgMax):
        output = Output("multi_discrete", sizes=last.sizes)
    elif isinstance(last, Threshold):
        output = Output("multi_binary", sizes=(2,))
    else:
        actions = (ActionSignal(f"action_{i}", "1", -1, 1, -1, 0, 1) for i in range(CPolicy(network).n_action))
        output = Output("continuous", tuple(actions))
    return Contract("", "", rate_hz, tuple(inputs), output)


def rows_of(network: Network, n: int, seed: int = 1) -> np.ndarray:
    """Raw observations (n, n_observation), inputs concatenated."""
    parts = observations(network, n, seed)
    return np.concatenate([parts[head.key] for head in network.inputs], axis=1)


def own_golden(network: Network, n: int = 16, weights: Weights = "float32") -> GoldenVectors:
    """Golden vectors whose answers are the twin's own: what an exact copy of the arithmetic must reproduce."""
    parts = observations(network, n)
    rows = np.concatenate([parts[head.key] for head in network.inputs], axis=1)
    starts = None if network.lstm is None else (np.arange(n) % 5 == 0).astype(np.float32)
    action = CPolicy(network, weights).evaluate(rows, starts)
    return GoldenVectors(parts, action, starts, np.full(n, "sampled"), np.ones(action.shape[1]))


def sources_of(
    network: Network,
    *,
    weights: Weights = "float32",
    rate_hz: float = 50.0,
    n: int = 16,
    golden: GoldenVectors | None = None,
) -> CSources:
    """`policy.c` and `policy.h` of a network, with golden answers of its own unless others are given."""
    return c_sources(network, contract_of(network, rate_hz), golden or own_golden(network, n, weights), weights=weights)


class Compiled:
    """A generated policy in a shared library."""

    def __init__(
        self,
        sources: CSources,
        folder: Path,
        *,
        compiler: Compiler | None = None,
        optimise: str = "-O1",
        options: Sequence[str] = (),
    ) -> None:
        (folder / "policy.c").write_text(sources.source)
        (folder / "policy.h").write_text(sources.header)
        (folder / "glue.c").write_text(GLUE)
        files = [folder / "policy.c", folder / "glue.c"]
        self.library = build_shared(files, folder, compiler=compiler, optimise=optimise, options=options)
        self.library.sim2sky_policy_control.argtypes = [
            ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.size: int = self.library.glue_size()
        self.memory = ctypes.create_string_buffer(self.size + 8)
        macros = dict(
            line.split()[1:3] for line in sources.header.splitlines() if line.startswith("#define SIM2SKY_POLICY_N")
        )
        self.n_observation = int(macros["SIM2SKY_POLICY_N_OBSERVATION"])
        self.n_action = int(macros["SIM2SKY_POLICY_N_ACTION"])
        self.library.sim2sky_policy_init(self.memory)

    def reset(self) -> None:
        self.library.sim2sky_policy_reset(self.memory)

    def test(self) -> tuple[int, int]:
        """(how many golden answers differ, the first of them)."""
        first = ctypes.c_uint32()
        return self.library.sim2sky_policy_test(self.memory, ctypes.byref(first)), first.value

    def control(self, time_ns: int, observation: np.ndarray) -> tuple[int, np.ndarray]:
        """(status, action)."""
        row = np.ascontiguousarray(observation, np.float32)
        assert row.shape == (self.n_observation,)
        action = np.full(self.n_action, 777.0, np.float32)
        status = self.library.sim2sky_policy_control(self.memory, time_ns, row.ctypes.data, action.ctypes.data)
        return status, action

    def rows(self, rows: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
        """Answers to rows one second apart, from a reset on; `starts`: where an episode begins."""
        rows = np.ascontiguousarray(rows, np.float32)
        assert rows.shape[1] == self.n_observation
        flags = np.zeros(len(rows), np.uint8) if starts is None else np.ascontiguousarray(starts != 0, np.uint8)
        actions = np.empty((len(rows), self.n_action), np.float32)
        self.reset()
        self.library.glue_rows(
            self.memory, len(rows), rows.ctypes.data_as(ctypes.c_void_p), flags.ctypes.data_as(ctypes.c_void_p),
            actions.ctypes.data_as(ctypes.c_void_p),
        )  # fmt: skip
        return actions
