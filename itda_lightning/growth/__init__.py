"""Growth: which activations become atoms, and how atoms are refined. Knows pursuit and torch, no files."""

from itda_lightning.growth.across_processes import GROWTH_POLICIES, Step, grow_among_ranks
from itda_lightning.growth.calibration import Forecast, calibrate_threshold, forecast
from itda_lightning.growth.cone_descent import (
    RefinementRule,
    RefinementState,
    descent,
    project_on_cones,
    refinement_step,
)
from itda_lightning.growth.frozen_batch import grow_frozen_batch
from itda_lightning.growth.rule import DUPLICATE_COSINE, Growth, GrowthRule, unexplained_threshold
from itda_lightning.growth.sequential import grow_sequential
from itda_lightning.growth.unmixing import Unmixed, unmix, unmixing_steps
from itda_lightning.growth.worst_first import grow_worst_first

__all__ = [
    "DUPLICATE_COSINE",
    "GROWTH_POLICIES",
    "Forecast",
    "Growth",
    "GrowthRule",
    "RefinementRule",
    "RefinementState",
    "Step",
    "Unmixed",
    "calibrate_threshold",
    "descent",
    "forecast",
    "grow_among_ranks",
    "grow_frozen_batch",
    "grow_sequential",
    "grow_worst_first",
    "project_on_cones",
    "refinement_step",
    "unexplained_threshold",
    "unmix",
    "unmixing_steps",
]
