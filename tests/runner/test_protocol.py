from pathlib import Path
from typing import Any, Literal

import pytest

from emotrace.errors import RunError
from emotrace.runner import Run, load_protocol, protocol, shipped
from emotrace.runner import protocol as protocol_module_function
from emotrace.runner.parameters import Parameter
from emotrace.runner.protocol import assign, plan

HEADER = "from typing import Any\nfrom emotrace.runner import Run, protocol\n"


def write(path: Path, body: str) -> Path:
    path.write_text(HEADER + body)
    return path


def one(name: str, needs: str = "", parameters: str = "", doc: str = '"""What it measures."""') -> str:
    return f"@protocol({needs})\ndef {name}(run: Run{parameters}) -> dict[str, Any]:\n    {doc}\n    return {{}}\n"


def test_a_file_gives_its_protocol_with_help_needs_and_parameters(tmp_path: Path) -> None:
    path = write(
        tmp_path / "alpha_one.py",
        one("alpha_one", 'needs=["toy"]', ", *, ks: tuple[int, ...] = (1, 2), share: float | None = None"),
    )
    spec = load_protocol(path)
    assert (spec.name, spec.needs, spec.help, spec.source) == ("alpha_one", ("toy",), "What it measures.", path)
    assert [str(p) for p in spec.parameters.values()] == [
        "ks: tuple[int, ...] = (1, 2)",
        "share: float | None = None",
    ]
    assert load_protocol(path).name == "alpha_one"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (one("p", parameters=", k: int = 1"), r"'k' must be keyword-only"),
        (one("p", parameters=", *, k=1"), r"'k' needs a type"),
        (one("p", parameters=", *, k: list[int] = [1]"), r"'k' needs a type"),
        (one("p", parameters=", *, k: int"), r"'k' needs a default"),
        (one("p", parameters=", *, k: int = 1.5"), r"default 1.5 of 'k' is not of its type"),
        (one("p", doc="pass"), r"no docstring"),
        ('@protocol()\ndef p() -> dict[str, Any]:\n    """x"""\n    return {}\n', r"must take the Run first"),
        (one("p") + one("p"), r"'p' is already defined in .*bad\.py"),
        ("@protocol\ndef p(run: Run) -> None: ...\n", r"write @protocol\(needs"),
        ("x = 1\n", r"no function decorated"),
        (one("p") + one("q"), r"protocols p, q; name one of them 'bad'"),
    ],
)
def test_malformed_files_are_refused_with_the_reason(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        load_protocol(write(tmp_path / "bad.py", body))


def test_a_user_protocol_cannot_take_a_shipped_or_foreign_name(tmp_path: Path) -> None:
    load_protocol(write(tmp_path / "mine.py", one("mine_only")))
    with pytest.raises(RunError, match=r"already defined in .*mine\.py"):
        load_protocol(write(tmp_path / "other.py", one("mine_only")))


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no protocol named 'nope'; shipped: "):
        load_protocol("nope")
    with pytest.raises(RunError, match="no such file"):
        load_protocol(tmp_path / "nope.py")


def test_every_shipped_protocol_loads_and_its_plan_ends_with_it() -> None:
    for name in shipped():
        stages = plan(load_protocol(name))
        assert stages[-1].name == name
        names = [spec.name for spec in stages]
        assert all(names.index(need) < names.index(spec.name) for spec in stages for need in spec.needs)


def test_plan_orders_needs_first_and_refuses_circles(tmp_path: Path) -> None:
    body = one("base") + one("left", 'needs=["base"]') + one("right", 'needs=["base"]')
    spec = load_protocol(write(tmp_path / "top.py", body + one("top", 'needs=["left", "right"]')))
    assert [s.name for s in plan(spec)] == ["base", "left", "right", "top"]
    circle = load_protocol(write(tmp_path / "ring.py", one("ring", 'needs=["other"]') + one("other", 'needs=["ring"]')))
    with pytest.raises(RunError, match="circle: ring -> other -> ring"):
        plan(circle)


def test_parameters_go_to_the_stage_they_name(tmp_path: Path) -> None:
    body = one("low", parameters=", *, n: int = 1, flag: bool = False") + one(
        "high", 'needs=["low"]', ', *, n: int = 5, word: str = "a"'
    )
    stages = plan(load_protocol(write(tmp_path / "high.py", body)))
    values = assign(stages, {"n": "7", "low.n": "3", "low.flag": "yes", "word": "b=c"})
    assert values == {"low": {"n": 3, "flag": True}, "high": {"n": 7, "word": "b=c"}}
    with pytest.raises(
        RunError, match=r"high has no parameter 'flag': n: int = 5; word: str = 'a'\. Did you mean low\.fl"
    ):
        assign(stages, {"flag": "1"})
    with pytest.raises(RunError, match=r"no stage 'mid' in this run; stages: low, high"):
        assign(stages, {"mid.n": "1"})
    with pytest.raises(RunError, match=r"'n': 'x' is not of type int.*write -p n=5"):
        assign(stages, {"n": "x"})


@pytest.mark.parametrize(
    ("annotation", "given", "value"),
    [
        (int, "3", 3),
        (float, "1e-3", 1e-3),
        (float, 2, 2.0),
        (bool, "false", False),
        (str, "a,b", "a,b"),
        (tuple[int, ...], "1,2,4", (1, 2, 4)),
        (tuple[int, ...], "(1, 2)", (1, 2)),
        (tuple[int, ...], "", ()),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[str, ...], "anger, fear", ("anger", "fear")),
        (tuple[float, float], "0.1,2", (0.1, 2.0)),
        (int | None, "none", None),
        (int | None, "4", 4),
        (int | None, None, None),
        (tuple[float, ...] | None, "1", (1.0,)),
        (Literal["zero", "mean"], "mean", "mean"),
        (Literal[1, 2], "2", 2),
    ],
)
def test_values_are_read_by_the_declared_type(annotation: Any, given: Any, value: Any) -> None:
    read = Parameter("p", annotation, None).value(given)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (int, "1.5"),
        (int, True),
        (int, 1.0),
        (bool, "maybe"),
        (float, "fast"),
        (tuple[int, ...], "1,x"),
        (tuple[int, ...], 3),
        (tuple[float, float], "1"),
        (Literal["zero", "mean"], "median"),
        (Literal["zero", "mean"], 3),
        (int | None, "no"),
    ],
)
def test_values_of_another_type_are_refused(annotation: Any, given: Any) -> None:
    with pytest.raises(RunError, match="parameter 'p'"):
        Parameter("p", annotation, None).value(given)


def test_a_decorated_function_stays_a_function() -> None:
    @protocol_module_function()
    def stays(run: Run, *, n: int = 2) -> dict[str, Any]:
        """Twice."""
        return {"n": 2 * n}

    assert stays(None, n=4) == {"n": 8}  # type: ignore[arg-type]
    assert protocol is protocol_module_function
