"""Where T comes from."""

from __future__ import annotations

import pytest
import torch

from modalign.errors import InputError
from modalign.information.contexts import ContextSource


def test_sources_of_context() -> None:
    target, speaker, dose = torch.tensor([2, 0]), torch.tensor([7, 7]), torch.tensor([0.5, 0.1])
    columns = {"speaker": speaker, "dose": dose}
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]], requires_grad=True)
    assert ContextSource("none")(target) is None
    assert torch.equal(ContextSource("label")(target), target)
    assert torch.equal(ContextSource("column:speaker")(target, columns), speaker)
    assert torch.equal(ContextSource("continuous:dose")(target, columns), dose)
    assert ContextSource("predicted")(scores=scores).tolist() == [1, 0]
    cluster = ContextSource("cluster", contexts=3, features=2)
    cluster.centers.copy_(torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 5.0]]))
    features = torch.tensor([[4.0, 4.4], [1.0, -1.0], [0.0, 3.0]])
    assert cluster(features=features).tolist() == [1, 0, 2]
    assert "centers" in cluster.state_dict()


def test_source_refusals() -> None:
    with pytest.raises(InputError, match="did you mean 'label'"):
        ContextSource("lable")
    with pytest.raises(InputError, match="column:NAME"):
        ContextSource("column")
    with pytest.raises(InputError, match="did you mean 'site'"):
        ContextSource("column:sites")(columns={"site": torch.tensor([1])})
    with pytest.raises(InputError, match="not given"):
        ContextSource("label")()
    with pytest.raises(InputError, match="continuous:x"):
        ContextSource("column:x")(columns={"x": torch.tensor([1.0])})
