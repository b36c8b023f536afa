"""The page in a real browser: the explorer by mouse and keyboard, both themes, desktop and phone, nothing fetched."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from emotrace.report import write_report
from tests.report.conftest import EMOTIONS, HOSTILE, make_run_folder

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")
DESKTOP, PHONE = (1280, 900), (390, 844)
BUDGETS = ("1 head and 30 neurons", "3 heads and 60 neurons")
STRENGTHS = ("0", "1", "4")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run_folder(tmp_path_factory.mktemp("runs") / "demo"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.is_file():
        pytest.fail(f"{CHROMIUM}: no such file; install the Debian package chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Heard:
    """What a page asked for and complained of."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report from disk, offline; the page must have asked for nothing else and complained of nothing."""
    heard, contexts = Heard(), []

    def opened(size: tuple[int, int] = DESKTOP, scheme: Any = "light", script: bool = True) -> Page:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=script,
            offline=True,
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.on("request", lambda request: heard.requests.append(request.url))
        context.on("weberror", lambda error: heard.complaints.append(str(error.error)))
        context.on("dialog", lambda dialog: (heard.complaints.append(dialog.message), dialog.dismiss()))
        page = context.new_page()
        page.on(
            "console",
            lambda said: heard.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert set(heard.requests) == {report.as_uri()}
    assert heard.complaints == []


@pytest.fixture(scope="module")
def data(report: Path) -> dict[str, Any]:
    """The page's own data block."""
    text = report.read_text(encoding="utf-8")
    return json.loads(text.split('id="explorer-data">', 1)[1].split("</script>", 1)[0])


@pytest.fixture(scope="module")
def kept(report: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], dict[str, Any]]]:
    """The stage's summary, and its records by emotion, budget, strength and scenario."""
    summary = json.loads((report.parent / "summary.json").read_text())["explore"]
    lines = (report.parent / "stages/explore/replies.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return summary, {(r["emotion"], r["budget"], r["strength"], r["scenario"]): r for r in records}


def radio(page: Page, group: str, name: str) -> Locator:
    return page.get_by_role("group", name=group).get_by_role("radio", name=name, exact=True)


SEEN = """() => {
  const texts = (row) => [...row.cells].map((cell) => cell.textContent);
  const rows = (id) => [...document.getElementById(id).rows].map(texts);
  const figures = [...document.querySelectorAll("#explorer figure")].filter((figure) => figure.checkVisibility());
  const groups = [...figures[0].querySelectorAll("[data-budget]")];
  return {
    state: document.querySelector("[role=status]").textContent,
    figures: figures.length,
    alt: figures[0].querySelector("[role=img]").ariaLabel,
    caption: figures[0].querySelector("figcaption").textContent,
    bright: [...new Set(groups.filter((g) => getComputedStyle(g).opacity === "1").map((g) => g.dataset.budget))],
    large: groups.filter((g) => getComputedStyle(g).transform === "matrix(2, 0, 0, 2, 0, 0)").map((g) => g.id),
    map: rows("explorer-map"), heads: rows("explorer-heads"), neurons: rows("explorer-neurons"),
    replies: [...document.getElementById("explorer-replies").rows].map((row) => ({
      scenario: row.cells[0].textContent,
      cells: [row.cells[1], row.cells[2]].map((cell) => ({
        text: cell.children[0].textContent,
        marked: [...cell.querySelectorAll("del, ins")].map((mark) => [mark.localName, mark.textContent]),
        verdict: cell.children[1].textContent,
      })),
    })),
  };
}"""


def assert_shows(page: Page, e: int, b: int, s: int, data: dict[str, Any], kept: Any) -> None:
    """Sentence, figure, map, tables and replies are those of the choice, in the page's data and in the run's files."""
    seen = page.evaluate(SEEN)
    summary, records = kept
    emotion, strength = EMOTIONS[e], summary["strengths"][s]
    assert seen["state"] == data["states"][e][b][s]
    accuracy = f"{100 * summary['accuracy'][emotion][b][s]:.1f}\u00a0%"
    assert seen["state"].startswith(f"{emotion}, {BUDGETS[b]}, strength {strength:g}: {accuracy}")

    assert seen["figures"] == 1
    assert {"alt": seen["alt"], "caption": seen["caption"]} == data["curves"][e][b]
    assert f"for {emotion}, {BUDGETS[b]}: " in seen["alt"]
    assert seen["bright"] == [str(b)]
    known = 2 if summary["fluency_gap_nats"][emotion][b][s] is not None else 1
    assert seen["large"] == [f"explore_{e}_{emotion}-b{b}s{s}-{panel}" for panel in ("accuracy", "gap")[:known]]

    held = summary["components"][emotion][b]
    marked = {(int(row[0]), head) for row in seen["map"] for head, cell in enumerate(row[1:-1]) if cell == "●"}
    assert marked == {(layer, head) for layer, head, _ in held["heads"]}
    assert [int(row[-1]) for row in seen["map"]] == [sum(n[0] == layer for n in held["neurons"]) for layer in range(8)]
    assert seen["heads"] == [
        [str(rank), str(layer), str(head), f"{score:.4g}"] for rank, (layer, head, score) in enumerate(held["heads"], 1)
    ]
    best = sorted(held["neurons"], key=lambda neuron: -neuron[2])[:20]
    assert [row[1:3] for row in seen["neurons"]] == [[str(n[0]), str(n[1])] for n in best]

    for place, row in zip(data["shown"][e][b][s], seen["replies"], strict=True):
        scenario = row["scenario"].removesuffix(" The flight is called.")
        replies = (
            records[emotion, None, 0.0, scenario],
            records[emotion, b if strength else None, strength, scenario],
        )
        for cell, side, tag, record in zip(row["cells"], ("before", "after"), ("del", "ins"), replies, strict=True):
            told = data["pairs"][place][side]
            assert cell["text"] == record["reply"]
            assert cell["marked"] == [[tag, words] for words in told["text"][1::2]]
            assert cell["verdict"] == told["verdict"]
            assert told["verdict"].startswith("✓" if record["label"] == emotion else "✗")


def test_the_explorer_shows_each_choice_made_by_mouse(open_page, data, kept):
    page = open_page()
    assert_shows(page, 0, 1, 1, data, kept)
    for e, emotion in enumerate(EMOTIONS):
        page.get_by_text(emotion, exact=True).and_(page.locator("label")).click()
        for b, budget in enumerate(BUDGETS):
            radio(page, "Budget", budget).click()
            for s, strength in enumerate(STRENGTHS):
                radio(page, "Strength", strength).click()
                assert_shows(page, e, b, s, data, kept)


def test_the_explorer_works_by_keyboard_alone(open_page, data, kept):
    page = open_page()

    def tab_to(group: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == f"explorer-{group}":
                return
        raise AssertionError(f"Tab never reaches the buttons for {group}")

    tab_to("emotion")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert_shows(page, 2, 1, 1, data, kept)
    tab_to("budget")
    page.keyboard.press("ArrowLeft")
    assert_shows(page, 2, 0, 1, data, kept)
    tab_to("strength")
    page.keyboard.press("ArrowDown")
    assert_shows(page, 2, 0, 2, data, kept)
    page.keyboard.press("ArrowDown")  # round to the first
    assert_shows(page, 2, 0, 0, data, kept)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    assert_shows(page, 1, 0, 0, data, kept)


def test_tab_reaches_everything_shows_where_it_is_and_is_never_caught(open_page):
    page = open_page()
    page.evaluate(
        "document.querySelectorAll('a[href], summary, [tabindex=\"0\"], input:checked').forEach((e, i) => {"
        " if (e.checkVisibility()) e.dataset.stop = i; })"
    )
    stops = set(page.locator("[data-stop]").evaluate_all("all => all.map(e => e.dataset.stop)"))
    reached: list[str] = []
    for _ in range(len(stops) + 2):
        page.keyboard.press("Tab")
        stop, outline = page.evaluate(
            "[document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if stop is None:
            break
        assert outline != "none"
        reached.append(stop)
    assert len(reached) == len(set(reached))
    assert set(reached) == stops


def test_hostile_text_stays_text(open_page, data):
    page = open_page()
    before = page.locator("script").count()
    radio(page, "Strength", "4").click()
    steered = page.locator("#explorer-replies tr").first.locator("td").nth(1)
    assert steered.locator("> span").first.text_content() == HOSTILE
    assert steered.locator("script").count() == 0
    assert page.locator("script").count() == before == 2


def test_the_policy_stops_any_other_script(browser, report, tmp_path):
    html = report.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title = 'taken'</script>", 1)
    (tmp_path / "other.html").write_text(html, encoding="utf-8")
    context = browser.new_context(offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "other.html").as_uri())
    assert page.title() == "emotrace: demo"
    assert len(said) == 1
    assert "Content Security Policy" in said[0]
    context.close()


def test_without_a_script_the_first_choice_is_laid_out_as_the_script_would(open_page):
    still, moving = open_page(script=False), open_page()
    assert [page.get_by_text("The script of this page does not run here").is_visible() for page in (still, moving)] == [
        True,
        False,
    ]
    assert still.get_by_role("radio").count() == 0
    assert moving.get_by_role("radio").count() == len(EMOTIONS) + len(BUDGETS) + len(STRENGTHS)
    radio(moving, "Emotion", "fear").click()
    radio(moving, "Strength", "0").click()
    radio(moving, "Emotion", "anger").click()
    radio(moving, "Strength", "1").click()
    for part in ("#explorer-state", "#explorer-replies", "#explorer-map", "#explorer-heads", "#explorer-neurons"):
        assert moving.locator(part).inner_text() == still.locator(part).inner_text()
    for mark in ("del", "ins", ".here", ".current"):
        seen = [page.locator(f"#explorer {mark}:visible") for page in (still, moving)]
        assert seen[0].count() == seen[1].count() > 0
        assert seen[0].all_text_contents() == seen[1].all_text_contents()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(("scheme", "paper"), [("light", (255, 255, 255)), ("dark", (19, 23, 29))])
def test_both_themes_fit_both_screens(open_page, tmp_path, size, scheme, paper):
    page = open_page(size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    for e in EMOTIONS:
        radio(page, "Emotion", e).check()
        assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") <= [size[0], size[0]]
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = false; })")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == f"rgb{paper}"
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert page.locator("#explorer svg:visible").evaluate("svg => getComputedStyle(svg).color") == ink
    for name, part in (("top", "header"), ("explorer", "#explorer")):
        page.locator(part).scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / f"{name}.png")
        shot = (255 * imread(tmp_path / f"{name}.png")[:, :, :3]).round().astype(int)
        assert shot.shape[:2] == size[::-1]
        assert tuple(shot[1, 1]) == paper
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 20


def test_the_first_screen_of_a_phone_says_what_was_found_and_how_surely(open_page, report):
    page = open_page(PHONE)
    circuit = json.loads((report.parent / "summary.json").read_text())["control"]["arms"]["circuit"]
    low, high = (f"{100 * end:.1f}" for end in circuit["accuracy_ci"])
    expect(page.get_by_role("heading", name="What was found")).to_be_in_viewport()
    lead = page.locator(".lead")
    expect(lead).to_be_in_viewport(ratio=1)
    expect(lead).to_contain_text(
        f"Circuit modulation makes {100 * circuit['accuracy']:.1f}\u00a0% [{low}, {high}] of 360"
    )
    standing = page.locator("header .standing a")
    expect(standing).to_be_in_viewport(ratio=1)
    assert standing.text_content()[2:] == page.locator("#targets h2").text_content()
    assert standing.text_content()[0] == ("✗" if page.locator("#targets li.bad").count() else "✓")
    standing.click()
    expect(page.locator("#targets h2")).to_be_in_viewport(ratio=1)
