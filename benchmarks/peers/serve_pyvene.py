"""pyvene: an `IntervenableModel` for each intervention, built once (`setup_seconds`) and run for each batch.

Collecting, adding and zeroing are its own intervention classes. It has a name for three of the four sites; the
residual stream after attention is reached by its documented way for other places, the path of a module's input.
Interventions are located by index from the left, and the last token has the same index in every row, so rows padded on
the left are right.
"""

import pyvene
import torch
from serving import SITES, Result, Server, read_vector, serve, timed
from torch import Tensor

COMPONENTS = {
    "heads": "attention_value_output",
    "resid_attn": "transformer.h[{layer}].ln_2.input",
    "neurons": "mlp_activation",
    "resid_mlp": "block_output",
}


class Pyvene(Server):
    """Interventions by layer, component and unit."""

    package = "pyvene"
    notes = (
        "Building the IntervenableModel is not in the seconds. At each site pyvene copies the whole activation before "
        "it picks the tokens asked for, and before each run it clears the hooks of every module."
    )

    def prepare(self) -> None:
        self.base = {**self.inputs, "logits_to_keep": 1, "use_cache": False}
        self.last = self.ids.shape[1] - 1

    def _build(self, *representations: dict[str, object]) -> tuple[float, pyvene.IntervenableModel]:
        config = pyvene.IntervenableConfig(representations=list(representations))
        return timed(lambda: pyvene.IntervenableModel(config, model=self.model))

    def capture(self) -> Result:
        layers = self.model.config.n_layer
        setup, wrapped = self._build(
            *(
                {
                    "layer": layer,
                    "component": COMPONENTS[site].format(layer=layer),
                    "intervention_type": pyvene.CollectIntervention,
                }
                for site in SITES
                for layer in range(layers)
            )
        )

        def work() -> dict[str, Tensor]:
            (_, collected), _ = wrapped(base=self.base, unit_locations={"base": self.last})
            means = [activations[:, -1].mean(0) for activations in collected]
            return {site: torch.stack(means[i * layers : (i + 1) * layers]) for i, site in enumerate(SITES)}

        seconds, tensors = timed(work)
        return Result(seconds, tensors, setup)

    def _addition(self, layer: int, vector_file: str) -> dict[str, object]:
        return {
            "layer": layer,
            "component": "block_output",
            "intervention_type": pyvene.AdditionIntervention,
            "source_representation": read_vector(vector_file),
        }

    def edit(self, layer: int, vector_file: str) -> Result:
        setup, wrapped = self._build(self._addition(layer, vector_file))
        return self._intervened(wrapped, setup, {"base": self.last})

    def ablations(self, layer: int) -> Result:
        heads = self.model.config.n_head
        setup, wrapped = self._build(
            {
                "layer": layer,
                "component": "head_attention_value_output",
                "unit": "h",
                "intervention_type": pyvene.ZeroIntervention,
            }
        )
        # One intervention, one list of heads for each row.
        return self._intervened(wrapped, setup, {"base": [[[row % heads] for row in range(len(self.ids))]]})

    def _intervened(self, wrapped: pyvene.IntervenableModel, setup: float, places: dict[str, object]) -> Result:
        seconds, (_, output) = timed(lambda: wrapped(base=self.base, unit_locations=places))
        return Result(seconds, {"logits": output.logits[:, -1]}, setup)

    def generate(self, layer: int, vector_file: str, new_tokens: int) -> Result:
        setup, wrapped = self._build(self._addition(layer, vector_file))

        def work() -> Tensor:
            _, ids = wrapped.generate(
                {"input_ids": self.ids, "attention_mask": self.mask},
                # No locations and the prompt too: every token of every step.
                unit_locations=None,
                intervene_on_prompt=True,
                do_sample=False,
                max_new_tokens=new_tokens,
                use_cache=True,
            )
            return ids[:, self.ids.shape[1] :]

        seconds, ids = timed(work)
        return Result(seconds, {"ids": ids}, setup)


if __name__ == "__main__":
    serve(Pyvene())
