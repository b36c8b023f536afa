"""Scores against slow loops; the ranking's ties."""

import torch

from emotrace.formulas.scores import alignment, column_norms, ranking, read_back, written


def test_scores_equal_loops():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    a, down, z, out, v = random(2, 3, 5), random(3, 4, 5), random(2, 3, 2, 6), random(3, 4, 2, 6), random(2, 3, 4)
    single, several = read_back(lambda layer: down[layer, ..., None], v), read_back(out.__getitem__, v)
    neurons, heads = written(a, single), written(z, several)
    cosine, read = alignment(single, column_norms(lambda layer: down[layer, ..., None], 3)), several.norm(dim=-1)
    for e in range(2):
        for layer in range(3):
            for n in range(5):
                column = down[layer, :, n]
                assert torch.isclose(neurons[e, layer, n], a[e, layer, n] * (column @ v[e, layer]))
                assert torch.isclose(cosine[e, layer, n], column @ v[e, layer] / column.norm())
            for h in range(2):
                matrix = out[layer, :, h]
                assert torch.isclose(heads[e, layer, h], (matrix @ z[e, layer, h]) @ v[e, layer])
                assert torch.isclose(read[e, layer, h], (matrix.T @ v[e, layer]).norm())


def test_ranking_is_signed_and_breaks_ties_by_layer_and_index():
    scores = torch.tensor([[0.0, 2.0, -5.0], [2.0, 0.0, 3.0]])
    assert ranking(scores).tolist() == [[1, 2], [0, 1], [1, 0], [0, 0], [1, 1], [0, 2]]
