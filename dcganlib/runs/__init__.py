"""Runs in folders: train, resume, read back, sample; and the runs in the package."""

from dcganlib.runs.context import Collapsed, Stopped
from dcganlib.runs.folder import (
    PRETRAINED,
    Run,
    find,
    load_data,
    moved,
    pretrained,
    read,
    read_config,
    results,
)
from dcganlib.runs.measurements import diagnose, measure
from dcganlib.runs.onnx_export import export_onnx
from dcganlib.runs.report_page import save_report
from dcganlib.runs.sampling import sample, save_sample
from dcganlib.runs.session import open_session, resume, run
from dcganlib.runs.web_page import save_web_page

__all__ = [
    "PRETRAINED",
    "Collapsed",
    "Run",
    "Stopped",
    "diagnose",
    "export_onnx",
    "find",
    "load_data",
    "measure",
    "moved",
    "open_session",
    "pretrained",
    "read",
    "read_config",
    "results",
    "resume",
    "run",
    "sample",
    "save_report",
    "save_sample",
    "save_web_page",
]
