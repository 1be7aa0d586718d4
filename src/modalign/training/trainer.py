"""The one training loop: it fits any strategy on any data, on any number of processes, and can always go on."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modalign.data.batch import Batch, Output
from modalign.data.dataset import MultimodalData, Split
from modalign.data.load import load_data
from modalign.data.samplers import BalancedBatchSampler, ShuffledBatchSampler
from modalign.errors import Diverged, InputError, Interrupted, unknown
from modalign.evaluation.metrics import compute_metrics, higher_is_better, primary_metric
from modalign.models.multimodal import MultimodalModel
from modalign.settings import Recipe
from modalign.strategies import load_strategy, make_options
from modalign.strategies.base import Strategy
from modalign.training.distributed import Devices
from modalign.training.feature_cache import frozen_encoders, frozen_notes, with_cached_features
from modalign.training.loading import load_batches
from modalign.training.memory import PeakMemory
from modalign.training.optimizers import clip, learning_rate, make_optimizers, set_learning_rate
from modalign.training.portable import describe
from modalign.training.progress import Display
from modalign.training.run import Run, RunSpec

_CHECK_EVERY = 16  # on a GPU, losses are looked at this many steps late, so that the queue never drains


def train(
    recipe: Recipe,
    strategy: str = "modalign",
    *,
    out: str | Path,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    resume: bool = False,
    data: MultimodalData | None = None,
    test: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train one strategy with one seed and write its run folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        recipe: data, model and budget.
        strategy: name of the method (see ``modalign strategies``).
        out: the run folder; must be empty or new, unless ``resume``.
        seed: seed of initial weights, order of samples and dropout.
        options: options of the strategy, over those of the recipe.
        resume: go on with an interrupted run; a finished run is returned as it is.
        data: data in memory (``from_arrays``) instead of what the recipe names; give it to ``load_run`` again.
        test: read the test split at the end (off while settings are searched).
        quiet: print nothing.

    Returns:
        What ``result.json`` holds: metrics by split, selected epoch, seconds, parameters, peak memory.

    Raises:
        InputError: settings or data that cannot be used.
        Diverged: a loss became NaN or infinite.
        Interrupted: stopped by Ctrl-C or SIGTERM; resumable.
    """
    chosen = {**recipe.strategies.get(strategy, {}), **(options or {})}
    spec = RunSpec(strategy, seed, replace(recipe, strategies={}), chosen)  # other methods' options are not its own
    return run_spec(spec, out, resume=resume, data=data, test=test, quiet=quiet)


def run_spec(
    spec: RunSpec,
    out: str | Path,
    *,
    resume: bool = False,
    data: MultimodalData | None = None,
    test: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """As ``train``, for settings that are complete."""
    run = Run(out)
    run.check_free(spec, resume)
    if resume and run.done:
        return run.result()
    settings = spec.recipe.training
    devices = Devices(settings.accelerator, settings.devices, settings.precision)
    loaded = load_data(spec.recipe.data) if data is None else data
    check(spec, loaded)
    # Processes to be spawned read the data themselves; here it is at hand and not read twice.
    given = data if devices.spawns else loaded
    result: dict[str, Any] = devices.launch(_train, spec, given, str(out), test, quiet)
    return result


def build_strategy(spec: RunSpec, data: MultimodalData, standardize: bool = True) -> Strategy:
    """The untrained strategy of a run: the same seed gives the same initial network for every method.

    Args:
        spec: the run.
        data: what it trains on.
        standardize: fit the standardization of inputs to the training split; off where a checkpoint brings it.

    Raises:
        InputError: the strategy, an option, an encoder or the fusion is unknown, or does not fit the data.
    """
    kind = load_strategy(spec.strategy)
    options = make_options(kind, spec.options)
    if len(data.modalities) < kind.minimum_modalities:
        raise InputError(
            f"strategy {spec.strategy!r} relates modalities and needs at least {kind.minimum_modalities}; "
            f"data set {data.name!r} has {len(data.modalities)} ({', '.join(data.modalities)}). "
            "Use unimodal or joint, or give more --modalities"
        )
    if data.task.kind not in kind.tasks:
        raise InputError(
            f"strategy {spec.strategy!r} is defined for {', '.join(kind.tasks)}; "
            f"data set {data.name!r} is {data.task.kind}"
        )
    torch.manual_seed(spec.seed)
    model = MultimodalModel.build(data.modalities, data.task.outputs, spec.recipe.model)
    if standardize:
        model.fit_standardization(data.train)
    return kind(model, data, options)


def load_run(
    folder: str | Path, checkpoint: str = "best", data: MultimodalData | None = None
) -> tuple[Strategy, MultimodalData, RunSpec]:
    """The trained strategy of a run folder, in evaluation mode, with its data and settings.

    Args:
        folder: the run.
        checkpoint: ``best`` (selected on validation) or ``last``.
        data: the data in memory that the run was trained on, if it was.

    Raises:
        InputError: the folder is no run or has no such checkpoint.
    """
    run = Run(folder)
    plain = run.spec()
    state = run.load(checkpoint)
    spec = spec_from_plain(plain)
    data = load_data(spec.recipe.data) if data is None else data
    strategy = build_strategy(spec, data, standardize=False)
    restore(strategy, state, folder)
    return strategy.eval(), data, spec


def restore(strategy: Strategy, state: dict[str, Any], folder: str | Path) -> None:
    """Load a checkpoint's weights.

    Raises:
        InputError: the checkpoint is of another network, because the package or the settings have changed.
    """
    try:
        strategy.load_state_dict(state["strategy"])
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint in {folder} does not fit the network that its recipe builds now ({error}); "
            "use the version of the package that wrote it (environment.json names it), or train again"
        ) from error


