# What R's survreg finds in the data sets beside this file: run as `Rscript survreg.R` in this directory.
#
# Writes DATA.csv for every data set (a row a row of the likelihood: exact if both durations agree, right-censored with an
# upper one of inf, left-censored with a lower one of 0) and fits.csv, all numbers with 17 digits. Synthetic sets come
# from R's own generator, seeded.

library(survival)
stopifnot(packageVersion("survival") == "3.5.3")
control <- survreg.control(rel.tolerance = 1e-13, maxiter = 1000)
digits <- function(x) ifelse(is.infinite(x), "inf", sprintf("%.17g", x))

# lower is NA for left-, upper NA for right-censored rows, as Surv(type = "interval2") wants them.
write_data <- function(name, lower, upper, n = rep(1, length(lower)), covariates = NULL) {
  table <- data.frame(duration_lower = digits(ifelse(is.na(lower), 0, lower)),
                      duration_upper = digits(ifelse(is.na(upper), Inf, upper)), weight = digits(n))
  for (column in names(covariates)) table[[column]] <- digits(covariates[[column]])
  write.csv(table, paste0(name, ".csv"), row.names = FALSE, quote = FALSE)
}

sets <- list()
add <- function(name, lower, upper, n = rep(1, length(lower)), covariates = data.frame(row.names = seq_along(lower))) {
  write_data(name, lower, upper, n, covariates)
  sets[[name]] <<- data.frame(lower, upper, n, covariates)
}
censored <- function(time, died) ifelse(died, time, NA)

# North Central Cancer Treatment Group: Loprinzi et al. (1994), J Clin Oncol 12, 601-607.
s <- lung[complete.cases(lung[, c("time", "status", "age", "sex", "ph.ecog", "inst")]), ]
add("lung", s$time, censored(s$time, s$status == 2), covariates = s[, c("age", "sex", "ph.ecog")])
institution <- s$inst
# Veterans' Administration lung cancer trial: Kalbfleisch and Prentice (1980), The Statistical Analysis of Failure Time Data.
s <- veteran
cells <- data.frame(smallcell = s$celltype == "smallcell", adeno = s$celltype == "adeno", large = s$celltype == "large") * 1
add("veteran", s$time, censored(s$time, s$status == 1),
    covariates = cbind(s[, c("trt", "karno", "diagtime", "age", "prior")], cells))
# Ovarian cancer: Edmunson et al. (1979), Cancer Treatment Reports 63, 241-247.
s <- ovarian
add("ovarian", s$futime, censored(s$futime, s$fustat == 1), covariates = s[, c("age", "resid.ds", "rx", "ecog.ps")])
# Stanford heart transplants: Escobar and Meeker (1992), Biometrics 48, 507-528.
s <- na.omit(stanford2[, c("time", "status", "age", "t5")])
add("stanford2", s$time, censored(s$time, s$status == 1), covariates = s[, c("age", "t5")])
# Turbine wheels, each inspected once: Meeker and Escobar (1998), Statistical Methods for Reliability Data. Current-status
# counts: `failed` of `inspected` had a crack by then, the others had not.
s <- turbine
lower <- c(rep(NA, nrow(s)), s$hours)
upper <- c(s$hours, rep(NA, nrow(s)))
n <- c(s$failed, s$inspected - s$failed)
add("turbine", lower[n > 0], upper[n > 0], n[n > 0])
# Cracks found among 167 turbine parts inspected eight times (the same book):
#   Surv(c(NA, days), c(days, NA), type = "interval2"), weights = c(fail, 167 - sum(fail))
s <- cracks
add("cracks", c(NA, s$days), c(s$days, NA), c(s$fail, 167 - sum(s$fail)))

