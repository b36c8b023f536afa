"""Sections that put the run itself on record: methods, failures, the manifest, stages of the user's own."""

from collections.abc import Mapping
from typing import Any

from emotrace.report.blocks import Block, Cell, Drawer, Fold, Table, Text
from emotrace.report.loading import RunFiles
from emotrace.report.sections.control import settings
from emotrace.report.sections.replies import verdict
from emotrace.report.wording import counted, facts, number, percent
from emotrace.runner.protocol import load_protocol, shipped


def methods(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """What was run, stage by stage, with the parameters it ran with."""
    blocks: list[Block] = []
    if run.has("elicit"):
        blocks.append(_elicitation(run.stage("elicit")))
    stages = run.manifest.get("stages")
    if isinstance(stages, Mapping):
        for name, stage in stages.items():
            blocks.append(Fold(f"Stage {name}", _stage(name, stage)))
    blocks += settings(run)
    if not blocks:
        blocks.append(Text("The folder's manifest names no stages."))
    return tuple(blocks)


def failures(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Every circuit reply that was not judged as asked, and every group that elicitation dropped."""
    blocks: list[Block] = []
    if run.has("control"):
        mine = [record for record in run.records("control") if record["arm"] == "circuit"]
        wrong = [record for record in mine if record["label"] != record["emotion"]]
        blocks.append(
            Text(
                f"{len(wrong):,} of {counted(len(mine), 'circuit reply')} kept by this run "
                f"{'is' if len(wrong) == 1 else 'are'} not judged as asked."
            )
        )
        if wrong:
            blocks.append(
                Fold("Every circuit reply that failed", (_failed(wrong),), is_open=len(wrong) <= 10),
            )
    if run.has("elicit"):
        summary = run.stage("elicit")
        refused = [
            record for record in run.records("elicit") if record["condition"] != "neutral" and not record["accepted"]
        ]
        blocks.append(
            Text(
                f"{summary['dropped_groups']:,} of {counted(summary['groups'], 'group')} dropped from discovery, "
                "because at least one emotion's reply was not accepted."
            )
        )
        if refused:
            blocks.append(Fold("Every reply that dropped its group", (_refused(refused),), is_open=len(refused) <= 10))
    return tuple(blocks)


def manifest(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """The manifest in full."""
    if not run.manifest:
        return (Text("This folder has no manifest.json.", "bad"),)
    rest = {key: value for key, value in run.manifest.items() if key != "stages"}
    blocks: list[Block] = [facts(rest)]
    if isinstance(run.manifest.get("stages"), Mapping):
        blocks.append(Fold("Stages", (facts(run.manifest["stages"]),)))
    return tuple(blocks)


def own_stages(run: RunFiles, known: frozenset[str]) -> tuple[Block, ...]:
    """Stages the page has no section for: the numbers their protocols returned."""
    return tuple(
        Fold(f"Stage {name}", (facts(value),), is_open=True)
        for name, value in run.summary.items()
        if name not in known and isinstance(value, Mapping) and value
    )


def _elicitation(summary: Mapping[str, Any]) -> Table:
    rows = (
        ("groups: one scenario and event, prompted for every emotion", _number(number(summary["groups"]))),
        ("groups in which every emotion's reply was accepted", _number(number(summary["accepted_groups"]))),
        ("groups dropped", _number(number(summary["dropped_groups"]))),
        ("replies, distinct", _number(f"{summary['replies']:,}, {summary['distinct_replies']:,}")),
        ("replies accepted by the structural parser", _number(percent(summary["structure_accepted"]))),
        *((f"accepted, {name}", _number(percent(share))) for name, share in summary["acceptance"].items()),
    )
    return Table("Elicitation: the replies that discovery stands on.", ("what", "value"), rows)


def _stage(name: str, stage: Mapping[str, Any]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if name in shipped():
        blocks.append(Text(load_protocol(name).help))
    parameters = stage["parameters"]
    blocks.append(facts(parameters) if parameters else Text("It takes no parameters."))
    cost = {key: value for key, value in stage.items() if key in ("seconds", "computed", "counters")}
    return (*blocks, facts(cost))


def _failed(records: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            record["emotion"],
            verdict(record["label"], record["emotion"]),
            Cell(record["reply"], "reply"),
            Cell(f"{record['scenario']} {record['event']}", "reply"),
        )
        for record in records
    )
    return Table(
        "Circuit replies not judged as asked.", ("asked for", "judged as", "reply", "scenario"), rows, stacks=True
    )


def _refused(records: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            record["group_id"],
            record["condition"],
            verdict(record["label"], record["condition"]),
            Cell(record["reply"], "reply"),
        )
        for record in records
    )
    return Table(
        "Elicited replies that were not accepted.", ("group", "asked for", "judged as", "reply"), rows, stacks=True
    )


def _number(text: str) -> Cell:
    return Cell(text, "number")
