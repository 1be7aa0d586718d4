"""The paper's tables and figures from raw downloads, by one command that can be stopped and goes on.

What is there of the four data sets is prepared and run by their recipes; what is not is left out by name. The numbers
of the paper are those of its Tables 1 and 2.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modalign.data.datasets import ave, cremad
from modalign.data.media.miniature import write_miniature
from modalign.data.media.prepare import PrepareReport, prepare
from modalign.data.media.spectrograms import AUDIO_RECIPES
from modalign.domains import Count, check_values
from modalign.errors import DataError, SettingsError, unknown
from modalign.experiments.bench import ABLATION, Entry, entries, run_bench
from modalign.experiments.tradeoff import ALPHAS, run_tradeoff
from modalign.protocols import OURS, PROTOCOLS
from modalign.recipes import load_recipe
from modalign.settings import Recipe
from modalign.training.train import train

Scale = Literal["full", "tiny"]


@dataclass(frozen=True)
class PaperSet:
    """One of the paper's data sets.

    Attributes:
        name, title: of the package, and in the paper's tables.
        folders: names that its download may have, besides ``name``.
        metric: what the tables are taken to show. That of GBMLGG is not stated there: see ``docs/reproduce.md``.
        splits: published folds; 1 where there is one official split.
        hours: of one run of the package's recipe on one large GPU, estimated (``docs/reproduce.md``, Costs).
        gigabytes: of its prepared folder, estimated there too.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    metric: str
    splits: int
    hours: float
    gigabytes: float


SETS = (
    PaperSet("cremad", "CREMA-D", ("CREMA-D", "CREMAD"), "accuracy", 1, 0.25, 4.8),
    PaperSet("ave", "AVE", ("AVE_Dataset", "AVE"), "accuracy", 1, 0.4, 6.8),
    PaperSet("food101", "Food-101", ("upmcfood101", "UPMC_Food101", "Food-101"), "accuracy", 1, 0.75, 13.7),
    PaperSet("gbmlgg", "GBMLGG", ("TCGA_GBMLGG", "GBMLGG"), "auc_micro", 15, 0.05, 2.0),
)


def _numbers(*percent: float) -> dict[str, float]:
    return dict(zip(("cremad", "ave", "food101", "gbmlgg"), percent, strict=True))


PAPER: dict[str, dict[str, dict[str, float]]] = {
    "table1": {
        "unimodal": _numbers(54.40, 62.10, 68.92, 85.24),
        "joint": _numbers(53.20, 65.40, 78.69, 85.88),
        "infonce": _numbers(60.61, 67.52, 82.55, 90.67),
        "mmpareto": _numbers(60.12, 67.42, 82.31, 90.25),
        "diagnose_relearn": _numbers(61.35, 67.48, 83.36, 90.44),
        "reconboost": _numbers(61.59, 68.05, 83.26, 89.88),
        "ogm_ge": _numbers(61.16, 67.01, 80.25, 89.22),
        "pmr": _numbers(61.10, 67.10, 82.09, 89.06),
        "modalign": _numbers(62.85, 68.19, 84.03, 92.15),
    },
    "table2": {
        "no_objective": _numbers(56.81, 65.12, 80.85, 87.70),
        "no_margin": _numbers(58.52, 66.21, 81.59, 87.79),
        "no_prior": _numbers(60.61, 67.03, 82.00, 89.00),
        "no_context": _numbers(61.58, 67.52, 82.55, 90.67),
        "modalign": _numbers(62.85, 68.19, 84.03, 91.15),
    },
}
"""Table, row and data set to the number in percent, as the paper's page prints them."""

