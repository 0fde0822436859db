"""The generated policy's bits: the same from every compiler, at every level, on every machine, and in numpy.

The full table is `benchmarks/bit_identity.py`; here are fewer builds of the same program on as many questions.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks import bit_identity as identity
from benchmarks.bit_identity import ROWS, SUBJECTS, Build, compare, hashes, questions, twin, write_sources

from sim2sky.errors import ToolchainError

TANH = "12-64-64-4 tanh"
MAIN_BUILDS = [
    *(Build("host", k, o, m) for k in ("gcc", "clang") for o in ("-O0", "-O3") for m in ("x86-64", "native")),  # type: ignore[arg-type]
    Build("host", "gcc", "-O2", "x86-64-v3"),
    Build("host", "clang", "-O2", "x86-64-v3"),
    Build("aarch64", "gcc", "-O0"),
    Build("aarch64", "gcc", "-O3"),
    Build("cortex-m7", "gcc", "-O2"),
    Build("cortex-m7", "clang", "-O2"),
]
OTHER_BUILDS = [
    Build("host", "gcc", "-O3", "native"),
    Build("host", "clang", "-O1", "x86-64"),
    Build("aarch64", "clang", "-O2"),
    Build("cortex-m7", "gcc", "-O3"),
]
LARGE = "20-256-256-4 relu"
LARGE_ROWS_ON_CHIP = 1024
"""The large network's 10,240 rows take the emulated chip half a minute."""


def sources(name: str, folder: Path, rows: int = ROWS, **more: bool) -> list[str]:
    """Write the C of a subject; returns the twin's hashes of as many rows as it answers quickly."""
    subject = SUBJECTS[name]()
    write_sources(subject, folder, rows, **more)
    return twin(subject, min(rows, 1024 if subject.network.lstm is not None or name == LARGE else rows))


@pytest.mark.slow
def test_ten_thousand_answers_of_the_tanh_policy_are_the_same_everywhere(tmp_path: Path) -> None:
    expected = sources(TANH, tmp_path)
    assert ROWS >= 10_000 and len(expected) == ROWS // identity.BLOCK
    assert {str(b): compare(b.output(tmp_path), expected) for b in MAIN_BUILDS} == {str(b): "" for b in MAIN_BUILDS}


@pytest.mark.parametrize("name", [n for n in SUBJECTS if n not in (TANH, LARGE)])
def test_ten_thousand_answers_of_every_kind_of_network_are_the_same_everywhere(name: str, tmp_path: Path) -> None:
    expected = sources(name, tmp_path)
    outputs = {str(b): b.output(tmp_path) for b in OTHER_BUILDS}
    assert {b: compare(o, expected) for b, o in outputs.items()} == dict.fromkeys(outputs, "")
    assert len(set(outputs.values())) == 1  # also beyond what the twin was asked


@pytest.mark.slow
def test_ten_thousand_answers_of_the_large_policy_are_the_same_everywhere(tmp_path: Path) -> None:
    expected = sources(LARGE, tmp_path)
    host = OTHER_BUILDS[:2]
    outputs = [b.output(tmp_path) for b in host]
    assert [compare(o, expected) for o in outputs] == ["", ""] and outputs[0] == outputs[1]
    write_sources(SUBJECTS[LARGE](), tmp_path, LARGE_ROWS_ON_CHIP)
    assert [compare(b.output(tmp_path), expected[:1]) for b in OTHER_BUILDS[2:]] == ["", ""]


SANITISERS = {
    "gcc": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "clang": ("-fsanitize=undefined", "-fsanitize-trap=undefined"),  # traps: needs no run-time library
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SANITISERS)
@pytest.mark.parametrize("march", ["native", "x86-64"])
def test_no_undefined_behaviour_and_no_stray_access(kind: str, march: str, tmp_path: Path) -> None:
    """Over every kind of network; a finding ends the program and so the comparison."""
    build = Build("host", kind, "-O1", march, SANITISERS[kind])  # type: ignore[arg-type]
    for name in SUBJECTS:
        expected = sources(name, tmp_path, 256)
        assert compare(build.output(tmp_path), expected) == "", name


def test_the_sanitiser_would_see_it(tmp_path: Path) -> None:
    """Negative control: one weight too few."""
    sources(TANH, tmp_path, 16)
    source = tmp_path / "policy.c"
    text = source.read_text()
    assert text.count("dense(weight_") >= 1
    source.write_text(
        re.sub(
            r"(dense\(weight_\d+, bias_\d+, [ab], [ab], \d+, )(\d+)", lambda m: m[1] + str(int(m[2]) + 1), text, count=1
        )
    )
    build = Build("host", "gcc", "-O1", "native", SANITISERS["gcc"])
    with pytest.raises(RuntimeError, match="overflow"):
        build.output(tmp_path)


