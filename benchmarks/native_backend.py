"""Which binding brings a C policy to Python (ctypes, cffi, a CPython extension), and how fast it is beside onnxruntime.

    PYTHONPATH=src python benchmarks/native_backend.py [--rounds 60] [--calls 50] [--json]

Every binding does what a `Backend` has to do: it takes a numpy observation, checks its shape, and answers with a new
numpy array. All call the same compiled policy, in interleaved rounds whose order rotates, and must give equal bits.
The extension needs Python.h, cffi a package; ctypes needs neither, so it flies where it is fast enough.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cffi
import numpy as np
from machine import describe_machine
from numpy.typing import NDArray
from tests.deploy_support import contract as contract_of
from tests.export_support import golden_of, observations, policy

from sim2sky.deployment.export_c import c_sources
from sim2sky.deployment.native_build import compile_policy
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.toolchain import compile_c, find_compiler
from sim2sky.runtime.inference import OnnxBackend, onnx_session
from sim2sky.runtime.native_policy import NativeBackend

NETWORKS = {"12-64-64-4 tanh": ((12, 64, 64), "tanh", 5.0), "20-256-256-4 relu": ((20, 256, 256), "relu", 2.0)}
"""Sizes, activation, and how many times as fast as tuned onnxruntime the C has to be from Python."""
OURS, ONNX = "ctypes.PyDLL, buffers made once (ours)", "onnxruntime, tuned"

EXTENSION = """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "policy.h"

static sim2sky_policy policy;
static uint64_t time_ns;

static PyObject *step(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    Py_buffer in, out;
    (void)module;
    if (n != 2 || PyObject_GetBuffer(args[0], &in, PyBUF_C_CONTIGUOUS) != 0) return NULL;
    if (PyObject_GetBuffer(args[1], &out, PyBUF_WRITABLE) != 0) { PyBuffer_Release(&in); return NULL; }
    if (in.len == 4 * SIM2SKY_POLICY_N_OBSERVATION && in.itemsize == 4 && out.len == 4 * SIM2SKY_POLICY_N_ACTION) {
        time_ns += 1000000000u;
        (void)sim2sky_policy_control(&policy, time_ns, (const float *)in.buf, (float *)out.buf);
    } else {
        PyErr_SetString(PyExc_ValueError, "sizes");
    }
    PyBuffer_Release(&out);
    PyBuffer_Release(&in);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"step", (PyCFunction)(void (*)(void))step, METH_FASTCALL, NULL}, {0}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "policy_extension", .m_size = -1,
                                        .m_methods = methods};
