"""ModAlign and the other methods in scikit-learn's shape: ``fit`` and ``predict``, in memory.

The engine, the settings and the numbers are those of ``modalign.train``: a part of the training rows validates, nothing
is tested, and what is kept of a run is held by the estimator.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import DataLoader, Dataset

from modalign.api import StrategyLike, train
from modalign.data.batch import Output
from modalign.data.objects import as_table
from modalign.data.samples import read_samples
from modalign.data.tables.files import table_arrays
from modalign.errors import DataError, SettingsError, speaking
from modalign.evaluation.metrics import compute_metrics
from modalign.files import in_use, read_settings, write_whole
from modalign.strategies import Strategy
from modalign.training.build import Trained, load_trained
from modalign.training.forward import outputs
from modalign.training.own_code import Objects
from modalign.training.run import DESCRIPTIONS
from modalign.training.scales import warn_of_scales

_KEPT = (*DESCRIPTIONS, "checkpoints/best.pt")
_ABOUT = "estimator.json"
_FITTED = ("classes_", "feature_names_in_", "center_", "scale_")
Rows = Any  # arrays by name, a table, or a matrix


class _Multimodal(TransformerMixin, BaseEstimator):
    """What the estimators have in common."""

    _task = ""

    def __init__(
        self,
        strategy: StrategyLike = "modalign",
        *,
        modalities: Mapping[str, Any] | Sequence[str] | None = None,
        encoders: Mapping[str, Any] | None = None,
        fusion: Any = None,
        options: Mapping[str, Any] | None = None,
        epochs: int = 30,
        batch_size: int = 64,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        width: int = 64,
        valid_fraction: float = 0.15,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.strategy = strategy
        self.modalities = modalities
        self.encoders = encoders
        self.fusion = fusion
        self.options = options
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.width = width
        self.valid_fraction = valid_fraction
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(
        self,
        X: Rows,
        y: Any,
        groups: Any = None,
        context: Any = None,
        *,
        on_epoch: Callable[[dict[str, Any]], object] | None = None,
        on_step: Callable[[dict[str, Any]], object] | None = None,
    ) -> Self:
        """Train.

        Args:
            X: arrays by name (vectors, sequences, images, clips, token numbers, texts), a table (a data frame of pandas
                or polars, a Hugging Face ``Dataset``), or a matrix. A row of a modality that is NaN or empty throughout
                is missing there.
            y: (N,) classes or values; (N, 2) times and events for survival.
            groups: (N,) group of each row; none is divided between what is learned from and what validates.
            context: (N,) T of each row, for ``options={"context": "column:context"}``.
            on_epoch, on_step: hooks as in ``modalign.train``; ``on_epoch`` ends the training by returning True.

        Raises:
            InputError: rows, columns or settings that cannot be used; all of them are named.
        """
        columns, named = self._columns(X, fitting=True, y=y)
        target, columns = self._with_target(columns, y)
        more: dict[str, Any] = {}
        for name, values in (("groups", groups), ("context", context)):
            if values is not None:
                columns[name] = np.asarray(values)
        if groups is not None:
            more["group"] = "groups"
        if context is not None:
            more["columns"] = ["context"]
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31)
        with tempfile.TemporaryDirectory() as folder, speaking("estimator"):
            run = train(
                columns, self.strategy, encoders=self.encoders, fusion=self.fusion, out=Path(folder) / "run",
                seed=int(seed), options=dict(self.options or {}), quiet=not self.verbose, target=target,
                on_epoch=on_epoch, on_step=on_step,
                modalities=named, split="none", epochs=self.epochs, batch_size=self.batch_size, lr=self.lr,
                optimizer=self.optimizer, width=self.width, valid_fraction=self.valid_fraction,
                accelerator=self.device, task=self._task, **{"impute": "mean", **more, **(self.settings or {})},
            )  # fmt: skip
            self.history_ = run.history
            paths = [path for path in run.folder.rglob("*") if path.is_file()]
            names = [path.relative_to(run.folder).as_posix() for path in paths]
            wanted = [name for name in names if name in _KEPT or name.startswith("code/")]
            self.files_ = {name: (run.folder / name).read_bytes() for name in wanted}
            self._trained = load_trained(run.folder, objects=self._objects())
        return self

    def _objects(self) -> Objects | None:
        """Objects of one's own among the parameters."""
        strategy = None if isinstance(self.strategy, str) else self.strategy
        own = {m: given for m, given in (self.encoders or {}).items() if not isinstance(given, Mapping)}
        fusion = None if isinstance(self.fusion, str) else self.fusion
        objects = Objects(strategy, own, fusion)
        return objects if objects.parts() else None

    def _columns(self, X: Rows, fitting: bool = False, y: Any = None) -> tuple[dict[str, Any], Any]:
        """Return arrays by name, and what modalities are made of them."""
        named, X = self.modalities, as_table(X)
        if isinstance(X, (Dataset, DataLoader)) or hasattr(X, "to_pandas"):
            raise DataError(
                f"X is a {type(X).__name__} that is read item by item; expected arrays by name, a data frame or a "
                "matrix: stack its items, or use modalign.train, which reads them as they are needed"
            )
        if isinstance(X, pd.DataFrame):
            frame = X.rename(columns=str)
            if fitting:
                self.feature_names_in_ = np.asarray(frame.columns, dtype=object)
                self.n_features_in_ = frame.shape[1]
            named = {"x": list(frame.columns)} if named is None else named
            return table_arrays(frame), named
        if isinstance(X, Mapping):
            if fitting:
                self.feature_names_in_ = np.asarray(list(X), dtype=object)
                self.n_features_in_ = len(X)
            return dict(X), list(X) if named is None else named
        if fitting:
            X, _ = validate_data(
                self, X, y, reset=True, ensure_all_finite="allow-nan", multi_output=True, dtype="numeric",
                y_numeric=False,
            )  # fmt: skip
        else:
            X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan", dtype="numeric")
        parts = {"x": slice(None)} if named is None else named
        if not isinstance(parts, Mapping):
            raise SettingsError(
                f"modalities are {parts!r}; expected, for a matrix, names and columns: {{'a': slice(0, 9), 'b': [9]}}"
            )
        found, every = {}, np.arange(X.shape[1])
        for name, part in parts.items():
            try:
                found[name] = X[:, every[part]]
            except (IndexError, TypeError):
                found[name] = X[:, :0]
            if not found[name].size:
                raise SettingsError(
                    f"modality {name!r} is made of {part!r}, and X has {len(every)} columns; expected some of 0 to "
                    f"{len(every) - 1}: a slice or a list of numbers"
                )
        return found, list(parts)

    def _with_target(self, columns: dict[str, Any], y: Any) -> tuple[str, dict[str, Any]]:
        """Return the name of the target, and the columns with it."""
        raise NotImplementedError(f"{type(self).__name__} must define its target")

    def _forward(self, X: Rows) -> Output:
        """Return what the network says of new rows."""
        check_is_fitted(self, "files_")
        columns, _ = self._columns(X)
        split = read_samples(columns, self._model.inputs)
        warn_of_scales(self._model.strategy.model, split, self._model.scales)
        return outputs(self._model.strategy, split)

    @property
    def _model(self) -> Trained:
        """The trained network, made anew from ``files_`` after it was copied or read."""
        if "_trained" not in self.__dict__:
            with tempfile.TemporaryDirectory() as folder:
                _write(self.files_, Path(folder))
                self._trained = load_trained(folder, objects=self._objects())
        return self._trained

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_trained"}

    def transform(self, X: Rows) -> np.ndarray:
        """Return the features of all modalities side by side, (N, sum of D_m); zeros where one is missing.

        Args:
            X: rows as in ``fit``.
        """
        found = self._forward(X)
        return np.concatenate([z.numpy() for z in found.features.values()], 1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of what ``transform`` gives: ``<modality>_<number>``.

        Args:
            input_features: ignored.
        """
        check_is_fitted(self, "files_")
        dims = self._model.strategy.model.dims
        return np.array([f"{m}_{i}" for m, size in dims.items() for i in range(size)], dtype=object)

    def save(self, folder: str | Path) -> Path:
        """Write the estimator into a folder, as a run folder: settings and weights, no pickled objects.

        Args:
            folder: a new folder, or an empty one.

        Raises:
            SettingsError: the folder is in use.
        """
        check_is_fitted(self, "files_")
        folder = Path(folder)
        if in_use(folder):
            raise SettingsError(f"{folder} is in use; expected a new or empty folder: choose another")
        _write(self.files_, folder)
        params = self.get_params(deep=False)
        if isinstance(self.modalities, Mapping):  # JSON knows no slices
            every = range(self.n_features_in_)
            params["modalities"] = {
                m: list(every[part]) if isinstance(part, slice) else part for m, part in self.modalities.items()
            }
        plain = {name: value for name, value in params.items() if _is_plain(value)}
        known = {name: np.asarray(getattr(self, name)) for name in _FITTED if hasattr(self, name)}
        fitted = {name: [value.tolist(), value.dtype.str] for name, value in known.items()}
        about = {"class": type(self).__name__, "params": plain, "fitted": fitted, "columns": self.n_features_in_}
        return write_whole(folder / _ABOUT, json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: str | Path, **objects: Any) -> Self:
        """Return an estimator that ``save`` wrote; no code in the folder is run.

        Args:
            folder: where it lies.
            objects: parameters that were objects of one's own (``strategy``, ``encoders``, ``fusion``).

        Raises:
            DataError: the folder is none that ``save`` wrote, or of another class.
        """
        folder = Path(folder)
        about = read_settings(folder / _ABOUT, "what save of an estimator wrote")
        if about.get("class") != cls.__name__:
            what = f"{folder} holds a {about.get('class')}; expected a {cls.__name__}"
            raise DataError(f"{what}: load it by its own class")
        made = cls(**{**about["params"], **objects})
        made.files_ = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.relative_to(folder).as_posix() in _KEPT
        }
        for name, (values, dtype) in about["fitted"].items():
            value = np.asarray(values, dtype=dtype)
            setattr(made, name, value if value.ndim else value.item())
        made.n_features_in_ = int(about["columns"])
        made._trained = load_trained(folder, objects=made._objects())
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags


class MultimodalClassifier(ClassifierMixin, _Multimodal):
    """Classify rows that have several modalities.

    Args:
        strategy: name of a method, ``file.py``, a subclass or an instance of ``Strategy``.
        modalities: of a data frame, name to its column or columns (``{"text": "title", "table": ["age", "bmi"]}``); of
            a matrix, name to its columns (``{"a": slice(0, 10)}``); of arrays by name, names. By default all arrays, or
            one modality ``x`` of all columns.
        encoders: modality name to a torch module (B, *shape) -> (B, D), a function that makes one, or settings.
        fusion: name of a fusion, or a module.
        options: options of the method.
        epochs, batch_size, lr, optimizer, width, valid_fraction: as in ``TrainingSettings``, ``ModelSettings`` and
            ``DataSettings``.
        settings: further settings by name (``{"schedule": "constant", "selection": "last"}``).
        random_state: seed of initial weights and of the order of samples.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        verbose: 1 shows the progress.

    Attributes:
        classes_: classes, in the order of ``predict_proba``.
        history_: a data frame, one row an epoch.

    >>> from sklearn.datasets import load_digits
    >>> pixels, target = load_digits(return_X_y=True)
    >>> halves = {"left": pixels[:, :32], "right": pixels[:, 32:]}
    >>> model = MultimodalClassifier("late_fusion", epochs=2, random_state=0).fit(halves, target)
    >>> model.predict_proba({"left": pixels[:5, :32]}).shape    # the right halves are missing
    (5, 10)
    """

    _task = "classification"

    def _with_target(self, columns: dict[str, Any], y: Any) -> tuple[str, dict[str, Any]]:
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import column_or_1d

        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"y has one class only, {self.classes_[0]}; expected at least two")
        return _put(columns, codes)

    def predict_proba(self, X: Rows) -> np.ndarray:
        """Return the probability of each class, (N, C), in the order of ``classes_``.

        Args:
            X: rows as in ``fit``; a modality that is not there is missing in all.
        """
        found = self._forward(X)
        said: np.ndarray = self._model.strategy.log_probability(found).exp().numpy()
        return said

    def predict(self, X: Rows) -> np.ndarray:
        """Return the most probable class of each row.

        Args:
            X: rows as in ``fit``.
        """
        best = self.predict_proba(X).argmax(1)
        answers: np.ndarray = self.classes_[best]
        return answers


class MultimodalRegressor(RegressorMixin, _Multimodal):
    """Predict a number of rows that have several modalities; parameters are those of ``MultimodalClassifier``.

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = MultimodalRegressor("joint", modalities={"a": [0, 1], "b": [2, 3]}, epochs=1, random_state=0)
    >>> model.fit(x, x.sum(1)).predict(x[:3]).shape
    (3,)
    """

    _task = "regression"

    def _with_target(self, columns: dict[str, Any], y: Any) -> tuple[str, dict[str, Any]]:
        from sklearn.utils.validation import column_or_1d

        y = column_or_1d(y, warn=True).astype(np.float64)
        # The network learns deviations in units of their spread, whatever the target is measured in.
        self.center_, self.scale_ = float(y.mean()), float(y.std()) or 1.0
        return _put(columns, (y - self.center_) / self.scale_)

    def predict(self, X: Rows) -> np.ndarray:
        """Return the value of each row, (N,).

        Args:
            X: rows as in ``fit``.
        """
        found = self._forward(X)
        values: np.ndarray = self._model.strategy.log_probability(found)[:, 0].double().numpy()
        return values * self.scale_ + self.center_


class MultimodalSurvival(_Multimodal):
    """Predict the risk of patients that have several modalities; parameters are those of ``MultimodalClassifier``.

    ``y`` is (N, 2): time, and whether the event happened.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(80, 4)), np.c_[rng.exponential(size=80), rng.random(80) < 0.7]
    >>> model = MultimodalSurvival("joint", modalities={"a": [0, 1], "b": [2, 3]}, epochs=1, random_state=0).fit(x, y)
    >>> model.predict(x[:3]).shape, model.predict_survival(x[:3], [0.5, 1.0]).shape
    ((3,), (3, 2))
    """

    _task = "survival"

    def _with_target(self, columns: dict[str, Any], y: Any) -> tuple[str, dict[str, Any]]:
        y = np.asarray(y, np.float64)
        if y.ndim != 2 or y.shape[1] != 2:
            raise DataError(f"y has shape {y.shape}; expected (N, 2): time, and 1 where the event happened")
        time, columns = _put(columns, y[:, 0], "time")
        event, columns = _put(columns, y[:, 1], "event")
        return f"{time},{event}", columns

    def predict(self, X: Rows) -> np.ndarray:
        """Return the log risk of each row, (N,).

        Args:
            X: rows as in ``fit``.
        """
        found = self._forward(X)
        risk: np.ndarray = self._model.strategy.log_probability(found)[:, 0].numpy()
        return risk

    def predict_survival(self, X: Rows, times: Sequence[float]) -> np.ndarray:
        """Return the probability of living beyond each of some times, (N, len(times)).

        Args:
            X: rows as in ``fit``.
            times: in the unit of training.

        Raises:
            DataError: no event happened in the part that validated, so that curves are not known.
        """
        risk, curves = self.predict(X), self._model.survival
        if curves is None:
            raise DataError("no event happened in the part that validated; expected some: give more rows or events")
        found: np.ndarray = curves.curves(risk, np.asarray(times, np.float64))
        return found

    def score(self, X: Rows, y: Any) -> float:
        """Return Harrell's concordance index.

        Args:
            X: rows as in ``fit``.
            y: (N, 2) times and events.
        """
        risk = self.predict(X)
        return float(compute_metrics(self._model.info.task, risk[:, None], np.asarray(y, np.float64))["c_index"])


def _put(columns: dict[str, Any], values: np.ndarray, name: str = "target") -> tuple[str, dict[str, Any]]:
    """Add a column under a name that is free."""
    while name in columns:
        name += "_"
    return name, columns | {name: values}


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        write_whole(folder / name, content)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a parameter."""
    if isinstance(value, Strategy) or (isinstance(value, type) and issubclass(value, Strategy)):
        return False
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
