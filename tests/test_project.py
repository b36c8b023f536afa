"""The project's own promises: pinned versions, what the wheel holds, what the documents name."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from emotrace.cli.app import RUN_HELP, assignments
from emotrace.models import architectures
from emotrace.runner import load_protocol, shipped
from emotrace.runner.protocol import assign, plan

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonical(name): version for name, version in (line.split("==") for line in lines)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    return [canonical(re.match(r"[\w.-]+", line)[0]) for line in (*project["dependencies"], *extras)]  # type: ignore[index]


def test_everything_declared_is_pinned() -> None:
    assert set(declared()) <= set(pins())


def test_everything_installed_here_is_pinned_to_what_is_installed() -> None:
    """What the declared packages pull in, followed through their metadata, is pinned too."""
    seen: set[str] = set()
    todo = [name for name in declared() if _installed(name)]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in metadata.requires(name) or []:
            needed = canonical(re.match(r"[\w.-]+", line)[0])  # type: ignore[index]
            if "extra ==" not in line and _installed(needed):
                todo.append(needed)
    installed = {name: metadata.version(name).split("+")[0] for name in seen}
    assert installed == {name: version for name, version in pins().items() if name in installed}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_each_dependency_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().lower()
    assert [name for name in declared() if f"`{name}`" not in text] == []


def test_each_third_party_import_is_declared() -> None:
    distributions = {"sklearn": "scikit-learn"}
    found: set[str] = set()
    for path in [*(ROOT / "emotrace").rglob("*.py"), *(ROOT / "protocols").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    third = found - set(sys.stdlib_module_names) - {"emotrace", "protocols"}
    assert {canonical(distributions.get(name, name)) for name in third} <= set(declared())


@pytest.mark.slow
def test_the_wheel_holds_the_protocols_and_all_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    listing = subprocess.run(
        ["git", "ls-files", "emotrace", "protocols"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(listing.stdout.split()) <= inside
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in inside)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_commands_in_the_documents_fit_the_protocols(document: str) -> None:
    text = (ROOT / document).read_text() + RUN_HELP
    commands = re.findall(r"emotrace run (\w+)((?: (?:-p|--\w+) [^\s`]+)*)", text)
    assert {name for name, _ in commands} >= {"paper", "ablate"}
    for name, options in commands:
        assert name in shipped() or name in ("lengths", "my_protocol")
        if name in shipped():
            assign(plan(load_protocol(name)), assignments(re.findall(r"-p ([^\s`]+)", options)))


def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, row = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (tmp_path / "lengths.py").write_text(source)
    spec = load_protocol(tmp_path / "lengths.py")
    assert [stage.name for stage in plan(spec)] == ["elicit", "lengths"]

    class Seen:
        def records(self, stage: str, name: str) -> list[dict[str, str]]:
            assert (stage, name) == ("elicit", "replies")
            return [{"condition": "anger", "reply": "one two three"}, {"condition": "anger", "reply": "one"}]

    assert spec.function(Seen(), conditions=("anger", "fear")) == {"words": {"anger": 2.0}}

    monkeypatch.setattr(architectures, "ARCHITECTURES", dict(architectures.ARCHITECTURES))
    exec(row, {})
    assert architectures.ARCHITECTURES["my_llama"] == architectures.Architecture(
        "my_llama", mid_norm="ffn_norm", final_norm="model.ln"
    )