PyMODINIT_FUNC PyInit_policy_extension(void)
{
    sim2sky_policy_init(&policy);
    return PyModule_Create(&definition);
}
"""

Call = Callable[[NDArray[Any]], NDArray[Any]]


def bindings(sizes: tuple[int, ...], activation: str, folder: Path) -> tuple[dict[str, Call], NDArray[np.float32]]:
    """Per binding a call, and observations."""
    network = policy(3, sizes, activation)
    contract, golden = contract_of(size=sizes[0]), golden_of(network)
    made, compiler = c_sources(network, contract, golden), find_compiler()
    data = compile_policy(made.source, made.header, folder / "policy.so", compiler).read_bytes()
    native = NativeBackend(data, contract)
    assert native.self_test()[0] == 0
    calls: dict[str, Call] = {ONNX: OnnxBackend(onnx_session(model_to_bytes(emit_onnx(network)))), OURS: native}
    n, m = sizes[0], len(contract.output.signals)
    shape = (n,)

    plain = ctypes.CDLL(str(folder / "policy.so"))
    plain.sim2sky_policy_control.argtypes = [
        ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_float),
    ]  # fmt: skip
    plain.sim2sky_policy_control.restype = ctypes.c_uint32
    memory = ctypes.create_string_buffer((ctypes.c_uint32 * 5).in_dll(plain, "sim2sky_native_layout")[3])
    plain.sim2sky_policy_init(memory)
    clock = iter(range(0, 10**18, 10**9))

    def as_everyone_writes_it(observation: NDArray[Any]) -> NDArray[Any]:
        assert observation.shape == shape
        row = np.ascontiguousarray(observation, np.float32)
        action = np.empty(m, np.float32)
        pointer = ctypes.POINTER(ctypes.c_float)
        plain.sim2sky_policy_control(memory, next(clock), row.ctypes.data_as(pointer), action.ctypes.data_as(pointer))
        return action

    calls["ctypes.CDLL, pointers made per call"] = as_everyone_writes_it
    calls["cffi, ABI mode, buffers made once"] = _cffi(folder / "policy.so", n, m)
    (folder / "policy.c").write_text(made.source)
    (folder / "policy.h").write_text(made.header)
    (folder / "extension.c").write_text(EXTENSION)
    built = compile_c(
        compiler, [folder / "policy.c", folder / "extension.c"], folder / "policy_extension.so", product="shared",
        include=[folder], options=["-std=gnu11", "-w", f"-I{sysconfig.get_path('include')}"],
    )  # fmt: skip
    loader = importlib.machinery.ExtensionFileLoader("policy_extension", str(built))
    spec = importlib.util.spec_from_loader("policy_extension", loader)
    assert spec is not None
    step = importlib.util.module_from_spec(spec).step
    action = np.zeros(m, np.float32)

    def extension(observation: NDArray[Any]) -> NDArray[Any]:
        step(observation, action)  # it checks sizes itself
        return action.copy()

    calls["CPython extension, buffer protocol"] = extension
    rows = np.concatenate(list(observations(network, 64).values()), axis=1).astype(np.float32)
    for row in rows:
        answer = native(row)
        for name, call in calls.items():
            if name == ONNX:
                assert np.abs(call(row) - answer).max() < 1e-5
            else:
                assert call(row).tobytes() == answer.tobytes(), name
    return calls, rows


def _cffi(library: Path, n: int, m: int) -> Call:
    interface = cffi.FFI()
    interface.cdef("void sim2sky_native_init(void *n); uint32_t sim2sky_native_step(void *n);")
    interface.cdef("extern const uint32_t sim2sky_native_layout[5];")
    code: Any = interface.dlopen(str(library))
    offset, size = code.sim2sky_native_layout[2], code.sim2sky_native_layout[3]
    memory = interface.new(f"uint64_t[{size // 8 + 1}]")
    whole = np.frombuffer(interface.buffer(memory), np.float32)
    inside, action = whole[:n], whole[offset // 4 : offset // 4 + m]
    code.sim2sky_native_init(memory)
    step, shape = code.sim2sky_native_step, (n,)

    def call(observation: NDArray[Any]) -> NDArray[Any]:
        assert observation.shape == shape
        inside[...] = observation
        step(memory)
        return action.copy()

    return call


def measure(calls: dict[str, Call], rows: NDArray[np.float32], rounds: int, n: int) -> dict[str, NDArray[np.float64]]:
    """Nanoseconds per call, (rounds, n), less what reading the clock takes."""
    times = {name: np.zeros((rounds, n)) for name in calls}
    order, clock = list(calls), time.perf_counter_ns
    reading = min(-clock() + clock() for _ in range(2000))
    observed = list(rows)
    for turn in range(rounds):
        for place in range(len(order)):
            name = order[(turn + place) % len(order)]
            call = calls[name]
            for row in observed[:5]:
                call(row)
            for i in range(n):
                row = observed[i % len(observed)]
                start = clock()
                call(row)
                times[name][turn, i] = clock() - start - reading
    return times


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where our binding misses its factor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args(argv)
    result: dict[str, Any] = {}
    for title, (sizes, activation, wanted) in NETWORKS.items():
        with tempfile.TemporaryDirectory(prefix="sim2sky-native-") as folder:
            calls, rows = bindings(sizes, activation, Path(folder))
            times = measure(calls, rows, options.rounds, options.calls)
        ratio = float(np.median(np.median(times[ONNX], axis=1) / np.median(times[OURS], axis=1)))
        table = {
            name: {"median_us": float(np.median(t)) * 1e-3, "p99_us": float(np.percentile(t, 99)) * 1e-3}
            for name, t in times.items()
        }
        result[title] = {"bindings": table, "times_faster_than_onnxruntime": ratio, "wanted": wanted}
    if options.json:
        print(json.dumps(result))
    else:
        print(describe_machine("numpy", "onnxruntime", "cffi"), find_compiler(), sep=", ")
        for title, found in result.items():
            print(f"\n{title:<42}  median us   p99 us")
            for name, row in found["bindings"].items():
                print(f"  {name:<40} {row['median_us']:10.2f} {row['p99_us']:8.2f}")
            print(
                f"  ours is {found['times_faster_than_onnxruntime']:.1f} times as fast as tuned onnxruntime "
                f"(wanted: {found['wanted']:g}; median of the rounds' ratios)"
            )
    return 0 if all(r["times_faster_than_onnxruntime"] >= r["wanted"] for r in result.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
