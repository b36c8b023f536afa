"""Commands and their options; what they do is in the modules beside this one, imported when a command runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from emotrace.errors import EmotraceError, RunError

if TYPE_CHECKING:
    from emotrace.remote.connection import Ndif

Remote = Annotated[bool, typer.Option("--remote", help="Run the model on NDIF; its weights are not loaded here.")]
Host = Annotated[
    str | None, typer.Option(metavar="URL", help="NDIF server, with or without --remote.", show_default="nnsight's")
]
RequestTokens = Annotated[
    int | None, typer.Option(min=1, help="On NDIF: forward tokens a request may hold.", show_default="65536")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="On NDIF: requests under way at a time.", show_default="4")]

app = typer.Typer(
    name="emotrace",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find the neurons and attention heads that carry an emotion in a language model, prove that they cause it, "
    "and drive generation with them.\n\nStart with [bold]emotrace run paper --out runs/demo[/bold]: every experiment "
    "on the bundled model, in minutes.",
)

RUN_HELP = """Run a protocol and all it needs; what is finished is not computed again.

PROTOCOL is a shipped name (see [bold]emotrace protocols[/bold]) or your own .py file.

[bold]Examples[/bold]

  emotrace run paper --out runs/demo

  emotrace run ablate -p ks=1,2,4 -p controls=20

  emotrace run paper -p control.full=true

  emotrace run circuit --model Qwen/Qwen3-0.6B --dtype bfloat16

  emotrace run my_protocol.py --data my_scenarios.jsonl

  emotrace run circuit --model meta-llama/Llama-3.1-70B-Instruct --remote

  emotrace run directions --shard 3/16 --out runs/shard-3

A run can be killed at any moment: the same command goes on after the last finished batch. The run folder then holds
manifest.json, summary.json, report.html and one folder per stage."""

MERGE_HELP = """Add up the shards of a run in one folder, in which runs then go on.

FOLDERS are the run folders of all shards. Protocol, parameters, model and data are those of the shards.

[bold]Examples[/bold]

  emotrace merge runs/shard-* --out runs/all

  emotrace run paper --out runs/all

The second command finds the merged stages finished; give it the options that the shards were run with."""

STEER_HELP = """Reply to TEXT without and with an emotion's circuit driven, side by side.

[bold]Examples[/bold]

  emotrace steer --emotion anger "You keep a lamp in the bakery near Yuki. Today Yuki broke the lamp."

  emotrace steer --emotion fear --strength 0.5 "You keep a sign in the market near Tom. Today Tom moved it."

