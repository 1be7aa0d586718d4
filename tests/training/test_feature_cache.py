"""Features of frozen encoders: computed once, shared by the runs that need the same, and without effect on a result."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from modalign.data.batch import Batch, Modality
from modalign.data.dataset import MultimodalData, Split
from modalign.data.tables.arrays import ArraySplit, from_arrays
from modalign.errors import InputError
from modalign.experiments.evaluate import evaluate_run
from modalign.experiments.predict import predict
from modalign.models.backbones import Backbone, build_backbone
from modalign.models.multimodal import MultimodalModel
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.training import feature_cache
from modalign.training.build import load_with_data
from modalign.training.feature_cache import FeatureFile
from modalign.training.progress import Display
from modalign.training.run import RunFolder
from modalign.training.train import train

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
}
TRAIN, VALID, TEST = 41, 20, 17  # 78 samples
PRESENT = np.arange(TRAIN + VALID + TEST) // 3 % 3 > 0  # the pictures that are there
PICTURES = dict(
    zip(("train", "valid", "test"), (p.sum() for p in np.split(PRESENT, [TRAIN, TRAIN + VALID])), strict=True)
)


def arrays(shift: float = 0.0) -> dict[str, Any]:
    """Pictures, of which a third is missing, and token ids that tell three classes."""
    rng = np.random.default_rng(0)
    total = TRAIN + VALID + TEST
    y = np.arange(total) % 3
    return {
        "image": (rng.normal(size=(total, 3, 12, 12)) + y[:, None, None, None] + shift).astype(np.float32),
        "present_image": PRESENT,
        "text": np.stack([rng.integers(1, 9, total), 9 + y, np.zeros(total, int)], 1),
        "y": y,
        "split": np.repeat(["train", "valid", "test"], [TRAIN, VALID, TEST]),
        "id": np.array([f"s{i}" for i in range(total)]),
    }


def make(shift: float = 0.0, **options: Any) -> MultimodalData:
    kinds = {"image": "image", "text": "text"}
    return from_arrays(arrays(shift), ["image", "text"], "y", split="split", kinds=kinds, name="made", **options)


def recipe(image: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """Two epochs with both encoders frozen, of random weights unless said otherwise."""
    encoders = {
        "image": {"name": "resnet18", "config": RESNET, "frozen": True, "project": 6} if image is None else image,
        "text": {"name": "bert_base", "config": BERT, "frozen": True} if text is None else text,
    }
    settings = {"epochs": 2, "batch_size": 8, "lr": 0.1, "accelerator": "cpu"} | training
    return Recipe(model=ModelSettings(width=8, encoders=encoders), training=TrainingSettings(**settings))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = RunFolder(folder).load("last")["strategy"]
    return found


def assert_same_run(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5, msg=key)
    for name in ("valid", "test"):
        with (
            np.load(first / f"predictions_{name}.npz") as one,
            np.load(second / f"predictions_{name}.npz") as other,
        ):
            np.testing.assert_allclose(one["scores"], other["scores"], rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MODALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Rows that went through the network of each modality since the last ``clear``."""
    found: dict[str, int] = {}
    compute = Backbone.features

    def counting(self: Backbone, x: torch.Tensor) -> torch.Tensor:
        found[self.modality.name] = found.get(self.modality.name, 0) + len(x)
        return compute(self, x)

    monkeypatch.setattr(Backbone, "features", counting)
    return found


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[[int], dict[str, Any]]:
    """``pretrained(seed)``: settings of a frozen ResNet whose weights are in the folder ``weights``."""

    def save(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        network = build_backbone(Modality("image", "image", (3, 12, 12)), "resnet18", config=RESNET).net
        network.save_pretrained(tmp_path / "weights")  # type: ignore[operator]
        return {"name": "resnet18", "pretrained": str(tmp_path / "weights"), "frozen": True}

    return save


@pytest.mark.parametrize("strategy", ["joint", "modalign", "diagnose_relearn"])
def test_a_cached_run_is_the_run_without_cache(strategy: str, tmp_path: Path, rows: dict[str, int]) -> None:
    results = [
        train(recipe(epochs=4, cache_features=cached), strategy, out=tmp_path / str(cached), data=make(), quiet=True)
        for cached in (True, False)
    ]
    assert_same_run(tmp_path / "True", tmp_path / "False")
    assert results[0]["parameters"] == results[1]["parameters"]
    assert results[0]["fingerprint"] == results[1]["fingerprint"]
    described = [(tmp_path / str(cached) / "data.json").read_text() for cached in (True, False)]
    assert described[0] == described[1]


def test_the_network_sees_every_sample_once(tmp_path: Path, rows: dict[str, int], folder: Path) -> None:
    train(recipe(epochs=3), "joint", out=tmp_path / "run", data=make(), quiet=True)
    assert rows == {"image": PRESENT.sum(), "text": TRAIN + VALID + TEST}
    assert len(list(folder.glob("*.npy"))) == 6
    assert not list(folder.glob("*.partial"))


def test_features_of_absent_rows_are_zeros(tmp_path: Path, folder: Path) -> None:
    train(recipe(), "joint", out=tmp_path / "run", data=make(), quiet=True)
    tables = [np.load(path) for path in folder.glob("*.npy")]
    found = {len(t): (~t.any(1)).sum() for t in tables if t.shape[1] == RESNET["hidden_sizes"][-1]}
    sizes = {TRAIN: "train", VALID: "valid", TEST: "test"}
    assert found == {size: size - PICTURES[part] for size, part in sizes.items()}
    assert {t.dtype for t in tables} == {np.dtype(np.float32)}


def test_runs_share_what_is_the_same(
    tmp_path: Path, rows: dict[str, int], pretrained: Callable[[int], dict[str, Any]]
) -> None:
    image = pretrained(0)
    learned = {"name": "text"}

    def run(name: str, strategy: str, data: MultimodalData, seed: int = 0, **training: Any) -> dict[str, int]:
        rows.clear()
        out = tmp_path / name
        train(recipe(image, learned, **training), strategy, seed=seed, out=out, data=data, quiet=True)
        return dict(rows)

    every = {"image": PRESENT.sum()}
    assert run("first", "joint", make()) == every
    assert run("strategy", "modalign", make()) == {}
    assert run("seed", "joint", make(), seed=7) == {}
    assert run("precision", "joint", make(), precision="bf16", batch_size=16, lr=0.01) == {}
    assert run("data", "joint", make(shift=0.5)) == every
    pretrained(1)
    assert run("other weights", "joint", make()) == every
    moved = tmp_path / "moved"
    (tmp_path / "weights").rename(moved)
    image["pretrained"] = str(moved)
    assert run("folder", "joint", make()) == {}


def test_random_weights_are_shared_by_the_methods_of_a_seed(tmp_path: Path, rows: dict[str, int]) -> None:
    for name, strategy, seed, computed in (
        ("a", "joint", 0, True),
        ("b", "infonce", 0, False),
        ("c", "joint", 1, True),
    ):
        rows.clear()
        train(recipe(), strategy, seed=seed, out=tmp_path / name, data=make(), quiet=True)
        assert bool(rows) == computed


def test_the_pooler_of_a_network_does_not_matter(tmp_path: Path) -> None:
    """Its output is not read."""
    model = MultimodalModel.build(make().modalities, 3, recipe().model)
    network: Any = model.encoders["text"].net
    first = feature_cache._hash_network(model, "text")
    network.pooler.dense.weight.data += 1
    assert feature_cache._hash_network(model, "text") == first
    network.encoder.layer[0].output.dense.weight.data[0, 0] += 1
    assert feature_cache._hash_network(model, "text") != first


def test_a_changed_fingerprint_and_changed_inputs_are_noticed(tmp_path: Path, rows: dict[str, int]) -> None:
    """The fingerprint of data of one's own may not say that its inputs have changed."""
    text = arrays()["text"]
    for name, fingerprint, ids in (("a", "mine", text), ("b", "mine", text % 9), ("c", "other", text)):
        data = make()
        data.fingerprint = fingerprint
        for split in (data.train, data.valid, data.test):
            assert isinstance(split, ArraySplit)
            split.stored = {**split.stored, "text": ids}
        rows.clear()
        train(recipe(), "joint", out=tmp_path / name, data=data, quiet=True)
        assert rows.get("text") == TRAIN + VALID + TEST
        assert ("image" in rows) == (name != "b")


class CountedRows:
    """Rows that count how many of them are read."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.read = rows, 0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.read += len(rows)
        found: np.ndarray = self.rows[rows]
        return found


def test_raw_inputs_are_not_read_in_training(tmp_path: Path) -> None:
    read = []
    for epochs in (1, 1, 3):  # the first computes
        data = make()
        assert isinstance(data.train, ArraySplit)
        counted = CountedRows(data.train.stored["image"])
        for split in (data.train, data.valid, data.test):
            split.stored = {**data.train.stored, "image": counted}  # type: ignore[attr-defined]
        train(recipe(epochs=epochs), "joint", out=tmp_path / str(len(read)), data=data, quiet=True)
        read.append(counted.read)
    assert read[1] == read[2]
    assert read[0] >= read[1] + TRAIN + VALID + TEST


def test_the_test_split_is_left_alone_while_searching(tmp_path: Path, folder: Path) -> None:
    train(recipe(), "joint", out=tmp_path / "run", data=make(), test=False, quiet=True)
    assert len(list(folder.glob("*.npy"))) == 4


def test_augmented_pictures_run_through_the_network_in_training(tmp_path: Path, rows: dict[str, int]) -> None:
    train(recipe(epochs=3), "joint", out=tmp_path / "run", data=make(augment=["image"]), quiet=True)
    assert rows["image"] == PRESENT.sum() + 2 * PICTURES["train"]
    assert rows["text"] == TRAIN + VALID + TEST
    notes = json.loads((tmp_path / "run" / "environment.json").read_text())["notes"]
    assert [note for note in notes if "frozen image encoder" in note and "augmented" in note]
    assert not [note for note in notes if "frozen text encoder" in note]
    train(
        recipe(epochs=3, cache_features=False),
        "joint",
        out=tmp_path / "plain",
        data=make(augment=["image"]),
        quiet=True,
    )
    assert_same_run(tmp_path / "run", tmp_path / "plain")


class OwnSplit:
    """A split of a user's own class."""

    def __init__(self, split: Split) -> None:
        self.split, self.target, self.columns = split, split.target, split.columns
        self.ids, self.groups = split.ids, split.groups

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, index: list[int]) -> Batch:
        return self.split.__getitems__(index)

    def set_epoch(self, epoch: int | None) -> None:
        self.split.set_epoch(epoch)