# -- negative controls of the proof itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gcc", "clang"])
def test_fast_math_is_refused_when_it_is_compiled(kind: str, tmp_path: Path) -> None:
    sources(TANH, tmp_path, 16)
    with pytest.raises(ToolchainError, match="strict IEEE 754"):
        Build("host", kind, "-O3", "native", ("-ffast-math",)).output(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [("-ffast-math", "-U__FAST_MATH__"), ("-fassociative-math", "-fno-signed-zeros",
                         "-fno-trapping-math", "-freciprocal-math")])  # fmt: skip
def test_the_proof_sees_fast_mathematics_that_got_past(options: tuple[str, ...], tmp_path: Path) -> None:
    expected = sources(TANH, tmp_path, 2048)
    differs = compare(Build("host", "gcc", "-O3", "native", options).output(tmp_path), expected)
    assert differs.startswith("differs in rows")


@pytest.mark.parametrize("machine", ["host", "aarch64", "cortex-m7"])
def test_the_proof_sees_a_product_rounded_before_the_sum(machine: str, tmp_path: Path) -> None:
    """a * b + c with two roundings in place of the fused multiply-add."""
    expected = sources(TANH, tmp_path, 1024)
    plain = without_fma(tmp_path)
    build = Build(machine, "gcc", "-O2", "x86-64" if machine == "host" else "")  # type: ignore[arg-type]
    assert compare(build.output(plain), expected) == "differs in rows 0 to 1023"


def test_the_proof_sees_contraction(tmp_path: Path) -> None:
    """With plain a * b + c in the source the bits are the compiler's choice, which is why there is none in it."""
    sources(TANH, tmp_path, 1024)
    plain = without_fma(tmp_path)
    off, fast = (
        Build("host", "gcc", "-O2", "x86-64-v3", (f"-ffp-contract={how}", "-DNO_LANES")).output(plain)
        for how in ("off", "fast")
    )
    assert [line for line in off.splitlines() if line.startswith("hash")] != [
        line for line in fast.splitlines() if line.startswith("hash")
    ]


def test_contraction_finds_nothing_to_contract_in_ours(tmp_path: Path) -> None:
    expected = sources(TANH, tmp_path, 1024)
    for kind in ("gcc", "clang"):
        build = Build("host", kind, "-O3", "native", ("-ffp-contract=fast",))  # type: ignore[arg-type]
        assert compare(build.output(tmp_path), expected) == ""


@pytest.mark.parametrize("what", ["weight", "golden_action"])
def test_the_proof_sees_one_bit_of_one_constant(what: str, tmp_path: Path) -> None:
    expected = sources(TANH, tmp_path, 1024)
    source = tmp_path / "policy.c"
    text = source.read_text()
    table = re.search(rf"static const float {what}\w*\[", text)
    assert table is not None
    digits = re.compile(r"0x1\.([0-9a-f]{6})p").search(text, table.end())
    assert digits is not None
    source.write_text(f"{text[: digits.start(1)]}{int(digits[1], 16) ^ 2:06x}{text[digits.end(1) :]}")
    said = compare(OTHER_BUILDS[0].output(tmp_path), expected)
    assert said == ("differs in rows 0 to 1023" if what == "weight" else "1 golden vectors differ")


def without_fma(folder: Path) -> Path:
    """A copy of the policy whose fused multiply-add is a product and a sum."""
    text = (folder / "policy.c").read_text()
    plain = folder / "plain"
    plain.mkdir()
    text, n = re.subn(r"#define fused\(a, b, c\) __builtin_fmaf.*", "#define fused(a, b, c) ((a) * (b) + (c))", text)
    assert n == 1
    text = re.sub(r"#if defined\(__FMA__\) \|\| .*", "#if 1", text)
    text = text.replace("#if defined(__AVX2__) && defined(__FMA__)", "#if 0").replace(
        "#elif defined(__aarch64__)", "#elif 0"
    )
    (plain / "policy.c").write_text(text)
    for name in ("policy.h", "questions.h"):
        (plain / name).write_text((folder / name).read_text())
    return plain


# -- the questions, the hash and the table ----------------------------------------------------------------------------


