"""What a protocol is given: the model, the data, the judges, and the run folder, seen from its stage."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from emotrace.artifacts import Artifact, written_aside
from emotrace.data.concepts import PAPER_SIX, ConceptSet
from emotrace.data.sev import SevDataset, load_sev
from emotrace.errors import RunError
from emotrace.judges.base import Judge
from emotrace.ledger import Ledger
from emotrace.runner.cache import key_of, model_key
from emotrace.runner.results import Results
from emotrace.runner.shards import Item, Shard, checked_shard, dealt, put_back, shard_name

if TYPE_CHECKING:
    from emotrace.judges.structure import StructureJudge
    from emotrace.models.traced import Model
    from emotrace.remote.connection import Ndif


@dataclass
class Inputs:
    """Everything a run starts from. Model and judges are loaded when first asked for, once for all stages.

    Attributes:
        source: a model's name or folder, or anything ``emotrace.models.load.load`` accepts.
        data_source: a shipped dataset's name, a folder or a file in SEV format.
        concepts: the emotions under study.
        seed: start of every random choice.
        batch_tokens: token budget of a batch.
        dtype: torch dtype's name, or ``None`` for the model's default.
        device: torch device's name, or ``None`` for the default.
        remote: run the model on NDIF: True, a host's URL, or an :class:`emotrace.Ndif`.
        custom_judge: a judge to use in place of the bundled one.
        shard: which share of the training scenarios, from 1, and of how many; ``None`` for all of them.
        merged: run folders of all shards, in order, that a merge adds up (:func:`emotrace.runner.merge.merge_shards`).
    """

    source: Any = "bundled"
    data_source: str | Path = "sev-mini"
    concepts: ConceptSet = PAPER_SIX
    seed: int = 0
    batch_tokens: int = 4096
    dtype: str | None = None
    device: str | None = None
    remote: "bool | str | Ndif" = False
    custom_judge: Judge | None = None
    shard: Shard | None = None
    merged: tuple[Path, ...] = field(default=(), init=False)
    loaded: bool = field(default=False, init=False)
    _watch: Callable[[str, bool], None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise RunError(f"no dtype {self.dtype!r}: use float32, bfloat16, float16 or float64")
        if self.shard is not None:
            checked_shard(self.shard)

    @cached_property
    def model(self) -> "Model":
        from emotrace.models.load import load

        model = load(self.source, dtype=self.dtype, device=self.device, remote=self.ndif or False)
        self.loaded = True
        if model.connection is not None and self._watch is not None:
            model.connection.watch = self._watch
        return model

    @cached_property
    def ndif(self) -> "Ndif | None":
        """The server that runs the model; None for one that is here."""
        connection = getattr(self.source, "connection", None)
        if connection is not None:
            return cast("Ndif", connection.settings)
        if not self.remote:
            return None
        from emotrace.remote.connection import as_ndif

        return as_ndif(self.remote)

    def listen(self, watch: Callable[[str, bool], None]) -> None:
        """From now on ``watch`` is told what a server says of jobs (``emotrace.remote.connection.Connection``)."""
        self._watch = watch
        if self.loaded and self.model.connection is not None:
            self.model.connection.watch = watch

    @cached_property
    def data(self) -> SevDataset:
        return load_sev(self.data_source)

    @cached_property
    def judge(self) -> Judge:
        if self.custom_judge is not None:
            return self.custom_judge
        from emotrace.judges.bundled import BundledJudge

        return BundledJudge.load()

    @cached_property
    def structure(self) -> "StructureJudge":
        from emotrace.judges.structure import StructureJudge

        return StructureJudge()

    @property
    def model_id(self) -> str:
        return str(self.source) if isinstance(self.source, str | Path) else str(self.model.identity)

    def counters(self) -> Mapping[str, float]:
        """The model's counters so far; none before it is loaded."""
        return dict(getattr(self.model, "spent", {})) if self.loaded else {}

    @cached_property
    def parts(self) -> dict[str, Any]:
        """What every stage's key holds of the inputs; a model known by name is not loaded for it."""
        if isinstance(self.source, str | Path):
            model: dict[str, Any] = model_key(str(self.source))
        else:
            model = {"name": self.model_id, "fingerprint": key_of({"fingerprint": fingerprint(self.model)})}
        return {
            "model": {**model, "dtype": self.dtype or "default", "remote": self.ndif.url if self.ndif else False},
            "data": self.data.sha256,
            "concepts": self.concepts.name,
            "judge": "bundled" if self.custom_judge is None else self.custom_judge.name,
            "seed": self.seed,
            "batch_tokens": self.batch_tokens,
            **({} if self.shard is None else {"shard": shard_name(self.shard)}),
        }


