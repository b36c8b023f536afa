import base64
import hashlib
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from emotrace.errors import ArtifactError, RunError
from emotrace.report import write_report
from emotrace.report.loading import REPORT_FOLDER, inputs_hash
from emotrace.report.page import inline_svg
from emotrace.report.sections import SECTIONS
from tests.report.conftest import EMOTIONS, HOSTILE, make_run_folder

VOID = {"meta", "link", "br", "img", "hr", "input"}
FIGURES = {
    "comparison",
    "confusion",
    "confusions",
    "frontier",
    "ablate",
    "enhance",
    *(f"{stage}_{kind}_by_emotion" for stage in ("ablate", "enhance") for kind in ("heads", "neurons")),
    *("clusters", "clusters_tsne", "clusters_all", "clusters_tsne_all"),
    *("direction_depth", "depth_similarity", "depth_similarity_by_emotion", "affect"),
    "separation",
    "cosines",
    "long_tail",
    "influence",
    "circuit",
    "overlap",
    *("faithfulness_all", "faithfulness_last", "specificity_driven", "specificity_removed", "stability"),
    *(f"explore_{index}_{emotion}" for index, emotion in enumerate(EMOTIONS)),
}


class Page(HTMLParser):
    """Checks nesting while it collects ids, attributes, text and tags."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


@pytest.fixture(scope="module")
def run_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report and figures, not to be changed."""
    folder = make_run_folder(tmp_path_factory.mktemp("runs") / "demo")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_done: Path) -> Page:
    return Page((run_done / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, for tests of the text around them."""

    def save(figure, folder: Path, name: str) -> tuple[Path, Path]:
        folder.mkdir(exist_ok=True)
        svg = folder / f"{name}.svg"
        svg.write_text("<svg></svg>")
        return svg, svg

    monkeypatch.setattr("emotrace.report.page.save_figure", save)
    monkeypatch.setattr("emotrace.report.figures.clusters", lambda *_, **__: Figure())


def change(folder: Path, stage: str | None, edit) -> None:
    """Edit a stage's summary, or all of it."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    edit(summary if stage is None else summary[stage])
    path.write_text(json.dumps(summary))


def test_page_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for tag, name, value in page.attributes if name == "href" and tag == "a"}
    assert targets
    assert targets <= set(page.ids)
    uses = {value[1:] for tag, name, value in page.attributes if name == "href" and tag == "use"}
    assert uses
    assert uses <= set(page.ids)
    assert {spec.slug for spec in SECTIONS} <= set(page.ids)


def test_page_needs_no_network(page):
    assert not {"link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset"):
            assert value.startswith(("#", "data:image/png;base64,"))
        assert "http://" not in (value or "")
        assert "https://" not in (value or "")


def scripts(html: str) -> list[tuple[str, str]]:
    """What stands in each script tag's head, and its text."""
    return re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL | re.IGNORECASE)


def policy(page: Page) -> str:
    return next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)


