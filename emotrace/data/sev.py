"""Scenario-event sets in SEV format: schema, loader and validation (Wang et al. 2025, section 3.1)."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from emotrace.data.concepts import PAPER_SIX, ConceptSet
from emotrace.errors import DataError

VALENCES = ("positive", "neutral", "negative")
SPLITS = ("train", "validation", "test")
SHIPPED = {"sev-mini": "sev_mini"}


@dataclass(frozen=True)
class Scenario:
    """One scenario with an event for each valence. ``skeleton_id`` is unique per scenario."""

    theme: str
    scenario: str
    event: Mapping[str, str]
    skeleton_id: str

    def groups(self) -> tuple["Group", ...]:
        """The scenario with each of its events, in the order of ``VALENCES``."""
        return tuple(Group(self, valence) for valence in VALENCES)


@dataclass(frozen=True)
class Group:
    """One scenario with one event; holds one prompt per emotion."""

    scenario: Scenario
    valence: str

    @property
    def id(self) -> str:
        return f"{self.scenario.skeleton_id}/{self.valence}"

    @property
    def skeleton_id(self) -> str:
        return self.scenario.skeleton_id

    @property
    def event(self) -> str:
        return self.scenario.event[self.valence]


@dataclass(frozen=True)
class SevDataset:
    """Scenarios split by ``skeleton_id`` into train, validation and test."""

    name: str
    train: tuple[Scenario, ...]
    validation: tuple[Scenario, ...]
    test: tuple[Scenario, ...]

    @property
    def sha256(self) -> str:
        """Hash of the content (not of the file's bytes), kept in manifests."""
        rows = [
            [split, s.theme, s.scenario, dict(s.event), s.skeleton_id] for split in SPLITS for s in self.split(split)
        ]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def split(self, name: str) -> tuple[Scenario, ...]:
        """Scenarios of one split; raises ``DataError`` for a name that is not in ``SPLITS``."""
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}: choose one of {', '.join(SPLITS)}")
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def groups(scenarios: Iterable[Scenario]) -> list[Group]:
    """Every (scenario, valence) pair, scenario by scenario."""
    return [group for scenario in scenarios for group in scenario.groups()]


def load_sev(source: str | Path) -> SevDataset:
    """Load a shipped set by name (``"sev-mini"``), a folder of ``train|validation|test.jsonl``, or one JSONL file.

    >>> data = load_sev("sev-mini")
    >>> len(data.train), len(data.validation), len(data.test)
    (80, 40, 80)

    One file is split 60/20/20 by a hash of ``skeleton_id``, so adding scenarios never moves the others between splits.
    Raises ``DataError`` naming file, line and field of the first bad record, or the shipped sets when nothing is found.
    """
    if str(source) in SHIPPED:
        folder = Path(str(resources.files("emotrace.data") / SHIPPED[str(source)]))
        return _load_folder(folder, str(source))
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, path.name)
    if not path.is_file():
        raise DataError(f"no such dataset: {source}. Give a .jsonl file, a folder, or one of {', '.join(SHIPPED)}")
    parts: dict[str, list[Scenario]] = {split: [] for split in SPLITS}
    for scenario in read_jsonl(path):
        parts[_hashed_split(scenario.skeleton_id)].append(scenario)
    return SevDataset(path.stem, *(tuple(parts[split]) for split in SPLITS))


def read_jsonl(path: Path) -> list[Scenario]:
    """Scenarios of one file, in file order; raises ``DataError`` with ``file:line`` and the field at fault."""
    scenarios: list[Scenario] = []
    first_line: dict[str, int] = {}
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from error
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from error
            scenario = _parse(record, where)
            if scenario.skeleton_id in first_line:
                raise DataError(
                    f"{where}: field 'skeleton_id': {scenario.skeleton_id!r} already used on line "
                    f"{first_line[scenario.skeleton_id]}; it must be unique per scenario"
                )
            first_line[scenario.skeleton_id] = number
            scenarios.append(scenario)
    if not scenarios:
        raise DataError(f"{path}: holds no records")
    return scenarios