The bundled model speaks about scenes like these only. To drive the circuit of a run of yours:
--circuit runs/demo/stages/circuit/circuit.safetensors"""


@app.command(help=RUN_HELP, no_args_is_help=True)
def run(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="A shipped protocol's name, or a .py file.")],
    model: Annotated[str, typer.Option(help="'bundled', a folder, or a Hugging Face Hub id.")] = "bundled",
    data: Annotated[str, typer.Option(help="'sev-mini', or a file or folder in SEV format.")] = "sev-mini",
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/PROTOCOL")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="name=value, or stage.name=value; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Start of every random choice.")] = 0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Token budget of a batch.")] = 4096,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; the model's own by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; chosen for you by default.")] = None,
    remote: Remote = False,
    host: Host = None,
    request_tokens: RequestTokens = None,
    jobs: Jobs = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N shares of the training scenarios.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute every stage again.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
) -> None:
    """See ``RUN_HELP``."""
    from emotrace.cli.run import run_and_show
    from emotrace.runner import Inputs
    from emotrace.runner.shards import as_shard

    server = hosted(remote, host, request_tokens=request_tokens, jobs=jobs)
    part = None if shard is None else as_shard(shard)
    inputs = Inputs(
        model, data, seed=seed, batch_tokens=batch_tokens, dtype=dtype, device=device, remote=server, shard=part
    )
    name = Path(protocol).stem + (f"-{part[0]}-of-{part[1]}" if part else "")
    folder = out or Path("runs") / name
    run_and_show(protocol, folder, inputs, assignments(parameter or []), force, report, Console())


@app.command(help=MERGE_HELP, no_args_is_help=True)
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDERS...", help="The run folders of all shards.")],
    out: Annotated[Path, typer.Option(help="Folder of the merged run.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; chosen for you by default.")] = None,
    request_tokens: RequestTokens = None,
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Merge again what is merged.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
) -> None:
    """See ``MERGE_HELP``."""
    from emotrace.cli.run import merge_and_show

    merge_and_show(folders, out, device, {"request_tokens": request_tokens, "jobs": jobs}, force, report, Console())


@app.command()
def protocols() -> None:
    """List the shipped protocols: what each measures, what it needs, and its parameters."""
    from emotrace.cli.tables import protocol_table
    from emotrace.runner import load_protocol, shipped

    Console().print(protocol_table([load_protocol(name) for name in shipped()]))


@app.command(help=STEER_HELP, no_args_is_help=True)
def steer(
    text: Annotated[str, typer.Argument(help="What the user says.")],
    emotion: Annotated[str, typer.Option(help="Which emotion to drive.")],
    strength: Annotated[float, typer.Option(help="1.0 adds the measured difference once; 0 is no edit.")] = 1.0,
    circuit: Annotated[
        Path | None, typer.Option(help="A circuit's .safetensors file.", show_default="the bundled model's")
    ] = None,
    model: Annotated[str, typer.Option(help="'bundled', a folder, or a Hugging Face Hub id.")] = "bundled",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 64,
    remote: Remote = False,
    host: Host = None,
) -> None:
    """See ``STEER_HELP``."""
    from emotrace.cli.steer import steered_table

    server = hosted(remote, host)
    Console().print(steered_table(text, emotion, strength, circuit, model, max_new_tokens, remote=server))


@app.command()
def doctor(
    remote: Annotated[bool, typer.Option("--remote", help="Check everything that a run on NDIF needs.")] = False,
    host: Host = None,
    model: Annotated[
        str | None, typer.Option(help="With --remote: a Hub id to run one small request on.", metavar="ORG/NAME")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="With --model: the dtype that you want it in.")] = None,
) -> None:
    """Check this installation: versions, devices, the bundled model, and whether NDIF can be reached.

    With [bold]--remote[/bold] also all that a run on NDIF needs: the server, your API key, its versions against yours,
    what it hosts, and with [bold]--model[/bold] one small request, with the dtype it finds. Each finding says what to
    do. Ends with exit code 1 when something is broken; without --remote an unreachable NDIF is reported only.
    """
    from emotrace.cli.doctor import examine

    if dtype is not None and model is None:
        raise RunError("--dtype is what --model has to be held in: give --model too")
    server = hosted(remote or model is not None, host)
    raise typer.Exit(0 if examine(Console(), server or None, model, dtype) else 1)


def hosted(remote: bool, host: str | None, **settings: int | None) -> "Ndif | Literal[False]":
    """What the options say of a server, as ``remote=`` takes it; a host alone is enough.

    Raises:
        RunError: settings of a server that is not asked for.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if not remote and host is None:
        if given:
            raise RunError(f"--{next(iter(given)).replace('_', '-')} is for a model on NDIF: add --remote")
        return False
    from emotrace.remote.connection import Ndif

    return Ndif(host, **given)


def assignments(texts: list[str]) -> dict[str, str]:
    """``name=value`` texts as a mapping; raises ``RunError`` for one without a ``=`` or a name given twice."""
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RunError(f"-p {text!r}: write -p name=value")
        if name.strip() in given:
            raise RunError(f"-p {name.strip()} is given twice")
        given[name.strip()] = value
    return given


def main() -> None:
    """Entry point: errors made for people are one line and exit code 2, without a traceback."""
    disable_progress_bar()  # bars of loading weights would run through the list of stages
    try:
        app()
    except EmotraceError as error:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