class FixedSplit(OwnSplit):
    """One that says that nothing is augmented."""

    augment = ()


@pytest.mark.parametrize(("kind", "times"), [(OwnSplit, 3), (FixedSplit, 1)])
def test_data_of_ones_own_class(kind: type[OwnSplit], times: int, tmp_path: Path, rows: dict[str, int]) -> None:
    data = make()
    own = dataclasses.replace(data, train=kind(data.train), valid=kind(data.valid), test=kind(data.test))
    train(recipe(epochs=3), "joint", out=tmp_path / "own", data=own, quiet=True)
    assert rows == {
        "image": PRESENT.sum() + (times - 1) * PICTURES["train"],
        "text": times * TRAIN + VALID + TEST,
    }
    notes = json.loads((tmp_path / "own" / "environment.json").read_text())["notes"]
    assert len([note for note in notes if "attribute 'augment'" in note]) == (2 if times > 1 else 0)
    train(recipe(epochs=3), "joint", out=tmp_path / "arrays", data=make(), quiet=True)
    assert_same_run(tmp_path / "own", tmp_path / "arrays")


def die_in(block: int, out: Path) -> None:
    """Train, and be killed while the features of a block are computed."""
    compute, blocks = feature_cache._Computation.features, [0]

    def dying(self: Any, batch: Batch) -> torch.Tensor:
        blocks[0] += 1
        if blocks[0] == block:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(self, batch)

    feature_cache._Computation.features = dying  # type: ignore[method-assign]
    train(recipe(), "joint", out=out, data=make(), quiet=True)


