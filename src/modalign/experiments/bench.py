"""Strategies x seeds x data sets side by side on the cores there are; finished runs are never run again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from modalign.data.dataset import MultimodalData
from modalign.data.info import DataInfo
from modalign.data.load import load_data
from modalign.domains import Count, check_values
from modalign.errors import Diverged, InputError, RunsFailed, SettingsError
from modalign.evaluation.metrics import higher_is_better
from modalign.experiments.parallel import default_jobs, side_by_side
from modalign.settings import Recipe
from modalign.strategies import Strategy, load_strategy, make_options, short_name, strategy_name
from modalign.training.build import build_strategy, check_run
from modalign.training.own_code import Objects, resolve
from modalign.training.progress import BenchDisplay
from modalign.training.run import RunFolder, RunSpec, differences
from modalign.training.train import train_spec

_TUNE_SEED = 1000  # the search uses other seeds than the final runs
LR_FACTORS = (
    1 / 3,
    1.0,
    3.0,
)  # of the recipe's learning rate: the three-value search, the same for every method


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


# Table 2 of the paper: full ModAlign and the same without each of its parts. Without the objective nothing depends
# on alpha, which is named so that a search does not vary it.
ABLATION = (
    Entry("no_objective", "modalign", {"objective": "none", "alpha": 1.0}, "W/o CMI objective"),
    Entry("no_margin", "modalign", {"margin": "none"}, "W/o protective margin"),
    Entry("no_prior", "modalign", {"prior": False}, "W/o context-aware prior"),
    Entry("no_context", "modalign", {"context": "none"}, "W/o semantic context"),
    Entry("modalign", "modalign", {}, "ModAlign (full)"),
)


@dataclass(frozen=True)
class Job:
    """One training of a bench.

    Attributes:
        dataset: name of the data, as in the table.
        name: of the row.
        spec: what to train.
        folder: its run folder.
        test: whether the test split is read at the end.
        objects: objects of one's own in place of names.
        data: data in memory; None where the recipe names it.
    """

    dataset: str
    name: str
    spec: RunSpec
    folder: Path
    test: bool
    objects: Objects
    data: MultimodalData | None

    @property
    def label(self) -> str:
        """How the display calls it."""
        setting = "" if self.test else f" {self.folder.parent.name}"
        return f"{self.dataset} {self.name}{setting} seed {self.spec.seed}"


def run_bench(
    recipes: dict[str, Recipe],
    rows: Sequence[Entry],
    seeds: Count,
    out: str | Path,
    *,
    tune: bool = False,
    tune_seeds: Count = 2,
    jobs: Count | None = None,
    data: Mapping[str, MultimodalData] | None = None,
    quiet: bool = False,
) -> Path:
    """Train every row with every seed on every data set; the tables are made from the folder afterwards.

    Args:
        recipes: data set name to recipe.
        rows: what is compared (``entries`` of method names, ``ABLATION``).
        seeds: runs of each, with seeds 0 .. seeds-1; the same seed means the same initial network and the same order
            of samples for every row, so differences are paired.
        out: the bench folder. One that holds a bench with the same settings is completed.
        tune: choose the learning rate (times 1/3, 1, 3), then the method's main option, on validation first, by the
            mean over ``tune_seeds`` seeds that are not those of the final runs; the test split is not read meanwhile.
        tune_seeds: seeds of each setting that is searched.
        jobs: trainings at a time; by default one a core on CPUs, one on GPUs.
        data: data set name to data in memory, of those that no recipe names.
        quiet: print nothing.

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
    check_values(run_bench, {"seeds": seeds, "tune_seeds": tune_seeds, "jobs": jobs})
    out = Path(out)
    memory = dict(data or {})
    _check(recipes, rows, memory)
    _claim(out, recipes, rows, seeds, tune_seeds if tune else 0)
    pool = _Pool(jobs or default_jobs(), quiet)
    chosen = _tune(recipes, rows, out, tune_seeds, pool, memory) if tune else {}
    final = []
    for dataset, recipe in recipes.items():
        for row in rows:
            setting = chosen.get((dataset, row.name), Setting(recipe.training.lr))
            for seed in range(seeds):
                folder = run_folder(out, dataset, row, seed)
                spec = _spec(recipe, row, seed, setting)
                final.append(Job(dataset, row.name, spec, folder, True, row.objects, memory.get(dataset)))
    # By seed first, so that an early look at the table compares all rows.
    failed = pool.run(sorted(final, key=lambda job: job.spec.seed), "training")
    if failed:
        raise RunsFailed("some runs failed, the others are kept:", failed)
    return out


