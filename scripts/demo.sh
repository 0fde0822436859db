#!/usr/bin/env bash
# The whole way in one command: a trained agent from its .zip to an installed, tested release, flown hardware-in-the-loop.
# Everything it writes lies under build/demo, which is made anew each time.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

export XDG_CONFIG_HOME=$PWD/build/demo/config  # the key that signs the release, too

rm -rf build/demo
.venv/bin/sim2sky info agents/hawk/model.zip
scripts/deploy_agent.sh hawk agents/hawk/model.zip local:build/demo/target --output build/demo
