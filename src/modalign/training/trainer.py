"""The one training loop: it fits any strategy on any data, on any number of processes, and can always go on."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalign.data.batch import Batch, Output
from modalign.data.dataset import MultimodalData, Split
from modalign.data.info import DataInfo
from modalign.data.samplers import BalancedBatchSampler, ShuffledBatchSampler
from modalign.errors import Diverged, Interrupted, RunError, RunFolderError, SettingsError, option, unknown
from modalign.evaluation.metrics import F1, Curves, class_f1, compute_metrics, higher_is_better, primary_metric
from modalign.files import reading
from modalign.strategies.base import Strategy
from modalign.training.distributed import Devices
from modalign.training.forward import forward_batches, load_batches
from modalign.training.optimizers import learning_rate, set_learning_rate
from modalign.training.progress import Display
from modalign.training.run import RunFolder, RunSpec
from modalign.training.stepper import EngineStepper, State
from modalign.training.trackers import Tracker

_CHECK_EVERY = 16  # on a GPU, losses are looked at this many steps late, so that the queue never drains
_SAVING = 0.05  # share of the time that checkpoints at the ends of epochs may take


@dataclass(frozen=True)
class Hooks:
    """What a program of the user's is told while it trains, on the first process.

    Attributes:
        on_epoch: is given the record of each epoch, as ``metrics.jsonl`` holds it, after its checkpoint. It ends the
            training there by returning True; by raising it leaves a run that can be resumed.
        on_step: is given ``epoch``, ``step``, ``lr`` and ``losses`` after each optimizer step. The losses, of the last
            batch of this process, are tensors: reading them (``float``) waits for an accelerator.
        draw: is given the folder of a finished run and an empty one, to write tables and figures into it for the
            experiment tracker; called only where there is a tracker that takes them.
    """

    on_epoch: Callable[[dict[str, Any]], object] | None = None
    on_step: Callable[[dict[str, Any]], object] | None = None
    draw: Callable[[Path, Path], object] | None = None


class Trainer:
    """Fit one strategy: epochs, validation, selection, log and checkpoints.

    Args:
        devices: processes and precision.
        strategy: what is trained.
        data: the data set.
        spec: what determines the run.
        run: where it is kept.
        display: what a person sees.
        hooks: what is told of steps and epochs.
        tracker: the experiment tracker of ``training.logger``, on the first process.
    """

    def __init__(
        self,
        devices: Devices,
        strategy: Strategy,
        data: MultimodalData,
        spec: RunSpec,
        run: RunFolder,
        display: Display,
        hooks: Hooks | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.hooks, self.tracker = hooks or Hooks(), tracker
        self.devices, self.strategy, self.data, self.run, self.display = devices, strategy, data, run, display
        self.spec, self.settings = spec, spec.recipe.training
        self.sampler = make_sampler(data, spec, devices.rank, devices.world)
        self.metric = self.settings.metric or primary_metric(data.task)
        self.valid_parts = divide_validation(data, strategy.info)
        named = data.valid.groups
        self.valid_groups = None if named is None else torch.from_numpy(np.unique(named, return_inverse=True)[1])
        self.state = State()
        self.windows = math.ceil(len(self.sampler.global_batches()) / self.settings.accumulate)
        self.stepper = EngineStepper(devices, strategy, data, self.settings, spec.seed, self.windows, self.state)
        self.average = (
            Average(strategy, self.settings.epochs * self.windows) if self.settings.selection == "average" else None
        )
        self._pending: list[tuple[dict[str, Tensor], Tensor]] = []  # losses not looked at yet, and their samples
        self._stop = False
        self._saved_at = self._resumed_at = time.monotonic()
        self._saved: tuple[int, int] | None = None  # epoch and step of the last checkpoint
        self._saving = 0.0  # seconds that the last checkpoint took

    def fit(self) -> None:
        """Train to the end of the budget, or until validation has stopped improving."""
        if self.run.resumable:
            self._restore()
        else:
            torch.manual_seed((self.spec.seed * 1_000_003 + 97 * self.devices.rank + 1) % 2**63)  # not the model's seed
            self.strategy.on_train_start(self.stepper)
            self._save()
        if self.tracker is not None:
            self.tracker.start()
        patience = self.settings.patience
        with self._signals(), self.display.training(self.settings.epochs, self.windows, self.state.epoch):
            while self.state.epoch < self.settings.epochs and (patience is None or self.state.stale < patience):
                self._train_epoch()
                if self._validate():
                    break
        if self._saved != (self.state.epoch, self.state.step):
            self._save()
        if self.settings.selection != "best":
            with self._selected():
                self._keep()

    def _train_epoch(self) -> None:
        state, settings, stepper = self.state, self.settings, self.stepper
        self.sampler.set_epoch(state.epoch)
        self.data.train.set_epoch(state.epoch)
        self.strategy.train()
        if state.window == 0:
            self.strategy.on_epoch_start(stepper)
        size = settings.accumulate
        sizes = [len(batch) for batch in self.sampler.global_batches()]
        remaining = list(self.sampler)[state.window * size :]
        batches = iter(load_batches(self.data.train, remaining, settings.workers, self.devices.device))
        for first in range(state.window * size, len(sizes), size):
            set_learning_rate(stepper.optimizers["main"], learning_rate(settings, stepper.progress))
            window = sizes[first : first + size]
            for k, count in enumerate(window):
                batch = self._next(batches, first=k == 0).to(self.devices.device, non_blocking=True)
                losses = stepper.forward_backward(batch, count, sum(window))
                self._pending.append(({name: value.detach() for name, value in losses.items()}, batch.index))
            self._add_losses(len(self._pending) >= _CHECK_EVERY or self.devices.device.type == "cpu")
            stepper.update("main")
            if self.average is not None:
                self.average.update()
            state.window += 1
            state.step += 1
            self.display.step(state.epoch, state.window)
            if self.hooks.on_step is not None and self.devices.rank == 0:
                lr = stepper.optimizers["main"].param_groups[0]["lr"]
                given = {name: value.detach() for name, value in losses.items()}
                self.hooks.on_step({"epoch": state.epoch, "step": state.step, "lr": lr, "losses": given})
            self._save_if_due()
        self._add_losses(True)
        self.strategy.on_epoch_end(stepper)

    def _next(self, batches: Iterator[Batch], first: bool) -> Batch:
        """Read a batch; one that cannot be read, as the first of a step, leaves a checkpoint of all before it."""
        try:
            return next(batches)
        except Exception as error:
            if first and self.devices.world == 1:  # between steps, and no other process to save together with
                self._add_losses(True)
                self._save()
            raise RunError(
                f"a batch of the training split could not be read in epoch {self.state.epoch + 1}, after "
                f"{self.state.window} steps: {error}. What was trained so far is kept in {self.run.folder}: mend the "
                "data and go on with resume"
            ) from error

    def _add_losses(self, due: bool) -> None:
        """Add the losses of the latest steps to the epoch's sums, and stop at the first that is not finite."""
        if not due:
            return
        state = self.state
        for losses, index in self._pending:
            state.samples += len(index)
            for name, value in losses.items():
                number = float(value)
                if not math.isfinite(number):
                    ids = [str(self.data.train.ids[i]) for i in index.tolist()]
                    shown = ", ".join(ids[:8]) + (f", ... ({len(ids)} samples)" if len(ids) > 8 else "")
                    raise self._diverged(
                        f"loss term {name!r} became {number} in epoch {state.epoch + 1}, step {state.step}, "
                        f"on the batch of samples {shown}"
                    )
                state.sums[name] = state.sums.get(name, 0.0) + number * len(index)
        self._pending.clear()

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"{what}. The last good checkpoint is kept in {self.run.folder}/checkpoints. "
            f"Lower {option('training.lr')}, or set {option('training.clip', 1)}"
        )

    def _validate(self) -> bool:
        """Compute metrics on validation, select, log and save: what ends an epoch. Return whether to stop here."""
        with self._selected():
            record, improved = self._score()
        # Where epochs take milliseconds checkpoints would take longer; what others are told of is in one.
        told_of = self.tracker is not None or self.hooks.on_epoch is not None
        if self.devices.any(told_of or self._saving < _SAVING * (time.monotonic() - self._saved_at)):
            self._save()
        self.display.epoch(record, self.metric, improved)
        if self.tracker is not None:
            self.tracker.epoch(record)
        told = self.hooks.on_epoch if self.devices.rank == 0 else None
        return self.devices.any(told is not None and told(record) is True)

    def _selected(self) -> contextlib.AbstractContextManager[None]:
        """Put the averaged weights in place, where those are scored."""
        return self.average.applied() if self.average is not None else contextlib.nullcontext()

    def _keep(self) -> None:
        """Write the weights that are scored."""
        assert self.state.best is not None
        if self.devices.rank == 0:
            self.run.save("best", {"strategy": self.strategy.state_dict(), "epoch": self.state.best["epoch"]})

    def _score(self) -> tuple[dict[str, Any], bool]:
        """Score the weights on validation and keep them if validation selects; return the record, and whether best."""
        state, device = self.state, self.devices.device
        names = sorted(state.sums)
        precise = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.tensor([*(state.sums[n] for n in names), state.samples], dtype=torch.float64)
        *totals, samples = self.devices.all_reduce(sums.to(device, precise)).tolist()
        output, target = self.outputs(self.data.valid)
        self.calibrate(output, target)
        metrics = self.metrics(self.data.valid, output, quick=True)
        record = {
            "epoch": state.epoch,
            "step": state.step,
            "encoder_updates": state.encoder_updates,
            "lr": learning_rate(self.settings, self.stepper.progress),
            "seconds": round(self.seconds, 3),
            "train": {name: total / samples for name, total in zip(names, totals, strict=True)},
            "valid": metrics,
            "log": self.strategy.metrics() | {"temperature": float(self.strategy.temperature)},
        }
        better = state.top is None or _better(metrics, state.top, self.metric)
        state.top, state.stale = (metrics, 0) if better else (state.top, state.stale + 1)
        selects = self.settings.selection == "best"
        if better or not selects:
            state.best = {"epoch": state.epoch, "metrics": metrics}
        state.epoch, state.window, state.sums, state.samples = state.epoch + 1, 0, {}, 0
        if self.devices.rank == 0:
            self.run.log(record)
        if better and selects:
            self._keep()
        return record, better

    def calibrate(self, output: Output, target: Tensor) -> None:
        """Fit what a method and the temperature take from held-out samples, given the outputs on all of validation."""
        rows = self.valid_parts.calibrate.to(target.device)
        output, target = output[rows], target[rows]
        groups = None if self.valid_groups is None else self.valid_groups[self.valid_parts.calibrate]
        self.strategy.calibrate(output, target, groups)
        if self.settings.temperature:
            self.strategy.fit_temperature(output, target)

    def outputs(self, split: Split) -> tuple[Output, Tensor]:
        """Return the strategy's outputs on a whole split in order, with its targets, on all processes."""
        split.set_epoch(None)
        with self.devices.autocast():
            mine = forward_batches(self.strategy, self.stepper.ordered(split))
        gather = self.devices.all_gather
        whole = Output(
            {m: gather(z) for m, z in mine.features.items()},
            {m: gather(s) for m, s in mine.unimodal.items()},
            gather(mine.logits),
            gather(mine.present),
        )
        if not torch.isfinite(whole.logits).all() or any(torch.isnan(s).any() for s in whole.unimodal.values()):
            part = "validation" if split is self.data.valid else "the test split"
            epoch = min(self.state.epoch + 1, self.settings.epochs)
            raise self._diverged(f"the outputs on {part} are no longer finite after epoch {epoch}")
        return whole, split.target.to(self.devices.device)

    def metrics(
        self, split: Split, output: Output, quick: bool = False, curves: Curves | None = None, by: str | None = None
    ) -> dict[str, float]:
        """Return all metrics of the task, or only those that select (``quick``, each epoch).

        Those of validation are of the samples that select; ``curves`` is as in ``compute_metrics``. Counted ``by``
        units in place of what the data is scored by, they have the F1 of each class too.
        """
        task, groups = self.data.task, self.data.sample_groups(split, by)
        scores = groups.scores(task, self.strategy.log_probability(output).cpu())
        if torch.isnan(scores).any():
            raise self._diverged(f"the predictions are no numbers after epoch {self.state.epoch + 1}")
        names = [self.metric, "nll"] if quick and task.kind == "classification" else None
        target = split.target[groups.first]
        if split is self.data.valid:
            selects = torch.isin(groups.first, self.valid_parts.select)
            scores, target = scores[selects], target[selects]
        found = compute_metrics(task, scores.numpy(), target.numpy(), names, curves)
        if by and task.kind == "classification":
            each = class_f1(scores.numpy(), target.numpy())
            found |= {f"{F1}{name}": f1 for name, f1 in zip(task.classes, each, strict=True)}
        return found

    # Saving and going on -------------------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        stop = self.devices.any(self._stop)
        due = time.monotonic() - self._saved_at > 60 * self.settings.checkpoint_minutes
        if stop or self.devices.any(due):
            self._add_losses(True)
            self._save()
        if stop:
            raise Interrupted(
                f"stopped in epoch {self.state.epoch + 1} of {self.settings.epochs}; {self.run.folder} can be resumed"
            )

    def _save(self) -> None:
        begun = time.monotonic()
        self.state.seconds = self.seconds
        self._resumed_at = begun
        device = self.devices.device
        state = {
            "strategy": self.strategy.state_dict(),
            **self.stepper.state_dict(),
            "state": dict(vars(self.state)),
            "average": self.average.state_dict() if self.average is not None else None,
            "random": self.devices.all_gather(torch.get_rng_state().unsqueeze(0).to(device)).cpu(),
            "cuda_random": torch.cuda.get_rng_state() if device.type == "cuda" else None,
        }
        if self.devices.rank == 0:
            self.run.save("last", state)
        self._saved_at = time.monotonic()
        self._saving, self._saved = self._saved_at - begun, (self.state.epoch, self.state.step)

    def _restore(self) -> None:
        saved = self.devices.broadcast(self.run.load("last") if self.devices.rank == 0 else None)
        with reading(self.run.folder / "checkpoints" / "last.pt", "a checkpoint of this run", RunFolderError):
            self._set(saved)
        self._saved = self.state.epoch, self.state.step
        self._resumed_at = time.monotonic()
        if self.devices.rank == 0:
            self.run.forget_after(self.state.epoch)

    def _set(self, saved: dict[str, Any]) -> None:
        if len(saved["random"]) != self.devices.world:
            raise RunFolderError(
                f"the run was started with {len(saved['random'])} process(es) and is resumed with "
                f"{self.devices.world}; resume with the same number"
            )
        self.strategy.load_state_dict(saved["strategy"])
        self.stepper.load_state_dict(saved)
        vars(self.state).update(saved["state"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        torch.set_rng_state(saved["random"][self.devices.rank].cpu())
        if saved["cuda_random"] is not None and self.devices.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_random"].cpu())

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self.state.seconds + time.monotonic() - self._resumed_at

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a stop at the next step; a second Ctrl-C stops at once."""

        def stop(number: int, _: object) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True

        try:
            former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever owns it handles signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class Average:
    """Exponential moving average of a strategy's weights, and of the statistics of its batch norms.

    An optimizer step counts with weight 1 - d, d rising from 0.1 to 1 - 10 / steps: the average is of about the last
    tenth of the training.

    Args:
        strategy: whose weights are averaged.
        steps: optimizer steps of the whole training.
    """

    def __init__(self, strategy: Strategy, steps: int) -> None:
        running = {
            f"{name}.{kind}": getattr(module, kind)
            for name, module in strategy.named_modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            for kind in ("running_mean", "running_var")
            if getattr(module, kind) is not None
        }
        self.live = {name: p.data for name, p in strategy.named_parameters()} | running
        self.mean = {name: value.clone() for name, value in self.live.items()}
        self.decay, self.count = max(0.0, 1 - 10 / steps), 0

    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        self.count += 1
        decay = min(self.decay, self.count / (9 + self.count))
        for name, value in self.live.items():
            self.mean[name].lerp_(value, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the weights, and them back afterwards."""
        kept = {name: value.clone() for name, value in self.live.items()}
        self._write(self.mean)
        yield
        self._write(kept)

    def _write(self, values: dict[str, Tensor]) -> None:
        for name, value in self.live.items():
            value.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` takes."""
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.count = state["count"]
        for name, value in self.mean.items():
            value.copy_(state["mean"][name])


def _better(new: dict[str, float], old: dict[str, float], metric: str) -> bool:
    """Selection rule: the better metric on validation; among equals the lower negative log-likelihood."""
    sign = 1 if higher_is_better(metric) else -1
    if new[metric] != old[metric]:
        return sign * new[metric] > sign * old[metric]
    return new.get("nll", 0.0) < old.get("nll", 0.0)


_ENOUGH = 600
_PARTS = 3


class ValidationParts(NamedTuple):
    """Positions in the validation split of the samples that judge an epoch, and of those that calibrate.

    Attributes:
        select, calibrate: (N,) int64, in order; disjoint where there are enough samples, else both all of them.
        note: what a person is told.
    """

    select: Tensor
    calibrate: Tensor
    note: str


def divide_validation(data: MultimodalData, info: DataInfo) -> ValidationParts:
    """Divide validation, so that no method is calibrated on samples on which its epoch was selected.

    A third calibrates, of every class alike, whole groups where there are groups. It depends on the data alone: all
    methods select on the same samples. A likelihood fitted with K weights to n samples costs about K / 2n nats, with
    the 5 weights of three modalities and 200 samples .01; 400 are left to select. Below 600 samples (groups, where
    those are scored), or 12 groups, all select and all calibrate: selection would lose more than calibration gains.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    valid = data.valid
    every, groups = torch.arange(len(valid)), valid.groups
    count = len(data.sample_groups(valid).first)
    if count < _ENOUGH or (groups is not None and len(np.unique(groups)) < 4 * _PARTS):
        few = f"{count:,} are fewer than {_ENOUGH}" if count < _ENOUGH else f"fewer than {4 * _PARTS} groups"
        return ValidationParts(every, every, f"all validation samples judge an epoch and calibrate, for {few}")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer samples than parts
        classes = info.target_bins(valid.target)
        classes = classes if classes.bincount().max() >= _PARTS else torch.zeros_like(classes)
        folds = kind(_PARTS, shuffle=True, random_state=0).split(every, classes, groups)
        select, calibrate = (torch.from_numpy(rows) for rows in next(folds))
    note = f"of the validation samples {len(select):,} judge an epoch and {len(calibrate):,} calibrate"
    return ValidationParts(select, calibrate, note)


def make_sampler(
    data: MultimodalData, spec: RunSpec, rank: int = 0, world: int = 1
) -> BalancedBatchSampler | ShuffledBatchSampler:
    """Return the order of samples; it does not depend on the method, nor on the number of processes.

    Raises:
        SettingsError: the sampler is unknown, or is to balance what is no discrete column.
    """
    settings, train = spec.recipe.training, data.train
    kind, _, column = settings.sampler.partition(":")
    if settings.sampler == "shuffle":
        return ShuffledBatchSampler(len(train), settings.batch_size, seed=spec.seed, rank=rank, world=world)
    if kind != "balanced":
        raise unknown("sampler", settings.sampler, ("shuffle", "balanced", "balanced:COLUMN"))
    if column:
        if column not in train.columns:
            raise unknown(
                f"column (columns are loaded with {option('data.columns', [column])}):", column, train.columns
            )
        codes, discrete = train.columns[column].values, train.columns[column].discrete
    else:
        codes, discrete = train.target, data.task.kind == "classification"
    if not discrete:
        raise SettingsError(
            f"training.sampler {settings.sampler!r} balances numbers; it needs classes or a discrete column"
        )
    return BalancedBatchSampler(
        codes, settings.batch_size, settings.samples_per_context, seed=spec.seed, rank=rank, world=world
    )
