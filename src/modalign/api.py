"""The Python door: everything that the command line does, with names or with objects of one's own."""

from __future__ import annotations

import functools
import html
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from modalign.classes import ask_first
from modalign.data.dataset import MultimodalData
from modalign.data.load import DATASETS, load_data
from modalign.data.tables.omics import OmicsOptions
from modalign.errors import RunFolderError, SettingsError, unknown
from modalign.files import folder_name
from modalign.recipes import load_recipe, recipe_from_plain, recipe_names
from modalign.reporting.artifacts import draw_run
from modalign.reporting.notebook import live_curves
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.strategies import Strategy, short_name, strategy_name, strategy_names
from modalign.training.build import load_trained, load_with_data, method_spec
from modalign.training.own_code import EncoderLike, FusionLike, Objects, resolve
from modalign.training.run import RunFolder
from modalign.training.train import train_spec
from modalign.training.trainer import Hooks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from modalign.experiments.search import Found
    from modalign.reporting.runs import Row

StrategyLike = str | type[Strategy] | Strategy
PLAIN = ("unimodal", "late_fusion", "joint", "joint_unimodal", "infonce", "modalign")


def train(
    source: Any,
    strategy: StrategyLike = "modalign",
    *,
    data: Any = None,
    encoders: Mapping[str, Any] | None = None,
    fusion: Any = None,
    out: str | Path | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    resume: bool = False,
    test: bool = True,
    quiet: bool = False,
    trust_code: bool = False,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    **settings: Any,
) -> Run:
    """Train one method with one seed and return its run.

    Args:
        source: name of a recipe, path of a recipe or of data, a ``Recipe``, or data: what ``load_data`` takes (arrays
            by name, a data frame, a Hugging Face or torch ``Dataset``, a loader of dictionaries, splits of these,
            AnnData, MuData, or a ``MultimodalData``).
        strategy: name of a method, ``file.py``, import path, a subclass of ``Strategy``, or an instance.
        data: data in place of what the recipe ``source`` names; whatever ``load_data`` takes.
        encoders: modality name to a ``torch.nn.Module`` from (B, *shape) to (B, D), to a function that makes one of the
            ``Modality``, or to settings (``{"name": "conv"}``); by the kind of the modality where absent.
        fusion: name of a fusion, a module that takes the features by modality, or a function of the D_m that makes one.
        out: run folder; by default the first free of ``runs/DATA-METHOD-seedN``, ``...-2``, ...
        seed: seed of initial weights, order of samples and dropout.
        options: options of the method (``modalign strategies NAME`` describes them).
        resume: go on with the interrupted run in ``out``; a finished run is returned as it is.
        test: read the test split at the end.
        quiet: print nothing.
        trust_code: let a recipe file name classes outside the package, which runs their code.
        on_epoch: is called with the record of each epoch (a line of ``metrics.jsonl``), after its checkpoint; it ends
            the training there by returning True, and by raising leaves a run that can be resumed.
        on_step: is called with ``epoch``, ``step``, ``lr`` and ``losses`` (tensors) after each optimizer step.
        settings: fields of ``TrainingSettings``, ``ModelSettings`` and ``DataSettings`` by name (``epochs=5``,
            ``width=32``, ``target="y"``), over those of the recipe.

    Raises:
        InputError: settings, objects or data that cannot be used; nothing is written.
        Diverged: a loss became NaN or infinite.
        Interrupted: stopped by Ctrl-C or SIGTERM; resumable.

    >>> import tempfile
    >>> run = train("digits", "joint", epochs=1, quiet=True, out=tempfile.mkdtemp())
    >>> sorted(run.metrics), len(run.history)
    (['test', 'test_last', 'valid'], 1)
    """
    recipe, memory, objects = _prepare(source, data, encoders, fusion, trust_code, settings)
    if not isinstance(strategy, str):
        objects = replace(objects, strategy=strategy)
    name = strategy_name(strategy)
    own = asdict(strategy.options) if isinstance(strategy, Strategy) else {}
    spec = method_spec(recipe, name, seed, {**own, **recipe.strategies.get(name, {}), **(options or {})})
    folder = Path(out) if out is not None else _free(f"{recipe.data.shown}-{short_name(name)}-seed{seed}")
    draw = None if quiet or recipe.training.devices != 1 else live_curves(folder)

    def told(record: dict[str, Any]) -> object:
        if draw is not None:
            draw()
        return None if on_epoch is None else on_epoch(record)

    hooks = Hooks(on_epoch if draw is None else told, on_step, draw_run)
    train_spec(spec, folder, resume=resume, data=memory, objects=objects, test=test, quiet=quiet, hooks=hooks)
    if draw is not None:
        draw(last=True)
    # A recipe at hand was written by the caller; what it names has just run.
    trusted = trust_code or (isinstance(source, Recipe) and not resume)
    return Run(folder, data=memory, objects=resolve(spec, objects), trust_code=trusted)


