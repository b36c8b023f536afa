"""The sections of the page in their order: each names the stages it needs and builds blocks from them."""

from collections.abc import Callable
from dataclasses import dataclass

from emotrace.report.blocks import Block, Drawer, Missing, Section
from emotrace.report.loading import RunFiles
from emotrace.report.sections import (
    control,
    depth,
    discovery,
    explorer,
    quality,
    record,
    replies,
    stability,
    taken_for,
)

Builder = Callable[[RunFiles, Drawer], tuple[Block, ...]]


@dataclass(frozen=True)
class SectionSpec:
    """A section: anchor, heading, builder, the stages it cannot do without, and those it also shows when there."""

    slug: str
    title: str
    build: Builder
    needs: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()


SECTIONS = (
    SectionSpec("comparison", "Comparison of methods", control.comparison, ("control",)),
    SectionSpec("explore", "Explore", explorer.explorer, ("explore",)),
    SectionSpec("frontier", "Success against fluency", control.frontier, ("control",)),
    SectionSpec("confusion", "What replies were taken for", taken_for.confusion, ("control",)),
    SectionSpec("curves", "Ablation and enhancement", discovery.curves, shows=("ablate", "enhance")),
    SectionSpec("directions", "Emotions by depth", depth.directions, ("directions",)),
    SectionSpec("components", "Scores of heads and neurons", discovery.components, ("components",)),
    SectionSpec("influence", "Influence by sublayer", discovery.influence, ("influence",)),
    SectionSpec("circuit", "The circuits", discovery.circuit, ("circuit",)),
    SectionSpec("quality", "How good the circuits are", quality.quality, ("quality",)),
    SectionSpec("stability", "Found again on other data", stability.stability, ("stability",)),
    SectionSpec("replies", "Replies side by side", replies.replies, ("control",)),
    SectionSpec("methods", "Methods", record.methods, shows=("elicit",)),
    SectionSpec("failures", "Failures and dropped groups", record.failures, shows=("control", "elicit")),
    SectionSpec("tuning", "Tuning tried", control.tuning, ("control",)),
    SectionSpec("manifest", "Manifest", record.manifest),
)


def build_sections(run: RunFiles, draw: Drawer) -> tuple[Section, ...]:
    """Every section of the run; what a stage would add that the folder lacks is named with the command for it."""
    built = []
    for spec in SECTIONS:
        missing = tuple(Missing(s, run.command(s)) for s in (*spec.needs, *spec.shows) if not run.has(s))
        complete = all(run.has(stage) for stage in spec.needs)
        built.append(Section(spec.slug, spec.title, spec.build(run, draw) if complete else (), missing))
    known = frozenset(stage for spec in SECTIONS for stage in (*spec.needs, *spec.shows)) | {"paper"}
    own = record.own_stages(run, known)
    return (*built, Section("own", "Other stages", own)) if own else tuple(built)
