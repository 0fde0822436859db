"""`firmware/core/pil.c` on this machine, under gcc's sanitizers and with clang: whatever bytes come, it answers each
whole frame once."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest
from tests.deploy_support import flying_bundle

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.firmware_config import write_firmware_sources
from sim2sky.deployment.toolchain import compile_c, find_compiler
from sim2sky.runtime.teensy import FrameReader, encode_frame

STREAM = Path(__file__).resolve().parents[1] / "firmware" / "pil_stream.c"
OPTIONS = {"gcc": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-Werror"], "clang": ["-Werror"]}
QUESTIONS = b"ITRFKDAPS"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return flying_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def sources(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_firmware_sources(bundle, tmp_path_factory.mktemp("project") / "project", "mps2_an500")


@pytest.fixture(scope="module", params=["gcc", "clang"])
def program(request: pytest.FixtureRequest, sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(
        find_compiler("host", request.param),
        [STREAM, *sources],
        tmp_path_factory.mktemp("program") / "pil",
        product="program",
        include=[sources[0].parent],
        optimise="-O1",
        options=OPTIONS[request.param],
    )


def answers(program: Path, data: bytes, piece: int = 512) -> list[bytes]:
    done = subprocess.run([str(program), str(piece)], input=data, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    reader = FrameReader()
    payloads = reader.feed(done.stdout)
    assert reader.damaged == reader.pending == 0
    return payloads


def question(rng: random.Random, kind: int, observations: int) -> bytes:
    """A well-formed question; its numbers are any bits."""
    size = {ord("P"): 8 + 4 * observations, ord("S"): 192}.get(kind, 0)
    if kind == ord("S") and rng.random() < 0.5:
        return struct.pack("<cqq22d", b"S", 10, 10, *(rng.gauss(0.0, 10.0) for _ in range(22)))
    return bytes((kind,)) + rng.randbytes(size)


def test_each_question_has_one_answer_of_its_kind_however_the_stream_is_cut(program: Path, bundle: Bundle) -> None:
    rng = random.Random(1)
    n = len(bundle.contract.observation_names)
    asked = [question(rng, rng.choice(QUESTIONS), n) for _ in range(400)]
    stream = b"".join(map(encode_frame, asked))
    whole = answers(program, stream)
    assert [a[:1] for a in whole] == [q[:1].lower() for q in asked]
    for piece in (1, 7, 300):
        assert answers(program, stream, piece) == whole


def test_garbage_is_survived_and_reported_and_what_is_whole_is_answered(program: Path, bundle: Bundle) -> None:
    rng = random.Random(2)
    n = len(bundle.contract.observation_names)
    stream, whole = b"", 0
    for _ in range(400):
        frame = bytearray(encode_frame(question(rng, rng.choice(QUESTIONS), n)))
        what = rng.choice(["whole", "cut", "flipped", "noise", "unknown", "length"])
        if what == "cut":
            del frame[rng.randrange(1, len(frame)) :]
        elif what == "flipped":
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
        elif what == "noise":
            frame = bytearray(rng.randbytes(rng.randrange(300)))
        elif what == "unknown":
            frame = bytearray(encode_frame(bytes((rng.choice(b"ZXas\x00\xff"),)) + rng.randbytes(rng.randrange(250))))
        elif what == "length":
            frame = bytearray(encode_frame(bytes((rng.choice(b"PS"),)) + rng.randbytes(rng.randrange(60))))
        else:
            whole += 1
        stream += bytes(frame)
    got = answers(program, stream + bytes(300) + encode_frame(b"I"))
    errors = {a[1] for a in got if a[:1] == b"e"}
    assert errors == {1, 2, 3}
    assert sum(a[:1] != b"e" for a in got) > whole // 2  # a broken frame may take its neighbour with it
    assert got[-1][:1] == b"i" and int.from_bytes(got[-1][-4:], "little") > 50  # damaged frames, as it says itself


def test_after_the_end_nothing_is_answered(program: Path) -> None:
    assert answers(program, encode_frame(b"Q") + encode_frame(b"I")) == [b"q"]


def test_the_board_s_sources_have_no_warning(sources: list[Path], tmp_path: Path) -> None:
    project = sources[0].parents[1]
    compiler = find_compiler("cortex-m7")
    for source in [*sorted(project.glob("*.c")), sources[0].with_name("pil.c")]:
        compile_c(
            compiler,
            [source],
            tmp_path / "o.o",
            product="object",
            include=[project, sources[0].parent],
            optimise="-O2",
            options=["-Werror"],
        )
