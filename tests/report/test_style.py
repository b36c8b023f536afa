"""Contrast of the page's colours, by the formulas of WCAG 2.2."""

import re
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

import emotrace.report
from emotrace.report.figures.explorer import LINES

CSS = (Path(emotrace.report.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)
# text colour -> what it stands on
TEXT = {
    "ink": ("paper", "panel", "mark", "good-soft", "bad-soft"),
    "soft": ("paper", "panel"),
    "link": ("paper",),
    "good": ("paper", "good-soft"),
    "bad": ("paper", "bad-soft"),
}


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standards_examples():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ffffff", "#ffffff") == 1


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), [(t, ground) for t, grounds in TEXT.items() for ground in grounds])
def test_text_stands_out_as_wcag_aa_asks(theme, text, ground):
    assert contrast(theme[text], theme[ground]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_focus_rings_borders_of_verdicts_and_lines_of_the_explorer_stand_out(theme):
    for colour in (theme["link"], theme["good"], theme["bad"], *LINES):
        assert contrast(colour, theme["paper"]) >= 3


def test_both_themes_set_every_colour_that_the_page_uses():
    used = set(re.findall(r"var\(--([\w-]+)\)", CSS)) - {"width"}
    assert used <= set(LIGHT)
    assert set(LIGHT) == set(DARK)


def test_what_can_be_focused_shows_it():
    (rule,) = re.findall(r"([^{}]+)\{ outline: 3px", CSS)
    assert {"a", "summary", ".scroll", "input"} == {part.split(":")[0].strip() for part in rule.split(",")}
    assert "outline: none" not in CSS
    assert "outline: 0" not in CSS
