"""From files to arrays: audio, video, image and text.

One sample in, one array out. What is odd but usable (a silent recording, an image of one pixel, an empty
text) is decoded and remarked on; what cannot be decoded raises ``Unreadable``, which ``prepare`` collects.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from modalign.data.batch import Modality
from modalign.data.media.spectrograms import AUDIO_RECIPES
from modalign.domains import Range, fits
from modalign.errors import DataError, InputError, unknown
from modalign.files import write_whole

LFS = b"version https://git-lfs.github.com/spec/"
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
DEFAULTS: dict[str, dict[str, Any]] = {
    "audio": {"recipe": "ogm"},
    "image": {"size": 224},
    "video": {"frames": 3, "size": 224, "sampling": "segments", "keep": []},
    "frames": {"frames": 3, "size": 224},
    "text": {"vocabulary": "", "length": 64},
}
"""Options of each kind of decoder. Text is decoded only where ``vocabulary`` names a tokenizer."""
SAMPLINGS = ("segments", "seconds", "half-seconds")  # of a video's frames
PIXELS = 100_000_000  # of one image or frame: more is a mistake, or made to fill the memory
LONGEST = 6 * 3600.0  # seconds of one recording
DECLARED_SHARE = 0.5  # a file that holds less than this share of the length it declares was cut off


class Unreadable(DataError):
    """One file cannot be decoded; the message is the reason, for the list of unreadable samples."""


def check(path: str | Path) -> Path:
    """Return the path, if a file lies there that can hold data.

    Raises:
        Unreadable: nothing is there, it is empty, or it is a git-LFS pointer of some 130 bytes in place
            of the file.

    >>> check("nowhere.wav")
    Traceback (most recent call last):
        ...
    modalign.data.media.decoders.Unreadable: no such file: nowhere.wav
    """
    path = Path(path)
    if not path.is_file():
        raise Unreadable(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise Unreadable(f"empty file: {path}")
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise Unreadable(f"a git-LFS pointer, not the file itself (run `git lfs pull` in its repository): {path}")
    return path


@contextmanager
def opened(path: str | Path, kind: str, start: float = 0.0, stop: float | None = None) -> Iterator[tuple[Any, Any]]:
    """A file opened for decoding, and its first stream of ``kind``; FFmpeg's errors become ``Unreadable``."""
    import av

    av.logging.set_level(av.logging.PANIC)
    if stop is not None and stop <= start:
        raise Unreadable(f"a range of no length, {start:g} s to {stop:g} s: {path}")
    try:
        with av.open(os.fspath(check(path))) as container:
            streams = getattr(container.streams, kind)
            if not streams:
                raise Unreadable(f"no {kind} stream: {path}")
            streams[0].codec_context.thread_count = 1
            if kind == "video" and (size := streams[0].codec_context.width * streams[0].codec_context.height) > PIXELS:
                raise Unreadable(f"frames of {size:,} pixels; expected at most {PIXELS:,}: {path}")
            yield container, streams[0]
    except (av.FFmpegError, EOFError) as error:
        raise Unreadable(f"cannot be decoded ({getattr(error, 'strerror', error)}): {path}") from error


def read_wave(path: str | Path, rate: int, start: float = 0.0, stop: float | None = None) -> np.ndarray:
    """The audio of a file between two times (s), one channel at ``rate`` Hz: (N,) float32 in about [-1, 1].

    Reads whatever FFmpeg reads (WAV, MP3 in FLV, AAC in MP4); resampled by FFmpeg's ``swresample``.
    Silence is data. A times' range beyond the end gives what there is.

    Raises:
        Unreadable: no audio stream, no sample in the range, a range of no length, or less than half the
            length that the file declares.
    """
    from av import AudioResampler

    with opened(path, "audio", start, stop) as (container, stream):
        resampler = AudioResampler(format="flt", layout="mono", rate=rate)
        pieces, length = [], 0
        for frame in container.decode(stream):
            for out in resampler.resample(frame):
                pieces.append(out)
                length += out.samples
            if length > LONGEST * rate:
                raise Unreadable(f"longer than {LONGEST / 3600:g} hours: {path}")
        pieces += resampler.resample(None) if pieces else []
        declared = _declared_seconds(container, path)
    wave = np.concatenate([piece.to_ndarray().ravel() for piece in pieces] or [np.zeros(0, np.float32)])
    if len(wave) < DECLARED_SHARE * declared * rate:
        raise Unreadable(f"cut off: {len(wave) / rate:.2f} s of {declared:.2f} s declared: {path}")
    wave = wave[round(start * rate) : None if stop is None else round(stop * rate)]
    if not len(wave):
        raise Unreadable(f"no audio in {start:g} s to {'the end' if stop is None else f'{stop:g} s'}: {path}")
    return wave.astype(np.float32)


