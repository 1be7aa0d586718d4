"""Published lists and prediction files, as their authors gave them out, read where a copy of them is at hand.

``MODALIGN_DATA/published`` holds them in folders named as here; none comes with the package.
"""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modalign.data.datasets import ave, cremad, food101
from modalign.data.datasets.gbmlgg import FOLDS, GRADES, DataUnpickler
from modalign.data.task import classification
from modalign.evaluation.metrics import class_f1, compute_metrics


@pytest.fixture
def published(shared: Path):
    """Return the folder of a publication, or skip."""

    def find(name: str) -> Path:
        folder = shared / "published" / name
        if not folder.is_dir():
            pytest.skip(f"no copy of the published {name} at {folder}")
        return folder

    return find


@pytest.mark.shared
def test_the_lists_of_ave(published):
    root = published("AVE_Dataset")
    lists = {split: ave.read_list(root / name) for split, name in ave.LISTS.items()}
    assert {split: len(events) for split, events in lists.items()} == ave.OFFICIAL
    every = [event for events in lists.values() for event in events]
    assert len({event.category for event in every}) == 28
    assert len({event.video for event in every}) == 4097
    labels = Counter(video for video, _ in {(event.video, event.category) for event in every})
    assert sum(count > 1 for count in labels.values()) == 45
    videos = {split: [event.video for event in events] for split, events in lists.items()}
    assert len(videos["train"]) - len({*videos["train"]}) == 27
    assert len({*videos["train"]} & {*videos["test"]}) == 8
    assert len({*videos["train"]} & {*videos["valid"]}) == 10
    assert [event.video for event in every if event.start >= event.stop] == ["VWi2ENBuTbw"]


@pytest.mark.shared
def test_the_lists_of_crema_d(published):
    root = published("CREMA-D")
    lists = {split: cremad.read_list(root / f"{split}.csv") for split in cremad.OFFICIAL}
    assert {split: len(rows) for split, rows in lists.items()} == cremad.OFFICIAL
    actors = [{key[:4] for key, _ in rows} for rows in lists.values()]
    assert [len(own) for own in actors] == [91, 91]
    assert all({label for _, label in rows} == {*cremad.CLASSES} for rows in lists.values())


@pytest.mark.shared
def test_the_lists_of_food101(published):
    root = published("upmcfood101")
    for split, official in food101.OFFICIAL.items():
        samples, lost = food101.read_list(root, split)
        assert len(samples) + len(lost) == official
        assert len({sample.label for sample in samples}) == 101
        assert len({sample.id for sample in samples}) == len(samples)


def folds_of(folder: Path, model: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return log-probabilities (N, 3) and grades (N,) of the test part of each published fold."""
    found = []
    for k in range(1, FOLDS + 1):
        (path,) = (folder / model).glob(f"{model}_{k}_*pred_test.pkl")
        with path.open("rb") as file:
            *_, scores, grade = DataUnpickler(file, path).load()
        found.append((np.asarray(scores), np.asarray(grade).astype(int)))
    return found


def averaged(scores: np.ndarray, grade: np.ndarray, size: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean probability of every ``size`` patches in a row, which are those of a region."""
    assert (grade.reshape(-1, size) == grade[::size, None]).all(), "patches of a region stand together"
    return np.log(np.exp(scores).reshape(-1, size, scores.shape[1]).mean(1)), grade[::size]


def means(folds: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return micro-averaged AUC, accuracy and F1 of grade IV, each the mean over folds."""
    task, rows = classification(GRADES), []
    for scores, grade in folds:
        found = compute_metrics(task, scores, grade, ["auc_micro", "accuracy"])
        rows.append([found["auc_micro"], found["accuracy"], class_f1(scores, grade)[2]])
    return np.mean(rows, 0).tolist()


@pytest.mark.shared
def test_the_predictions_of_pathomic_fusion(published):
    folder = published("PathomicFusion") / "checkpoints" / "TCGA_GBMLGG" / "grad_15"
    both, genes = (folds_of(folder, model) for model in ("pathomic_fusion", "omic"))
    # Evaluation.ipynb of the same repository prints these, to four digits.
    assert means(both) == pytest.approx([0.9251, 0.7539, 0.9211], abs=5e-4)
    assert means(genes) == pytest.approx([0.8717, 0.6703, 0.8823], abs=5e-4)
    assert means([averaged(*fold) for fold in both])[:2] == pytest.approx([0.934, 0.775], abs=5e-3)


def test_prediction_files_of_that_form_are_read(tmp_path):
    """Made files in the published form: risk, time, censored, log-probabilities, grade; nine patches a region."""
    rng, none = np.random.default_rng(0), np.array([])
    (tmp_path / "model").mkdir()
    for k in range(1, FOLDS + 1):
        grade = np.repeat(np.arange(6) % 3, 9)
        right = np.eye(3)[grade] * 2 + rng.normal(size=(54, 3))
        content = [none, none, none, right - np.log(np.exp(right).sum(1, keepdims=True)), grade.astype(float)]
        (tmp_path / "model" / f"model_{k}_patch_pred_test.pkl").write_bytes(pickle.dumps(content, protocol=3))
    folds = folds_of(tmp_path, "model")
    scores, grade = folds[0]
    assert means(folds)[1] == pytest.approx(np.mean([(s.argmax(1) == g).mean() for s, g in folds]))
    regions, grades = averaged(scores, grade)
    np.testing.assert_allclose(np.exp(regions[1]), np.exp(scores[9:18]).mean(0))
    assert grades.tolist() == [0, 1, 2, 0, 1, 2]
    assert all(region > patch for patch, region in zip(means(folds), means([averaged(*f) for f in folds]), strict=True))