def test_a_killed_computation_goes_on(tmp_path: Path, rows: dict[str, int], folder: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=die_in, args=(3, tmp_path / "run"))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    [partial] = folder.glob("*.partial")
    with partial.open("ab") as stream:
        stream.write(b"\0" * 5)  # a row that was being written
    train(recipe(), "joint", out=tmp_path / "run", resume=True, data=make(), quiet=True)
    # Two blocks of twice the batch size, 32 rows of training, were there.
    done = PRESENT[:32].sum()
    assert rows["image"] == PRESENT.sum() - done
    train(recipe(cache_features=False), "joint", out=tmp_path / "plain", data=make(), quiet=True)
    assert_same_run(tmp_path / "run", tmp_path / "plain")


def test_a_damaged_file_is_computed_again(tmp_path: Path, rows: dict[str, int], folder: Path) -> None:
    train(recipe(), "joint", out=tmp_path / "a", data=make(), quiet=True)
    damaged = max(folder.glob("*.npy"), key=lambda path: path.stat().st_size)  # text of the training split
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-7])
    rows.clear()
    train(recipe(), "joint", out=tmp_path / "b", data=make(), quiet=True)
    assert rows == {"text": TRAIN}
    assert damaged.read_bytes() == whole


def test_of_two_processes_one_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_POLL", 0.01)
    begun, waiting, computed = threading.Event(), threading.Event(), []

    def compute(first: int) -> Iterator[np.ndarray]:
        computed.append(first)
        begun.set()
        yield np.ones((3, 2))
        assert waiting.wait(60)  # until the other has found the lock taken
        yield np.ones((1, 2))

    def other() -> None:
        begun.wait()
        FeatureFile(tmp_path, "key", 4, 2).complete(compute, waiting.set)

    thread = threading.Thread(target=other)
    thread.start()
    file = FeatureFile(tmp_path, "key", 4, 2)
    file.complete(compute, lambda: None)
    thread.join()
    assert computed == [0]
    assert np.load(file.path).tolist() == [[1, 1]] * 4


