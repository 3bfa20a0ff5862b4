"""The confusion matrix: true against predicted classes, readable for two classes and for sixty."""

from collections.abc import Sequence

from jobs.report.page import escaped

COLOUR = "#1f66b8"
PAGE_PX = 950
LABEL_CHARACTERS = 26
SIZES = (
    (6, 52, 12.0),
    (12, 36, 12.0),
    (25, 27, 10.5),
    (40, 20, 9.0),
)  # up to so many classes: cell, font, in pixels
SMALLEST = (18, 8.0)
_STRONG = 0.62  # of a colour: from here on text reads better in white


def confusion_figure(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Return the matrix as SVG at its natural size; resting on a cell shows its names and numbers.

    Parameters
    ----------
    confusion : sequence of sequence of int
        Cells by true (rows) and predicted class (columns).
    """
    n = len(classes)
    cell, font = next(((cell, font) for most, cell, font in SIZES if n <= most), SMALLEST)
    font_px = min(font, 12.0)
    longest = max(len(_short(name)) for name in classes)
    margin = round(longest * font_px * 0.6) + 34
    below = round(longest * font_px * 0.6 * 0.72) + 40
    size = n * cell
    width, height = margin + size + 12, size + below + 4
    parts = [f'<g transform="translate({margin} 2)" font-size="{font:g}">']
    for i, row in enumerate(confusion):
        parts += _row(i, row, classes, cell, font)
    parts += _labels(classes, cell, font_px)
    parts.append(f'<rect width="{size}" height="{size}" fill="none" stroke="var(--faint)"/>')
    parts.append(_words("predicted class", size / 2, size + below - 8, ""))
    parts.append(_words("true class", -margin + 14, size / 2, f"rotate(-90 {-margin + 14} {size / 2:g})"))
    parts.append("</g>")
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="width:{width}px" '
        f'role="img" aria-label="confusion matrix" fill="currentColor">{"".join(parts)}</svg>'
    )
    out_of_column = (
        "width:max-content;max-width:calc(100vw - 2.5rem);margin-left:50%;transform:translateX(-50%)"
    )
    style = f' style="{out_of_column}"' if width > PAGE_PX else ""
    return f'<div class="wide"{style}>{svg}</div>'


def _row(i: int, row: Sequence[int], classes: Sequence[str], cell: int, font: float) -> list[str]:
    """Return the cells of a true class that are not empty, coloured by their share of the class."""
    total = sum(row)
    parts = []
    for j, count in enumerate(row):
        if not count:
            continue
        share = count / total
        opacity = 0.08 + 0.92 * share
        x, y = j * cell, i * cell
        ink = "#fff" if opacity > _STRONG else "currentColor"
        told = f"{classes[i]}, predicted as {classes[j]}: {count:,} of {total:,} ({share:.1%})"
        parts.append(
            f"<g><title>{escaped(told)}</title>"
            f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{COLOUR}" '
            f'fill-opacity="{opacity:.2f}"/>'
            f'<text x="{x + cell / 2:g}" y="{y + cell / 2 + font * 0.36:.4g}" text-anchor="middle" '
            f'fill="{ink}">{_count(count, cell, font)}</text></g>'
        )
    return parts


def _labels(classes: Sequence[str], cell: int, font_px: float) -> list[str]:
    """Return the names of rows and columns, and faint lines that lead the eye to them."""
    size = len(classes) * cell
    parts = []
    for i, name in enumerate(classes):
        at = i * cell + cell / 2
        text = f"<title>{escaped(name)}</title>{escaped(_short(name))}</text>"
        parts.append(
            f'<text x="-6" y="{at + font_px * 0.36:.4g}" text-anchor="end" font-size="{font_px:g}">{text}'
        )
        parts.append(
            f'<text x="{at + font_px * 0.3:.4g}" y="{size + 12}" text-anchor="end" font-size="{font_px:g}" '
            f'transform="rotate(-45 {at + font_px * 0.3:.4g} {size + 12})">{text}'
        )
        if i:
            lines = f"M0 {i * cell}H{size}M{i * cell} 0V{size}"
            parts.append(f'<path d="{lines}" stroke="var(--faint)" stroke-width=".5" stroke-opacity=".35"/>')
    return parts


def _words(text: str, x: float, y: float, transform: str) -> str:
    turned = f' transform="{transform}"' if transform else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="12" text-anchor="middle" opacity=".7"{turned}>{text}</text>'


def _count(count: int, cell: int, font: float) -> str:
    """Return a count that fits into its cell, in thousands where it must."""
    for text in (str(count), f"{count / 1000:.1f}k", f"{count / 1000:.0f}k"):
        if len(text) * font * 0.6 <= cell - 3:
            return text
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1000:.0f}k"


def _short(name: str) -> str:
    return name if len(name) <= LABEL_CHARACTERS else name[: LABEL_CHARACTERS - 1] + "…"
