"""One HTML file that needs nothing else: templates, styles, scripts and the plotting library inside it.

The page forbids itself every request (content security policy) and runs only the scripts named there by their hash, so
that nothing a log says can reach the network or run. jinja2 and plotly are imported when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

from sim2sky.errors import MissingExtraError

__all__ = ["number", "plotting_library", "render", "signed", "size_of"]

UNKNOWN = "n/a"


def render(template: str, context: Mapping[str, object]) -> str:
    """A page from a template of this package; every value is escaped unless it is markup already.

    Args:
        template: file name below `templates/`.
        context: what the template uses; a name it uses and that is missing is an error.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("jinja2", "analysis") from error
    scripts = {"plotly_js": plotting_library(), "report_js": _file("report.js")}
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, size=size_of, json=json_for_html)
    return environment.get_template(template).render(
        **context,
        **{name: Markup(text) for name, text in scripts.items()},  # noqa: S704 - our own files
        styles=Markup(_file("report.css")),  # noqa: S704 - our own file
        script_hashes=[_csp_hash(text) for text in scripts.values()],
    )


def plotting_library() -> str:
    """Source of plotly.js (4.8 MB; the Python package brings the full bundle only).

    Raises:
        MissingExtraError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("plotly", "analysis") from error
    return str(get_plotlyjs())


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: `digits` significant ones, no exponent where a reader can do without."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and not 1e-4 <= size < 1e7:
        text = f"{value:.{digits - 1}e}"
    else:
        decimals = max(digits - 1 - (math.floor(math.log10(size)) if size else 0), 0)
        text = f"{value:.{decimals}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with a plus where it is positive."""
    return ("+" if value is not None and value > 0 else "") + number(value, digits)


def size_of(count: int) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count} B"
    for unit in ("kB", "MB"):
        count_in_unit = count / (1e3 if unit == "kB" else 1e6)
        if count_in_unit < 1000:
            return f"{count_in_unit:.1f} {unit}"
    return f"{count / 1e9:.2f} GB"


def json_for_html(value: object) -> Any:
    """JSON that may stand inside a script element: no text in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above


def _file(name: str) -> str:
    return resources.files("sim2sky.report").joinpath("templates", name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
