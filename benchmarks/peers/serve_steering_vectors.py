"""steering-vectors: a `SteeringVector` applied to the outputs of blocks while a `with` block lasts.

It forbids transformers 5, so its plain passes are those of transformers 4. It adds at padding too, which no real token
attends to, so rows padded on the left are right. What it reads are outputs of whole modules for one layer type at a
time, not the inputs of projections; it ablates nothing.
"""

from serving import Result, Server, read_vector, serve, timed
from steering_vectors import SteeringVector
from torch import Tensor


class SteeringVectors(Server):
    """Additions to blocks."""

    package = "steering-vectors"
    notes = "Runs on transformers 4, which it is bound to: compare it with the plain passes of its own environment."

    def edit(self, layer: int, vector_file: str) -> Result:
        steering = SteeringVector({layer: read_vector(vector_file)})

        def work() -> Tensor:
            with steering.apply(self.model, token_indices=[-1], min_token_index=None):
                return self.model(**self.inputs, logits_to_keep=1, use_cache=False).logits[:, -1]

        seconds, logits = timed(work)
        return Result(seconds, {"logits": logits})

    def generate(self, layer: int, vector_file: str, new_tokens: int) -> Result:
        steering = SteeringVector({layer: read_vector(vector_file)})

        def work() -> Tensor:
            with steering.apply(self.model):
                return self.plain_generate(self.model, new_tokens)

        seconds, ids = timed(work)
        return Result(seconds, {"ids": ids})


if __name__ == "__main__":
    serve(SteeringVectors())
