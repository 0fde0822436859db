"""Whether the generated C policy answers with the same bits everywhere: a table of machines and compilers.

    PYTHONPATH=src:. python benchmarks/bit_identity.py [--rows 10240] [--only NAME] [--json]

Each network is asked `--rows` questions made from integers (near its normaliser's middle, any finite bits, corners) by
one C program, built by gcc and clang at -O0, -O2 and -O3 for x86-64 without FMA, x86-64-v3 and this processor, for
aarch64 (run by qemu-aarch64) and for the Cortex-M7 (run by qemu-system-arm). Every build's answers are hashed and
compared with those of the twin in numpy. Any difference is an error, shown with the block of rows it is in.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from machine import describe_machine
from tests.c_policy_support import contract_of, own_golden
from tests.export_support import ACTIVATIONS, dict_policy, policy

from sim2sky.agent.contract import Contract
from sim2sky.agent.golden import GoldenVectors, make_golden
from sim2sky.agent.layers import Activation, Clip, InputHead, Network, Normalise, OneHot
from sim2sky.agent.sb3 import load
from sim2sky.deployment.c_arithmetic import CPolicy
from sim2sky.deployment.export_c import c_sources
from sim2sky.deployment.firmware_build import build_program
from sim2sky.deployment.toolchain import compile_c, find_compiler
from sim2sky.hil.qemu import run_to_exit

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "c" / "bit_identity.c"
ROWS = 10_240
BLOCK = 1024
EPISODE = 512  # rows after which the program resets the policy
CORNERS = np.array(
    [
        0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x00800001, 0x33800000, 0x3F000000, 0x3F7FFFFF, 0x3F800000,
        0x3F800001, 0x40000000, 0x40A00000, 0x41102CB4, 0x41200000, 0x41B00000, 0x42AEAC50, 0x42B0C0A5, 0x42B17218,
        0x42CFF1B5, 0x4B000000, 0x4B800000, 0x4F000000, 0x5F000000, 0x7E967699, 0x7F7FFFFE, 0x7F7FFFFF,
    ],
    np.uint32,
)  # fmt: skip
CLANG_TARGETS = {
    "aarch64": ("--target=aarch64-linux-gnu", "-march=armv8-a"),
    "cortex-m7": (
        *("--target=thumbv7em-none-eabihf", "-march=armv7e-m", "-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
        *("-isystem", "/usr/include/newlib"),  # where Debian has it
    ),
}
Weights = Literal["float32", "int8"]


@dataclass(frozen=True)
class Subject:
    """A policy to be compared: network, contract, golden vectors, and how its weights are stored."""

    network: Network
    contract: Contract
    golden: GoldenVectors
    weights: Weights = "float32"


def _made(network: Network, weights: Weights = "float32") -> Subject:
    return Subject(network, contract_of(network), own_golden(network, weights=weights), weights)


def _flown(name: str) -> Subject:
    agent = load(HERE.parent / "agents" / name / "model.zip")
    return Subject(agent.network, agent.contract, make_golden(agent, seed=0))


def _bare(activation: str) -> Network:
    layer = Activation(activation, alpha=0.7, low=-0.5, high=2.0)  # type: ignore[arg-type]
    return Network((InputHead("observation", 6),), (layer,))


def _limits() -> Network:
    """Limits of zero, where the sign of an answer that is zero could be anyone's choice."""
    low = np.array([0.0, -1.0, -0.0, -1.0, 0.0, -np.inf], np.float32)
    high = np.array([1.0, 0.0, 1.0, -0.0, 0.0, np.inf], np.float32)
    return Network((InputHead("observation", 6),), (Clip(low, high),))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "12-64-64-4 tanh": lambda: _made(policy()),
    "20-256-256-4 relu": lambda: _made(policy(1, (20, 256, 256), "relu")),
    "12-64-64-4 tanh, int8": lambda: _made(policy(), "int8"),
    "hawk": partial(_flown, "hawk"),
    "kite": partial(_flown, "kite"),
    "LSTM, two layers": lambda: _made(policy(2, (9, 14), "relu", recurrent=2)),
    "LSTM, int8": lambda: _made(policy(3, (9, 14), "tanh", recurrent=1), "int8"),
    "Dict inputs": lambda: _made(dict_policy()),
    **{
        f"end: {end}": lambda end=end: _made(policy(4, (7, 20, 13), "tanh", end))
        for end in ("clip", "squash", "argmax", "multi_discrete", "threshold", "quantile")
    },
    "limits of zero": lambda: _made(_limits()),
    "hardtanh from zero": lambda: _made(Network(_limits().inputs, (Activation("hardtanh", low=0.0, high=1.0),))),
    **{f"bare {name}": lambda name=name: _made(_bare(name)) for name in ACTIVATIONS},
}


