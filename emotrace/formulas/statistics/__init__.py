"""Intervals, tests and agreement whose unit is the scenario, not the reply (README, The method).

Replies of one scenario share its text, so they are not independent: everything here resamples or flips whole clusters.
Rank correlations and plain tests are scipy's own.
"""

from emotrace.formulas.statistics.agreement import cohen_kappa, krippendorff_alpha
from emotrace.formulas.statistics.intervals import (
    FEW,
    LEVEL,
    Interval,
    PairedDifference,
    cluster_bootstrap,
    effective_wilson,
    paired_difference,
    proportion_interval,
)
from emotrace.formulas.statistics.permutation import (
    Discoveries,
    MaxTest,
    benjamini_hochberg,
    draws_p,
    max_statistic_test,
    sign_flip_test,
)

__all__ = [
    "FEW",
    "LEVEL",
    "Discoveries",
    "Interval",
    "MaxTest",
    "PairedDifference",
    "benjamini_hochberg",
    "cluster_bootstrap",
    "cohen_kappa",
    "draws_p",
    "effective_wilson",
    "krippendorff_alpha",
    "max_statistic_test",
    "paired_difference",
    "proportion_interval",
    "sign_flip_test",
]
