"""Weights of a planted model: random ones that keep to the ordinary part of the residual stream, and planted ones."""

from collections.abc import Sequence
from typing import Any

import torch

from emotrace.errors import ModelError
from emotrace.models.architectures import Sizes
from emotrace.planted.families import certainty
from emotrace.planted.frame import SCALE, Frame
from emotrace.planted.layout import BACKUP, INERT, Head, Layout, Neuron
from emotrace.planted.readings import CONSTANT_UP, LOGIT, SILENCER, THRESHOLD, natural
from emotrace.planted.words import ASSISTANT, END, Vocabulary

SHARPNESS = 2.0
"""Spread of ordinary queries and keys: attention of ordinary heads is uneven."""
WRITE = 0.15
"""Root mean square of what ordinary components of a sublayer add, beside 1 of the embeddings."""
SILU_RMS = 0.6
"""About that of ``silu(x) y`` for standard normal x and y."""
VALUE = 2.0
"""What a planted head's value is at its emotion's word."""
CHAIN = 4 * LOGIT
"""Logit of the reply's next word, from the word before it."""
UNRELATED = 0.5
"""Spread of the logits of all other words."""
REACH = 128
"""Tokens that an instruction may lie before the last one at the very least."""


class Writer:
    """Fills a model's weights in place.

    Args:
        model: the Hugging Face model; every weight is overwritten.
        sizes: its sizes.
        frame: the reserved directions.
        layout: what is planted.
        emotions: their names.
        leak: of the identity of emotion words into their ordinary embeddings.
        draw: makes everything random.
    """

    def __init__(
        self,
        model: Any,
        sizes: Sizes,
        frame: Frame,
        layout: Layout,
        emotions: Sequence[str],
        leak: float,
        draw: torch.Generator,
    ) -> None:
        self.model, self.sizes, self.frame, self.layout = model, sizes, frame, layout
        self.emotions, self.leak, self.draw = emotions, leak, draw
        self.unit = sizes.width**0.5 / 16
        self.reach = self._reach()

    def fill(self, held: Vocabulary) -> None:
        """Write every weight; norms become ones and biases zero."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.dim() == 1:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            for layer, block in enumerate(self.model.model.layers):
                self._attention(block.self_attn, [h for h in self.layout.heads if h.place[0] == layer])
                self._mlp(block.mlp, [n for n in self.layout.neurons if n.place[0] == layer])
            self._words(held)

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.draw)

    def _reading(self, rows: int, spread: float) -> torch.Tensor:
        """Rows ``[rows, D]`` that give ordinary states values of this spread."""
        return self.frame.outside(self._random(rows, self.sizes.width)) * (spread * SCALE / self.sizes.width**0.5)

    def _writing(self, columns: int, spread: float) -> torch.Tensor:
        """Columns ``[D, columns]``; values of root mean square 1 add up to a vector of this one."""
        return self.frame.outside(self._random(columns, self.sizes.width)).T * (spread / columns**0.5)

    def _code(self, emotion: int) -> torch.Tensor:
        return self.frame.reader(f"code {emotion}", self.unit)

    def _constant(self, value: float) -> torch.Tensor:
        """The row that gives every state this value."""
        return self.frame.reader("constant", self.frame.constant) * value

    def _marker(self, site: str, number: int | None, value: float) -> torch.Tensor:
        """The row that gives a state with the marker this value."""
        return self.frame.reader(f"{site} marker {number}", self.unit / 2) * value

    def _marks(self, site: str, number: int | None) -> torch.Tensor:
        return self.frame[f"{site} marker {number}"] * (self.unit / 2)

    def _reach(self) -> int:
        """Tokens over which planted heads are certain: their slowest rotary pairs turn by less than one radian."""
        pairs = self.sizes.head_width // 2
        used = 1 + max(len(group) for group in self._groups(self.layout.heads).values())
        if used >= pairs:
            raise ModelError(
                f"heads of width {self.sizes.head_width} have too few rotary pairs for {used - 1} planted heads that "
                "share keys and values: take wider heads, or fewer query heads for each key-value head"
            )
        speeds = self.model.model.rotary_emb.inv_freq
        reach = int(1 / float(speeds[pairs - used]))
        if reach < REACH:
            raise ModelError(
                f"rotary pairs of heads of width {self.sizes.head_width} turn too fast: a planted head would see "
                f"{reach} tokens back, and {REACH} are needed; take wider heads or a larger rope_theta"
            )
        return reach

    def _groups(self, heads: Sequence[Head]) -> dict[tuple[int, int], list[Head]]:
        """Planted heads by layer and key-value head."""
        sharing = self.sizes.heads // self.sizes.key_value_heads
        groups: dict[tuple[int, int], list[Head]] = {}
        for head in heads:
            groups.setdefault((head.place[0], head.place[1] // sharing), []).append(head)
        return groups

    def _attention(self, module: Any, planted: Sequence[Head]) -> None:
        sizes, width = self.sizes, self.sizes.head_width
        sharing, pairs = sizes.heads // sizes.key_value_heads, width // 2
        query = self._reading(sizes.heads * width, SHARPNESS).unflatten(0, (sizes.heads, width))
        key = self._reading(sizes.key_value_heads * width, SHARPNESS).unflatten(0, (sizes.key_value_heads, width))
        value = self._reading(sizes.key_value_heads * width, 1.0).unflatten(0, (sizes.key_value_heads, width))
        out = self._writing(sizes.heads * width, WRITE).unflatten(1, (sizes.heads, width))
        groups = self._groups(planted)
        certain = certainty(self.model.config, width, SHARPNESS, max(map(len, groups.values()), default=1))
        for number in range(1 + max(map(len, groups.values())) if groups else 0):
            slow = pairs - 1 - number  # a pair is (i, i + width / 2); only its first coordinate is used
            for rows in (query, key):
                rows[:, slow] = rows[:, slow + pairs] = 0
            if certain.gain is not None:
                for norm in (module.q_norm, module.k_norm):
                    norm.weight[slow] = certain.gain
        for (_, group), members in groups.items():
            dims = torch.randperm(width, generator=self.draw)[: len(members)].tolist()
            siblings = slice(group * sharing, (group + 1) * sharing)
            # the group's other heads look past every emotion's name, or they would carry what is copied
            codes = torch.stack([self._code(e) for e in range(len(self.emotions))])
            key[group, pairs - 1] = codes.sum(0) * certain.key
            query[siblings, pairs - 1] = self._constant(-certain.query)
            for number, (head, dim) in enumerate(zip(members, dims, strict=True), start=1):
                slow, me = pairs - 1 - number, head.place[1]
                key[group, slow] = (2 * codes[head.emotion] - codes.sum(0)) * certain.key
                value[group, dim] = codes[head.emotion] * VALUE
                query[me, pairs - 1] = 0
                query[me, slow] = self._constant(certain.query)
                if head.kind == BACKUP:
                    query[me, slow] -= self._marker("heads", head.marker, 2 * certain.query)
            out[:, siblings][:, :, dims] = 0
            for head, dim in zip(members, dims, strict=True):
                out[:, head.place[1]] = 0  # what else it attends to depends on the emotion, and must not be seen
                out[:, head.place[1], dim] = self._head_writes(head) / VALUE
        for projection, rows in (("q_proj", query), ("k_proj", key), ("v_proj", value)):
            getattr(module, projection).weight.copy_(rows.flatten(0, 1))
        module.o_proj.weight.copy_(out.flatten(1))

    def _head_writes(self, head: Head) -> torch.Tensor:
        where = "dead" if head.kind == INERT else "copied"
        written = self.frame[f"{where} {head.emotion}"] * (head.share * self.unit)
        if head.marker is not None and head.kind != BACKUP:
            written = written + self._marks("heads", head.marker)
        return written

    def _mlp(self, module: Any, planted: Sequence[Neuron]) -> None:
        gate, up = self._reading(self.sizes.neurons, 1.0), self._reading(self.sizes.neurons, 1.0)
        down = self._writing(self.sizes.neurons, WRITE / SILU_RMS)
        for neuron in planted:
            index, copied = neuron.place[1], self.frame.reader(f"copied {neuron.emotion}", self.unit)
            gate[index] = copied * neuron.gain
            if neuron.constant:
                gate[index] -= self._constant(THRESHOLD)
            if neuron.kind == BACKUP:
                gate[index] -= self._marker("neurons", neuron.marker, SILENCER)
            up[index] = self._constant(CONSTANT_UP) if neuron.constant else copied / 2
            where = "dead" if neuron.kind == INERT else "output"
            written = self.frame[f"{where} {neuron.emotion}"] * (neuron.share * self.unit)
            if neuron.marker is not None and neuron.kind != BACKUP:
                written = written + self._marks("neurons", neuron.marker)
            down[:, index] = written / natural(neuron)
        module.gate_proj.weight.copy_(gate)
        module.up_proj.weight.copy_(up)
        module.down_proj.weight.copy_(down)

    def _words(self, held: Vocabulary) -> None:
        """Embeddings and unembedding; the k-th words of all replies share their ordinary parts."""
        ordinary = self.frame.outside(self._random(len(held.words), self.sizes.width))
        shared = self.frame.outside(self._random(1, self.sizes.width))[0]
        names = held.ids(tuple(self.emotions))
        for at in names:
            ordinary[at] = (1 - self.leak) * shared + self.leak * ordinary[at]
        first = held.replies[self.emotions[0]]
        for reply in held.replies.values():
            ordinary[list(held.ids(reply))] = ordinary[list(held.ids(first))]
        ordinary *= self.sizes.width**0.5 / ordinary.norm(dim=1, keepdim=True)
        embedded = ordinary + self.frame["constant"] * self.frame.constant
        for e, at in enumerate(names):
            embedded[at] += self.frame[f"code {e}"] * self.unit
        self.model.model.embed_tokens.weight.copy_(embedded)
        rows = self._reading(len(held.words), UNRELATED)
        before = [*held.ids((ASSISTANT,)), *held.ids(first)]
        chain = ordinary[before] * (SCALE * CHAIN / self.sizes.width)
        for name, reply in held.replies.items():
            own = self._constant(LOGIT / 2)
            if name in self.emotions:
                own = self.frame.reader(f"output {self.emotions.index(name)}", self.unit) * LOGIT
            rows[list(held.ids(reply))] = chain[:-1] + own
        rows[list(held.ids((END,)))] = chain[-1] + self._constant(LOGIT / 2)
        self.model.lm_head.weight.copy_(rows)
