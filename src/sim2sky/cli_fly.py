"""Body of `sim2sky fly`: the same flight as `python -m sim2sky.runtime.main fly` on the target."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sim2sky.agent.bundle import open_bundle
from sim2sky.runtime.fly import exit_code, fly
from sim2sky.runtime.fly_options import FlyOptions

__all__ = ["run_fly"]


def run_fly(bundle: Path, options: FlyOptions, *, as_json: bool) -> int:
    """Fly, telling the operator on stderr; the summary on stdout."""
    summary = fly(open_bundle(bundle), options, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
    else:
        share = f", {summary.policy_ticks / summary.ticks:.1%} by the policy" if summary.ticks else ""
        print(f"{summary.vehicle}: engaged {summary.engagements} times, {summary.ticks} ticks{share}")
    return exit_code(options, summary)
