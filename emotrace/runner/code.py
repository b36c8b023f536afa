"""Which code a protocol can reach by import, hashed, so that a stage is recomputed exactly when its code changes."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from emotrace.errors import RunError
from emotrace.runner.protocol import shipped_folder

PACKAGE = Path(__file__).resolve().parents[1]
EXCLUDED = (
    "emotrace.report",
    "emotrace.cli",
    "emotrace.__main__",
    "emotrace.runner.progress",
    "emotrace.runner.manifest",
)
MODEL_FOLDER = PACKAGE / "models" / "bundled"
COUNTED_ELSEWHERE = (  # through the model's and the dataset's own hashes, or a result of runs
    MODEL_FOLDER / "weights",
    MODEL_FOLDER / "circuit.safetensors",
    PACKAGE / "data",
)
Import = tuple[int, str, tuple[str, ...]]  # relative level, module, names
DATA_SUFFIXES = (".json", ".jsonl", ".safetensors", ".txt")


def code_hashes(entry: Path) -> dict[str, str]:
    """Hash per file that ``entry`` can reach: itself, modules of emotrace and of the shipped protocols, its siblings.

    Imports anywhere in a file count, also those inside functions. Whoever imports the package ``emotrace`` itself
    reaches all of it. Comments and layout of code do not count. Data files next to a reached module count (a judge's
    weights), but for the bundled model's and the datasets', which have hashes of their own. Figures, report, command
    line, progress and manifest never count. Keys are module names, or paths in the package for data.
    """
    entry = entry.resolve()
    roots = {"emotrace": PACKAGE, "protocols": shipped_folder()}
    if entry.parent != roots["protocols"]:
        roots |= {name: folder for name, folder in _siblings(entry).items() if name not in roots}
    name = f"protocols.{entry.stem}" if entry.parent == roots["protocols"] else entry.stem
    hashes: dict[str, str] = {}
    todo: list[tuple[str, Path]] = [(name, entry)]
    while todo:
        module, path = todo.pop()
        if module in hashes:
            continue
        hashes[module] = _read(path)[0]
        hashes |= _data_files(path) if module.startswith("emotrace.") else {}
        if module == "emotrace":
            todo += _all_modules()
            continue
        for target in _imported(path, module):
            found = _file_of(target, roots)
            if found is not None and not _excluded(target):
                todo.append((target, found))
    return dict(sorted(hashes.items()))


def _read(path: Path) -> tuple[str, tuple[Import, ...]]:
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, changed: int) -> tuple[str, tuple[Import, ...]]:
    """Hash of the syntax tree of a file that was last ``changed`` then, and its imports."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise RunError(f"{path}:{error.lineno}: {error.msg}") from error
    imports: list[Import] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports)


def _imported(path: Path, module: str) -> Iterator[str]:
    """Names of modules that a file may import; names that are no module are sorted out by the caller."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for level, target, names in _read(path)[1]:
        base = package[: len(package) - level + 1] if level else []
        full = ".".join([*base, *([target] if target else [])])
        modules = names and all(_file_of(f"{full}.{name}", {"emotrace": PACKAGE}) for name in names)
        if full != "emotrace" or not modules:
            yield full
        yield from (f"{full}.{name}" for name in names if full)


def _file_of(module: str, roots: dict[str, Path]) -> Path | None:
    root, *rest = module.split(".")
    if root not in roots:
        return None
    base = roots[root].joinpath(*rest)
    if (base / "__init__.py").is_file():
        return base / "__init__.py"
    beside = base.with_name(f"{base.name}.py")
    return beside if beside.is_file() else None


def _siblings(entry: Path) -> dict[str, Path]:
    files = {path.stem: path.with_suffix("") for path in entry.parent.glob("*.py") if path != entry}
    packages = {path.parent.name: path.parent for path in entry.parent.glob("*/__init__.py")}
    return files | packages


def _excluded(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in EXCLUDED)


def _all_modules() -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("emotrace", *path.relative_to(PACKAGE).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not _excluded(module):
            found.append((module, path))
    return found


def _data_files(module: Path) -> dict[str, str]:
    folder = module.parent
    if folder in COUNTED_ELSEWHERE:
        return {}
    return {
        str(path.relative_to(PACKAGE)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _files_beside(folder)
        if path.suffix in DATA_SUFFIXES
    }


def _files_beside(folder: Path) -> Iterator[Path]:
    """Files of a folder and of its subfolders that hold no modules."""
    for path in sorted(folder.iterdir()):
        if path in COUNTED_ELSEWHERE:
            continue
        if path.is_file():
            yield path
        elif not any(path.glob("*.py")):
            yield from _files_beside(path)
