"""What the arrays, series and columns of recordings are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neurofleet.errors import did_you_mean
from neurofleet.faults import faults
from neurofleet.learners.neuprint.population_recordings import ANIMAL, RecordingsRefused

_OF_ARRAYS = (
    "activity", "neurons_first", "rate_hz", "frame_times", "frame_times_per_s", "animal", "session", "neuron_ids",
    "labels", "confidence", "least_confidence", "missing_labels", "positions", "behaviour", "behaviour_times",
    "behaviour_times_per_s",
)  # fmt: skip
KEYS = {
    "npz": _OF_ARRAYS,
    "npy": _OF_ARRAYS,
    "caiman": _OF_ARRAYS,
    "suite2p": (*_OF_ARRAYS, "plane"),
    "nwb": (
        "activity", "plane", "neurons_first", "frame_times_per_s", "neuron_ids", "labels", "confidence",
        "least_confidence", "missing_labels", "positions", "behaviour", "behaviour_times_per_s",
    ),
    "bugeon": ("behaviour", "missing_labels", "stimuli"),
}  # fmt: skip

NAMES = (
    "activity", "frame_times", "animal", "session", "neuron_ids", "positions", "rate_hz", "behaviour_times",
)  # fmt: skip
"""Keys that name arrays which other recordings of the same kind have, too; `behaviour` beside them."""


class RecordingLayout(BaseModel):
    """Names in the files, for what a recording needs; whatever is None is found by its usual name.

    Attributes
    ----------
    activity
        Array (frames × neurons) of an npz file, or series of an NWB file; of suite2p another array than F - 0.7 Fneu,
        such as spks; of CaImAn another than F_dff or C.
    plane
        Of several planes: the folder of suite2p, or the imaging plane (or its plane segmentation, or processing
        module) of an NWB file.
    neurons_first
        True where activity is neurons × frames, False where it is frames × neurons although it looks otherwise.
    rate_hz
        Frames per second, or the name of the array that holds it.
    frame_times
        Array of times in s, one per frame.
    frame_times_per_s, behaviour_times_per_s
        How many of the steps in which times are counted make a second, where they are not in s: 1000 for ms.
    animal, session
        Arrays (or attributes) with their names; else the file's name.
    neuron_ids
        Array, or column of the plane segmentation. Ids are within an animal: the same id in two of its
        sessions is the same neuron. Without them, every session has neurons of its own.
    labels
        For each label, such as ``{"class": "neuron_class"}``, its array or column.
    confidence, least_confidence
        Array or column of how sure the labels are; labels that are less sure are dropped.
    missing_labels
        Values which mean that there is no label, whatever their case.
    positions
        Array (neurons × 2 or 3) in um, or column.
    behaviour
        Channels: names, or ``{"running": "speed"}`` where a channel is to be called otherwise.
    behaviour_times
        For each channel that is not on the frame clock, the array of its times in s.
    stimuli
        Bugeon's release: which stimuli to read; None reads all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    activity: str | None = None
    plane: str | None = None
    neurons_first: bool | None = None
    rate_hz: float | str | None = None
    frame_times: str | None = None
    frame_times_per_s: float | None = Field(default=None, gt=0, le=1e9)
    behaviour_times_per_s: float | None = Field(default=None, gt=0, le=1e9)
    animal: str | None = None
    session: str | None = None
    neuron_ids: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    confidence: str | None = None
    least_confidence: float | None = None
    missing_labels: tuple[str, ...] = ("", "unlabelled", "unlabeled", "unknown", "none", "nan", "na")
    positions: str | None = None
    behaviour: dict[str, str] | None = None
    behaviour_times: dict[str, str] = Field(default_factory=dict)
    stimuli: tuple[str, ...] | None = None

    @field_validator("behaviour", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {str(name): str(name) for name in value}
        return value

    @field_validator("labels")
    @classmethod
    def _not_the_animal(cls, value: dict[str, str]) -> dict[str, str]:
        if ANIMAL in value:
            raise ValueError(f"a label cannot be called {ANIMAL!r}, which is a column already")
        return value


def read_recording_layout(layout: Mapping[str, Any] | None, kind: str) -> RecordingLayout:
    """Return the layout for recordings of a `kind` of ``KEYS``, checked.

    Raises
    ------
    RecordingsRefused
        For an unknown key (with the nearest one), a key which files of this kind have no use for, or a
        value of the wrong type.
    """
    layout = dict(layout or {})
    for key in layout:
        if key not in RecordingLayout.model_fields:
            raise RecordingsRefused(
                f"Layout: unknown key {key!r}{did_you_mean(key, RecordingLayout.model_fields)}."
                f" For {kind} there are: {', '.join(KEYS[kind])}."
            )
        if key not in KEYS[kind]:
            raise RecordingsRefused(
                f"Layout: {key!r} means nothing for {kind} recordings; they know {', '.join(KEYS[kind])}. Take it out."
            )
    try:
        checked = RecordingLayout.model_validate(layout)
    except ValidationError as error:
        told = faults(error, RecordingLayout, content=layout)
        advice = " Names are given by name: `labels: {class: neuron_class}`." if "keys and values" in told else ""
        raise RecordingsRefused(f"Layout: {told}.{advice}") from error
    if (checked.confidence is None) != (checked.least_confidence is None):
        raise RecordingsRefused("Layout: 'confidence' and 'least_confidence' belong together; give both, or neither.")
    return checked