def run_folder(out: Path, dataset: str, row: Entry, seed: int) -> Path:
    """Return where the final run of a row with a seed lies in a bench folder."""
    return out / "runs" / dataset / row.name / f"seed{seed}"


@dataclass(frozen=True)
class Setting:
    """What the search varies: the learning rate and the method's main option."""

    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join([f"lr{self.lr:.4g}", *(f"{k}{v:g}" for k, v in self.options.items())])


def _tune(
    recipes: dict[str, Recipe],
    rows: Sequence[Entry],
    out: Path,
    seeds: int,
    pool: _Pool,
    memory: Mapping[str, MultimodalData],
) -> dict[tuple[str, str], Setting]:
    """Search the same for every row: three learning rates, then three values of its main option."""
    chosen: dict[tuple[str, str], Setting] = {}
    searched: list[dict[str, Any]] = []
    for stage in ("learning rate", "main option"):
        tried: list[tuple[str, Entry, Setting, list[Job]]] = []
        for dataset, recipe in recipes.items():
            for row in rows:
                found = chosen.get((dataset, row.name))
                lrs = [Setting(factor * recipe.training.lr) for factor in LR_FACTORS]
                for setting in lrs if found is None else _main_options(recipe, row, found):
                    jobs = [
                        Job(
                            dataset,
                            row.name,
                            _spec(recipe, row, seed, setting),
                            folder / f"seed{seed}",
                            False,
                            row.objects,
                            memory.get(dataset),
                        )
                        for seed in range(_TUNE_SEED, _TUNE_SEED + seeds)
                        for folder in [out / "tune" / dataset / row.name / setting.name]
                    ]
                    tried.append((dataset, row, setting, jobs))
        pool.run([job for *_, jobs in tried for job in jobs], f"searching the {stage}")
        best: dict[tuple[str, str], tuple[float, float]] = {}
        for dataset, row, setting, jobs in tried:
            score = _validation(jobs)
            searched.append({"dataset": dataset, "row": row.name, "valid": score[0], **asdict(setting)})
            if score > best.get((dataset, row.name), (float("-inf"),) * 2):
                best[dataset, row.name], chosen[dataset, row.name] = score, setting
        hopeless = {f"{row.name} on {dataset}" for dataset, row, *_ in tried if (dataset, row.name) not in best}
        if hopeless:
            raise RunsFailed(f"every learning rate diverged for {', '.join(sorted(hopeless))}; lower --training.lr")
    plain = [{"dataset": d, "row": r, **asdict(setting)} for (d, r), setting in chosen.items()]
    (out / "tune.json").write_text(json.dumps({"chosen": plain, "searched": searched}, indent=2))
    return chosen


def _main_options(recipe: Recipe, row: Entry, found: Setting) -> list[Setting]:
    """Return the chosen learning rate with each value of the method's main option, unless that is fixed."""
    given = row.objects.strategy
    kind = type(given) if isinstance(given, Strategy) else load_strategy(given or row.strategy)
    fixed = {**recipe.strategies.get(row.strategy, {}), **row.options}
    if kind.main_option is None or kind.main_option[0] in fixed:
        return [found]
    name, values = kind.main_option
    default = getattr(make_options(kind, fixed), name)
    return [found, *(Setting(found.lr, {name: value}) for value in values if value != default)]


