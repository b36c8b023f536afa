"""Do the candidates cause the emotion? Each is put in, removed, and tried together with others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotrace.artifacts import Artifact
from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError, shown
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.steps.components import Scores
from emotrace.steps.directions import Directions
from emotrace.steps.joint_effects import KINDS, PATCH_IN, REMOVAL, JointEffects, Site, as_record, named
from emotrace.steps.patching import aligned_prompts
from emotrace.steps.verdicts import Verdicts
from emotrace.trace.attribute import Metric
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.inputs import check_shape
from emotrace.trace.plan import Component, Edit, Plan, by_layer

CLASSES = ("true", "inert", "cancelling", "backup", "undecided")
REMOVALS = ("neutral", "zero")

Candidates = Mapping[str, Mapping[str, Sequence[Component]]]
"""Per emotion and site (``heads``, ``neurons``), (layer, index) pairs, the most promising first."""


@dataclass(frozen=True)
class Confirmation(Artifact):
    """What every candidate was found to be, and what was measured for that.

    Effects are shares of the full effect, the rise of the reading from neutral prompts to the emotion's; every effect
    is a dict of ``estimate``, ``low`` and ``high``, a mean over prompts with its 95 % interval over scenarios.

    Attributes:
        emotions: those that have candidates.
        removal: what removed components are set to: ``neutral`` (their value on the neutral prompt) or ``zero``.
        threshold: effects whose whole interval is within it count as none.
        remains: share of the smaller effect of a pair that may be left where the two cancel.
        prompts: pairs of prompts.
        scenarios: clusters of the intervals.
        full: one dict for each emotion: ``emotion`` and the full effect, in units of the reading.
        candidates: one dict each: ``emotion``, ``site``, ``layer``, ``index``, ``class`` (one of ``CLASSES``),
            ``reason``, effects ``patch_in`` and ``removal`` (None where the full effect is noise), ``partners`` (site,
            layer, index).
        tests: one dict for each joint test: ``emotion``, ``kind`` (``patch_in`` or ``removal``), ``members``,
            ``beside`` (who is removed in either case), ``effect``: of a pair, or what a group takes away beyond what it
            takes away alone.
        cost: ``passes`` (forward), ``rows`` (prompts times sets of components) and ``tokens`` computed, at most.
    """

    emotions: tuple[str, ...]
    removal: str
    threshold: float
    remains: float
    prompts: int
    scenarios: int
    full: tuple[dict[str, Any], ...]
    candidates: tuple[dict[str, Any], ...]
    tests: tuple[dict[str, Any], ...]
    cost: dict[str, int]

    def classes(self, emotion: str) -> dict[Site, str]:
        """The class of every candidate of an emotion, by (site, layer, index)."""
        if emotion not in self.emotions:
            raise DataError(f"nothing was confirmed for {emotion!r}; there is {', '.join(self.emotions)}")
        return {(c["site"], c["layer"], c["index"]): c["class"] for c in self.candidates if c["emotion"] == emotion}

    def of_class(self, word: str, emotion: str, site: str) -> list[Component]:
        """Candidates of a class at a site, as (layer, index)."""
        if word not in CLASSES:
            raise DataError(f"unknown class {word!r}: choose one of {', '.join(CLASSES)}")
        chosen = [held for held, is_a in self.classes(emotion).items() if is_a == word and held[0] == site]
        return [(layer, index) for _, layer, index in chosen]

    def to_records(self) -> list[dict[str, Any]]:
        """A flat row for each candidate."""
        rows = []
        for candidate in self.candidates:
            row = {key: value for key, value in candidate.items() if key not in (*KINDS, "partners")}
            for kind in KINDS:
                effect = candidate[kind] or {}
                row |= {f"{kind}_{part}" if part != "estimate" else kind: effect.get(part) for part in _PARTS}
            rows.append({**row, "partners": ", ".join(named(partner) for partner in candidate["partners"])})
        return rows


_PARTS = ("estimate", "low", "high")


def top_candidates(*scores: Scores, heads: int = 20, neurons: int = 20) -> dict[str, dict[str, list[Component]]]:
    """The best heads and neurons of every emotion under each of some scores, those of the first scores first."""
    if not scores or any(one.emotions != scores[0].emotions for one in scores):
        raise DataError("give scores, all of the same emotions")
    wanted = {"heads": heads, "neurons": neurons}
    return {
        emotion: {
            site: list(dict.fromkeys(c for one in scores for c in one.top(site, emotion, count)))
            for site, count in wanted.items()
        }
        for emotion in scores[0].emotions
    }


def confirm(
    model: Any,
    candidates: Candidates,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    directions: Directions,
    *,
    clusters: Sequence[Hashable] | None = None,
    removal: str = "neutral",
    threshold: float = 0.05,
    remains: float = 0.25,
    partners: int = 4,
    tests: int = 200,
    metric: Metric | None = None,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Confirmation:
    """Tell candidates that cause an emotion's reading from those that only go along with it.

    The reading is the projection of the last token's state, after the final norm, on the reference direction. A set of
    components is *put in*: on a neutral prompt its members take, at the last token, the values that they have on the
    emotion's prompt of the same group; the effect is the rise. Or it is *removed*: on the emotion's prompt its members
    take their neutral values (or zero); the effect is the fall. Whatever is above them follows. Then a candidate is

    - ``true``: put in alone it raises the reading, or else removed alone it lets it fall. A head whose backup takes
      over when it is removed is known by the first;
    - ``cancelling``: it has an effect, and a partner with an effect of the other sign, and the two together do nothing,
      put in or removed; or it shows nothing because that partner answers to it, and again both do nothing together;
    - ``backup``: it does nothing alone, either way, but with a true component gone its removal takes away more;
    - ``inert``: it does nothing alone, nor with any true component gone;
    - ``undecided``: an effect that its interval leaves open, an effect against the emotion that no candidate cancels,
      or tests that contradict each other or were not made; ``reason`` says which.

    Candidates are judged against each other: a backup is found if what it stands in for is among them. And they are
    judged by the reading: along the reference direction, which is made of all that sets the emotion apart in middle
    layers, a component counts that writes into it, even if nothing behind reads that. To learn what reaches the reply,
    give ``metric``, say the logits of the emotion's words minus those of the others'.

    Tests, each for all N pairs of prompts: both kinds for every candidate; both kinds for at most ``partners`` pairs
    for each candidate that acts against the emotion, with those nearest in size that act for it; then removals of all
    silent candidates as a group beside each true one, beside all true ones, and beside each that acts against the
    emotion, halved where something shows, ``tests`` at most (up to three removals each). A set costs one token a
    prompt behind a cached prefix. ``cost`` in the result has what was spent. From a hosted model the candidates' values
    travel, and two numbers for each set and prompt.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        candidates: per emotion and site; :func:`emotrace.top_candidates` takes them from scores.
        prompts: token ids for each emotion with candidates and for ``"neutral"``: item i of each is of the same group.
        directions: whose reference directions are read along.
        clusters: scenario of each group, the unit of the intervals; by default every group is one.
        removal: ``neutral`` or ``zero``.
        threshold: share of the full effect within which an effect counts as none.
        remains: share of the smaller effect of a pair that may be left where the two cancel.
        partners: pairs tried for each candidate that acts against the emotion.
        tests: group tests for each emotion, at most.
        metric: read in place of the projection, of the last token's logits: from ``[B, V]`` to one number a row.
        seed: of intervals.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    >>> import emotrace as et
    >>> model, data = et.load("bundled"), et.load_sev("sev-mini")
    >>> study, groups = et.discover(model, data.train[:2]), et.groups(data.validation)[:4]
    >>> asked = {c: model.encode([et.prompt(g, c, et.PAPER_SIX) for g in groups]) for c in ("anger", "neutral")}
    >>> best = {"anger": {"heads": study.scores.top("heads", "anger", 3)}}
    >>> found = et.confirm(model, best, asked, study.directions, clusters=[g.skeleton_id for g in groups])
    >>> found.to_records()[0]["class"]
    'true'

    Raises:
        DataError: no candidates, an emotion without directions, prompts that do not pair up, fewer than two scenarios,
            or an option out of range.
        PlanError: a candidate that the model lacks, or that is named twice.
    """
    wrapped = as_model(model)
    check_shape(wrapped, "directions", directions.vectors.shape[1:], (wrapped.sizes.layers, 2, wrapped.sizes.width))
    if removal not in REMOVALS:
        raise DataError(f"unknown removal={removal!r}: choose {' or '.join(REMOVALS)}")
    for name, share in (("threshold", threshold), ("remains", remains)):
        if not isinstance(share, int | float) or not 0 < share < 1:
            raise DataError(f"{name}={shown(share)}: give a share between 0 and 1")
    for name, count in (("partners", partners), ("tests", tests)):
        if type(count) is not int or count < 0:
            raise DataError(f"{name}={shown(count)}: give a whole number from 0")
    sites = {emotion: _sites(wrapped, named_sites) for emotion, named_sites in candidates.items()}
    strange = [emotion for emotion in sites if emotion not in directions.emotions]
    if strange or not any(sites.values()):
        raise DataError(f"no directions of {strange[0]!r}" if strange else "no candidates: name heads or neurons")
    aligned = aligned_prompts(wrapped, prompts, [*sites])
    groups = range(len(aligned[NEUTRAL])) if clusters is None else clusters
    if len(groups) != len(aligned[NEUTRAL]) or len({*groups}) < 2:
        raise DataError(
            f"{len(groups)} clusters for {len(aligned[NEUTRAL])} groups: give one each, two scenarios or more"
        )
    full, found, made = [], [], []
    cost = {"passes": 0, "rows": 0, "tokens": 0}
    for emotion, members in sites.items():
        along = directions.reference[directions.emotions.index(emotion)]
        effects = JointEffects(
            wrapped,
            emotion,
            {PATCH_IN: aligned[NEUTRAL], REMOVAL: aligned[emotion]},
            groups,
            members,
            removal == "zero",
            {"direction": along} if metric is None else {"metric": metric},
            seed,
            batch_tokens,
            ledger,
        )
        judged = Verdicts(effects, threshold, remains)
        judged.run(partners, tests)
        full.append({"emotion": emotion, **as_record(effects.full_interval())})
        found += [{"emotion": emotion, **record} for record in judged.records()]
        made += [{"emotion": emotion, **record} for record in judged.tests]
        cost = {name: amount + effects.cost[name] for name, amount in cost.items()}
    return Confirmation(
        tuple(sites),
        removal,
        float(threshold),
        float(remains),
        len(groups),
        len({*groups}),
        tuple(full),
        tuple(found),
        tuple(made),
        cost,
    )


def _sites(model: Model, candidates: Mapping[str, Sequence[Component]]) -> list[Site]:
    edits = []
    found: list[Site] = []
    for site, components in candidates.items():
        if site not in ("heads", "neurons"):
            raise DataError(f"candidates are heads or neurons, not {site!r}")
        layers = by_layer(components, site)
        edits += [Edit(site, layer, index) for layer, index in layers.items()]
        found += [(site, int(layer), int(index)) for layer, index in components]
    # a plan that does nothing names the same components, so its check is theirs
    Plan(tuple(edits)).check(model)
    return found
