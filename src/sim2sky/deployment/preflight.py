"""Looks at a target before anything is written there: can it fly this release, and with which Python?

Runs on the target as one file read from standard input (Python >= 3.6, standard library), so it stands alone. Prints
one JSON object: `python` (the interpreter to fly with, or null), `problems` (each with its remedy) and `notes`.
"""

import argparse
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

__all__ = ["ONNXRUNTIME", "PROFILES", "examine", "judge", "main"]

MIN_PYTHON = (3, 10)
MIN_FREE_BYTES = 64 << 20
MAX_CLOCK_ERROR_S = 3600
PROFILES = {"jetson_nano": ("aarch64",), "raspberry_pi": ("aarch64",)}
"""Machine types of the profiles that are bound to one; others run anywhere."""
ONNXRUNTIME = (
    (1, 10, 8, 15),
    (1, 12, 8, 17),
    (1, 14, 8, 18),
    (1, 16, 9, 19),
    (1, 18, 10, 21),
    (1, 23, 11, 23),
    (1, 31, 13, 24),
)
"""From onnxruntime version (major, minor) on: highest IR version, highest opset. Tried with the wheels."""
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}

PROBE = """
import json, platform, struct, sys
site = sys.argv[1]
if site: sys.path.insert(0, site)
found = {"python": sys.executable, "version": list(sys.version_info[:3]), "bits": 8 * struct.calcsize("P"),
         "machine": platform.machine(), "packages": {}}
for name in sys.argv[2:]:
    try:
        module = __import__(name)
        found["packages"][name] = str(getattr(module, "__version__", "?"))
    except Exception as error:
        found["packages"][name] = None
        found.setdefault("errors", {})[name] = "%s: %s" % (type(error).__name__, str(error)[:200])
print(json.dumps(found))
"""


def _candidates(root: str) -> "List[str]":
    """Interpreters worth a look: the folder's own virtual environment, this one, then what PATH offers."""
    names = ["python3"] + [f"python3.{minor}" for minor in range(20, MIN_PYTHON[1] - 1, -1)]
    paths = [os.path.join(root, "venv", "bin", "python"), sys.executable] + [shutil.which(name) or "" for name in names]
    if os.path.isdir(os.path.join(root, "site")):
        paths = [sys.executable]  # the folder brings its own packages
    return [p for i, p in enumerate(paths) if p and os.path.exists(p) and p not in paths[:i]]


def examine(python: str, site: str, packages: "List[str]", timeout_s: float = 60.0) -> "Dict[str, Any]":
    """What an interpreter is and which packages it can really import; `error` where it does not run."""
    command = [python] + (["-I", "-S"] if site else []) + ["-B", "-c", PROBE, site] + packages
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
        return dict(json.loads(done.stdout.decode("utf-8").splitlines()[-1]))
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return {"python": python, "error": f"{type(error).__name__}: {error}"}


def _supported(version: str) -> "Tuple[int, int]":
    """Highest (IR version, opset) of an onnxruntime."""
    try:
        major, minor = [int(part) for part in version.split(".")[:2]]
    except ValueError:
        return 0, 0
    best = (0, 0)
    for from_major, from_minor, ir_version, opset in ONNXRUNTIME:
        if (major, minor) >= (from_major, from_minor):
            best = (ir_version, opset)
    return best