def _mix(n: Any) -> Any:
    """SplitMix64's n-th word (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (n + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def ranges(network: Network) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per input scalar: middle and spread, float32, and number of categories, 0 where it is a real number."""
    middle, spread, categories = [], [], []
    for head in network.inputs:
        match head.layers[0] if head.layers else None:
            case Normalise() as first:
                middle += list(first.mean)
                spread += list(np.sqrt(first.var))
                categories += [0] * head.size
            case OneHot() as first:
                middle += [0.0] * head.size
                spread += [0.0] * head.size
                categories += list(first.sizes)
            case _:
                middle += [0.0] * head.size
                spread += [1.0] * head.size
                categories += [0] * head.size
    return np.array(middle, np.float32), np.array(spread, np.float32), np.array(categories, np.uint32)


def questions(network: Network, rows: int) -> np.ndarray:
    """The observations that `bit_identity.c` asks, (rows, n) float32."""
    middle, spread, categories = ranges(network)
    n = len(middle)
    row, column = np.arange(rows, dtype=np.uint64)[:, None], np.arange(n, dtype=np.uint64)
    word = _mix(row * np.uint64(n) + column)
    high = (word >> np.uint64(32)).astype(np.uint32)
    sign = (word << np.uint64(28)).astype(np.uint32) & np.uint32(0x80000000)
    corner = (CORNERS[high % np.uint32(len(CORNERS))] | sign).view(np.float32)
    infinite = (high & np.uint32(0x7F800000)) == 0x7F800000
    anything = np.where(infinite, high & ~np.uint32(0x40000000), high).view(np.float32)
    unit = ((high >> np.uint32(8)).astype(np.int32) - np.int32(0x800000)).astype(np.float32) * np.float32(2.0**-21)
    near = middle + spread * unit
    kind = np.broadcast_to(row % np.uint64(4), word.shape)
    use_corner = (kind == 2) | ((kind == 3) & (word % np.uint64(4) == 0))
    values = np.where(use_corner, corner, np.where(kind == 1, anything, near))
    category = high % np.where(categories > 0, categories, 1).astype(np.uint32)
    return np.where(categories > 0, category.astype(np.float32), values)


def hashes(answers: np.ndarray) -> list[str]:
    """Hash after each block of rows, as the C program prints them."""
    bits = np.where(np.isnan(answers), np.uint32(0x7FC00000), answers.view(np.uint32)).astype(np.uint64)
    number = np.arange(bits.size, dtype=np.uint64).reshape(bits.shape)
    with np.errstate(over="ignore"):
        total = np.cumsum(_mix(number << np.uint64(32) | bits).sum(axis=1, dtype=np.uint64), dtype=np.uint64)
    ends = [*range(BLOCK - 1, len(answers) - 1, BLOCK), len(answers) - 1]
    return [f"{int(total[end]):016x}" for end in ends]


def twin(subject: Subject, rows: int) -> list[str]:
    """What the twin in numpy answers, hashed."""
    start = np.arange(rows) % EPISODE == 0
    return hashes(CPolicy(subject.network, subject.weights).evaluate(questions(subject.network, rows), start))