def bench(
    source: Any,
    strategies: str | Sequence[StrategyLike] = PLAIN,
    *,
    splits: int = 1,
    seeds: int = 5,
    out: str | Path = "runs/bench",
    data: Any = None,
    encoders: Mapping[str, Any] | None = None,
    fusion: Any = None,
    options: dict[str, dict[str, Any]] | None = None,
    tune: bool | int = False,
    tune_seeds: int = 2,
    storage: str | None = None,
    jobs: int | None = None,
    backend: Literal["local", "ray"] = "local",
    reference: str | None = None,
    quiet: bool = False,
    trust_code: bool = False,
    **settings: Any,
) -> Bench:
    """Compare methods over seeds, and data sets, in one folder; the same call completes one that was stopped.

    Args:
        source: as in ``train``, or several: a list of recipes, or a mapping from the name of a data set to a recipe or
            data.
        strategies: names, ``"all"``, files, import paths, classes or instances.
        splits: 1 for the split that the data names; more for that many outer splits in its place (``fold`` and
            ``folds`` of ``load_data``), each with its own validation.
        seeds: runs of each method on a split.
        out: bench folder, for all runs; ``Bench.write`` adds the tables and the figure.
        data, encoders, fusion, trust_code, settings: as in ``train``, for all methods alike.
        options: options by method.
        tune: number of trials in which the learning rate and the options of each method are searched first, on
            validation; True for 12.
        tune_seeds: runs of each trial, each with its own validation part and seed.
        storage: database of the search; a journal in the bench folder by default.
        jobs: trainings at a time; one a core by default.
        backend: ``local`` (processes of this machine), or ``ray``: a Ray cluster whose machines share the folder.
        reference: name of the method that others are compared with; ModAlign where it is compared, else the first.
        quiet: print nothing.

    Raises:
        InputError: anything unusable, found before the first training; or the folder holds another bench.
        RunsFailed: some runs failed; they are listed, the others are kept.

    >>> import tempfile
    >>> found = bench("digits", ["joint", "late_fusion"], seeds=1, epochs=1, jobs=1, quiet=True, out=tempfile.mkdtemp())
    >>> list(found.table["strategy"])
    ['late_fusion', 'joint']
    """
    from modalign.experiments.bench import entries, run_bench

    many = dict(source) if isinstance(source, Mapping) and _are_sources(source) else None
    if isinstance(source, (list, tuple)):
        many = {f"{i}": one for i, one in enumerate(source)}
    recipes: dict[str, Recipe] = {}
    memory: dict[str, MultimodalData | Callable[..., MultimodalData]] = {}
    objects = Objects()
    for key, one in (many or {"": source}).items():
        drawn = splits > 1 or bool(tune)  # several splits, or validation parts
        recipe, loaded, objects = _prepare(one, data, encoders, fusion, trust_code, settings, drawn)
        if isinstance(source, Mapping) and many is not None:
            recipe = replace(recipe, data=replace(recipe.data, title=key))
        if recipe.data.shown in recipes:
            raise SettingsError(f"two recipes have data called {recipe.data.shown!r}; give one of them a data.title")
        recipes[recipe.data.shown] = recipe
        if loaded is not None:
            memory[recipe.data.shown] = loaded
    chosen = strategy_names() if strategies == "all" else [strategies] if isinstance(strategies, str) else strategies
    rows = entries(chosen, options, objects)
    run_bench(
        recipes, rows, seeds, out, splits=splits, tune=12 if tune is True else int(tune), tune_seeds=tune_seeds,
        storage=storage, jobs=jobs, backend=backend, data=memory, reference=reference, skip=strategies == "all",
        quiet=quiet, draw=draw_run,
    )  # fmt: skip
    return Bench(out)