def test_the_questions_hold_what_they_promise() -> None:
    rows = questions(SUBJECTS["bare tanh"]().network, ROWS)
    bits = rows.view(np.uint32)
    size = np.abs(rows)
    assert np.isfinite(rows).all()
    for sign in (0, 0x80000000):
        for corner in identity.CORNERS:
            assert (bits == (corner | np.uint32(sign))).any(), hex(corner)
    subnormal = (size > 0) & (size < np.finfo(np.float32).tiny)
    assert subnormal.any(axis=1).sum() > 1000
    assert (size == 0).any(axis=1).sum() > 500 and (np.signbit(rows) & (size == 0)).any()
    assert (size > 1e38).any(axis=1).sum() > 500
    assert ((size > 0.01) & (size < 4)).any(axis=1).sum() > 5000


def test_a_normalisers_questions_lie_around_its_middle() -> None:
    network = SUBJECTS[TANH]().network
    middle, spread, _ = identity.ranges(network)
    near = questions(network, 4000)[::4]
    assert (np.abs((near - middle) / spread).max(axis=0) < 4.01).all()
    assert (np.abs((near - middle) / spread).max(axis=0) > 3.9).all()


def test_categories_are_asked_all_and_only_they() -> None:
    network = SUBJECTS["Dict inputs"]().network
    rows = questions(network, 1000)
    assert [sorted(set(rows[:, c].tolist())) for c in (5, 6, 7)] == [[0, 1, 2, 3], [0, 1], [0, 1, 2]]


def test_the_program_shows_the_answers_that_the_twin_gives(tmp_path: Path) -> None:
    subject = SUBJECTS[TANH]()
    sources(TANH, tmp_path, 64, show=True)
    printed = OTHER_BUILDS[0].output(tmp_path).splitlines()
    got = np.array([[int(word, 16) for word in line.split()] for line in printed[:64]], np.uint32)
    wanted = identity.CPolicy(subject.network).evaluate(questions(subject.network, 64))
    np.testing.assert_array_equal(got, wanted.view(np.uint32))


def test_the_hash_knows_order_sign_and_place_and_takes_every_nan_for_one() -> None:
    answers = np.arange(8, dtype=np.float32).reshape(4, 2)
    (base,) = hashes(answers)
    swapped = answers[[1, 0, 2, 3]]
    negative = answers.copy()
    negative[0, 0] = -0.0
    last = answers.copy()
    last[3, 1] = np.nextafter(np.float32(7), np.float32(8))
    assert len({base, *hashes(swapped), *hashes(negative), *hashes(last)}) == 4
    one, other = (np.array([[bits]], np.uint32).view(np.float32) for bits in (0x7FC00000, 0xFFC00001))
    assert hashes(one) == hashes(other)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("hash 1\nhash 2\ngolden 0\nrefused 0\nnan 0\n", ""),
        ("hash 1\nhash 3\ngolden 0\nrefused 0\nnan 0\n", "differs in rows 1024 to 2047"),
        ("hash 1\nhash 2\ngolden a\nrefused 0\nnan 0\n", "10 golden vectors differ"),
        ("hash 1\nhash 2\ngolden 0\nrefused 3\nnan 0\n", "3 questions refused"),
        ("hash 1\nhash 2\ngolden 0\n", "the program did not finish: 'hash 1\\nhash 2\\ngolden 0\\n'"),
        ("hash 1\n", "the program did not finish: 'hash 1\\n'"),
        ("", "the program did not finish: ''"),
    ],
)
def test_every_way_to_differ_is_said(output: str, said: str) -> None:
    assert compare(output, ["1", "2"]) == said


def test_the_table_says_what_was_built(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = [OTHER_BUILDS[0], OTHER_BUILDS[2]]
    monkeypatch.setattr(identity, "builds", lambda: iter(few))
    assert identity.main(["--rows", "1024", "--only", "bare relu"]) == 0
    assert re.search(r"bare relu\s+[0-9a-f]{16}\s+2 of 2 builds equal", capsys.readouterr().out)
    monkeypatch.setattr(identity, "twin", lambda *_: ["0" * 16])
    assert identity.main(["--rows", "1024", "--only", "bare relu", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result == {"bare relu": {str(b): "differs in rows 0 to 1023" for b in few}}


def test_all_that_the_issue_names_is_among_the_builds() -> None:
    names = {str(b) for b in identity.builds()}
    for kind in ("gcc", "clang"):
        for optimise in ("-O0", "-O2", "-O3"):
            for march in ("x86-64", "x86-64-v3", "native"):
                assert f"{march} {kind} {optimise}" in names
        assert {f"{where} {kind} {o}" for where in ("aarch64", "Cortex-M7") for o in ("-O0", "-O3")} <= names
