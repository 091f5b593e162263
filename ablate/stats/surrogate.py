"""A small Gaussian process over measured points. Optuna's own is private and needs torch; scikit-learn is no dependency of the platform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_JITTER = 1e-8


@dataclass(frozen=True)
class Surrogate:
    """Posterior of a Gaussian process with a Matern 5/2 kernel, a length for each factor and known noise at each point.

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eqs. 2.25, 2.26, 5.8 and 4.17.
    """

    at: Float[np.ndarray, "points factors"]
    """In the unit cube."""
    lengths: Float[np.ndarray, " factors"]
    amplitude: float
    centre: float
    _factor: Float[np.ndarray, "points points"]
    _weights: Float[np.ndarray, " points"]

    def predict(self, where: Float[np.ndarray, "queries factors"]) -> tuple[Float[np.ndarray, " queries"], Float[np.ndarray, " queries"]]:
        """Mean and standard deviation of the mean objective (without the noise of a replicate)."""
        from scipy.linalg import solve_triangular

        cross = self.amplitude * _matern(where, self.at, self.lengths)
        spread = solve_triangular(self._factor, cross.T, lower=True)
        variance = np.maximum(0.0, self.amplitude - np.sum(spread**2, axis=0))
        return self.centre + cross @ self._weights, np.sqrt(variance)


def fit(at: Float[np.ndarray, "points factors"], mean: Float[np.ndarray, " points"], variance: Float[np.ndarray, " points"]) -> Surrogate:
    """By maximum likelihood, with a weak prior (log-normal around half the range) on the lengths; the same at every call.

    Args:
        mean: Mean objective of each point over its replicates.
        variance: Of that mean; 0 or more.
    """
    from scipy.linalg import cho_solve
    from scipy.optimize import minimize

    scale = float(np.std(mean)) or 1.0
    centre, target, noise = float(np.mean(mean)), (mean - np.mean(mean)) / scale, variance / scale**2
    factors = at.shape[1]

    def decomposed(parameters: Float[np.ndarray, " parameters"]) -> tuple[Float[np.ndarray, "points points"], Float[np.ndarray, " points"]]:
        lengths, amplitude, extra = np.exp(parameters[:factors]), np.exp(parameters[factors]), np.exp(parameters[factors + 1])
        kernel = amplitude * _matern(at, at, lengths) + np.diag(noise + extra + _JITTER)
        lower = np.linalg.cholesky(kernel)
        return lower, cho_solve((lower, True), target)

    def loss(parameters: Float[np.ndarray, " parameters"]) -> float:
        lower, weights = decomposed(parameters)
        prior = np.sum((parameters[:factors] - np.log(0.5)) ** 2) / 2 + (parameters[factors + 1] - np.log(1e-3)) ** 2 / 8
        return float(target @ weights / 2 + np.sum(np.log(np.diag(lower))) + prior)

    bounds = [(np.log(0.05), np.log(10.0))] * factors + [(np.log(0.05), np.log(20.0)), (np.log(1e-6), np.log(1.0))]
    starts = [np.array([np.log(length)] * factors + [0.0, np.log(1e-3)]) for length in (0.15, 0.5, 2.0)]
    found = min((minimize(loss, start, bounds=bounds, method="L-BFGS-B") for start in starts), key=lambda result: float(result.fun))
    lower, weights = decomposed(found.x)
    return Surrogate(at, np.exp(found.x[:factors]), float(np.exp(found.x[factors])) * scale**2, centre, lower * scale, weights / scale)


def _matern(
    one: Float[np.ndarray, "n factors"], other: Float[np.ndarray, "m factors"], lengths: Float[np.ndarray, " factors"]
) -> Float[np.ndarray, "n m"]:
    difference = (one[:, None, :] - other[None, :, :]) / lengths
    distance = np.sqrt(5 * np.sum(difference**2, axis=-1))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))
