"""MLA against its formulas typed anew: the turns, the projection of the head's gradient, the weights of the answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modalign.data.info import DataInfo
from modalign.strategies.mla import Mla, certainty_weights, taken_in


def test_the_projection_is_the_inverse_of_what_was_seen():
    """Recursive least squares: P = (I + sum_t h_t h_t' / alpha_t)^-1, here by inversion in double precision."""
    rng = np.random.default_rng(0)
    seen, alphas = rng.normal(size=(7, 5)), rng.uniform(0.01, 0.1, 7)
    projection = torch.eye(5, dtype=torch.float64)
    for h, alpha in zip(seen, alphas, strict=True):
        projection = taken_in(projection, torch.from_numpy(h), float(alpha))
    wanted = np.linalg.inv(np.eye(5) + sum(np.outer(h, h) / a for h, a in zip(seen, alphas, strict=True)))
    np.testing.assert_allclose(projection.numpy(), wanted, atol=1e-10)


def test_what_was_seen_is_not_overwritten():
    h, other = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    projection = taken_in(torch.eye(3), h, 0.01)
    assert (projection @ h).norm() < 0.01 * h.norm()
    assert torch.equal(projection @ other, other)


def test_weights_of_the_answer_against_loops():
    scores, present = 3 * torch.randn(9, 3, 4), torch.rand(9, 3) > 0.4
    found = certainty_weights(scores, present)
    for i in range(9):
        inverse = []
        for m in range(3):
            p = scores[i, m].double().softmax(0).tolist()
            e = -sum(x * math.log(x) for x in p)
            inverse.append(math.exp(-e) if present[i, m] else 0.0)
        total = sum(inverse) or 1.0
        assert found[i].tolist() == pytest.approx([x / total for x in inverse], abs=1e-6)


@pytest.mark.parametrize("project", [True, False])
def test_a_step_against_turns_typed_anew(make_data, make_model, make_stepper, project):
    """Three modalities with gaps, plain SGD without momentum; two batches: the second sees what was taken in."""
    data = make_data((6, 5, 4), missing=0.3)
    batches = data.train.batches(20)
    strategy = Mla(make_model(data), DataInfo.of(data), Mla.Options(project=project))
    start = {k: v.clone() for k, v in strategy.state_dict().items()}
    other = Mla(make_model(data), DataInfo.of(data))
    other.load_state_dict(start)

    stepper = make_stepper(strategy, batches, epochs=1)
    stepper.optimizers["main"] = torch.optim.SGD(stepper.groups["main"], lr=0.1)
    stepper.fit()

    seen = np.eye(8)
    for t, batch in enumerate(batches):
        alpha = 0.1 ** (1 + t / len(batches))
        for m, name in enumerate(data.modalities):
            rows = [i for i in range(len(batch)) if batch.present[i, m]]
            encoder, head = other.model.encoders[name], other.shared
            z = encoder(other.model.standardized(name, batch.inputs[name][rows]))
            loss = -(head(z).log_softmax(1)[range(len(rows)), batch.target[rows]]).sum() / len(batch)
            names = [*encoder.parameters(), head.weight, head.bias]
            gradients = list(torch.autograd.grad(loss, names))
            if project:
                gradients[-2] = (gradients[-2].double() @ torch.from_numpy(np.linalg.inv(seen))).float()
            h = z.detach().double().mean(0).numpy()
            seen += np.outer(h, h) / alpha
            with torch.no_grad():
                for p, g in zip(names, gradients, strict=True):
                    p -= 0.1 * g
    for (name, p), q in zip(strategy.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-6, rtol=1e-5, msg=name)


def test_the_answer_with_missing_modalities(make_data, make_model):
    data = make_data((6, 5, 4), missing=0.4)
    strategy = Mla(make_model(data), DataInfo.of(data)).eval()
    batch = data.test.__getitems__(list(range(10)))
    output = strategy(batch)
    alone = strategy(batch.mask(["a"]))
    rows = batch.present[:, 0]
    torch.testing.assert_close(alone.logits[rows], alone.unimodal["a"][rows])
    assert alone.logits[~rows].eq(0).all()
    assert torch.isfinite(output.logits).all()


def test_encoders_of_different_widths_are_mapped_to_the_largest(make_data, make_model, make_stepper):
    data = make_data()
    model = make_model(data, encoders={"a": {"width": 4}, "b": {"width": 7}})
    strategy = Mla(model, DataInfo.of(data))
    make_stepper(strategy, data.train.batches(10)).fit()
    assert strategy.shared.in_features == 7
    assert strategy.metrics()["projection"] < 1