def decode_audio(
    path: str | Path, start: float = 0.0, stop: float | None = None, *, recipe: str
) -> tuple[np.ndarray, str]:
    """The audio of a file under a named recipe (see ``spectrograms``), and a remark ("silent") or "".

    A silent recording is kept: every recipe gives finite values for it.
    """
    if recipe not in AUDIO_RECIPES:
        raise unknown("audio recipe", recipe, AUDIO_RECIPES)
    chosen = AUDIO_RECIPES[recipe]
    wave = read_wave(path, chosen.rate, start, stop)
    return chosen.transform(wave), "silent recording" if np.ptp(wave) == 0 else ""


def segment_centers(available: int, wanted: int) -> list[int]:
    """Indices of ``wanted`` of ``available`` frames: the middle of each of ``wanted`` equal segments, in
    order.

    Repeats frames where there are fewer than wanted.

    >>> segment_centers(9, 3), segment_centers(2, 3)
    ([1, 4, 7], [0, 1, 1])
    """
    return [int((i + 0.5) * available / wanted) for i in range(wanted)]


def sample_frames(sampling: str, count: int, fps: float, seconds: tuple[float, float | None]) -> list[int]:
    """Return which of ``count`` frames of a video are candidates, by number from 0, as the published scripts save them.

    Args:
        sampling: ``seconds``: every int(fps)-th frame, of events those of the seconds from the first to the last, both
            counted (OGM-GE's and PMR's scripts of CREMA-D and AVE). ``half-seconds``: ten frames, that in the middle of
            each second; where the video has ended they go round in what the last whole second leaves (OGM-GE's
            script ``video2frame-1fps``, which counts frames from 1; MMPareto and D&R refer to it).
        count: frames of the whole video.
        fps: frames a second.
        seconds: begin and end of the event; the end is None for the whole video.

    >>> sample_frames("seconds", 75, 29.97, (0, None)), sample_frames("seconds", 300, 29.97, (2, 4))
    ([0, 29, 58], [58, 87, 116])
    >>> sample_frames("half-seconds", 82, 29.97, (0, None))
    [14, 44, 74, 60, 68, 76, 62, 70, 78, 64]
    """
    if sampling == "seconds":
        step, (start, stop) = max(1, int(fps)), seconds
        last = count if stop is None else int(stop)
        return [k * step for k in range(int(start), last + 1) if k * step < count]
    left = int(count % fps) or max(1, int(fps))
    whole = count - left
    saved = [round((second + 0.5) * fps) for second in range(10)]
    saved = [at if at <= count else whole + 1 + (at - whole - 1) % left for at in saved]
    return [min(max(at - 1, 0), count - 1) for at in saved]


