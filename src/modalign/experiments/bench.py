"""Strategies x splits x seeds x data sets side by side; finished runs are never run again, and no run is run twice.

Several processes, on one machine or on many that share the folder, may work on one bench: each run is claimed by a
lock, which a process that dies lets go of, and the others take over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.domains import Count, Whole, check_values
from modalign.errors import Diverged, InputError, RunFolderError, RunsFailed, SettingsError, Undefined, option, unknown
from modalign.experiments.parallel import Backend, check_backend, side_by_side
from modalign.experiments.search import SEARCH_SEED, Found, Setting, Study
from modalign.files import Busy, folder_name, in_use, locked, read_settings, write_whole
from modalign.protocols import OURS, PROTOCOLS
from modalign.settings import Recipe
from modalign.strategies import Strategy, short_name, strategy_name
from modalign.training.build import build_strategy, check_run, check_same_data, method_spec
from modalign.training.own_code import Objects, resolve
from modalign.training.progress import BenchDisplay, Work
from modalign.training.run import RunFolder, RunSpec, differences
from modalign.training.train import train_spec
from modalign.training.trainer import Hooks

Memory = Mapping[str, MultimodalData | Callable[..., MultimodalData]]
"""Data set name to data in memory, or to a function of ``fold``, ``folds`` and ``valid_seed`` that gives it."""
_PLAN = "bench.yaml"  # in the bench folder: what is compared
_LOOK_AGAIN = 5.0  # seconds until runs that other processes have claimed are looked at again


@dataclass(frozen=True)
class Entry:
    """One row of a comparison: a method, or a variant of one.

    Attributes:
        name: of the row, and of its folder.
        strategy: name of the method.
        options: over those of the recipe.
        title: in tables, if not the method's own.
        objects: objects of one's own in place of names.
    """

    name: str
    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    objects: Objects = field(default_factory=Objects)


def entries(
    strategies: Sequence[str | type[Strategy] | Strategy],
    options: dict[str, dict[str, Any]] | None = None,
    objects: Objects | None = None,
) -> list[Entry]:
    """Return one entry a method, with the options given for it by name.

    Args:
        strategies: names, files, import paths, classes or instances.
        options: options by method: as it is given, or as its row is called (a class by its name, a file by its stem).
        objects: encoders and fusion of one's own, for all rows.

    Raises:
        SettingsError: options for a method that is not compared.

    >>> [entry.name for entry in entries(["joint", "lab/mine.py", "lab.methods.Mine"])]
    ['joint', 'mine', 'Mine']
    """
    given, objects = dict(options or {}), objects or Objects()
    rows = []
    for strategy in strategies:
        path = strategy_name(strategy)
        name = short_name(path)
        chosen = given.pop(path, None) or given.pop(name, {})
        own = objects if isinstance(strategy, str) else replace(objects, strategy=strategy)
        rows.append(Entry(name, path, chosen, objects=own))
    for name in given:
        raise SettingsError(
            f"options for {name!r}, which is not among the strategies {', '.join(row.name for row in rows)}"
        )
    return rows


# Table 2 of the paper, and two parts more: full ModAlign and the same without each of its parts. Without the objective
# nothing depends on alpha, which is named so that a search does not vary it. Without the prior the readout is the joint
# head on plainly fused features: conditions guide neither (``ModAlign.default_fusion``).
ABLATION = (
    Entry("no_objective", "modalign", {"objective": "none", "alpha": 1.0}, "W/o CMI objective"),
    Entry("no_margin", "modalign", {"margin": "none"}, "W/o protective margin"),
    Entry("no_prior", "modalign", {"prior": False}, "W/o context-aware prior"),
    Entry("no_context", "modalign", {"context": "none"}, "W/o semantic context"),
    Entry("no_heads", "modalign", {"eta": 0.0}, "W/o unimodal heads"),
    Entry("no_readout_critic", "modalign", {"readout_critic": False}, "W/o critic in the readout"),
    Entry("modalign", "modalign", {}, "ModAlign (full)"),
)


@dataclass(frozen=True)
class Job:
    """One training of a bench, whose test split is read at the end.

    Attributes:
        dataset: name of the data, as in the table.
        name: of the row.
        spec: what to train.
        folder: its run folder.
        objects: objects of one's own in place of names.
        data: data in memory; None where the recipe names it.
        draw: of ``Hooks``.
    """

    dataset: str
    name: str
    spec: RunSpec
    folder: Path
    objects: Objects
    data: MultimodalData | None
    draw: Callable[[Path, Path], object] | None = None
    runs: int = 1

    @property
    def label(self) -> str:
        """How the display calls it."""
        fold = self.spec.recipe.data.fold
        split = "" if fold is None else f" split {fold}"
        return f"{self.dataset} {self.name}{split} seed {self.spec.seed}"

    @property
    def done(self) -> bool:
        """Whether it need not be run any more."""
        return RunFolder(self.folder).done

    def work(self) -> str | None:
        """Train; what diverges is a result, not an accident."""
        with locked(self.folder, wait=0):
            pass  # busy: another process trains it, and is not waited for here
        hooks = Hooks(draw=self.draw)
        try:
            train_spec(
                self.spec, self.folder, resume=True, data=self.data, objects=self.objects, quiet=True, hooks=hooks
            )
        except Diverged as error:
            write_whole(self.folder / "diverged.txt", str(error))
            return str(error)
        return None


def run_bench(
    recipes: dict[str, Recipe],
    rows: Sequence[Entry],
    seeds: Count,
    out: str | Path,
    *,
    splits: Count = 1,
    tune: Whole = 0,
    tune_seeds: Count = 2,
    storage: str | None = None,
    jobs: Count | None = None,
    backend: Backend = "local",
    data: Memory | None = None,
    reference: str | None = None,
    skip: bool = False,
    quiet: bool = False,
    draw: Callable[[Path, Path], object] | None = None,
) -> Path:
    """Train every row with every seed on every split of every data set; tables are made from the folder afterwards.

    Args:
        recipes: data set name to recipe.
        rows: what is compared (``entries`` of method names, ``ABLATION``).
        seeds: runs of each on a split, with seeds 0 .. seeds-1; the same seed means the same initial network and the
            same order of samples for every row, so differences are paired.
        out: the bench folder. One that holds a bench with the same settings is completed, also by several processes.
        splits: 1 for the split that the data names (or one at random); more for that many outer splits in its place:
            folds of repeated cross-validation (``DataSettings.fold``), each with its own validation.
        tune: trials of a search of the learning rate and each method's space on validation before, on each split by
            itself; 0 for none. The test split is not read meanwhile.
        tune_seeds: runs of each trial, each with another validation part and another seed, none of the final ones.
        storage: database of the search (``sqlite:///...``, ``postgresql://...``); by default a journal beside it.
        jobs: trainings at a time; by default one a core on CPUs, one on GPUs; on a Ray cluster what it has room for.
        backend: ``local``, processes of this machine, or ``ray``, a Ray cluster whose machines share the folder.
        data: data in memory, of those that no recipe names; for several splits a function that gives it.
        reference: name of the row that others are compared with; ModAlign where it is compared, else the first.
        skip: leave out, with a line, rows that are not defined for a data set, instead of refusing them.
        quiet: print nothing.
        draw: draws a finished run for its experiment tracker (``Hooks.draw``).

    Returns:
        The bench folder.

    Raises:
        InputError: anything unusable, found before the first training; or the folder holds another bench.
        RunsFailed: some runs failed; they are listed, the others are kept.

    >>> import tempfile
    >>> from modalign.settings import DataSettings, TrainingSettings
    >>> recipe = Recipe(DataSettings("digits"), training=TrainingSettings(epochs=1))
    >>> folder = run_bench({"digits": recipe}, entries(["joint"]), 1, tempfile.mkdtemp(), jobs=1, quiet=True)
    >>> (folder / "runs" / "digits" / "joint" / "seed0" / "done").exists()
    True
    """
    given = {"seeds": seeds, "splits": splits, "tune": tune, "tune_seeds": tune_seeds, "jobs": jobs, "backend": backend}
    check_values(run_bench, given)
    check_backend(backend)
    out = Path(out)
    names = [row.name for row in rows]
    if reference is not None and reference not in names:
        raise unknown("method to compare with", reference, names)
    _refuse_mixed(recipes)
    cells = _cells(recipes, splits, data or {})
    plan = _check(cells, rows, out, skip, quiet)
    with locked(out):
        default = "modalign" if "modalign" in names else names[0]
        asked = {"tune": tune, "tune_seeds": tune_seeds if tune else 0, "resampled": splits > 1}
        _claim(out, recipes, rows, asked, {"seeds": seeds, "splits": splits}, reference or default)
    finals = len([row for cell in plan for row in cell[1]]) * seeds
    pool = _Pool(jobs, backend, quiet, out / _PLAN)
    chosen: dict[tuple[str, str, int | None], Setting] = {}
    if tune:
        studies = [
            Study(
                cell.dataset, row.name, cell.fold, tuple(cell.inner(row, i) for i in range(tune_seeds)),
                frozenset(row.options), tune,
                _place(out / "tune", cell.dataset, row) / ("search" if cell.fold is None else f"split{cell.fold}"),
                storage, row.objects, tuple(cell.data(i) for i in range(tune_seeds)),
            )
            for cell, own in plan for row in own
        ]  # fmt: skip
        chosen = _search(studies, out, pool, finals)
    jobs_ = [
        Job(
            cell.dataset, row.name, make_spec(cell.recipe, row, seed, chosen.get((cell.dataset, row.name, cell.fold))),
            run_folder(out, cell.dataset, row, seed, cell.fold), row.objects, cell.data(), draw,
        )
        for seed in range(seeds) for cell, own in plan for row in own
    ]  # fmt: skip
    # By seed first, so that an early look at the table compares all rows.
    failed = pool.run(jobs_, "training")
    if failed:
        raise RunsFailed("some runs failed, the others are kept:", failed)
    return out


def run_folder(out: Path, dataset: str, row: Entry, seed: int, fold: int | None = None) -> Path:
    """Return where the final run of a row with a seed, on an outer split, lies in a bench folder."""
    return _place(out / "runs", dataset, row) / (f"seed{seed}" if fold is None else f"split{fold}-seed{seed}")


def _place(folder: Path, dataset: str, row: Entry) -> Path:
    return folder / folder_name(dataset) / folder_name(row.name)


@dataclass(frozen=True)
class _Cell:
    """A data set on one of its splits.

    Attributes:
        dataset: its name in the table.
        recipe: with the split in it.
        fold: number of the split, None for the one that the data names.
        source: data in memory, or what gives it.
    """

    dataset: str
    recipe: Recipe
    fold: int | None
    source: MultimodalData | Callable[..., MultimodalData] | None

    def data(self, inner: int | None = None) -> MultimodalData | None:
        """Return the data where it is in memory, with another validation part for each ``inner``."""
        if callable(self.source):
            settings = self.recipe.data
            return self.source(fold=settings.fold, folds=settings.folds, valid_seed=inner)
        return self.source

    def inner(self, row: Entry, i: int) -> RunSpec:
        """Return a run of the search, on its own validation part where that is drawn at random."""
        fixed = isinstance(self.source, MultimodalData)
        data = self.recipe.data if fixed else replace(self.recipe.data, valid_seed=i)
        return make_spec(replace(self.recipe, data=data), row, SEARCH_SEED + i)


def _cells(recipes: Mapping[str, Recipe], splits: int, memory: Memory) -> list[_Cell]:
    """Return the splits of all data sets."""
    found = []
    for name, recipe in recipes.items():
        source = memory.get(name)
        if splits == 1:
            found.append(_Cell(name, recipe, recipe.data.fold, source))
            continue
        if recipe.data.fold is not None:
            raise SettingsError(f"data.fold is {recipe.data.fold} and splits {splits}; give one of them")
        if isinstance(source, MultimodalData):
            raise SettingsError(
                f"{name} is data that is split already; hand in what it was made of (arrays, a table, a Dataset), or "
                "take one split"
            )
        found += [
            _Cell(name, replace(recipe, data=replace(recipe.data, fold=fold)), fold, source) for fold in range(splits)
        ]
    return found


def _refuse_mixed(recipes: Mapping[str, Recipe]) -> None:
    """See that no data set is compared under two protocols.

    Raises:
        SettingsError: names the data set, the protocols and who asks for them.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for shown, recipe in recipes.items():
        if recipe.data.name in PROTOCOLS:
            protocol = str(recipe.data.options.get("protocol", OURS))
            found.setdefault(recipe.data.name, {}).setdefault(protocol, []).append(shown)
    for name, protocols in found.items():
        if len(protocols) > 1:
            said = ", ".join(f"{protocol} ({', '.join(of)})" for protocol, of in protocols.items())
            raise SettingsError(
                f"{len(protocols)} protocols of {name} in one bench: {said}; numbers under different protocols cannot "
                f"be compared. Run a bench for each, with an {option('out')} of its own"
            )


def _search(studies: Sequence[Study], out: Path, pool: _Pool, later: int) -> dict[tuple[str, str, int | None], Setting]:
    """Search for every row on every split; keep and return what was chosen."""
    failed = pool.run(studies, "searching", later)
    found: list[Found] = [study.found() for study in studies]
    hopeless = [f"  {one.label}" for one in found if one.chosen is None]
    if hopeless:
        raise RunsFailed(f"every setting that was tried diverged; lower {option('training.lr')}:", hopeless + failed)
    write_whole(out / "tune.json", json.dumps({"chosen": [one.plain() for one in found]}, indent=1))
    edges = [f"{one.label}: {', '.join(one.edges)}" for one in found if one.edges]
    if edges and not pool.quiet:
        print("the search ended at an edge of its space (more may lie beyond):", *edges, sep="\n  ")
    return {(one.dataset, one.row, one.fold): one.chosen for one in found if one.chosen is not None}


class _Pool:
    """Runs jobs side by side and shows how far they are."""

    def __init__(self, jobs: int | None, backend: Backend, quiet: bool, shared: Path) -> None:
        self.quiet, self._where = quiet, (jobs, backend, shared)

    def run(self, jobs: Sequence[_Claimable], title: str, later: int = 0) -> list[str]:
        """Run those that are not done; returns what failed, one line each.

        Args:
            jobs: what to do; what other processes are at is waited for, and taken over where they die.
            title: of this part.
            later: runs of parts after this one.
        """
        waiting = [job for job in jobs if not job.done]
        failed = []
        done = sum(job.runs for job in jobs) - sum(job.runs for job in waiting)
        with BenchDisplay(title, waiting, done, self.quiet, later) as display:
            while waiting:
                busy = []
                for job, problem in side_by_side(_claimed, waiting, *self._where):
                    if isinstance(problem, type):
                        busy.append(job)
                        continue
                    display.finished(job, problem)
                    if problem is not None:
                        failed.append(f"  {job.label}: {problem}")
                if len(busy) == len(waiting):
                    time.sleep(_LOOK_AGAIN)
                waiting = busy
        return failed


class _Claimable(Work, Protocol):
    """Something that only one process does at a time."""

    @property
    def done(self) -> bool:
        """Whether it was done before."""
        ...

    @property
    def runs(self) -> int:
        """Trainings that it stands for."""
        ...

    def work(self) -> str | None:
        """Do it; returns what went wrong.

        Raises:
            Busy: another process is at it.
        """
        ...


def _claimed(job: _Claimable) -> tuple[_Claimable, str | type[Busy] | None]:
    """Do a job, perhaps in a worker, unless another process is at it."""
    try:
        return job, None if job.done else job.work()
    except Busy:
        return job, Busy


def make_spec(recipe: Recipe, row: Entry, seed: int, setting: Setting | None = None) -> RunSpec:
    """Return what a run of a row is determined by: a setting that was searched goes before the recipe's.

    >>> make_spec(Recipe(), Entry("joint", "joint"), 3).seed
    3
    """
    options = {**(setting.options if setting else {}), **row.options}
    lr = recipe.training.lr if setting is None else setting.lr
    tried = replace(recipe, training=replace(recipe.training, lr=lr))
    return method_spec(tried, row.strategy, seed, options, row.name if row.title else "", row.title)


def _check(
    cells: Sequence[_Cell], rows: Sequence[Entry], out: Path, skip: bool, quiet: bool
) -> list[tuple[_Cell, list[Entry]]]:
    """Build everything once: what is wrong is said now, not in the middle of the night.

    Returns:
        Splits with the rows that are run on them: all, unless ``skip`` leaves out what is not defined for the data.
    """
    if not rows:
        raise InputError("no strategy given; expected names such as joint,infonce,modalign, or all")
    names = [row.name for row in rows]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"given twice: {', '.join(repeated)}; expected every strategy once")
    plan = []
    for cell in cells:
        given = cell.data()
        data = load_data(cell.recipe.data) if given is None else given
        info, own = DataInfo.of(data), []
        for row in rows:
            # What is there already was trained on the same data.
            for begun in _place(out / "runs", cell.dataset, row).glob("*/data.json"):
                if begun.parent.name.startswith("seed" if cell.fold is None else f"split{cell.fold}-"):
                    check_same_data(RunFolder(begun.parent), data)
            spec = make_spec(cell.recipe, row, 0)
            try:
                strategy = build_strategy(spec, info, objects=resolve(spec, row.objects))
            except Undefined as error:
                if not skip:
                    raise
                if not quiet and cell.fold in (None, 0):
                    print(f"left out on {cell.dataset}: {error}")
                continue
            check_run(spec, data, strategy)
            own.append(row)
        plan.append((cell, own))
    return plan


