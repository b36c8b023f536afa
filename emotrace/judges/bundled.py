"""The judge that ships with the package: a linear classifier over a reply's text, blind to prompt and target."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax

from emotrace.artifacts import Artifact
from emotrace.errors import ArtifactError
from emotrace.judges.base import ABSTAIN, INCOHERENT, Reply, Verdict
from emotrace.judges.bundled_features import content_features, order_features

FOLDER = Path(str(resources.files("emotrace.judges") / "bundled_data"))
WEIGHTS = "judge.safetensors"


@dataclass(frozen=True)
class BundledWeights(Artifact):
    """Fitted numbers of the judge; hashing fixes what each column means.

    Attributes:
        content: [classes, content features] float16, logits of the emotions and neutral.
        content_bias: [classes] float32.
        order: [order features] float16, the logit of "incoherent".
        order_bias: [1] float32.
        classes: the emotions, then neutral.
        threshold: below this score of its best label the judge abstains; chosen on validation text.
    """

    content: torch.Tensor
    content_bias: torch.Tensor
    order: torch.Tensor
    order_bias: torch.Tensor
    classes: tuple[str, ...]
    threshold: float


@dataclass(frozen=True)
class BundledJudge:
    """Forced choice among six emotions, neutral and incoherent from ``Reply.text`` alone (``judges.base.Judge``).

    One logistic regression asks whether the text is English in order, another which class it expresses; a label's score
    is p(coherent) x p(class), or p(incoherent). Scores sum to 1. ``bundled_data/CARD.md`` says how it was made, where
    it fails and how often.
    """

    weights: BundledWeights

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """The shipped judge, or weights written by ``python -m emotrace.judges.bundled_train --out FOLDER``.

        Raises ``ArtifactError`` when the file is missing, not a judge, or of other features than this version computes.
        """
        source = Path(path) if path is not None else FOLDER / WEIGHTS
        judge = cls(BundledWeights.load(source))
        expected = (content_features([""]).shape[1], order_features([""]).shape[1])
        found = (judge.weights.content.shape[1], judge.weights.order.shape[0])
        if found != expected:
            raise ArtifactError(f"{source}: weights for {found} features, this version computes {expected}: retrain it")
        return judge

    @property
    def name(self) -> str:
        return "bundled"

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.weights.classes, INCOHERENT)

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Score per text and label: [N, labels] float64, rows sum to 1."""
        if not texts:
            return np.empty((0, len(self.labels)))
        content, order = self._matrices
        classes = softmax(content_features(texts) @ content.T + self.weights.content_bias.numpy(), axis=1)
        incoherent = expit(order_features(texts) @ order + self.weights.order_bias.numpy())[:, None]
        return np.asarray(np.hstack([classes * (1 - incoherent), incoherent]), dtype=np.float64)

    def judge(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict per reply, in order; ``abstain`` when the best label's score is under the threshold."""
        distinct = sorted({reply.text for reply in replies})
        verdicts = dict(zip(distinct, map(self._verdict, self.scores(distinct)), strict=True))
        return [verdicts[reply.text] for reply in replies]

    def _verdict(self, row: NDArray[np.float64]) -> Verdict:
        scores = dict(zip(self.labels, row.tolist(), strict=True))
        best = max(scores, key=scores.__getitem__)
        if scores[best] >= self.weights.threshold:
            return Verdict(best, scores)
        unsure = f"unsure: best score {scores[best]:.2f} ({best}) is under {self.weights.threshold:.2f}"
        return Verdict(ABSTAIN, scores, (unsure,))

    @cached_property
    def _matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.weights.content.double().numpy(), self.weights.order.double().numpy()
