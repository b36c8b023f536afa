"""Stability on the bundled model: draws against scores from the scenarios they hold, agreement against loops."""

import numpy as np
import pytest
import torch
from scipy import stats

import emotrace as et
from emotrace.errors import DataError
from emotrace.steps.circuit import chosen_components
from emotrace.steps.influence import Influence
from emotrace.steps.stability import agreement, in_other_words, over_scenarios, rescored
from emotrace.trace.resample import poisson_draws
from tests.tiny import close, tiny_model

CONDITIONS = ("joy", "awe", "neutral")


def samples(count: int):
    """Prompts of three conditions that differ in one token, one scenario each."""
    texts = torch.randint(7, 60, (count, 4), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [(c, (4, 20 + c, *text), f"s{n}") for n, text in enumerate(texts) for c in range(3)]
    return [et.Sample(c, ids) for c, ids, _ in rows], [name for *_, name in rows]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_draw_gives_the_scores_of_the_scenarios_it_holds(family):
    model = tiny_model(family)
    listed, clusters = samples(6)
    found = over_scenarios(model, listed, CONDITIONS, clusters, draws=3, seed=1)
    assert len(found) == 3
    for draw, scores in enumerate(found):
        held = [
            sample
            for sample, name in zip(listed, clusters, strict=True)
            for _ in range(int(poisson_draws(name, 3, 1)[draw]))
        ]
        again = in_other_words(model, held, CONDITIONS)
        assert close(scores.heads, again.heads, 1e-8)
        assert close(scores.neurons, again.neurons, 1e-8)


def made(seed: int) -> et.Scores:
    generator = torch.Generator().manual_seed(seed)
    heads, neurons = (torch.randn(2, 3, k, generator=generator, dtype=torch.float64) for k in (4, 20))
    return et.Scores(("joy", "awe"), "analytic", heads, neurons)


INFLUENCE = Influence(("joy", "awe"), torch.ones(2, 3, 2, dtype=torch.float64), "final_norm", "exact", (0.1,), 4)


class Chosen:
    """What agreement reads of a circuit."""

    emotions = ("joy", "awe")
    budgets = {"heads": 3, "neurons": 6}  # noqa: RUF012
    allocation = "influence"

    def __init__(self, scores):
        self.held = chosen_components(scores, INFLUENCE, self.budgets, self.allocation)

    def components(self, site, emotion):
        return self.held[emotion][site]

    def counts(self, site, emotion, layers):
        return [sum(layer == at for layer, _ in self.held[emotion][site]) for at in range(layers)]


def test_agreement_is_overlap_and_rank_correlation_by_emotion():
    own, others = made(0), [made(0), made(1), made(2)]
    found = agreement(Chosen(own), own, others, INFLUENCE, "neurons")
    assert found.jaccard[0].tolist() == [1, 1]
    assert found.rank_correlation[0] == pytest.approx([1, 1])
    for draw, other in enumerate(others):
        theirs = Chosen(other)
        for e, emotion in enumerate(own.emotions):
            one, two = (set(c.components("neurons", emotion)) for c in (Chosen(own), theirs))
            assert found.jaccard[draw, e] == len(one & two) / len(one | two)
            rank = stats.spearmanr(own.neurons[e].flatten(), other.neurons[e].flatten()).statistic
            assert found.rank_correlation[draw, e] == pytest.approx(rank)
    summary = found.summary(own.emotions)
    assert summary["jaccard"]["mean"] == pytest.approx(found.jaccard.mean())
    assert summary["jaccard"]["spread"] == pytest.approx(np.percentile(found.jaccard.mean(1), [2.5, 97.5]))
    single = agreement(Chosen(own), own, others[1:2], INFLUENCE, "neurons")
    assert single.summary(own.emotions)["jaccard"]["spread"] == pytest.approx(
        np.percentile(single.jaccard[0], [2.5, 97.5])
    )


def test_chance_is_what_random_components_overlap():
    own = made(0)
    found = agreement(Chosen(own), own, [own], INFLUENCE, "neurons")
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(4000):
        shared = sum(len(set(rng.permutation(20)[:2]) & set(rng.permutation(20)[:2])) for _ in range(3))
        overlaps.append(shared / (12 - shared))
    assert found.chance[0] == pytest.approx(np.mean(overlaps), abs=0.01)


def test_other_methods_are_refused_and_wordings_are_rescored():
    own = made(0)
    other = et.Scores(own.emotions, "random", own.heads, own.neurons)
    with pytest.raises(DataError, match="score components by analytic"):
        agreement(Chosen(own), other, [own], INFLUENCE, "heads")
    model, (listed, _) = tiny_model(), samples(4)
    statistics = et.capture(model, listed, CONDITIONS)
    assert close(rescored(model, statistics).heads, in_other_words(model, listed, CONDITIONS).heads, 1e-12)
