"""Features of frozen encoders, computed once and read from disk by every run that needs the same.

A frozen network (``models.backbones``) gives a sample the same features at every step of every run, so they are
computed before training, in fp32 whatever the precision of the training, and training reads them instead of the raw
inputs. They are kept in the folder ``features`` of the cache: ``<key>.npy``, (N, hidden) float32 of one modality of one
split, zeros where it is absent. The key is a hash of all that the features depend on: data, samples, network,
standardization. Runs that share these share the file, whatever their methods, seeds and budgets.

A computation that was stopped goes on where it was: ``<key>.partial`` is the same file, as far as it got. Of several
processes one computes, under a lock, and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from modalign.data.batch import Batch
from modalign.data.dataset import MultimodalData, Split, is_augmented
from modalign.data.tables.array_split import FeatureSplit, StoredArray
from modalign.errors import InputError
from modalign.models.backbones import Backbone
from modalign.models.multimodal import MultimodalModel
from modalign.settings import TrainingSettings
from modalign.training.forward import load_batches
from modalign.training.progress import Display

_VERSION = 1  # to be raised where features are computed in another way: older files are then not read
_PROBED = 16  # samples whose inputs are part of the key
_FLOAT = np.dtype("<f4")
_POLL = 1.0  # seconds between two looks at what another process has computed


def cache_folder() -> Path:
    """``MODALIGN_CACHE`` of the environment, by default ``~/.cache/modalign``."""
    return Path(os.environ.get("MODALIGN_CACHE") or "~/.cache/modalign").expanduser()


def frozen_encoders(model: MultimodalModel) -> dict[str, Backbone]:
    """Modality name to encoder, of those that give fixed features."""
    return {name: e for name, e in model.encoders.items() if isinstance(e, Backbone) and e.frozen}


def frozen_notes(model: MultimodalModel, data: MultimodalData) -> list[str]:
    """Return which frozen encoders have to run at every step of training all the same, and why."""
    reason = "its inputs are augmented, so that its features differ from epoch to epoch"
    if not hasattr(data.train, "augment"):
        reason = "the training split does not say, by an attribute 'augment', which inputs stay the same in every epoch"
    return [
        f"the frozen {name} encoder runs at every step of training: {reason}"
        for name in frozen_encoders(model)
        if is_augmented(data.train, name)
    ]


def with_cached_features(
    model: MultimodalModel,
    data: MultimodalData,
    settings: TrainingSettings,
    device: torch.device,
    display: Display,
    test: bool = True,
) -> MultimodalData:
    """``data`` with features in place of the inputs of frozen encoders, computed now where they are not kept yet.

    Of a modality that is augmented the training split stays as it is.

    Args:
        model: its encoders give the features; it is moved to ``device`` if any have to be computed.
        data: the raw data, which is not changed.
        settings: batches are twice as large as in training and read by as many workers.
        device: where the networks run.
        display: shows how far the computation is.
        test: whether the test split is read by this run at all.

    Raises:
        InputError: the cache folder cannot be written to.
    """
    splits: dict[str, Split] = {"train": data.train, "valid": data.valid}
    if test:
        splits["test"] = data.test
    folder = cache_folder() / "features"
    for name, encoder in frozen_encoders(model).items():
        network = _hash_network(model, name)
        files = {
            part: FeatureFile(folder, _key(network, data, name, part, split), len(split), encoder.hidden)
            for part, split in splits.items()
            if part != "train" or not is_augmented(data.train, name)
        }
        total = sum(file.rows for file in files.values())
        with display.features(name, partial(_rows_done, files.values()), total, folder) as show:
            for part, file in files.items():
                file.complete(_Computation(model, name, splits[part], settings, device), show)
                splits[part] = FeatureSplit(splits[part], {name: StoredArray(file.path)})
    return replace(data, train=splits["train"], valid=splits["valid"], test=splits.get("test", data.test))


def _rows_done(files: Iterable[FeatureFile]) -> int:
    return sum(file.done for file in files)


class _Computation:
    """The features of one modality of a split from a row on, in blocks, in order."""

    def __init__(
        self, model: MultimodalModel, name: str, split: Split, settings: TrainingSettings, device: torch.device
    ) -> None:
        self.model, self.name, self.split, self.settings, self.device = model, name, split, settings, device
        self.column = model.modalities.index(name)

    def __call__(self, first: int) -> Iterator[np.ndarray]:
        size = 2 * self.settings.batch_size
        positions = list(range(first, len(self.split)))
        batches = [positions[i : i + size] for i in range(0, len(positions), size)]
        self.split.set_epoch(None)
        self.model.to(self.device)
        for batch in load_batches(self.split, batches, self.settings.workers, self.device):
            yield self.features(batch).numpy()

    def features(self, batch: Batch) -> Tensor:
        """(B, hidden) float32 on the CPU, zeros where the modality is absent."""
        encoder = self.model.encoders[self.name]
        assert isinstance(encoder, Backbone)
        present = batch.present[:, self.column]
        features = torch.zeros(len(batch), encoder.hidden)
        if present.any():
            x = batch.inputs[self.name][present].to(self.device, non_blocking=True)
            features[present] = encoder.features(self.model.standardized(self.name, x)).float().cpu()
        return features


def _hash_network(model: MultimodalModel, name: str) -> str:
    """Hash of the network of an encoder and of the standardization before it."""
    encoder = model.encoders[name]
    assert isinstance(encoder, Backbone)
    modules = [encoder.net, *([model.standardize[name]] if name in model.standardize else [])]
    config: Any = encoder.net.config
    # The same weights may come from several folders.
    config = {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}
    digest = hashlib.sha256(json.dumps([type(encoder.net).__name__, config], sort_keys=True, default=str).encode())
    for module in modules:
        for key, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
            if key.startswith("pooler."):  # comes after what is read, and is often random in pretrained networks
                continue
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_raw(tensor))
    return digest.hexdigest()


def _key(network: str, data: MultimodalData, name: str, part: str, split: Split) -> str:
    """Hash of all that the features of a modality of a split depend on.

    The fingerprint stands for the contents. Some inputs are added to it, for that of a data set of one's own may say
    little, and files may be replaced under a prepared folder.
    """
    about = [_VERSION, network, data.fingerprint, asdict(data.modalities[name]), part, [str(i) for i in split.ids]]
    digest = hashlib.sha256(json.dumps(about).encode())
    split.set_epoch(None)
    taken = min(len(split), _PROBED)
    probe = split.__getitems__([k * len(split) // taken for k in range(taken)])
    digest.update(_raw(probe.inputs[name]))
    digest.update(_raw(probe.present))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class FeatureFile:
    """Features of one modality of one split in one ``.npy`` file, which exists when it is whole.

    Args:
        folder: made if absent.
        key: name of the file.
        rows: number N of samples.
        width: number of features.

    Attributes:
        path: the whole file.
        partial: the same bytes as far as they are computed; its size tells how far that is.
    """

    def __init__(self, folder: Path, key: str, rows: int, width: int) -> None:
        self.path, self.partial = folder / f"{key}.npy", folder / f"{key}.partial"
        self.rows, self._row_bytes = rows, width * _FLOAT.itemsize
        header = io.BytesIO()
        about = {"descr": _FLOAT.str, "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(header, about)
        self._header = header.getvalue()

    @property
    def whole(self) -> bool:
        """Whether all rows are there."""
        return _size(self.path) == len(self._header) + self.rows * self._row_bytes

    @property
    def done(self) -> int:
        """Number of rows that are there."""
        return self.rows if self.whole else max(0, (_size(self.partial) - len(self._header)) // self._row_bytes)

    def complete(self, compute: Callable[[int], Iterable[np.ndarray]], show: Callable[[], None]) -> None:
        """Compute the rows that are missing, or wait until another process has done it.

        Args:
            compute: gives the rows from a position on, in blocks (n, width).
            show: called from time to time while there are more and more rows.

        Raises:
            InputError: the folder cannot be written to.
        """
        if not self.whole:
            with self._locked(show):
                if not self.whole:
                    self._write(compute, show)

    def _write(self, compute: Callable[[int], Iterable[np.ndarray]], show: Callable[[], None]) -> None:
        done = self.done
        with self._explained():
            stream = self._opened(done)
        with stream:
            for block in compute(done):
                with self._explained():
                    stream.write(np.ascontiguousarray(block, _FLOAT).data)
                    stream.flush()
                show()
            with self._explained():
                os.fsync(stream.fileno())
                os.replace(self.partial, self.path)

    def _opened(self, done: int) -> BinaryIO:
        """Return the partial file, cut after its last whole row, at its end."""
        stream = self.partial.open("ab")
        if done == 0:
            stream.truncate(0)
            stream.write(self._header)
        else:
            stream.truncate(len(self._header) + done * self._row_bytes)
        return stream

    @contextlib.contextmanager
    def _locked(self, show: Callable[[], None]) -> Iterator[None]:
        """Be the only process that computes this file; show what another one does meanwhile."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.with_suffix(".lock"))
            while not lock.is_locked:
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=_POLL)
                show()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the file system into one that says what to do."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the features of a frozen encoder cannot be kept in {self.path.parent} ({error}). Set the environment "
                "variable MODALIGN_CACHE to a folder that can be written to and has room, or compute them at every "
                "step with training.cache_features: false"
            ) from error


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.stat().st_size
    return 0
