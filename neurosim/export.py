"""Write a fitted cell for use without this project."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neurosim.errors import InputError

if TYPE_CHECKING:
    from bluepyopt.ephys.models import CellModel


def write_hoc(path: Path | str, cell_model: "CellModel", parameters: Mapping[str, float]) -> None:
    """Write a hoc template of `cell_model` (``NAME("folder of the morphology")`` makes the cell in NEURON).

    Parameters
    ----------
    path : Path or str
    cell_model : bluepyopt.ephys.models.CellModel
        As `neurosim.cell.build_cell_model` returns it; the axon treatment goes along.
    parameters : mapping
        Full name -> value of each parameter that is not fixed.

    Raises
    ------
    InputError
        A value is missing, or the file cannot be written.
    """
    free = [name for name, parameter in cell_model.params.items() if not parameter.frozen]
    missing = [name for name in free if name not in parameters]
    if missing:
        raise InputError(
            f"{path}: expected a value for each free parameter, found none for {', '.join(missing)}."
        )
    values = {name: parameters[name] for name in free}
    text = cell_model.create_hoc(values, disable_banner=True)
    path = Path(path)
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError(f"{path}: the hoc template cannot be written ({error.strerror}).") from error
