"""Pictures of pretrained networks are scaled as the networks were trained, and the run says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modalign.data.batch import Modality
from modalign.data.tables.arrays import from_arrays
from modalign.errors import InputError
from modalign.models.backbones import build_backbone
from modalign.models.multimodal import MultimodalModel
from modalign.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from modalign.training.build import load_trained
from modalign.training.train import train

CONFIG = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 8}
RNG = np.random.default_rng(0)
BYTES = RNG.integers(40, 90, (40, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """A small ViT as pretrained weights, with and without the file that says how its pictures were scaled."""
    net = build_backbone(Modality("x", "image", (3, 16, 16)), "vit_b_16", config=CONFIG).net
    folders = {name: tmp_path_factory.mktemp(name) for name in ("told", "untold")}
    for folder in folders.values():
        net.save_pretrained(folder)  # type: ignore[operator]
    said = {"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 0.2, 0.1]}
    (folders["told"] / "preprocessor_config.json").write_text(json.dumps(said))
    return folders


def fitted(pixels: np.ndarray, **encoder: Any) -> MultimodalModel:
    data = from_arrays({"photo": pixels, "y": np.arange(len(pixels)) % 2}, kinds={"photo": "image"})
    own = {} if encoder.get("pretrained") else {"config": CONFIG}
    settings = ModelSettings(encoders={"photo": {"name": "vit_b_16", **own, **encoder}})
    model = MultimodalModel.build(data.modalities, 2, settings)
    model.fit_standardization(data.train)
    return model


def test_pretrained_weights_bring_their_own_scale(weights: dict[str, Path]) -> None:
    model = fitted(BYTES, pretrained=str(weights["told"]))
    pixel = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    got = model.standardized("photo", pixel)[0, :, 3, 5]  # .2, .4 and .8 of the range
    np.testing.assert_allclose(got, [(0.2 - 0.5) / 0.5, (0.4 - 0.25) / 0.2, (0.8 - 0.75) / 0.1], rtol=1e-4)
    numbers = fitted((BYTES / 255).astype(np.float32), pretrained=str(weights["told"]))
    np.testing.assert_allclose(numbers.standardized("photo", pixel / 255)[0, :, 3, 5], got, rtol=1e-4)
    assert model.networks()["photo"]["normalization"] == {
        "mean": [0.5, 0.25, 0.75],
        "std": [0.5, 0.2, 0.1],
        "of": f"preprocessor_config.json of {weights['told']}",
    }


def test_weights_that_say_nothing_get_imagenets_and_gray_pictures_the_mean_of_the_colors(weights) -> None:
    model = fitted(BYTES, pretrained=str(weights["untold"]))
    np.testing.assert_allclose(model.standardize["photo"].mean, np.array([0.485, 0.456, 0.406]) * 255, rtol=1e-5)
    assert "has no preprocessor_config.json" in model.networks()["photo"]["normalization"]["of"]
    gray = fitted(BYTES[:, :1], pretrained=str(weights["told"]))
    np.testing.assert_allclose(gray.standardize["photo"].mean, [0.5 * 255], rtol=1e-5)
    np.testing.assert_allclose(gray.standardize["photo"].scale, [0.8 / 3 * 255], rtol=1e-5)


def test_from_scratch_and_on_request_pictures_have_the_datas_own_scale(weights: dict[str, Path]) -> None:
    for model in (fitted(BYTES), fitted(BYTES, pretrained=str(weights["told"]), normalize="data")):
        assert 60 < float(model.standardize["photo"].mean.mean()) < 70
        assert "normalization" not in model.networks()["photo"]
    asked = fitted(BYTES, normalize="imagenet")
    np.testing.assert_allclose(asked.standardize["photo"].scale, np.array([0.229, 0.224, 0.225]) * 255, rtol=1e-5)


def test_what_is_no_picture_has_the_datas_own_scale(weights: dict[str, Path]) -> None:
    spectrogram = RNG.normal(-5, 2, (40, 1, 16, 16)).astype(np.float32)
    model = fitted(spectrogram, pretrained=str(weights["told"]))
    assert -5.5 < float(model.standardize["photo"].mean) < -4.5
    assert "normalization" not in model.networks()["photo"]
    with pytest.raises(InputError, match=r"model.encoders.photo.normalize is 'imagenet', but photo holds no pictures"):
        fitted(spectrogram, normalize="imagenet")


def test_a_run_says_how_pictures_are_scaled_and_is_rebuilt_from_its_folder(weights, tmp_path: Path) -> None:
    data = from_arrays({"photo": BYTES, "labs": RNG.normal(size=(40, 3)), "y": np.arange(40) % 2})
    model = ModelSettings(encoders={"photo": {"name": "vit_b_16", "pretrained": str(weights["told"])}})
    recipe = Recipe(DataSettings("toy"), model, TrainingSettings(epochs=1))
    train(recipe, "joint", out=tmp_path / "run", data=data, quiet=True)
    notes = json.loads((tmp_path / "run" / "environment.json").read_text())["notes"]
    (note,) = [note for note in notes if "photo is scaled" in note]
    assert (
        "mean [0.5, 0.25, 0.75] and deviation [0.5, 0.2, 0.1] of pictures in [0, 1] (preprocessor_config.json" in note
    )
    kept = json.loads((tmp_path / "run" / "network.json").read_text())["photo"]["normalization"]
    again = load_trained(tmp_path / "run").strategy.model
    assert again.networks()["photo"]["normalization"] == kept
    np.testing.assert_allclose(again.standardize["photo"].mean, np.array([0.5, 0.25, 0.75]) * 255, rtol=1e-5)
