"""``emotrace run``: the runner, the report, and the comparison on the terminal."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from emotrace.cli.tables import comparison_table
from emotrace.runner import Inputs, run_protocol


def run_and_show(
    protocol: str,
    out: Path,
    inputs: Inputs,
    parameters: Mapping[str, str],
    force: bool,
    report: bool,
    console: Console,
) -> None:
    """Run a protocol, write its report, print the comparison if it made one, and say where everything is."""
    try:
        result = run_protocol(protocol, out, inputs, parameters=parameters, force=force, console=console)
    except KeyboardInterrupt:
        console.print("\nstopped; finished batches are kept, the same command goes on from there")
        raise
    if "control" in result.summary:
        console.print(comparison_table(result.summary))
    console.print(f"results: {out / 'summary.json'}", highlight=False, soft_wrap=True)
    if report:
        from emotrace.report.page import write_report

        console.print(f"report:  {write_report(result.folder)}", highlight=False, soft_wrap=True)
