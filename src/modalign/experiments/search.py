"""A fair search of settings: as many trials for every method, all its settings drawn jointly, on validation alone.

Each row on each split is a study of Optuna (Akiba et al., KDD 2019) of its own: the learning rate, log-uniform over a
range that holds the published ones, and the method's space (``Strategy.space``). A study is claimed as a
run is: several processes divide the studies among them, and one that dies loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import yaml

from modalign.data.dataset import MultimodalData
from modalign.domains import Count, check_values
from modalign.errors import Diverged, RunError, RunFolderError, RunsFailed, SettingsError, option
from modalign.evaluation.metrics import higher_is_better
from modalign.files import locked, write_csv, write_whole
from modalign.settings import Recipe, TrainingSettings
from modalign.strategies import Strategy, load_strategy, make_options, short_name
from modalign.training.build import method_spec
from modalign.training.own_code import Objects
from modalign.training.run import RunFolder, RunSpec
from modalign.training.train import train_spec
from modalign.training.trainer import Hooks

if TYPE_CHECKING:
    import optuna

LEARNING_RATES = {"sgd": (1e-3, 0.3), "adamw": (1e-4, 1e-2), "adam": (1e-4, 1e-2)}
"""Ranges that hold the published rates (1e-3 to 1e-2 with SGD), wider where a recipe begins near an edge."""
SEARCH_SEED = 1000  # a search uses other seeds than the final runs
_ROOM = 10.0  # the range reaches at least so many times below and above the recipe's learning rate
_EDGE = 0.05  # share of a range, on its scale, that counts as its edge


@dataclass(frozen=True)
class Setting:
    """What a search varies: the learning rate and options of the method."""

    lr: float
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        dataset, row, fold: where.
        chosen: the best setting; None if all diverged.
        value: its objective, the mean over its runs, smaller better.
        edges: settings whose best value lies at an edge of their range.
        trials: all that was tried, with state and value.
    """

    dataset: str
    row: str
    fold: int | None
    chosen: Setting | None
    value: float
    edges: list[str]
    trials: list[dict[str, Any]]

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return f"{self.row} on {self.dataset}" + ("" if self.fold is None else f", split {self.fold}")

    def plain(self) -> dict[str, Any]:
        """Return plain values, as ``tune.json`` holds them."""
        return {"label": self.label} | asdict(self)


