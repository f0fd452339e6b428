"""Evaluation: measures guards on labelled records, and calibrates them."""

from .calibrate import calibrate
from .calibrated_bundle import write_calibrated_bundle
from .dataset import Example, read_label_map, read_labelled
from .evaluate import check_methods, evaluate
from .evaluation import Evaluation, Run
from .report.page import write_report

__all__ = [
    "Evaluation",
    "Example",
    "Run",
    "calibrate",
    "check_methods",
    "evaluate",
    "read_label_map",
    "read_labelled",
    "write_calibrated_bundle",
    "write_report",
]