def judge(found: "Dict[str, Any]", needs: "Dict[str, Any]") -> "List[Dict[str, str]]":
    """What keeps an interpreter from flying a release: problems with their remedies.

    Args:
        found: of `examine`.
        needs: `packages`, and `opset`, `ir_version` of the policy (0 where it is no ONNX file).
    """
    python = found["python"]

    def problem(what: str, remedy: str) -> "Dict[str, str]":
        return {"problem": what, "remedy": remedy}

    if "error" in found:
        return [problem("{} does not run: {}".format(python, found["error"]), "repair or remove it")]
    problems = []
    if found["bits"] != 64:
        problems.append(
            problem(
                "{} is a {}-bit Python; onnxruntime exists for 64 bit only".format(python, found["bits"]),
                "install the 64-bit system (Raspberry Pi OS Lite 64-bit) on the target",
            )
        )
    version = ".".join(str(part) for part in found["version"])
    if tuple(found["version"][:2]) < MIN_PYTHON:
        return [
            *problems,
            problem(
                "{} is Python {}; the flight runtime needs {}.{} or newer".format(python, version, *MIN_PYTHON),
                "install a newer one and make FOLDER/venv of it: python3.11 -m venv FOLDER/venv",
            ),
        ]
    for name in needs["packages"]:
        if found["packages"].get(name) is None:
            reason = found.get("errors", {}).get(name, "")
            missing = reason.startswith("ModuleNotFoundError")
            problems.append(
                problem(
                    "{} (Python {}) {} {}".format(
                        python,
                        version,
                        "lacks" if missing else "cannot load",
                        name if missing else name + ": " + reason,
                    ),
                    f"{python} -m pip install {name}",
                )
            )
    runtime = found["packages"].get("onnxruntime")
    if runtime and needs.get("opset"):
        ir_version, opset = _supported(runtime)
        if needs["ir_version"] > ir_version or needs["opset"] > opset:
            problems.append(
                problem(
                    "onnxruntime {} reads IR version {} and opset {} at most; the policy has {} and {}".format(
                        runtime, ir_version, opset, needs["ir_version"], needs["opset"]
                    ),
                    f"{python} -m pip install --upgrade onnxruntime, or export for an older one: profile jetson_nano",
                )
            )
    return problems


def _around(root: str, needs: "Dict[str, Any]") -> "List[Dict[str, str]]":
    """Problems of the machine itself: architecture, clock, folder, space."""
    problems = []
    machine = MACHINES.get(platform.machine().lower(), platform.machine().lower())
    expected = PROFILES.get(needs["profile"], ())
    if expected and machine not in expected and not needs["stands_in"]:
        problems.append(
            {
                "problem": "the release is for {} ({}), this machine is {}".format(
                    needs["profile"], ", ".join(expected), machine
                ),
                "remedy": "set target.platform to generic_linux in the deployment YAML and deploy again",
            }
        )
    error = time.time() - needs["now_s"]
    if abs(error) > MAX_CLOCK_ERROR_S:
        problems.append(
            {
                "problem": "the target's clock is {:.1f} hours {}, so expiry cannot be judged".format(
                    abs(error) / 3600, "ahead" if error > 0 else "behind"
                ),
                "remedy": "set it: sudo timedatectl set-ntp true, or sudo date -s @{:.0f}".format(needs["now_s"]),
            }
        )
    folder = root
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        if os.path.lexists(folder):
            return [*problems, {"problem": f"{folder} is not a folder", "remedy": "name another folder"}]
        folder = os.path.dirname(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        problems.append(
            {
                "problem": "{} is not writable for {}".format(folder, needs.get("user") or "this user"),
                "remedy": f"choose a folder in your home, or: sudo chown $USER {folder}",
            }
        )
    free = shutil.disk_usage(folder).free
    needed = 2 * needs["bytes"] + MIN_FREE_BYTES
    if free < needed:
        problems.append(
            {
                "problem": f"{folder} has {free >> 20} MB free, {needed >> 20} MB are needed",
                "remedy": "free some space; sim2sky target gc TARGET removes what is left of broken uploads",
            }
        )
    return problems


def main(argv: "List[str]") -> int:
    """Examine this machine; prints the report. Always 0: the verdict is in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--needs", required=True, help="JSON")
    options = parser.parse_args(argv)
    needs = json.loads(options.needs)
    site = os.path.join(options.root, "site")
    site = site if os.path.isdir(site) else ""
    problems = _around(options.root, needs)
    chosen: "Optional[Dict[str, Any]]" = None
    tried: "List[Tuple[int, List[Dict[str, str]]]]" = []
    for python in _candidates(options.root):
        found = examine(python, site, [*needs["packages"], *needs["optional"]])
        wrong = judge(found, needs)
        if not wrong:
            chosen = found
            break
        tried.append((len(wrong) + 10 * ("error" in found or tuple(found["version"][:2]) < MIN_PYTHON), wrong))
    notes = []
    if chosen is None:
        # What is wrong with the one that comes nearest; the others would only confuse.
        problems += min(tried, key=lambda t: t[0])[1] if tried else []
    else:
        notes = [f"{n} is not installed there" for n in needs["optional"] if chosen["packages"][n] is None]
    report = {"python": chosen["python"] if chosen else None, "problems": problems, "notes": notes}
    report.update(found=chosen, machine=platform.machine(), bits=8 * struct.calcsize("P"))
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
