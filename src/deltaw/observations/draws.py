"""What random draws of observations are for. Equal purposes and places get equal draws, in every model of a study.

The numbers are part of the results: another number draws other nulls and intervals.
"""

from enum import IntEnum
from zlib import crc32


class Draw(IntEnum):
    """A purpose of random draws, by the number that keys them."""

    CLUSTER_FOLDS = 1
    NULL_ENERGY_NULLS = 2
    ROW_SPACE_NULLS = 3
    POSITION_NULL = 5
    UPDATE_EFFECT_NULL = 6
    ATTACKED_GAIN_NULL = 7
    CLUSTER_CHANGE = 11
    CLUSTER_MEANS = 12
    MEANS = 13
    GAIN_INTERVAL = 14
    UPDATE_EFFECT_INTERVAL = 15
    SIGN_FLIPS = 16
    GAUSSIAN_SPECTRUM = 17
    PEAK_HALVES = 18
    PEAK = 19
    SENSITIVITY_SWAPS = 20
    SENSITIVITY_INTERVAL = 21
    SENSITIVITY_BLOCKS = 22
    FINITE_STEPS = 23
    POWER_ITERATION = 24
    BEST_UPDATE = 25
    BEST_RATIO = 26
    RANDOM_UPDATE = 40
    RANK_SWAPS = 41
    REFUSAL_DIRECTION_NULL = 42
    PROBE_FOLDS = 43
    PROBE_INTERVAL = 44
    OVERLAP_OF_MODELS = 50
    OVERLAP_OF_LAYERS = 51
    OVERLAP_OF_SEEDS = 52
    SUCCESS_PERMUTATIONS = 61
    DOSE_MEANS = 62
    DOSE_DIFFERENCE = 63
    DOSE_SIGN_FLIPS = 64
    INTERVENTION = 101


SITE_KEYS = {"mlp_post": 0, "resid_out": 1, "mlp_in": 2}
"""What keys draws that differ between sites of activations."""


def key_of(draw: Draw | str) -> int:
    """The number that keys draws. A plug-in names its purpose by any text, whose number no `Draw` has."""
    return int(draw) if isinstance(draw, Draw) else 2**32 + crc32(draw.encode())
