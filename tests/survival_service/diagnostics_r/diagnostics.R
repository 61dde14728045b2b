# References for the diagnostics of fits. Run in this folder: Rscript diagnostics.R > diagnostics.csv
suppressMessages({library(survival); library(pec)})
out <- function(name, value) cat(name, ",", format(value, digits = 15), "\n", sep = "")
cat("name,value\n")

# Calibration of a Weibull fit of veteran by Austin, Harrell and van Klaveren (2020), t0 the median failure time: with
# the grouped proportional hazards model as a binomial regression of person-periods, and with Cox's model.
v <- veteran
fit <- survreg(Surv(time, status) ~ karno + age, v, dist = "weibull", control = list(rel.tolerance = 1e-14, maxiter = 100))
t0 <- sort(v$time[v$status == 1])[ceiling(sum(v$status) / 2)]
out("t0", t0)
p <- 1 - exp(-exp((log(t0) - predict(fit, type = "lp")) / fit$scale))
x <- log(-log(1 - p))
k <- quantile(x, c(.1, .5, .9), names = FALSE)
cube <- function(x) pmax(x, 0)^3
bent <- (cube(x - k[1]) - cube(x - k[2]) * (k[3] - k[1]) / (k[3] - k[2]) +
         cube(x - k[3]) * (k[2] - k[1]) / (k[3] - k[2])) / (k[3] - k[1])^2
stop_time <- v$time; event <- v$status == 1
steps <- sort(unique(stop_time[event]))
rows <- do.call(rbind, lapply(seq_along(steps), function(j) {
  at <- stop_time >= steps[j]
  data.frame(step = j, y = as.numeric(event & stop_time == steps[j])[at], x = x[at], bent = bent[at])
}))
g <- glm(y ~ 0 + factor(step) + x + bent, binomial("cloglog"), rows, control = list(epsilon = 1e-14, maxit = 200))
b <- coef(g)[c("x", "bent")]
h <- sum(exp(coef(g)[seq_along(steps)])[steps <= t0])
gap <- abs(p - (1 - exp(-h * exp(x * b[1] + bent * b[2]))))
out("grouped_ici", mean(gap)); out("grouped_e50", median(gap))
out("grouped_e90", quantile(gap, .9, names = FALSE)); out("grouped_emax", max(gap))
cox <- coxph(Surv(time, status) ~ x + bent, data.frame(time = v$time, status = v$status, x = x, bent = bent))
s <- summary(survfit(cox, newdata = data.frame(x = x, bent = bent)), times = t0)$surv
out("cox_ici", mean(abs(p - (1 - as.vector(s)))))

# The Brier score of the same fit, by pec at times without a failure or a censoring, where conventions agree.
for (data in c("veteran", "lung")) {
  d <- if (data == "veteran") v else {
    l <- lung[complete.cases(lung[, c("time", "status", "age", "sex")]), ]; l$status <- l$status - 1; l }
  formula <- if (data == "veteran") Surv(time, status) ~ karno + age else Surv(time, status) ~ age + sex
  fit <- survreg(formula, d, dist = "weibull", control = list(rel.tolerance = 1e-14, maxiter = 100))
  at <- sort(unique(d$time[d$status == 1]))
  middle <- head(at[seq(5, length(at), by = 20)], -1) + 0.5
  surv <- sapply(c(0, middle), function(t) exp(-exp((log(t) - predict(fit, type = "lp")) / fit$scale)))
  score <- pec(list(weibull = surv), Surv(time, status) ~ 1, d, times = c(0, middle), start = 0, exact = FALSE,
               cens.model = "marginal", reference = TRUE, verbose = FALSE)
  for (j in seq_along(middle)) {
    out(paste("brier", data, middle[j]), score$AppErr$weibull[j + 1])
    out(paste("reference", data, middle[j]), score$AppErr$Reference[j + 1])
  }
}
