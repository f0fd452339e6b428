"""Calibration: raw probabilities to calibrated ones, and thresholds with a target or a guarantee."""

from .calibration import Calibration
from .operating_point import Target
from .prior_shift import with_prior
from .risk_control import Guarantee
from .thresholds_file import read_thresholds

__all__ = ["Calibration", "Guarantee", "Target", "read_thresholds", "with_prior"]
