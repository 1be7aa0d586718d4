"""Trained runs on the Hugging Face Hub: weights as safetensors, descriptions as JSON, and a model card.

What is fetched is data: no code in it is run unless it is trusted, as with any run folder that somebody else wrote.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from modalign.errors import RunError, RunFolderError, SettingsError
from modalign.files import in_use, reading, write_whole
from modalign.reporting.diagnosis import evaluation_tables
from modalign.reporting.runs import compare, read_run
from modalign.reporting.tables import MetricFormat, data_card
from modalign.training.run import DESCRIPTIONS, RunFolder

_FILES = (*DESCRIPTIONS, "metrics.jsonl", "evaluation.json")
_WEIGHTS = "model.safetensors"


def pack(run: str | Path, folder: str | Path) -> Path:
    """Write what is published of a finished run into a new folder: descriptions, weights, code of one's own, a card.

    Args:
        run: the run folder.
        folder: a new or empty one.

    Raises:
        RunFolderError: the run is not finished, or the folder is in use.
    """
    source, folder = RunFolder(run), Path(folder)
    source.result()
    if in_use(folder):
        raise RunFolderError(f"{folder} is in use; expected a new or empty folder: choose another")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (source.folder / name).exists():
            shutil.copyfile(source.folder / name, folder / name)
    if (source.folder / "code").exists():
        shutil.copytree(source.folder / "code", folder / "code")
    weights = source.load("best")["strategy"]
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, folder / _WEIGHTS)
    write_whole(folder / "README.md", model_card(source.folder))
    return folder


def unpack(folder: str | Path, out: str | Path) -> Path:
    """Write the run folder of what ``pack`` wrote; nothing in it is run.

    Args:
        folder: what was fetched.
        out: a new or empty folder.

    Raises:
        RunFolderError: the folder is not what ``pack`` wrote, or ``out`` is in use.
    """
    folder, out = Path(folder), Path(out)
    lost = [name for name in ("recipe.yaml", "data.json", "network.json", "result.json", _WEIGHTS)
            if not (folder / name).is_file()]  # fmt: skip
    if lost:
        raise RunFolderError(f"{folder} lacks {', '.join(lost)}; expected a run that modalign published")
    if in_use(out):
        raise RunFolderError(f"{out} is in use; expected a new or empty folder: choose another out")
    with reading(folder / _WEIGHTS, "weights as safetensors", RunFolderError, "fetch it again"):
        weights = load_file(folder / _WEIGHTS)
    for name in _FILES:
        if (folder / name).is_file():
            write_whole(out / name, (folder / name).read_bytes())
    for path in sorted((folder / "code").rglob("*")) if (folder / "code").is_dir() else []:
        if path.is_file():
            write_whole(out / path.relative_to(folder), path.read_bytes())
    RunFolder(out).save("best", {"strategy": weights, "epoch": 0})
    write_whole(out / "done", "")
    return out


def push(run: str | Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a finished run as a new model repository, and return its address.

    Args:
        run: the run folder.
        name: ``USER/MODEL``.
        private: whether only its owner sees it.
        token: of the Hub; that of ``hf auth login`` by default.

    Raises:
        SettingsError: the name is taken or cannot be one.
        RunError: the Hub could not be reached, or refused.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as staged:
        packed = pack(run, Path(staged) / "model")
        try:
            api.create_repo(name, private=private, exist_ok=False)
            return str(api.upload_folder(repo_id=name, folder_path=packed, commit_message="A trained run of modalign"))
        except HFValidationError as error:
            raise SettingsError(f"{name!r} cannot name a repository ({error}); expected USER/MODEL") from error
        except HfHubHTTPError as error:
            if getattr(error.response, "status_code", None) == 409:
                raise SettingsError(f"the name {name!r} is taken; choose another") from error
            raise RunError(f"the Hub refused {name!r}: {error}") from error
        except Exception as error:  # of the client's transport, whichever that is: httpx's errors are no OSError
            raise RunError(f"the Hub could not be reached ({error}); the run is kept: repeat the call") from error


def pull(name: str, out: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch a published run, or take a folder that ``pack`` wrote, and return its run folder.

    Args:
        name: ``USER/MODEL``, or a local folder.
        out: a new or empty folder for the run.
        revision: commit, tag or branch.
        token: of the Hub, for private repositories.

    Raises:
        RunFolderError: it is no run that modalign published, or ``out`` is in use.
        RunError: the Hub could not be reached, or has no such repository.
    """
    if Path(name).is_dir():
        return unpack(name, out)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted: Any = [*_FILES, _WEIGHTS, "code/*"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            snapshot_download(name, revision=revision, token=token, local_dir=folder, allow_patterns=wanted)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise RunError(f"{name!r} could not be fetched ({error}); see its name and your token") from error
        return unpack(folder, out)


def model_card(run: str | Path) -> str:
    """Return the card of a run: what it is, its data, its scores with intervals, what each modality gives."""
    record = read_run(run)
    about, result = record.data(), record.result
    task = str((about.get("task") or {}).get("kind", result.get("task")))
    front = {"library_name": "modalign", "tags": ["modalign", "multimodal", task], "metrics": [result["metric"]]}
    head = yaml.safe_dump(front, sort_keys=False).strip()
    lines = ["---", head, "---", "", f"# {record.title} on {record.dataset}", ""]
    lines += ["## Scores on the test split", "", "| | value | 95 % interval, over test samples |", "|---|---:|---:|"]
    for row in compare([record]):
        form = MetricFormat(row.metric)
        lines.append(f"| {form.label} | {form(row.mean)} | {form.interval(row.ci_low, row.ci_high)} |")
    for name, value in (result["metrics"].get("test") or {}).items():
        if name != result["metric"]:
            lines.append(f"| {MetricFormat(name).label} | {MetricFormat(name)(value)} | |")
    tables, notes = data_card([record])
    evaluated = record.evaluation()
    if evaluated is not None:
        tables += [table for table in evaluation_tables(evaluated) if table.name == "modalities"]
    for table in tables:
        lines += ["", f"## {table.caption}", "", table.markdown()]
    if evaluated is None:
        lines += ["", "What each modality gives was not evaluated (`modalign evaluate` before publishing adds it)."]
    lines += ["", *(f"- {note}" for note in notes)]
    lines += ["", "## Use", "", "```python", "import modalign", "", "run = modalign.from_pretrained(NAME, out=FOLDER)",
              "run.predict(new_samples)", "```", ""]  # fmt: skip
    return "\n".join(lines)
