"""The configuration of a bundle in C: what it refuses, what it writes, and that it takes no other bundle's policy."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent_support import LIMITS, bundle_of
from tests.c_support import build_program, build_shared

from sim2sky.agent.bundle import Bundle, open_bundle, write_bundle
from sim2sky.agent.contract import Contract, Output, canonical_json
from sim2sky.config import EnvironmentSettings
from sim2sky.deployment.export_c import c_sources
from sim2sky.deployment.firmware_config import CONFIG, agent_sources, config_source, write_firmware_sources
from sim2sky.deployment.toolchain import compile_c, find_compiler, firmware_folder
from sim2sky.errors import BundleError, ConfigError, ContractError, Sim2SkyError, ToolchainError
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.observation import SIGNALS, history_index

CORE = firmware_folder() / "core"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("bundle") / "b", "tanh")


def altered(
    bundle: Bundle,
    out: Path,
    contract: Callable[[Contract], Contract] = lambda c: c,
    files: dict[str, bytes] | None = None,
    formats: dict[str, str] | None = None,
) -> Bundle:
    """The same bundle with another contract or other files."""
    kept = {n: bundle.read(n) for n in bundle.files if n != "contract.json"}
    return write_bundle(
        out,
        agent=bundle.agent,
        contract=contract(bundle.contract),
        formats={**bundle.formats, **(formats or {})},
        active="onnx",
        files={**kept, **(files or {})},
    )


def project(folder: Path, texts: dict[str, str]) -> list[Path]:
    """The generated texts as files, and the C files of the whole agent."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    names = ("agent", "observation", "guard", "watch", "ladder", "autopilot", "guidance", "escape", "fence", "wind")
    return [*sorted(folder.glob("*.c")), *(CORE / f"{name}.c" for name in (*names, "real"))]


# What is written


class Signal(ctypes.Structure):
    _fields_ = [("signal", ctypes.c_uint8), ("low", ctypes.c_float), ("high", ctypes.c_float)]


class Action(ctypes.Structure):
    _fields_ = [(n, ctypes.c_double) for n in ("low", "high", "command_low", "command_neutral", "command_high")]


class Config(ctypes.Structure):
    """The beginning of `s2s_agent_config`."""

    _fields_ = [("rate_hz", ctypes.c_double), ("observation", ctypes.POINTER(Signal)), ("action", Action * 4)]


@pytest.mark.parametrize(("task", "rate_hz"), [("hsa", 20.0), ("attitude", 30.0), ("rate", 50.0)])
def test_the_compiled_configuration_holds_the_contract_to_the_last_bit(
    task: str, rate_hz: float, tmp_path: Path
) -> None:
    env = EnvironmentSettings.model_validate({"task": {"name": task}, "rate_hz": rate_hz, "physics_hz": 4 * rate_hz})
    made = bundle_of(tmp_path / "b", "relu", env)
    texts = agent_sources(made)
    library = build_shared(project(tmp_path / "c", texts), tmp_path)
    config = Config.in_dll(library, "s2s_config")
    assert config.rate_hz == rate_hz
    signals = made.contract.inputs[0].signals
    for entry, s in zip(config.observation[: len(signals)], signals, strict=True):
        order = list(SIGNALS)
        expected = order.index(s.name) if s.name in SIGNALS else len(order) + history_index(s.name)
        assert (entry.signal, entry.low, entry.high) == (
            expected, ctypes.c_float(s.low).value, ctypes.c_float(s.high).value
        )  # fmt: skip
    for entry, a in zip(config.action, made.contract.output.signals, strict=True):
        assert all(getattr(entry, name) == getattr(a, name) for name, _ in Action._fields_)
    text = texts[CONFIG]
    assert made.digest in text and made.contract.hash in text
    assert not re.search(r"[^\w.]\d+\.\d+(?!x)", re.sub(r"/\*.*?\*/|0x[0-9a-f.p+-]+", "", text, flags=re.DOTALL))
    assert ", ".join(f"0x{b:02x}" for b in bytes.fromhex(made.digest)) in text


def test_unlimited_signals_and_fences_with_many_corners_are_written(bundle: Bundle, tmp_path: Path) -> None:
    def unlimited(contract: Contract) -> Contract:
        box = contract.inputs[0]
        signals = tuple(replace(s, low=-math.inf, high=math.inf) for s in box.signals)
        return replace(contract, inputs=(replace(box, signals=signals),))

    ring = tuple((300.0 * math.sin(a / 10), 300.0 * math.cos(a / 10)) for a in range(62))
    fallback = (bundle.safety() or {})["fallback"]
    safety = {**replace(LIMITS, geofence_polygons=(ring, *LIMITS.geofence_polygons)).to_json(), "fallback": fallback}
    made = altered(bundle, tmp_path / "b", unlimited, {"safety.json": canonical_json(safety)})
    texts = agent_sources(made)
    assert "-INFINITY" in texts[CONFIG]
    build_shared(project(tmp_path / "c", texts), tmp_path)


