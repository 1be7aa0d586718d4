"""Publishing a run and fetching it again, against a local folder and a Hub that is made up."""

from __future__ import annotations

import functools
import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError

import modalign
from modalign.errors import RunError, RunFolderError, SettingsError
from modalign.reporting.hub import pack


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "run"
    return modalign.train("digits", "modalign", epochs=1, batch_size=256, out=folder, quiet=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in a folder."""
    root = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, name, private, exist_ok):
            if (root / name).exists():
                raise HfHubHTTPError("Conflict", response=SimpleNamespace(status_code=409, headers={}, request=None))
            (root / name).mkdir(parents=True)

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}"

    def snapshot_download(name, revision, token, local_dir, allow_patterns):
        if not (root / name).exists():
            raise OSError("404")
        shutil.copytree(root / name, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return root


def test_a_published_run_answers_as_before(run, hub, tmp_path):
    assert run.push_to_hub("me/digits") == "https://hub/me/digits"
    files = {path.name for path in (hub / "me" / "digits").iterdir()}
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith((".pt", ".pkl", ".npz"))]
    again = modalign.from_pretrained("me/digits", tmp_path / "again")
    new = {"left": np.random.default_rng(0).normal(size=(5, 1, 8, 4)).astype("float32")}
    assert again.predict(new).equals(run.predict(new))
    assert again.metrics == run.metrics


def test_the_card_says_data_scores_and_how_to_use_it(run, tmp_path):
    card = (pack(run.folder, tmp_path / "packed") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: modalign\n")
    accuracy = 100 * run.metrics["test"]["accuracy"]
    assert f"| accuracy (%) | {accuracy:.1f} | [" in card
    assert "| left | image | 1 x 8 x 4 |" in card
    assert "was not evaluated" in card
    assert "modalign.from_pretrained(" in card


def test_a_local_folder_is_as_good_as_the_hub(run, tmp_path):
    pack(run.folder, tmp_path / "packed")
    again = modalign.from_pretrained(str(tmp_path / "packed"), tmp_path / "run")
    assert again.metrics == run.metrics


def test_what_cannot_be_published_or_fetched_is_said(run, hub, tmp_path):
    (hub / "me" / "taken").mkdir(parents=True)
    with pytest.raises(SettingsError, match="'me/taken' is taken; choose another"):
        run.push_to_hub("me/taken")
    with pytest.raises(RunError, match="'me/none' could not be fetched"):
        modalign.from_pretrained("me/none", tmp_path / "a")
    with pytest.raises(RunFolderError, match=r"lacks recipe.yaml, .*model.safetensors"):
        modalign.from_pretrained("me/taken", tmp_path / "b")
    packed = pack(run.folder, tmp_path / "packed")
    with pytest.raises(RunFolderError, match="is in use"):
        modalign.from_pretrained(str(packed), run.folder)
    (packed / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunFolderError, match=r"model\.safetensors cannot be read"):
        modalign.from_pretrained(str(packed), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_hub_that_cannot_be_reached_is_said(run, monkeypatch):
    nowhere = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
    with pytest.raises(RunError, match=r"the Hub could not be reached .*the run is kept: repeat the call"):
        run.push_to_hub("me/digits", token="hf_none")


def test_code_of_the_publisher_is_run_only_if_trusted(hub, tmp_path, root):
    path = str(root / "examples" / "own_strategy.py")
    modalign.train("digits", path, epochs=1, batch_size=256, out=tmp_path / "run", quiet=True, trust_code=True)
    modalign.load_run(tmp_path / "run", trust_code=True).push_to_hub("me/own")
    fetched = modalign.from_pretrained("me/own", tmp_path / "one")
    with pytest.raises(RunFolderError, match="trust_code"):
        _ = fetched.strategy
    trusted = modalign.from_pretrained("me/own", tmp_path / "two", trust_code=True)
    assert trusted.strategy.training is False
