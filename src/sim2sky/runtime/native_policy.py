"""The C policy of a bundle, compiled on this machine, as a `Backend`: one call through ctypes, no allocation in C.

Needs numpy only. Nothing here compiles: `deployment/native_build.py` does that when a release is installed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.bundle import Bundle
from sim2sky.agent.contract import Contract
from sim2sky.errors import BundleError, ContractError
from sim2sky.runtime.native_record import folder_of, read_library, read_record
from sim2sky.runtime.state import PolicyState

__all__ = ["BINDING", "HEADER", "NativeBackend", "installed_backend"]

HEADER = "policy.h"
"""Beside `policy.c` in a bundle with the format `c`."""
BINDING = """\
/* What Python needs of a generated policy: buffers at fixed places beside it, a clock on which every call is due. */
#include <stddef.h>
#include <stdint.h>
#include "policy.h"

typedef struct {
    float observation[SIM2SKY_POLICY_N_OBSERVATION];
    float action[SIM2SKY_POLICY_N_ACTION];
    uint64_t time_ns;
    sim2sky_policy policy;
} sim2sky_native;

const uint32_t sim2sky_native_layout[] = {SIM2SKY_POLICY_N_OBSERVATION, SIM2SKY_POLICY_N_ACTION,
                                          offsetof(sim2sky_native, action), sizeof(sim2sky_native),
                                          SIM2SKY_POLICY_N_GOLDEN};
const char sim2sky_native_contract[] = SIM2SKY_POLICY_CONTRACT_HASH;
const char sim2sky_native_network[] = SIM2SKY_POLICY_DIGEST;

void sim2sky_native_init(sim2sky_native *n) { sim2sky_policy_init(&n->policy); }

void sim2sky_native_reset(sim2sky_native *n) { sim2sky_policy_reset(&n->policy); }

uint32_t sim2sky_native_test(sim2sky_native *n, uint32_t *first) { return sim2sky_policy_test(&n->policy, first); }

uint32_t sim2sky_native_step(sim2sky_native *n) {
    const double rate_hz = (double)SIM2SKY_POLICY_RATE_HZ;
    n->time_ns += rate_hz > 0.0 ? (uint64_t)(1e9 / rate_hz) + 1u : 1u;
    return sim2sky_policy_control(&n->policy, n->time_ns, n->observation, n->action);
}
"""
"""Compiled together with a bundle's `policy.c`; travels in the signed runtime."""

_ALIGNMENT = 64


