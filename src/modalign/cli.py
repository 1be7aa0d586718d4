"""The command line: each command is a function here, its help comes from its docstring.

Nothing heavy is imported before a command runs, so that help is immediate.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from modalign.errors import InputError, Interrupted, RunError, nearest
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "unimodal,late_fusion,joint,joint_unimodal,infonce,modalign"


def train_one(
    recipe: Recipe,
    strategy: str = "modalign",
    seed: int = 0,
    out: str | None = None,
    resume: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Train one method with one seed and write a run folder.

    Args:
        recipe: Name of a recipe (digits), a recipe file, or data: .npz, .parquet, .csv or a prepared folder.
        strategy: Name of the method (see `modalign strategies`), or a Python file that defines one.
        seed: Seed of weights, order of samples and dropout.
        out: The run folder; runs/DATA-STRATEGY-seedN by default.
        resume: Go on with the interrupted run in the folder.
        options: Options of the method, as --options.NAME VALUE (see `modalign strategies NAME`).
    """
    from modalign.training.trainer import train as run

    where = out or f"runs/{recipe.data.shown}-{strategy.removesuffix('.py').replace('/', '_')}-seed{seed}"
    run(recipe, strategy, out=where, seed=seed, options=options, resume=resume)


def bench_methods(
    recipes: dict[str, Recipe],
    strategies: str = PLAIN,
    seeds: int = 5,
    out: str = "runs/bench",
    tune: bool = False,
    tune_seeds: int = 2,
    jobs: int | None = None,
    options: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Compare methods over seeds (and data sets) and write tables and a figure.

    A finished run is never run again: the same command completes a bench that was stopped, and more seeds, methods or
    data sets can be added.

    Args:
        recipes: One or more recipes or data files, as in `modalign train`.
        strategies: Names separated by commas, or all.
        seeds: Runs of each method.
        out: The bench folder, for table.csv, table.md, table.tex, the figure and all runs.
        tune: Choose learning rate and main option of each method on validation first, by one small search.
        tune_seeds: Seeds of each setting of that search.
        jobs: Trainings at a time; one a core by default.
        options: Options of methods, as --options.STRATEGY '{NAME: VALUE}'.
    """
    from modalign.experiments.bench import entries, run_bench
    from modalign.strategies import strategy_names

    chosen = strategy_names() if strategies == "all" else _names(strategies)
    rows = entries(chosen, options)
    _report_bench(run_bench(recipes, rows, seeds, out, tune=tune, tune_seeds=tune_seeds, jobs=jobs))


def ablate_modalign(
    recipes: dict[str, Recipe],
    seeds: int = 5,
    out: str = "runs/ablation",
    tune: bool = False,
    tune_seeds: int = 2,
    jobs: int | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Compare ModAlign with itself without each of its parts (Table 2 of the paper).

    Without the conditional objective, the protective margin, the context-aware prior, the semantic context.

    Args:
        recipes: One or more recipes or data files, as in `modalign train`.
        seeds: Runs of each variant.
        out: The bench folder, as of `modalign bench`.
        tune: Choose learning rate and main option of each variant on validation first.
        tune_seeds: Seeds of each setting of that search.
        jobs: Trainings at a time; one a core by default.
        options: Options of ModAlign in all variants, as --options.NAME VALUE (see `modalign strategies modalign`).
    """
    from modalign.experiments.bench import ABLATION, run_bench

    recipes = {name: _with_options(recipe, options) for name, recipe in recipes.items()}
    _report_bench(run_bench(recipes, ABLATION, seeds, out, tune=tune, tune_seeds=tune_seeds, jobs=jobs))


def _with_options(recipe: Recipe, options: dict[str, Any] | None) -> Recipe:
    """The recipe with options of ModAlign over its own."""
    if not options:
        return recipe
    own = {**recipe.strategies.get("modalign", {}), **options}
    return replace(recipe, strategies={**recipe.strategies, "modalign": own})


def estimate_information(
    x: str,
    y: str,
    given: str | None = None,
    method: str = "nce3",
    critic: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Estimate the information between two arrays, I(X;Y) or I(X;Y|T), in nats.

    Args:
        x: .npy file, (N,) or (N, F).
        y: .npy file with as many rows.
        given: .npy file with the context T: integers or strings (discrete), or numbers.
        method: nce3, nce2, infonce, mine, nwj, smile or ksg.
        critic: separable, bilinear or mlp, for the neural methods; each method's default otherwise.
        seed: Seed of initial weights and of the division of the samples.
        json: Print one line of JSON.
    """
    _estimate(x, y, given, method, critic, seed, json)


def _estimate(x: str, y: str, given: str | None, method: str, critic: str | None, seed: int, as_json: bool) -> None:
    from modalign.estimators.estimate import estimate as run

    more = {} if critic is None else {"critic": critic}
    found = run(_array(x), _array(y), None if given is None else _array(given), method, seed=seed, **more)  # type: ignore[arg-type]
    if as_json:
        plain = {
            key: asdict(found)[key] for key in ("value", "stderr", "unit", "kind", "method", "samples", "warnings")
        }
        print(json.dumps(plain))
        return
    what = "I(X;Y)" if given is None else "I(X;Y|T)"
    about = f"{found.method}, {found.kind}, N = {found.samples}"
    print(f"{what} = {found.value:.4f} ± {found.stderr:.4f} {found.unit} ({about})")
    for warning in found.warnings:
        print(f"  warning: {warning}")


def sweep_tradeoff(
    recipe: Recipe,
    seeds: int = 3,
    out: str = "runs/tradeoff",
    alphas: str = "0,0.1,0.3,1,3,10,30",
    jobs: int | None = None,
    method: str = "nce3",
    options: dict[str, Any] | None = None,
) -> None:
    """Sweep the strength of alignment: shared against unique information and accuracy (Figure 1a of the paper).

    Args:
        recipe: A recipe or data file, as in `modalign train`.
        seeds: Runs of each strength.
        out: Folder of the sweep; the figures are written into it.
        alphas: Strengths, separated by commas.
        jobs: Trainings at a time; one a core by default.
        method: Estimator of information (see `modalign estimate`).
        options: Options of ModAlign, as --options.NAME VALUE (see `modalign strategies modalign`).
    """
    from modalign.experiments.tradeoff import run_tradeoff
    from modalign.report.figures import tradeoff_figures
    from modalign.report.style import save

    for swept in {"alpha", "margin"} & set(options or {}):
        raise InputError(f"--options.{swept} is what the sweep varies; choose strengths with --alphas")
    recipe = _with_options(recipe, options)
    sweep = run_tradeoff(recipe, out, alphas=_numbers(alphas), seeds=seeds, jobs=jobs, method=method)
    written = [path for drawn in tradeoff_figures(sweep) for path in save(drawn.figure, sweep.parent / drawn.name)]
    print("written:", ", ".join(map(str, [sweep, *written])))


def evaluate_runs(
    runs: list[str],
    split: str = "test",
    context: str = "class",
    quick: bool = False,
    method: str = "nce3",
    out: str | None = None,
) -> None:
    """Diagnose finished runs: what each modality gives, alone, together and missing; calibration; information.

    Args:
        runs: Run folders, or folders that hold runs.
        split: test or valid.
        context: Column of the data by whose values confidence is shown, beside the classes.
        quick: Leave out the estimates of information, which take longest; earlier ones of the same model are kept.
        method: Estimator of information (see `modalign estimate`).
        out: Folder for the figures; the run's own by default.
    """
    from pathlib import Path

    from modalign.experiments.evaluate import evaluate_run
    from modalign.report.runs import read_runs
    from modalign.report.diagnosis import summarize, write_evaluation_figures

    records = read_runs([Path(run) for run in runs])
    done = [record for record in records if record.state == "done"]
    for record in records:
        if record.state != "done":
            print(f"{record.path}: left out ({record.state}: {record.reason})", end="\n\n")
    if not done:
        raise InputError("none of the runs is finished: there is nothing to evaluate")
    refused: list[InputError] = []
    for position, record in enumerate(done, 1):
        if sys.stderr.isatty() or len(done) > 1:
            print(f"evaluating {record.path} ({position} of {len(done)})", file=sys.stderr, flush=True)
        try:
            found = evaluate_run(record.path, split=split, context=context, information=not quick, method=method)
        except InputError as error:  # one run that cannot be evaluated does not take the others with it
            refused.append(error)
            if len(done) > 1:
                print(f"{record.path}: left out ({error})", end="\n\n")
            continue
        print(summarize(record, found.result))
        folder = record.path if out is None else Path(out) / f"{record.dataset}-{record.strategy}-seed{record.seed}"
        written = write_evaluation_figures(record, folder, found.extremes)
        print(f"written: {record.path / 'evaluation.json'} and {len(written)} files of figures in {folder}", end="\n\n")
    if len(refused) == len(done):
        raise refused[0]


def write_page(runs: list[str], html: str = "report.html", tables: str | None = None) -> None:
    """Write one self-contained page about runs: tables, curves, figures, diagnosis, cost, settings, warnings.

    Args:
        runs: Run folders, or folders that hold runs (a bench).
        html: The page; it needs no network.
        tables: Folder for the same tables as CSV, Markdown and LaTeX, and the figures as SVG, PNG and PDF.
    """
    from pathlib import Path

    from modalign.report.figures import write_figures
    from modalign.report.page import write_report as write
    from modalign.report.runs import read_runs
    from modalign.report.tables import write_tables

    folders = [Path(run) for run in runs]
    print(f"written: {write(folders, Path(html))}")
    if tables is not None:
        records = read_runs(folders)
        written = write_tables(records, Path(tables))
        figures = write_figures(records, Path(tables))
        print(f"written: {', '.join(map(str, written))} and {len(figures)} files of figures in {tables}")


def predict_samples(run: str, data: str, out: str = "predictions.csv", modalities: str | None = None) -> None:
    """Predict new samples with a trained run: class, confidence, and the evidence of each modality.

    Args:
        run: The run folder.
        data: .npz, .parquet or .csv with the run's modalities under their names; any may be missing.
        out: .csv or .parquet file to write.
        modalities: Use only these, separated by commas.
    """
    from pathlib import Path

    from modalign.experiments.predict import predict

    path = Path(out)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {out} is neither .csv nor .parquet")
    if path.exists():
        raise InputError(f"{out} exists; choose another --out")
    table = predict(run, data, None if modalities is None else _names(modalities))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    print(f"{len(table)} predictions in {out}")


def prepare_data(
    data: str,
    out: str,
    raw: str | None = None,
    workers: int = 0,
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
        workers: Processes that decode; 0 for one a core.
        fresh: Begin anew, also where the folder is finished.
        strict: Other counts than the official ones are an error, not a warning.
        options: Options of the data set, as --options.NAME VALUE (see docs/reproduce.md).
    """
    if data.endswith((".csv", ".parquet")):
        from modalign.data.media.manifest_media import prepare_manifest

        given = {"--raw": raw is not None, "--strict": strict, "--options": bool(options)}
        if any(given.values()):
            named = ", ".join(key for key in given if given[key])
            raise InputError(f"{named}: not for a manifest; the .yaml beside {data} says how its files are decoded")
        report = prepare_manifest(data, out, workers=workers, resume=not fresh)
    else:
        from modalign.data.media.prepare import prepare

        if raw is None:
            raise InputError(f"--raw is missing: the folder of the download of {data}, untouched")
        report = prepare(data, raw, out, workers=workers, resume=not fresh, strict=strict, **(options or {}))
    print(report)


def list_strategies(name: str | None = None) -> None:
    """List the methods, or describe one and its options.

    Args:
        name: The method to describe.
    """
    from modalign.strategies import load_strategy, strategy_names

    if name is None:
        for known in strategy_names():
            print(f"{known:18} {load_strategy(known).title}")
        return
    kind = load_strategy(name)
    module = sys.modules.get(kind.__module__)
    print((module.__doc__ if module and module.__doc__ else kind.__doc__ or "").strip(), end="\n\n")
    described = _described(kind.Options.__doc__ or "")
    for option in fields(kind.Options):
        print(f"--options.{option.name} (default {option.default!r})\n    {described.get(option.name, '')}")


def list_datasets() -> None:
    """List the data sets and the recipes of the package."""
    from modalign.data.load import available
    from modalign.recipes import recipe_names

    print("data sets:", ", ".join(available()))
    print("recipes:  ", ", ".join(recipe_names()))


# The functions must not be called like public names of the package, or the parser imports what those stand for.
COMMANDS: dict[str, Callable[..., None]] = {
    "train": train_one,
    "bench": bench_methods,
    "ablate": ablate_modalign,
    "tradeoff": sweep_tradeoff,
    "evaluate": evaluate_runs,
    "report": write_page,
    "predict": predict_samples,
    "prepare": prepare_data,
    "estimate": estimate_information,
    "strategies": list_strategies,
    "datasets": list_datasets,
}


# Parameters that are given by position, and how many words their types take.
_POSITIONAL = ("recipe", "recipes", "run", "runs", "data", "name")
_NARGS = {"str": None, "Recipe": None, "list[str]": "+", "dict[str, Recipe]": "+", "str | None": "?"}

# Short forms of settings of the data.
_SHORT = {
    "modalities": "Modalities to use, separated by commas.",
    "label": "Name of the label.",
    "split": "The rows that are the test split, as COLUMN==VALUE.",
    "group": "Column whose values are not divided between splits.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``modalign``: exit status 0, 2 for input that cannot be used, 1 for a run that failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"modalign {version('modalign')}")
        return
    if given[0] not in COMMANDS:
        _refuse(f"unknown command {given[0]!r}{nearest(given[0], COMMANDS)}\n\n{_overview()}")
    try:
        _run(given[0], given[1:])
    except InputError as error:
        _refuse(f"error: {error}")
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = None
        sys.exit(141)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Interrupted as error:
        print(f"{error} by the same command with --resume", file=sys.stderr)
        sys.exit(130)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run(name: str, arguments: list[str]) -> None:
    parser = _parser(name)
    parsed = parser.parse_args(arguments)
    if "recipe" in parsed:
        given = _under(parser, arguments, parsed.recipe)
    elif "recipes" in parsed:
        plan: dict[str, Recipe] = {}
        for recipe in parsed.recipes:
            given = _under(parser, arguments, recipe)
            one = given.pop("recipe")
            if one.data.shown in plan:
                raise InputError(f"two recipes have data called {one.data.shown!r}; give one of them a data.title")
            plan[one.data.shown] = one
        given["recipes"] = plan
    else:
        given = vars(parser.instantiate(parsed))
    COMMANDS[name](**given)


def _under(parser: ArgumentParser, arguments: list[str], recipe: str) -> dict[str, Any]:
    """Arguments of a command, whose ``recipe`` has what the command line says over its own settings."""
    base = _loaded(recipe)
    parser.set_defaults(_flat(base))
    given = vars(parser.instantiate(parser.parse_args(arguments)))
    given.pop("recipes", None)
    shared = given.pop("data"), given.pop("model"), given.pop("training")
    given["recipe"] = _recipe(*shared, base.strategies, {key: given.pop(key) for key in _SHORT})
    return given


def _parser(name: str) -> ArgumentParser:
    """The parser of one command, from the function's signature and docstring.

    A command that takes a ``Recipe``, or several, gets all its settings as options.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=False)
    command = COMMANDS[name]
    parser = _Parser(prog=f"modalign {name}", description=_summary(command), exit_on_error=True, allow_abbrev=False)
    parameters = inspect.signature(command).parameters
    described = _described(command.__doc__ or "")
    flags = {n for n, p in parameters.items() if p.default is False}
    positional = {n: _NARGS[p.annotation] for n, p in parameters.items() if n in _POSITIONAL and p.annotation in _NARGS}
    for option, count in positional.items():
        parser.add_argument(option, nargs=count, type=str, help=described[option])
    parser.add_function_arguments(command, skip={*flags, *positional})
    for shown in parser._action_groups:
        if shown.title and shown.title.startswith(_summary(command).split("\n")[0].rstrip(".")):
            shown.title = "settings"  # not the summary once more
    for flag in sorted(flags):
        parser.add_argument(f"--{flag}", action="store_true", help=described[flag])
    if {"recipe", "recipes"} & positional.keys():
        for option, help_ in _SHORT.items():
            parser.add_argument(f"--{option}", type=str, help=help_)
        for key, settings in (("data", DataSettings), ("model", ModelSettings), ("training", TrainingSettings)):
            parser.add_class_arguments(settings, key)
    return parser


class _Parser(ArgumentParser):
    """An argument parser that names the nearest option when one is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        found = re.search(
            r"(?:[Uu]nrecognized arguments:|does not have|[Nn]o action for key|Key)\s+['\"]?(\S+)", message
        )
        hint = nearest(found[1].split("=")[0].strip("'\""), known) if found else ""
        _refuse(f"error: {message.strip()}{hint}\nSee {self.prog} --help")


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {_summary(command).splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: modalign COMMAND ...", "", "Train, compare and diagnose multimodal models.", "", *lines, "",
         "`modalign COMMAND --help` describes a command."]
    )  # fmt: skip


def _summary(command: Callable[..., None]) -> str:
    """The docstring up to its arguments."""
    text = (command.__doc__ or "").split("Args:")[0]
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _described(docstring: str) -> dict[str, str]:
    """Name to description of the ``Args`` of a docstring."""
    from docstring_parser import parse

    return {p.arg_name: " ".join((p.description or "").split()) for p in parse(docstring).params}


def _loaded(name: str) -> Recipe:
    from modalign.recipes import load_recipe

    return load_recipe(name)


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Settings by dotted name, as the parser wants its defaults."""
    parts: dict[str, Any] = {"data": recipe.data, "model": recipe.model, "training": recipe.training}
    return {f"{part}.{f.name}": getattr(settings, f.name) for part, settings in parts.items() for f in fields(settings)}


def _recipe(
    data: DataSettings,
    model: ModelSettings,
    training: TrainingSettings,
    strategies: dict[str, dict[str, Any]],
    short: dict[str, str | None],
) -> Recipe:
    """A recipe with the short options put in their place."""
    named: dict[str, Any] = {key: value for key, value in short.items() if value is not None}
    if "modalities" in named:
        named["modalities"] = _names(named["modalities"])
    return Recipe(replace(data, **named), model, training, strategies)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in _names(text)]
    except ValueError:
        raise InputError(f"{text!r} is no list of numbers; expected such as 0,0.3,1") from None


def _array(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"file {path} does not exist; expected a .npy array") from None
    except ValueError as error:
        raise InputError(f"file {path} is not a plain .npy array ({error}); save it with numpy.save") from error


def _report_bench(folder: Path) -> None:
    """Write the tables and the figure of a bench, and print the table."""
    from modalign.report.figures import write_comparison
    from modalign.report.runs import compare, read_runs
    from modalign.report.tables import show_tables, write_tables

    runs = read_runs(folder / "runs")
    written = write_tables(runs, folder) + write_comparison(runs, folder / "comparison")
    show_tables(compare(runs))
    print("written:", ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