def tune(
    source: Any,
    strategy: StrategyLike = "modalign",
    *,
    trials: int = 12,
    runs: int = 2,
    out: str | Path = "runs/tune",
    data: Any = None,
    encoders: Mapping[str, Any] | None = None,
    fusion: Any = None,
    options: dict[str, Any] | None = None,
    storage: str | None = None,
    quiet: bool = False,
    trust_code: bool = False,
    **settings: Any,
) -> Found:
    """Search the learning rate and the options of one method on validation; the test split is not read.

    Args:
        source, strategy, data, encoders, fusion, trust_code, settings: as in ``train``.
        trials: settings to try; the given one is the first. The same call completes a search that was stopped.
        runs: trainings of each, each with its own validation part and seed.
        out: folder of the search; ``recipe.yaml`` in it has the best setting.
        options: options that are not searched.
        storage: database of the search; a journal in ``out`` by default.
        quiet: print nothing.

    Returns:
        What was found: ``chosen.lr``, ``chosen.options``, ``value``, ``edges`` and all ``trials``.

    Raises:
        InputError: anything unusable, found before the first training; or the folder holds another search.
        RunsFailed: every setting diverged.

    >>> import tempfile
    >>> found = tune("digits", "infonce", trials=1, runs=1, epochs=1, out=tempfile.mkdtemp(), quiet=True)
    >>> sorted(found.chosen.options)
    ['temperature', 'weight']
    """
    from modalign.experiments.search import run_tune

    recipe, memory, objects = _prepare(source, data, encoders, fusion, trust_code, settings, drawn=True)
    if not isinstance(strategy, str):
        objects = replace(objects, strategy=strategy)
    return run_tune(
        recipe, strategy_name(strategy), out, trials=trials, runs=runs, storage=storage, options=options,
        objects=objects, data=memory, quiet=quiet,
    )  # fmt: skip


def load_run(
    folder: str | Path,
    *,
    data: Any = None,
    strategy: type[Strategy] | Strategy | None = None,
    encoders: Mapping[str, EncoderLike] | None = None,
    fusion: FusionLike | None = None,
    trust_code: bool = False,
) -> Run:
    """Return a run that was trained before, from its folder.

    Args:
        folder: run folder.
        data: the data in memory that it was trained on, if it was, and if it is to be evaluated.
        strategy, encoders, fusion: the objects of one's own that it was trained with.
        trust_code: load such objects from the copy in the run instead: this runs code of the folder.

    Raises:
        RunFolderError: the folder is no run, or holds code that is neither handed in nor trusted.

    >>> import tempfile
    >>> folder = train("digits", "joint", epochs=1, quiet=True, out=tempfile.mkdtemp()).folder
    >>> load_run(folder).name
    'joint'
    """
    run = RunFolder(folder)
    run.spec()
    objects = None
    if strategy is not None or encoders or fusion is not None:
        objects = Objects(strategy, encoders or {}, fusion)
    return Run(folder, data=None if data is None else load_data(data), objects=objects, trust_code=trust_code)


