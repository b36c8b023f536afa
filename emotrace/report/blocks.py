"""What a section of the page is made of: plain data that the templates lay out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """A paragraph; ``tone`` is ``plain``, ``good`` or ``bad``."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Drawing:
    """A figure: inline SVG, what it shows for those who cannot see it, and a caption that states the finding."""

    kind: ClassVar[str] = "drawing"
    name: str
    svg: Markup
    width: int
    alt: str
    caption: str


@dataclass(frozen=True)
class Cell:
    """A table cell: text, how it is set (``number``, ``text``, ``reply``), a tone, and a note on a line of its own.

    The tone colours the note where there is one, else the text.
    """

    text: str
    set_as: str = "text"
    tone: str = "plain"
    note: str = ""


Row = tuple[Cell | str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells or strings under column heads; the first cell of a row heads it.

    ``emphasis``: rows set apart. ``stacks``: on a narrow screen cells stand below each other, each under its head.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    emphasis: frozenset[int] = frozenset()
    stacks: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values, nested where a value has parts of its own."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, "str | Facts"], ...]


@dataclass(frozen=True)
class Exchange:
    """The scenario that the replies below it answer."""

    kind: ClassVar[str] = "exchange"
    scenario: str
    event: str


@dataclass(frozen=True)
class Fold:
    """Blocks behind a summary line that opens by mouse or keyboard."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: tuple["Block", ...]
    is_open: bool = False


@dataclass(frozen=True)
class Choice:
    """A group of radio buttons: what it chooses, its options in words, the place of the one chosen at first."""

    name: str
    legend: str
    options: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class Explorer:
    """What a reader explores by choice of emotion, budget and strength.

    Attributes:
        choices: emotion, budget, strength.
        drawings: one per emotion.
        layers: rows of the map of heads.
        heads: its columns, heads per layer.
        listed: how many heads and neurons the tables hold at most.
        exchanges: the scenarios answered.
        data: every text that a choice may show, made for people: see ``emotrace.report.sections.explorer``. The page
            carries it as JSON, and shows the choice at the start without a script.
    """

    kind: ClassVar[str] = "explorer"
    choices: tuple[Choice, Choice, Choice]
    drawings: tuple[Drawing, ...]
    layers: int
    heads: int
    listed: int
    exchanges: tuple[Exchange, ...]
    data: Mapping[str, Any]


Block = Text | Drawing | Table | Facts | Exchange | Fold | Explorer


@dataclass(frozen=True)
class Missing:
    """A stage that the run has not computed, and the command that does."""

    stage: str
    command: str


@dataclass(frozen=True)
class Section:
    """A part of the page: anchor, heading, blocks, and stages it lacks."""

    slug: str
    title: str
    blocks: tuple[Block, ...]
    missing: tuple[Missing, ...] = ()


Drawer = Callable[..., Drawing]
