"""What the explorer is made of: word differences, texts of every choice, groups of its drawings, its curves."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from matplotlib.collections import LineCollection

from emotrace.report import figures
from emotrace.report.blocks import Drawing, Explorer, Text
from emotrace.report.loading import RunFiles
from emotrace.report.sections.explorer import SCENARIOS_SHOWN, explorer, marked_groups
from emotrace.report.word_diff import word_diff
from tests.report.conftest import EMOTIONS, explore

texts = st.lists(st.sampled_from(["I", "it's", "rain", "Rain", "well-kept", ",", ".", " ", "  ", "\n", "é", "<|end|>"]))


def built(folder: Path, summary: dict, records: list[dict]) -> tuple[str, Explorer]:
    stage = folder / "stages" / "explore"
    stage.mkdir(parents=True)
    (stage / "replies.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def draw(figure, name, *, alt, caption):
        return Drawing(name, Markup(f'<svg><g id="{name}-b0-gap"/></svg>'), 100, alt, caption)

    text, part = explorer(RunFiles(folder, {"explore": summary}, {}), draw)
    assert isinstance(text, Text)
    assert isinstance(part, Explorer)
    return text.text, part


@pytest.mark.parametrize(
    ("before", "after", "left", "right"),
    [
        ("I sit here.", "I stand here.", ["I ", "sit", " here."], ["I ", "stand", " here."]),
        ("It is fine.", "It is not fine!", ["It is fine", "."], ["It is ", "not", " fine", "!"]),
        ("Same.", "Same.", ["Same."], ["Same."]),
        ("a b", "a  b", ["a b"], ["a  b"]),
        ("don't", "do", ["", "don't"], ["", "do"]),
        ("", "All of it ", [""], ["", "All of it", " "]),
    ],
)
def test_whole_words_and_punctuation_marks_are_told_apart(before, after, left, right):
    assert word_diff(before, after) == (left, right)


@given(texts.map("".join), texts.map("".join))
def test_stretches_join_to_the_texts_and_share_the_same_words(before, after):
    left, right = word_diff(before, after)
    assert ("".join(left), "".join(right)) == (before, after)
    shared = ["".join("".join(side[::2]).split()) for side in (left, right)]
    assert shared[0] == shared[1]
    for stretch in (*left[1::2], *right[1::2]):
        assert stretch == stretch.strip() != ""


def test_every_choice_is_put_into_words_from_the_summary(tmp_path):
    summary, records = explore()
    said, part = built(tmp_path, summary, records)
    assert "Replies are shown to 4 scenarios." in said
    assert [(choice.name, choice.options, choice.start) for choice in part.choices] == [
        ("emotion", EMOTIONS, 0),
        ("budget", ("1 head and 30 neurons", "3 heads and 60 neurons"), 1),
        ("strength", ("0", "1", "4"), 1),
    ]
    states = part.data["states"]
    assert states[0][1][1] == (
        "anger, 3 heads and 60 neurons, strength 1: 75.0\u00a0% [55.0, 95.0] of 4 replies judged anger, "
        "fluency gap +0.010 nats per token"
    )
    assert states[3][0][2].startswith("fear, 1 head and 30 neurons, strength 4: 50.0\u00a0% [30.0, 70.0] of 4 replies")
    assert states[3][0][2].endswith("fluency gap −0.090 nats per token")
    assert states[5][1][2].endswith("judged disgust, no fluency gap known")
    assert part.data["curves"][2][1] == {
        "alt": "Curves against strength for happiness, 3 heads and 60 neurons: 0.0\u00a0% at 0, 75.0\u00a0% at 1 and "
        "100.0\u00a0% at 4 are judged happiness; fluency gap +0.150 at 0 and +0.010 at 1.",
        "caption": "With 3 heads and 60 neurons, 100.0\u00a0% of replies are judged happiness at strength 4, the least "
        "strength that reaches as many. Other budgets are drawn faintly.",
    }


def test_every_choice_shows_the_replies_kept_for_it(tmp_path):
    summary, records = explore()
    _, part = built(tmp_path, summary, records)
    assert [exchange.scenario for exchange in part.exchanges] == [f"You wait at gate {i}." for i in range(4)]
    by_place = {(r["emotion"], r["budget"], r["strength"], r["scenario"]): r for r in records}
    for e, emotion in enumerate(EMOTIONS):
        for b in range(2):
            for s, strength in enumerate(summary["strengths"]):
                for place, exchange in zip(part.data["shown"][e][b][s], part.exchanges, strict=True):
                    before = by_place[emotion, None, 0.0, exchange.scenario]
                    after = by_place[emotion, b if strength else None, strength, exchange.scenario]
                    pair = part.data["pairs"][place]
                    assert "".join(pair["before"]["text"]) == before["reply"]
                    assert "".join(pair["after"]["text"]) == after["reply"]
                    right = after["label"] == emotion
                    assert pair["after"]["tone"] == ("good" if right else "bad")
                    told = f"✓ judged {emotion} (score of {emotion} 0.90)"
                    untold = f"✗ judged neutral, not {emotion} (score of {emotion} 0.10)"
                    assert pair["after"]["verdict"] == (told if right else untold)
    keys = [json.dumps(pair, sort_keys=True) for pair in part.data["pairs"]]
    assert len(keys) == len(set(keys))


def test_every_circuit_is_listed_best_first_and_counted_by_layer(tmp_path):
    summary, records = explore()
    _, part = built(tmp_path, summary, records)
    for e, emotion in enumerate(EMOTIONS):
        for b, held in enumerate(summary["components"][emotion]):
            circuit = part.data["circuits"][e][b]
            assert sorted(circuit["members"]) == sorted(head[:2] for head in held["heads"])
            counts = Counter(layer for layer, _, _ in held["neurons"])
            assert circuit["by_layer"] == [counts[layer] for layer in range(8)]
            assert circuit["heads"][0] == ["6", str(e), "1.5"]
            assert len(circuit["neurons"]) == 20
            scores = [float(score) for _, _, score in circuit["neurons"]]
            best = np.sort([score for _, _, score in held["neurons"]])[::-1][:20]
            np.testing.assert_allclose(scores, best, rtol=1e-3)


def test_many_scenarios_are_thinned_evenly_and_lost_replies_leave_a_gap(tmp_path):
    summary, records = explore()
    many = [
        {**record, "group_id": f"{number:02d}", "scenario": f"Place {number}."}
        for record in records
        if record["scenario"] == "You wait at gate 0."
        for number in range(20)
        if (record["budget"], number) != (1, 5)
    ]
    said, part = built(tmp_path, summary, many)
    assert "8 of 20 scenarios, evenly spaced" in said
    numbers = [int(re.findall(r"\d+", exchange.scenario)[0]) for exchange in part.exchanges]
    assert len(numbers) == SCENARIOS_SHOWN
    assert set(np.diff(numbers)) == {2, 3}
    gone = numbers.index(5)
    assert [[row[gone] is None for row in budget] for budget in part.data["shown"][0]] == [
        [False] * 3,
        [False, True, True],
    ]
    assert "of 19 replies judged anger" in part.data["states"][0][1][1]


def test_a_run_without_kept_replies_still_has_its_numbers(tmp_path):
    summary, _ = explore()
    _, part = built(tmp_path, summary, [])
    assert part.exchanges == ()
    assert "75.0\u00a0% [55.0, 95.0] of replies judged anger" in part.data["states"][0][1][1]


def test_a_judge_that_abstains_or_gives_no_score_is_told_so(tmp_path):
    summary, records = explore()
    changed = [{**record, "label": "abstain", "score": None} for record in records]
    _, part = built(tmp_path, summary, changed)
    sides = [pair[side] for pair in part.data["pairs"] for side in ("before", "after")]
    assert {(side["verdict"], side["tone"]) for side in sides} == {("✗ the judge abstained", "bad")}


def test_groups_of_a_drawing_say_what_they_draw():
    svg = Markup('<g id="x-b0-gap"/><g id="x-b1-gap"/><g id="x-b1s0-gap"/><g id="x-b1s2-gap"/><g id="x-b1z"/>')
    assert marked_groups(svg, "x", 1, 2) == (
        '<g id="x-b0-gap" data-budget="0" class=""/><g id="x-b1-gap" data-budget="1" class="current"/>'
        '<g id="x-b1s0-gap" data-budget="1" data-strength="0" class="current"/>'
        '<g id="x-b1s2-gap" data-budget="1" data-strength="2" class="current here"/><g id="x-b1z"/>'
    )


def test_strength_curves_draw_shares_intervals_and_gaps_of_every_budget():
    accuracy = [[0.0, 0.5, 0.75], [0.1, 0.9, 1.0]]
    intervals = [[[0.0, 0.2], [0.3, 0.7], [0.6, 0.9]], [[0.0, 0.3], [0.8, 0.95], [0.9, 1.0]]]
    gaps = [[0.2, 0.1, None], [0.2, 0.0, -0.1]]
    figure = figures.strength_curves([0.0, 1.0, 2.0], accuracy, intervals, gaps, ["small", "large"], "fear", 0.1)
    left, right = figure.axes
    assert left.get_title(loc="left") == "Replies judged fear"
    for budget in range(2):
        lines = {line.get_gid(): line for axes in (left, right) for line in axes.lines}
        share = lines[f"b{budget}-accuracy"]
        np.testing.assert_allclose(share.get_ydata(), 100 * np.array(accuracy[budget]))
        np.testing.assert_allclose(share.get_xdata(), [0, 1, 2], atol=0.05)
        known = [(place, gap) for place, gap in enumerate(gaps[budget]) if gap is not None]
        for place, gap in known:
            assert lines[f"b{budget}s{place}-gap"].get_ydata() == [gap]
        assert len([gid for gid in lines if gid and gid.startswith(f"b{budget}s") and gid.endswith("gap")]) == len(
            known
        )
        bars = next(c for c in left.collections if c.get_gid() == f"b{budget}-interval")
        assert isinstance(bars, LineCollection)
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, 100 * np.array(intervals[budget]))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["small", "large"]
