#!/bin/bash
# Complete deployment pipeline: export, optimise, validate, copy, test on the target, hardware in the loop.
# Exit codes: 0 deployed, 1 failed, 2 misuse, 3 inconclusive, 130 interrupted (the same command goes on).

if [ -z "$1" ] || [ -z "$2" ]; then
    echo "Usage: $0 <agent_name> <model_path> [target_host]" >&2
    exit 2
fi

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -x "$root/.venv/bin/python" ]; then
    python="$root/.venv/bin/python"
    export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
else
    python="${PYTHON:-python3}"
fi

# The exit code is the command's own: nothing after this line could swallow it.
exec "$python" -m sim2sky deploy "$@"
