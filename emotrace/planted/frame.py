"""The reserved part of the residual stream, in a random basis, and random weights that keep out of it."""

import torch

BALLAST = 2000.0
"""Mean square that the constant gives the residual stream, beside about 1 of everything else: norms divide by nearly
the same number whatever is added or removed."""
SCALE = (BALLAST + 1.2) ** 0.5
"""What norms divide by."""


class Frame:
    """Orthonormal directions of the residual stream with names; everything else is ordinary.

    Args:
        width: D.
        names: of the directions.
        draw: makes the basis.
    """

    def __init__(self, width: int, names: list[str], draw: torch.Generator) -> None:
        gaussian = torch.randn(width, len(names), generator=draw, dtype=torch.float64)
        basis = torch.linalg.qr(gaussian).Q
        self.width, self.basis = width, basis
        self._columns = {name: basis[:, at] for at, name in enumerate(names)}

    def __getitem__(self, name: str) -> torch.Tensor:
        """Unit vector float64 ``[D]``."""
        return self._columns[name]

    def outside(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows [..., D]`` without their reserved part, float64."""
        rows = rows.double()
        return rows - rows @ self.basis @ self.basis.T

    def reader(self, name: str, unit: float) -> torch.Tensor:
        """The row that reads how many times ``unit`` a direction holds, behind a norm."""
        return self[name] * (SCALE / unit)

    @property
    def constant(self) -> float:
        """What every token holds along ``constant``."""
        return float((BALLAST * self.width) ** 0.5)
