"""Find the neurons and heads that carry an emotion, prove that they cause it, and drive generation with them."""

from emotrace import planted
from emotrace.data.concepts import PAPER_SIX, ConceptSet
from emotrace.data.prompts import Prompt, prompt
from emotrace.data.sev import Group, Scenario, SevDataset, groups, load_sev, validate
from emotrace.errors import EmotraceError
from emotrace.judges.base import Reply
from emotrace.judges.bundled import BundledJudge
from emotrace.judges.likelihood import LikelihoodJudge
from emotrace.judges.structure import StructureJudge
from emotrace.models.architectures import Architecture, NormKind, register_architecture
from emotrace.models.load import BUNDLED, BUNDLED_CIRCUIT, load
from emotrace.models.traced import Model
from emotrace.remote.connection import Ndif
from emotrace.steps.causal import causal_scores
from emotrace.steps.circuit import EmotionCircuit, add, assemble
from emotrace.steps.components import (
    Scores,
    gradient_scores,
    score_components,
    score_heads,
    score_neurons,
)
from emotrace.steps.confirm import Confirmation, confirm, top_candidates
from emotrace.steps.directions import Differences, Directions, difference_vectors, emotion_directions
from emotrace.steps.discover import Study, discover
from emotrace.steps.elicit import Elicitation, elicit
from emotrace.steps.evaluate import Attempt, arm_summary, evaluate, held_out_tasks
from emotrace.steps.influence import Influence, sublayer_influence
from emotrace.steps.patching import end_gradient_scores, integrated_gradient_scores, patch_in_scores
from emotrace.steps.talk import generate
from emotrace.trace.apply import apply, check_contact
from emotrace.trace.capture import Sample, Statistics, capture
from emotrace.trace.edits import mean, patch, scale, set, zero  # noqa: F401  `set`: see __all__
from emotrace.trace.generate import GeneratedReply, generate_replies
from emotrace.trace.plan import Edit, Plan
from emotrace.trace.record import Activations, record
from emotrace.trace.resample import capture_resampled
from emotrace.trace.tokens import Span

# `emotrace.set` is left out, so that a star import leaves Python's own alone.
__all__ = [
    "BUNDLED",
    "BUNDLED_CIRCUIT",
    "PAPER_SIX",
    "Activations",
    "Architecture",
    "Attempt",
    "BundledJudge",
    "ConceptSet",
    "Confirmation",
    "Differences",
    "Directions",
    "Edit",
    "Elicitation",
    "EmotionCircuit",
    "EmotraceError",
    "GeneratedReply",
    "Group",
    "Influence",
    "LikelihoodJudge",
    "Model",
    "Ndif",
    "NormKind",
    "Plan",
    "Prompt",
    "Reply",
    "Sample",
    "Scenario",
    "Scores",
    "SevDataset",
    "Span",
    "Statistics",
    "StructureJudge",
    "Study",
    "add",
    "apply",
    "arm_summary",
    "assemble",
    "capture",
    "capture_resampled",
    "causal_scores",
    "check_contact",
    "confirm",
    "difference_vectors",
    "discover",
    "elicit",
    "emotion_directions",
    "end_gradient_scores",
    "evaluate",
    "generate",
    "generate_replies",
    "gradient_scores",
    "groups",
    "held_out_tasks",
    "integrated_gradient_scores",
    "load",
    "load_sev",
    "mean",
    "patch",
    "patch_in_scores",
    "planted",
    "prompt",
    "record",
    "register_architecture",
    "scale",
    "score_components",
    "score_heads",
    "score_neurons",
    "sublayer_influence",
    "top_candidates",
    "validate",
    "zero",
]
