"""Fits against R's survreg and against lifelines: independent programs, the same maxima.

The numbers are survival 3.5-3's (R 4.2, Debian 12), printed by this program:

    library(survival)
    options(digits = 15)
    ctl <- survreg.control(rel.tolerance = 1e-13, maxiter = 100)
    show <- function(fit) {
      cat(fit$dist, "loglik", format(fit$loglik[length(fit$loglik)], digits = 15), "\\n")
      cat("  coef", format(c(coef(fit), if (fit$dist != "exponential") log(fit$scale)), digits = 15), "\\n")
      cat("  se", format(sqrt(diag(vcov(fit))), digits = 15), "\\n")
    }
    lung2 <- lung[complete.cases(lung[, c("time", "status", "age", "sex", "ph.ecog")]), ]
    for (d in c("weibull", "lognormal", "loglogistic", "exponential"))
      show(survreg(Surv(time, status) ~ age + sex + ph.ecog, data = lung2, dist = d, control = ctl))
    lower <- c(NA, 1, 2, 3, 4, 5, 6, 7, 8)
    upper <- c(1, 2, 3, 4, 5, 6, 7, 8, NA)
    a <- c(5, 14, 17, 13, 9, 7, 4, 3, 8)
    b <- c(2, 6, 9, 12, 11, 9, 8, 5, 18)
    tab <- data.frame(lower = rep(lower, 2), upper = rep(upper, 2), hard = rep(0:1, each = 9), n = c(a, b))
    for (d in c("weibull", "lognormal", "loglogistic", "exponential"))
      show(survreg(Surv(lower, upper, type = "interval2") ~ hard, data = tab, weights = n, dist = d, control = ctl))
    mixed <- data.frame(lower = c(3, 2.5, 7, NA, 1, 4, 5.5, 2, NA, 6, 1.5, 8),
                        upper = c(3, 2.5, NA, 2, 4, 9, 5.5, NA, 6, 7, 1.5, NA),
                        x = c(0.1, -1.2, 0.7, 0.3, -0.5, 1.1, 0.9, 0.2, -0.4, 0.6, -0.8, 1.5))
    for (d in c("weibull", "lognormal", "loglogistic", "exponential"))
      show(survreg(Surv(lower, upper, type = "interval2") ~ x, data = mixed, dist = d, control = ctl))
"""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.fitting import Fit, Status, fit
from survival_service.observations import Observations

W, N, L, E = Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL

# (data, distribution): log-likelihood, coefficients with the log scale last (none for the exponential), their errors.
SURVREG = {
    ("lung", W): (
        -1132.43874588232,
        (6.2734352519984506, -0.0074754394091445, 0.4010905411934496, -0.3396380983087736, -0.3131927302582579),
        (0.45357771081090204, 0.00676350766753494, 0.12373256651534334, 0.08347841503007195, 0.06134645526142053),
    ),
    ("lung", N): (
        -1146.88183108603,
        (6.4947867265472388, -0.0191818680868148, 0.5219528785214141, -0.3555666703323539, 0.0282322741374511),
        (0.58275627614691561, 0.00832785746307169, 0.15277538244847716, 0.10330825301947107, 0.05596062454920427),
    ),
    ("lung", L): (
        -1137.48961226949,
        (5.93668692063804571, -0.00807991943085238, 0.48662357089902064, -0.40461551157199888, -0.62335715223786703),
        (0.51207266015164832, 0.00747790705754958, 0.13489414783418996, 0.09301371940209224, 0.06581336537803038),
    ),
    ("lung", E): (
        -1143.56315131318,
        (6.3734231982311620, -0.0102173605936676, 0.5090613997844264, -0.4050169899797241),
        (0.62075510130864142, 0.00917689478207216, 0.16716118927668469, 0.11269745509576060),
    ),
    ("checks", W): (
        -334.040227579683,
        (1.500851287483506, 0.343742945072600, -0.521971813325603),
        (0.0713967433458398, 0.1039741353636555, 0.0741227515844307),
    ),
    ("checks", N): (
        -332.607245864144,
        (1.173862135393673, 0.415493587914687, -0.338798575572796),
        (0.0816486477013555, 0.1163242850433729, 0.0679133455084677),
    ),
    ("checks", L): (
        -331.63035223296,
        (1.184170249176335, 0.419003390524431, -0.884024829217704),
        (0.0814461872143513, 0.1143356314430397, 0.0756276906315989),
    ),
    ("checks", E): (-353.902716997437, (1.432332230612695, 0.447407883099204), (0.118131237211747, 0.173537769400137)),
    ("mixed", W): (
        -12.5820150801916,
        (1.398977431548578, 0.617761328931385, -1.107352412167134),
        (0.122456096544078, 0.134297634225675, 0.320922904538968),
    ),
    ("mixed", N): (
        -13.114904154587,
        (1.201374260147049, 0.684538467580193, -0.836419865881231),
        (0.152122568383680, 0.186106623926988, 0.279396505213052),
    ),
    ("mixed", L): (
        -13.0485621731484,
        (1.214982909316648, 0.690763069825203, -1.386586681591943),
        (0.159375076697909, 0.189527706512041, 0.311260339087078),
    ),
    ("mixed", E): (-16.6830539112244, (1.394992433302948, 0.862103435008829), (0.341852816960431, 0.391682190628337)),
}


