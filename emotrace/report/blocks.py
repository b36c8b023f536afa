"""What a section of the page is made of: plain data that the templates lay out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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


Block = Text | Drawing | Table | Facts | Exchange | Fold


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
