"""The observations that recipes make."""

from deltaw.observations.activation_view.measure import ActivationView
from deltaw.observations.attacked_prompts.measure import AttackedPrompts
from deltaw.observations.clusters.measure import ClusterSeparation
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.observations.gain.measure import Gain
from deltaw.observations.null_space.measure import NullSpaceEnergy
from deltaw.observations.observation import Observation
from deltaw.observations.overlap.measure import Overlap
from deltaw.observations.probe.measure import ProbeAccuracy
from deltaw.observations.ranks.measure import Ranks
from deltaw.observations.refusal_direction.measure import RefusalDirection
from deltaw.observations.sensitivity.measure import PromptSensitivity
from deltaw.observations.update_effect.measure import UpdateEffect
from deltaw.recipes.config import Subspaces

OBSERVED: tuple[Observation, ...] = (
    NullSpaceEnergy(),
    ClusterSeparation(),
    Gain(),
    UpdateEffect(),
    PromptSensitivity(),
    AttackedPrompts(),
    ActivationView(),
)
"""The paper's, what the parts of ΔW do, and a view: of every tuned model of every study that is no grid."""


def subspaces(
    directions: int = 8,
    permutations: int = 50,
    probed: int = 1024,
    ranked: tuple[str, ...] | None = None,
    dosed: tuple[str, ...] | None = None,
) -> Subspaces:
    """Ranks, the direction of refusal, probes, overlap and dose-response.

    directions: of ΔW that are compared. permutations: of labels, or of successes. The rest as in `Subspaces`.
    """
    return Subspaces(
        observations=(Ranks(), RefusalDirection(directions), ProbeAccuracy(permutations)),
        overlap=Overlap(directions),
        dose_response=DoseResponse(permutations),
        probed=probed,
        ranked=ranked,
        dosed=dosed,
    )
