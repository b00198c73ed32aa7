"""From logits to probabilities that can be believed, and to the decision: temperature and operating point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_med.errors import UsageError

__all__ = ["Calibration", "called", "ece", "fit_calibration", "reliability"]

_FEWEST = 10  # cases below which nothing is fitted
_COOLEST, _HOTTEST = 0.05, 100.0  # limits of the temperature
_HALVINGS = 60
_EXPONENTS = np.arange(0.0, 2.0001, 0.05)


@dataclass(frozen=True)
class Calibration:
    """What turns the logits of one image-level task into probabilities and a class.

    Args:
        priors: frequencies of the classes in the cases that the network was fitted to; they sum to 1.
        temperature: T; probabilities are softmax(logits / T).
        threshold: binary tasks: class 1 is decided from this probability on.
        prior_exponent: tau of more than two classes: decided is argmax(log p_c - tau log prior_c).
        cases: number of cases that it was fitted to; 0 where nothing was fitted.
        reason: why something was not fitted, or stopped at its limit; else empty.

    Source: temperature: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Exponent: Menon et al.,
    "Long-tail learning via logit adjustment", ICLR 2021, Eq. 9.
    """

    priors: tuple[float, ...]
    temperature: float = 1.0
    threshold: float = 0.5
    prior_exponent: float = 0.0
    cases: int = 0
    reason: str = ""

    @classmethod
    def absent(cls, classes: int, reason: str = "") -> Calibration:
        """Of a network that was not calibrated: softmax, and the most probable class."""
        return cls(tuple([1.0 / classes] * classes), reason=reason)

    @property
    def binary(self) -> bool:
        """Whether the task has two classes."""
        return len(self.priors) == 2

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities.

        Args:
            logits: (N, K).

        Returns:
            (N, K), rows that sum to 1; NaN where a logit is not finite.

        Raises:
            UsageError: another number of classes.
        """
        return np.exp(self._log_probabilities(logits))

    def decide(self, logits: ArrayLike) -> NDArray[np.intp]:
        """Index of the decided class of each image.

        Args:
            logits: (N, K).

        Raises:
            UsageError: another number of classes, or a logit that is not finite, of which nothing can be said.
        """
        log_p = self._log_probabilities(logits)
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits).all(axis=1)).sum())
            raise UsageError(f"logits of {bad} of {len(log_p)} images are not finite, so that no class can be decided")
        if self.binary:
            return (np.exp(log_p[:, 1]) >= self.threshold).astype(np.intp)
        return _adjusted(log_p, self.priors, self.prior_exponent).argmax(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form, as it stands in `model.json`."""
        point = {"threshold": self.threshold} if self.binary else {"prior_exponent": self.prior_exponent}
        told = {"reason": self.reason} if self.reason else {}
        return {"temperature": self.temperature, **point, "priors": list(self.priors), "cases": self.cases, **told}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Calibration:
        """From the JSON form.

        Raises:
            UsageError: a field is missing, or holds what cannot be.
        """
        try:
            priors = tuple(float(value) for value in fields["priors"])
            point = "threshold" if len(priors) == 2 else "prior_exponent"
            found = cls(
                priors=priors,
                temperature=float(fields["temperature"]),
                **{point: float(fields[point])},
                cases=int(fields["cases"]),
                reason=str(fields.get("reason", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            what = f"calibration lacks or misnames a field: {error}"
            raise UsageError(what, fix="Calibrate the model anew") from error
        numbers = (found.temperature, found.threshold, found.prior_exponent, *priors)
        if len(priors) < 2 or not all(math.isfinite(n) and n >= 0 for n in numbers) or found.temperature == 0:
            raise UsageError(f"calibration holds impossible values: {fields}", fix="Calibrate the model anew")
        return found

    def _log_probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        values = _matrix(logits, len(self.priors), "logits")
        return _log_softmax(np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.nan) / self.temperature)


def fit_calibration(truth: ArrayLike, logits: ArrayLike, priors: Sequence[float]) -> Calibration:
    """Temperature and operating point from cases that the network was not fitted to.

    The temperature minimises the mean negative log-likelihood. Two classes: the threshold on the calibrated probability
    of class 1 maximises sensitivity + specificity (Youden's J), half way between the neighbouring probabilities; of
    equally good ones it is the one nearest to 0.5, and 0.5 itself where none is better than guessing. More classes: the
    prior exponent, in steps of 0.05 up to 2, maximises the balanced accuracy; of equally good ones it is the smallest.
    Cases with a logit that is not finite are left out.

    Args:
        truth: (N,) class indices.
        logits: (N, K).
        priors: (K,) frequencies of the classes among the cases of fitting, or their counts.

    Returns:
        The calibration. With fewer than 10 cases or with one class only nothing is fitted, and with cases that are all
        told apart the temperature stays 1, since none is then the best; its `reason` says so.

    Raises:
        UsageError: shapes that do not fit together, a label that is no class, or priors that are no frequencies.

    Source: Guo et al. 2017; Youden, "Index for rating diagnostic tests", Cancer 1950; Menon et al. 2021.
    """
    frequencies = _frequencies(priors)
    values = _matrix(logits, len(frequencies), "logits")
    labels = _labels(truth, len(values), len(frequencies))
    usable = np.flatnonzero(np.isfinite(values).all(axis=1))
    lost = len(values) - len(usable)
    reasons = [f"logits of {lost} of {len(values)} cases are not finite"] if lost else []
    labels, values = labels[usable], values[usable]
    classes = np.unique(labels)
    if len(labels) < _FEWEST or len(classes) < 2:
        few = f"{len(labels)} cases, of at least {_FEWEST} needed"
        reasons.append(few if len(labels) < _FEWEST else f"only class {classes[0]} is present in {len(labels)} cases")
        return Calibration(frequencies, reason=f"not fitted: {'; '.join(reasons)}")
    temperature, note = _temperature(labels, values)
    log_p = _log_softmax(values / temperature)
    point = (
        {"threshold": _youden(labels == 1, np.exp(log_p[:, 1]))}
        if len(frequencies) == 2
        else {"prior_exponent": _exponent(labels, log_p, frequencies)}
    )
    reasons += [note] if note else []
    return Calibration(frequencies, temperature, **point, cases=len(labels), reason="; ".join(reasons))


def reliability(
    truth: ArrayLike, probabilities: ArrayLike, bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """How often it was so, against how probable it was called.

    Of two classes the second is meant: with the more probable of both, errors in the one would make up for those in the
    other. Of more classes it is the most probable one, and whether it was right.

    Args:
        truth: (N,) class indices.
        probabilities: (N, K).
        bins: number of bins of equal width over 0..1; a bin holds its upper end.

    Returns:
        Per bin: mean probability, share for which it was so (both NaN in an empty bin), and number of images.

    Raises:
        UsageError: shapes that do not fit together, or a label that is no class.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2:
        raise UsageError(f"probabilities have shape {values.shape}, expected (images, classes)")
    chance, so, index = called(_labels(truth, len(values), values.shape[1]), values, bins)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, share = (np.bincount(index, weights=item, minlength=bins) / count for item in (chance, so))
    return mean, share, count


def called(
    labels: NDArray[np.intp], probabilities: NDArray[np.float64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.intp]]:
    """What `reliability` compares, for each image: the probability, whether it was so, and the bin.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K).
        bins: number of bins.
    """
    if probabilities.shape[1] == 2:
        chance, so = probabilities[:, 1], labels == 1
    else:
        chance, so = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return chance, so, np.clip(np.ceil(chance * bins).astype(np.intp) - 1, 0, bins - 1)


def ece(truth: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mean over images of the difference that `reliability` shows in their bin.

    Args:
        truth: (N,) class indices.
        probabilities: (N, K).
        bins: of equal width.

    Returns:
        0..1; NaN for no images.

    Source: Guo et al. 2017, Eq. 3; for two classes over the probability of the second, as in Naeini et al., "Obtaining
    well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    chance, share, count = reliability(truth, probabilities, bins)
    used = count > 0
    if not used.any():
        return math.nan
    return float((np.abs(share - chance)[used] * count[used]).sum() / count.sum())


def _temperature(labels: NDArray[np.intp], logits: NDArray[np.float64]) -> tuple[float, str]:
    """Temperature of the least negative log-likelihood, and a note where it is none.

    The likelihood is convex in 1 / T, so that its slope, mean expected logit minus mean logit of the true class, grows
    with 1 / T and has one root.
    """
    true = logits[np.arange(len(labels)), labels]
    if (true >= logits.max(axis=1)).all():
        return 1.0, "temperature left at 1: all cases are told apart, so that no temperature is the best"

    def slope(temperature: float) -> float:
        weights = np.exp(_log_softmax(logits / temperature))
        return float(((weights * logits).sum(axis=1) - true).mean())

    low, high = math.log(_COOLEST), math.log(_HOTTEST)
    for limit, beyond in ((_HOTTEST, slope(_HOTTEST) > 0), (_COOLEST, slope(_COOLEST) < 0)):
        if beyond:
            return limit, f"temperature held at its limit {limit:g}"
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp((low + high) / 2), ""


def _youden(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Threshold between two neighbouring scores at which sensitivity + specificity is largest."""
    steps, index = np.unique(score, return_inverse=True)
    if steps.size < 2:
        return 0.5
    positives = np.bincount(index, weights=positive, minlength=steps.size)
    negatives = np.bincount(index, weights=~positive, minlength=steps.size)
    below = slice(0, -1)  # a threshold above each step but the last
    gain = np.cumsum(negatives)[below] / negatives.sum() - np.cumsum(positives)[below] / positives.sum()
    middles = (steps[:-1] + steps[1:]) / 2
    if gain.max() <= 0:
        return 0.5  # no threshold is better than guessing
    best = middles[gain >= gain.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _exponent(labels: NDArray[np.intp], log_p: NDArray[np.float64], priors: Sequence[float]) -> float:
    """Smallest prior exponent of the best balanced accuracy."""
    classes = np.unique(labels)
    scores = []
    for exponent in _EXPONENTS:
        decided = _adjusted(log_p, priors, exponent).argmax(axis=1)
        scores.append(np.mean([(decided[labels == index] == index).mean() for index in classes]))
    best = np.flatnonzero(np.array(scores) >= max(scores) - 1e-12)[0]
    return round(float(_EXPONENTS[best]), 2)


def _adjusted(log_p: NDArray[np.float64], priors: Sequence[float], exponent: float) -> NDArray[np.float64]:
    # A class without a case counts as the rarest of the others: minus infinity would decide for it always.
    frequencies = np.asarray(priors)
    return log_p - exponent * np.log(np.maximum(frequencies, frequencies[frequencies > 0].min()))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _frequencies(priors: Sequence[float]) -> tuple[float, ...]:
    values = np.asarray(priors, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
        raise UsageError(f"priors are {np.asarray(priors).tolist()}, expected a frequency or count for each class")
    return tuple((values / values.sum()).tolist())


def _matrix(values: ArrayLike, classes: int, what: str) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != classes:
        raise UsageError(f"{what} have shape {matrix.shape}, expected (images, {classes})")
    return matrix


def _labels(truth: ArrayLike, count: int, classes: int) -> NDArray[np.intp]:
    labels = np.asarray(truth).ravel()
    if labels.size != count:
        raise UsageError(f"{labels.size} labels against {count} predictions")
    if labels.size and not (np.equal(labels, np.floor(labels)) & (labels >= 0) & (labels < classes)).all():
        raise UsageError(f"labels hold {sorted(set(labels.tolist()))}, expected indices 0 to {classes - 1}")
    return labels.astype(np.intp)
