"""The table of pursuits: a new one is a file with its algorithm and a row here."""

from typing import Literal

from itda_lightning.pursuit.algorithm import Pursuit
from itda_lightning.pursuit.generalised import GeneralisedOrthogonalMatchingPursuit
from itda_lightning.pursuit.matching import MatchingPursuit
from itda_lightning.pursuit.orthogonal import OrthogonalMatchingPursuit

PursuitName = Literal["mp", "omp", "gomp"]

PURSUITS: dict[PursuitName, Pursuit] = {
    "mp": MatchingPursuit(),
    "omp": OrthogonalMatchingPursuit(),
    "gomp": GeneralisedOrthogonalMatchingPursuit(),
}


def judging(pursuit: PursuitName) -> PursuitName:
    """Return the pursuit whose residuals decide about growth: its own, or those of one that takes one atom per step."""
    return pursuit if PURSUITS[pursuit].judged_by_itself else "omp"
