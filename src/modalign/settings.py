"""A recipe: everything that determines a run, as plain dataclasses. Imports no torch, so that help is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from modalign.domains import Checked, Count, Decay, NonNegative, Part, Positive, Range, Seed, Share, Whole, Width, Words


@dataclass
class DataSettings(Checked):
    """Which data, and how it is split.

    Args:
        name: a data set of the package (see ``modalign datasets``), or how the table calls the data of ``path``.
        title: what tables call it, where one data set is compared under several splits or options.
        path: file or folder of the data: ``.npz``, Parquet, a manifest, ``.h5ad``, ``.h5mu``, or what ``modalign
            prepare`` wrote.
        modalities: names of the modalities to use; all by default.
        label: name of the label column (arrays and manifests); of several columns a list, or their names with commas.
        split: ``COLUMN==VALUE``: the rows that are the test split (also ``!=``, ``<``, ``>=``, ``in a|b``); ``none``:
            all rows are learned from or validate, and nothing is tested.
        group: column whose values must not be divided between splits (patient, speaker, video).
        kinds: modality name to ``vector``, ``sequence``, ``image``, ``clip`` or ``text`` where the shape is ambiguous.
        columns: further columns to load as possible contexts T.
        conditions: modality name to columns or arrays that are known at prediction too and tell how far that modality
            is to be trusted in a sample (detected events, a quality score); the fusion ``context`` reads them.
        valid_fraction: share of the training rows carved out for validation where the data has no such split.
        split_seed: seed of that carving, independent of the seed of training.
        fold: number of an outer split, from 0, in place of what ``split`` says: folds of repeated stratified
            cross-validation that divide no group; None for the one split of the data.
        folds: folds of a repetition (4 by default; fold 4 is then the first of the second repetition), or the name of a
            column each of whose values is a fold (a repetition, a speaker, folds that came with the data).
        valid_seed: seed of the carving of validation alone, where it is to differ from ``split_seed``.
        options: arguments of the data set's own ``load`` function.
        class_path: a data set of one's own: import path of a class or function that returns one of the forms that
            ``modalign.load_data`` takes (arrays by name, a table, a ``torch.utils.data.Dataset``, splits of these).
        init_args: arguments of ``class_path``.
        caution: why scores on this data are shown but left out of averages over data sets, in words; None if they are
            not.

    >>> DataSettings(name="digits", title="digits-halves").shown
    'digits-halves'
    """

    where: ClassVar[str] = "data."

    name: str = ""
    title: str | None = None
    path: str | None = None
    modalities: list[str] | None = None
    label: str | list[str] | None = None
    split: str | None = None
    group: str | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    conditions: dict[str, list[str]] = field(default_factory=dict)
    valid_fraction: Annotated[float, Range(above=0, below=1)] = 0.15
    split_seed: Seed = 0
    fold: Whole | None = None
    folds: Annotated[int, Range(least=2, most=1000)] | str | None = None
    valid_seed: Seed | None = None
    options: dict[str, Any] = field(default_factory=dict)
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    caution: str | None = None

    def __post_init__(self) -> None:
        """Check all values; a list of labels becomes one text, ``A,B``."""
        super().__post_init__()
        if isinstance(self.label, (list, tuple)):
            self.label = ",".join(self.label) or None

    @property
    def shown(self) -> str:
        """What tables and folders call the data."""
        return self.title or self.name


@dataclass
class ModelSettings(Checked):
    """Encoders, fusion and heads.

    Args:
        width: number of features D of each encoder, unless the encoder says otherwise.
        fusion: ``auto`` (what the method asks for: ``context`` for ModAlign where the data has conditions, else
            ``concat``), ``concat``, ``sum``, ``gated``, ``film``, ``tensor``, ``attention`` or ``context``; or a module
            of one's own, by its import path (``package.module.Class``), whose arguments are ``fusion_options``.
        encoders: modality name to encoder settings (``name`` and its arguments, or ``class_path`` and
            ``init_args`` of a module of one's own); by kind where absent.
        fusion_options: arguments of the fusion module.
        dropout: dropout on the features before the heads.

    >>> ModelSettings(width=32, encoders={"image": {"name": "conv"}}).fusion
    'auto'
    """

    where: ClassVar[str] = "model."

    width: Width = 64
    fusion: str = "auto"
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)
    fusion_options: dict[str, Any] = field(default_factory=dict)
    dropout: Decay = 0.0


@dataclass
class TrainingSettings(Checked):
    """Budget and optimizer, the same for every method.

    Args:
        epochs: passes over the training split.
        batch_size: samples per step over all processes.
        optimizer: ``sgd`` (momentum), ``adamw`` or ``adam``.
        lr: peak learning rate.
        momentum: SGD momentum.
        weight_decay: decay of weights (not of biases and norms).
        schedule: ``cosine``, ``constant`` or ``step``, after warm-up.
        step_at: shares of the epochs after which the schedule ``step`` multiplies the learning rate by ``step_factor``.
        step_factor: see ``step_at``.
        warmup: share of all steps over which the learning rate rises from zero.
        clip: largest norm of the gradient, None for no clipping.
        accumulate: batches whose gradients are added before a step.
        precision: ``fp32``, ``bf16`` or ``fp16`` (mixed).
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: processes to start here; ``torchrun`` overrides it.
        sampler: ``shuffle``, ``balanced`` (batches of several samples of each of some classes) or ``balanced:COLUMN``;
            every sample still comes once an epoch.
        samples_per_context: samples of a class that come together with the balanced sampler.
        selection: weights that are kept and scored: of the ``last`` epoch, of the epoch that is ``best`` on validation,
            or the ``average`` of about the last tenth of the training (exponential moving average). Over the 648 runs
            of the comparison of methods the last was better than the best on validation.
        metric: what selects the epoch on validation, and what patience looks at; the task's first metric by default.
        temperature: divide the scores of classes by a temperature fitted to validation, for every method alike.
        patience: epochs without improvement after which training stops, None for never; choose ``selection: best`` with
            it, which keeps the weights before them.
        workers: loader processes for data that is decoded on the fly.
        checkpoint_minutes: longest time between two checkpoints within an epoch.
        encoder_lr: modality name to a factor on the learning rate of its encoder. 0 keeps its weights, while dropout
            and batch norms go on as in training; ``frozen: true`` of an encoder is what fixes its features.
        cache_features: compute the features of frozen encoders once and keep them in ``~/.cache/modalign``, or in the
            folder that the environment variable ``MODALIGN_CACHE`` names; off: compute them at every step.
        logger: experiment tracker that is told of every epoch, beside the run folder: ``csv``, ``tensorboard``,
            ``wandb``, ``mlflow`` (extras of these names), or ``none``.

    >>> TrainingSettings(epochs=5).optimizer
    'adamw'
    """

    where: ClassVar[str] = "training."

    epochs: Count = 30
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw", "adam"] = "adamw"
    lr: Positive = 1e-3
    momentum: Decay = 0.9
    weight_decay: NonNegative = 1e-4
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    step_at: list[Share] = field(default_factory=lambda: [0.7])
    step_factor: Part = 0.1
    warmup: Share = 0.05
    clip: Positive | None = None
    accumulate: Count = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Count = 1
    sampler: Annotated[str, Words(("shuffle", "balanced", "balanced:COLUMN"))] = "shuffle"
    samples_per_context: Count = 8
    selection: Literal["last", "best", "average"] = "last"
    metric: str | None = None
    temperature: bool = True
    patience: Count | None = None
    workers: Whole = 0
    checkpoint_minutes: NonNegative = 10.0
    encoder_lr: dict[str, NonNegative] = field(default_factory=dict)
    cache_features: bool = True
    logger: Literal["none", "csv", "tensorboard", "wandb", "mlflow"] = "none"


@dataclass
class Recipe(Checked):
    """Everything that determines a run but its seed.

    Args:
        data: which data.
        model: which network.
        training: which budget and optimizer.
        strategies: strategy name to its options, where they differ from the defaults; ``training`` among them holds
            training settings that are this method's own (``{modalign: {training: {sampler: balanced}}}``).

    >>> Recipe(DataSettings("digits"), strategies={"infonce": {"weight": 0.1}}).training.epochs
    30
    """

    where: ClassVar[str] = ""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)


def selected(result: Mapping[str, Any]) -> str:
    """Return in words which weights of a run are scored.

    >>> selected({"selected_epoch": 4, "selection": "last"})
    'weights of the last epoch, 5'
    """
    epoch = result["selected_epoch"] + 1
    words = {"last": f"weights of the last epoch, {epoch}", "average": f"weights averaged up to epoch {epoch}"}
    return words.get(result.get("selection", ""), f"epoch {epoch} selected on validation")
