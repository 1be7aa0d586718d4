"""How often 95 % intervals hold the truth, by simulation: `python benchmarks/coverage.py [TRIALS]`."""

from __future__ import annotations

import sys

import numpy as np

from modalign.evaluation.statistics import bootstrap_weights, crossed_interval, mean_interval, split_interval


def one_split(rng: np.random.Generator, seeds: int, units: int, between: float, trial: int) -> tuple[bool, bool]:
    """Seeds and units crossed, with an effect of each and noise of both; the truth is 0."""
    scores = between * rng.normal(size=(seeds, 1)) + rng.normal(size=(1, units)) + rng.normal(size=(seeds, units))
    weights = bootstrap_weights(units, repeats=400, seed=trial) / units
    crossed, student = crossed_interval(scores.mean(1), scores @ weights.T, units), mean_interval(scores.mean(1))
    return crossed.low <= 0 <= crossed.high, student.low <= 0 <= student.high


def resampled(rng: np.random.Generator, folds: int, splits: int, truth: float) -> tuple[bool, bool]:
    """Nearest mean of two classes in ten dimensions, learned from 75 of 100 samples and tested on the others."""
    y = np.arange(100) % 2
    x = rng.normal(size=(100, 10)) + 0.3 * (2 * y - 1)[:, None]
    values = []
    for repetition in range(-(-splits // folds)):
        order = np.random.default_rng(repetition).permutation(100)
        for held in np.array_split(order, folds):
            train = np.setdiff1d(order, held)
            way = x[train][y[train] == 1].mean(0) - x[train][y[train] == 0].mean(0)
            middle = x[train].mean(0) @ way
            values.append(float(((x[held] @ way > middle) == (y[held] == 1)).mean()))
    corrected, student = split_interval(values[:splits], 1 / (folds - 1)), mean_interval(values[:splits])
    return corrected.low <= truth <= corrected.high, student.low <= truth <= student.high


def expected(rng: np.random.Generator) -> float:
    """Accuracy of the same learner over many data sets, each tested on many samples."""
    found = []
    for _ in range(2000):
        y = np.arange(75) % 2
        x = rng.normal(size=(75, 10)) + 0.3 * (2 * y - 1)[:, None]
        way, middle = x[y == 1].mean(0) - x[y == 0].mean(0), x.mean(0)
        test_y = np.arange(1000) % 2
        test = rng.normal(size=(1000, 10)) + 0.3 * (2 * test_y - 1)[:, None]
        found.append(float(((test @ way > middle @ way) == (test_y == 1)).mean()))
    return float(np.mean(found))


def main() -> None:
    """Print one row a case."""
    trials, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, np.random.default_rng(0)
    print("| Case | This interval (%) | Student's over runs (%) |\n|---|---:|---:|")
    for seeds, units, between in ((2, 200, 0.02), (5, 200, 0.02), (2, 200, 0.2), (5, 200, 0.2), (5, 30, 0.2)):
        hits = np.mean([one_split(rng, seeds, units, between, t) for t in range(trials)], axis=0) * 100
        print(f"| one split, {seeds} seeds, {units} units, effect of seeds {between} | {hits[0]:.1f} | {hits[1]:.1f} |")
    truth = expected(rng)
    for splits in (3, 4, 8):
        hits = np.mean([resampled(rng, 4, splits, truth) for _ in range(trials)], axis=0) * 100
        print(f"| {splits} splits of 4 folds | {hits[0]:.1f} | {hits[1]:.1f} |")


if __name__ == "__main__":
    main()
