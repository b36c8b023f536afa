"""Find the neurons and heads that carry an emotion, prove that they cause it, and drive generation with them."""

from emotrace.data.concepts import PAPER_SIX, ConceptSet
from emotrace.data.prompts import Prompt, prompt
from emotrace.data.sev import Group, Scenario, SevDataset, groups, load_sev, validate
from emotrace.errors import EmotraceError
from emotrace.judges.base import Reply
from emotrace.judges.bundled import BundledJudge
from emotrace.judges.structure import StructureJudge
from emotrace.models.load import BUNDLED_CIRCUIT, load
from emotrace.models.traced import Model
from emotrace.steps.circuit import EmotionCircuit, add, assemble
from emotrace.steps.components import Scores, causal_scores, score_components, score_heads, score_neurons
from emotrace.steps.directions import Differences, Directions, difference_vectors, emotion_directions
from emotrace.steps.discover import Study, discover
from emotrace.steps.elicit import Elicitation, elicit
from emotrace.steps.evaluate import Attempt, arm_summary, evaluate, held_out_tasks
from emotrace.steps.influence import Influence, sublayer_influence
from emotrace.steps.talk import generate
from emotrace.trace.apply import apply
from emotrace.trace.capture import Sample, Statistics, capture
from emotrace.trace.plan import Plan, replace, scale, shift, shift_sublayer, zero

__all__ = [
    "BUNDLED_CIRCUIT",
    "PAPER_SIX",
    "Attempt",
    "BundledJudge",
    "ConceptSet",
    "Differences",
    "Directions",
    "Elicitation",
    "EmotionCircuit",
    "EmotraceError",
    "Group",
    "Influence",
    "Model",
    "Plan",
    "Prompt",
    "Reply",
    "Sample",
    "Scenario",
    "Scores",
    "SevDataset",
    "Statistics",
    "StructureJudge",
    "Study",
    "add",
    "apply",
    "arm_summary",
    "assemble",
    "capture",
    "causal_scores",
    "difference_vectors",
    "discover",
    "elicit",
    "emotion_directions",
    "evaluate",
    "generate",
    "groups",
    "held_out_tasks",
    "load",
    "load_sev",
    "prompt",
    "replace",
    "scale",
    "score_components",
    "score_heads",
    "score_neurons",
    "shift",
    "shift_sublayer",
    "sublayer_influence",
    "validate",
    "zero",
]
