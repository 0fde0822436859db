"""Writes firmware/core/guard_table.h: trips, modes, the ladder and the configuration, from the guard in Python.

python scripts/guard_table.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sim2sky.deployment.guard_table import guard_header

HEADER = Path(__file__).resolve().parent.parent / "firmware" / "core" / "guard_table.h"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it is out of date")
    options = parser.parse_args()
    text = guard_header()
    if options.check:
        return 0 if HEADER.is_file() and HEADER.read_text(encoding="utf-8") == text else 1
    HEADER.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