@dataclass(frozen=True)
class Study:
    """A search for one row on one split of a data set.

    Attributes:
        dataset, row, fold: where.
        specs: a run for each validation part, with the setting that the search starts from.
        fixed: names of options that are not searched.
        trials: settings to try.
        folder: of the trials.
        storage: URL of a database; None for a journal in the folder.
        objects: objects of one's own in place of names.
        data: data in memory, one for each of ``specs``; None where recipes name it.
    """

    dataset: str
    row: str
    fold: int | None
    specs: tuple[RunSpec, ...]
    fixed: frozenset[str]
    trials: int
    folder: Path
    storage: str | None
    objects: Objects
    data: tuple[MultimodalData | None, ...]

    @property
    def label(self) -> str:
        """How the display calls it."""
        return f"{self.dataset} {self.row}" + ("" if self.fold is None else f" split {self.fold}")

    @property
    def runs(self) -> int:
        """Trainings that it stands for."""
        return self.trials * len(self.specs)

    @property
    def done(self) -> bool:
        """Whether all trials have come to their end."""
        if not self.folder.exists():
            return False
        with _understood(self):
            return len(_ended(self._open())) >= self.trials

    def work(self, told: Callable[[optuna.trial.FrozenTrial], None] | None = None) -> str | None:
        """Try settings until there are enough; ``told`` is called with each. Returns what went wrong with all."""
        from optuna.trial import TrialState

        with locked(self.folder, wait=0), _understood(self):
            study = self._open()
            for trial in study.get_trials(deepcopy=False):  # of a process that died
                if trial.state == TrialState.RUNNING:
                    if trial.params.keys() == self.space().keys():
                        self._try(study, trial.number, trial._trial_id, trial.params)
                    else:  # while its setting was drawn: drawn again below
                        study.tell(trial.number, state=TrialState.FAIL)
            while (count := len(_ended(study))) < self.trials:
                if count == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                    study.enqueue_trial(self.start())
                # A sampler by trial: what is drawn depends on the trials before, not on when the process was started.
                study.sampler = self._sampler(count)
                trial = study.ask(self.distributions())
                self._try(study, trial.number, trial._trial_id, trial.params)
                if told is not None:
                    told(study.get_trials(deepcopy=False)[trial.number])
        return None

    def found(self) -> Found:
        """Return the best setting that the trials have come to."""
        with _understood(self):
            trials = _ended(self._open())
        plain = [{"state": t.state.name.lower(), "value": t.value, **t.params} for t in trials]
        complete = [t for t in trials if t.state.name == "COMPLETE" and t.value is not None]
        if not complete:
            return Found(self.dataset, self.row, self.fold, None, math.nan, [], plain)
        best = min(complete, key=lambda trial: trial.value)
        options = {name: value for name, value in best.params.items() if name != "lr"}
        setting = Setting(best.params.get("lr", self.specs[0].recipe.training.lr), options)
        value = float(best.value or 0.0)
        return Found(self.dataset, self.row, self.fold, setting, value, self._edges(best.params), plain)

    def space(self) -> dict[str, Any]:
        """Return the settings that are searched: name to (low, high), or to a list of choices."""
        kind, training = self._kind, self.specs[0].recipe.training
        low, high = LEARNING_RATES[training.optimizer]
        found: dict[str, Any] = {}
        if not kind.fits_itself:
            found["lr"] = (min(low, training.lr / _ROOM), max(high, training.lr * _ROOM))
        defaults = make_options(kind, self.specs[0].options)
        for name, values in kind.space.items():
            if name not in self.fixed:
                own = getattr(defaults, name)
                wide = (min(values[0], own), max(values[1], own)) if isinstance(values, tuple) else values
                found[name] = wide
        return found

    def start(self) -> dict[str, Any]:
        """Return the setting of the recipe, which is the first to be tried."""
        defaults, lr = make_options(self._kind, self.specs[0].options), self.specs[0].recipe.training.lr
        return {name: lr if name == "lr" else getattr(defaults, name) for name in self.space()}

    @property
    def _kind(self) -> type[Strategy]:
        given = self.objects.strategy
        return type(given) if isinstance(given, Strategy) else load_strategy(given or self.specs[0].strategy)

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return the space as Optuna takes it: ranges are log-uniform unless they reach zero."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            name: FloatDistribution(*values, log=values[0] > 0)
            if isinstance(values, tuple)
            else CategoricalDistribution(values)
            for name, values in self.space().items()
        }

    def _edges(self, params: Mapping[str, Any]) -> list[str]:
        """Return the settings whose value lies at an edge of its range."""
        edges = []
        for name, values in self.space().items():
            if isinstance(values, tuple):
                low, high, at = (math.log(v) if values[0] > 0 else v for v in (*values, params[name]))
                place = (at - low) / max(high - low, 1e-12)
                if not _EDGE <= place <= 1 - _EDGE:
                    edges.append(f"{name} {params[name]:.3g} of {values[0]:.3g} to {values[1]:.3g}")
        return edges

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        from optuna.samplers import TPESampler

        seed = int.from_bytes(sha256(f"{self.label} {number}".encode()).digest()[:4], "big")
        with warnings.catch_warnings():  # Optuna 4 calls drawing settings jointly an experiment
            warnings.simplefilter("ignore")
            return TPESampler(seed=seed, n_startup_trials=max(3, self.trials // 2), multivariate=True)

    def _open(self) -> optuna.study.Study:
        """Return the study, made where it does not exist."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        epochs = self.specs[0].recipe.training.epochs
        return optuna.create_study(
            storage=self._storage(),
            study_name=self.label,
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(max(3, self.trials // 3), epochs // 3),
        )

    def _storage(self) -> Any:
        if self.storage is not None:
            return self.storage
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        path = str(self.folder / "journal.log")
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))

    def _try(self, study: optuna.study.Study, number: int, identity: int, params: Mapping[str, Any]) -> None:
        """Train a setting on each validation part and tell the study; one that diverges or lags behind is pruned."""
        import optuna
        from optuna.trial import TrialState

        trial = optuna.trial.Trial(study, identity)
        chosen = {name: value for name, value in params.items() if name != "lr"}
        values: list[float] = []
        epochs = self.specs[0].recipe.training.epochs
        for i, (spec, data) in enumerate(zip(self.specs, self.data, strict=True)):
            training: TrainingSettings = spec.recipe.training
            training = replace(training, lr=params.get("lr", training.lr))
            tried = replace(spec, recipe=replace(spec.recipe, training=training), options={**spec.options, **chosen})
            folder = self.folder / f"trial{number}" / f"run{i}"

            def watch(record: dict[str, Any], i: int = i) -> None:
                trial.report(mean([*values, _loss(record["valid"])]), i * epochs + record["epoch"])
                if trial.should_prune():
                    raise Pruned

            # A process of its own cannot report.
            hooks = Hooks(on_epoch=watch if training.devices == 1 else None)
            try:
                if hooks.on_epoch is not None:  # what a process that died had logged and perhaps not told
                    # A torn line: it died while logging an epoch, and had told all before.
                    with warnings.catch_warnings(), contextlib.suppress(RunFolderError):
                        warnings.filterwarnings("ignore", message=".*already reported")
                        for record in RunFolder(folder).metrics():
                            watch(record)
                train_spec(
                    tried, folder, resume=True, data=data, objects=self.objects, test=False, quiet=True, hooks=hooks
                )
            except (Diverged, Pruned) as error:
                trial.set_user_attr("why", str(error) or "pruned")
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                study.tell(number, state=TrialState.PRUNED)
                return
            result = RunFolder(folder).result()
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the score is all that is asked for
            values.append(_loss(result["metrics"]["valid"], result["metric"]))
        study.tell(number, mean(values))


def run_tune(
    recipe: Recipe,
    strategy: str,
    out: str | Path,
    *,
    trials: Count = 12,
    runs: Count = 2,
    storage: str | None = None,
    options: Mapping[str, Any] | None = None,
    objects: Objects | None = None,
    data: MultimodalData | Callable[..., MultimodalData] | None = None,
    quiet: bool = False,
) -> Found:
    """Search the settings of one method on validation, as ``bench`` with ``tune`` does; the test split is not read.

    Args:
        recipe: where the search starts.
        strategy: name of the method.
        out: folder of the search; the same call completes one that was stopped. ``recipe.yaml`` in it is the recipe
            with the best setting, ``trials.csv`` all that was tried.
        trials: settings to try.
        runs: trainings of each, each with its own validation part and seed.
        storage: database of the search; a journal in ``out`` by default.
        options: options that are not searched.
        objects: objects of one's own in place of names.
        data: data in memory, or a function of ``valid_seed`` that gives it.
        quiet: print nothing.

    Raises:
        InputError: settings or data that cannot be used, or a folder of another search.
        RunsFailed: every setting diverged.
        Interrupted: stopped; the same call goes on.
    """
    import pandas as pd

    check_values(run_tune, {"trials": trials, "runs": runs})
    out, objects, specs = Path(out), objects or Objects(), []
    for i in range(runs):
        own = replace(recipe, data=replace(recipe.data, valid_seed=i)) if data is None else recipe
        specs.append(method_spec(own, strategy, SEARCH_SEED + i, options))
    given = tuple(data(valid_seed=i) if callable(data) else data for i in range(runs))
    shown = recipe.data.shown, short_name(strategy)
    study = Study(*shown, None, tuple(specs), frozenset(options or ()), trials, out, storage, objects, given)
    first, start = RunFolder(out / "trial0" / "run0"), study.start()
    if first.folder.exists():
        fixed = {name: value for name, value in start.items() if name != "lr"}
        first.check_free(replace(specs[0], options={**specs[0].options, **fixed}), resume=True)

    def told(trial: optuna.trial.FrozenTrial) -> None:
        settings = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
        value = "pruned" if trial.value is None or trial.state.name != "COMPLETE" else f"{trial.value:.4f}"
        print(f"  trial {trial.number + 1} of {trials}: {value} with {settings}", flush=True)

    with locked(out):
        study.work(None if quiet else told)
    found = study.found()
    write_csv(out / "trials.csv", pd.DataFrame(found.trials), False)
    if found.chosen is None:
        raise RunsFailed(f"every setting that was tried diverged; lower {option('training.lr')}:", [f"  {found.label}"])
    chosen = {**recipe.strategies.get(strategy, {}), **(options or {}), **found.chosen.options}
    training = replace(recipe.training, lr=found.chosen.lr)
    best = replace(recipe, training=training, strategies={**recipe.strategies, strategy: chosen})
    write_whole(out / "recipe.yaml", yaml.safe_dump(json.loads(json.dumps(asdict(best))), sort_keys=False))
    return found


def _ended(study: optuna.study.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that have come to their end."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


class Pruned(Exception):
    """A trial that lags behind the median of those before it."""


def _loss(valid: Mapping[str, float], metric: str | None = None) -> float:
    """Return the objective of a run: likelihood where there are classes, else the metric, smaller better."""
    if "nll" in valid:
        return valid["nll"]
    name = metric or next(iter(valid))
    return -valid[name] if higher_is_better(name) else valid[name]


@contextlib.contextmanager
def _understood(study: Study) -> Iterator[None]:
    """Turn what Optuna and its storage say into what a user can act on."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise SettingsError("a search needs Optuna: pip install 'modalign[tune]'") from None
    where = study.storage or str(study.folder / "journal.log")
    try:
        yield
    except (ValueError, KeyError, AssertionError) as error:
        if isinstance(error, (RunFolderError, SettingsError)):
            raise
        raise RunFolderError(
            f"the search storage {where} cannot be read ({type(error).__name__}: {error}); expected what an earlier "
            f"search wrote: move {study.folder} away to search anew. Finished runs are kept"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        said = str(error).partition("\n")[0]
        raise RunError(
            f"the search storage {where} did not answer ({said}); see that it is there and not locked by another "
            "program, and repeat the command: finished trials are kept"
        ) from error
