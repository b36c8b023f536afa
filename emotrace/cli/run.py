"""``emotrace run`` and ``emotrace merge``: the runner, the report, and the comparison on the terminal."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from emotrace.cli.tables import comparison_table
from emotrace.errors import RunError
from emotrace.runner import Inputs, RunResult, merge_shards, run_protocol
from emotrace.runner.merge import read_shards, shard_inputs


def run_and_show(
    protocol: str,
    out: Path,
    inputs: Inputs,
    parameters: Mapping[str, str],
    force: bool,
    report: bool,
    console: Console,
) -> None:
    """Run a protocol, write its report (a shard has none), print the comparison if it made one, say where all is."""

    def run() -> RunResult:
        return run_protocol(protocol, out, inputs, parameters=parameters, force=force, console=console)

    _show(run, out, report and inputs.shard is None, console)


def merge_and_show(
    folders: Sequence[Path],
    out: Path,
    device: str | None,
    settings: Mapping[str, int | None],
    force: bool,
    report: bool,
    console: Console,
) -> None:
    """Merge shards with the inputs that they had, and show it like a run.

    Args:
        folders: the shards' run folders.
        out: the merged run's folder.
        device: where the model is put.
        settings: of the server, where the model is on one: fields of ``Ndif``, None for the default.
        force: merge again.
        report: write the report.
        console: where to print.

    Raises:
        RunError: as ``merge_shards`` says, or settings of a server for shards whose model was on none.
    """
    inputs = shard_inputs(read_shards(folders, out))
    inputs.device = device
    given = {name: value for name, value in settings.items() if value is not None}
    if given and not inputs.remote:
        option = next(iter(given)).replace("_", "-")
        raise RunError(f"--{option} is for a model on NDIF, and these shards were run without one: leave it out")
    if given:
        from emotrace.remote.connection import Ndif

        inputs.remote = Ndif(str(inputs.remote), **given)

    def run() -> RunResult:
        return merge_shards(folders, out, inputs, force=force, console=console)

    _show(run, out, report, console)


def _show(run: Callable[[], RunResult], out: Path, report: bool, console: Console) -> None:
    try:
        result = run()
    except KeyboardInterrupt:
        console.print("\nstopped; finished batches are kept, the same command goes on from there")
        raise
    if "control" in result.summary:
        console.print(comparison_table(result.summary))
    console.print(f"results: {out / 'summary.json'}", highlight=False, soft_wrap=True)
    if report:
        from emotrace.report.page import write_report

        console.print(f"report:  {write_report(result.folder)}", highlight=False, soft_wrap=True)
