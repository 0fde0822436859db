"""The report of a gap analysis: one HTML file; verdict first, evidence below, what it was made of at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim2sky.analysis.attribution import Attribution
from sim2sky.analysis.flight_metrics import flights_of
from sim2sky.analysis.gap_analysis import GapAnalysis, LogSummary
from sim2sky.analysis.identification import Identification
from sim2sky.outputs import write_whole
from sim2sky.report.cause_section import attribution_section
from sim2sky.report.flight_sections import Arm, event_section, history_section, shift_section, spectrum_section
from sim2sky.report.inputs import InputFile, input_section
from sim2sky.report.metric_sections import bar_section, decision_section, facts, interval_section, verdict
from sim2sky.report.page import Page, to_html
from sim2sky.report.parameter_section import parameter_section, with_identified
from sim2sky.report.refused import Refused
from sim2sky.report.replay_section import Replay, replay_section
from sim2sky.telemetry.flight_log import read_flight_log

__all__ = ["gap_page", "write_gap_report"]

BANNERS = {
    "virtual": "VIRTUAL AIRCRAFT: the flights of {name} are of a simulated stand-in with hidden parameters. Nothing in "
    "this report is evidence about a real aircraft.",
    "hil": "HARDWARE IN THE LOOP: the flights of {name} are simulated; only the computer on board was real.",
    "sim": "SIMULATION: the flights of {name}, compared here as the aircraft, are simulated.",
}


def write_gap_report(
    path: Path,
    analysis: GapAnalysis,
    *,
    attribution: Attribution | Refused | None = None,
    identification: Identification | Refused | None = None,
    replay: Sequence[Replay] | Refused | None = None,
    command: str = "",
) -> None:
    """Write the report of an analysis; the logs it names are read again for histories, spectra and hashes.

    Args:
        path: of the HTML file.
        analysis: what was found.
        attribution, identification, replay: causes, parameters, how far replays drift; or why nobody knows. The
            report has no such part where it is None.
        command: that made it, as it was typed.

    Raises:
        FlightLogError: a log cannot be read any more.
        ConfigError: the file cannot be written.
        MissingExtraError: jinja2, plotly or matplotlib is not installed.
    """
    page = gap_page(analysis, attribution=attribution, identification=identification, replay=replay, command=command)
    write_whole(path, to_html(page), "the report")


def gap_page(
    a: GapAnalysis,
    *,
    attribution: Attribution | Refused | None = None,
    identification: Identification | Refused | None = None,
    replay: Sequence[Replay] | Refused | None = None,
    command: str = "",
) -> Page:
    """The report before it is HTML; see `write_gap_report`."""
    (sim, sim_file), (real, real_file) = _read(a.sim, simulated=True), _read(a.real, simulated=False)
    agent = a.real.agent or a.sim.agent or "an agent without a name"
    vehicle = real_file.vehicle or sim_file.vehicle or "vehicle not said"
    sections = [
        interval_section(a),
        bar_section(a),
        history_section(a, sim, real),
        event_section(a),
        attribution_section(attribution),
        parameter_section(identification),
        replay_section(with_identified(replay, identification)),
        spectrum_section(sim, real),
        shift_section(a),
        decision_section(a),
        input_section((sim_file, real_file), command),
    ]
    banners = [text.format(name=a.real.path.name) for source, text in BANNERS.items() if a.real.source == source]
    if a.sim.source == "virtual":
        banners.append(BANNERS["virtual"].format(name=a.sim.path.name))
    conditions = f"{vehicle} · task {a.task.name} · {a.planned_duration_s:g} s per flight"
    return Page(
        f"Sim-to-real gap: {agent}",
        f"{conditions} · {a.real.title} against {a.sim.title}",
        verdict(a),
        facts(a),
        [section for section in sections if section is not None],
        banners,
        ["Made by sim2sky. One file: it loads nothing and sends nothing.", command],
    )


def _read(summary: LogSummary, *, simulated: bool) -> tuple[Arm, InputFile]:
    with read_flight_log(summary.path) as log:
        flights = flights_of(log)
        m = log.metadata
    vehicle = m.config.get("vehicle", "")
    return Arm(simulated, summary.flights, flights), InputFile(
        summary.path,
        summary.source,
        len(flights),
        vehicle if isinstance(vehicle, str) else "",
        summary.agent,
        summary.bundle_digest,
        summary.contract_hash,
    )
