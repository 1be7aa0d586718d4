"""A trained run as one file: it answers as the run does, for any number of samples and missing modalities."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import modalign
from modalign.cli import main
from modalign.errors import RunError, SettingsError
from modalign.experiments import export as exporting


def arrays(modalities: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    made = {"a": rng.normal(size=(90, 5)) + label[:, None], "b": rng.normal(size=(90, 4, 6)),
            "c": rng.normal(size=(90, 1, 10, 10))}  # fmt: skip
    made["a"][::7] = np.nan  # missing
    return {name: made[name].astype("float32") for name in list(made)[:modalities]} | {"y": label}


def trained(folder, strategy, modalities=2, **more):
    kinds = {name: kind for name, kind in {"b": "sequence", "c": "image"}.items() if name in "abc"[:modalities]}
    return modalign.train(arrays(modalities), strategy, target="y", kinds=kinds, epochs=1, quiet=True,
                          out=folder / "run", **more)  # fmt: skip


def predicted(run, names, present):
    """What ``predict`` says of new samples that lack what is not ``present``."""
    rows = arrays(len(names))
    table = {name: np.nan_to_num(rows[name][:6]).copy() for name in names}
    for m, name in enumerate(names):
        table[name][~present[:, m]] = np.nan
    found = run.predict(table)
    return found[[c for c in found if c.startswith("p_")]].to_numpy(), table


PRESENT = torch.tensor([[True, True, True], [False, True, True], [True, False, True], [True, True, False],
                        [True, False, False], [False, False, True]])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("modalities", [2, 3])
def test_an_exported_program_answers_as_predict_does(tmp_path, modalities):
    run, names = trained(tmp_path, "modalign", modalities), list("abc")[:modalities]
    run.export(tmp_path / "model.pt2")
    about = {"modalign.json": ""}
    program = torch.export.load(str(tmp_path / "model.pt2"), extra_files=about).module()
    assert json.loads(about["modalign.json"])["classes"] == ["0", "1", "2"]
    present = PRESENT[:, :modalities].clone()
    present[:, 0] |= ~present.any(1)
    expected, table = predicted(run, names, present.numpy())
    filled = [torch.from_numpy(np.nan_to_num(table[name], nan=1e3)) for name in names]  # what fills the gaps is unseen
    torch.testing.assert_close(program(present, *filled).numpy(), expected.astype("float32"), atol=1e-5, rtol=0)
    assert program(present[:1], *(x[:1] for x in filled)).shape == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dgl", "joint_mlp", "linear", "mla", "unimodal"])
def test_methods_that_answer_in_their_own_way_are_exported_too(tmp_path, strategy):
    out = trained(tmp_path, strategy).export(tmp_path / "model.pt2")  # which compares it with the run
    assert out.stat().st_size > 1000


@pytest.mark.slow
def test_critics_that_the_pool_hears_are_exported_too(tmp_path):
    run = trained(tmp_path, "modalign")
    found = exporting.load_trained(run.folder)
    found.strategy.weights.fill_(0.5)
    loud = exporting.export(found, tmp_path / "loud.pt2")
    program = torch.export.load(str(loud)).module()
    samples = exporting._samples(list(found.info.modalities.values()), [], 4)
    with torch.no_grad():
        heard = program(*samples)
        found.strategy.weights[-1] = 0
        assert not torch.allclose(heard, exporting.Served(found.strategy)(*samples), atol=1e-3)


def test_onnx_runtime_answers_as_predict_does(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    run = trained(tmp_path, "modalign", 3)
    main(["export", str(run.folder), "--out", str(tmp_path / "model.onnx")])
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    expected, table = predicted(run, "abc", PRESENT.numpy())
    given = {name: np.nan_to_num(x) for name, x in table.items()} | {"present": PRESENT.numpy()}
    np.testing.assert_allclose(session.run(None, given)[0], expected, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["modalign"])["task"] == "classification"


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    run = trained(tmp_path, "joint")
    with pytest.raises(SettingsError, match=r"expected .pt2 or .onnx"):
        run.export(tmp_path / "model.bin")
    (tmp_path / "there.pt2").write_text("mine")
    with pytest.raises(SettingsError, match="exists"):
        run.export(tmp_path / "there.pt2")
    assert (tmp_path / "there.pt2").read_text() == "mine"

    def broken(*_, **__):
        raise RuntimeError("No ONNX function found for <OpOverload(op='aten.unheard', overload='default')>")

    monkeypatch.setattr(torch.export, "export", broken)
    with pytest.raises(RunError, match=r"it has no operator aten.unheard. Take another encoder or fusion"):
        run.export(tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    run, plain = trained(tmp_path, "joint"), torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda module, *a, **k: plain(torch.nn.Module.float(module), *a, **k))
    monkeypatch.setattr(exporting, "_TOLERANCE", -1.0)
    with pytest.raises(RunError, match="answers otherwise"):
        run.export(tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()
