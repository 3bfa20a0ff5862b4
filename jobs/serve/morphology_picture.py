"""A cell's morphology as SVG: two projections, a line a section, as wide as it is thick."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

KINDS = ("axon", "dend", "apic")
MOST_POINTS = 12_000
WIDTH, HEIGHT, GAP = 1000.0, 600.0, 40.0
SCALES_UM = (10, 20, 50, 100, 200, 500, 1000, 2000)


def morphology_picture(sections: Sequence[dict[str, Any]]) -> Markup:
    """Return the projections on x-y and z-y, side by side, in one scale.

    Parameters
    ----------
    sections : sequence of dict
        Rows of the table `MORPHOLOGY`: ``kind`` (soma, axon, dend, apic) and (n,) lists ``x_um`` … ``diameter_um``.
    """
    points = [np.array([row["x_um"], row["y_um"], row["z_um"], row["diameter_um"]], float) for row in sections]
    every = np.concatenate(points, axis=1)
    low, high = every[:3].min(axis=1), every[:3].max(axis=1)
    span = np.maximum(high - low, 20.0)
    scale = min((WIDTH - GAP) / (span[0] + span[2]), HEIGHT / span[1])
    thinned = max(1, -(-every.shape[1] // MOST_POINTS))
    parts = []
    for axis, left in ((0, 0.0), (2, span[0] * scale + GAP)):
        for row, xyzd in zip(sections, points, strict=True):
            x, y = left + (xyzd[axis] - low[axis]) * scale, (high[1] - xyzd[1]) * scale
            if row["kind"] == "soma":
                centre = xyzd.shape[1] // 2
                radius = max(xyzd[3].max() / 2 * scale, 2.0)
                parts.append(
                    Markup('<circle class="kind-soma" cx="{}" cy="{}" r="{}"/>').format(
                        f"{x[centre]:.1f}", f"{y[centre]:.1f}", f"{radius:.1f}"
                    )
                )
                continue
            kept = [*range(0, len(x) - 1, thinned), len(x) - 1]
            line = " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in kept)
            kind = row["kind"] if row["kind"] in KINDS else "dend"
            width = f"{max(float(np.median(xyzd[3])) * scale, 0.7):.2f}"
            parts.append(Markup('<path class="kind-{}" stroke-width="{}" d="M{}"/>').format(kind, width, line))
    bar = max((s for s in SCALES_UM if s * scale <= WIDTH / 5), default=SCALES_UM[0])
    bottom = span[1] * scale + 16
    parts.append(
        Markup(
            '<path class="scale" stroke-width="2" d="M2,{y}h{w}"/><text x="{tx}" y="{ty}">{bar} µm; x-y, z-y</text>'
        ).format(
            y=f"{bottom:.1f}", w=f"{bar * scale:.1f}", tx=f"{bar * scale + 10:.1f}", ty=f"{bottom + 4:.1f}", bar=bar
        )
    )
    right = (span[0] + span[2]) * scale + GAP
    return Markup('<svg class="cell" viewBox="-4 -4 {} {}" role="img" aria-label="morphology">{}</svg>').format(
        f"{right + 8:.0f}", f"{bottom + 14:.0f}", Markup("\n").join(parts)
    )
