"""The whole study on other architectures than the bundled model's, with a judge that takes every reply."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import emotrace as et
from emotrace.judges.base import Verdict
from emotrace.models.load import BUNDLED
from emotrace.report import write_report
from emotrace.runner import Inputs, run_protocol
from tests.tiny import MIXTURES, tiny_hf


class Agreeable:
    """Accepts every reply as each emotion in turn, in the order in which prompts are made."""

    name = "agreeable"
    labels = (*et.PAPER_SIX.labels, "neutral", "incoherent")

    def judge(self, replies):
        conditions = (*et.PAPER_SIX.labels, "neutral")
        return [Verdict(conditions[i % len(conditions)]) for i in range(len(replies))]


def model_that_replies(family):
    """A tiny model with the bundled tokenizer, which tells the prompts apart, and no end of text."""
    hf = tiny_hf(family, vocabulary=1280)
    hf.generation_config.eos_token_id = hf.config.eos_token_id = 1279
    return et.load(hf, tokenizer=AutoTokenizer.from_pretrained(BUNDLED))


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["mixtral", "gemma2", "gpt_neox"],
)
def test_the_whole_run_and_its_report(family: str, tmp_path: Path, sev_file: Path) -> None:
    inputs = Inputs(model_that_replies(family), sev_file, custom_judge=Agreeable())
    few = {
        "ablate.scenarios": 2,
        "enhance.scenarios": 2,
        "ablate.ks": (1, 2),
        "enhance.ks": (1, 2),
        "influence.prompts": 2,
    }
    short = {f"{stage}.max_new_tokens": 4 for stage in ("elicit", "control", "explore")}
    one = {"control.strengths": (1.0,), "explore.strengths": (1.0,), "explore.sizes": (1.0,), "explore.scenarios": 1}
    evidence = {
        "quality.scenarios": 2,
        "quality.shares": (0.2,),
        "quality.draws": 2,
        "quality.subsets": 1,
        "quality.heads": 2,
        "quality.judged_scenarios": 1,
        "stability.draws": 2,
        "stability.wording_scenarios": 2,
    }
    some = {
        "control.scenarios": 2,
        "control.validation_scenarios": 1,
        "control.draws": 2,
        "control.residual_alphas": (2.0,),
    }
    chosen = few | short | one | evidence | some | {"control.residual_depths": "0.3-1.0"}
    run_protocol("paper", tmp_path / "run", inputs, parameters=chosen)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    sites = {"heads"} if family in MIXTURES else {"heads", "neurons"}
    assert set(summary["ablate"]["curves"]) == set(summary["enhance"]["curves"]) == sites
    agreement = summary["components"]["causal_agreement"]
    assert set(agreement) == sites
    assert max(agreement.values()) < 1e-5  # transformers' RMSNorm computes in float32
    assert summary["circuit"]["heads"] == dict.fromkeys(et.PAPER_SIX.labels, 1)
    assert all(arm["n"] == 12 for arm in summary["control"]["arms"].values())
    page = write_report(tmp_path / "run").read_text()
    assert "Scores of heads and neurons" in page
