#!/usr/bin/env bash
# Flies the example logs anew: ten simulated flights of the shipped hawk and ten of virtual aircraft 18, compressed
# without loss. The same commands anywhere give the same flights, to rounding; the clock's own columns differ.
#
#   scripts/make_example_logs.sh [FOLDER]      default examples/logs
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-examples/logs}")
export OMP_NUM_THREADS=1 PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-.venv/bin/python}

work=$(mktemp -d "${TMPDIR:-/tmp}/example-logs.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m sim2sky export agents/hawk/model.zip -o "$work/hawk" --name hawk
"$python" -m sim2sky simulate "$work/hawk" --log "$work/sim.h5" --episodes 10
"$python" -m sim2sky virtual-aircraft fly "$work/hawk" --seed 18 --flights 10 --log "$work/virtual.h5"

mkdir -p "$out"
"$python" - "$work" "$out" <<'PYTHON'
import sys
from pathlib import Path

import h5py

work, out = map(Path, sys.argv[1:])
for name in ("sim.h5", "virtual.h5"):
    with h5py.File(work / name) as log, h5py.File(work / "small.h5", "w") as small:
        for group in log:
            copy = small.create_group(group)
            copy.attrs.update(log[group].attrs)
            for table, data in log[group].items():
                how = {} if data.dtype.hasobject else {"compression": "gzip", "compression_opts": 9, "shuffle": True}
                made = copy.create_dataset(table, data=data[...], dtype=data.dtype, chunks=data.shape, **how)
                made.attrs.update(data.attrs)
    (work / "small.h5").replace(out / name)
    print(f"{out / name}: {(out / name).stat().st_size / 1e6:.2f} MB")
PYTHON
