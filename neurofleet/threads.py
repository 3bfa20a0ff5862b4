"""How many threads numerical libraries work with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

CHOSEN = "OMP_NUM_THREADS"


def threads_note() -> str:
    """Return what is to be said of the threads that the user has chosen; nothing where one works."""
    chosen = os.environ.get(CHOSEN, "")
    if chosen in ("", "1"):
        return ""
    return (
        f"{CHOSEN} is {chosen}: sums are rounded in another order than by one thread, so that the same seed may give"
        " another model, with other scores."
    )


@contextmanager
def one_thread(*, fits: bool = True) -> Iterator[None]:
    """Let torch, numpy and scikit-learn work with one thread in a block, unless `OMP_NUM_THREADS` says otherwise.

    The steps of a learner are short: threads would mostly wait for each other, on a machine that others use too for
    many times as long as they work. Members, folds and trials are done side by side in processes (``workers:``).

    Parameters
    ----------
    fits : bool
        Whether scikit-learn is loaded for it, which a prediction does without.
    """
    if os.environ.get(CHOSEN):
        yield
        return
    if fits:
        import sklearn  # noqa: F401  its pool, too, is limited where it is loaded
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