def decode_video(
    path: str | Path,
    start: float = 0.0,
    stop: float | None = None,
    *,
    frames: int,
    size: int,
    sampling: str = "segments",
    keep: Sequence[int] = (),
) -> tuple[np.ndarray, str]:
    """``frames`` frames of a video between two times (s), (frames, 3, size, size) uint8, and a remark or "".

    Frames squeezed to a square by FFmpeg (bicubic). With the sampling ``segments`` they come from the middle of equal
    segments of the range, in order of time; otherwise they are the first of ``sample_frames``, and of these only those
    to ``keep``, if any are named. A video with fewer frames than wanted repeats some, with a remark.

    Raises:
        Unreadable: no video stream, no frame in the range, or less than half the length that the file
            declares.
    """
    with opened(path, "video", start, stop) as (container, stream):  # when each frame begins (s), without decoding
        stamps = [(p.dts if p.pts is None else p.pts) for p in container.demux(stream) if p.size]
        times = [float(stamp * stream.time_base) for stamp in sorted(stamp for stamp in stamps if stamp is not None)]
        fps = float(stream.average_rate or 1)
        seconds = times[-1] - times[0] + 1 / fps if times else 0.0
        declared = _declared_seconds(container, path)
    if seconds < DECLARED_SHARE * declared:
        raise Unreadable(f"cut off: {seconds:.2f} s of {declared:.2f} s declared: {path}")
    inside = [t for t in times if t - times[0] >= start and (stop is None or t - times[0] < stop)]
    if not inside:
        raise Unreadable(f"no frame in {start:g} s to {'the end' if stop is None else f'{stop:g} s'}: {path}")
    if sampling != "segments":
        inside = [times[i] for i in sample_frames(sampling, len(times), fps, (start, stop))] or inside
    enough = sampling != "segments" and len(inside) >= frames
    wanted = inside[:frames] if enough else [inside[i] for i in segment_centers(len(inside), frames)]
    wanted = [wanted[i] for i in keep] or wanted
    order = sorted(range(len(wanted)), key=wanted.__getitem__)  # the video runs once, in order of time
    pictures: list[np.ndarray] = []
    with opened(path, "video") as (container, stream):
        for frame in container.decode(stream):
            due = sum((frame.time or 0.0) >= wanted[i] - 1e-6 for i in order[len(pictures) :])
            if due:  # only these are scaled, which costs more than decoding
                picture = frame.reformat(width=size, height=size, format="rgb24", interpolation="BICUBIC")
                pictures += [picture.to_ndarray()] * due
            if len(pictures) == len(wanted):
                break
    if len(pictures) < len(wanted):
        at = wanted[order[len(pictures)]] - times[0]
        raise Unreadable(f"the frame at {at:.2f} s cannot be decoded: {path}")
    clip = np.ascontiguousarray(np.stack(pictures)[np.argsort(order)].transpose(0, 3, 1, 2))
    return clip, f"only {len(inside)} frames" if len(inside) < frames else ""


def _declared_seconds(container: Any, path: str | Path) -> float:
    """The length that a file says it has, 0 where it says nothing."""
    if container.format.name == "wav":  # FFmpeg reports what there is; the header knows what there should be
        with Path(path).open("rb") as file:
            bytes_declared = int.from_bytes(file.read(8)[4:], "little") + 8
        context = container.streams.audio[0].codec_context
        per_second = context.sample_rate * max(1, context.channels) * max(1, context.format.bytes)
        return 0.0 if bytes_declared >= 2**31 else bytes_declared / per_second
    return float(container.duration or 0) / 1e6


def decode_image(path: str | Path, size: int, box: tuple[int, int, int, int] | None = None) -> tuple[np.ndarray, str]:
    """An image, or its ``box`` (left, upper, right, lower), as (3, size, size) uint8, and a remark or "".

    Squeezed to a square (bilinear).

    Grey, palette and CMYK images become RGB. An image of a few pixels is enlarged, with a remark below 8
    x 8; one pixel gives one color everywhere.

    Raises:
        Unreadable: not an image, cut off, or smaller than the box.
    """
    from PIL import Image

    path = check(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > PIXELS:
                raise Unreadable(f"image of {width} x {height} pixels; expected at most {PIXELS:,}: {path}")
            if box is not None and (width < box[2] or height < box[3]):
                raise Unreadable(f"image of {width} x {height} pixels, which has no part {box}: {path}")
            part = image if box is None else image.crop(box)
            square = part.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except Unreadable:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, MemoryError) as error:
        raise Unreadable(f"not a readable image ({error}): {path}") from error
    tiny = f"image of {width} x {height} pixels" if min(width, height) < 8 else ""
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), tiny


def decode_folder(path: str | Path, frames: int, size: int) -> tuple[np.ndarray, str]:
    """``frames`` images of a folder, (frames, 3, size, size) uint8, and a remark or "".

    The images are sorted by name and taken from the middle of equal segments.

    Raises:
        Unreadable: the folder has no images, or one cannot be read.
    """
    files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise Unreadable(f"no images in the folder {path}; expected files that end in {', '.join(PICTURES)}")
    chosen = [decode_image(files[i], size)[0] for i in segment_centers(len(files), frames)]
    return np.stack(chosen), f"only {len(files)} frames" if len(files) < frames else ""


