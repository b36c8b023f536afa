"""repeng: a `ControlModel` that adds control vectors to the outputs of blocks.

`set_control` adds `coeff * direction` to every token that is not padding and leaves the length of the state alone
unless `normalize=True`; with coeff 1 and the default `normalize=False` that is the plain addition, so its results equal
it. Padding is told from `position_ids`, which have to be given for each row. It reads no activations at the four sites
and ablates nothing.
"""

import torch
from repeng import ControlModel, ControlVector
from serving import Result, Server, read_vector, serve, timed
from torch import Tensor


class Repeng(Server):
    """Additions to blocks."""

    package = "repeng"
    notes = (
        "coeff=1, normalize=False: exactly the plain addition. Its documented set_control adds at every token; the "
        "edit of the last token uses set_raw_control with a tensor [1, T, D] that is zero elsewhere. It computes the "
        "norm of the states at every step, whether or not they are rescaled."
    )

    def edit(self, layer: int, vector_file: str) -> Result:
        control = torch.zeros(1, self.ids.shape[1], self.model.config.n_embd)
        control[:, -1] = read_vector(vector_file)
        setup, wrapped = timed(lambda: ControlModel(self.model, [layer]))

        def work() -> Tensor:
            wrapped.set_raw_control({layer: control})
            return wrapped(**self.inputs, logits_to_keep=1, use_cache=False).logits[:, -1]

        seconds, logits = timed(work)
        # Wrapping changes the model in place, which the plain operations share.
        wrapped.unwrap()
        return Result(seconds, {"logits": logits}, setup)

    def generate(self, layer: int, vector_file: str, new_tokens: int) -> Result:
        directions = {layer: read_vector(vector_file).numpy()}
        vector = ControlVector(model_type=self.model.config.model_type, directions=directions)
        setup, wrapped = timed(lambda: ControlModel(self.model, [layer]))

        def work() -> Tensor:
            wrapped.set_control(vector, 1.0)
            return self.plain_generate(wrapped, new_tokens)

        seconds, ids = timed(work)
        wrapped.unwrap()
        return Result(seconds, {"ids": ids}, setup)


if __name__ == "__main__":
    serve(Repeng())
