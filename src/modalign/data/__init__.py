"""Data: what a batch, a task and a data set are, and how tables, raw files and objects become one."""

from modalign.data.batch import Batch, Modality, Output
from modalign.data.dataset import Column, MultimodalData, Split
from modalign.data.info import ColumnInfo, DataInfo
from modalign.data.load import load_data
from modalign.data.tables.arrays import from_arrays
from modalign.data.task import Task, classification

__all__ = [
    "Batch",
    "Column",
    "ColumnInfo",
    "DataInfo",
    "Modality",
    "MultimodalData",
    "Output",
    "Split",
    "Task",
    "classification",
    "from_arrays",
    "load_data",
]
