"""Elicit replies in every emotion and keep the groups that worked."""

import hashlib
import json
from typing import Any

from emotrace.data.sev import groups
from emotrace.errors import DataError, RunError
from emotrace.runner import Run, protocol
from emotrace.steps.elicit import Elicitation
from emotrace.steps.elicit import elicit as elicit_replies


@protocol(needs=[], shards=True)
def elicit(run: Run, *, scenarios: int = 0, max_new_tokens: int = 64) -> dict[str, Any]:
    """Ask for every emotion, and for none, on the training scenarios, and judge the replies blind.

    A group (scenario and event) is used further on when its replies were accepted in every emotion.
    `scenarios` limits how many training scenarios are used (0 for all).
    """
    if scenarios < 0:
        raise DataError(f"scenarios={scenarios}: give a number of scenarios, or 0 for all")
    chosen = groups(run.share(run.data.train[: scenarios or None]))
    if run.shards:
        for shard in run.shards:
            held, made = len(shard.records("elicit", "replies")), shard.summary("elicit")["replies"]
            if held != made:
                raise RunError(f"{shard.folder}: {held} replies are left of {made}; run this shard again with --force")
        elicited = Elicitation.from_records(run.concepts.labels, run.gathered("replies", by="skeleton_id"))
    else:
        elicited = elicit_replies(
            run.model,
            chosen,
            run.concepts,
            run.judge,
            structure=run.structure,
            max_new_tokens=max_new_tokens,
            batch_tokens=run.batch_tokens,
            ledger=run.ledger,
        )
    run.write_records("replies", elicited.to_records())
    shown = json.dumps([[reply.group_id, reply.condition, reply.prompt_ids] for reply in elicited.replies])
    checked = [reply.structure for reply in elicited.replies]
    return {
        "groups": len(chosen),
        "accepted_groups": len(elicited.accepted_groups),
        "dropped_groups": len(elicited.dropped_groups),
        "acceptance": elicited.acceptance(),
        "structure_accepted": sum(map(bool, checked)) / len(checked),
        "distinct_replies": len({reply.reply for reply in elicited.replies}),
        "replies": len(elicited.replies),
        "prompts_sha256": hashlib.sha256(shown.encode()).hexdigest(),
    }
