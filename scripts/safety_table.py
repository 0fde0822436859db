"""Generates the table of docs/safety.md from the shipped ladder, by asking it about every combination of flags.

    python scripts/safety_table.py [--check]

`decide` is called for all combinations of switching trips and situations. The rows are found by looking at the answers:
which trips can stand for each other, and which of them decide whatever else is set. Before they are printed they are
checked against every combination. Also checked: no further trip ever gives control back to the policy, and shaping
trips decide nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim2sky.runtime.ladder import SHAPING, SWITCHING, Action, Situation, Trip, decide

PAGE = Path(__file__).resolve().parent.parent / "docs" / "safety.md"
BEGIN, END = "<!-- generated: scripts/safety_table.py -->", "<!-- end of generated part -->"
TRIPS = [t for t in Trip if t in SWITCHING]
SITUATIONS = list(Situation)
FLAGS: list[Trip | Situation] = [*TRIPS, *SITUATIONS]

WHAT = {
    Action.POLICY: "the policy's command",
    Action.REPEAT: "the policy's last command, again",
    Action.HOLD: "fallback law: wings level, the heading, airspeed and a safe altitude of the moment it took over",
    Action.TRIM: "trim: there is no state to control with",
    Action.RETURN: "fallback law: home",
    Action.LOITER: "fallback law: circle around home",
    Action.CIRCLE: "fallback law: circle where it is",
    Action.DESCEND: "fallback law: circle around home, down to just above the floor",
    Action.TERMINATE: "throttle closed, surfaces at trim",
    Action.STOP: "throttle zero, surfaces neutral, at once and without slew",
}


def answers() -> NDArray[np.uint8]:
    """The action for every combination: index bit k is `FLAGS[k]`."""
    masks = [0]
    for trip in TRIPS:
        masks += [mask | int(trip) for mask in masks]
    rows = [
        np.array([decide(mask, situation) for mask in masks], np.uint8) for situation in range(1 << len(SITUATIONS))
    ]
    return np.concatenate(rows)


def flag(k: int, count: int) -> NDArray[np.bool_]:
    """Which of the first `count` combinations contain `FLAGS[k]`."""
    return (np.arange(count, dtype=np.uint32) >> np.uint32(k) & np.uint32(1)).astype(bool)


def problems(table: NDArray[np.uint8]) -> list[str]:
    """What is wrong with the ladder as a whole; empty where nothing is."""
    n = len(table)
    found = [] if n == 1 << len(FLAGS) else [f"{n} combinations answered, not {1 << len(FLAGS)}"]
    relieved = table != Action.POLICY
    for k, trip in enumerate(TRIPS):
        without, with_ = _pairs(relieved, k)
        if (without & ~with_).any():
            found.append(f"{trip.name} gives control back to the policy")
        if not with_.all():
            found.append(f"{trip.name} leaves the policy in control")
    shaped = [decide(int(SHAPING) | int(TRIPS[k % len(TRIPS)]) * (k > 0), k % 16) for k in range(len(TRIPS) + 1)]
    bare = [decide(int(TRIPS[k % len(TRIPS)]) * (k > 0), k % 16) for k in range(len(TRIPS) + 1)]
    if shaped != bare:
        found.append("a shaping trip decides something")
    unused = set(Action) - {Action(int(v)) for v in np.unique(table)}
    return found + [f"nothing leads to {action.name}" for action in sorted(unused)]


def _pairs(values: NDArray[np.generic], k: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Values without and with flag k, everything else equal."""
    split = values.reshape(-1, 2, 1 << k)
    return split[:, 0].ravel(), split[:, 1].ravel()


def classes(table: NDArray[np.uint8]) -> list[list[int]]:
    """Trips that can stand for each other: the answer is the same with one, the other, or both."""
    groups: list[list[int]] = []
    for k in range(len(TRIPS)):
        for group in groups:
            a = group[0]
            first = table.reshape(-1, 2, 1 << (k - a - 1), 2, 1 << a)
            one, other, both = first[:, 0, :, 1], first[:, 1, :, 0], first[:, 1, :, 1]
            if (one == other).all() and (one == both).all():
                group.append(k)
                break
        else:
            groups.append([k])
    return groups