def decode_text(text: str, vocabulary: str, length: int) -> tuple[np.ndarray, str]:
    """Token ids of a text, (length,) int64, padded; the attention mask is ``ids != padding``. And a
    remark or "".

    Longer texts are cut after ``length`` tokens, the closing one kept. An empty text is its opening and
    closing token, so that no sample is masked out altogether.
    """
    encoded = tokenizer(vocabulary)(text, truncation=True, max_length=length, padding="max_length")
    return np.asarray(encoded["input_ids"], np.int64), "" if text.strip() else "empty text"


def decode_cells(decoder: Decoder, cells: Sequence[str], ids: Sequence[str], folder: Path) -> np.ndarray:
    """Return what the cells of a column stand for, (N, *shape), zeros for empty ones.

    Args:
        decoder: with ``gaps``.
        cells: paths of files, or texts.
        ids: what rows are called in messages.
        folder: paths are relative to it.

    Raises:
        DataError: with every row that cannot be read.
    """
    if decoder.described["kind"] != "text":
        cells = [cell and str(folder / cell) for cell in cells]

    def decoded(cell: str) -> tuple[np.ndarray | None, str]:
        try:
            return decoder((cell,))[0], ""
        except (InputError, OSError, ValueError, ArithmeticError, LookupError) as error:
            return None, str(error)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(decoded, cells))
    wrong = [f"  row {row} (id {ids[row]}): {reason}" for row, (array, reason) in enumerate(found) if array is None]
    if wrong:
        name = decoder.modality.name
        raise DataError(f"{len(wrong)} rows of {name!r} cannot be read\n" + "\n".join(wrong))
    return np.stack([array for array, _ in found if array is not None])


