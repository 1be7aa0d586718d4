"""The Python door: names or objects in, runs out; what is one's own is kept in the run and asked for before it runs."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import modalign
from modalign.errors import InputError, RunError, RunFolderError, SettingsError
from modalign.reporting import style

RNG = np.random.default_rng(0)
Y = np.arange(120) % 3
ARRAYS = {
    "image": (RNG.normal(size=(120, 1, 6, 6)) + Y[:, None, None, None]).astype("float32"),
    "table": (RNG.normal(size=(120, 4)) + Y[:, None]).astype("float32"),
    "y": Y,
}


class Net(nn.Module):
    """An encoder of one's own; it does not say how wide it is."""

    def __init__(self, features: int = 7) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(features), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Mean(nn.Module):
    """A fusion of one's own."""

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([z.mean(1) for z in features.values()], 1)


class Mine(modalign.Strategy):
    """A method of one's own."""

    title = "Mine"

    def step(self, batch, stepper):
        loss = self.task.loss(self.model(batch).logits, batch.target)
        stepper.backward(loss)
        return {"task": loss}


def train(source=ARRAYS, strategy="joint", **given):
    return modalign.train(source, strategy, **{"epochs": 2, "batch_size": 20, "quiet": True, "width": 8} | given)


def test_objects_of_ones_own_train_predict_and_evaluate(tmp_path):
    run = train(strategy=Mine, encoders={"image": Net()}, fusion=Mean(), out=tmp_path / "run")
    assert run.model.dims == {"image": 7, "table": 8}
    assert run.model.fusion.width == 2
    assert run.name.endswith("Mine")
    assert set(run.metrics) == {"valid", "test", "test_last"}
    assert run.history["epoch"].tolist() == [0, 1]
    predicted = run.predict({"image": ARRAYS["image"][:5], "table": ARRAYS["table"][:5]})
    assert len(predicted) == 5
    whole = run.predict({m: ARRAYS[m] for m in ("image", "table")})
    test = run.data.test
    batch = test.__getitems__(list(range(len(test))))
    with torch.no_grad():
        expected = run.strategy.predict(run.strategy(batch)).argmax(1)
    assert whole["predicted"].astype(int).to_numpy()[test.rows].tolist() == expected.tolist()
    assert run.evaluate(information=False)["samples"] == len(test)
    assert "Mine" in run._repr_html_()
    assert "accuracy" in repr(run)
    assert run.plot().axes


def test_an_instance_of_a_strategy_brings_its_own_network(tmp_path):
    data = modalign.load_data(ARRAYS)
    model = modalign.MultimodalModel.build(data.modalities, 3, encoders={"image": Net(3)})
    strategy = Mine(model, modalign.DataInfo.of(data))
    before = {k: v.clone() for k, v in strategy.state_dict().items()}
    run = train(data, strategy, out=tmp_path / "run")
    assert run.model.dims["image"] == 3
    assert all(torch.equal(before[k], v) for k, v in strategy.state_dict().items()), "what was handed in is copied"
    other = modalign.load_data({k: v for k, v in ARRAYS.items() if k != "image"})
    with pytest.raises(SettingsError, match=r"built for modalities image, table.*Hand in the class instead"):
        train(other, strategy, out=tmp_path / "other")


def test_every_form_of_data_gives_the_same_run(tmp_path):
    split = np.where(np.arange(120) < 70, "train", np.where(np.arange(120) < 90, "valid", "test"))
    frame = pd.DataFrame({f"table_{i}": ARRAYS["table"][:, i] for i in range(4)} | {"y": Y, "split": split})

    class Samples(torch.utils.data.Dataset):
        def __init__(self, part: str) -> None:
            self.rows = np.flatnonzero(split == part)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> dict[str, object]:
            return {"table": ARRAYS["table"][self.rows[i]], "y": int(Y[self.rows[i]])}

    parts = {part: Samples(part) for part in ("train", "valid", "test")}
    forms = {
        "arrays": train({"table": ARRAYS["table"], "y": Y, "split": split}, split="split", out=tmp_path / "arrays"),
        "frame": train(frame, modalities=["table"], split="split", out=tmp_path / "frame"),
        "dataset": train(parts, out=tmp_path / "dataset"),
        "loader": train(
            {part: torch.utils.data.DataLoader(one, batch_size=16) for part, one in parts.items()}, out=tmp_path / "ld"
        ),
    }
    metrics = [run.metrics["test"]["nll"] for run in forms.values()]
    assert metrics == pytest.approx([metrics[0]] * 4, abs=1e-5)