def spec_from_plain(plain: dict[str, Any]) -> RunSpec:
    """The inverse of ``RunSpec.plain``."""
    from modalign.recipes import recipe_from_plain

    return RunSpec(**{**plain, "recipe": recipe_from_plain(plain["recipe"])})


@dataclass
class _State:
    """Where a run stands; all of it is in every checkpoint."""

    epoch: int = 0
    window: int = 0  # optimizer steps done within the epoch
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # loss terms x samples of the epoch so far
    samples: int = 0
    best: dict[str, Any] | None = None  # {"epoch", "metrics"} of the selected epoch
    stale: int = 0  # epochs since the best
    seconds: float = 0.0


class Trainer:
    """Fits one strategy; implements the ``Stepper`` that strategies see (its public attributes and methods)."""

    def __init__(
        self,
        devices: Devices,
        strategy: Strategy,
        data: MultimodalData,
        spec: RunSpec,
        run: Run,
        display: Display,
    ) -> None:
        self.devices, self.data, self.spec, self.run, self.display = devices, data, spec, run, display
        self.device, self.rank, self.world = devices.device, devices.rank, devices.world
        self.seed = spec.seed
        self.settings = spec.recipe.training
        self.epochs = self.settings.epochs
        self.strategy = strategy.to(self.device)
        self.optimizers = make_optimizers(strategy, self.settings)
        self.scaler = devices.scaler()
        self.sampler = _sampler(data, spec, self.rank, self.world)
        self.metric = self.settings.metric or primary_metric(data.task)
        self.state = _State()
        self._groups = strategy.parameter_groups()
        self._windows_per_epoch = math.ceil(len(self.sampler.global_batches()) / self.settings.accumulate)
        self._share = 1.0  # of the window's samples, times the number of processes
        self.world_scale = 1.0
        self._pending: list[
            tuple[dict[str, Tensor], Tensor]
        ] = []  # losses of steps not looked at yet, and their samples
        self._trained: set[int] = set()
        self._stop = False
        self._saved_at = self._resumed_at = time.monotonic()

    # What strategies see -------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epochs begun so far, from 0."""
        return self.state.epoch

    @property
    def step_index(self) -> int:
        """Optimizer steps so far."""
        return self.state.step

    @property
    def progress(self) -> float:
        """Share of all steps done, 0 to 1."""
        return self.state.step / max(1, self.epochs * self._windows_per_epoch)

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """See ``Stepper.backward``."""
        self._scaled(loss).backward(retain_graph=retain_graph)

    def gradients(self, loss: Tensor, wrt: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        """See ``Stepper.gradients``."""
        if not loss.requires_grad:
            return [torch.zeros_like(x) for x in wrt]
        found = torch.autograd.grad(self._scaled(loss), wrt, retain_graph=retain_graph, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(wrt, found, strict=True)]

    def backward_from(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """See ``Stepper.backward_from``."""
        pairs = [(x, g) for x, g in zip(tensors, gradients, strict=True) if x.requires_grad]
        if pairs:
            torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])

    def update(self, group: str) -> None:
        """See ``Stepper.update``."""
        optimizer, parameters = self.optimizers[group], self._groups[group]
        self.devices.average_gradients(parameters)
        self._trained.update(id(p) for p in parameters if p.grad is not None)
        if group == "main" and any(p.grad is not None for p in parameters):
            self.scaler.unscale_(optimizer)
            self.strategy.before_update(self)
            clip(parameters, self.settings.clip)
            self.scaler.step(optimizer)
        elif group != "main":
            self._update_within_step(optimizer, parameters)
        optimizer.zero_grad(set_to_none=True)

    def _update_within_step(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
        """Apply gradients of another group; the scaler counts one update a step, and this may come more often."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.scaler.is_enabled():
            torch._foreach_mul_(gradients, 1 / self.scaler.get_scale())
        if not self.scaler.is_enabled() or all(torch.isfinite(g).all() for g in gradients):
            optimizer.step()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See ``Stepper.all_gather``."""
        return self.devices.all_gather(tensor)

    def all_gather_live(self, tensor: Tensor) -> Tensor:
        """See ``Stepper.gather_live``."""
        return self.devices.all_gather_live(tensor)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See ``Stepper.all_reduce``."""
        return self.devices.all_reduce(tensor)

    def train_batches(self, limit: float = 1.0) -> Iterator[Batch]:
        """See ``Stepper.train_batches``."""
        self.data.train.set_epoch(None)
        total = len(self.data.train)
        count = min(total, max(self.world, round(limit * total)))
        # Spread over the split, which may be sorted by class.
        yield from self._ordered(self.data.train, [k * total // count for k in range(count)])

    def valid_batches(self) -> Iterator[Batch]:
        """See ``Stepper.valid_batches``."""
        yield from self._ordered(self.data.valid)

    # The loop ------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end of the budget, or until validation has stopped improving."""
        if self.run.resumable:
            self._restore()
        else:
            torch.manual_seed(_mixed(self.seed, self.rank))
            self.strategy.on_train_start(self)
            self._save()
        with self._signals(), self.display.training(self.epochs, self._windows_per_epoch, self.state.epoch):
            while self.state.epoch < self.epochs and not self._exhausted():
                self._train_epoch()
                self._validate()

    def _train_epoch(self) -> None:
        state, settings = self.state, self.settings
        self.sampler.set_epoch(state.epoch)
        self.data.train.set_epoch(state.epoch)
        self.strategy.train()
        if state.window == 0:
            self.strategy.on_epoch_start(self)
        size = settings.accumulate
        sizes = [len(batch) for batch in self.sampler.global_batches()]
        remaining = list(self.sampler)[state.window * size :]
        batches = iter(load_batches(self.data.train, remaining, settings.workers, self.device))
        for first in range(state.window * size, len(sizes), size):
            set_learning_rate(self.optimizers["main"], learning_rate(settings, self.progress))
            window = sizes[first : first + size]
            for count in window:
                self.micro_step(next(batches), count, sum(window))
            self._check_finite(len(self._pending) >= _CHECK_EVERY or self.device.type == "cpu")
            self.update("main")
            if self.scaler.is_enabled():
                self.scaler.update()
            state.window += 1
            state.step += 1
            self.display.step(state.epoch, state.window)
            self._save_if_due()
        self._check_finite(True)
        self.strategy.on_epoch_end(self)

    def micro_step(self, batch: Batch, size: int, window_size: int) -> None:
        """Gradients of one batch, of which this is one process's part.

        Args:
            batch: this process's samples.
            size: samples of the batch over all processes.
            window_size: samples of all batches that make one optimizer step.
        """
        batch = batch.to(self.device, non_blocking=True)
        self._share = len(batch) * self.world / window_size
        self.world_scale = size / len(batch)
        with self.devices.autocast():
            losses = self.strategy.step(batch, self)
        self._pending.append(({name: value.detach() for name, value in losses.items()}, batch.index))

    def _check_finite(self, due: bool) -> None:
        """Add the losses of the latest steps to the epoch's sums, and stop at the first that is not finite."""
        if not due:
            return
        state = self.state
        for losses, index in self._pending:
            state.samples += len(index)
            for name, value in losses.items():
                number = float(value)
                if not math.isfinite(number):
                    self._diverged(name, number, index)
                state.sums[name] = state.sums.get(name, 0.0) + number * len(index)
        self._pending.clear()

    def _diverged(self, term: str, value: float, index: Tensor) -> None:
        ids = [self.data.train.ids[i] for i in index.tolist()]
        shown = ", ".join(map(str, ids[:8])) + (f", ... ({len(ids)} samples)" if len(ids) > 8 else "")
        raise Diverged(
            f"loss term {term!r} became {value} in epoch {self.state.epoch + 1}, step {self.state.step}, "
            f"on the batch of samples {shown}. The last good checkpoint is kept in {self.run.folder}/checkpoints. "
            "Lower --training.lr, or set --training.clip 1"
        )

    def _validate(self) -> None:
        """Metrics on validation, selection, log, checkpoint: what ends an epoch."""
        state = self.state
        names = sorted(state.sums)
        sums = torch.tensor([*(state.sums[n] for n in names), state.samples], dtype=torch.float64)
        *totals, samples = self.all_reduce(sums.to(self.device, _float(self.device))).tolist()
        output, target = self.outputs(self.data.valid)
        if not torch.isfinite(output.logits).all():
            raise Diverged(
                f"the outputs on validation are no longer finite after epoch {state.epoch + 1}. The last good "
                f"checkpoint is kept in {self.run.folder}/checkpoints. Lower --training.lr, or set --training.clip 1"
            )
        self.strategy.calibrate(output, target)
        metrics = self._metrics(self.data.valid, output, quick=True)
        record = {
            "epoch": state.epoch,
            "step": state.step,
            "lr": learning_rate(self.settings, self.progress),
            "seconds": round(self._seconds(), 3),
            "train": {name: total / samples for name, total in zip(names, totals, strict=True)},
            "valid": metrics,
            "log": self.strategy.metrics(),
        }
        improved = state.best is None or _better(metrics, state.best["metrics"], self.metric)
        state.stale = 0 if improved else state.stale + 1
        if improved:
            state.best = {"epoch": state.epoch, "metrics": metrics}
        state.epoch, state.window, state.sums, state.samples = state.epoch + 1, 0, {}, 0
        if self.rank == 0:
            self.run.log(record)
            if improved:
                self.run.save("best", {"strategy": self.strategy.state_dict(), "epoch": state.epoch - 1})
        self._save()
        self.display.epoch(record, self.metric, improved)

    def outputs(self, split: Split) -> tuple[Output, Tensor]:
        """The strategy's outputs on a whole split in order, with its targets, on all processes."""
        self.strategy.eval()
        split.set_epoch(None)
        parts = []
        with torch.no_grad(), self.devices.autocast():
            for batch in self._ordered(split):
                parts.append(self.strategy(batch).to(self.device))
        mine = Output.cat(parts)
        gather = self.devices.all_gather
        whole = Output(
            {m: gather(z) for m, z in mine.features.items()},
            {m: gather(s) for m, s in mine.unimodal.items()},
            gather(mine.logits),
            gather(mine.present),
        )
        return whole, split.target.to(self.device)

    def _metrics(self, split: Split, output: Output, quick: bool = False) -> dict[str, float]:
        """All metrics of the task, or only those that select (``quick``, each epoch)."""
        task, units = self.data.task, self.data.sample_groups(split)
        scores = units.scores(task, task.log_probability(self.strategy.predict(output)).cpu())
        names = [self.metric, "nll"] if quick and task.kind == "classification" else None
        return compute_metrics(task, scores.numpy(), split.target[units.first].numpy(), names)

    # The end -------------------------------------------------------------------------------------------------

    def finish(self, test: bool, memory: PeakMemory) -> dict[str, Any]:
        """Score the last and the selected epoch, write predictions and result."""
        metrics: dict[str, dict[str, float]] = {}
        if test:
            metrics["test_last"] = self._metrics(self.data.test, self.outputs(self.data.test)[0])
        best = self.devices.broadcast(self.run.load("best") if self.rank == 0 else None)
        self.strategy.load_state_dict(best["strategy"])
        for name, split in [("valid", self.data.valid), ("test", self.data.test)][: 2 if test else 1]:
            output, target = self.outputs(split)
            metrics[name] = self._metrics(split, output)
            if self.rank == 0:
                self.run.write_predictions(name, self._predictions(split, output, target))
        settings = self.settings
        result = {
            "dataset": self.data.name,
            "strategy": self.spec.strategy,
            "variant": self.spec.variant or None,
            "title": self.spec.title or self.strategy.title,
            "seed": self.seed,
            "task": self.data.task.kind,
            "metric": self.metric,
            "trains_unimodal": self.strategy.trains_unimodal,
            "metrics": metrics,
            "selected_epoch": best["epoch"],
            "epochs": self.state.epoch,
            "seconds": round(self._seconds(), 3),
            "seconds_per_epoch": round(self._seconds() / max(1, self.state.epoch), 4),
            "parameters": self._trained_parameters(),
            "peak_memory_mb": round(memory.peak_mb(), 1),
            "fingerprint": self.data.fingerprint,
            "options": self.spec.options,
            "lr": settings.lr,
            "warnings": self._warnings(metrics),
        }
        if self.rank == 0:
            self.run.finish(result)
        self.devices.barrier()
        return result

    def _predictions(self, split: Split, output: Output, target: Tensor) -> dict[str, np.ndarray]:
        task = self.data.task
        unimodal = [task.log_probability(output.unimodal[m]) for m in self.data.modalities if m in output.unimodal]
        return {
            "ids": np.asarray([str(name) for name in split.ids]),
            "target": target.cpu().numpy(),
            "scores": task.log_probability(self.strategy.predict(output)).cpu().numpy(),
            "joint": task.log_probability(output.logits).cpu().numpy(),
            "unimodal": torch.stack(unimodal).cpu().numpy() if unimodal else np.zeros((0, len(split), task.outputs)),
            "present": output.present.cpu().numpy(),
            "groups": np.asarray([] if split.groups is None else split.groups).astype(str),
            "classes": np.asarray(task.classes, dtype=str),
            "modalities": np.asarray(list(self.data.modalities)),
        }

    def _trained_parameters(self) -> int:
        return sum(p.numel() for p in self.strategy.parameters() if id(p) in self._trained)

    def _warnings(self, metrics: dict[str, dict[str, float]]) -> list[str]:
        """What a reader of the result should know."""
        found = []
        if self.state.best is not None and self.state.best["epoch"] == self.epochs - 1 and self.epochs > 1:
            found.append("the last epoch is the best on validation: more epochs may give more")
        if "test" in metrics and self.metric == "accuracy":
            gap = metrics["valid"]["accuracy"] - metrics["test"]["accuracy"]
            if gap > 0.1:
                found.append(f"selection gap: accuracy on validation is {100 * gap:.1f} points above test")
        return found

    # Saving and going on -------------------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        stop = self.devices.any(self._stop)
        due = time.monotonic() - self._saved_at > 60 * self.settings.checkpoint_minutes
        if stop or self.devices.any(due):
            self._check_finite(True)
            self._save()
        if stop:
            raise Interrupted(
                f"stopped in epoch {self.state.epoch + 1} of {self.epochs}; {self.run.folder} can be resumed"
            )

    def _save(self) -> None:
        self.state.seconds = self._seconds()
        self._saved_at = self._resumed_at = time.monotonic()
        random = self.devices.all_gather(torch.get_rng_state().unsqueeze(0).to(self.device)).cpu()
        state = {
            "strategy": self.strategy.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "state": dict(vars(self.state)),
            "random": random,
            "cuda_random": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "trained": [id(p) in self._trained for p in self.strategy.parameters()],
        }
        if self.rank == 0:
            self.run.save("last", state)

    def _restore(self) -> None:
        saved = self.devices.broadcast(self.run.load("last") if self.rank == 0 else None)
        self.strategy.load_state_dict(saved["strategy"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.scaler.load_state_dict(saved["scaler"])
        self.state = _State(**saved["state"])
        if len(saved["random"]) != self.world:
            raise InputError(
                f"the run was started with {len(saved['random'])} process(es) and is resumed with {self.world}; "
                "resume with the same number"
            )
        torch.set_rng_state(saved["random"][self.rank].cpu())
        if saved["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_random"].cpu())
        self._trained = {id(p) for p, was in zip(self.strategy.parameters(), saved["trained"], strict=True) if was}
        self._resumed_at = time.monotonic()
        if self.rank == 0:
            self.run.forget_after(self.state.epoch)

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self._resumed_at

    def _exhausted(self) -> bool:
        return self.settings.patience is not None and self.state.stale >= self.settings.patience

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

    # Small parts ---------------------------------------------------------------------------------------------

    def _scaled(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss * self._share)

    def _ordered(self, split: Split, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """This process's part of a split (or of some ``rows``), every ``world``-th, in batches."""
        mine = list(range(len(split)) if rows is None else rows)[self.rank :: self.world]
        size = 2 * self.settings.batch_size
        batches = [mine[i : i + size] for i in range(0, len(mine), size)]
        for batch in load_batches(split, batches, self.settings.workers, self.device):
            yield batch.to(self.device, non_blocking=True)


def _train(
    devices: Devices, spec: RunSpec, data: MultimodalData | None, out: str, test: bool, quiet: bool
) -> dict[str, Any]:
    """The body of every process."""
    memory = PeakMemory(devices.device)
    data = load_data(spec.recipe.data) if data is None else data
    strategy = build_strategy(spec, data)
    run = Run(out)
    cached = spec.recipe.training.cache_features and bool(frozen_encoders(strategy.model))
    if cached:
        data = replace(data, notes=[*data.notes, *frozen_notes(strategy.model, data)])
    display = Display(strategy.title, data, out, quiet or devices.rank > 0)
    if devices.rank == 0 and not run.resumable:
        run.create(spec, data.notes, data.fingerprint, describe(data))
    devices.barrier()
    if cached:
        if run.resumable:  # the source of pretrained weights may have changed since
            last = devices.broadcast(run.load("last") if devices.rank == 0 else None)
            restore(strategy, last, out)
        data = with_cached_features(strategy.model, data, spec.recipe.training, devices.device, display, test)
    trainer = Trainer(devices, strategy, data, spec, run, display)
    trainer.fit()
    result = trainer.finish(test, memory)
    display.result(result)
    return result


def _sampler(data: MultimodalData, spec: RunSpec, rank: int, world: int) -> BalancedBatchSampler | ShuffledBatchSampler:
    """The order of samples; it does not depend on the method, nor on the number of processes.

    Raises:
        InputError: the sampler is unknown, or is to balance what is no discrete column.
    """
    settings, train = spec.recipe.training, data.train
    kind, _, column = settings.sampler.partition(":")
    if settings.sampler == "shuffle":
        return ShuffledBatchSampler(len(train), settings.batch_size, seed=spec.seed, rank=rank, world=world)
    if kind != "balanced":
        raise unknown("sampler", settings.sampler, ("shuffle", "balanced", "balanced:COLUMN"))
    if column:
        if column not in train.columns:
            raise unknown("column in training.sampler (columns are loaded with data.columns):", column, train.columns)
        codes, discrete = train.columns[column].values, train.columns[column].discrete
    else:
        codes, discrete = train.target, data.task.kind == "classification"
    if not discrete:
        raise InputError(
            f"training.sampler {settings.sampler!r} balances numbers; it needs classes or a discrete column"
        )
    return BalancedBatchSampler(
        codes, settings.batch_size, settings.samples_per_context, seed=spec.seed, rank=rank, world=world
    )


def check(spec: RunSpec, data: MultimodalData) -> None:
    """Build everything once, so that what cannot work is said before anything is written or started.

    Raises:
        InputError: see ``build_strategy``; or a budget, a sampler or a metric that cannot be used.
    """
    settings = spec.recipe.training
    strategy = build_strategy(spec, data, standardize=False)
    for name in ("epochs", "batch_size", "accumulate"):
        if getattr(settings, name) < 1:
            raise InputError(f"training.{name} is {getattr(settings, name)}; expected 1 or more")
    if settings.batch_size < settings.devices:
        raise InputError(
            f"training.batch_size {settings.batch_size} is over all processes and less than their number "
            f"{settings.devices}; raise it"
        )
    if not settings.lr > 0:
        raise InputError(f"training.lr is {settings.lr}; expected a positive number")
    for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if len(split) < settings.devices:
            raise InputError(
                f"the {name} split has {len(split)} sample(s), fewer than the {settings.devices} processes"
            )
    data.sample_groups(data.valid)
    _sampler(data, spec, 0, 1)
    if settings.metric is not None:
        rows = np.zeros((2, data.task.outputs)), data.valid.target[:2].numpy()
        known = compute_metrics(data.task, *rows)
        if settings.metric not in known:
            raise unknown("metric", settings.metric, known)
    make_optimizers(strategy, settings)


def _better(new: dict[str, float], old: dict[str, float], metric: str) -> bool:
    """Selection rule: the better metric on validation; among equals the lower negative log-likelihood."""
    sign = 1 if higher_is_better(metric) else -1
    if new[metric] != old[metric]:
        return sign * new[metric] > sign * old[metric]
    return new.get("nll", 0.0) < old.get("nll", 0.0)


def _mixed(seed: int, rank: int) -> int:
    """A seed for training that differs from the one of initial weights, and between processes."""
    return (seed * 1_000_003 + 97 * rank + 1) % 2**63


def _float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