@pytest.mark.parametrize("machine", ["host", "aarch64", "cortex-m7"])
@pytest.mark.parametrize("kind", ["gcc", "clang"])
def test_it_compiles_without_a_warning_for_every_machine(
    machine: str, kind: str, bundle: Bundle, tmp_path: Path
) -> None:
    if machine != "host" and kind == "clang":
        kind = "gcc"
    compiler = find_compiler(machine, kind)  # type: ignore[arg-type]
    for source in project(tmp_path / "c", agent_sources(bundle)):
        compile_c(
            compiler, [source], tmp_path / "o.o", product="object", include=[CORE, tmp_path / "c"],
            optimise="-O1", options=["-Werror"],
        )  # fmt: skip


def test_the_same_bundle_gives_the_same_text(bundle: Bundle) -> None:
    assert config_source(bundle) == config_source(open_bundle(bundle.path))


# What cannot be flown


def _with_signal(name: str) -> Callable[[Contract], Contract]:
    def change(contract: Contract) -> Contract:
        box = contract.inputs[0]
        signals = (replace(box.signals[0], name=name), *box.signals[1:])
        return replace(contract, inputs=(replace(box, signals=signals),))

    return change


def _flat_action(contract: Contract) -> Contract:
    first = replace(contract.output.signals[0], low=0.5, high=0.5)
    return replace(contract, output=replace(contract.output, signals=(first, *contract.output.signals[1:])))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: replace(c, output=Output("discrete", sizes=(3,))), "continuous actions aileron"),
        (lambda c: replace(c, inputs=(*c.inputs, replace(c.inputs[0], key="more"))), "single box"),
        (lambda c: replace(c, rate_hz=0.0), "no control rate"),
        (_with_signal("flap_rad"), "'flap_rad'"),
        (_with_signal("previous_aileron_4"), "'previous_aileron_4'"),
        (_flat_action, "range of the action 'aileron' is empty"),
        (
            lambda c: replace(c, output=replace(c.output, signals=c.output.signals[::-1])),
            "continuous actions aileron",
        ),
    ],
)
def test_a_contract_the_core_cannot_fly_is_refused_by_name(
    change: Callable[[Contract], Contract], named: str, bundle: Bundle, tmp_path: Path
) -> None:
    made = altered(bundle, tmp_path / "b", change)
    with pytest.raises(Sim2SkyError, match=named) as caught:
        config_source(made)
    assert isinstance(caught.value, ContractError)


def test_a_bundle_without_limits_has_no_configuration(bundle: Bundle, tmp_path: Path) -> None:
    for safety in (b"{}", canonical_json({"roll_max": 60.0})):
        made = altered(bundle, tmp_path / safety.hex()[:9], files={"safety.json": safety})
        with pytest.raises(BundleError, match="fallback law"):
            config_source(made)
    made = altered(bundle, tmp_path / "b", files={"safety.json": canonical_json({"rol_max": 1.0, "fallback": {}})})
    with pytest.raises(ConfigError, match="did you mean 'roll_max'"):
        config_source(made)


