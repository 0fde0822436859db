"""The guard's table: header up to date, layouts as C has them, the ladder equal in all combinations, initialisers."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.c_support import build_program, build_shared
from tests.flight_support import settings

from sim2sky.agent.contract import Contract
from sim2sky.deployment import guard_table
from sim2sky.deployment.guard_table import CONFIG, CTYPES, GuardConfig, guard_config, guard_config_c, guard_header
from sim2sky.deployment.toolchain import find_compiler, firmware_folder
from sim2sky.environments.airframes import airframe
from sim2sky.environments.tasks import make_contract
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.ladder import SHAPING, SWITCHING, Trip, decide
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import SafetyMonitor

ROOT = Path(__file__).resolve().parent.parent.parent
CORE = firmware_folder() / "core"
BATCH = ROOT / "tests" / "firmware" / "guard_batch.c"
SQUARE = ((200.0, -200.0), (200.0, 200.0), (-200.0, 200.0), (-200.0, -200.0))
TRIANGLE = ((400.0, 0.1), (-300.0, 300.0), (-300.0, -1 / 3 * 1e3))
LIMITS = SafetyLimits(
    geofence_polygons=(SQUARE, TRIANGLE), airspeed_min_mps=12.0, fallback_airspeed_mps=20.0, recovery_s=0.0
)


def monitor_of(limits: SafetyLimits, contract: Contract) -> SafetyMonitor:
    return SafetyMonitor.for_contract(
        limits, Autopilot(airframe("ultrastick25e").gains, 1 / contract.rate_hz), contract
    )


def test_the_committed_header_is_up_to_date() -> None:
    assert (CORE / "guard_table.h").read_text(encoding="utf-8") == guard_header()
    script = [sys.executable, str(ROOT / "scripts" / "guard_table.py"), "--check"]
    assert subprocess.run(script, check=False, timeout=120).returncode == 0


def test_the_check_refuses_a_header_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("guard_table_script", ROOT / "scripts" / "guard_table.py")
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    header = tmp_path / "guard_table.h"
    monkeypatch.setattr(script, "HEADER", header)
    monkeypatch.setattr(sys, "argv", ["guard_table.py", "--check"])
    assert script.main() == 1  # there is none
    header.write_text(guard_header().replace("S2S_ABSURD 1000000.0", "S2S_ABSURD 2000000.0"), encoding="utf-8")
    assert script.main() == 1
    monkeypatch.setattr(sys, "argv", ["guard_table.py"])
    assert script.main() == 0 and header.read_text(encoding="utf-8") == guard_header()


def python_answers() -> np.ndarray[Any, Any]:
    masks = [0]
    for trip in (t for t in Trip if t in SWITCHING):
        masks += [mask | int(trip) for mask in masks]
    return np.array([[decide(mask, situation) for mask in sorted(masks)] for situation in range(16)], np.uint8)


def c_answers(library: ctypes.CDLL) -> np.ndarray[Any, Any]:
    n = 1 << int(SWITCHING).bit_count()
    out = np.zeros((16, n), np.uint8)
    for situation in range(16):
        library.guard_answers(out[situation].ctypes.data_as(ctypes.c_void_p), ctypes.c_uint32(situation))
    return out


def test_the_ladder_answers_every_combination_alike(tmp_path: Path) -> None:
    expected = python_answers()
    library = build_shared([BATCH, CORE / "ladder.c"], tmp_path)
    assert expected.shape == (16, 1 << 18)
    np.testing.assert_array_equal(c_answers(library), expected)
    for k in range(16):  # shaping trips decide nothing
        trips = int(SWITCHING) >> k & int(SWITCHING)
        assert library.s2s_decide(ctypes.c_uint32(trips | int(SHAPING)), k) == decide(trips, k)
    # Negative control: one rule differs.
    header = guard_header().replace("S2S_ACTION_CIRCLE}", "S2S_ACTION_RETURN}")
    (tmp_path / "guard_table.h").write_text(header, encoding="utf-8")
    for name in ("ladder.c", "guard.h", "guard_state.h", "laws.h", "real.h", "state.h"):
        (tmp_path / name).write_bytes((CORE / name).read_bytes())
    batch = tmp_path / "guard_batch.c"
    batch.write_bytes(BATCH.read_bytes())
    other = build_shared([batch, tmp_path / "ladder.c"], tmp_path, options=[f"-iquote{tmp_path}"])
    assert (c_answers(other) != expected).any()


def test_ctypes_and_c_agree_on_every_offset(tmp_path: Path) -> None:
    structures = {
        "s2s_guard_config": GuardConfig,
        "s2s_bound": guard_table.Bound,
        "s2s_edge": guard_table.Edge,
        **{kind: type_ for kind, type_ in CTYPES.items() if kind.startswith("s2s_")},
    }
    expected: list[str] = []
    lines: list[str] = []
    for name, structure in structures.items():
        expected.append(f"{name} {ctypes.sizeof(structure)}")
        lines.append(f'    printf("{name} %zu\\n", sizeof({name}));')
        for field, *_ in structure._fields_:
            expected.append(f"{name}.{field} {getattr(structure, field).offset}")
            lines.append(f'    printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
    source = tmp_path / "offsets.c"
    head = '#include <stddef.h>\n#include <stdio.h>\n#include "guard.h"\nint main(void) {\n'
    source.write_text(head + "\n".join(lines) + "\n    return 0;\n}\n", encoding="utf-8")
    program = build_program([source], tmp_path)
    said = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=60).stdout.split("\n")
    assert said[:-1] == expected


def flat(config: GuardConfig) -> list[Any]:
    """Every number of a configuration, pointers followed."""
    found: list[Any] = []
    for field in CONFIG:
        value = getattr(config, field.name)
        if field.kind == "s2s_fence":
            sizes = [value.n_edges[k] for k in range(value.n_polygons)]
            found += [value.radius_m, sizes, [bytes(value.edges[k]).hex() for k in range(sum(sizes))]]
        elif field.kind == "s2s_bounds":
            found.append([(b.value, b.low, b.high) for b in value.bound[: value.n]])
        else:
            found.append(bytes(value).hex() if field.kind.startswith("s2s_") else value)
    return found


@pytest.mark.parametrize("limits", [SafetyLimits(), LIMITS, SafetyLimits(geofence_enabled=False)])
def test_the_initialiser_gives_the_same_bits_as_the_structure(tmp_path: Path, limits: SafetyLimits) -> None:
    contract = make_contract(settings())
    text = guard_config_c(limits, airframe("ultrastick25e").gains, contract)
    source = tmp_path / "config.c"
    source.write_text(
        f'#include "guard.h"\nextern const s2s_guard_config config;\nconst s2s_guard_config config = {text};\n'
    )
    for kind in ("gcc", "clang"):
        library = build_shared([source], tmp_path, compiler=find_compiler("host", kind))
        assert flat(GuardConfig.in_dll(library, "config")) == flat(guard_config(monitor_of(limits, contract)))


def test_bounds_that_a_contract_names_twice_are_merged() -> None:
    contract = make_contract(settings())
    box = contract.inputs[0]
    narrow = replace(box, key="again", signals=tuple(replace(s, high=0.5 * s.high) for s in box.signals))
    twice = replace(contract, inputs=(box, narrow))
    (once, both) = (guard_config(monitor_of(SafetyLimits(), c)).bounds for c in (contract, twice))
    assert once.n == both.n > 0
    for a, b in zip(once.bound[: once.n], both.bound[: both.n], strict=True):
        assert (a.value, a.low, 0.5 * a.high) == (b.value, b.low, b.high)


def test_more_ticks_than_an_integer_holds_are_as_many_as_it_holds() -> None:
    contract = make_contract(settings())
    config = guard_config(
        monitor_of(SafetyLimits(return_after_s=1e12, stale_data_ms=1e300, blind_data_ms=1e305), contract)
    )
    assert config.return_ticks == 2**31 - 1 and config.stale_ns == config.blind_ns == 10**18
