"""The C tool chain: found or named, strict, whole or not at all, bounded in time."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.c_support import build_program, build_shared

import sim2sky
from sim2sky.deployment import toolchain
from sim2sky.deployment.toolchain import Compiler, compile_c, find_compiler, firmware_folder
from sim2sky.errors import NotSupportedError, ToolchainError

FINE = "int answer(void);\nint answer(void) { return 42; }\n"
MAIN = "int main(void) { return 42; }\n"
MACHINES = [("host", "gcc"), ("host", "clang"), ("aarch64", "gcc"), ("cortex-m7", "gcc")]
PACKAGES = {
    ("host", None): "gcc",
    ("host", "gcc"): "gcc",
    ("host", "clang"): "clang",
    ("aarch64", None): "gcc-aarch64-linux-gnu",
    ("cortex-m7", "gcc"): "gcc-arm-none-eabi",
}


def write(folder: Path, text: str, name: str = "source.c") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def fake(folder: Path, body: str, name: str = "gcc") -> Path:
    """A compiler that says it is gcc, and then does as told."""
    path = folder / name
    path.write_text(
        '#!/bin/sh\n[ "$1" = -dM ] && { for n in __GNUC__ __GNUC_MINOR__ __GNUC_PATCHLEVEL__; do echo "#define $n 9"; '
        "done; exit 0; }\n" + body
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("machine", "kind"), MACHINES)
def test_every_compiler_is_found_and_says_what_it_is(machine: str, kind: str) -> None:
    found = find_compiler(machine, kind)  # type: ignore[arg-type]
    assert (found.machine, found.kind) == (machine, kind)
    assert found.path.is_file() and int(found.version.split(".")[0]) >= 7
    assert str(found) == f"{found.path.name} ({kind} {found.version})"


@pytest.mark.parametrize(("machine", "kind"), PACKAGES)
def test_without_a_compiler_the_package_to_install_is_named(
    machine: str, kind: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolchainError, match="no C compiler for") as caught:
        find_compiler(machine, kind)  # type: ignore[arg-type]
    assert caught.value.hint.split()[:3] == ["apt-get", "install", PACKAGES[machine, kind]]


def test_clang_for_another_machine_is_not_supported() -> None:
    with pytest.raises(NotSupportedError, match="not supported: clang as the compiler for cortex-m7"):
        find_compiler("cortex-m7", "clang")


def test_cc_chooses_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "clang")
    assert find_compiler().kind == "clang"
    assert find_compiler("host", "gcc").kind == "gcc"
    assert find_compiler("aarch64").path.name.startswith("aarch64")
    monkeypatch.setenv("CC", str(fake(tmp_path, "exit 1\n")))
    assert find_compiler() == Compiler(tmp_path / "gcc", "gcc", "9.9.9", "host")
    monkeypatch.delenv("CC")
    assert find_compiler().path == Path(shutil.which("cc") or "")


@pytest.mark.parametrize("name", ["no-such-compiler", "gcc -O2", "/bin/true"])
def test_a_cc_that_is_no_compiler_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", name)
    with pytest.raises(ToolchainError, match="CC names") as caught:
        find_compiler()
    assert "unset CC" in caught.value.hint


def test_what_is_named_gcc_and_is_not_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, "#!/bin/sh\necho tcc version 0.9.27\n", "cc").chmod(0o755)
    fake(tmp_path, "exit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert find_compiler().path == tmp_path / "gcc"


def test_on_an_arm_machine_its_own_compiler_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.delenv("CC", raising=False)
    found = find_compiler("aarch64")
    assert (found.machine, found.path) == ("aarch64", Path(shutil.which("cc") or ""))


@pytest.mark.parametrize("kind", ["gcc", "clang"])
def test_a_library_computes(kind: str, tmp_path: Path) -> None:
    library = build_shared([write(tmp_path, FINE)], tmp_path, compiler=find_compiler("host", kind))  # type: ignore[arg-type]
    assert library.answer() == 42
    again = build_shared([write(tmp_path, FINE.replace("42", "43"))], tmp_path)
    assert (library.answer(), again.answer()) == (42, 43)


def test_a_program_runs_here_and_on_an_emulated_arm(tmp_path: Path) -> None:
    source = write(tmp_path, MAIN)
    here = build_program([source], tmp_path)
    there = build_program([source], tmp_path, compiler=find_compiler("aarch64"))
    assert subprocess.run([here], check=False, timeout=60).returncode == 42
    assert subprocess.run(["qemu-aarch64", there], check=False, timeout=60).returncode == 42


def test_an_object_for_the_cortex_m7_uses_its_fused_multiply_add(tmp_path: Path) -> None:
    text = (
        "float f(float a, float b, float c);\nfloat f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }\n"
    )
    out = compile_c(find_compiler("cortex-m7"), [write(tmp_path, text)], tmp_path / "f.o", product="object")
    command = ["arm-none-eabi-objdump", "-d", out]
    listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "vfma.f32" in listing and "fmaf" not in listing


FUSED = """
#include <stdio.h>
int main(void) {
    volatile float a = 1.0f + 0x1p-13f, b = 1.0f - 0x1p-13f, c = -1.0f;
    float x = a, y = b, z = c;
    float plain = x * y + z, fused = __builtin_fmaf(x, y, z);
    printf("%a %a", (double)plain, (double)fused);
    return 0;
}
"""


@pytest.mark.parametrize("kind", ["gcc", "clang"])
@pytest.mark.parametrize("march", ["native", "x86-64"])
def test_only_a_written_fma_is_fused_and_it_always_is(kind: str, march: str, tmp_path: Path) -> None:
    """(1 + e)(1 - e) - 1 is 0 with two roundings and -e^2 with one, also where fmaf is a function of the library."""
    compiler = find_compiler("host", kind)  # type: ignore[arg-type]
    options = [f"-march={march}"]

    def printed(*more: str) -> str:
        program = build_program([write(tmp_path, FUSED)], tmp_path, compiler=compiler, options=[*options, *more])
        return subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout

    assert printed() == "0x0p+0 -0x1p-26"
    if march == "native" and "fma" in Path("/proc/cpuinfo").read_text().split():  # negative control
        assert printed("-ffp-contract=fast") == "-0x1p-26 -0x1p-26"


BROKEN = {
    "a syntax error": ("int f(void) {\n    return 1\n}\n", ":2:", "expected"),
    "an unknown header": ('#include "no_such.h"\n', ":1:", "no_such.h"),
    "a missing function": ("int g(void);\nint main(void) { return g(); }\n", "", "undefined reference"),
}


@pytest.mark.parametrize("kind", ["gcc", "clang"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_refused_source_gives_the_first_error_and_no_file(kind: str, what: str, tmp_path: Path) -> None:
    text, place, words = BROKEN[what]
    source, out = write(tmp_path, text, "broken.c"), tmp_path / "out"
    with pytest.raises(ToolchainError) as caught:
        compile_c(find_compiler("host", kind), [source], out, product="program")  # type: ignore[arg-type]
    assert f"broken.c{place}" in caught.value.message and words in caught.value.message
    assert "\n" not in caught.value.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.c"]


def test_the_first_error_comes_before_the_second_and_after_the_warnings(tmp_path: Path) -> None:
    text = "int f(double x) {\n    int unused, y = x;\n    return first;\n}\nint g(void) { return second; }\n"
    with pytest.raises(ToolchainError, match=r"source\.c:3:\d+: error: .*first"):
        compile_c(find_compiler("host", "gcc"), [write(tmp_path, text)], tmp_path / "o", product="object")


def test_warnings_stop_a_test_and_not_a_user(tmp_path: Path) -> None:
    source = write(tmp_path, "int f(double x);\nint f(double x) { return x; }\n")
    for kind in ("gcc", "clang"):
        with pytest.raises(ToolchainError, match="conversion"):
            build_shared([source], tmp_path, compiler=find_compiler("host", kind))
    assert compile_c(find_compiler(), [source], tmp_path / "f.so", product="shared").is_file()


def test_a_failed_build_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "program"
    compile_c(find_compiler(), [write(tmp_path, MAIN)], out, product="program")
    before = out.read_bytes()
    with pytest.raises(ToolchainError):
        compile_c(find_compiler(), [write(tmp_path, "nonsense")], out, product="program")
    assert out.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"cannot compile to .*absent.*No such file"):
        compile_c(find_compiler(), [write(tmp_path, MAIN)], tmp_path / "absent" / "x", product="program")


def test_an_object_is_made_of_one_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one source"):
        compile_c(find_compiler(), [], tmp_path / "x.o", product="object")


def test_a_compiler_that_dies_without_a_word_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake(tmp_path, "exit 3\n")))
    with pytest.raises(ToolchainError, match="refuses the source: no reason given"):
        compile_c(find_compiler(), [write(tmp_path, MAIN)], tmp_path / "x", product="program")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_hanging_compiler_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid\nwait\n")))
    with pytest.raises(ToolchainError, match=r"did not finish source\.c within 3 s") as caught:
        compile_c(find_compiler(), [write(tmp_path, MAIN)], tmp_path / "x", product="program", timeout_s=3.0)
    assert "CC" in caught.value.hint
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".x.*"))


def test_messages_are_english_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake(tmp_path, "echo error: locale $LC_ALL\nexit 1\n")))
    with pytest.raises(ToolchainError, match="error: locale C"):
        compile_c(find_compiler(), [write(tmp_path, MAIN)], tmp_path / "x", product="program")


def test_the_firmware_of_a_checkout() -> None:
    assert firmware_folder() == Path(sim2sky.__file__).resolve().parents[2] / "firmware"
    assert (firmware_folder() / "core" / "state.h").is_file()


@pytest.mark.parametrize("present", [True, False])
def test_the_firmware_of_an_installed_package(present: bool, tmp_path: Path) -> None:
    """Laid out as the wheel is: the sources inside the package."""
    package = tmp_path / "site" / "sim2sky"
    (package / "deployment").mkdir(parents=True)
    shutil.copy(toolchain.__file__, package / "deployment" / "toolchain.py")
    shutil.copy(Path(sim2sky.__file__).parent / "errors.py", package / "errors.py")
    if present:
        shutil.copytree(firmware_folder(), package / "firmware")
    code = "from sim2sky.deployment.toolchain import firmware_folder; print(firmware_folder())"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    if present:
        assert done.stdout.strip() == str(package / "firmware"), done.stderr
    else:
        assert "sim2sky's C sources (firmware/) are not there" in done.stderr


def test_the_wheel_carries_the_firmware() -> None:
    import tomllib

    project = tomllib.loads((Path(sim2sky.__file__).resolve().parents[2] / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["firmware"] == "sim2sky/firmware"


def test_it_runs_on_a_targets_old_python() -> None:
    paths = [str(Path(m.__file__)) for m in (toolchain, sys.modules["sim2sky.errors"]) if m.__file__]
    command = [sys.executable, "-c", "from vermin import main; main()", "-t=3.6-", "--no-tips", "--violations", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_pointers_and_floats_pass_through_ctypes(tmp_path: Path) -> None:
    text = "void twice(const float *x, float *y);\nvoid twice(const float *x, float *y) { *y = *x * 2.0f; }\n"
    library = build_shared([write(tmp_path, text)], tmp_path)
    x, y = ctypes.c_float(1.25), ctypes.c_float()
    library.twice(ctypes.byref(x), ctypes.byref(y))
    assert y.value == 2.5