# No other bundle's policy


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same contract, other weights."""
    return bundle_of(tmp_path_factory.mktemp("other") / "b", "tanh", seed=1)


def test_a_configuration_does_not_compile_beside_the_header_of_another_policy(
    bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    assert bundle.contract == other.contract
    mixed = {**agent_sources(other), CONFIG: config_source(bundle)}
    with pytest.raises(ToolchainError, match="sim2sky_policy_"):
        build_shared(project(tmp_path / "c", mixed), tmp_path)


def test_a_configuration_does_not_link_with_another_policy(bundle: Bundle, other: Bundle, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    sources = project(mine, agent_sources(bundle))
    project(theirs, agent_sources(other))
    foreign = compile_c(
        find_compiler(), [theirs / "policy.c"], tmp_path / "policy.o", product="object", include=[CORE, theirs]
    )
    main = tmp_path / "main.c"
    main.write_text(
        '#include "agent.h"\nstatic s2s_agent a;\nint main(void) { s2s_agent_init(&a, &s2s_config); return 0; }\n'
    )
    rest = [s for s in sources if s.name != "policy.c"]
    right = [main, *sources]
    wrong = [main, *rest, foreign]
    options = {"product": "program", "include": [CORE, mine]}
    compile_c(find_compiler(), right, tmp_path / "right", **options)  # type: ignore[arg-type]
    with pytest.raises(ToolchainError, match="undefined reference"):
        compile_c(find_compiler(), wrong, tmp_path / "wrong", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "wrong").exists()


def test_a_bundle_that_carries_its_policy_uses_it_and_refuses_one_of_another_contract(
    bundle: Bundle, tmp_path: Path
) -> None:
    made = c_sources(bundle.network(), bundle.contract, bundle.golden())
    texts = {"policy.c": made.source + "/* carried */\n", "policy.h": made.header}
    carried = {name: text.encode() for name, text in texts.items()}
    with_c = altered(bundle, tmp_path / "c", files=carried, formats={"c": "policy.c"})
    assert agent_sources(with_c)["policy.c"].endswith("/* carried */\n")
    slower = altered(bundle, tmp_path / "d", lambda c: replace(c, rate_hz=10.0), carried, {"c": "policy.c"})
    with pytest.raises(BundleError, match="not of its contract"):
        config_source(slower)


# Damage


def test_a_flipped_weight_is_found_by_the_golden_vectors(bundle: Bundle, tmp_path: Path) -> None:
    texts = agent_sources(bundle)
    table = re.search(r"weight\w*\[[^]]*\] = \{\s*(-?0x1\.)([0-9a-f])", texts["policy.c"])
    assert table is not None
    at = table.start(2)
    flipped = f"{int(texts['policy.c'][at], 16) ^ 1:x}"
    damaged = texts["policy.c"][:at] + flipped + texts["policy.c"][at + 1 :]
    answers = []
    for name, source in (("whole", texts["policy.c"]), ("damaged", damaged)):
        sources = project(tmp_path / name, {**texts, "policy.c": source})
        library = build_shared([*sources, firmware_folder() / "ports" / "host" / "agent_calls.c"], tmp_path)
        library.s2s_agent_size.restype = ctypes.c_size_t
        agent = ctypes.create_string_buffer(library.s2s_agent_size())
        library.s2s_agent_init(agent, ctypes.byref(ctypes.c_char.in_dll(library, "s2s_config")))
        answers.append(library.s2s_agent_test(agent, ctypes.byref(ctypes.c_uint32())))
    assert answers[0] == 0 and answers[1] > len(bundle.golden()) // 2, answers


@pytest.mark.parametrize("name", ["policy.c", CONFIG, "policy.h"])
def test_a_truncated_file_does_not_compile(name: str, bundle: Bundle, tmp_path: Path) -> None:
    texts = agent_sources(bundle)
    texts[name] = texts[name][: int(len(texts[name]) * 0.7)]
    with pytest.raises(ToolchainError):
        build_shared(project(tmp_path / "c", texts), tmp_path)


# A project of one's own


def test_a_written_project_compiles_by_itself(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "project"
    sources = write_firmware_sources(bundle, folder)
    assert {"agent.c", "policy.c", CONFIG} <= {s.name for s in sources}
    assert [p.name for p in folder.iterdir()] == ["sim2sky"]
    shutil.move(folder, tmp_path / "elsewhere")
    own = sorted((tmp_path / "elsewhere" / "sim2sky").glob("*.c"))
    for source in own:
        compile_c(find_compiler(), [source], tmp_path / "o.o", product="object", options=["-Werror"], optimise="-O1")


def test_what_is_there_is_not_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    write_firmware_sources(bundle, taken)  # an empty folder is welcome
    (taken / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        write_firmware_sources(bundle, taken)
    assert (taken / "mine.txt").read_text() == "keep"
    (tmp_path / "file").write_text("keep")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot write"):
            write_firmware_sources(bundle, place)
    with pytest.raises(ConfigError, match="no port 'avr'") as caught:
        write_firmware_sources(bundle, tmp_path / "x", "avr")
    assert "teensy41" in caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_the_example_in_the_documentation_flies(bundle: Bundle, tmp_path: Path) -> None:
    """`examples/own_project/main.c`, built as docs/firmware.md says."""
    sources = write_firmware_sources(bundle, tmp_path / "project")
    example = firmware_folder().parent / "examples" / "own_project" / "main.c"
    program = build_program([example, *sources], tmp_path, options=[f"-I{tmp_path / 'project' / 'sim2sky'}"])
    import subprocess

    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("golden vectors: 0 of 64 differ")
    assert len(lines) == 4 and all("throttle" in line for line in lines[1:])


def test_limits_reach_the_chip(bundle: Bundle) -> None:
    fallback = (bundle.safety() or {})["fallback"]
    assert (30.0).hex() in config_source(bundle)
    assert SafetyLimits.from_json({**LIMITS.to_json(), "fallback": fallback}) == LIMITS
