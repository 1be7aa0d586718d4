"""What a user's program and experiment trackers are told while a run trains."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import modalign
from modalign.errors import SettingsError
from modalign.training.run import RunFolder
from modalign.training.trackers import Tracker

SMALL = {"epochs": 3, "quiet": True, "batch_size": 256}


@pytest.fixture
def drawn(monkeypatch):
    """A figure and a table that are drawn at once, in place of those of the report; the runs that they are of."""
    runs = []

    def draw(run, folder):
        runs.append(run)
        (folder / "figures").mkdir()
        (folder / "tables").mkdir()
        Image.fromarray(np.full((2, 3, 3), 7, np.uint8)).save(folder / "figures" / "curves.png")
        (folder / "tables" / "table.md").write_text("| Method |")

    monkeypatch.setattr("modalign.api.draw_run", draw)
    return runs


def records(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_hook_is_told_of_every_epoch_and_step_and_changes_nothing(tmp_path):
    epochs, steps = [], []
    run = modalign.train("digits", "joint", out=tmp_path / "a", on_epoch=epochs.append, on_step=steps.append, **SMALL)
    plain = modalign.train("digits", "joint", out=tmp_path / "b", **SMALL)
    assert epochs == records(run)
    assert [step["step"] for step in steps] == list(range(1, epochs[-1]["step"] + 1))
    assert steps[-1]["epoch"] == 2
    assert float(steps[-1]["losses"]["task"]) > 0
    assert run.metrics == plain.metrics


def test_a_hook_ends_the_training_by_returning_true(tmp_path):
    def enough(record):
        return record["epoch"] == 1

    run = modalign.train("digits", "joint", out=tmp_path / "run", on_epoch=enough, **SMALL)
    assert [record["epoch"] for record in records(run)] == [0, 1]
    assert "test" in run.metrics


def test_a_hook_that_raises_leaves_a_run_that_goes_on_bit_for_bit(tmp_path):
    def broken(record):
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        modalign.train("digits", "joint", out=tmp_path / "run", on_epoch=broken, **SMALL)
    assert RunFolder(tmp_path / "run").resumable
    run = modalign.train("digits", "joint", out=tmp_path / "run", resume=True, **SMALL)
    whole = modalign.train("digits", "joint", out=tmp_path / "whole", **SMALL)
    assert run.metrics == whole.metrics


def interrupted(folder, kind):
    """A run that was stopped after two epochs and went on."""
    seen = []

    def stop(record):
        seen.append(record)
        if len(seen) == 2:
            raise KeyError

    with pytest.raises(KeyError):
        modalign.train("digits", "joint", out=folder, on_epoch=stop, logger=kind, **SMALL)
    return modalign.train("digits", "joint", out=folder, resume=True, logger=kind, **SMALL)


def test_a_csv_file_has_a_line_an_epoch_also_of_a_run_that_went_on(tmp_path):
    run = interrupted(tmp_path / "run", "csv")
    table = pd.read_csv(run.folder / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    known = [record["valid"]["accuracy"] for record in records(run)]
    assert table["valid/accuracy"].tolist() == pytest.approx(known)


def test_what_a_killed_run_logged_beyond_its_checkpoint_is_told_once(tmp_path, drawn):
    def fall(record):
        if record["epoch"] == 1:
            raise KeyError

    for kind in ("csv", "tensorboard"):
        folder = tmp_path / kind
        with pytest.raises(KeyError):
            modalign.train("digits", "joint", out=folder, on_epoch=fall, logger=kind, **SMALL)
        with (folder / "metrics.jsonl").open("a") as log:
            log.write('{"epoch": 2, "valid": {"accuracy": 0.0}}\n{"epoch": 3, "val')
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            modalign.train("digits", "joint", out=folder, resume=True, logger=kind, **SMALL)
    assert pd.read_csv(tmp_path / "csv" / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    (file,) = (tmp_path / "tensorboard" / "tensorboard").iterdir()
    assert file.read_bytes().count(b"valid/accuracy") == 3


def test_tensorboard_reads_what_was_logged(tmp_path, drawn):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = interrupted(tmp_path / "run", "tensorboard")
    found = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    logged = found.Scalars("valid/accuracy")
    assert [one.step for one in logged] == [0, 1, 2]
    known = [record["valid"]["accuracy"] for record in records(run)]
    assert [one.value for one in logged] == pytest.approx(known)
    (picture,) = found.Images("figures/curves")
    assert (picture.height, picture.width) == (2, 3)
    assert found.Tensors("tables/table/text_summary")[0].tensor_proto.string_val == [b"| Method |"]
    assert drawn == [run.folder]


def test_mlflow_is_told_settings_numbers_and_files_under_one_run(tmp_path, monkeypatch, drawn):
    told = []

    def log_artifacts(folder):
        told.append(("log_artifacts", sorted(p.name for p in Path(folder).rglob("*.*"))))

    def start_run(run_id, run_name):
        told.append(("start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    calls = ("log_params", "log_metrics", "log_artifact", "end_run")
    fake = {name: lambda *given, name=name, **more: told.append((name, *given, *more.values())) for name in calls}
    fake["log_artifacts"] = log_artifacts
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(start_run=start_run, __spec__=object(), **fake))
    interrupted(tmp_path / "run", "mlflow")
    starts = [one[1:] for one in told if one[0] == "start"]
    assert starts == [(None, "digits joint seed 0"), ("abc", None)]
    (params,) = [one[1] for one in told if one[0] == "log_params"]
    assert params["recipe.training.epochs"] == "3"
    assert [one[2] for one in told if one[0] == "log_metrics"] == [0, 1, 2]
    assert [one[1] for one in told if one[0] == "end_run"] == ["FAILED", "FINISHED"]
    assert any(one[0] == "log_artifact" and one[1].endswith("result.json") for one in told)
    assert [one[1] for one in told if one[0] == "log_artifacts"] == [[], ["curves.png", "table.md"]]


def test_figures_that_cannot_be_drawn_do_not_keep_the_tracker_from_its_end(tmp_path, monkeypatch):
    class Backend:
        ended = False

        def log(self, numbers, step):
            pass

        def close(self, run, drawn):
            self.ended = True

    def draw(run, folder):
        raise MemoryError("of a figure")

    backend, run = Backend(), RunFolder(tmp_path)
    (tmp_path / "done").touch()
    tracker = Tracker("mlflow", lambda: backend, draw)
    tracker.start()
    with pytest.warns(UserWarning, match="for mlflow could not be drawn .*of a figure.* the report"):
        tracker.close(run)
    assert backend.ended


def test_a_local_store_of_mlflow_has_settings_numbers_and_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    monkeypatch.chdir(tmp_path)
    run = modalign.train("digits", "joint", out=tmp_path / "run", logger="mlflow", **SMALL)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/store.db")
    (found,) = client.search_runs(["0"])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "digits joint seed 0")
    assert found.data.params["recipe.training.batch_size"] == "256"
    logged = client.get_metric_history(found.info.run_id, "valid/accuracy")
    assert [one.value for one in logged] == pytest.approx([record["valid"]["accuracy"] for record in records(run)])
    kept = {file.path for at in (None, "figures", "tables") for file in client.list_artifacts(found.info.run_id, at)}
    assert {"environment.json", "result.json", "recipe.yaml", "metrics.jsonl"} <= kept
    assert {"figures/curves.png", "figures/confusion.png", "tables/table.csv"} <= kept


def test_wandb_offline_keeps_settings_numbers_and_files(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    run = modalign.train("digits", "joint", out=tmp_path / "run", logger="wandb", **SMALL)
    (kept,) = run.folder.glob("wandb/offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    assert content.count(b"valid/accuracy") >= len(records(run))
    assert all(name in content for name in (b"environment.json", b"result.json", b"curves.png", b"table.csv"))
    assert json.loads((run.folder / "tracker.json").read_text())["id"] in kept.name


def test_a_tracker_that_cannot_be_reached_is_left_alone_and_training_goes_on(tmp_path, monkeypatch):
    def start_run(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(start_run=start_run, __spec__=object()))
    with pytest.warns(UserWarning, match="mlflow failed .*no route to host.* training goes on") as said:
        run = modalign.train("digits", "joint", out=tmp_path / "run", logger="mlflow", **SMALL)
    assert len([w for w in said if "mlflow" in str(w.message)]) == 1
    assert "test" in run.metrics


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("modalign.training.trackers.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'modalign\[wandb\]'"):
        modalign.train("digits", "joint", out=tmp_path / "run", logger="wandb", **SMALL)
    assert not (tmp_path / "run").exists()
