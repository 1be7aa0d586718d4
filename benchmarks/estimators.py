"""Estimates of information where the truth is known: closed forms, curved and hidden ones, and pictures.

    OMP_NUM_THREADS=1 python benchmarks/estimators.py --json estimators.json --markdown docs/results/estimators.md

**Closed forms**, 1 to 20 dimensions, 0 to 5 nats, with and without T.

A Gaussian pair of D coordinates with one correlation has I = -D/2 log(1 - rho^2). Maps of either side that can be
inverted leave it unchanged: ``cube``, ``half-cube`` (sign(x) |x|^1.5) and ``asinh`` element by element; ``mixed`` cubes
and then rotates, so that no map of single features undoes it. ``student``: the pair divided by a common chi variable,
a multivariate t with 2 degrees of freedom, dependent even where rho = 0.

Contexts: ``4`` shifts the means of both sides by context, so that the marginal dependence is strong, whatever I(X;Y|T);
``4 signs`` also turns the sign of the correlation in half of the contexts; ``line`` shifts by a continuous T.

**No closed form of what is seen**, though of what is behind it, 3,000 samples:

- ``digits``: pairs of different 8 x 8 pictures of one class (scikit-learn's digits): they share the class and nothing
  else, log 10 nats up to what a picture leaves open; log 5 given its parity, 0 given the class. Pictures recur.
- ``hidden``: 2 of 50 dimensions are correlated, either side turned by a rotation of its own.
- ``swiss roll``, ``spiral``: one correlated pair of numbers, either side rolled into three, wound into two dimensions.
- ``turned``: a pair in two dimensions, one side turned by a quarter, a half ... in each of 4 contexts; ``flipped``: its
  sign turned in half of the contexts. Without T nothing linear is left.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, ndtr
from sklearn.datasets import load_digits

from modalign.estimators.estimate import METHODS, estimate

Array = NDArray[np.float64]
HIGH = 3.0


@dataclass(frozen=True)
class Case:
    """One distribution with known information: ``nats`` of the Gaussian pair before what ``student`` adds."""

    shape: str
    context: str
    dimension: int
    nats: float

    @property
    def truth(self) -> float:
        """I(X;Y|T) in nats."""
        return self.nats + (2 * _t_gap(self.dimension) - _t_gap(2 * self.dimension) if self.shape == "student" else 0.0)

    def draw(self, n: int, random: np.random.Generator) -> tuple[Array, Array, Array | None]:
        """x (n, D), y (n, D) and T."""
        rho = np.sqrt(1 - np.exp(-2 * self.nats / self.dimension))
        x = random.normal(size=(n, self.dimension))
        noise = random.normal(size=x.shape)
        t = {"-": None, "line": random.uniform(-2, 2, size=n)}.get(self.context, random.integers(4, size=n))
        sign = np.where(t % 2, 1, -1)[:, None] if self.context == "4 signs" else 1
        y = sign * rho * x + np.sqrt(1 - rho**2) * noise
        if t is not None:
            x, y = x + 2 * t[:, None], y - 2 * t[:, None]
        return self._map(x, random), self._map(y, random), t

    def _map(self, z: Array, random: np.random.Generator) -> Array:
        if self.shape == "cube":
            return z**3
        if self.shape == "half-cube":
            return np.sign(z) * np.abs(z) ** 1.5
        if self.shape == "asinh":
            return np.arcsinh(3 * z)
        if self.shape == "mixed":
            return z**3 @ _rotation(z.shape[1], random)
        return z


class Student(Case):
    """A pair that shares one chi variable."""

    def draw(self, n: int, random: np.random.Generator) -> tuple[Array, Array, Array | None]:
        """x (n, D), y (n, D) and no T."""
        x, y, t = super().draw(n, random)
        chi = np.sqrt(random.chisquare(2, size=(n, 1)) / 2)
        return x / chi, y / chi, t


class Seen(Case):
    """What is seen of a pair, or of a class, whose information is known."""

    def draw(self, n: int, random: np.random.Generator) -> tuple[Array, Array, Array | None]:
        """x (n, F), y (n, G) and T."""
        if self.shape == "digits":
            images, label = load_digits(return_X_y=True)
            first = random.integers(len(label), size=n)
            # Another picture of the same class: not itself, by a step within the class.
            members = [np.flatnonzero(label == c) for c in range(10)]
            own = [members[c] for c in label[first]]
            second = [int(m[(np.searchsorted(m, i) + 1 + random.integers(len(m) - 1)) % len(m)])
                      for m, i in zip(own, first, strict=True)]  # fmt: skip
            t = {"-": None, "parity": label[first] % 2, "class": label[first]}[self.context]
            return images[first], images[second], t
        x, y, _ = Case("Gaussian", "-", self.dimension, self.nats).draw(n, random)
        if self.shape == "hidden":
            rest = random.normal(size=(2, n, 50 - self.dimension))
            x, y = (np.c_[part, more] @ _rotation(50, random) for part, more in zip((x, y), rest, strict=True))
        if self.shape in ("swiss roll", "spiral"):
            turns = 1.5 * np.pi * (1 + 2 * ndtr(np.c_[x, y]))  # (n, 2)
            wound = np.stack([turns * np.cos(turns), turns * np.sin(turns)], 2)  # (n, 2, 2)
            width = 21 * random.random((n, 2, 1))
            rolled = np.concatenate([wound, width], 2) if self.shape == "swiss roll" else wound
            x, y = rolled[:, 0], rolled[:, 1]
        if self.context == "-":
            return x, y, None
        t = random.integers(4, size=n)
        if self.shape == "flipped":
            return x, y * np.where(t % 2, 1, -1)[:, None], t
        cos, sin = np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)
        return x, np.c_[cos * y[:, 0] - sin * y[:, 1], sin * y[:, 0] + cos * y[:, 1]], t


def _rotation(size: int, random: np.random.Generator) -> Array:
    """Return a random orthogonal matrix."""
    return np.linalg.qr(random.normal(size=(size, size)))[0]


def _t_gap(d: int, nu: float = 2.0) -> float:
    """Entropy of a multivariate t less half the log-determinant (Arellano-Valle et al., Scand. J. Stat. 2013)."""
    return float(
        gammaln(nu / 2)
        - gammaln((nu + d) / 2)
        + d / 2 * np.log(nu * np.pi)
        + (nu + d) / 2 * (digamma((nu + d) / 2) - digamma(nu / 2))
    )


CASES = [
    *(Case("Gaussian", "-", d, i) for d, i in [(1, 0.0), (1, 2.0), (5, 2.0), (5, 5.0), (10, 3.5)]),
    *(Case("Gaussian", "-", 20, i) for i in (0.0, 5.0)),
    Case("cube", "-", 1, 5.0),
    Case("half-cube", "-", 5, 5.0),
    Case("asinh", "-", 10, 3.5),
    *(Case("mixed", "-", d, i) for d, i in [(2, 1.0), (5, 5.0)]),
    *(Student("student", "-", d, i) for d, i in [(1, 0.0), (5, 1.0)]),
    *(Case("Gaussian", "4", d, i) for d, i in [(10, 0.0), (2, 0.5), (5, 2.0), (10, 3.5), (20, 5.0)]),
    Case("cube", "4", 5, 0.0),
    Case("cube", "4", 5, 2.0),
    Case("Gaussian", "4 signs", 5, 2.0),
    *(Case("Gaussian", "line", d, i) for d, i in [(1, 0.0), (5, 2.0)]),
]
SEEN = [
    Seen("digits", "-", 64, float(np.log(10))),
    Seen("digits", "parity", 64, float(np.log(5))),
    Seen("digits", "class", 64, 0.0),
    Seen("hidden", "-", 2, 1.66),
    Seen("swiss roll", "-", 1, 0.83),
    Seen("spiral", "-", 1, 1.53),
    Seen("turned", "4", 2, 2.04),
    Seen("flipped", "4", 2, 1.06),
]
QUICK = [CASES[1], CASES[3], Case("Gaussian", "4", 2, 0.5)]


def measure(case: Case, method: str, samples: int, seeds: int, folds: int) -> dict[str, object]:
    """Mean over seeds (fresh samples each), the standard error of that mean, and its bias."""
    values, errors, seconds, doubts = [], [], [], set()
    for seed in range(seeds):
        x, y, t = case.draw(samples, np.random.default_rng(seed))
        start = time.process_time()
        result = estimate(x, y, t, method, seed=seed, folds=folds)
        seconds.append(time.process_time() - start)
        values.append(result.value)
        errors.append(result.stderr)
        doubts.update(result.warnings)
    value = float(np.mean(values))
    return {
        "shape": case.shape,
        "context": case.context,
        "dimension": case.dimension,
        "truth": case.truth,
        "method": method,
        "value": value,
        "stderr": float(np.sqrt(np.mean(np.square(errors)) / seeds)),
        "spread": float(np.std(values, ddof=1)) if seeds > 1 else None,
        "bias": value - case.truth,
        "seconds": float(np.mean(seconds)),
        "warnings": sorted(doubts),
    }


def table(rows: list[dict[str, object]]) -> str:
    """A row a case, a column a method; ``*`` where the estimate warns."""
    lines = [f"| shape | T | D | true | {' | '.join(METHODS)} |", "|---|---|---|---|" + "---|" * len(METHODS)]
    for i in range(0, len(rows), len(METHODS)):
        of_case = rows[i : i + len(METHODS)]
        cells = [f"{r['value']:.2f} ± {r['stderr']:.2f}{'*' if r['warnings'] else ''}" for r in of_case]
        head = of_case[0]
        lines.append(
            f"| {head['shape']} | {head['context']} | {head['dimension']} | {head['truth']:.2f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict[str, object]]) -> str:
    """Bias of each method by kind of case, and its time."""

    def column(chosen: list[dict[str, object]], method: str) -> str:
        biases = [float(str(r["bias"])) for r in chosen if r["method"] == method]
        return f"{np.mean(biases):+.2f} (worst {max(biases, key=abs):+.2f})" if biases else "-"

    high = [r for r in rows if float(str(r["truth"])) >= HIGH]
    sets = {
        f"Gaussian and its maps by element, {HIGH:g} nats and more": [
            r for r in high if r["shape"] not in ("mixed", "student")
        ],
        "mixed and student": [r for r in rows if r["shape"] in ("mixed", "student")],
        f"less than {HIGH:g} nats, others": [
            r for r in rows if r not in high and r["truth"] and r["shape"] not in ("mixed", "student")
        ],
        "independent": [r for r in rows if not r["truth"] and r["context"] == "-"],
        "independent given T, dependent without": [r for r in rows if not r["truth"] and r["context"] != "-"],
    }
    lines = [f"| mean bias, nats | {' | '.join(METHODS)} |", "|---|" + "---|" * len(METHODS)]
    lines += [f"| {name} | {' | '.join(column(s, m) for m in METHODS)} |" for name, s in sets.items()]
    mean_seconds = [np.mean([float(str(r["seconds"])) for r in rows if r["method"] == m]) for m in METHODS]
    lines.append(f"| CPU seconds an estimate | {' | '.join(f'{s:.1f}' for s in mean_seconds)} |")
    return "\n".join(lines)


def report(rows: list[dict[str, object]], seen: list[dict[str, object]], settings: str) -> str:
    """The page: how it was made, the biases, all estimates; of the tables that were made."""
    page = (
        "# Estimators of information where the truth is known\n\n"
        "Written by `OMP_NUM_THREADS=1 python benchmarks/estimators.py --markdown docs/results/estimators.md`; "
        f"{settings}. Nats. The reading of it is in `estimators-reading.md`.\n\n"
        "`*`: an estimate warned that it cannot be trusted. Shapes and contexts: docstring of the benchmark. D: "
        "dimension of x and of y, or of what is behind them. Values: means over seeds ± the standard error of that "
        "mean, from the estimates' own standard errors.\n"
    )
    if seen:
        page += f"\n## Curved, hidden, and pictures\n\n{table(seen)}\n\n{_times(seen)}\n"
    if rows:
        page += (
            f"\n## Closed forms: bias\n\nMean of estimate less truth over cases, and the worst.\n\n{summary(rows)}\n"
        )
        page += f"\n## Closed forms: estimates\n\n{table(rows)}\n"
    return page


def _times(rows: list[dict[str, object]]) -> str:
    seconds = {m: [float(str(r["seconds"])) for r in rows if r["method"] == m] for m in METHODS}
    return "CPU seconds an estimate: " + ", ".join(f"{m} {np.mean(s):.1f}" for m, s in seconds.items()) + "."


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="keep the rows here as JSON; those that are there are not made again")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument(
        "--machine", default="2-core AMD EPYC virtual machine, CPU, torch 2.13", help="named in the page"
    )
    parser.add_argument("--date", default=time.strftime("%Y-%m"), help="named in the page")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seen", type=int, default=3000, help="samples of the second table")
    parser.add_argument("--folds", type=int, default=1, help="fifths of the samples to evaluate on")
    parser.add_argument("--cases", default="seen,closed", help="tables to make: seen, closed, or both")
    parser.add_argument("--quick", action="store_true", help="three cases, one seed, 1,000 samples")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.samples = 1, 1000
    settings = (
        f"{options.samples:,} samples ({options.seen:,} in the table of pictures), critics evaluated on "
        f"{options.folds} fifth(s) of them, seeds 0 to {options.seeds - 1}; {options.machine}, {options.date}"
    )
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    rows: dict[str, list[dict[str, object]]] = kept if kept.get("settings") == settings else {"settings": settings}
    groups = [
        ("seen", [] if options.quick else SEEN, options.seen),
        ("closed", QUICK if options.quick else CASES, options.samples),
    ]
    for name, cases, samples in [group for group in groups if options.quick or group[0] in options.cases]:
        done = rows.setdefault(name, [])
        for case in cases[len(done) // len(METHODS) :]:
            done += [measure(case, method, samples, options.seeds, options.folds) for method in METHODS]
            print(table(done[-len(METHODS) :]).splitlines()[-1], flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not options.quick:
        page = report(rows.get("closed", []), rows.get("seen", []), settings)
        print(page)
        if options.markdown:
            options.markdown.write_text(page)


if __name__ == "__main__":
    main()
