"""A rate read by an imperfect instrument, corrected for the instrument's errors, which are known from samples.

Of n things k are read as positive. The instrument finds a share of the true positives (sensitivity) and leaves alone a
share of the others (specificity), both measured on things whose truth is known. Then the true rate is
(k/n + specificity − 1) / (sensitivity + specificity − 1) (W. J. Rogan and B. Gladen, 1978).
"""

import numpy as np
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics.intervals import Interval


def corrected_rate(
    positive: int,
    n: int,
    true_positives: int,
    of_positives: int,
    true_negatives: int,
    of_negatives: int,
    confidence: float = 0.95,
) -> tuple[float, Interval] | None:
    """The corrected rate and its interval, both within [0, 1]; None if the instrument does no better than chance.

    positive: of n things read. true_positives: of `of_positives` true ones, those read as positive. true_negatives: of
    `of_negatives` others, those read as negative. The interval holds the uncertainty of all three rates (Z. Lang and
    J. Reiczigel, 2014: each rate is drawn towards a half first, as by Agresti and Coull). DeltawError unless every
    count lies between 0 and its total, which is at least 1.
    """
    for count, total in ((positive, n), (true_positives, of_positives), (true_negatives, of_negatives)):
        if not (total >= 1 and 0 <= count <= total):
            raise DeltawError(f"{count} of {total} is no rate; expected a count between 0 and its total")
    youden = true_positives / of_positives + true_negatives / of_negatives - 1
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    rows, rate = n + z**2, (positive + z**2 / 2) / (n + z**2)
    positives, sensitivity = of_positives + 2, (true_positives + 1) / (of_positives + 2)
    negatives, specificity = of_negatives + 2, (true_negatives + 1) / (of_negatives + 2)
    gain = sensitivity + specificity - 1
    if youden <= 0 or gain <= 0:
        return None
    value = (positive / n + true_negatives / of_negatives - 1) / youden
    centre = (rate + specificity - 1) / gain
    of_sensitivity = sensitivity * (1 - sensitivity) / positives
    of_specificity = specificity * (1 - specificity) / negatives
    shift = 2 * z**2 * (centre * of_sensitivity - (1 - centre) * of_specificity)
    variance = rate * (1 - rate) / rows + centre**2 * of_sensitivity + (1 - centre) ** 2 * of_specificity
    half = z * np.sqrt(variance) / gain
    low, high = (float(np.clip(end, 0, 1)) for end in (centre + shift - half, centre + shift + half))
    value = float(np.clip(value, 0, 1))
    return value, Interval(min(low, value), max(high, value))