def lung() -> Observations:
    from lifelines.datasets import load_lung

    table = load_lung()[["time", "status", "age", "sex", "ph.ecog"]].dropna()
    time, died = table["time"].to_numpy(float), table["status"].to_numpy() == 1
    names = ("age", "sex", "ph.ecog")
    return Observations.of(
        time, np.where(died, time, inf), covariates={name: table[name].to_numpy(float) for name in names}
    )


def checks() -> Observations:
    counts = [5, 14, 17, 13, 9, 7, 4, 3, 8, 2, 6, 9, 12, 11, 9, 8, 5, 18]
    lower = [0, 1, 2, 3, 4, 5, 6, 7, 8] * 2
    upper = [1, 2, 3, 4, 5, 6, 7, 8, inf] * 2
    return Observations.of(lower, upper, counts, covariates={"hard": [0.0] * 9 + [1.0] * 9})


def mixed() -> Observations:
    lower = [3, 2.5, 7, 0, 1, 4, 5.5, 2, 0, 6, 1.5, 8]
    upper = [3, 2.5, inf, 2, 4, 9, 5.5, inf, 6, 7, 1.5, inf]
    x = [0.1, -1.2, 0.7, 0.3, -0.5, 1.1, 0.9, 0.2, -0.4, 0.6, -0.8, 1.5]
    return Observations.of(lower, upper, covariates={"x": x})


DATA = {"lung": lung, "checks": checks, "mixed": mixed}


def parameters(found: Fit) -> tuple[list[float], list[float]]:
    values = [c.estimate for c in found.coefficients]
    errors = [c.standard_error for c in found.coefficients]
    if not found.distribution.scale_fixed:
        values.append(float(np.log(found.scale)))
        errors.append(found.log_scale_standard_error)
    return values, errors


@pytest.mark.parametrize(("data", "distribution"), SURVREG, ids=lambda value: getattr(value, "name", value))
def test_a_fit_is_that_of_survreg(data: str, distribution: Distribution) -> None:
    log_likelihood, values, errors = SURVREG[data, distribution]
    found = fit(DATA[data](), distribution)
    assert found.status is Status.OK
    own_values, own_errors = parameters(found)
    assert np.max(np.abs(np.subtract(own_values, values)) / errors) < 1e-6
    np.testing.assert_allclose(own_errors, errors, rtol=1e-6)
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-10)
    assert found.parameter_count == len(values)
    assert found.aic == pytest.approx(2 * len(values) - 2 * log_likelihood, rel=1e-10)
    n = {"lung": 227, "checks": 160, "mixed": 12}[data]
    assert found.bic == pytest.approx(len(values) * np.log(n) - 2 * log_likelihood, rel=1e-10)
    assert found.iteration_count <= 9


def test_a_weibull_fit_is_that_of_lifelines() -> None:
    import pandas as pd
    from lifelines import WeibullAFTFitter

    generator = np.random.default_rng(3)
    x = generator.normal(size=300)
    time = np.exp(0.5 + 0.3 * x + 0.6 * np.log(generator.exponential(size=300)))
    seen, died = np.minimum(time, 2.5), time <= 2.5
    theirs = WeibullAFTFitter(penalizer=0.0).fit(pd.DataFrame({"t": seen, "d": died, "x": x}), "t", "d")
    ours = fit(Observations.of(seen, np.where(died, seen, inf), covariates={"x": x.tolist()}), W)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood_, abs=1e-6)
    assert ours.coefficients[1].estimate == pytest.approx(theirs.params_["lambda_", "x"], abs=1e-4)
    assert ours.coefficients[0].estimate == pytest.approx(theirs.params_["lambda_", "Intercept"], abs=1e-4)
    assert 1 / ours.scale == pytest.approx(np.exp(theirs.params_["rho_", "Intercept"]), rel=1e-4)
