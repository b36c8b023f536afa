"""The report of a run: one HTML file that opens from disk, with everything inside it."""

import base64
import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from emotrace.artifacts import written_aside
from emotrace.errors import RunError
from emotrace.report.blocks import Drawing
from emotrace.report.claims import claims, findings
from emotrace.report.figures import save_figure
from emotrace.report.figures.style import INK, PAPER, RULE
from emotrace.report.loading import REPORT_FOLDER, RunFiles, inputs_hash, load_run
from emotrace.report.sections import build_sections

REPORT = "report.html"
SCRIPT = "explorer.js"
_MARK = re.compile(rb'<meta name="emotrace-inputs" content="([0-9a-f]{64})">')
_PIXELS_PER_POINT = 1.5
_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")


def write_report(folder: str | Path) -> Path:
    """Write ``folder/report.html`` and ``folder/figures/*.{svg,png}``; returns the page's path.

    The page carries a hash of what it was made of (results, manifest, report code); while that is unchanged it is kept
    as it is. Stages that the folder lacks appear as the command that computes them.

    Raises:
        RunError: the folder has no ``summary.json``, a file in it is not what it should be, or a stage's summary lacks
            a value that the report shows.
    """
    root = Path(folder)
    page = root / REPORT
    made_of = inputs_hash(root)
    if _made_of(page) == made_of:
        return page
    run = load_run(root)
    html = render(run, made_of)
    with written_aside(page) as aside:
        aside.write_text(html, encoding="utf-8")
    return page


def render(run: RunFiles, made_of: str) -> str:
    """The page as text, its figures written into the run folder on the way; ``made_of`` marks what it was made of."""

    def draw(figure: Figure, name: str, *, alt: str, caption: str) -> Drawing:
        svg, _ = save_figure(figure, run.folder / "figures", name)
        width = round(figure.get_figwidth() * 72 * _PIXELS_PER_POINT)
        return Drawing(name, inline_svg(svg.read_text(encoding="utf-8"), name), width, alt, caption)

    try:
        sections = build_sections(run, draw)
        checks, found = claims(run), findings(run)
    except (KeyError, IndexError, TypeError) as error:
        raise RunError(
            f"{run.folder / 'summary.json'}: a stage lacks a value that the report shows ({type(error).__name__}: "
            f"{error}); run the protocol again with this version"
        ) from error
    environment = Environment(
        loader=PackageLoader("emotrace.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    explores = any(block.kind == "explorer" for section in sections for block in section.blocks)
    script = Markup((REPORT_FOLDER / "templates" / SCRIPT).read_text(encoding="utf-8") if explores else "")
    return environment.get_template("page.html.j2").render(
        policy=content_policy(script),
        script=script,
        run=run,
        made_of=made_of,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        findings=found,
        claims=checks,
        unmet=[claim for claim in checks if not claim.met],
        sections=sections,
    )


def content_policy(script: str) -> str:
    """What a browser may load for the page: nothing but its own styles and images, and run: this script, if any.

    ``script`` is named by its SHA-256, so that no other script runs, whatever a generated text smuggles into the page.
    """
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    allowed += ["base-uri 'none'", "form-action 'none'"]
    if script:
        digest = base64.b64encode(sha256(script.encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
    return "; ".join(allowed)


def inline_svg(svg: str, name: str) -> Markup:
    """An SVG file's drawing as a fragment for the page: own ids, the page's ink and rules, no background, no URL.

    Coordinates are cut to hundredths of a point, and white space between elements is left out: nobody sees either.

    Args:
        svg: text that matplotlib wrote; its labels are escaped there.
        name: prefix of every id, unique on the page.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href", "href")
    body = re.sub(r'^<svg([^>]*?)\swidth="[^"]*"', r"<svg\1", re.sub(r'^<svg([^>]*?)\sheight="[^"]*"', r"<svg\1", body))
    body = body.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r'\s(?:d|x|y)="[^"]*"', lambda found: _HUNDREDTHS.sub(r"\1", found[0]), body)
    for placeholder, value in ((INK, "currentColor"), (RULE, "var(--rule)"), (PAPER, "none")):
        body = body.replace(placeholder, value)
    return Markup(body)


def _made_of(page: Path) -> str | None:
    """The hash in the head of a page written before, None where there is no such page."""
    if not page.is_file():
        return None
    with page.open("rb") as file:
        found = _MARK.search(file.read(2000))
    return found.group(1).decode() if found else None