@pytest.mark.slow
def test_a_run_with_own_code_asks_before_it_runs_it(tmp_path):
    code = """
        import pathlib, sys
        import numpy as np
        import modalign
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
            def forward(self, x):
                return self.layers(x)

        class Mine(modalign.Strategy):
            title = "Mine"
            def step(self, batch, stepper):
                loss = self.task.loss(self.model(batch).logits, batch.target)
                stepper.backward(loss)
                return {"task": loss}

        if __name__ == "__main__":
            y = np.arange(60) % 2
            data = {"table": np.random.default_rng(0).normal(size=(60, 4)) + y[:, None], "y": y}
            modalign.train(data, Mine, encoders={"table": Net()}, epochs=1, quiet=True, out=sys.argv[1])
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    subprocess.run([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run")], check=True, cwd=tmp_path)
    assert "class Mine" in (tmp_path / "run" / "code" / "script.py").read_text(), "the run keeps a copy of the source"
    (tmp_path / "script.py").unlink()
    new = {"table": np.zeros((3, 4))}
    with pytest.raises(RunFolderError, match=r"code that is not of this package.*Mine.*trust_code=True"):
        modalign.predict(tmp_path / "run", new)
    assert len(modalign.predict(tmp_path / "run", new, trust_code=True)) == 3
    own = {"encoders": {"table": nn.Sequential(nn.Flatten(), nn.Linear(4, 5))}}
    with pytest.raises(RunFolderError, match="does not fit"):
        modalign.load_run(tmp_path / "run", strategy=Mine, **own).predict(new)
    packed = tmp_path / "run" / "code" / "objects.pkl"
    packed.write_bytes(packed.read_bytes() + b"x")
    with pytest.raises(RunFolderError, match="hash differs"):
        modalign.predict(tmp_path / "run", new, trust_code=True)


@pytest.mark.slow
def test_a_method_in_a_file_trains_on_two_processes_and_is_kept(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from modalign import Strategy\n"
        "class Mine(Strategy):\n"
        "    title = 'Mine'\n"
        "    def step(self, batch, stepper):\n"
        "        loss = self.task.loss(self.model(batch).logits, batch.target)\n"
        "        stepper.backward(loss)\n"
        "        return {'task': loss}\n"
    )
    runs = [
        train(strategy=str(tmp_path / "mine.py"), devices=n, accelerator="cpu", out=tmp_path / f"run{n}")
        for n in (1, 2)
    ]
    (tmp_path / "mine.py").unlink()
    one, two = (modalign.load_run(run.folder, trust_code=True).strategy.state_dict() for run in runs)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)


def test_a_recipe_names_classes_of_ones_own_file(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "import numpy as np\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, modality, width=4):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(modality.shape[0], width)\n"
        "    def forward(self, x):\n        return self.layer(x)\n"
        "def load(rows=60):\n"
        "    y = np.arange(rows) % 2\n"
        "    x = np.random.default_rng(0).normal(size=(rows, 3)) + y[:, None]\n"
        "    return {'a': x, 'b': x[:, :2], 'y': y}\n"
    )
    (tmp_path / "own.yaml").write_text(
        "data: {name: made, class_path: own_parts.py:load, init_args: {rows: 80}}\n"
        "model: {width: 8, encoders: {a: {class_path: own_parts.py:Net, init_args: {width: 6}}}}\n"
        "training: {epochs: 1}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"names code of its own.*own_parts\.py:Net.*--allow-code"):
        modalign.train("own.yaml", "joint", out="run", quiet=True)
    run = modalign.train("own.yaml", "joint", out="run", quiet=True, trust_code=True)
    assert run.model.dims == {"a": 6, "b": 8}
    assert len(run.data.train) == 48
    again = modalign.load_run("run", trust_code=True)
    assert torch.equal(again.model.head.weight, run.model.head.weight)


@pytest.mark.slow
def test_a_bench_takes_classes_and_data_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "KINDS", ("svg",))  # for speed
    found = modalign.bench(
        ARRAYS,
        ["joint", Mine],
        encoders={"image": Net()},
        seeds=2,
        epochs=1,
        quiet=True,
        jobs=2,
        out=tmp_path / "bench",
    )
    assert sorted(found.table["title"]) == ["Joint-Train", "Mine"]
    assert len(found.runs) == 4
    assert found.report().exists()
    assert {"table.csv", "comparison.svg"} <= {path.name for path in found.write()}
    assert "Mine" in found._repr_html_()


def test_a_stepper_tries_a_method_in_five_lines():
    data = modalign.load_data(ARRAYS)
    strategy = Mine(modalign.MultimodalModel.build(data.modalities, 3), modalign.DataInfo.of(data))
    stepper = modalign.Stepper(strategy, data.train, data.valid, epochs=3, batch_size=20)
    losses = [terms["task"] for terms in stepper.fit()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert stepper.step(data.train.__getitems__(list(range(8))))["task"] > 0


def test_data_that_breaks_in_a_later_batch_leaves_a_run_to_resume(tmp_path):
    class Samples(torch.utils.data.Dataset):
        targets = Y
        left = 10**9  # times that sample 71 can be read before its key changes

        def __len__(self) -> int:
            return 120

        def __getitem__(self, i: int) -> dict[str, object]:
            self.left -= i == 71
            name = "tabel" if self.left < 0 else "table"
            return {name: ARRAYS["table"][i], "y": int(Y[i])}

    samples = Samples()
    parts = {"train": samples, "valid": Samples(), "test": Samples()}
    where = {"batch_size": 4, "epochs": 3}
    whole = train(modalign.load_data(parts, name="made"), **where, out=tmp_path / "whole")
    data = modalign.load_data(parts, name="made")
    samples.left = 2  # what is learned of the data before training (moments, scale) still reads it
    with pytest.raises(RunError, match=r"could not be read in epoch 1, after \d+ steps.*'tabel'.*go on with resume"):
        train(data, **where, out=tmp_path / "run")
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert 0 < kept["step"] < 30
    samples.left = 10**9
    resumed = train(modalign.load_data(parts, name="made"), **where, out=tmp_path / "run", resume=True)
    assert resumed.metrics == whole.metrics, "what was trained before the broken batch was kept"


WRONG = {
    "a strategy that is none": ({"strategy": nn.Linear}, r"strategy .*Linear.*subclass of modalign\.Strategy"),
    "an encoder that is no module": ({"encoders": {"image": 3}}, r"'image'.*3 is a int; expected a torch\.nn\.Module"),
    "an encoder of no such modality": ({"encoders": {"imagee": Net()}}, r"'imagee'; did you mean 'image'"),
    "an encoder that gives no tensor": (
        {"encoders": {"image": type("Pair", (nn.Module,), {"forward": lambda self, x: (x, x)})()}},
        r"'image': Pair gives a tuple; expected features \(2, D\)",
    ),
    "an encoder that gives another shape": (
        {"encoders": {"image": nn.Identity()}}, r"gives a tensor of shape \(2, 1, 6, 6\)",
    ),
    "an encoder that fails": (
        {"encoders": {"image": nn.Linear(3, 3)}}, r"Linear fails on an input of shape \(2, 1, 6, 6\)",
    ),
    "a fusion that fails": ({"fusion": nn.Linear(3, 3)}, r"fusion Linear fails on features"),
    "a setting that is none": ({"epoch": 3}, r"unknown setting 'epoch'; did you mean 'epochs'"),
    "a value of a wrong type": ({"epochs": "many"}, r"epochs"),
    "a class path of nothing": ({"strategy": "nowhere.to.Find"}, r"'nowhere\.to\.Find' cannot be imported"),
    "data of a wrong kind": ({"source": 3}, r"data is 3; expected a dict of arrays"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_objects_of_a_wrong_kind_are_refused_before_anything_is_written(case, tmp_path):
    given, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        train(**{"out": tmp_path / "run"} | given)
    assert not (tmp_path / "run").exists()


def test_data_that_changed_is_not_gone_on_with(tmp_path):
    train(out=tmp_path / "run")
    other = {**ARRAYS, "table": ARRAYS["table"] + 1}
    with pytest.raises(RunFolderError, match="trained on data in memory; give the same data again"):
        modalign.evaluate(tmp_path / "run", information=False)
    with pytest.raises(RunFolderError, match="has changed since"):
        modalign.load_run(tmp_path / "run", data=other).evaluate(information=False)
    with pytest.raises(RunFolderError, match="has changed since"):
        train(other, out=tmp_path / "run", resume=True)


def test_the_network_is_built_once_a_run(tmp_path, monkeypatch):
    build, count = modalign.MultimodalModel.build.__func__, []
    monkeypatch.setattr(
        modalign.MultimodalModel, "build", classmethod(lambda cls, *given: count.append(1) or build(cls, *given))
    )
    train(strategy="modalign", out=tmp_path / "run")
    assert len(count) == 1


def test_pretrained_networks_are_rebuilt_without_their_weights(tmp_path, monkeypatch):
    import transformers

    config = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "num_channels": 1}
    net = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("resnet", **config))
    net.save_pretrained(tmp_path / "net")
    encoder = {"name": "resnet18", "pretrained": str(tmp_path / "net")}
    run = train(encoders={"image": encoder}, out=tmp_path / "run")
    before = run.strategy.state_dict()
    (tmp_path / "net" / "config.json").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", refuse)
    again = modalign.load_run(tmp_path / "run").strategy.state_dict()
    assert before.keys() == again.keys()
    assert all(torch.equal(before[k], again[k]) for k in before)


def test_a_folder_of_version_0_1_is_refused_with_what_to_do(tmp_path):
    import json

    train(out=tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text(json.dumps({"name": "old", "modalities": {}}))
    with pytest.raises(RunFolderError, match=r"written by modalign 0\.1.*train again"):
        modalign.load_run(tmp_path / "run").predict({"image": ARRAYS["image"]})