def _validation(jobs: Iterable[Job]) -> tuple[float, float]:
    """Mean score on validation, larger better, and among equals the lower loss; a diverged run counts as the worst."""
    scores, losses = [], []
    for job in jobs:
        if not RunFolder(job.folder).done:
            return float("-inf"), float("-inf")
        result = RunFolder(job.folder).result()
        metric, valid = result["metric"], result["metrics"]["valid"]
        scores.append(valid[metric] if higher_is_better(metric) else -valid[metric])
        losses.append(-valid.get("nll", 0.0))
    return mean(scores), mean(losses)


class _Pool:
    """Runs jobs side by side and shows how far they are."""

    def __init__(self, jobs: int, quiet: bool) -> None:
        self.jobs, self.quiet = jobs, quiet

    def run(self, jobs: list[Job], title: str) -> list[str]:
        """Run those that are not done; returns what failed, one line each."""
        waiting = [job for job in jobs if not RunFolder(job.folder).done and not _given_up(job)]
        failed = []
        with BenchDisplay(title, waiting, len(jobs) - len(waiting), self.quiet) as display:
            for job, problem in side_by_side(_execute, waiting, self.jobs):
                display.finished(job, problem)
                if problem is not None and job.test:
                    failed.append(f"  {job.label}: {problem}")
        return failed


def _execute(job: Job) -> tuple[Job, str | None]:
    """Train one job, perhaps in a worker; what diverges is a result, not an accident."""
    try:
        train_spec(job.spec, job.folder, resume=True, data=job.data, objects=job.objects, test=job.test, quiet=True)
    except Diverged as error:
        (job.folder / "diverged.txt").write_text(str(error))
        return job, str(error)
    return job, None


def _given_up(job: Job) -> bool:
    """Return whether this is a run of the search that diverged: it would diverge again."""
    return not job.test and (job.folder / "diverged.txt").exists()


def _spec(recipe: Recipe, row: Entry, seed: int, setting: Setting) -> RunSpec:
    options = {**recipe.strategies.get(row.strategy, {}), **row.options, **setting.options}
    # Settings of other strategies do not determine this run.
    alone = replace(recipe, training=replace(recipe.training, lr=setting.lr), strategies={})
    return RunSpec(row.strategy, seed, alone, options, row.name if row.title else "", row.title)


def _check(recipes: dict[str, Recipe], rows: Sequence[Entry], memory: Mapping[str, MultimodalData]) -> None:
    """Build everything once: what is wrong is said now, not in the middle of the night."""
    if not rows:
        raise InputError("no strategy given; expected names such as joint,infonce,modalign, or all")
    names = [row.name for row in rows]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"given twice: {', '.join(repeated)}; expected every strategy once")
    for name, recipe in recipes.items():
        data = memory[name] if name in memory else load_data(recipe.data)
        info = DataInfo.of(data)
        for row in rows:
            spec = _spec(recipe, row, 0, Setting(recipe.training.lr))
            check_run(spec, data, build_strategy(spec, info, objects=resolve(spec, row.objects)))


def _claim(out: Path, recipes: dict[str, Recipe], rows: Sequence[Entry], seeds: int, tuned: int) -> None:
    """Make the bench folder, or see that it holds the same bench; rows, seeds and data sets may be added."""
    datasets = {name: RunSpec("", 0, recipe).plain()["recipe"] for name, recipe in recipes.items()}
    compared = {row.name: {"strategy": row.strategy, "options": row.options} for row in rows}
    path = out / "bench.yaml"
    if path.exists():
        old = yaml.safe_load(path.read_text())
        # What the old bench has and the new one names too must be the same.
        new = {
            "datasets": {name: datasets.get(name, value) for name, value in old["datasets"].items()},
            "rows": {name: compared.get(name, value) for name, value in old["rows"].items()},
            "tune_seeds": tuned,
        }
        changed = differences({key: old[key] for key in new}, new)
        if changed:
            raise InputError(
                f"{out} holds a bench with other settings: {'; '.join(changed)}. Choose a new folder with --out, "
                "or repeat the old settings to complete it"
            )
        datasets, compared = {**old["datasets"], **datasets}, {**old["rows"], **compared}
        seeds = max(seeds, old["seeds"])
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"output {out} is in use and holds no bench; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    plain = {"datasets": datasets, "rows": compared, "tune_seeds": tuned, "seeds": seeds}
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