class Run:
    """A training and what came of it: metrics, curves, predictions on new samples, evaluation.

    Args:
        folder: run folder, which is all the state there is.
        data: data in memory that the run was trained on.
        objects: objects of one's own that it was trained with.
        trust_code: load such objects from the copy in the folder.

    >>> import tempfile
    >>> run = train("digits", "joint", epochs=1, quiet=True, out=tempfile.mkdtemp())
    >>> run.history.columns[:3].tolist()
    ['epoch', 'step', 'encoder_updates']
    >>> run.strategy.training
    False
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        data: MultimodalData | None = None,
        objects: Objects | None = None,
        trust_code: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._run, self._data, self._trust_code = RunFolder(folder), data, trust_code
        self._objects = objects if objects is not None and objects.parts() else None

    @property
    def name(self) -> str:
        """Name of the method."""
        return str(self._run.spec()["strategy"])

    @property
    def done(self) -> bool:
        """Whether the run came to its end."""
        return self._run.done

    @property
    def result(self) -> dict[str, Any]:
        """Content of ``result.json``: metrics, selected epoch, seconds, parameters, warnings."""
        return self._run.result()

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics by split: ``valid`` and ``test`` of the selected epoch, ``test_last`` of the last one."""
        metrics: dict[str, dict[str, float]] = self.result["metrics"]
        return metrics

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: learning rate, seconds, losses ``train.*``, metrics ``valid.*``, the method's ``log.*``."""
        import pandas as pd

        return pd.json_normalize(self._run.metrics())

    @cached_property
    def strategy(self) -> Strategy:
        """The trained strategy, a ``torch.nn.Module`` in evaluation mode, with the weights of the selected epoch."""
        return load_trained(self.folder, objects=self._objects, trust_code=self._trust_code).strategy

    @property
    def model(self) -> nn.Module:
        """The network: ``encoders``, ``fusion``, ``head`` and ``unimodal_heads``."""
        return self.strategy.model

    @cached_property
    def data(self) -> MultimodalData:
        """The data that the run was trained on, read again where it is not in memory."""
        if self._data is not None:
            return self._data
        return load_with_data(self.folder, objects=self._objects, trust_code=self._trust_code)[1]

    def predict(self, source: Any, modalities: Sequence[str] | None = None, *, annotate: bool = False) -> pd.DataFrame:
        """Predict new samples.

        Args:
            source: samples as a file (arrays, a table, a manifest of raw files, ``.h5ad``, ``.h5mu``, a prepared
                folder) or an object.
            modalities: modalities to use, as if the others were missing; all by default.
            annotate: write predictions into ``obs`` and features into ``obsm`` of the AnnData or MuData ``source``
                (``obs["modalign_predicted"]``, ``obsm["X_modalign_<modality>"]``).

        Returns:
            One row a sample: ``id, predicted, confidence``, ``p_<class>``, and what each modality says alone.
        """
        from modalign.experiments.predict import predict

        return predict(
            self.folder, source, modalities, annotate=annotate, objects=self._objects, trust_code=self._trust_code
        )

    def evaluate(
        self, split: str = "test", context: str = "class", information: bool = True, method: str = "nce3"
    ) -> dict[str, Any]:
        """Measure what each modality gives, alone, together and missing; kept in ``evaluation.json``.

        Args:
            split: ``test`` or ``valid``.
            context: column by whose values confidence is shown beside the classes.
            information: estimate information between the features too, which takes a minute or so.
            method: estimator of information.
        """
        from modalign.experiments.evaluate import evaluate_run

        found = evaluate_run(
            self.folder, split=split, context=context, information=information, method=method, data=self._data,
            objects=self._objects, trust_code=self._trust_code,
        )  # fmt: skip
        return found.result

    def export(self, out: str | Path) -> Path:
        """Write the trained model as one file, ``.pt2`` or ``.onnx``, that answers as ``predict`` does.

        Raises:
            InputError: an unknown ending, a file that exists, or ONNX's packages are not installed.
            RunError: the network cannot be exported.
        """
        from modalign.experiments.export import export

        return export(self.folder, out, objects=self._objects, trust_code=self._trust_code)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish the run on the Hugging Face Hub as ``USER/MODEL``, with a model card; return its address.

        Raises:
            InputError: the run is not finished, or the name is taken or cannot be one.
            RunError: the Hub could not be reached, or refused.
        """
        from modalign.reporting.hub import push

        return push(self.folder, name, private=private, token=token)

    def plot(self) -> Figure:
        """Return the curves of training: losses, the selecting metric on validation, what the method logs."""
        from modalign.reporting.figures import training_curves

        return training_curves(self.folder)

    def __getitem__(self, key: str) -> Any:
        """Return an entry of ``result``, as ``train`` of version 0.1 gave it."""
        return self.result[key]

    def __iter__(self) -> Iterator[Any]:
        """Yield strategy, data and settings, as ``load_run`` of version 0.1 returned them."""
        warnings.warn(
            "load_run returns a Run; unpacking it ends with version 0.3: use run.strategy and run.data",
            DeprecationWarning,
            stacklevel=2,
        )
        yield from load_with_data(self.folder, data=self._data, objects=self._objects, trust_code=self._trust_code)

    def __repr__(self) -> str:
        state = "done" if self.done else "unfinished"
        if self.done and "test" in self.metrics:
            metric = self.result["metric"]
            state = f"test {metric} {self.metrics['test'][metric]:.4f}"
        return f"Run({str(self.folder)!r}, {self.name}, {state})"

    def _repr_html_(self) -> str:
        from modalign.reporting.page import run_html

        return run_html(self.folder)


class Bench:
    """A comparison of methods: its table, its runs, its page.

    Args:
        folder: bench folder.

    Raises:
        RunFolderError: the folder holds no bench.

    >>> import tempfile
    >>> folder = bench("digits", ["joint"], seeds=1, epochs=1, jobs=1, quiet=True, out=tempfile.mkdtemp()).folder
    >>> [run.name for run in Bench(folder).runs]
    ['joint']
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "bench.yaml").exists():
            raise RunFolderError(f"{folder} holds no bench (no bench.yaml); expected the folder that bench wrote")

    @property
    def reference(self) -> str | None:
        """Name of the method that others are compared with, as ``bench`` was told; None where it says nothing."""
        found: str | None = yaml.safe_load((self.folder / "bench.yaml").read_text()).get("reference")
        return found

    @property
    def rows(self) -> list[Row]:
        """One record a method and data set, of which ``table`` is made."""
        from modalign.reporting.runs import compare, read_runs

        return compare(read_runs(self.folder / "runs"), self.reference)

    @property
    def runs(self) -> list[Run]:
        """All finished runs."""
        return [Run(done.parent) for done in sorted(self.folder.glob("runs/*/*/*/done"))]

    @property
    def table(self) -> pd.DataFrame:
        """One row a method and data set: mean, interval, runs, paired difference, p, rank, as in ``table.csv``."""
        import pandas as pd

        return pd.DataFrame([row.plain() for row in self.rows])

    def plot(self) -> Figure:
        """Return the figure of the comparison."""
        from modalign.reporting.figures import comparison

        return comparison(self.rows).figure

    def write(self) -> list[Path]:
        """Write tables (CSV, Markdown, LaTeX) and figures into the folder and return their paths."""
        from modalign.reporting.figures import write_comparison
        from modalign.reporting.runs import read_runs
        from modalign.reporting.tables import write_tables

        runs = read_runs(self.folder / "runs")
        reference = self.reference
        return write_tables(runs, self.folder, reference) + write_comparison(runs, self.folder, reference)

    def report(self, out: str | Path | None = None) -> Path:
        """Write one self-contained page and return its path, by default ``report.html`` in the folder."""
        return report(self, out or self.folder / "report.html", reference=self.reference)

    def __repr__(self) -> str:
        return f"Bench({str(self.folder)!r}, {len(self.runs)} runs)"

    def _repr_html_(self) -> str:
        from modalign.reporting.runs import by_dataset
        from modalign.reporting.tables import dataset_tables

        parts = [f"<p>{html.escape(repr(self))}</p>"]
        for dataset, rows in by_dataset(self.rows).items():
            scores = dataset_tables(dataset, rows)[0]
            parts += [f"<b>{html.escape(scores.caption)}</b>", scores.frame.to_html(index=False, border=0)]
        return "".join(parts)