def write_sources(subject: Subject, folder: Path, rows: int, *, show: bool = False) -> None:
    """`policy.c`, `policy.h` and `questions.h`."""
    sources = c_sources(subject.network, subject.contract, subject.golden, weights=subject.weights)
    (folder / "policy.c").write_text(sources.source)
    (folder / "policy.h").write_text(sources.header)
    middle, spread, categories = ranges(subject.network)
    lines = ["#include <stdint.h>", f"#define IDENTITY_ROWS {rows}u", *["#define IDENTITY_SHOW"] * show]
    for name, kind, values in (
        ("middle", "float", [f"{float(v).hex()}f" for v in middle]),
        ("spread", "float", [f"{float(v).hex()}f" for v in spread]),
        ("categories", "uint32_t", [f"{v}u" for v in categories]),
    ):
        lines.append(f"static const {kind} {name}[] = {{{', '.join(values)}}};")
    (folder / "questions.h").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Build:
    """One way to make the program: for whom, by which compiler, how."""

    machine: Literal["host", "aarch64", "cortex-m7"]
    kind: Literal["gcc", "clang"]
    optimise: str
    march: str = ""
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.march or {"aarch64": "aarch64", "cortex-m7": "Cortex-M7", "host": "host"}[self.machine]
        return " ".join((where, self.kind, self.optimise, *self.options))

    def output(self, folder: Path) -> str:
        """What the program prints."""
        name = str(self).replace(" ", "_").replace("/", "_").replace("=", "_").replace(",", "_")
        crossed = self.machine != "host" and self.kind == "clang"  # clang compiles, the cross gcc links
        linker = find_compiler(self.machine, "gcc" if crossed else self.kind)
        march = [f"-march={self.march}"] if self.march else []
        policy = compile_c(
            find_compiler("host", "clang") if crossed else linker,
            [folder / "policy.c"],
            folder / f"{name}.policy.o",
            product="object",
            optimise=self.optimise,
            include=[folder],
            options=[*(CLANG_TARGETS[self.machine] if crossed else march), *self.options, "-Werror"],
        )
        # The questions are always asked strictly: what is compared are answers to the same questions.
        if self.machine == "cortex-m7":
            elf = build_program(PROGRAM, [policy], folder / f"{name}.elf", include=[folder], optimise=self.optimise)
            return run_to_exit(elf, timeout_s=600.0).stdout
        static = ["-static"] if self.machine == "aarch64" else []
        out = compile_c(
            linker,
            [PROGRAM, policy],
            folder / name,
            product="program",
            include=[folder, HERE / "c" / "host"],
            optimise=self.optimise,
            options=[*static, *march, *(o for o in self.options if o.startswith("-fsanitize")), "-Werror"],
        )
        emulator = ["qemu-aarch64"] if self.machine == "aarch64" and platform.machine() != "aarch64" else []
        done = subprocess.run([*emulator, out], capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0 or done.stderr:
            raise RuntimeError(f"{self}: {done.stderr[-2000:]}")
        return done.stdout


def builds() -> Iterator[Build]:
    """All of them."""
    marches = ("x86-64", "x86-64-v3", "native") if platform.machine() == "x86_64" else ("",)
    for optimise in ("-O0", "-O2", "-O3"):
        for march in marches:
            for kind in ("gcc", "clang"):
                yield Build("host", kind, optimise, march)  # type: ignore[arg-type]
        for kind in ("gcc", "clang"):
            yield Build("aarch64", kind, optimise)  # type: ignore[arg-type]
            yield Build("cortex-m7", kind, optimise)  # type: ignore[arg-type]


def compare(output: str, expected: list[str]) -> str:
    """`` where they agree, else what differs. A shorter `expected` is compared as far as it goes.

    Args:
        output: of the program.
        expected: hashes by block.
    """
    lines = dict.fromkeys(("golden", "refused", "nan"), "")
    got = []
    for line in output.splitlines():
        word, _, value = line.partition(" ")
        if word == "hash":
            got.append(value)
        elif word in lines:
            lines[word] = value
    if len(got) < len(expected) or "" in lines.values():
        return f"the program did not finish: {output[-200:]!r}"
    first = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), None)
    if first is not None:
        return f"differs in rows {first * BLOCK} to {(first + 1) * BLOCK - 1}"
    if int(lines["golden"], 16):
        return f"{int(lines['golden'], 16)} golden vectors differ"
    return f"{int(lines['refused'], 16)} questions refused" if int(lines["refused"], 16) else ""


def not_numbers(output: str) -> int:
    """How many answers were no number (an overflow within the network)."""
    return int(next(line.split()[1] for line in output.splitlines() if line.startswith("nan ")), 16)


def main(argv: list[str] | None = None) -> int:
    """Compare and print; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args(argv)
    every = list(builds())
    result: dict[str, dict[str, str]] = {}
    for name, make in SUBJECTS.items():
        if args.only not in name:
            continue
        subject = make()
        expected = twin(subject, args.rows)
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            write_sources(subject, folder, args.rows)
            result[name] = {str(build): compare(build.output(folder), expected) for build in every}
        if not args.json:
            wrong = {build: what for build, what in result[name].items() if what}
            print(f"{name:24}{expected[-1]:18}{len(every) - len(wrong):3d} of {len(every)} builds equal", flush=True)
            for build, what in wrong.items():
                print(f"    {build}: {what}")
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        tools = sorted({str(find_compiler(b.machine if b.kind == "gcc" else "host", b.kind)) for b in every})
        print(f"\n{args.rows} questions each; {describe_machine('numpy')}; {', '.join(tools)}")
    return int(any(what for by_build in result.values() for what in by_build.values()))


if __name__ == "__main__":
    sys.exit(main())
