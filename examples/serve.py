"""Answer requests with a trained run over HTTP (pip install fastapi uvicorn).

modalign train digits --out runs/digits
MODALIGN_RUN=runs/digits uvicorn serve:app

curl localhost:8000/predict -H 'content-type: application/json' -d '{"samples": [{"left": [[[0.0, ...]]]}]}'
"""

import os
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import modalign

app = FastAPI(title="modalign")
run = modalign.load_run(os.environ["MODALIGN_RUN"])
shapes = {name: modality.shape for name, modality in run.strategy.info.modalities.items()}


class Request(BaseModel):
    """Samples: modality name to nested lists of numbers; what is missing is left out."""

    samples: list[dict[str, list[Any]]]


@app.post("/predict")
def predict(request: Request) -> list[dict[str, Any]]:
    """Return one answer a sample: class, confidence, probabilities, and what each modality says."""
    try:
        arrays = {
            name: np.array([one.get(name, np.full(shape, np.nan)) for one in request.samples], np.float32)
            for name, shape in shapes.items()
        }
        found = run.predict(arrays)
    except (ValueError, modalign.InputError) as error:
        raise HTTPException(422, str(error)) from error
    return found.astype(object).where(found.notna(), None).to_dict("records")
