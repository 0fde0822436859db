#!/usr/bin/env bash
# Train the shipped agents anew and put them into agents/: `make train-agents`, or scripts/train_agents.sh NAME...
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
sim2sky=.venv/bin/sim2sky

for name in "${@:-hawk kite}"; do for agent in $name; do
    run=build/agents/$agent
    if [ -f "$run/checkpoint/state.json" ]; then
        "$sim2sky" train "$run" --resume
    else
        rm -rf "$run"
        "$sim2sky" train "$run" --config "configs/training/$agent.yaml"
    fi
    mkdir -p "agents/$agent"
    for file in model.zip vecnormalize.pkl contract.json config.yaml run.json evaluation.json; do
        cp "$run/$file" "agents/$agent/$file"
    done
done; done