Row = tuple[list[str], list[str], Action]
"""Trips of which one is set, situations that hold, and what is done; the first row that applies decides."""


def rows(table: NDArray[np.uint8]) -> list[Row]:
    """The ladder as rows, first match decides.

    Raises:
        AssertionError: no such rows exist, or they do not give every answer of the table.
    """
    groups = classes(table)
    situations = range(1 << len(SITUATIONS))
    index = {g: sum(1 << groups[i][0] for i in range(len(groups)) if g >> i & 1) for g in range(1 << len(groups))}
    answer = {(g, s): int(table[index[g] | s << len(TRIPS)]) for g in index for s in situations}
    found: list[Row] = []
    left = list(range(len(groups)))
    while left:
        for i in left:
            with_ = [
                g for g in index if g >> i & 1 and not any(g >> j & 1 for j in range(len(groups)) if j not in left)
            ]
            by_situation = [{answer[g, s] for g in with_} for s in situations]
            if all(len(actions) == 1 for actions in by_situation):
                names = [str(TRIPS[k].name) for k in groups[i]]
                found += [(names, held, action) for held, action in _split([a.copy().pop() for a in by_situation])]
                left.remove(i)
                break
        else:
            raise AssertionError("no group of trips decides by itself")
    found += [([], held, action) for held, action in _split([answer[0, s] for s in situations])]
    if (replay(found) != table).any():
        raise AssertionError("the rows do not say what the ladder does")
    return found


def _split(by_situation: list[int]) -> list[tuple[list[str], Action]]:
    """Answers of the 16 situations as first-match rows."""
    open_ = list(range(len(by_situation)))
    found: list[tuple[list[str], Action]] = []
    masks = [1 << i for i in range(4)] + [1 << i | 1 << j for i in range(4) for j in range(i)]
    while len({by_situation[s] for s in open_}) > 1:
        for mask in masks:
            chosen = [s for s in open_ if s & mask == mask]
            actions = {by_situation[s] for s in chosen}
            # A row that says what the rows after it would say anyway is none.
            if len(actions) == 1 and by_situation[chosen[0]] != by_situation[chosen[0] & ~mask]:
                found.append(([str(x.name) for x in SITUATIONS if mask & x], Action(actions.pop())))
                open_ = [s for s in open_ if s not in chosen]
                break
        else:
            raise AssertionError("the situations cannot be put in order")
    found.append(([], Action(by_situation[open_[0]])))
    return found


def replay(found: list[Row]) -> NDArray[np.uint8]:
    """What the rows say for every combination."""
    n = 1 << len(FLAGS)
    said = np.zeros(n, np.uint8)
    open_ = np.ones(n, bool)
    names = [str(f.name) for f in FLAGS]
    for trips, held, action in found:
        hit = open_.copy()
        if trips:
            hit &= np.logical_or.reduce([flag(names.index(t), n) for t in trips])
        for situation in held:
            hit &= flag(names.index(situation), n)
        said[hit] = action
        open_ &= ~hit
    return said


def render() -> str:
    """The generated part of the page.

    Raises:
        AssertionError: the ladder has a hole.
    """
    table = answers()
    if wrong := problems(table):
        raise AssertionError("; ".join(wrong))
    lines = [
        f"{len(table):,} combinations of {len(TRIPS)} trips and {len(SITUATIONS)} situations, one action each.",
        "The first row that applies decides.",
        "",
        "| any of these trips | and | mode | what is commanded | combinations |",
        "|---|---|---|---|---|",
    ]
    open_ = np.ones(len(table), bool)
    names = [str(f.name) for f in FLAGS]
    for trips, held, action in rows(table):
        hit = open_.copy()
        if trips:
            hit &= np.logical_or.reduce([flag(names.index(t), len(table)) for t in trips])
        for situation in held:
            hit &= flag(names.index(situation), len(table))
        open_ &= ~hit
        lines.append(
            f"| {', '.join(trips) or 'none'} | {', '.join(held)} | {action.mode.name} | {WHAT[action]} | "
            f"{int(hit.sum()):,} |"
        )
    return "\n".join(lines)


def page_with(text: str, page: str) -> str:
    """The page with its generated part replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page is out of date")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = page_with(render(), page)
    if options.check:
        return 0 if new == page else 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