def from_pretrained(
    name: str, out: str | Path, *, revision: str | None = None, token: str | None = None, trust_code: bool = False
) -> Run:
    """Fetch a run that ``Run.push_to_hub`` published, and return it.

    Args:
        name: ``USER/MODEL`` on the Hugging Face Hub, or a local folder of the same form.
        out: a new or empty folder, which becomes the run folder.
        revision: commit, tag or branch.
        token: for private repositories.
        trust_code: run the code of a method or an encoder of the publisher's own, if it has any.

    Raises:
        RunFolderError: it is no run that modalign published, or ``out`` is in use.
        RunError: the Hub could not be reached, or has no such repository.

    >>> import tempfile
    >>> from modalign.reporting.hub import pack
    >>> run = train("digits", "joint", epochs=1, quiet=True, out=tempfile.mkdtemp())
    >>> packed = pack(run.folder, tempfile.mkdtemp())  # what is published
    >>> from_pretrained(str(packed), tempfile.mkdtemp()).name
    'joint'
    """
    from modalign.reporting.hub import pull

    return Run(pull(name, out, revision=revision, token=token), trust_code=trust_code)


def evaluate(run: Run | str | Path, *, data: Any = None, trust_code: bool = False, **how: Any) -> dict[str, Any]:
    """Measure what each modality gives a run, alone, together and missing.

    Args:
        run: a run or its folder.
        data: the data in memory that it was trained on, if it was.
        trust_code: load classes of one's own from the copy in the run.
        how: arguments of ``Run.evaluate``.

    >>> import tempfile
    >>> run = train("digits", "joint", epochs=1, quiet=True, out=tempfile.mkdtemp())
    >>> evaluate(run, information=False)["samples"]
    449
    """
    return (run if isinstance(run, Run) else load_run(run, data=data, trust_code=trust_code)).evaluate(**how)


def predict(
    run: Run | str | Path,
    source: Any,
    modalities: Sequence[str] | None = None,
    *,
    annotate: bool = False,
    trust_code: bool = False,
) -> pd.DataFrame:
    """Predict new samples with a run, as ``Run.predict`` does.

    >>> import tempfile, numpy as np
    >>> run = train("digits", "joint", epochs=1, quiet=True, out=tempfile.mkdtemp())
    >>> len(predict(run, {"left": np.full((3, 1, 8, 4), 8), "right": np.full((3, 1, 8, 4), 8)}))
    3
    """
    run = run if isinstance(run, Run) else load_run(run, trust_code=trust_code)
    return run.predict(source, modalities, annotate=annotate)


