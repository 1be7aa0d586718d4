"""The command line: each command is a function here; its signature is the form, its docstring the help.

What stands before the ``*`` of a command is given by position, the rest as ``--NAME VALUE``; a command that takes
recipes has all settings as options too. An option that a docstring leaves out is described by the command above that
has it. Nothing heavy is imported before a command runs, so that help is immediate.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser

from modalign.classes import ask_first
from modalign.domains import Count, Seed, Whole, check_values, declared, describe, wrong
from modalign.errors import InputError, Interrupted, Problems, RunError, RunsFailed, SettingsError, nearest, speaking
from modalign.recipes import GROUPS, add_settings, load_recipe, plain_type, recipe_names
from modalign.settings import Recipe

if TYPE_CHECKING:
    from modalign.experiments.bench import Entry

TRIALS = 12
PLAIN = "unimodal,late_fusion,joint,joint_unimodal,infonce,modalign"


def train(
    recipe: Recipe,
    *,
    strategy: str = "modalign",
    seed: Seed = 0,
    out: str | None = None,
    resume: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Train one method with one seed and write a run folder.

    Args:
        recipe: Name of a recipe (digits), a recipe file, or data: .npz, .parquet, .csv, .h5ad, .h5mu or a prepared
            folder.
        strategy: Name of the method (see `modalign strategies`), a file that defines one (FILE.py, FILE.py:Class), or
            the import path of its class (package.module.Class).
        seed: Seed of weights, order of samples and dropout.
        out: The run folder; runs/DATA-STRATEGY-seedN by default.
        resume: Go on with the interrupted run in the folder.
        options: Options of the method, as --options.NAME VALUE (see `modalign strategies NAME`).
    """
    from modalign.files import folder_name
    from modalign.reporting.artifacts import draw_run
    from modalign.strategies import short_name
    from modalign.training.train import train as run
    from modalign.training.trainer import Hooks

    where = out or f"runs/{folder_name(f'{recipe.data.shown}-{short_name(strategy)}-seed{seed}')}"
    run(recipe, strategy, out=where, seed=seed, options=options, resume=resume, hooks=Hooks(draw=draw_run))