def _claim(
    out: Path,
    recipes: dict[str, Recipe],
    rows: Sequence[Entry],
    asked: dict[str, Any],
    counts: dict[str, int],
    reference: str,
) -> None:
    """Make the bench folder, or see that it holds the same bench; rows, seeds, splits and data sets may be added."""
    datasets = {name: RunSpec("", 0, recipe).plain()["recipe"] for name, recipe in recipes.items()}
    compared = {row.name: {"strategy": row.strategy, "options": row.options} for row in rows}
    path = out / _PLAN
    if path.exists():
        old = read_settings(path, "what `modalign bench` wrote", RunFolderError)
        # What the old bench has and the new one names too must be the same.
        new = {
            "datasets": {name: datasets.get(name, value) for name, value in old["datasets"].items()},
            "rows": {name: compared.get(name, value) for name, value in old["rows"].items()},
            **asked,
        }
        changed = differences({key: old.get(key, 0) for key in new}, new)
        if changed:
            raise InputError(
                f"{out} holds a bench with other settings: {'; '.join(changed)}. Choose a new folder with "
                f"{option('out')}, or repeat the old settings to complete it"
            )
        datasets, compared = {**old["datasets"], **datasets}, {**old["rows"], **compared}
        counts = {name: max(count, old.get(name, 1)) for name, count in counts.items()}
    elif in_use(out):
        raise InputError(f"output {out} is in use and holds no bench; choose another {option('out')}")
    plain = {"datasets": datasets, "rows": compared, **asked, **counts, "reference": reference}
    write_whole(path, yaml.safe_dump(plain, sort_keys=False))
