"""The embedded digits."""

from __future__ import annotations

import torch

from modalign.data.batch import Modality
from modalign.data.load import load_data
from modalign.settings import DataSettings


def test_halves_of_the_images_with_their_digit() -> None:
    from sklearn.datasets import load_digits

    data = load_data(DataSettings(name="digits"))
    assert data.modalities == {m: Modality(m, "image", (1, 8, 4)) for m in ("left", "right")}
    batch = data.test.__getitems__([5])
    whole = torch.cat([batch.inputs["left"], batch.inputs["right"]], 3)[0, 0]
    row = int(data.test.ids[5])
    assert torch.equal(whole, torch.tensor(load_digits().images[row], dtype=torch.float32))
    assert batch.target[0] == load_digits().target[row]


def test_the_split_is_fixed_and_stratified() -> None:
    data = load_data(DataSettings(name="digits"))
    assert (len(data.train), len(data.valid), len(data.test)) == (1078, 270, 449)
    for part in (data.train, data.valid, data.test):
        counts = torch.bincount(part.target, minlength=10)
        assert counts.max() - counts.min() <= 0.02 * 1797 / 4
    assert load_data(DataSettings(name="digits")).fingerprint == data.fingerprint
    assert load_data(DataSettings(name="digits", split_seed=1)).fingerprint != data.fingerprint


def test_one_half_alone() -> None:
    data = load_data(DataSettings(name="digits", modalities=["right"]))
    assert list(data.train.__getitems__([0]).inputs) == ["right"]
