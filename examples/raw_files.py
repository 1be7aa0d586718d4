"""Raw sound, video and text: a table that names files, a model, and predictions for new files it has never seen.

The files are made here, so that the example runs anywhere; put your own in their place.
Run: python examples/raw_files.py
"""

import tempfile
import wave
from pathlib import Path

import av
import numpy as np
import pandas as pd

import modalign
from modalign.data.media.manifest_media import prepare_manifest

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)


def record(name: str, loud: bool) -> dict[str, str]:
    """Write a recording and a video of one patient, and return the row that names them."""
    sound = rng.normal(size=8000) * (6000 if loud else 2000)
    with wave.open(str(folder / f"{name}.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(sound.astype("<i2").tobytes())
    with av.open(str(folder / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(8):
            picture = rng.integers(0, 255 if loud else 120, size=(32, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    note = rng.choice(["calm night", "slept well"] if not loud else ["bad cough", "short of breath"])
    return {"id": name, "cough": f"{name}.wav", "face": f"{name}.mp4", "note": str(note)}


# A manifest: one row a sample, one column a modality, a label; the YAML beside it says how files are decoded.
table = pd.DataFrame([record(f"p{i}", i % 2 == 1) | {"label": ["well", "ill"][i % 2]} for i in range(48)])
table.to_csv(folder / "study.csv", index=False)
(folder / "study.yaml").write_text(
    "modalities:\n  cough: {kind: audio, recipe: digit}\n  face: {kind: video, frames: 2, size: 16}\n  note: text\n"
)

print(prepare_manifest(folder / "study.csv", folder / "prepared"))  # decoded once, checked, cached
run = modalign.train(str(folder / "prepared"), "modalign", epochs=4, width=16, out=folder / "run")

# New files, through a table as before but without labels. One patient has no video.
new = pd.DataFrame([record("new1", True), record("new2", False) | {"face": None}])
new.to_csv(folder / "new.csv", index=False)
print(run.predict(folder / "new.csv")[["id", "predicted", "confidence", "face_present"]])