def validate(dataset: SevDataset, concepts: ConceptSet = PAPER_SIX) -> list[str]:
    """Problems that make a study unsound, as sentences; empty when there are none.

    >>> validate(load_sev("sev-mini"))
    []

    Looks for duplicated texts, explicit emotion words (``concepts.lexicon``) in a scenario or event, and overlap of
    scenario text or ``skeleton_id`` between splits.
    """
    problems: list[str] = []
    words = {word: label for label, group in concepts.lexicon.items() for word in group}
    seen: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for scenario in dataset.split(split):
            for key in (f"id {scenario.skeleton_id}", f"scenario text {scenario.scenario!r}"):
                if key in seen:
                    problems.append(f"{split}/{scenario.skeleton_id}: {key} also in {'/'.join(seen[key])}")
                seen[key] = (split, scenario.skeleton_id)
            repeated = [text for text, n in Counter(scenario.event.values()).items() if n > 1]
            problems += [f"{split}/{scenario.skeleton_id}: event {text!r} serves two valences" for text in repeated]
            for field, text in {"scenario": scenario.scenario, **scenario.event}.items():
                leaks = [word for word in re.findall(r"[a-z']+", text.lower()) if word in words]
                problems += [
                    f"{split}/{scenario.skeleton_id}: {field} names {words[word]} outright ({word!r})" for word in leaks
                ]
    return problems


def dump_jsonl(scenarios: Sequence[Scenario], path: Path) -> None:
    """Write scenarios in SEV format, one record a line."""
    lines = [
        json.dumps(
            {"theme": s.theme, "scenario": s.scenario, "event": dict(s.event), "skeleton_id": s.skeleton_id},
            ensure_ascii=False,
        )
        for s in scenarios
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _load_folder(folder: Path, name: str) -> SevDataset:
    missing = [split for split in SPLITS if not (folder / f"{split}.jsonl").is_file()]
    if missing:
        raise DataError(f"{folder}: no {', '.join(f'{split}.jsonl' for split in missing)}")
    dataset = SevDataset(name, *(tuple(read_jsonl(folder / f"{split}.jsonl")) for split in SPLITS))
    counts = Counter(s.skeleton_id for split in SPLITS for s in dataset.split(split))
    shared = sorted(identifier for identifier, count in counts.items() if count > 1)
    if shared:
        raise DataError(f"{folder}: skeleton_id in more than one split: {', '.join(shared[:5])}")
    return dataset


def _parse(record: object, where: str) -> Scenario:
    if not isinstance(record, dict):
        raise DataError(f"{where}: a record is a JSON object, got {type(record).__name__}")
    for field in ("theme", "scenario", "skeleton_id"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise DataError(f"{where}: field {field!r} must be a non-empty string, got {record.get(field)!r}")
    event = record.get("event")
    if not isinstance(event, dict):
        raise DataError(f"{where}: field 'event' must be an object with {', '.join(VALENCES)}, got {event!r}")
    for valence in VALENCES:
        if not isinstance(event.get(valence), str) or not event[valence].strip():
            raise DataError(f"{where}: field 'event.{valence}' must be a non-empty string, got {event.get(valence)!r}")
    unknown = sorted(set(event) - set(VALENCES))
    if unknown:
        raise DataError(f"{where}: field 'event' has unknown valence {unknown[0]!r}; only {', '.join(VALENCES)}")
    return Scenario(record["theme"], record["scenario"], {v: event[v] for v in VALENCES}, record["skeleton_id"])


def _hashed_split(skeleton_id: str) -> str:
    bucket = int.from_bytes(hashlib.sha256(skeleton_id.encode()).digest()[:4], "big") % 10
    return "train" if bucket < 6 else "validation" if bucket < 8 else "test"
