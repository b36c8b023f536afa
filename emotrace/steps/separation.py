"""How well the emotions of a prompt can be told from the residual stream, layer by layer."""

from dataclasses import dataclass
from itertools import product

import torch

from emotrace.artifacts import Artifact
from emotrace.errors import DataError
from emotrace.formulas.directions import unit


@dataclass(frozen=True)
class States(Artifact):
    """Last-token states of single prompts, for figures and for reading emotions off.

    Attributes:
        emotions: E names.
        layers: K layer indices.
        states: float32 ``[N, K, 2, C]`` after attention and after the MLP, in coordinates that keep inner products
            within a layer (:func:`emotrace.trace.capture.state_coordinates`).
        label_index: int64 ``[N]`` into ``emotions``.
        clusters: the scenario of each row.
    """

    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    states: torch.Tensor
    label_index: torch.Tensor
    clusters: tuple[str, ...]


def nearest_direction_accuracy(states: States, *, folds: int = 5) -> torch.Tensor:
    """Share of held-out states whose emotion is the nearest direction, ``[K, 2]``.

    Directions are fitted on all scenarios but one fold's, on states centred on the training mean; chance is 1 / E.
    Raises ``DataError`` for fewer than two scenarios.
    """
    names = list(dict.fromkeys(states.clusters))
    if len(names) < 2:
        raise DataError(f"separation is cross-validated over scenarios and needs two or more, got {len(names)}")
    fold = torch.tensor([names.index(cluster) % folds for cluster in states.clusters])
    right = torch.zeros(states.states.shape[1:3], dtype=torch.float64)
    for held_out in range(folds):
        train, test = fold != held_out, fold == held_out
        if not bool(test.any()) or not bool(train.any()):
            continue
        values, labels = states.states.double(), states.label_index
        centre = values[train].mean(0)
        means = torch.stack([values[train & (labels == e)].mean(0) - centre for e in range(len(states.emotions))])
        similarity = torch.einsum("nkpd,ekpd->nkpe", values[test] - centre, unit(means))
        right += (similarity.argmax(-1) == labels[test][:, None, None]).double().sum(0)
    return right / len(states.clusters)


def cosines(vectors: torch.Tensor) -> list[list[float]]:
    """Cosine similarities of ``[E, D]`` vectors, ``[E][E]``."""
    units = unit(vectors)
    return [[round(value, 6) for value in row] for row in (units @ units.T).tolist()]


def alignment(vectors: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Cosine of every direction with its emotion's reference: ``[E, L, 2, D]`` and ``[E, D]`` to ``[E, L, 2]``."""
    return torch.einsum("elpd,ed->elp", unit(vectors), unit(reference))


def depth_similarity(vectors: torch.Tensor) -> torch.Tensor:
    """Cosines between one emotion's directions at every two places, ``[E, L, 2, D]`` to ``[E, 2L, 2L]``.

    Places run through the model: attention of layer 0, MLP of layer 0, attention of layer 1, and so on.
    """
    places = unit(vectors).flatten(1, 2)
    return places @ places.mT


def nearest_neighbours(states: States) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of states whose nearest other state has the same emotion, and the same scenario, each ``[K, 2]``.

    Distances are Euclidean. Raises ``DataError`` for fewer than two states.
    """
    if len(states.states) < 2:
        raise DataError(f"a nearest neighbour needs two states or more, got {len(states.states)}")
    numbers = {cluster: number for number, cluster in enumerate(states.clusters)}
    scenario = torch.tensor([numbers[cluster] for cluster in states.clusters])
    found = torch.empty(2, *states.states.shape[1:3], dtype=torch.float64)
    for layer, sublayer in product(*map(range, found.shape[1:])):  # one at a time: distances are N x N
        values = states.states[:, layer, sublayer].double()
        apart = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
        at = apart.fill_diagonal_(torch.inf).argmin(-1)
        for row, index in enumerate((states.label_index, scenario)):
            found[row, layer, sublayer] = (index[at] == index).double().mean()
    return found[0], found[1]
