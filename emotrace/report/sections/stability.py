"""Section about the circuit found again on other data."""

from collections.abc import Mapping
from typing import Any

from emotrace.report import figures
from emotrace.report.blocks import Block, Cell, Drawer, Fold, Row, Table
from emotrace.report.figures.style import words
from emotrace.report.loading import RunFiles
from emotrace.report.sections.quality_tables import band
from emotrace.report.wording import listed, number, percent

_SOURCES = {
    "scenarios": "on resampled scenarios",
    "paraphrase": "from paraphrased instructions",
    "implied": "from instructions that only imply the emotion",
}


def stability(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """The circuit found again on resampled scenarios and from other instructions."""
    sources = run.stage("stability")["sources"]
    drawn: list[dict[str, Any]] = []
    rows: list[Row] = []
    for source, sites in sources.items():
        several = source == "scenarios"
        for site, part in sites.items():
            jaccard, rank = part["jaccard"], part["rank_correlation"]
            drawn.append(
                {
                    "source": source,
                    "site": site,
                    "jaccard": jaccard["mean"],
                    "jaccard_ci": jaccard["spread"] if several else None,
                    "rank": rank["mean"],
                    "rank_ci": rank["spread"] if several else None,
                }
            )
            texts = (_spread(jaccard), number(part["chance"]), _spread(rank))
            cells = (Cell(text, "number") for text in texts)
            rows.append((words(source), site, *cells, "draws" if several else "emotions"))
    means = {
        source: listed([f"{percent(part['jaccard']['mean'], 0)} of {site}" for site, part in sites.items()])
        for source, sites in sources.items()
    }
    finding = "; ".join(f"{_SOURCES.get(source, words(source))}: {share}" for source, share in means.items())
    return (
        draw(
            figures.stability_bars(drawn),
            "stability",
            alt=f"Overlap of circuits found again with the circuit, and rank correlation of scores. {finding}.",
            caption=f"Components in common with the circuit (Jaccard, mean over emotions), {finding}. Whiskers: the "
            "middle 95 % of bootstrap draws of scenarios.",
        ),
        Fold(
            "The numbers",
            (
                Table(
                    "Jaccard overlap with the circuit, what random components would have, and rank correlation of all "
                    "scores; in brackets the middle 95 % of draws or of emotions.",
                    ("varied", "components", "in common", "by chance", "rank correlation", "brackets over"),
                    tuple(rows),
                ),
            ),
        ),
    )


def _spread(part: Mapping[str, Any]) -> str:
    return f"{part['mean']:.2f} {band(part['spread'])}"
