"""Published protocols: how the authors of a baseline read a data set and trained on it, as named presets.

A protocol is a record of settings: what ``prepare`` decodes, how ``load`` augments, and the training settings that a
recipe takes over where it names none of its own. ``ours`` is what the recipe of the package does. What a record
cannot give exactly is listed in ``docs/reproduce.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modalign.errors import SettingsError, unknown
from modalign.settings import DataSettings, TrainingSettings

OURS = "ours"


@dataclass(frozen=True)
class Protocol:
    """How one data set is read and trained on.

    Attributes:
        source: paper and repository, as published.
        audio: recipe of the sound (``data.media.spectrograms``).
        frames: of each video that are decoded.
        sampling: which ones (``decode_video``).
        keep: of these, by number from 0, those that are stored; all if empty.
        whole: frames and sound of the whole video, not of its event.
        repeats: of a video that a list names more than once, which lines are samples.
        draw: frames that a sample has, one of each of so many equal parts of those stored: at random in training, a
            fixed one otherwise; 0 for all.
        augment: whether training frames are cropped and flipped.
        crop: how (``data.augment.Crop``).
        training: training settings, those of the recipe where there are none.

    >>> protocol_of("cremad", "dr").keep
    (1, 6)
    """

    source: str
    audio: str
    frames: int
    sampling: Literal["segments", "seconds", "half-seconds"] = "segments"
    keep: tuple[int, ...] = ()
    whole: bool = False
    repeats: Literal["every", "first", "last"] = "every"
    draw: int = 0
    augment: bool = True
    crop: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


OGM = "Peng et al., OGM-GE, CVPR 2022; GeWu-Lab/OGM-GE_CVPR2022"
PMR = "Fan et al., PMR, CVPR 2023; fanyunfeng-bit/Modal-Imbalance-PMR"
MMPARETO = "Wei and Hu, MMPareto, ICML 2024; GeWu-Lab/MMPareto_ICML2024"
DR = "Wei et al., Diagnosing and Re-learning, ECCV 2024; GeWu-Lab/Diagnosing_Relearning_ECCV2024"
RECONBOOST = "Hua et al., ReconBoost, ICML 2024; huacong/ReconBoost"

# All of them train by SGD without warm-up in single precision.
_SGD = {
    "batch_size": 64, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "warmup": 0.0, "precision": "fp32"
}  # fmt: skip
_OGM = {**_SGD, "epochs": 100, "lr": 1e-3, "schedule": "step", "step_at": [70 / 100]}
_PMR = {**_SGD, "epochs": 130, "lr": 1e-3, "schedule": "step", "step_at": [70 / 130]}
# 100 stages of 4 + 4 epochs (the checkpoint that is published is of stage 99), a tenth after each 30 of them.
_RECONBOOST = {**_SGD, "epochs": 800, "lr": 1e-2, "weight_decay": 5e-4, "schedule": "step", "step_at": [0.3, 0.6, 0.9]}

# torchvision's RandomResizedCrop, for each frame anew: up to ten draws of a box that fits. CREMA-D's frames are 480 x
# 360 and lie squeezed to squares in the prepared folder, so that an aspect of 3/4 to 4/3 is one of 9/16 to 1 there.
_CROP = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "each_frame": True, "tries": 10}
_CREMAD_CROP = {**_CROP, "ratio": (9 / 16, 1.0)}

PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "cremad": {
        OURS: Protocol("this package", audio="ogm", frames=3),
        "ogm": Protocol(OGM, audio="ogm", frames=1, sampling="seconds", crop=_CREMAD_CROP, training=_OGM),
        "pmr": Protocol(PMR, audio="pmr22", frames=3, sampling="seconds", crop=_CREMAD_CROP, training=_PMR),
        "mmpareto": Protocol(
            MMPARETO, audio="fbank", frames=10, sampling="half-seconds", draw=2, crop=_CREMAD_CROP,
            training={**_SGD, "epochs": 50, "lr": 2e-3, "schedule": "constant"},
        ),
        "dr": Protocol(
            DR, audio="fbank", frames=10, sampling="half-seconds", keep=(1, 6), augment=False, crop=_CREMAD_CROP,
            training={**_SGD, "epochs": 90, "lr": 2e-3, "schedule": "constant"},
        ),
        "reconboost": Protocol(
            RECONBOOST, audio="reconboost", frames=1, sampling="seconds", crop=_CREMAD_CROP, training=_RECONBOOST
        ),
    },
    "ave": {
        OURS: Protocol("this package", audio="pmr", frames=4),
        "ogm": Protocol(
            OGM, audio="pmr22", frames=10, sampling="half-seconds", keep=(0, 3, 6), whole=True, repeats="last",
            crop=_CROP, training=_OGM,
        ),
        "pmr": Protocol(
            PMR, audio="pmr", frames=4, sampling="seconds", repeats="first", crop=_CROP, training=_PMR
        ),
        "reconboost": Protocol(
            RECONBOOST, audio="pmr", frames=3, sampling="seconds", repeats="first", crop=_CROP,
            training={**_RECONBOOST, "step_at": [0.4], "step_factor": 0.5},
        ),
    },
}  # fmt: skip


def protocol_of(dataset: str, name: str) -> Protocol:
    """Return a protocol of a data set by its name.

    Raises:
        SettingsError: the data set has none, or none of that name.

    >>> protocol_of("ave", "pmr").training["epochs"]
    130
    """
    known = PROTOCOLS.get(dataset)
    if known is None:
        raise SettingsError(f"{dataset} has no published protocols, only {' and '.join(PROTOCOLS)}; leave protocol out")
    if name in known:
        return known[name]
    others = [other for other, protocols in PROTOCOLS.items() if name in protocols]
    if others:
        raise SettingsError(
            f"protocol {name!r} was published for {', '.join(others)}, not for {dataset}; expected one of "
            f"{', '.join(known)}"
        )
    raise unknown(f"protocol of {dataset}", name, known)


def describe_protocol(data: DataSettings, training: TrainingSettings) -> list[str]:
    """Return what a run says of the protocol that its data names, and of training settings that differ from it.

    >>> data = DataSettings("ave", options={"protocol": "pmr"})
    >>> describe_protocol(data, TrainingSettings(**{**protocol_of("ave", "pmr").training, "epochs": 9}))[0][-39:]
    'other than published: epochs is 9 (130)'
    >>> describe_protocol(DataSettings("ave"), TrainingSettings())
    []
    """
    name = data.options.get("protocol", OURS)
    if data.name not in PROTOCOLS or name == OURS:
        return []
    chosen = protocol_of(data.name, name)
    now = {key: getattr(training, key) for key in chosen.training}
    other = [f"{key} is {now[key]} ({value})" for key, value in chosen.training.items() if now[key] != value]
    said = f"; other than published: {', '.join(other)}" if other else ""
    return [f"protocol {name} of {data.name}, after {chosen.source}{said}"]
