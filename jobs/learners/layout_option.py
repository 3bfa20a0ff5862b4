"""``--layout``: what the arrays and columns of files are called, from a file or from the command line itself."""

from typing import Any

from neurofleet.errors import UsageError
from neurofleet.faults import shown
from neurofleet.input_paths import with_home
from neurofleet.yaml_files import read_yaml, read_yaml_file


def read_layout(layout: str | None) -> dict[str, Any]:
    """Return the keys of a layout; none without one.

    Parameters
    ----------
    layout : str or None
        A YAML file with the keys that stand under ``layout:`` in a job, or these keys: ``{rate_hz: 30}``, or
        ``rate_hz: 30``.

    Raises
    ------
    UsageError
        It cannot be read, or holds no keys.
    """
    if layout is None:
        return {}
    is_text = layout.lstrip().startswith("{") or ": " in layout
    content = read_yaml(layout, "--layout") if is_text else read_yaml_file(with_home(layout))
    if not isinstance(content, dict):
        raise UsageError(f"--layout {layout}: expected keys such as `waveform_rate_hz: 20000`, found {shown(content)}.")
    return content
