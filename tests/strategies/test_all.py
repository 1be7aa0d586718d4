"""Every strategy, existing or to come, on every small case: finite losses, moved parameters, right shapes."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from modalign.errors import InputError
from modalign.strategies import load_strategy, make_options, strategy_names


@pytest.mark.parametrize("name", strategy_names())
def test_trains_on_every_small_case(check_trains, name):
    check_trains(load_strategy(name))


@pytest.mark.parametrize("name", strategy_names())
def test_describes_itself(name):
    """The file says where the method is from and what it costs; every option is described."""
    kind = load_strategy(name)
    text = sys.modules[kind.__module__].__doc__ or ""
    assert "ost" in text, "the cost per step is not stated"
    assert len(text) > 150
    options = kind.Options.__doc__ or ""
    for option in dataclasses.fields(kind.Options):
        assert f"{option.name}:" in options
    if kind.main_option is not None:
        name_, values = kind.main_option
        assert name_ in kind.Options.__dataclass_fields__
        assert len(values) == 3


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'reconboost'"):
        load_strategy("reconbost")
    kind = load_strategy("infonce")
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        make_options(kind, {"temprature": 0.1})


def test_a_method_of_the_users_own_is_one_file(tmp_path, root):
    kind = load_strategy(str(root / "examples" / "own_strategy.py"))
    assert kind.title == "Noisy joint"
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(InputError, match="0 subclasses of Strategy; expected exactly one"):
        load_strategy(str(tmp_path / "empty.py"))
    with pytest.raises(InputError, match="does not exist"):
        load_strategy("nowhere.py")