def report(
    runs: Run | Bench | str | Path | Sequence[Run | Bench | str | Path],
    out: str | Path = "report.html",
    *,
    reference: str | None = None,
) -> Path:
    """Write one self-contained page about runs, benches, or folders that hold runs, and return its path.

    Args:
        runs: one or several of them; splits and seeds of one data set are merged.
        out: the page.
        reference: name of the method that others are compared with; by default ModAlign where it was run, else the
            first.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> run = train("digits", "joint", epochs=1, quiet=True, out=f"{folder}/run")
    >>> report(run, f"{folder}/report.html").name
    'report.html'
    """
    from modalign.reporting.page import write_report

    return write_report(runs, out, reference)


def _prepare(
    source: Any,
    data: Any,
    encoders: Mapping[str, Any] | None,
    fusion: Any,
    trust_code: bool,
    settings: dict[str, Any],
    drawn: bool = False,
) -> tuple[Recipe, Any, Objects]:
    """Return the recipe, the data where it is in memory, and the objects that stand in place of names.

    Where splits are to be drawn of it (``drawn``), the data is a function that gives it.
    """
    if isinstance(source, str | Path):
        known = str(source) in DATASETS and str(source) not in recipe_names()
        recipe = Recipe(DataSettings(name=str(source))) if known else load_recipe(str(source))
        ask_first(recipe, str(source), trust_code)
    elif isinstance(source, Recipe):
        recipe = source
    else:
        recipe = Recipe()
        data = source if data is None else data
    named, modules = dict(recipe.model.encoders), {}
    for modality, given in (encoders or {}).items():
        if isinstance(given, Mapping):
            named[modality] = dict(given)
        else:
            modules[modality] = given
    objects = Objects(None, modules, None if isinstance(fusion, str) else fusion)
    plain = asdict(recipe)
    plain["model"]["encoders"] = named
    if isinstance(fusion, str):
        plain["model"]["fusion"] = fusion
    if "target" in settings:
        settings = {**settings, "label": settings["target"]}
        del settings["target"]
    homes = {"training": TrainingSettings, "model": ModelSettings, "data": DataSettings}
    home = {f.name: part for part, kind in homes.items() for f in fields(kind)}
    described = {}
    rows = [f.name for f in fields(OmicsOptions)] if data is not None or recipe.data.path else []
    for key, value in settings.items():
        if data is not None and (key in rows or home.get(key) == "data"):
            described[key] = value
        elif key in rows:
            plain["data"]["options"][key] = value
        elif key not in home:
            raise unknown("setting", key, ["target", *home, *rows])
        else:
            plain[home[key]][key] = value
    memory = None
    if data is not None:
        if not isinstance(data, MultimodalData):
            defaults = DataSettings()
            own = {f.name: getattr(recipe.data, f.name) for f in fields(DataSettings)}
            kept = {
                k: v for k, v in own.items() if v != getattr(defaults, k) and k not in ("path", "options", "caution")
            }
            described = {**kept, **described}
        read = functools.cache(functools.partial(load_data, data, **described))
        memory = read if drawn and not isinstance(data, MultimodalData) else read()
        split: dict[str, Any] = {key: described.get(key) for key in ("fold", "folds", "valid_seed")}
        plain["data"] = asdict(DataSettings(name=read().name, caution=recipe.data.caution, **split))
    return recipe_from_plain(json.loads(json.dumps(plain, default=_plain)), "settings"), memory, objects


def _plain(value: Any) -> Any:
    """Numbers of numpy as numbers, paths as text."""
    return value.item() if getattr(value, "ndim", None) == 0 else str(value)


def _are_sources(source: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds several things to compare on, rather than the arrays or splits of one."""
    kinds = (str, Path, Recipe, MultimodalData, Mapping)
    return all(isinstance(one, kinds) for one in source.values()) and not set(source) <= {"train", "valid", "test"}


def _free(name: str) -> Path:
    """Return the first of ``runs/name``, ``runs/name-2``, ... that does not exist."""
    name, k = folder_name(name), 1
    folder = Path("runs") / name
    while folder.exists():
        k += 1
        folder = Path("runs") / f"{name}-{k}"
    return folder


__all__ = ["Bench", "Run", "bench", "evaluate", "from_pretrained", "load_run", "predict", "report", "train", "tune"]
