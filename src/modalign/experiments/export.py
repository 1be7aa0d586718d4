"""A trained run as one file that needs no ``modalign``: ``torch.export`` (``.pt2``) or ONNX (``.onnx``).

What is exported answers as ``predict`` does, readout and calibration included. It takes the tensors of a batch:
``present`` (B, M) bool, one input a modality by name (B, *shape), not standardized (the model does that), whatever
stands where a modality is absent, and ``<m>_conditions`` (B, K) of modalities that have conditions. It gives
``scores`` (B, C): probabilities of classes or labels, else the numbers predicted. B is free.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modalign.data.batch import Batch, Modality
from modalign.errors import RunError, SettingsError
from modalign.files import write_whole
from modalign.strategies.base import Strategy
from modalign.training.build import Trained, load_trained
from modalign.training.own_code import Objects

FORMATS = {".pt2": "torch.export", ".onnx": "ONNX"}
_TOLERANCE = 1e-4


class Served(nn.Module):
    """A trained strategy as a function of tensors.

    Args:
        strategy: in evaluation mode.
    """

    def __init__(self, strategy: Strategy) -> None:
        super().__init__()
        self.strategy = strategy
        self.names = [*strategy.info.modalities]
        self.told = [name for name, modality in strategy.info.modalities.items() if modality.conditions]

    def forward(self, present: Tensor, *given: Tensor) -> Tensor:
        """Scores (B, C) of the modalities' inputs, then the conditions of those that have some, in order."""
        count = len(self.names)
        inputs = dict(zip(self.names, given[:count], strict=True))
        rows = torch.zeros(present.shape[0], dtype=torch.long, device=present.device)
        batch = Batch(inputs, present, rows, rows, conditions=dict(zip(self.told, given[count:], strict=True)))
        scores = self.strategy.log_probability(self.strategy(batch))
        return scores.exp() if self.strategy.task.kind in ("classification", "multilabel") else scores


def export(
    run: str | Path | Trained, out: str | Path, *, objects: Objects | None = None, trust_code: bool = False
) -> Path:
    """Export a trained run; its file is compared with the run on random samples before it is put in place.

    Args:
        run: the run folder, or a trained strategy as ``load_trained`` gives it.
        out: file to write: ``.pt2`` (``torch.export.load``), or ``.onnx`` (ONNX Runtime; the extra ``export``).
        objects, trust_code: as in ``load_trained``.

    Returns:
        The file. Names of classes and modalities are in it as ``modalign.json`` (an extra file), or as metadata.

    Raises:
        InputError: no such run, an unknown ending, a file that exists, or the extra is not installed.
        RunError: an operator of the network cannot be exported, or the exported file answers otherwise.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise SettingsError(f"{out} ends in {out.suffix or 'nothing'!r}; expected {' or '.join(FORMATS)}")
    if out.exists():
        raise SettingsError(f"{out} exists; choose another file")
    if out.suffix == ".onnx":
        try:
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise SettingsError("exporting to ONNX needs pip install 'modalign[export]'") from None
    trained = run if isinstance(run, Trained) else load_trained(run, objects=objects, trust_code=trust_code)
    served = Served(deepcopy(trained.strategy)).eval().requires_grad_(False)
    about = json.dumps(
        {
            "task": trained.info.task.kind,
            "classes": list(trained.info.task.classes),
            "modalities": {name: list(m.shape) for name, m in trained.info.modalities.items()},
        }
    )
    names = ["present", *served.names, *(f"{name}_conditions" for name in served.told)]
    modalities = list(trained.info.modalities.values())
    example = _samples(modalities, served.told, 3)
    batch = torch.export.Dim("batch", min=1)
    free: Any = ({0: batch}, tuple({0: batch} for _ in example[1:]))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(served, example, dynamic_shapes=free, strict=False)
            answer: Callable[..., Any]
            save: Callable[..., object] | bytes
            if out.suffix == ".pt2":
                answer = program.module()
                save = partial(torch.export.save, program, extra_files={"modalign.json": about})
            else:
                answer, save = _onnx(program, names, about)
    except (SettingsError, RunError):
        raise
    except Exception as error:  # whatever an exporter says of a network
        operators = sorted(set(re.findall(r"op='([\w.:]+)'", str(error))))
        first = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        raise RunError(
            f"{trained.spec.strategy} with these encoders cannot be exported to {FORMATS[out.suffix]}: "
            f"{'it has no operator ' + ', '.join(operators) if operators else first}. "
            f"{'Export to .pt2, or take' if out.suffix == '.onnx' else 'Take'} another encoder or fusion"
        ) from error
    for rows in (1, 5):
        samples = _samples(modalities, served.told, rows)
        with torch.no_grad():
            expected, found = served(*samples), answer(*samples)
        worst = float((expected - torch.as_tensor(found)).abs().max())
        if not worst <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise RunError(f"the exported file answers otherwise than the run, by {worst:.2g} on random samples")
    write_whole(out, save)
    return out


def _onnx(program: torch.export.ExportedProgram, names: list[str], about: str) -> tuple[Callable[..., Any], bytes]:
    """Return a function that runs the ONNX model, and its bytes."""
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names every package that is not there
    made = torch.onnx.export(
        program, (), input_names=names, output_names=["scores"], dynamo=True, verbose=False, external_data=False
    )
    assert made is not None
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "modalign", about
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    known = [one.name for one in session.get_inputs()]

    def answer(*samples: Tensor) -> np.ndarray:
        given = {name: sample.numpy() for name, sample in zip(names, samples, strict=True) if name in known}
        scores: np.ndarray = session.run(None, given)[0]
        return scores

    return answer, content


def _samples(modalities: list[Modality], told: list[str], rows: int) -> tuple[Tensor, ...]:
    """Random samples: the first is whole, each of the next lacks another modality, and so on."""
    draw, count = torch.Generator().manual_seed(rows), len(modalities)
    lacking = torch.arange(rows) % (count + 1) - 1
    present = (lacking[:, None] != torch.arange(count)) | (count == 1)
    inputs = [
        torch.randint(modality.vocabulary, (rows, *modality.shape), generator=draw)
        if modality.kind == "text"
        else torch.randn(rows, *modality.shape, generator=draw)
        for modality in modalities
    ]
    known = [torch.zeros(rows, modality.conditions) for modality in modalities if modality.name in told]
    return (present, *inputs, *known)