set.seed(20240131)
draw <- function(n, mu, sigma) exp(mu + sigma * log(rexp(n)))
n <- 80
x <- data.frame(x = rnorm(n), hard = rbinom(n, 1, 0.4))
time <- draw(n, 1 + 0.5 * x$x - 0.7 * x$hard, 0.6)
add("exact", time, time, covariates = x)
budget <- runif(n, 1, 6)
add("right", pmin(time, budget), censored(time, time <= budget), covariates = x)
# Not known before some moment: left-censored if it had failed by then.
begin <- runif(n, 0, 2)
add("left", ifelse(time <= begin, NA, time), pmax(time, begin), covariates = x)
# Fifteen checks, a quarter apart; weights are counts.
check <- ceiling(4 * time)
add("interval", ifelse(check == 1, NA, pmin(check - 1, 15) / 4), ifelse(check > 15, NA, check / 4),
    rep(1:4, length.out = n), x)
# All four kinds in one, raw covariate scales, fractional weights.
n <- 240
x <- data.frame(size = 3000 + 800 * rnorm(n), step = 1e-4 * runif(n), hard = rbinom(n, 1, 0.5))
time <- draw(n, 2 - 4e-4 * x$size + 5e3 * x$step + 0.4 * x$hard, 0.9)
kind <- sample(4, n, replace = TRUE)
shorter <- time * runif(n)
longer <- time * (1 + runif(n))
lower <- ifelse(kind == 1, time, ifelse(kind == 3, NA, shorter))
upper <- ifelse(kind == 1, time, ifelse(kind == 2, NA, longer))
add("mixed", lower, upper, round(runif(n, 0.2, 4), 2), x)
# Three configurations, twelve checks, a share that never fails.
group <- rep(0:2, each = 13)
lower <- rep(c(NA, 1:12), 3)
upper <- rep(c(1:12, NA), 3)
n <- as.vector(sapply(1:3, function(g) {
  time <- ifelse(runif(400) < 0.1 * g, Inf, draw(400, 1 + 0.3 * g, 0.5))
  tabulate(pmin(ceiling(time), 13), 13)
}))
configuration <- data.frame(second = (group == 1) * 1, third = (group == 2) * 1)
add("counts", lower[n > 0], upper[n > 0], n[n > 0], configuration[n > 0, ])

rows <- list()
for (name in names(sets)) {
  s <- sets[[name]]
  x <- as.matrix(s[, -(1:3), drop = FALSE])
  time <- Surv(s$lower, s$upper, type = "interval2")
  n <- s$n
  for (dist in c("weibull", "lognormal", "loglogistic", "exponential")) {
    formula <- if (ncol(x)) time ~ x else time ~ 1
    fit <- survreg(formula, weights = n, dist = dist, control = control)
    parameters <- c("intercept", colnames(x), if (dist != "exponential") "log_scale")
    estimate <- c(coef(fit), if (dist != "exponential") log(fit$scale))
    rows[[length(rows) + 1]] <- data.frame(
      data = name, distribution = dist, log_likelihood = digits(fit$loglik[2]), parameter = parameters,
      estimate = digits(unname(estimate)), standard_error = digits(sqrt(diag(vcov(fit)))), clustered_error = ""
    )
    # Clustered errors, without a factor for the number of clusters: of lung, where all rows are exact or right-censored,
    # and of `interval` with a row for every count, where they are wrong.
    if (name %in% c("lung", "interval")) {
      every <- rep(seq_len(nrow(s)), s$n)
      one <- data.frame(s[every, ], cluster = if (name == "lung") institution else ((every - 1) * 7) %% 40)
      robust <- survreg(if (name == "lung") Surv(lower, upper, type = "interval2") ~ age + sex + ph.ecog else
                          Surv(lower, upper, type = "interval2") ~ x + hard,
                        data = one, dist = dist, control = control, cluster = cluster, robust = TRUE)
      rows[[length(rows)]]$clustered_error <- digits(sqrt(diag(vcov(robust))))
    }
  }
}
write.csv(do.call(rbind, rows), "fits.csv", row.names = FALSE, quote = FALSE)
write.csv(data.frame(cluster = institution), "lung_institutions.csv", row.names = FALSE, quote = FALSE)
