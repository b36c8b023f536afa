"""The stages that say how far to trust a circuit, on the bundled model at small sizes."""

import json
from pathlib import Path

import pytest

from emotrace.runner import run_protocol
from emotrace.runner.run import Inputs

pytestmark = pytest.mark.slow

SMALL = {
    "elicit.scenarios": 4,
    "directions.sample": 2,
    "components.checked_prompts": 1,
    "components.checked_neurons": 1,
    "influence.prompts": 4,
}
QUALITY = {
    "scenarios": 3,
    "ablations": ("mean",),
    "shares": (0.05,),
    "draws": 4,
    "subsets": 1,
    "heads": 3,
    "judged_scenarios": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder for all of them, so that discovery is computed once."""
    return tmp_path_factory.mktemp("runs") / "evidence"


def stage(folder: Path, name: str, **own) -> dict:
    parameters = SMALL | {f"{name}.{key}": value for key, value in own.items()}
    run_protocol(name, folder, Inputs(), parameters=parameters)
    return json.loads((folder / "summary.json").read_text())[name]


def test_quality_says_that_the_circuit_is_needed(folder: Path) -> None:
    found = stage(folder, "quality", **QUALITY)
    assert found["prompts"] == 18
    assert found["share"] == pytest.approx(80 / 3200)
    for part in found["tokens"].values():
        assert part["necessity"]["circuit"] < part["necessity"]["random_mean"] - 0.2
        assert part["necessity"]["p"] == pytest.approx(1 / 5)
        assert part["faithfulness"]["mean"]["faithfulness"][-1] == pytest.approx(1)
        assert set(part["wordings"]) == {"named", "paraphrase", "implied"}
        named = part["wordings"]["named"]
        assert named["removed"]["faithfulness"] == pytest.approx(part["necessity"]["circuit"])
        assert named["alone"]["faithfulness"] == pytest.approx(part["sufficiency"]["circuit"])
    driven = found["specificity"]["driven"]
    assert all(row[e] == max(row) for e, row in enumerate(driven))
    judged = found["judged"]["replies"]["named"]
    assert judged["nothing ablated"]["accuracy"] == 1
    assert judged["random removed"]["accuracy"] > judged["circuit removed"]["accuracy"]
    assert judged["nothing ablated"]["n"] == 12
    assert found["best_heads"]["anger"][0]["site"] == "heads"


def test_stability_finds_the_circuit_again(folder: Path) -> None:
    found = stage(folder, "stability", draws=4, wording_scenarios=3)
    again = found["sources"]["scenarios"]
    assert again["heads"]["jaccard"]["mean"] > 0.5 > again["heads"]["chance"]
    assert again["neurons"]["rank_correlation"]["mean"] > 0.8
    assert found["sources"]["implied"]["neurons"]["jaccard"]["mean"] < again["neurons"]["jaccard"]["mean"]


def test_explore_keeps_every_reply(folder: Path) -> None:
    found = stage(folder, "explore", sizes=(0.5, 1.0), strengths=(0.25, 1.0), scenarios=2)
    records = [json.loads(line) for line in (folder / "stages/explore/replies.jsonl").read_text().splitlines()]
    assert len(records) == 12 * (1 + 2 * 2)
    assert [r for r in records if r["strength"] == 0 and r["budget"] is not None] == []
    assert found["budgets"] == [
        {"share": 0.5, "heads": 2, "neurons": 38},
        {"share": 1.0, "heads": 4, "neurons": 76},
    ]
    for emotion, table in found["accuracy"].items():
        for b, row in enumerate(table):
            for strength, share in zip(found["strengths"], row, strict=True):
                mine = [
                    r["label"] == emotion
                    for r in records
                    if r["emotion"] == emotion and r["strength"] == strength and (r["budget"] in (b, None))
                ]
                assert share == pytest.approx(sum(mine) / len(mine))
        held = found["components"][emotion][1]
        assert [len(held[site]) for site in ("heads", "neurons")] == [4, 76]
    assert found["strengths"][found["chosen"]["strength"]] in (0.25, 1.0)
    assert found["chosen"]["budget"] == 1
