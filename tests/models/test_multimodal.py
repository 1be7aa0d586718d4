"""The whole model: presence, subsets, initial weights, precision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from modalign.data.batch import Batch, Modality
from modalign.errors import InputError
from modalign.models.fusion import FUSIONS
from modalign.models.multimodal import MultimodalModel
from modalign.settings import ModelSettings


def build(modalities: dict[str, Modality], outputs: int = 3, **settings: object) -> MultimodalModel:
    return MultimodalModel.build(modalities, outputs, ModelSettings(**{"width": 8, **settings}))


MASK = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)


@pytest.fixture
def three(modalities: dict[str, Modality]) -> dict[str, Modality]:
    """An image, a sequence and a text."""
    return {name: modalities[name] for name in ("image", "sequence", "text")}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_forward_and_backward(
    fusion: str, count: int, modalities: dict[str, Modality], make_batch: Callable[..., Batch]
) -> None:
    chosen = dict(list(modalities.items())[:count])
    model = build(chosen, fusion=fusion, encoders={"vector": {"width": 5}}, dropout=0.1)
    output = model(make_batch(chosen))
    assert {m: tuple(z.shape) for m, z in output.features.items()} == {m: (5, model.dims[m]) for m in chosen}
    assert model.dims["vector"] == 5
    assert output.logits.shape == (5, 3)
    assert all(logits.shape == (5, 3) for logits in output.unimodal.values())
    (output.logits.sum() + sum(logits.square().sum() for logits in output.unimodal.values())).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_absent_inputs_change_nothing(
    fusion: str, three: dict[str, Modality], make_batch: Callable[..., Batch]
) -> None:
    model = build(three, fusion=fusion).eval()
    batch = make_batch(three, present=MASK)
    output = model(batch)
    assert output.logits.isfinite().all()
    for m, name in enumerate(three):
        assert output.features[name][~MASK[:, m]].abs().sum() == 0
        batch.inputs[name][~MASK[:, m]] = 17
    changed = model(batch)
    torch.testing.assert_close(changed.logits, output.logits, rtol=0, atol=0)


def test_features_do_not_depend_on_what_is_missing(
    three: dict[str, Modality], make_batch: Callable[..., Batch]
) -> None:
    """Rows come back where they were."""
    model = build(three).eval()
    batch = make_batch(three)
    whole = model.encode(batch)
    batch.present = MASK
    some = model.encode(batch)
    for m, name in enumerate(three):
        torch.testing.assert_close(some[name], whole[name] * MASK[:, m, None], rtol=1e-4, atol=1e-5)


def test_encoder_without_samples_does_not_run(three: dict[str, Modality], make_batch: Callable[..., Batch]) -> None:
    model = build(three)
    model.encoders["text"].forward = None
    model(make_batch(three, present=MASK)).logits.sum().backward()
    assert all(p.grad is None for p in model.encoders["text"].parameters())
    assert set(model.encode(make_batch(three, present=MASK), only=["image"])) == {"image"}


def test_score_subset_of_concat_is_the_block_of_the_head(
    three: dict[str, Modality], make_batch: Callable[..., Batch]
) -> None:
    model = build(three, dropout=0.5)
    batch = make_batch(three)
    features = model.encode(batch)
    blocks = model.head.weight.split(list(model.dims.values()), 1)
    for name, block in zip(three, blocks, strict=True):
        expected = features[name] @ block.T + model.head.bias
        torch.testing.assert_close(model.score_subset(features, batch.present, [name]), expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_score_subset_equals_a_missing_modality(
    fusion: str, three: dict[str, Modality], make_batch: Callable[..., Batch]
) -> None:
    model = build(three, fusion=fusion).eval()
    batch = make_batch(three)
    keep = ["image", "text"]
    expected = model(batch.mask(keep)).logits
    given = model.score_subset(model.encode(batch), batch.present, keep)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.score_subset(model.encode(batch), batch.present, list(three)), model(batch).logits, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(InputError, match="unknown modality 'imago'"):
        model.score_subset(model.encode(batch), batch.present, ["imago"])


def test_same_seed_same_weights(three: dict[str, Modality]) -> None:
    torch.manual_seed(3)
    first = build(three, fusion="context").state_dict()
    torch.manual_seed(3)
    second = build(three, fusion="context").state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_autocast(fusion: str, modalities: dict[str, Modality], make_batch: Callable[..., Batch]) -> None:
    present = torch.ones(5, 5, dtype=torch.bool)
    present[1:3, 1:4] = False
    model = build(modalities, fusion=fusion)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(make_batch(modalities, present=present))
    assert output.logits.isfinite().all()
    output.logits.float().sum().backward()


def test_standardization_is_fitted_and_saved(three: dict[str, Modality], make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(three, size=20)
    batch.inputs["image"] = (batch.inputs["image"] * 40 + 120).clamp(0, 255).to(torch.uint8)

    class Split:
        epoch: int | None = 5

        def __len__(self) -> int:
            return 20

        def set_epoch(self, epoch: int | None) -> None:
            self.epoch = epoch

        def __getitems__(self, index: list[int]) -> Batch:
            assert self.epoch is None, "augmentation is off"
            rows = torch.tensor(index)
            inputs = {name: x[rows] for name, x in batch.inputs.items()}
            return Batch(inputs, batch.present[rows], rows, rows)

    model = build(three).eval()
    assert set(model.standardize) == {"image", "sequence"}
    model.fit_standardization(Split())
    assert model.standardize["image"].mean.mean().item() == pytest.approx(120, rel=0.05)
    copy = build(three).eval()
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy(batch).logits, model(batch).logits)


def test_one_output(three: dict[str, Modality], make_batch: Callable[..., Batch]) -> None:
    for fusion in FUSIONS:
        assert build(three, outputs=1, fusion=fusion)(make_batch(three)).logits.shape == (5, 1)


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        ([], {}, "no modality"),
        (["a.b"], {}, "'a.b' cannot name a modality"),
        (["training"], {}, "'training' cannot name a modality"),
        (["values"], {}, "x_values"),
        (["audio"], {"encoders": {"adio": {}}}, "did you mean 'audio'"),
        (["audio"], {"fusion": "conct"}, "did you mean 'concat'"),
    ],
)
def test_bad_settings(names: list[str], settings: dict, said: str) -> None:
    with pytest.raises(InputError) as error:
        build({name: Modality(name, "vector", (3,)) for name in names}, **settings)
    assert said in str(error.value)


@pytest.mark.slow
def test_small_nets_do_not_import_transformers() -> None:
    code = "import sys, modalign.models.multimodal, modalign.models.backbones; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
