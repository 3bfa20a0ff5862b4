"""Names that a package hands on, whose modules are imported when a name is first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package, so that importing it stays cheap.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    modules : mapping of str to str
        Name -> the module of the package that defines it.

    Examples
    --------
    >>> __getattr__, __dir__ = lazy_names(__name__, {"train": "train_sims"})
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    def list_names() -> list[str]:
        return sorted({*vars(import_module(package)), *modules})

    return get_attribute, list_names