def test_only_the_script_that_the_policy_names_can_run(run_done, page):
    (data_head, data), (head, script) = scripts((run_done / "report.html").read_text(encoding="utf-8"))
    assert data_head == ' type="application/json" id="explorer-data"'
    assert json.loads(data)
    assert head == ""
    assert script == (REPORT_FOLDER / "templates" / "explorer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy(page) == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [value for _, _, value in page.attributes if (value or "").strip().lower().startswith("javascript:")]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_a_page_without_an_explorer_runs_no_script_at_all(undrawn, run_folder):
    change(run_folder, None, lambda summary: summary.pop("explore"))
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert scripts(html) == []
    assert policy(Page(html)) == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_generated_text_is_escaped(run_done, page):
    html = (run_done / "report.html").read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script") == 2  # neither of them the hostile reply's
    assert "<script>alert('x')</script> & \"quoted\"" in page.text
    assert "&lt;script&gt;" in html
    data = scripts(html)[0][1]
    assert not set("<>&\u2028\u2029") & set(data)
    assert "\\u003cscript\\u003e" in data
    assert HOSTILE in {"".join(pair["after"]["text"]) for pair in json.loads(data)["pairs"]}


def test_every_figure_is_on_the_page_and_on_disk_with_an_alternative(run_done, page):
    assert {path.stem for path in (run_done / "figures").glob("*.svg")} == FIGURES
    assert {path.stem for path in (run_done / "figures").glob("*.png")} == FIGURES
    assert page.tags.count("svg") == page.tags.count("figure") == page.tags.count("figcaption") == len(FIGURES)
    alts = [value for tag, name, value in page.attributes if name == "aria-label" and tag == "div"]
    assert all(len(alt) > 10 for alt in alts)
    assert sum(name == "role" and value == "img" for _, name, value in page.attributes) == len(FIGURES)


def test_headings_fall_by_one_level_and_table_heads_say_what_they_head(page):
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    scopes = [value for tag, name, value in page.attributes if tag == "th" and name == "scope"]
    assert len(scopes) == page.tags.count("th")
    assert set(scopes) == {"row", "col"}
    assert page.tags.count("caption") == page.tags.count("table")
    assert ("html", "lang", "en") in page.attributes


def test_every_control_has_a_label_in_a_named_group(run_done, page):
    html = (run_done / "report.html").read_text(encoding="utf-8")
    assert (
        len(re.findall(r'<label><input type="radio"[^>]*> [^<]+</label>', html))
        == page.tags.count("input")
        == 6 + 2 + 3
    )
    assert re.findall(r"<fieldset>\s*<legend>(\w+)</legend>", html) == ["Emotion", "Budget", "Strength"]
    assert page.attributes.count(("input", "checked", None)) == 3


def test_figures_take_the_pages_ink_in_both_themes(run_done):
    html = (run_done / "report.html").read_text(encoding="utf-8")
    assert "#1b2431" not in html.split("</style>", 1)[1]
    assert "currentColor" in html
    assert "prefers-color-scheme: dark" in html


def test_first_screen_states_the_summarys_numbers(run_done, page):
    summary = json.loads((run_done / "summary.json").read_text())
    arms = summary["control"]["arms"]
    circuit = arms["circuit"]
    low, high = circuit["accuracy_ci"]
    assert (
        f"Circuit modulation makes {100 * circuit['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of 360 "
        "held-out replies express the requested emotion with 3 heads (4.7 %) and 120 neurons (2.9 %) per emotion; "
        f"matched random circuits of the same size: {100 * arms['random_matched']['accuracy']:.1f} %"
    ) in page.text
    assert "+87.4 points [84.0, 90.0] ahead of random components" in page.text
    assert "Zeroing the top 16 heads takes the emotion reading from 3.7 to 0.1, zeroing 16 random" in page.text
    assert "All 11 targets met" in page.text


def test_comparison_table_holds_every_arm(run_done, page):
    arms = json.loads((run_done / "summary.json").read_text())["control"]["arms"]
    for name, arm in arms.items():
        low, high = arm["accuracy_ci"]
        row = f"{name.replace('_', ' ')} {100 * arm['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        assert row in page.text


def test_targets_that_are_missed_are_said_as_plainly(undrawn, run_folder):
    def fail(control):
        control["arms"]["circuit"]["accuracy"] = 0.61
        control["arms"]["circuit"]["by_emotion"]["fear"]["accuracy"] = 0.2
        control["arms"]["circuit"]["fluency_gap_nats"] = -0.4
        control["paired"]["circuit_minus_random_matched_rescaled"]["ci"] = [0.31, 0.9]

    change(run_folder, "control", fail)
    page = Page(write_report(run_folder).read_text(encoding="utf-8"))
    assert "Circuit modulation makes 61.0 %" in page.text
    assert "4 of 11 targets not met" in page.text
    assert "✗ not met … and at least 97 % in every emotion: lowest: fear, 20.0 %" in page.text
    assert "0.4 nats per token more likely" in page.text


def test_replies_stand_side_by_side_for_all_arms_and_emotions(page):
    assert "Unsteered, whatever is asked for: “Scene 0 leaves me with neutral." in page.text
    labels = [value for tag, name, value in page.attributes if tag == "td" and name == "data-label"]
    for arm in ("prompting", "residual", "circuit", "random matched", "wrong emotion"):
        assert labels.count(arm) == 3 * 6


def test_every_failure_and_every_dropped_group_is_listed(run_done, page):
    control = [json.loads(line) for line in (run_done / "stages/control/replies.jsonl").read_text().splitlines()]
    wrong = [r for r in control if r["arm"] == "circuit" and r["label"] != r["emotion"]]
    assert wrong
    assert f"{len(wrong)} of 360 circuit replies kept by this run" in page.text
    assert all(f"✗ {r['label']} {r['reply']} {r['scenario']}" in page.text for r in wrong)
    elicited = [json.loads(line) for line in (run_done / "stages/elicit/replies.jsonl").read_text().splitlines()]
    refused = [r for r in elicited if not r["accepted"] and r["condition"] != "neutral"]
    assert refused
    assert all(f"{r['group_id']} {r['condition']} ✗ neutral {r['reply']}" in page.text for r in refused)


def test_methods_and_manifest_show_the_parameters_of_the_run(page):
    assert "ks 1, 2, 4, 8, 16 controls 10" in page.text
    assert "torch 2.13.0" in page.text
    assert "max_new_tokens 40" in page.text


@pytest.mark.parametrize(
    "gone", [("elicit", "directions", "components", "ablate"), ("influence", "circuit", "control", "explore")]
)
def test_a_missing_stage_is_named_with_its_command(undrawn, run_folder, gone):
    path = run_folder / "summary.json"
    summary = {stage: value for stage, value in json.loads(path.read_text()).items() if stage not in gone}
    path.write_text(json.dumps(summary))
    page = Page(write_report(run_folder).read_text(encoding="utf-8"))
    for stage in gone:
        assert f"emotrace run {stage} --model bundled --out {run_folder}" in page.text


def test_an_almost_empty_run_still_has_a_page(tmp_path):
    (tmp_path / "summary.json").write_text('{"mine": {"answer": 42, "parts": {"a": [1, 2]}}, "seconds": 1.0}')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "no stage yet that states a finding" in page.text
    assert "Stage mine answer 42 parts a 1, 2" in page.text
    assert "no manifest.json" in page.text


def test_an_unchanged_run_keeps_its_page_and_a_changed_one_gets_another(undrawn, run_folder):
    path = write_report(run_folder)
    first = path.stat().st_mtime_ns
    assert write_report(run_folder).stat().st_mtime_ns == first
    before = inputs_hash(run_folder)
    change(run_folder, "control", lambda control: control["arms"]["circuit"].update(accuracy=0.5))
    assert inputs_hash(run_folder) != before
    assert "50.0" in write_report(run_folder).read_text(encoding="utf-8")


def test_errors_name_the_file_and_the_way_out(undrawn, run_folder, tmp_path):
    with pytest.raises(RunError, match=r"summary\.json: no such file.*emotrace run paper"):
        write_report(tmp_path / "nowhere")
    records = run_folder / "stages" / "control" / "replies.jsonl"
    records.write_text(records.read_text() + "{broken\n")
    with pytest.raises(RunError, match=r"replies\.jsonl:3241: not JSON"):
        write_report(run_folder)
    shutil.rmtree(run_folder / "stages")
    change(run_folder, "control", lambda control: control.pop("confusion"))
    with pytest.raises(RunError, match=r"lacks a value.*confusion"):
        write_report(run_folder)
    (run_folder / "summary.json").write_text("[1]")
    with pytest.raises(RunError, match="holds a list"):
        write_report(run_folder)
    (run_folder / "summary.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        write_report(run_folder)


def test_states_that_cannot_be_read_are_named(undrawn, run_folder):
    (run_folder / "stages" / "directions" / "states.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match=r"states\.safetensors: not a safetensors file"):
        write_report(run_folder)


def test_inline_svg_cuts_what_nobody_sees_and_nothing_else():
    path = '<path transform="scale(0.015625)" d="M 1.23456 -2.5 \nL 3.999999 4"/>'
    svg = f'<svg>\n {path}\n <text x="7.125">0.12345</text>\n</svg>'
    assert str(inline_svg(svg, "fig")) == (
        '<svg aria-hidden="true" focusable="false"><path transform="scale(0.015625)" d="M 1.23 -2.5 \nL 3.99 4"/>'
        '<text x="7.12">0.12345</text></svg>'
    )


def test_inline_svg_keeps_the_drawing_and_drops_the_file():
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" '
        'height="8pt" viewBox="0 0 9 8"><metadata>http://x</metadata><g id="a"><use xlink:href="#a" '
        'clip-path="url(#b)" style="fill: #1b2431; stroke: #d4d9e1; background: #fffffe"/></g></svg>'
    )
    out = str(inline_svg(svg, "fig"))
    assert re.fullmatch(
        r'<svg aria-hidden="true" focusable="false" viewBox="0 0 9 8"><g id="fig-a"><use href="#fig-a" '
        r'clip-path="url\(#fig-b\)" style="fill: currentColor; stroke: var\(--rule\); background: none"/></g></svg>',
        out,
    )