class NativeBackend:
    """A compiled policy. The observation is copied into a fixed buffer, the action out of another one.

    The bytes given are what is loaded, whatever happens to the file they came from; two backends share nothing.
    Discrete answers have the types and shapes that `OnnxBackend` gives.

    Args:
        library: a shared library made of `policy.c` and `BINDING`.
        contract: of the agent that the library is to be.

    Raises:
        BundleError: it cannot be loaded here, or is another agent.
        ContractError: (when called) an observation has another number of values, or is not finite where an action is
            a category and so has no NaN.
    """

    state = PolicyState.ANSWERED

    def __init__(self, library: bytes, contract: Contract) -> None:
        self._library = code = _load(library)
        try:
            layout = (ctypes.c_uint32 * 5).in_dll(code, "sim2sky_native_layout")
            n_observation, n_action, offset, size, self.n_vectors = layout
            """Vectors compiled into the library."""
            made_for = (ctypes.c_char * 64).in_dll(code, "sim2sky_native_contract").value.decode("ascii")
            self.network = (ctypes.c_char * 64).in_dll(code, "sim2sky_native_network").value.decode("ascii")
            """sha256 (hex) of the `network.npz` that the library was generated from."""
            self._reset, self._test = code["sim2sky_native_reset"], code["sim2sky_native_test"]
            self._step, initialise = code["sim2sky_native_step"], code["sim2sky_native_init"]
        except (ValueError, AttributeError, UnicodeDecodeError) as error:
            raise BundleError(f"the compiled policy is none of ours: {error}") from error
        if made_for != contract.hash:
            raise BundleError("the compiled policy was made for another contract", hint="install the release again")
        self._reset.restype, self._test.restype, initialise.restype = None, ctypes.c_uint32, None
        self._step.restype = ctypes.c_uint32
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        self._memory = memory[start : start + size]
        self._address = ctypes.c_void_p(self._memory.ctypes.data)
        self._observation = self._memory[: 4 * n_observation].view(np.float32)
        self._action = self._memory[offset : offset + 4 * n_action].view(np.float32)
        self._shape = self._observation.shape
        self._keys = tuple(spec.key for spec in contract.inputs)
        sizes = [len(spec.signals) for spec in contract.inputs]
        ends = np.cumsum([0, *sizes])
        if ends[-1] != n_observation:
            raise BundleError("the compiled policy has other inputs than its contract")
        self._parts = {key: self._observation[a:b] for key, a, b in zip(self._keys, ends, ends[1:], strict=False)}
        kinds = {"continuous": self._action.copy, "discrete": self._category}
        self._answer = kinds.get(contract.output.kind, self._categories)
        initialise(self._address)

    def __call__(self, observation: Mapping[str, NDArray[Any]] | NDArray[Any]) -> NDArray[Any]:
        """See `Backend`; an observation that is not finite is answered with NaN."""
        if isinstance(observation, np.ndarray) and observation.shape == self._shape:
            self._observation[...] = observation
        else:
            self._fill(observation)
        self._step(self._address)
        return self._answer()

    def _fill(self, observation: Mapping[str, NDArray[Any]] | NDArray[Any]) -> None:
        if isinstance(observation, np.ndarray):
            if len(self._keys) != 1:
                raise BundleError(f"the policy takes several inputs: {', '.join(self._keys)}")
            observation = {self._keys[0]: observation}
        for key, part in self._parts.items():
            if key not in observation:
                raise BundleError(f"the observation has no input '{key}'; it has {', '.join(observation)}")
            values = np.asarray(observation[key])
            if values.size != part.size:
                raise ContractError(f"input '{key}' has {values.size} values, the policy takes {part.size}")
            part[:] = values.reshape(-1)

    def _category(self) -> NDArray[Any]:
        return np.asarray(self._categories()[0])  # shape ()

    def _categories(self) -> NDArray[Any]:
        if not np.isfinite(self._action).all():
            raise ContractError("the observation is not finite, and no category stands for that")
        categories: NDArray[Any] = self._action.astype(np.int64)
        return categories

    def reset(self) -> None:
        """See `Backend`."""
        self._reset(self._address)

    def self_test(self) -> tuple[int, int]:
        """Replay the vectors compiled into the library: how many answers differ in any bit, and the first of them."""
        first = ctypes.c_uint32(0)
        differing = int(self._test(self._address, ctypes.byref(first)))
        self.reset()
        return differing, int(first.value)


def installed_backend(bundle: Bundle) -> NativeBackend:
    """The policy that was compiled when the release of this bundle was installed here, its own vectors replayed.

    Raises:
        BundleError: it was not, or what lies there is not what was compiled then or not bit-identical.
    """
    folder = folder_of(bundle.path)
    if folder is None:
        raise BundleError(
            f"the C policy of {bundle.path} is not compiled",
            hint="install the bundle on a target; in a program: sim2sky.deployment.native_build.native_backend",
        )
    backend = NativeBackend(read_library(folder, read_record(folder, bundle.digest)), bundle.contract)
    differing, first = backend.self_test()
    if differing:
        raise BundleError(f"the compiled C policy is not bit-identical: {differing} vectors, the first is {first}")
    return backend


def _load(library: bytes) -> ctypes.PyDLL:
    """Load exactly these bytes: from memory, so that no file can be exchanged between a check and this.

    PyDLL keeps the interpreter lock, which a call of a microsecond would only lose time to give back.
    """
    handle = -1
    try:
        handle = os.memfd_create("sim2sky-policy")
        with open(handle, "wb", closefd=False) as file:
            file.write(library)
        # The handle stays open as long as the library is loaded, that is for good: the loader takes a name that it has
        # seen for the library that it has, and a closed handle's number comes again.
        return ctypes.PyDLL(f"/proc/self/fd/{handle}")
    except (OSError, AttributeError) as error:  # AttributeError: a system without memfd
        if handle >= 0:
            os.close(handle)
        raise BundleError(f"the compiled policy cannot be loaded here: {error}") from error