def bench(
    recipes: list[Recipe],
    *,
    strategies: str = PLAIN,
    splits: Count = 1,
    seeds: Count = 5,
    out: str = "runs/bench",
    tune: Whole = 0,
    tune_seeds: Count = 2,
    storage: str | None = None,
    jobs: Count | None = None,
    backend: Literal["local", "ray"] = "local",
    reference: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Compare methods over splits, seeds (and data sets) and write tables and figures.

    A finished run is never run again: the same command completes a bench that was stopped, also beside others that work
    on it on machines that share the folder; more splits, seeds, methods or data sets can be added.

    Args:
        recipes: One or more recipes or data files, as in `modalign train`.
        strategies: Methods as in `modalign train`, separated by commas, or all (that are defined for the data).
        splits: 1 for the split that the data names; more for that many outer splits (folds) in its place.
        seeds: Runs of each method on a split.
        out: The bench folder, for table.csv, table.md, table.tex, the figure and all runs.
        tune: Search the learning rate and each method's options first, on validation, with so many trials (12 if no
            number follows).
        tune_seeds: Runs of each trial, each with its own validation part and seed.
        storage: Database of the search (sqlite:///FILE, postgresql://...); a journal in the bench folder by default.
        jobs: Trainings at a time; one a core by default.
        backend: local (processes of this machine), or ray: a Ray cluster whose machines share the folder (pip install
            'modalign[ray]').
        reference: Name of the method that others are compared with; ModAlign where it is compared, else the first.
        options: Options of methods, as --options.STRATEGY '{NAME: VALUE}'.
    """
    from modalign.experiments.bench import entries
    from modalign.strategies import strategy_names

    every = strategies == "all"
    rows = entries(strategy_names() if every else _names(strategies), options)
    _bench(
        recipes, rows, seeds, out, splits=splits, tune=tune, tune_seeds=tune_seeds, storage=storage, jobs=jobs,
        backend=backend, reference=reference, skip=every,
    )  # fmt: skip


def tune(
    recipe: Recipe,
    *,
    strategy: str = "modalign",
    trials: Count = TRIALS,
    runs: Count = 2,
    out: str = "runs/tune",
    storage: str | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Search the learning rate and the options of one method on validation, and write the best as a recipe.

    The recipe's own setting is the first that is tried. The test split is not read. The same command completes a search
    that was stopped.

    Args:
        trials: Settings to try.
        runs: Trainings of each, each with its own validation part and seed.
        out: Folder of the search, with recipe.yaml (the best setting, for `modalign train`) and trials.csv.
        options: Options that are not searched, as --options.NAME VALUE.
    """
    from modalign.experiments.search import run_tune

    try:
        found = run_tune(recipe, strategy, out, trials=trials, runs=runs, storage=storage, options=options)
    except Interrupted:
        _stop("stopped; the same command goes on with the search", 130)
    assert found.chosen is not None
    best = {"lr": found.chosen.lr, **found.chosen.options}
    print(f"best on validation: {', '.join(f'{name} {value}' for name, value in best.items())}")
    if found.edges:
        print(f"at an edge of what was searched (more may lie beyond): {', '.join(found.edges)}")
    print(f"written: {out}/recipe.yaml, {out}/trials.csv; go on with")
    print(f"  modalign train {out}/recipe.yaml --strategy {strategy}")


def ablate(
    recipes: list[Recipe],
    *,
    splits: Count = 1,
    seeds: Count = 5,
    out: str = "runs/ablation",
    tune: Whole = 0,
    tune_seeds: Count = 2,
    storage: str | None = None,
    jobs: Count | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Compare ModAlign with itself without each of its parts (Table 2 of the paper).

    Without the conditional objective, the protective margin, the context-aware prior, the semantic context.

    Args:
        seeds: Runs of each variant.
        options: Options of ModAlign in all variants, as --options.NAME VALUE (see `modalign strategies modalign`).
    """
    from modalign.experiments.bench import ABLATION

    recipes = [_with_options(recipe, options) for recipe in recipes]
    _bench(recipes, ABLATION, seeds, out, splits=splits, tune=tune, tune_seeds=tune_seeds, storage=storage, jobs=jobs)


def tradeoff(
    recipe: Recipe,
    *,
    seeds: Count = 3,
    out: str = "runs/tradeoff",
    alphas: str = "0,0.1,0.3,1,3,10,30",
    jobs: Count | None = None,
    method: str = "nce3",
    options: dict[str, Any] | None = None,
    allow_code: bool = False,
) -> None:
    """Sweep the strength of alignment: shared against unique information and accuracy (Figure 1a of the paper).

    Args:
        seeds: Runs of each strength.
        out: Folder of the sweep; the figures are written into it.
        alphas: Strengths, separated by commas.
        method: Estimator of information (see `modalign estimate`).
        options: Options of ModAlign, as --options.NAME VALUE (see `modalign strategies modalign`).
    """
    from modalign.experiments.tradeoff import run_tradeoff
    from modalign.reporting.figures import tradeoff_figures
    from modalign.reporting.style import save

    for swept in {"alpha", "margin"} & set(options or {}):
        raise SettingsError(f"--options.{swept} is what the sweep varies; choose strengths with --alphas")
    try:
        strengths = [float(part) for part in _names(alphas)]
    except ValueError:
        raise SettingsError(f"{alphas!r} is no list of numbers; expected such as 0,0.3,1") from None
    recipe = _with_options(recipe, options)
    sweep = run_tradeoff(recipe, out, alphas=strengths, seeds=seeds, jobs=jobs, method=method, trust_code=allow_code)
    written = [path for drawn in tradeoff_figures(sweep) for path in save(drawn.figure, sweep.parent / drawn.name)]
    print("written:", ", ".join(map(str, [sweep, *written])))


def map_(
    *,
    strategies: str = "all",
    axes: str = "all",
    seeds: Count = 3,
    epochs: Count = 15,
    out: str = "runs/map",
    jobs: Count | None = None,
) -> None:
    """Map which method leads where: made data in which one kind of information at a time is varied.

    Redundant, unique and synergistic information, nuisance that modalities share, a shift between groups, the number of
    labels, missing modalities. `modalign evaluate` says where a run's data lie on the map that comes with the package.

    Args:
        strategies: Methods as in `modalign train`, separated by commas, or all.
        axes: What is varied, separated by commas, or all.
        seeds: Runs of each method in each regime.
        epochs: Of every run on all labels; as many steps where they are few.
        out: Folder of all runs, for map.json, map.md and the figure; a map that was stopped is completed.
    """
    from modalign.experiments.bench import entries
    from modalign.experiments.regimes import REGIMES, chosen_regimes, run_map
    from modalign.reporting.regimes import write_map
    from modalign.strategies import strategy_names

    regimes = REGIMES if axes == "all" else chosen_regimes(_names(axes))
    rows = entries(strategy_names() if strategies == "all" else _names(strategies))
    run_map(rows, out, regimes=regimes, seeds=seeds, epochs=epochs, jobs=jobs)
    print("written:", ", ".join(map(str, write_map(out))))


def evaluate(
    runs: list[str],
    *,
    split: str = "test",
    context: str = "class",
    quick: bool = False,
    method: str = "nce3",
    out: str | None = None,
    allow_code: bool = False,
) -> None:
    """Diagnose finished runs: what each modality gives, alone, together and missing; calibration; information.

    Args:
        runs: Run folders, or folders that hold runs (a bench).
        split: test or valid.
        context: Column of the data by whose values confidence is shown, beside the classes.
        quick: Leave out the estimates of information, which take longest; earlier ones of the same model are kept.
        out: Folder for the figures; the run's own by default.
    """
    from modalign.reporting.diagnosis import diagnose

    how = {"split": split, "context": context, "information": not quick, "method": method, "trust_code": allow_code}
    diagnose(runs, out, **how)


def report(
    runs: list[str],
    *,
    html: str = "report.html",
    tables: str | None = None,
    reference: str | None = None,
    formulas: bool = False,
    outdated: bool = False,
) -> None:
    """Write one self-contained page about runs: tables, curves, figures, diagnosis, cost, settings, warnings.

    Splits and seeds of one data set are merged, from all folders given.

    Args:
        html: The page; it needs no network.
        tables: Folder for the same tables as CSV, Markdown and LaTeX, and the figures as SVG, PNG and PDF.
        formulas: Leave texts in CSV files that a spreadsheet would take for formulas (=, +, -, @) as they are; by
            default an apostrophe is put before them.
        outdated: Report runs whose data have changed since, too.
    """
    from pathlib import Path

    from modalign.reporting.figures import write_figures
    from modalign.reporting.page import write_report
    from modalign.reporting.runs import read_runs
    from modalign.reporting.tables import write_tables

    folders = [Path(run) for run in runs]
    print(f"written: {write_report(folders, Path(html), reference, outdated)}")
    if tables is not None:
        records = read_runs(folders)
        written = write_tables(records, Path(tables), reference, formulas)
        figures = write_figures(records, Path(tables), reference)
        print(f"written: {', '.join(map(str, written))} and {len(figures)} files of figures in {tables}")


def predict(
    run: str,
    data: str,
    *,
    out: str = "predictions.csv",
    modalities: str | None = None,
    formulas: bool = False,
    allow_code: bool = False,
) -> None:
    """Predict new samples with a trained run: class, confidence, and the evidence of each modality.

    Args:
        run: The run folder.
        data: .npz, .parquet, .csv, .h5ad or .h5mu with the run's modalities under their names; any may be missing.
        out: .csv or .parquet file to write; .h5ad or .h5mu for the data with predictions in obs (modalign_predicted,
            ...) and features in obsm (X_modalign_MODALITY).
        modalities: Use only these, separated by commas.
    """
    from functools import partial
    from pathlib import Path

    from modalign.data.tables.omics import is_omics, open_omics, write_omics
    from modalign.experiments.predict import predict as predicted
    from modalign.files import write_csv, write_whole

    path, cells = Path(out), is_omics(out)
    if path.suffix not in (".csv", ".parquet") and not cells:
        raise SettingsError(f"--out {out} is neither .csv nor .parquet, nor .h5ad or .h5mu")
    if cells and path.suffix != Path(data).suffix:
        raise SettingsError(f"--out {out} would be {data} with predictions in it; expected the ending that this has")
    if path.exists():
        raise SettingsError(f"{out} exists; choose another --out")
    source = open_omics(data) if cells else data
    named = None if modalities is None else _names(modalities)
    table = predicted(run, source, named, annotate=cells, trust_code=allow_code)
    if cells:
        write_omics(source, path)
    elif path.suffix == ".csv":
        write_csv(path, table, formulas)
    else:
        write_whole(path, partial(table.to_parquet, index=False))
    print(f"{len(table)} predictions in {out}")


def export(run: str, *, out: str, allow_code: bool = False) -> None:
    """Export a trained run as one file that needs no modalign: torch.export (.pt2) or ONNX (.onnx).

    It takes which modalities are present and their arrays, for any number of samples, and gives the probabilities of
    `modalign predict`. The file is compared with the run before it is written.

    Args:
        out: The file: NAME.pt2 or NAME.onnx (which needs pip install 'modalign[export]').
    """
    from modalign.experiments.export import export as exported

    print(f"written: {exported(run, out, trust_code=allow_code)}")


def prepare(
    data: str,
    *,
    out: str,
    raw: str | None = None,
    protocol: str | None = None,
    workers: Whole = 0,
    fresh: bool = False,
    strict: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Turn raw files into a checked, cached data set that every command reads.

    Work that was stopped goes on where it was; unreadable samples are listed at the end and in unreadable.csv.

    Args:
        data: cremad, ave, food101, gbmlgg or avmnist; or your own manifest (.csv or .parquet, its .yaml beside it).
        out: The folder to write.
        raw: The download, untouched (not for a manifest).
        protocol: Published protocol of cremad or ave: ogm, pmr, mmpareto, dr, reconboost, or ours (see
            docs/reproduce.md).
        workers: Processes that decode; 0 for one a core.
        fresh: Begin anew, also where the folder is finished.
        strict: Other counts than the official ones are an error, not a warning.
        options: Options of the data set, as --options.NAME VALUE (see docs/reproduce.md).
    """
    if data.endswith((".csv", ".parquet")):
        from modalign.data.media.manifest_media import prepare_manifest

        told = {"--raw": raw, "--protocol": protocol, "--strict": strict, "--options": options}
        given = [name for name, value in told.items() if value]
        if given:
            how = f"the .yaml beside {data} says how its files are decoded"
            raise SettingsError(f"{', '.join(given)}: not for a manifest; {how}")
        print(prepare_manifest(data, out, workers=workers, resume=not fresh))
    else:
        from modalign.data.media.prepare import prepare as prepare_raw

        if raw is None:
            raise SettingsError(f"--raw is missing: the folder of the download of {data}, untouched")
        options = {**({} if protocol is None else {"protocol": protocol}), **(options or {})}
        print(prepare_raw(data, raw, out, workers=workers, resume=not fresh, strict=strict, **options))


def reproduce(
    what: str,
    *,
    raw: str | None = None,
    out: str = "runs/reproduce",
    scale: str = "full",
    seeds: Count = 3,
    recipes: str | None = None,
    protocol: str = "ours",
    workers: Whole = 0,
    jobs: Count | None = None,
    dry_run: bool = False,
    options: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Reproduce the paper's Table 1, Table 2 or figures from raw downloads, and set what was reached beside the paper.

    Prepares what is there of CREMA-D, AVE, UPMC Food-101 and GBMLGG, runs all rows by the package's recipes, and says
    of every number whether the paper's lies in its interval. What is absent is left out by name. The same command goes
    on where it was stopped. docs/reproduce.md says where the downloads are had, and what differs from published code.

    Args:
        what: table1 (methods), table2 (ablation) or figures (trade-off, confidence by context).
        raw: Folder with the downloads, each in a folder of its name: CREMA-D, AVE_Dataset, upmcfood101, TCGA_GBMLGG.
        out: Folder for prepared data, runs, tables, figures and the page.
        scale: full, or tiny: a rehearsal in minutes, with made media and tiny networks; needs no raw.
        seeds: Runs of each method on an official split; each of the 15 folds of GBMLGG has one.
        recipes: Recipe files in the place of the package's, separated by commas.
        protocol: Published protocol (ogm, pmr, mmpareto, dr, reconboost) of the data sets that have it.
        workers: Processes that decode; 0 for one a core.
        dry_run: Say what would be done, and how long it takes, and stop.
        options: Options of preparing, as --options.DATA '{NAME: VALUE}'.
    """
    from modalign.experiments.reproduce import make_plan, prepare_all, run_plan
    from modalign.reporting.reproduction import write_reproduction

    own = [load_recipe(name) for name in _names(recipes or "")]
    plan = make_plan(
        what, out, raw=raw, scale=scale, seeds=seeds, recipes=own, protocol=protocol  # type: ignore[arg-type]
    )  # fmt: skip
    print(plan)
    if dry_run:
        return
    for report in prepare_all(plan, workers, options):
        print(report)
    folders = run_plan(plan, jobs)
    text, written = write_reproduction(plan, folders)
    if text:
        print(text)
    print("written:", ", ".join(map(str, written)) if text else f"{len(written)} files in {plan.out / what}")


def estimate(
    *,
    x: str,
    y: str,
    given: str | None = None,
    method: str = "nce3",
    critic: str | None = None,
    seed: Seed = 0,
    json: bool = False,
) -> None:
    """Estimate the information between two arrays, I(X;Y) or I(X;Y|T), in nats.

    Args:
        x: .npy file, (N,) or (N, F).
        y: .npy file with as many rows.
        given: .npy file with the context T: integers or strings (discrete), or numbers.
        method: nce3, nce2, infonce, mine, nwj, smile, ksg, latent, or auto, which chooses by held-out likelihood.
        critic: separable, bilinear, mlp or mixture, for neural methods; else the better of separable and mixture.
        seed: Seed of initial weights and of the division of the samples.
        json: Print one line of JSON.
    """
    from json import dumps

    from modalign.estimators.estimate import estimate as estimated

    more: dict[str, Any] = {} if critic is None else {"critic": critic}
    context = None if given is None else _array(given)
    found = estimated(_array(x), _array(y), context, method, seed=seed, **more)
    if json:
        keys = ("value", "stderr", "unit", "kind", "method", "samples", "warnings", "notes")
        print(dumps({key: getattr(found, key) for key in keys}))
    else:
        print(found)


def strategies(name: str | None = None) -> None:
    """List the methods, or describe one and its options.

    Args:
        name: The method to describe: a name, a Python file or an import path, as in `modalign train`.
    """
    from modalign.strategies import load_strategy, strategy_names

    if name is None:
        for known in strategy_names():
            print(f"{known:18} {load_strategy(known).title}")
        return
    kind = load_strategy(name)
    module = sys.modules.get(kind.__module__)
    print((module.__doc__ if module and module.__doc__ else kind.__doc__ or "").strip(), end="\n\n")
    described = _described(kind.Options)
    for option, (hint, default) in declared(kind.Options).items():
        print(f"--options.{option} (default {default!r}): {describe(hint)}\n    {described.get(option, '')}")


def datasets() -> None:
    """List the data sets and the recipes of the package."""
    from modalign.data.load import available

    print("data sets:", ", ".join(available()))
    print("recipes:  ", ", ".join(recipe_names()))


COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__.rstrip("_"): command
    for command in (
        train, bench, tune, ablate, tradeoff, map_, evaluate, report, predict, export, prepare, reproduce, estimate,
        strategies, datasets,
    )
}  # fmt: skip

# Short forms of settings of the data.
_SHORT = {
    "modalities": "Modalities to use, separated by commas.",
    "label": "Name of the label.",
    "split": "The rows that are the test split, as COLUMN==VALUE.",
    "group": "Column whose values are not divided between splits.",
}


_ALLOW_CODE = "Run the code of classes that a recipe or a run names; do so only with those that you trust."


@speaking("command line")
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``modalign``: exit status 0, 2 for input that cannot be used, 1 for a run that failed.

    What an input or the machine can cause is said in words; what is left is a mistake of the package, and says so.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # no lines of code
    try:
        run(words or ["--help"])
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = None
        sys.exit(141)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Interrupted as error:
        _stop(f"{error} by the same command with --resume", 130)
    except (InputError, RunError) as error:
        _stop(f"error: {error}", 2 if isinstance(error, InputError) else 1)
    except OSError as error:
        from modalign.files import explained

        said = explained(error)
        _stop(f"error: {said}", 2 if isinstance(said, InputError) else 1)
    except MemoryError as error:
        _stop(f"error: there is not enough memory ({error}). Take smaller batches, or data prepared on disk", 1)
    except Exception as error:
        if "null byte" in str(error) or "null character" in str(error):
            _stop("error: a path holds a character of value 0; expected the path of a file: correct it", 2)
        _stop(_mistake(error, words), 1)


def _stop(text: str, status: int) -> NoReturn:
    """Print the last words, also what the terminal has no letters for, and end."""
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)
    sys.exit(status)


def _mistake(error: Exception, words: Sequence[str]) -> str:
    """Keep the traceback of a mistake of the package in a file, in the output folder if there is one; say where."""
    import tempfile
    import traceback
    from pathlib import Path

    from modalign.files import write_whole

    outs = [Path(after) for word, after in itertools.pairwise(words) if word == "--out"]
    folder = next((path for path in outs if path.is_dir()), Path(tempfile.gettempdir()))
    text = f"modalign {version('modalign')}: {words}\n\n{''.join(traceback.format_exception(error))}"
    try:
        where = f"Its traceback is in {write_whole(folder / 'modalign-error.txt', text)}"
    except (InputError, RunError):
        where = text
    return (
        f"error: {type(error).__name__}: {str(error)[:500]}\nThis is a mistake of modalign, or of code of your own "
        f"that it runs. {where}; please report it (SECURITY.md says how, if it may matter to security)"
    )


def run(words: Sequence[str]) -> None:
    """Run the command of a line, given as its words.

    Raises:
        SettingsError: no such command, option or recipe, or a value of a wrong type.
    """
    try:
        _run(words)
    except SettingsError as error:  # names a setting as recipes do; on the line it may have been an option
        text = str(error)
        for option in {word[2:].partition("=")[0] for word in words if word.startswith("--")}:
            text = re.sub(rf"(?<![\w.-]){re.escape(option)}(?= is )", f"--{option}", text)
        raise SettingsError(text) from error


def _run(words: Sequence[str]) -> None:
    name, given = parse(words)
    trusted = bool(given.get("allow_code"))
    for key in given.keys() & {"recipe", "recipes"}:
        settings = {part: given.pop(part, {}) for part in ("data", "model", "training")}
        short = {option: given.pop(option) for option in _SHORT if option in given}
        settings["data"] |= short | ({"modalities": _names(short["modalities"])} if "modalities" in short else {})
        if key == "recipe":
            given[key] = _under(given[key], settings, words, trusted)
        else:
            given[key] = [_under(recipe, settings, words, trusted) for recipe in given[key]]
    check_values(COMMANDS[name], given, "--")
    if "allow_code" in given and "allow_code" not in inspect.signature(COMMANDS[name]).parameters:
        del given["allow_code"]  # it was about the recipe
    COMMANDS[name](**given)


def parse(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the command of a line and the values that the line names, by option; recipes stay names.

    Raises:
        SettingsError: no such command or option (the nearest is named), or a value of a wrong type.

    >>> parse(["train", "digits", "--resume", "--training.lr", "0.01"])
    ('train', {'recipe': 'digits', 'resume': True, 'training': {'lr': 0.01}})
    """
    whole, words = parser(words[0] if words else None), list(words)
    for i in [i for i, word in enumerate(words) if word == "--tune" and not "".join(words[i + 1 : i + 2]).isdigit()]:
        words[i] = f"--tune={TRIALS}"
    try:
        parsed = whole.parse_args(list(words), defaults=False).as_dict()
        return parsed["command"], parsed[parsed["command"]]
    except ArgumentError as error:
        command, message = words[0], str(error)
        _refuse(command, words, message)
        if command not in COMMANDS:
            what = f"unknown command {command!r}{nearest(command, COMMANDS)}"
            raise SettingsError(f"{what}\n\n{whole.format_help()}") from None
        known = options_of(command)
        names = [word.partition("=")[0] for word in words if word.startswith("--")]
        hint = next((nearest(name, known) for name in names if name not in known and name in message), "")
        message = message.replace(f" {command}.", " ")
        raise SettingsError(f"{message}{hint}\nSee modalign {command} --help") from None


def _refuse(command: str, words: Sequence[str], message: str) -> None:
    """Say of a value that the parser refused what is expected, as for one that is outside its domain.

    Raises:
        SettingsError: the message is about a value of an option.
    """
    found = re.search(r'Parser key "(?:\w+\.)??((?:(data|model|training)\.)?(\w+))"', message)
    if command not in COMMANDS or found is None:
        return
    option, part, name = found.groups()
    known = declared(COMMANDS[command] if part is None else GROUPS[part])
    given = [value for word, value in pairwise([*words, ""]) if word == f"--{option}"]
    given += [word.partition("=")[2] for word in words if word.startswith(f"--{option}=")]
    lines = wrong(f"--{option}", given[-1] if given else None, *known[name]) if name in known else []
    if lines and given:
        raise SettingsError(f"{lines[0]}\nSee modalign {command} --help")


def parser(command: str | None) -> ArgumentParser:
    """Return the parser of the command line, made from the signatures and docstrings of the commands.

    Args:
        command: the one whose options it has to know; those of all would take most of the time of a short command.
    """
    whole = ArgumentParser(
        prog="modalign",
        description="Train, compare and diagnose multimodal models.",
        version=version("modalign"),
        exit_on_error=False,
        allow_abbrev=False,
    )
    about = "`modalign COMMAND --help` describes a command."
    commands = whole.add_subcommands(False, "command", metavar="COMMAND", title="commands", description=about)
    described: dict[str, str] = {"allow_code": _ALLOW_CODE}
    for name, function in COMMANDS.items():
        described |= _described(function)
        summary = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0]
        sub = ArgumentParser(description=summary, allow_abbrev=False)
        commands.add_subcommand(name, sub, help=summary.partition("\n")[0])
        sub.prog = f"modalign {name}"
        if name == command:
            _add_arguments(sub, function, described)
    return whole


def options_of(command: str) -> dict[str, str]:
    """Return the options and positional names of a command, and what its help says of each.

    >>> options_of("train")["--seed"]
    'Seed of weights, order of samples and dropout.'
    """
    sub = parser(command)._subcommands_action.choices[command]  # type: ignore[union-attr]
    return {name: action.help for action in sub._actions for name in action.option_strings or [action.dest]}


def _add_arguments(sub: ArgumentParser, command: Callable[..., None], described: dict[str, str]) -> None:
    """Add the parameters of a command to its parser."""
    hints, parameters = get_type_hints(command), inspect.signature(command).parameters
    sub.usage = "%(prog)s "
    for name, p in parameters.items():
        kind, text, required = hints[name], described[name], p.default is p.empty
        if p.kind is not p.KEYWORD_ONLY:
            count = "+" if get_origin(kind) is list else None if required else "?"
            sub.usage += name.upper() + (" ... " if count == "+" else " ")
            sub.add_argument(name, nargs=count, type=str, help=text)
        elif kind is bool:
            sub.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
        else:
            more = {"required": True} if required else {"default": p.default}
            sub.add_argument(f"--{name}", type=plain_type(kind), help=text, **more)
    if {"recipe", "recipes"} & parameters.keys():
        for name, text in _SHORT.items():
            sub.add_argument(f"--{name}", type=str, help=text)
        if "allow_code" not in parameters:
            sub.add_argument("--allow-code", action="store_true", help=_ALLOW_CODE)
        add_settings(sub)
    sub.usage += "[--OPTION VALUE ...]"


def _described(documented: Callable[..., Any]) -> dict[str, str]:
    """Name to description of the ``Args`` of a docstring."""
    entries = parse_docstring(documented.__doc__ or "").params
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in entries}


def _under(name: str, settings: dict[str, dict[str, Any]], words: Sequence[str], trusted: bool) -> Recipe:
    """The recipe of that name under what the line says: values replace its own, entries (--NAME.KEY) are added."""
    named = (settings["data"].get("options") or {}).get("protocol")
    recipe = load_recipe(name, named)
    ask_first(recipe, name, trusted)
    options = {word.partition("=")[0] for word in words}
    parts, problems = {}, Problems("")
    for part, given in settings.items():
        own, changed = getattr(recipe, part), {k: v for k, v in given.items() if not k.startswith("__")}
        for key, value in changed.items():
            if isinstance(value, dict) and not {f"--{part}", f"--{part}.{key}"} & options:
                changed[key] = {**getattr(own, key), **value}
            elif f"--{part}.{key}+" in options and f"--{part}.{key}" not in options:
                changed[key] = [*(getattr(own, key) or []), *value]
        problems.trying(check_values, type(own), changed, f"{part}.")
        parts[part] = own, changed
    problems.stop(SettingsError)
    return replace(recipe, **{part: replace(own, **changed) for part, (own, changed) in parts.items()})


def _with_options(recipe: Recipe, options: dict[str, Any] | None) -> Recipe:
    """The recipe with options of ModAlign over its own."""
    own = {**recipe.strategies.get("modalign", {}), **(options or {})}
    return replace(recipe, strategies={**recipe.strategies, "modalign": own}) if options else recipe


def _bench(recipes: list[Recipe], rows: Sequence[Entry], seeds: int, out: str, **search: Any) -> None:
    """Run a bench, write its tables and its figure, and print the table."""
    from pathlib import Path

    from modalign.api import Bench
    from modalign.experiments.bench import run_bench
    from modalign.reporting.artifacts import draw_run
    from modalign.reporting.tables import show_tables

    plan: dict[str, Recipe] = {}
    for recipe in recipes:
        name = recipe.data.shown
        if name in plan:
            raise SettingsError(f"two recipes have data called {name!r}; give one of them a data.title")
        plan[name] = recipe
    failed = None
    try:
        run_bench(plan, rows, seeds, out, draw=draw_run, **search)
    except RunsFailed as error:  # the table of the others is made all the same
        failed = error
    if any((Path(out) / "runs").rglob("done")):
        made = Bench(out)
        written = made.write()
        show_tables(made.rows)
        print("written:", ", ".join(map(str, written)))
    if failed is not None:
        raise failed


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _array(path: str) -> Any:
    from modalign.files import read_array

    return read_array(path)


if __name__ == "__main__":
    main()
