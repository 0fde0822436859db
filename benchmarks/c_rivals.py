"""The C side of `policy_latency.py`: our generated policy and emlearn's, in C loops, from Python, and on the chip."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim2sky.agent.contract import Contract
from sim2sky.agent.golden import GoldenVectors
from sim2sky.agent.layers import Activation, Network, Normalise
from sim2sky.deployment.export_c import c_sources
from sim2sky.deployment.firmware_build import build_program
from sim2sky.deployment.native_build import compile_policy
from sim2sky.deployment.toolchain import compile_c, find_compiler
from sim2sky.hil.qemu import run_to_exit
from sim2sky.runtime.native_policy import NativeBackend

try:
    from emlearn import net as emlearn_net
except ImportError:  # of the extra `bench`
    emlearn_net = None

C = Path(__file__).resolve().parent / "c"
IN_A_ROW = 16
"""Steps per reading of the clock in a C loop: a single one is as short as the reading."""

CHIP_ROWS = 32
Step = Callable[[np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class Loop:
    """A step compiled into a library of its own, timed by `loops.c`."""

    library: ctypes.CDLL
    timer: ctypes.CDLL
    rows: np.ndarray

    def __call__(self, n: int) -> np.ndarray:
        """Nanoseconds per step, n readings of `IN_A_ROW` steps each."""
        ns = np.zeros(n, np.uint64)
        size = ctypes.c_size_t
        self.timer.time_steps(
            self.library.step, _pointer(self.rows), size(len(self.rows)), size(self.rows.shape[1]), _pointer(ns),
            size(n), size(IN_A_ROW),
        )  # fmt: skip
        return ns / IN_A_ROW

    def step(self, n_action: int) -> tuple[Callable[[], Any], np.ndarray]:
        """A call through ctypes on the first row with everything prepared, and where its answer appears."""
        action = np.zeros(n_action, np.float32)
        function, row, out = self.library.step, _pointer(self.rows), _pointer(action)
        return lambda: function(row, out), action


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


class CRivals:
    """Everything in C for one network.

    Args:
        network, contract, golden: of the agent.
        rows: observations to ask in turn, (n, n_observation) float32.
        folder: for what is built.

    Attributes:
        loops: C loops by name: nanoseconds per step for a number of readings.
        calls: from Python by name: a call without arguments on the first row.
        answers: of the first row by name.
        sizes: bytes of constants by name.
    """

    def __init__(
        self, network: Network, contract: Contract, golden: GoldenVectors, rows: np.ndarray, folder: Path
    ) -> None:
        self._compiler, self._folder, self._rows = find_compiler(), folder, rows
        self._network, self._contract, self._golden = network, contract, golden
        self.loops: dict[str, Loop] = {}
        self.calls: dict[str, Callable[[], Any]] = {}
        self.answers: dict[str, np.ndarray] = {}
        self.sizes: dict[str, int] = {}
        self._timer = ctypes.CDLL(str(self._shared("loops", [C / "loops.c"])))
        n_action = len(contract.output.signals)
        for weights, name in (("float32", "ours: C"), ("int8", "ours: C, int8 weights")):
            place, sizes = self._sources(weights)  # type: ignore[arg-type]
            self.sizes[f"{name}, C loop"] = sizes
            self._loop(f"{name}, C loop", [C / "step_policy.c", place / "policy.c"], place, n_action)
        if emlearn_net is not None:
            self._loop("emlearn, C loop", [C / "step_emlearn.c"], self._emlearn(), n_action)
            self.calls["emlearn, ctypes"] = self.loops["emlearn, C loop"].step(n_action)[0]
            self.answers["emlearn, ctypes"] = self.answers["emlearn, C loop"]
        self._floor()
        self._native()

    def _loop(self, name: str, sources: list[Path], place: Path, n_action: int) -> None:
        library = ctypes.CDLL(str(self._shared(re.sub(r"\W+", "_", name), sources, place)))
        loop = Loop(library, self._timer, self._rows)
        call, answer = loop.step(n_action)
        call()
        self.loops[name], self.answers[name] = loop, answer.copy()

    def _shared(self, name: str, sources: list[Path], place: Path | None = None) -> Path:
        include = [place] if place is not None else []
        if emlearn_net is not None:
            include.append(Path(emlearn_net.__file__).parent)
        return compile_c(self._compiler, sources, self._folder / f"{name}.so", product="shared", include=include)

    def _sources(self, weights: Literal["float32", "int8"]) -> tuple[Path, int]:
        place = self._folder / weights
        place.mkdir(exist_ok=True)
        made = c_sources(self._network, self._contract, self._golden, weights=weights)
        (place / "policy.c").write_text(made.source)
        (place / "policy.h").write_text(made.header)
        return place, made.weight_bytes

    def _emlearn(self) -> Path:
        """The layers through emlearn's own generator; it writes weights with six decimals."""
        place = self._folder / "emlearn"
        place.mkdir(exist_ok=True)
        names = [x.name for x in self._network.layers if isinstance(x, Activation)]
        dense = self._network.dense
        activations = [*names, *["identity"] * (len(dense) - len(names))]
        text = emlearn_net.c_generate_net_loadable(
            activations, [d.weight.T for d in dense], [d.bias for d in dense], prefix="net"
        )
        # Its functions are global: here they serve one file.
        text = re.sub(r"\n    (int32_t|float)\n    net_", r"\n    static __attribute__((unused)) \1\n    net_", text)
        (place / "emlearn_net.h").write_text(text)
        (normaliser,) = (x for x in self._network.inputs[0].layers if isinstance(x, Normalise))
        tables = {"mean": normaliser.mean_high, "scale": normaliser.scale}
        lines = [f"#define N_OBSERVATION {self._rows.shape[1]}", f"#define N_ACTION {len(dense[-1].bias)}"]
        lines += [_table(name, values) for name, values in tables.items()]
        (place / "ranges.h").write_text("\n".join(lines) + "\n")
        return place

    def _floor(self) -> None:
        n = sum(d.weight.size + d.bias.size for d in self._network.dense)
        place = self._folder / "floor"
        place.mkdir(exist_ok=True)
        (place / "weights.h").write_text(f"#define N_WEIGHTS {-(-n // 64) * 64}u\n")
        self._loop("floor: weights read once, C loop", [C / "step_floor.c"], place, 1)

    def _native(self) -> None:
        place = self._folder / "float32"
        out = self._folder / "native.so"
        source, header = ((place / name).read_text() for name in ("policy.c", "policy.h"))
        backend = NativeBackend(compile_policy(source, header, out, self._compiler).read_bytes(), self._contract)
        one = self._rows[0]
        self.calls["ours: C, from Python"] = lambda: backend(one)
        self.answers["ours: C, from Python"] = backend(one)

    def chip(self, weights: Literal["float32", "int8"], optimise: str = "-O2") -> dict[str, int]:
        """Instructions of a step on the emulated Cortex-M7 (exact) and bytes of flash of the policy, without its golden
        vectors."""
        place, constants = self._sources(weights)
        rows = self._rows[:CHIP_ROWS]
        (place / "rows.h").write_text(f"#define N_ROWS {len(rows)}u\n{_table('rows', rows)}\n")
        elf = build_program(
            C / "m7_steps.c", [place / "policy.c"], place / "m7.elf", include=[place], optimise=optimise
        )
        done = run_to_exit(elf, icount=True, timeout_s=300.0)
        if done.returncode != 0:
            raise RuntimeError(f"golden vectors differ on the chip: {done.stdout}")
        least, mean, most = map(int, done.stdout.split())
        compiler = find_compiler("cortex-m7")
        unit = compile_c(
            compiler, [place / "policy.c"], place / "policy.o", product="object", include=[place], optimise=optimise
        )
        size = compiler.path.with_name(compiler.path.name.replace("gcc", "size"))
        listing = subprocess.run([size, unit], capture_output=True, text=True, check=True).stdout.splitlines()[1]
        golden = 4 * len(self._golden) * (rows.shape[1] + len(self._contract.output.signals))
        return {
            "instructions": mean,
            "least": least,
            "most": most,
            "flash_bytes": int(listing.split()[0]) - golden,
            "constant_bytes": constants,
        }


def _table(name: str, values: np.ndarray) -> str:
    shape = "".join(f"[{n}]" for n in values.shape)
    text = ", ".join(f"{float(v).hex()}f" for v in np.asarray(values, np.float32).reshape(-1))
    if values.ndim == 2:
        rows = (", ".join(f"{float(v).hex()}f" for v in row) for row in values.astype(np.float32))
        text = ", ".join(f"{{{row}}}" for row in rows)
    return f"static const float {name}{shape} = {{{text}}};"
