"""The page as text: nothing is loaded, everything is escaped, nothing half-written."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import ConfigError, MissingExtraError
from sim2sky.outputs import require_writable, write_whole
from sim2sky.report import html as html_module
from sim2sky.report.figures import Interval, interval_plot
from sim2sky.report.html import number, plotting_library, signed, size_of
from sim2sky.report.page import Fact, Grid, Page, Picture, Plot, Section, Table, Text, Verdict, to_html

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">&{{7*7}}'"


def page(text: str = "plain") -> Page:
    table = Table(text, [text, text], [[text, text]], (1,), (1,), ("bad",))
    figure = interval_plot(
        "forest", [Interval(text, 1.0, 0.5, 2.0)], x_title=text, alt=text, caption=text, band=(-20.0, 20.0)
    )
    return Page(
        text,
        text,
        Verdict(text, "bad", text, text, text),
        [Fact(text, text, text)],
        [
            Section("one", text, text, [Text(text), Text(f"{text}\n  - {text}", "good"), Plot(figure)]),
            Section(
                "two", text, text, [table, Grid([(text, figure)])]
            ),
            Section("three", text, text, [Picture(b"\x89PNG", text, text)]),
        ],
        [text],
        [text],
    )  # fmt: skip


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, {k: v or "" for k, v in attrs}))

    def handle_data(self, data):
        inside = self.found[-1][0] if self.found else ""
        (self.scripts if inside == "script" else self.text).append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def parsed(text: str) -> Elements:
    elements = Elements()
    elements.feed(text)
    elements.close()
    return elements


@pytest.fixture(scope="module")
def plain() -> str:
    return to_html(page())


def test_the_plotting_library_is_there_exactly_once(plain):
    assert plain.count(plotting_library()) == 1


def test_nothing_is_loaded(plain):
    elements = parsed(plain)
    assert not elements.of("link") and not elements.of("iframe") and not elements.of("object")
    assert all("src" not in script for script in elements.of("script"))
    assert all(image["src"].startswith("data:") for image in elements.of("img"))
    assert all(link["href"].startswith("#") for link in elements.of("a"))
    css = (Path(html_module.__file__).parent / "templates" / "report.css").read_text()
    assert "url(" not in css and "@import" not in css


def test_the_policy_names_exactly_the_scripts_that_are_there(plain):
    policy = next(m["content"] for m in parsed(plain).of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "http" not in policy and "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", plain, re.DOTALL)
    hashes = {"sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert len(hashes) == 2 and set(re.findall(r"'(sha256-[^']+)'", policy)) == hashes


def test_our_own_scripts_hold_nothing_that_ends_them():
    for text in (plotting_library(), html_module._file("report.js")):
        assert "</script" not in text.lower() and "<!--" not in text and "\r" not in text


def test_hostile_text_stays_text(plain):
    """The elements of a page do not depend on what the logs say."""
    elements = parsed(to_html(page(HOSTILE)))
    assert [tag for tag, _ in elements.found] == [tag for tag, _ in parsed(plain).found]
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)
    assert elements.text.count(HOSTILE) >= 8, "and it can be read as it was given"
    assert "49" not in "".join(elements.text), "it is not a template either"


@given(st.text(max_size=40))
def test_no_text_can_end_a_data_script(text):
    encoded = str(html_module.json_for_html({"x": text}))
    assert not set("<>&'") & set(encoded)
    import json

    assert json.loads(encoded) == {"x": text}


def test_a_name_the_template_does_not_get_is_an_error():
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        html_module.render("report.html.j2", {})


def test_headings_tables_and_pictures_can_be_read_aloud(plain):
    elements = parsed(plain)
    assert elements.of("html")[0]["lang"] == "en"
    assert len(elements.of("h1")) == 1 and len(elements.of("main")) == 1
    assert all(image["alt"] for image in elements.of("img"))
    assert all(d["aria-label"] for d in elements.of("div") if d.get("role") == "img")
    assert {th["scope"] for th in elements.of("th")} == {"col", "row"}
    assert len(elements.of("caption")) == len(elements.of("table")) == 1
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert {link["href"][1:] for link in elements.of("a")} <= set(ids)
    assert any(m.get("content") == "width=device-width, initial-scale=1" for m in elements.of("meta"))


@pytest.mark.parametrize(("tone", "sign"), [("good", "✓"), ("bad", "✕"), ("unsure", "?")])
def test_a_verdict_is_a_sign_and_a_word_not_only_a_colour(tone, sign):
    assert Verdict("w", tone, "", "", "").sign == sign


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"), (1.0, "1.00"), (-0.1234, "−0.123"), (123456.0, "123456"), (1e-7, "1.00e-07"), (1e9, "1.00e+09"),
        (math.nan, "n/a"), (None, "n/a"), (math.inf, "∞"), (-math.inf, "−∞"), (-1e-7, "−1.00e-07"),
    ],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_says_what_it_is_within_its_digits(value):
    read = float(number(value).replace("−", "-"))
    assert read == pytest.approx(value, rel=6e-3, abs=5e-7)


def test_signs_and_sizes():
    assert [signed(v) for v in (1.0, -1.0, 0.0, math.nan)] == ["+1.00", "−1.00", "0.00", "n/a"]
    assert [size_of(n) for n in (12, 1_500, 2_340_000, 5_000_000_000)] == ["12 B", "1.5 kB", "2.3 MB", "5.00 GB"]


def test_written_whole(tmp_path):
    require_writable(tmp_path / "r.html")
    assert not list(tmp_path.iterdir()), "asking leaves nothing behind"
    write_whole(tmp_path / "r.html", "ä<b>")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == "ä<b>"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize("where", ["no/r.html", "file/r.html", "folder"])
def test_a_path_that_cannot_be_written_is_named_and_what_was_there_stays(tmp_path, where):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    for attempt in (
        lambda: write_whole(tmp_path / where, "x", "the page"),
        lambda: require_writable(tmp_path / where, "the page"),
    ):
        with pytest.raises(ConfigError, match="cannot write the page") as caught:
            attempt()
        assert caught.value.exit_code == 2 and caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("module", ["jinja2", "plotly.offline"])
def test_a_missing_library_names_the_extra(monkeypatch, module):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=module.split(".")[0]) as caught:
        to_html(page())
    assert "sim2sky[analysis]" in caught.value.hint


@pytest.mark.slow
def test_templates_travel_in_the_wheel(tmp_path):
    """What `pip install` brings is what a report needs."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PIP_NO_INPUT": "1"}
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "-w",
        str(tmp_path),
    ]
    made = subprocess.run([*pip, str(root)], env=env, capture_output=True, text=True, timeout=300, check=False)
    if made.returncode and "hatchling" in made.stderr:
        pytest.skip("the build backend cannot be fetched here")
    assert made.returncode == 0, made.stderr
    wheel = next(tmp_path.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = Path(html_module.__file__).parent / "templates"
    assert {f"sim2sky/report/templates/{p.name}" for p in templates.iterdir()} <= names