# A rehearsal: networks of a few channels, two epochs.
TINY: dict[str, dict[str, Any]] = {
    "resnet18": {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
    "resnet50": {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "vit_b_16": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "bert_base": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}
_TINY_PREPARE: dict[str, dict[str, Any]] = {
    "cremad": {"size": 32}, "ave": {"size": 32, "audio": "ogm"}, "gbmlgg": {"size": 32},
    "food101": {"size": 32, "length": 12, "vocabulary": "train"},
}  # fmt: skip
_TINY_FOLDS, _ALPHAS = 2, {"full": ALPHAS, "tiny": (0.0, 1.0)}


@dataclass(frozen=True)
class Part:
    """What is to be done on one data set: where its download and its prepared folder are, and how it is run."""

    of: PaperSet
    raw: Path
    prepared: Path
    recipe: Recipe
    splits: int
    seeds: int

    @property
    def protocol(self) -> str:
        """Name of the protocol that the recipe asks for."""
        return str(self.recipe.data.options.get("protocol", OURS))

    @property
    def gigabytes(self) -> float:
        """Of the prepared folder: frames of bytes and sound in float32, as many as the official lists have."""
        if self.protocol == OURS:
            return self.of.gigabytes
        chosen = PROTOCOLS[self.of.name][self.protocol]
        frames = len(chosen.keep) or chosen.frames
        size = frames * 3 * 224**2 + 4 * math.prod(AUDIO_RECIPES[chosen.audio].shape)
        return size * sum({"cremad": cremad, "ave": ave}[self.of.name].OFFICIAL.values()) / 1e9


@dataclass(frozen=True)
class Plan:
    """What ``reproduce`` will do.

    Attributes:
        what: ``table1``, ``table2`` or ``figures``.
        out: folder of everything that it writes.
        parts: data sets that are there.
        absent: those that are not, with the folders that were looked for.
        scale: how large.
    """

    what: str
    out: Path
    parts: tuple[Part, ...]
    absent: tuple[str, ...]
    scale: Scale

    @property
    def rows(self) -> Sequence[Entry]:
        """The methods, or variants of ModAlign, of the table."""
        if self.what == "table1":
            return entries([*PAPER["table1"]])
        return [entry for entry in ABLATION if entry.name in PAPER["table2"]]

    def runs(self, part: Part) -> int:
        """Trainings on a data set: rows of a table, or two margins at each strength of the figure and one more run."""
        if self.what == "figures":
            return (2 * len(_ALPHAS[self.scale]) - 1) * part.seeds + 1
        return len(self.rows) * part.seeds * part.splits

    def __str__(self) -> str:
        lines = [f"{self.what} of the paper, into {self.out}"]
        for part in self.parts:
            runs = self.runs(part)
            line = f"  {part.of.title}: {runs} runs"
            if self.scale == "full":
                hours = part.of.hours * part.recipe.training.epochs / load_recipe(part.of.name).training.epochs
                line += f", about {runs * hours:.3g} h on one large GPU, {part.gigabytes:.3g} GB prepared"
            lines.append(line + f", from {part.raw}" + ("" if part.protocol == OURS else f", as {part.protocol}"))
        return "\n".join([*lines, *(f"  left out: {text}" for text in self.absent)])


def make_plan(
    what: Literal["table1", "table2", "figures"],
    out: str | Path,
    *,
    raw: str | Path | None = None,
    scale: Scale = "full",
    seeds: Count = 3,
    recipes: Sequence[Recipe] = (),
    protocol: str = OURS,
) -> Plan:
    """See what is there, and what is to be done with it; nothing is written, but the made media of ``tiny``.

    Args:
        what: which table, or the figures.
        out: folder to write.
        raw: folder of the downloads, each in a folder of its name (``SETS``); not for ``tiny``, which makes them.
        scale: ``full``, or ``tiny``: a rehearsal with made media, tiny networks, two epochs, one seed and two folds.
        seeds: runs of each method on a split; one on each of GBMLGG's 15 folds.
        recipes: recipes of one's own in the place of the package's, by the name of their data.
        protocol: published protocol of the data sets that have it; the others keep that of their recipe.

    Raises:
        InputError: there is no such folder, nothing in it, or a recipe of other data.
    """
    out, own = Path(out), {recipe.data.name: recipe for recipe in recipes}
    known = [one.name for one in SETS]
    check_values(make_plan, {"what": what, "scale": scale, "seeds": seeds})
    for name in sorted(own.keys() - {*known}):
        raise SettingsError(f"a recipe of data {name!r}: expected recipes of {', '.join(known)}")
    if (raw is None) == (scale == "full"):
        said = "scale full needs the folder of the downloads" if raw is None else "scale tiny makes its own downloads"
        raise SettingsError(f"{said}; {'give' if raw is None else 'leave out'} raw")
    if raw is not None and not Path(raw).is_dir():
        raise DataError(f"no folder at {raw}; expected the folder that holds the downloads")
    if protocol not in (known_protocols := sorted({name for presets in PROTOCOLS.values() for name in presets})):
        raise unknown("protocol", protocol, known_protocols)
    parts, absent = [], []
    for one in SETS:
        found: Path | None
        if raw is None:
            found = write_miniature(one.name, out / "raw" / one.folders[0])
        else:
            there = {path.name.lower(): path for path in sorted(Path(raw).iterdir()) if path.is_dir()}
            names = [name.lower() for name in (*one.folders, one.name)]
            found = next((there[name] for name in names if name in there), None)
            if found is None:
                absent.append(f"{one.title}, for there is no folder {' or '.join(one.folders)} in {raw}")
                continue
        asked = protocol if protocol != OURS and protocol in PROTOCOLS.get(one.name, {}) else None
        recipe = own.get(one.name) or load_recipe(one.name, asked)
        under = recipe.data.options.get("protocol", OURS)
        prepared = out / "data" / (one.name if under == OURS else f"{one.name}-{under}")
        training = replace(recipe.training, metric=one.metric)
        recipe = replace(recipe, data=replace(recipe.data, path=str(prepared), title=one.title), training=training)
        splits, runs = one.splits, seeds if one.splits == 1 or what == "figures" else 1
        if scale == "tiny":
            recipe, splits, runs = _shrunk(recipe), min(splits, _TINY_FOLDS), 1
        parts.append(Part(one, found, prepared, recipe, splits, runs))
    if not parts:
        raise DataError(f"nothing to reproduce in {raw}: {'; '.join(absent)}")
    return Plan(what, out, tuple(parts), tuple(absent), scale)


def _shrunk(recipe: Recipe) -> Recipe:
    """The recipe with tiny networks and two epochs, on a CPU."""
    encoders = {
        name: {**own, "pretrained": False, "config": TINY[own["name"]]} if own["name"] in TINY else own
        for name, own in recipe.model.encoders.items()
    }
    small = replace(recipe.training, epochs=2, batch_size=16, workers=0, precision="fp32", accelerator="cpu")
    training = replace(small, optimizer="adamw", lr=0.01)
    return replace(recipe, model=replace(recipe.model, encoders=encoders), training=training)


def prepare_all(
    plan: Plan, workers: int = 0, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[PrepareReport]:
    """Prepare every data set of a plan; finished folders are left as they are.

    Args:
        plan: of ``make_plan``.
        workers: processes that decode; 0 for one a core.
        options: name of a data set to options of its ``prepare``.

    Raises:
        InputError: a download is not complete, or there is too little room; what is prepared by then is kept.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    needed = sum(part.gigabytes for part in plan.parts if not part.prepared.exists()) * 1e9
    free = shutil.disk_usage(plan.out).free
    if plan.scale == "full" and needed > free:
        raise DataError(
            f"{plan.out} has room for {free / 1e9:.1f} GB; about {needed / 1e9:.1f} GB are needed: free some"
        )
    reports = []
    for part in plan.parts:
        own = {**(_TINY_PREPARE[part.of.name] if plan.scale == "tiny" else {}), **(options or {}).get(part.of.name, {})}
        own |= {} if part.protocol == OURS else {"protocol": part.protocol}
        reports.append(prepare(part.of.name, part.raw, part.prepared, workers=workers, **own))
    return reports


def run_plan(plan: Plan, jobs: int | None = None, quiet: bool = False) -> list[Path]:
    """Run all trainings of a plan that are not done, and return the folders that hold them.

    Args:
        plan: of ``make_plan``, its data prepared.
        jobs: trainings at a time.
        quiet: print nothing.

    Raises:
        RunsFailed: some runs failed; the others are kept.
    """
    folders = []
    for part in plan.parts:
        folder = plan.out / plan.what / part.of.name
        if plan.what == "figures":
            run_tradeoff(part.recipe, folder / "tradeoff", alphas=_ALPHAS[plan.scale], seeds=part.seeds, jobs=jobs,
                         quiet=quiet)  # fmt: skip
            train(part.recipe, "modalign", out=folder / "modalign", resume=(folder / "modalign").exists(), quiet=quiet)
        else:
            rows = {part.of.title: part.recipe}
            run_bench(rows, plan.rows, part.seeds, folder, splits=part.splits, jobs=jobs, quiet=quiet)
        folders.append(folder)
    return folders