@dataclass(frozen=True)
class Run(Results):
    """A run folder seen from one stage; the first argument of every protocol.

    Attributes:
        folder: the run folder.
        stage: name of the stage being computed.
        reachable: stages it may read: those it needs, and what they need.
        inputs: model, data, judges and settings, shared by all stages.
        ledger: runs batches and keeps each finished one in the stage's folder.
    """

    inputs: Inputs
    ledger: Ledger

    @property
    def model(self) -> "Model":
        return self.inputs.model

    @property
    def model_id(self) -> str:
        return self.inputs.model_id

    @property
    def data(self) -> SevDataset:
        return self.inputs.data

    @property
    def concepts(self) -> ConceptSet:
        return self.inputs.concepts

    @property
    def judge(self) -> Judge:
        return self.inputs.judge

    @property
    def structure(self) -> "StructureJudge":
        return self.inputs.structure

    @property
    def seed(self) -> int:
        return self.inputs.seed

    @property
    def batch_tokens(self) -> int:
        return self.inputs.batch_tokens

    @property
    def shard(self) -> Shard | None:
        return self.inputs.shard

    @property
    def shards(self) -> tuple[Results, ...]:
        """In a merge, what every shard's run left, in order: to be added up, not measured again. Else empty."""
        return tuple(Results(folder, self.stage, self.reachable) for folder in self.inputs.merged)

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items (scenarios) that are this shard's, all of them without a shard; ``RunError`` when none is."""
        return dealt(items, self.inputs.shard)

    def gathered(self, name: str, *, by: str) -> list[dict[str, Any]]:
        """In a merge, this stage's records ``name`` of all shards, in the order of a run without shards.

        ``by`` is the field that tells one shared item's records, which stand together, from the next one's. Raises
        ``RunError`` when the shards do not hold equal shares.
        """
        kept = [groupby(shard.records(self.stage, name), itemgetter(by)) for shard in self.shards]
        return [record for item in put_back([[list(part) for _, part in parts] for parts in kept]) for record in item]

    def save(self, name: str, artifact: Artifact) -> Path:
        """Keep an artifact as ``stages/<stage>/<name>.safetensors``."""
        return artifact.save(self.stage_folder / f"{name}.safetensors")

    def write_records(self, name: str, records: Sequence[Mapping[str, Any]]) -> Path:
        """Keep records as ``stages/<stage>/<name>.jsonl``; raises ``RunError`` when a record is not JSON."""
        target = self.stage_folder / f"{name}.jsonl"
        with written_aside(target) as aside, aside.open("w", encoding="utf-8") as file:
            for number, record in enumerate(records):
                file.write(strict_json(record, f"{self.stage}: record {number} of {name!r}") + "\n")
        return target


def fingerprint(model: Any) -> Any:
    """The model's fingerprint as JSON."""
    value = model.fingerprint() if callable(model.fingerprint) else model.fingerprint
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def strict_json(value: object, what: str) -> str:
    """``value`` as JSON on one line; raises ``RunError`` naming the place of what is not JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(f"{what} is not JSON: {_fault(value, lambda v: json.dumps(v, allow_nan=False))}") from error


def _fault(value: object, dump: Callable[[object], str], path: str = "") -> str:
    """Path and repr of the innermost part that cannot be dumped."""
    items: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    for key, item in items:
        try:
            dump(item)
        except (TypeError, ValueError):
            return _fault(item, dump, f"{path}[{key!r}]")
    return f"{path or 'the value itself'} = {value!r:.80}"