@lru_cache(maxsize=4)
def tokenizer(vocabulary: str, fetch: bool = True) -> Any:
    """The tokenizer of a pretrained model by name, of a local folder, or of a ``vocab.txt`` (BERT's word
    pieces).

    Args:
        vocabulary: see above; or what ``export_tokenizer`` gave.
        fetch: from the hub, where it is not on this machine.

    Raises:
        InputError: it can neither be found here nor fetched.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if vocabulary.startswith("{"):
        kept = json.loads(vocabulary)
        backend = Tokenizer.from_str(kept["tokenizer"])
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=kept["pad_token"])
    if vocabulary.endswith(".txt"):
        if not Path(vocabulary).is_file():
            raise DataError(f"no vocabulary file at {vocabulary}.")
        return BertTokenizer(vocab=vocabulary)
    try:
        return AutoTokenizer.from_pretrained(vocabulary, local_files_only=not fetch)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no tokenizer {vocabulary!r}: it is no local folder and could not be fetched from the hub. Give "
            "a folder that holds one, a vocab.txt, or 'train' to build one from the training texts."
        ) from error


@dataclass(frozen=True)
class Decoder:
    """How one modality is decoded.

    Attributes:
        modality: what it becomes.
        dtype: of the array.
        function: called with a sample's source; gives an array of the modality's shape, and a remark or "".
            At the top level of a module, so that other processes find it.
        options: further keyword arguments of ``function``.
        gaps: an empty cell is decoded to zeros: the modality is absent there.
        described: ``kind`` and options as ``make_decoder`` takes them; empty where that cannot make it.

    >>> make_decoder("voice", {"kind": "audio"}, gaps=True)(("",))[0].shape
    (1, 257, 188)
    """

    modality: Modality
    dtype: str
    function: Callable[..., tuple[np.ndarray, str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    gaps: bool = False
    described: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, source: Sequence[Any]) -> tuple[np.ndarray, str]:
        """Return the array of one sample, its shape checked, and a remark."""
        if self.gaps and not source[0]:
            return np.zeros(self.modality.shape, self.dtype), ""
        array, remark = self.function(*source, **self.options)
        if array.shape != self.modality.shape:
            raise Unreadable(f"decoded to shape {array.shape}; expected {self.modality.shape}")
        return array, remark


def make_decoder(name: str, described: Mapping[str, Any], gaps: bool = False) -> Decoder:
    """Return the decoder of a modality by its kind and options, as a manifest's YAML or a run describes it.

    Args:
        name: of the modality.
        described: ``kind`` (``audio``, ``image``, ``video``, ``frames``, ``text``) and options (see ``DEFAULTS``).
        gaps: an empty cell means that the modality is absent.

    Raises:
        InputError: an option that does not exist or is outside its range.

    >>> make_decoder("face", {"kind": "image", "size": 32}).modality.shape
    (3, 32, 32)
    """
    kind = described["kind"]
    given = {key: value for key, value in described.items() if key != "kind"}
    for option in given:
        if option not in DEFAULTS[kind]:
            raise unknown(f"option of {kind} modality {name!r}:", option, DEFAULTS[kind])
    options = {**DEFAULTS[kind], **given}
    for option in ("size", "frames", "length"):
        if not (isinstance(options.get(option, 1), int) and options.get(option, 1) >= 1):
            raise DataError(f"{option} of modality {name!r} is {options[option]!r}; expected a whole number from 1")
    size, frames = options.get("size", 0), options.get("frames", 0)
    if kind == "video":
        sampling, keep = options["sampling"], options["keep"]
        if sampling not in SAMPLINGS:
            raise unknown(f"sampling of modality {name!r}:", str(sampling), SAMPLINGS)
        if not fits(keep, list[Annotated[int, Range(least=0, below=frames)]]):
            raise DataError(f"keep of modality {name!r} is {keep!r}; expected numbers of its {frames} frames, from 0")
        # What is as it always was is not told, so that folders of earlier versions describe the same.
        told = {key: options[key] for key in ("sampling", "keep") if options[key] != DEFAULTS[kind][key]}
        options, frames = {"frames": frames, "size": size, **told}, len(keep) or frames
    form: tuple[Modality, str, Callable[..., tuple[np.ndarray, str]]]
    if kind == "audio":
        if options["recipe"] not in AUDIO_RECIPES:
            raise unknown("audio recipe", options["recipe"], AUDIO_RECIPES)
        form = Modality(name, "image", AUDIO_RECIPES[options["recipe"]].shape), "<f4", decode_audio
    elif kind == "image":
        form = Modality(name, "image", (3, size, size)), "|u1", decode_image
    elif kind == "text":
        tokens = tokenizer(options["vocabulary"])
        form = Modality(name, "text", (options["length"],), len(tokens), tokens.pad_token_id), "<i4", decode_text
    else:
        clip = decode_video if kind == "video" else decode_folder
        form = Modality(name, "clip", (frames, 3, size, size)), "|u1", clip
    return Decoder(*form, options, gaps, {"kind": kind, **options})


@lru_cache(maxsize=4)
def token_reader(vocabulary: str) -> Callable[[list[int]], str] | None:
    """Return what turns the token ids of a pretrained tokenizer back into text, without its marks of begin and end.

    Args:
        vocabulary: as for ``tokenizer``: name of a pretrained model, local folder, or ``vocab.txt``.

    Returns:
        The reader; None where the vocabulary is not on this machine, for nothing is fetched to show a text.
    """
    try:
        known = tokenizer(vocabulary, fetch=False)
    except (OSError, ValueError):
        return None
    return lambda ids: str(known.decode(ids, skip_special_tokens=True))


def export_tokenizer(vocabulary: str) -> str:
    """Return a tokenizer as text that ``tokenizer`` reads on any machine; its name where it is not on this one."""
    try:
        found = tokenizer(vocabulary, fetch=False)
    except DataError:
        return vocabulary
    backend = getattr(found, "backend_tokenizer", None)
    return vocabulary if backend is None else json.dumps({"tokenizer": backend.to_str(), "pad_token": found.pad_token})


def build_vocabulary(texts: Iterable[str], path: Path, size: int = 30_522) -> Path:
    """Write a ``vocab.txt`` in BERT's form from the words of ``texts``, where no pretrained one can be had.

    BERT's special tokens (padding is id 0), every character alone and as a continuation, then the most
    frequent words (ties by alphabet) up to ``size``: a word outside falls into characters. Counted, not
    learned, because the usual training of word pieces gives another order of ids at every run.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalize, divide = BertNormalizer(lowercase=True).normalize_str, BertPreTokenizer().pre_tokenize_str
    counts = Counter(word for text in texts for word, _ in divide(normalize(text)))
    characters = sorted({character for word in counts for character in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    frequent = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    pieces += frequent[: max(0, size - len(pieces))]
    return write_whole(path, "".join(f"{piece}\n" for piece in pieces))