def test_a_resumed_run_keeps_the_weights_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: Callable[[int], dict[str, Any]]
) -> None:
    """The folder of the pretrained weights was overwritten meanwhile."""
    settings = recipe(pretrained(0), {"name": "text"}, epochs=3)
    train(settings, "joint", out=tmp_path / "straight", data=make(), quiet=True)
    log = RunFolder.log

    def stop(self: RunFolder, record: dict[str, Any]) -> None:
        if record["epoch"] == 1:
            raise KeyboardInterrupt
        log(self, record)

    monkeypatch.setattr(RunFolder, "log", stop)
    with pytest.raises(KeyboardInterrupt):
        train(settings, "joint", out=tmp_path / "run", data=make(), quiet=True)
    monkeypatch.setattr(RunFolder, "log", log)
    pretrained(1)
    train(settings, "joint", out=tmp_path / "run", resume=True, data=make(), quiet=True)
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_cached_run_in_use(tmp_path: Path) -> None:
    """Evaluation, prediction and loading rebuild the encoders and feed them raw inputs."""
    np.savez(tmp_path / "data.npz", **arrays())
    source = DataSettings(
        name="made", path=str(tmp_path / "data.npz"), modalities=["image", "text"], split="split",
        kinds={"image": "image", "text": "text"},
    )  # fmt: skip
    settings = dataclasses.replace(recipe(), data=source)
    result = train(settings, "joint_unimodal", out=tmp_path / "run", quiet=True)
    strategy, data, _ = load_with_data(tmp_path / "run")
    with np.load(tmp_path / "run" / "predictions_test.npz") as kept:
        expected = pd.DataFrame(np.exp(kept["scores"]), index=kept["ids"])
    with torch.no_grad():
        found = strategy.log_probability(strategy(data.test.__getitems__(list(range(TEST))))).exp()
    np.testing.assert_allclose(found.numpy(), expected.to_numpy(), atol=1e-5)
    new = {
        name: values[-TEST:] for name, values in arrays().items() if name in ("image", "present_image", "text", "id")
    }
    np.savez(tmp_path / "new.npz", **new)
    table = predict(tmp_path / "run", tmp_path / "new.npz").set_index("id").filter(like="p_")
    np.testing.assert_allclose(table.to_numpy(), expected.loc[table.index].to_numpy(), atol=1e-5)
    evaluated = evaluate_run(tmp_path / "run", information=False).result
    assert evaluated["metrics"]["accuracy"]["mean"] == pytest.approx(result["metrics"]["test"]["accuracy"])


def test_a_run_from_before_the_setting_loads_and_goes_on(tmp_path: Path, rows: dict[str, int]) -> None:
    train(recipe(), "joint", out=tmp_path / "run", data=make(), quiet=True)
    path = tmp_path / "run" / "recipe.yaml"
    plain = yaml.safe_load(path.read_text())
    del plain["recipe"]["training"]["cache_features"]
    path.write_text(yaml.safe_dump(plain))
    assert load_with_data(tmp_path / "run", data=make())[2].recipe.training.cache_features
    (tmp_path / "run" / "done").unlink()
    for cached in (True, False):
        train(recipe(cache_features=cached), "joint", out=tmp_path / "run", resume=True, data=make(), quiet=True)
    with pytest.raises(InputError, match=r"training\.lr"):
        train(recipe(lr=0.2), "joint", out=tmp_path / "run", resume=True, data=make(), quiet=True)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODALIGN_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"MODALIGN_CACHE to a folder.*training\.cache_features: false"):
        train(recipe(), "joint", out=tmp_path / "run", data=make(), quiet=True)
    train(recipe(cache_features=False), "joint", out=tmp_path / "run", resume=True, data=make(), quiet=True)


def test_a_run_without_frozen_encoders_keeps_nothing(tmp_path: Path, folder: Path) -> None:
    train(recipe({"name": "conv"}, {"name": "text"}), "joint", out=tmp_path / "run", data=make(), quiet=True)
    assert not folder.exists()


def test_what_is_shown(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for name in ("a", "b"):
        train(recipe(text={"name": "text"}), "joint", out=tmp_path / name, data=make())
        shown.append(" ".join(capsys.readouterr().out.split()))
    assert f"features of the frozen image encoder: 0 of 78, kept in {folder}" in shown[0]
    assert f"features of the frozen image encoder: 78 of 78, kept in {folder}" in shown[1]


def test_a_bar_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display("Joint", make(), "out", quiet=False)
    display._console = Console(force_terminal=True, width=200)
    done = [12_000]
    with display.features("image", lambda: done[0], 67_972, tmp_path) as show:
        done[0] = 30_000
        show()
    shown = capsys.readouterr().out
    assert "12,000 of 67,972" in re.sub("\x1b[^m]*m", "", shown)
    assert "30000/67972" in shown
