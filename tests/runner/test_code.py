import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import emotrace.runner.code as code
from emotrace.errors import RunError
from emotrace.runner.code import code_hashes


def file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_reached_modules_are_those_that_python_imports(tmp_path: Path) -> None:
    """An independent route: what a fresh interpreter has loaded after importing the same module."""
    entry = file(tmp_path / "p.py", "from emotrace.judges.structure import StructureJudge\n")
    reached = {name for name in code_hashes(entry) if name.startswith("emotrace.") and "/" not in name}
    program = (
        "import sys, types\n"
        f"bare = sys.modules['emotrace'] = types.ModuleType('emotrace')\nbare.__path__ = [{str(code.PACKAGE)!r}]\n"
        "import emotrace.judges.structure\nprint(*[name for name in sys.modules if name.startswith('emotrace.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not code._excluded(name)}
    assert {"emotrace.judges.structure", "emotrace.judges.base"} <= reached
    assert loaded - reached <= packages_of(reached)  # packages around a module define names only


def packages_of(modules: set[str]) -> set[str]:
    return {name.rsplit(".", depth)[0] for name in modules for depth in range(1, name.count(".") + 1)}


def test_imports_inside_functions_and_relative_ones_count(tmp_path: Path) -> None:
    file(tmp_path / "helper.py", "from inner import part\nimport inner.deep\n")
    file(tmp_path / "inner" / "__init__.py", "from . import part\n")
    file(tmp_path / "inner" / "part.py", "from .deep import x\nimport os\n")
    file(tmp_path / "inner" / "deep.py", "x = 1\n")
    file(tmp_path / "inner" / "unused.py", "y = 1\n")
    file(tmp_path / "stranger.py", "z = 1\n")
    entry = file(tmp_path / "p.py", "def f():\n    import helper\n    from emotrace import errors\n")
    assert set(code_hashes(entry)) == {"p", "helper", "inner", "inner.part", "inner.deep", "emotrace.errors"}
    before = code_hashes(entry)
    file(tmp_path / "inner" / "deep.py", "x = 2\n")
    os.utime(tmp_path / "inner" / "deep.py", ns=(1, 1))
    after = code_hashes(entry)
    assert {name for name in before if before[name] != after[name]} == {"inner.deep"}


@pytest.mark.parametrize("line", ["import emotrace", "import emotrace as et", "from emotrace import generate"])
def test_the_package_itself_stands_for_all_of_it(tmp_path: Path, line: str) -> None:
    hashes = code_hashes(file(tmp_path / "p.py", line + "\n"))
    modules = {
        ".".join(path.relative_to(code.PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in code.PACKAGE.rglob("*.py")
    }
    left_out = {name for name in modules if code._excluded(name)}
    assert modules - set(hashes) == left_out
    assert {"emotrace.report", "emotrace.cli"} <= left_out


def test_data_beside_a_module_counts_but_models_and_datasets_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "emotrace"
    file(package / "judges" / "one.py", "from emotrace.models.bundled import grammar\nfrom emotrace.data import sev\n")
    file(package / "judges" / "__init__.py", "")
    file(package / "judges" / "one_data" / "deep" / "weights.json", "{}")
    file(package / "judges" / "one_data" / "notes.md", "x")
    file(package / "models" / "bundled" / "grammar.py", "")
    file(package / "models" / "bundled" / "tables" / "words.json", "[]")
    file(package / "models" / "bundled" / "weights" / "model.safetensors", "")
    file(package / "data" / "sev.py", "")
    file(package / "data" / "set" / "train.jsonl", "")
    monkeypatch.setattr(code, "PACKAGE", package)
    monkeypatch.setattr(code, "COUNTED_ELSEWHERE", (package / "models" / "bundled" / "weights", package / "data"))
    hashes = code_hashes(file(tmp_path / "p.py", "from emotrace.judges import one\n"))
    data = [name for name in hashes if "/" in name]
    assert data == ["judges/one_data/deep/weights.json", "models/bundled/tables/words.json"]


def test_comments_and_layout_do_not_count(tmp_path: Path) -> None:
    first = code_hashes(file(tmp_path / "a" / "p.py", "x = [1, 2]\n"))
    second = code_hashes(file(tmp_path / "b" / "p.py", "# why\nx = [\n    1,\n    2,\n]\n"))
    third = code_hashes(file(tmp_path / "c" / "p.py", "x = [1, 3]\n"))
    assert first == second
    assert first != third


def test_a_file_that_does_not_parse_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"p\.py:2: "):
        code_hashes(file(tmp_path / "p.py", "x = 1\nx = = 2\n"))


def test_no_module_of_the_package_is_reached_by_a_string() -> None:
    """Imports by computed name would escape the hashes; the runner's own loader of protocols is the one exception."""
    found = set()
    for path in code.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "import_module":
                found.add(str(path.relative_to(code.PACKAGE)))
    assert found <= {"runner/protocol.py", "__init__.py"}
