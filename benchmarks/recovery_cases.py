"""One planted model of the recovery benchmark: discovery, every score, driving, and confirmation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import LlamaConfig

import emotrace as et
from emotrace.judges.base import Verdict
from emotrace.planted import CLASSES, Planted
from emotrace.steps.circuit import from_components

SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
SITES = ("heads", "neurons")
METHODS = (
    "analytic",
    "removal",
    "patch-in",
    "integrated gradient",
    "gradient, emotion's prompts",
    "gradient, neutral prompts",
    "activation difference",
    "weight alignment",
    "random",
)
ORDINARY, OTHER = "ordinary", "another emotion's"
LABELS = (*CLASSES, OTHER, ORDINARY)


@dataclass(frozen=True)
class Case:
    """What is planted beside the true components."""

    name: str
    leak: float = 0.0
    decoys: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WordJudge:
    """Names a reply by the planted words that it says; it never sees what was asked for."""

    planted: Planted
    name: str = "planted words"

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.planted.words, "incoherent")

    def judge(self, replies: Sequence[Any]) -> list[Verdict]:
        """One verdict per reply, in order."""
        return [Verdict(self.planted.label(reply.text)) for reply in replies]


class Trial:
    """A planted model, and what the library finds out about it.

    Args:
        case: what is planted.
        seed: of the model and of random scores.
        scenarios: training scenarios that prompts come from, with one event each.
    """

    def __init__(self, case: Case, seed: int, scenarios: int = 2) -> None:
        self.seed = seed
        self.planted = et.planted.build(LlamaConfig(**SIZES), decoys=case.decoys, leak=case.leak, seed=seed)
        self.model = et.load(self.planted.model, tokenizer=self.planted.tokenizer)
        chosen = [s.groups()[i % 3] for i, s in enumerate(et.load_sev("sev-mini").train[:scenarios])]
        self.elicited = et.elicit(self.model, chosen, et.PAPER_SIX, WordJudge(self.planted), max_new_tokens=5)
        self.prompts = {
            condition: [list(reply.prompt_ids) for reply in self.elicited.accepted(condition)]
            for condition in self.elicited.conditions
        }
        self.statistics = et.capture(self.model, self.elicited.samples(), self.elicited.conditions)
        self.directions = et.emotion_directions(self.statistics)
        self.differences = et.difference_vectors(self.statistics)

    @cached_property
    def reading(self) -> et.Directions:
        """Directions whose references read logits: an emotion's words minus the others', behind the final norm."""
        rows = self.planted.model.lm_head.weight.detach().double()
        means = {e: rows[list(self.planted.word_ids[e])].mean(0) for e in self.planted.emotions}
        whole = torch.stack([*means.values()])
        others = (whole.sum(0) - whole) / (len(whole) - 1)
        return replace(self.directions, reference=whole - others)

    @cached_property
    def scores(self) -> dict[str, et.Scores]:
        """Scores of every method. The ones that run the model again for each component take one scenario."""
        given = (self.model, self.statistics, self.directions, self.differences)
        one = {condition: prompts[:1] for condition, prompts in self.prompts.items()}
        ends = (self.model, one, self.reading, self.differences)
        found = {
            "analytic": et.score_components(*given),
            "removal": self._removal(one),
            "patch-in": et.patch_in_scores(self.model, one, self.reading),
            "integrated gradient": et.integrated_gradient_scores(self.model, one, self.reading),
            "gradient, emotion's prompts": et.end_gradient_scores(*ends, end="emotion"),
            "gradient, neutral prompts": et.end_gradient_scores(*ends, end="neutral"),
            "activation difference": et.score_components(*given, method="activation_difference"),
            "weight alignment": et.score_components(*given, method="weight_alignment"),
            "random": et.score_components(*given, method="random", seed=self.seed),
        }
        return {name: found[name] for name in METHODS}

    def _removal(self, prompts: dict[str, list[list[int]]]) -> et.Scores:
        """Fall of the reading when a component takes its neutral value: patching with the ends changed over."""
        falls = []
        for e, emotion in enumerate(self.planted.emotions):
            mine = replace(
                self.reading,
                emotions=(emotion,),
                vectors=self.reading.vectors[e : e + 1],
                reference=self.reading.reference[e : e + 1],
            )
            swapped = {"neutral": prompts[emotion], emotion: prompts["neutral"]}
            falls.append(et.patch_in_scores(self.model, swapped, mine))
        heads, neurons = (-torch.cat([one.at(site) for one in falls]) for site in SITES)
        return et.Scores(self.planted.emotions, "removal", heads, neurons)

    def label(self, emotion: str, site: str, place: tuple[int, int]) -> str:
        """What a component is to an emotion, one of ``LABELS``."""
        kind = self.planted.kind(emotion, site, place)
        if kind is None and any(self.planted.kind(e, site, place) for e in self.planted.emotions):
            return OTHER
        return kind or ORDINARY

    def quality(self, method: str, site: str) -> dict[str, float]:
        """Means over emotions: precision at the true size (recall is the same number), AUROC, AUPRC, and the share of
        each of ``LABELS`` among the best true-size components; ``missed`` is the share of true components with a backup
        that are not among them."""
        scores, rows = self.scores[method], []
        for e, emotion in enumerate(self.planted.emotions):
            true = self.planted.components(emotion, site)
            values = scores.at(site)[e]
            known = torch.zeros(values.shape)
            known[tuple(zip(*true, strict=True))] = 1
            top = scores.top(site, emotion, len(true))
            row = {label: sum(self.label(emotion, site, c) == label for c in top) / len(top) for label in LABELS}
            row["AUROC"] = float(roc_auc_score(known.flatten(), values.flatten()))
            row["AUPRC"] = float(average_precision_score(known.flatten(), values.flatten()))
            backups = self.planted.components(emotion, site, "backup")
            backed = [self.planted.partners[site][place] for place in backups]
            row["missed"] = sum(place not in top for place in backed) / len(backed) if backed else float("nan")
            rows.append(row)
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def chosen(self, method: str) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """The best components of every emotion and site, as many as are true."""
        return {
            emotion: {
                site: self.scores[method].top(site, emotion, len(self.planted.components(emotion, site)))
                for site in SITES
            }
            for emotion in self.planted.emotions
        }

    def driven(self, chosen: dict[str, dict[str, list[tuple[int, int]]]], sites: Sequence[str]) -> dict[str, float]:
        """Neutral prompts driven by the difference vectors of some components: what is expressed, and how strongly.

        Returns:
            ``expressed``, share of replies that say the emotion's words; ``of natural``, the rise of the logit
            difference at the first reply token over the rise that the emotion's own prompt brings.
        """
        kept = {e: {site: held[site] if site in sites else [] for site in SITES} for e, held in chosen.items()}
        budgets = {site: max(len(held[site]) for held in kept.values()) for site in SITES}
        circuit = from_components(
            self.model, self.differences, kept, budgets=budgets, allocation="global", method="recovered"
        )
        emotions, neutral = self.planted.emotions, self.prompts["neutral"]
        plans = [et.add(circuit, emotion) for emotion in emotions for _ in neutral]
        replies = et.generate_replies(self.model, neutral * len(emotions), plans, max_new_tokens=5)
        asked = [emotion for emotion in emotions for _ in neutral]
        said = [self.planted.label(reply.text) == emotion for reply, emotion in zip(replies, asked, strict=True)]
        shares = []
        for emotion in emotions:
            rest, natural = self._ends[emotion]
            shares.append((self._read(emotion, neutral, et.add(circuit, emotion)) - rest) / (natural - rest))
        return {"expressed": sum(said) / len(said), "of natural": sum(shares) / len(shares)}

    @cached_property
    def _ends(self) -> dict[str, tuple[float, float]]:
        """Readings of each emotion's words on neutral prompts and on its own."""
        return {
            e: (self._read(e, self.prompts["neutral"], et.Plan()), self._read(e, self.prompts[e], et.Plan()))
            for e in self.planted.emotions
        }

    def _read(self, emotion: str, prompts: list[list[int]], plan: et.Plan) -> float:
        """Mean logit of the emotion's words minus that of the others' words, at the last prompt token."""
        own = list(self.planted.word_ids[emotion])
        others = [i for e in self.planted.emotions if e != emotion for i in self.planted.word_ids[e]]
        model, found = self.model, []
        for ids in prompts:
            with model.trace(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)):
                with torch.no_grad():
                    et.apply(model, plan)
                    logits = model.output.logits[0, -1].clone().save()
            found.append(float(logits[own].mean() - logits[others].mean()))
        return sum(found) / len(found)

    def candidates(self, heads: int = 8, neurons: int = 8) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """Of integrated gradients, analytic scores and weight alignment the largest by size, whatever their sign.

        Two methods see what acts or goes along; weights alone see what keeps silent. Members of a cancelling pair that
        act against the emotion have negative scores, so signs are dropped. The truth plays no part.
        """
        sizes = [
            replace(self.scores[name], heads=self.scores[name].heads.abs(), neurons=self.scores[name].neurons.abs())
            for name in ("integrated gradient", "analytic", "weight alignment")
        ]
        return et.top_candidates(*sizes, heads=heads, neurons=neurons)

    def confirmed(self) -> tuple[et.Confirmation, list[tuple[str, str, str]]]:
        """The confirmation of all candidates, and (site, label, class found) of each."""
        found = et.confirm(self.model, self.candidates(), self.prompts, self.reading, seed=self.seed)
        return found, [
            (c["site"], self.label(c["emotion"], c["site"], (c["layer"], c["index"])), c["class"])
            for c in found.candidates
        ]
