"""The sections on circuit quality and stability say what the stages measured, good and bad."""

import json
import re
from pathlib import Path

import pytest

from emotrace.report.claims import claims, findings
from emotrace.report.loading import load_run
from emotrace.report.sections.quality import quality
from emotrace.report.sections.stability import stability


@pytest.fixture
def drawn() -> list:
    """Figures with their captions, in place of files."""
    return []


@pytest.fixture
def draw(drawn):
    def keep(figure, name, *, alt, caption):
        drawn.append((figure, name, alt, caption))
        return name

    return keep


def tables(blocks) -> str:
    """All words of tables, folds opened."""
    words = []
    for block in blocks:
        for inner in getattr(block, "blocks", (block,)):
            words += [getattr(inner, "caption", ""), *getattr(inner, "head", ())]
            for row in getattr(inner, "rows", ()):
                words += [f"{getattr(cell, 'text', cell)} {getattr(cell, 'note', '')}" for cell in row]
    return re.sub(r"\s+", " ", " | ".join(words).replace("\u00a0", " "))


def test_quality_tells_each_number_and_what_is_undefined(run_folder: Path, draw, drawn) -> None:
    text = tables(quality(load_run(run_folder), draw))
    assert (
        "the circuit alone, at the last prompt token | 0.126 [0.12, 0.14] | 0.009 | −0.04 to 0.03 | p = 0.025" in text
    )
    assert "all but the circuit, at the last prompt token | 0.302 [0.29, 0.31] | 0.959 | 0.91 to 0.98" in text
    assert "zero, at every token | the whole model's measure is 0.1 above" in text
    assert "half 1 | 0.040 | 0.560 | 0.520" in text
    assert "anger | 1 (2) of 4 | 4 (40) of 76 | head 4.7 (0.65), neuron 6.116 (0.10)" in text
    assert "anger | 0.13 | 0.01 | p = 0.025 | 0.30 | 0.96 | p = 0.025" in text
    assert "zero ablation, at the last prompt token: undefined, the whole model's measure" in text
    assert "anger | 1 | 4.7 (0.65, p = 0.0003)" in text
    assert "circuit removed | 37.5 % [20.0, 60.0] | –" in text
    captions = {name: caption.replace("\u00a0", " ") for _, name, _, caption in drawn}
    assert "by mean: the circuit 0.13, half is reached with the best 10.0 %" in captions["faithfulness_last"]
    assert "by zero: undefined, the whole model's measure is 0.1 above" in captions["faithfulness_all"]
    assert "6 of 6 circuits raise their own emotion's reading most" in captions["specificity_driven"]
    assert (
        "80 % of its own emotion's reading and 70 % of another's: so they are shared" in captions["specificity_removed"]
    )


def test_stability_names_what_varied(run_folder: Path, draw, drawn) -> None:
    text = tables(stability(load_run(run_folder), draw))
    assert "scenarios | heads | 1.00 [0.95, 1.00] | 0.03 | 0.95 [0.90, 0.99] | draws" in text
    assert "implied | neurons | 0.50 [0.45, 0.52] | 0.03 | 0.95 [0.90, 0.99] | emotions" in text
    (_, name, _, caption), *_ = drawn
    assert name == "stability"
    assert "on resampled scenarios: 100 % of heads and 97 % of neurons" in caption.replace("\u00a0", " ")


def test_first_screen_says_what_the_circuit_is_worth_and_targets_are_held_to_it(run_folder: Path) -> None:
    run = load_run(run_folder)
    sentence = next(s for s in findings(run) if "Without its circuit" in s).replace("\u00a0", " ")
    assert "keeps 30 % of its strength, without random components of that number 96 % (p = 0.025, 39 draws)" in sentence
    assert sentence.endswith("random ones 1 % (p = 0.025), so it is needed, but far from all that is.")
    mine = [claim for claim in claims(run) if "random components (p" in claim.claim]
    assert [claim.met for claim in mine] == [True, True]
    path = run_folder / "summary.json"
    summary = json.loads(path.read_text())
    last = summary["quality"]["tokens"]["last"]
    last["necessity"]["p"] = 0.3
    last["sufficiency"] = {"undefined": "too close"}
    path.write_text(json.dumps(summary))
    assert not any("so it is needed" in s for s in findings(load_run(run_folder)))
    changed = load_run(run_folder)
    mine = [claim for claim in claims(changed) if "random components (p" in claim.claim]
    assert [(claim.met, claim.measured) for claim in mine] == [
        (False, "f 0.302 against 0.959, p = 0.3"),
        (False, "too close"),
    ]
    assert not any("Without its circuit" in s for s in findings(changed))
