"""`afrctl fit`: a file in, the fits of R's survreg out, and one line with the line's number for what is wrong.

`veteran.csv` (Kalbfleisch and Prentice 1980) and `ovarian.csv` (Edmonson et al. 1979) hold the data sets of these names
of R's package survival. The numbers are survival 3.5-3's (R 4.2.2, Debian 12), printed by this program:

    library(survival)
    options(digits = 15)
    ctl <- survreg.control(rel.tolerance = 1e-13, maxiter = 100)
    show <- function(fit) {
      cat(fit$dist, "loglik", format(fit$loglik[length(fit$loglik)], digits = 15), "\\n")
      cat("  coef", format(c(coef(fit), if (fit$dist != "exponential") log(fit$scale)), digits = 15), "\\n")
      cat("  se", format(sqrt(diag(vcov(fit))), digits = 15), "\\n")
    }
    for (d in c("weibull", "lognormal", "loglogistic", "exponential")) {
      show(survreg(Surv(time, status) ~ trt + karno + diagtime + age + prior, data = veteran, dist = d, control = ctl))
      show(survreg(Surv(futime, fustat) ~ age + resid.ds + rx + ecog.ps, data = ovarian, dist = d, control = ctl))
    }
    w <- function(t, s, x, name) write.csv(cbind(data.frame(duration_lower = t, duration_upper = ifelse(s, t, NA)), x),
      name, row.names = FALSE, na = "", quote = FALSE)
    w(veteran$time, veteran$status == 1, veteran[, c("trt", "karno", "diagtime", "age", "prior")], "veteran.csv")
    w(ovarian$futime, ovarian$fustat == 1, ovarian[, c("age", "resid.ds", "rx", "ecog.ps")], "ovarian.csv")
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import observation_files
from cli.data_files import open_data
from cli.errors import Problem
from cli.observation_files import covariate_names, observation_batches

HERE = Path(__file__).parent

# Log-likelihood, coefficients with the log scale last (none for the exponential), their errors.
SURVREG = {
    ("veteran", "weibull"): (
        -725.616884528677,
        (2.807530863904833, -0.139307590301645, 0.0346986791778716, -0.002927919001999507, 0.000864277431817354,
         0.012726537056026088, 0.017701650050294136),
        (0.71188882851273, 0.184243951875776, 0.00511416558304212, 0.0090455332032041, 0.00938480690894374,
         0.0221103485838920, 0.06517702710591249),
    ),
    ("veteran", "log-normal"): (
        -720.622917838674,
        (1.311069454580130, -0.139820208574555, 0.0408319010314066, 0.000230401726537209, 0.011270895129978671,
         0.002579010875022023, 0.104872912804203619),
        (0.704822064960899, 0.193328749757574, 0.00496300692488295, 0.0100545819119514, 0.00924549349757655,
         0.0233784242767020, 0.06257810074345702),
    ),
    ("veteran", "log-logistic"): (
        -719.608703730852,
        (1.347463814130972, -0.0540870493832435, 0.0401825488334024, 0.00422714369121283, 0.0086775741584689,
         0.00328062721137951, -0.48318633607453892),
        (0.696446259161507, 0.186334866522748, 0.00461882902516368, 0.00958311584258435, 0.00926933429840457,
         0.0225788653465133, 0.07430151916613781),
    ),
    ("veteran", "exponential"): (
        -725.654139236541,
        (2.830226762175717, -0.139127150404440, 0.0345704586368204, -0.003039294835489703, 0.000731005783723761,
         0.012940601664241646),
        (0.696267930751814, 0.181155660825021, 0.00502118707014809, 0.00887582066270787, 0.00922573685192991,
         0.0217296258559881),
    ),
    ("ovarian", "weibull"): (
        -87.8470867020693,
        (10.6319573551741, -0.0650395919883479, -0.520958070780922, 0.520603927519107, -0.0667690488961525,
         -0.654720218624265),
        (1.42366305724431, 0.0193784027000915, 0.392107592811929, 0.324365113006530, 0.323446988030341,
         0.239917663054272),
    ),
    ("ovarian", "log-normal"): (
        -86.4083109974911,
        (10.3409531275063, -0.0676027332902502, -0.533121169456542, 0.605892242061928, -0.0205032075530072,
         -0.458970491228923),
        (1.25705052554535, 0.0162840740378695, 0.349321289464318, 0.302684631847753, 0.320328057532309,
         0.220192989343762),
    ),
    ("ovarian", "log-logistic"): (
        -86.8233107774895,
        (10.4613512360432, -0.0690454127115928, -0.546883115073383, 0.595698372532479, -0.034566581391865,
         -0.986906161316147),
        (1.2932876937035, 0.0173884732805279, 0.353032781201573, 0.303903554350005, 0.314656549484107,
         0.241249710355129),
    ),
    ("ovarian", "exponential"): (
        -90.6443124616155,
        (12.7826230417356, -0.0874765270001085, -0.765914274218933, 0.626921619559574, -0.252333300909575),
        (2.51367950176444, 0.033778490587315, 0.741068147597437, 0.616245641927438, 0.606124076971742),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def survival_server(tmp_path_factory: pytest.TempPathFactory, start_module_process: Any) -> str:
    """The address of a real survival server."""
    state = tmp_path_factory.mktemp("state")
    words = ("python", "-m", "survival_service", "serve", "--address", "127.0.0.1:0", "--state", state)
    return str(start_module_process(*words).address)


def write(folder: Path, text: str, name: str = "times.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(path: Path, ignored: tuple[str, ...] = ()) -> list[Any]:
    file = open_data(path)
    return list(observation_batches(file, covariate_names(file, ignored)[0]))


@pytest.mark.parametrize("data", ["veteran", "ovarian"])
def test_the_fits_are_those_of_survreg(afrctl: Any, survival_server: str, data: str) -> None:
    distributions = [name for known, name in SURVREG if known == data]
    chosen = [word for name in distributions for word in ("--distribution", name)]
    ended = afrctl("fit", HERE / f"{data}.csv", "--format", "json", *chosen, "--survival-address", survival_server)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    names = (HERE / f"{data}.csv").read_text().splitlines()[0].split(",")[2:]
    assert {fit["distribution"] for fit in said["fits"]} == set(distributions)
    assert [fit["aic"] for fit in said["fits"]] == sorted(fit["aic"] for fit in said["fits"])
    for fit in said["fits"]:
        log_likelihood, values, errors = SURVREG[data, fit["distribution"]]
        k = len(values)
        assert fit["status"] == "ok"
        assert [c["covariate"] for c in fit["coefficients"]] == ["intercept", *names]
        own = [c["estimate"] for c in fit["coefficients"]]
        own_errors = [c["standard_error"] for c in fit["coefficients"]]
        if fit["distribution"] == "exponential":
            assert fit["scale"] == 1
        else:
            own.append(math.log(fit["scale"]))
            own_errors.append(fit["log_scale_standard_error"])
        assert max(abs(a - b) / e for a, b, e in zip(own, values, errors, strict=True)) < 1e-6
        assert own_errors == pytest.approx(errors, rel=1e-6)
        assert fit["log_likelihood"] == pytest.approx(log_likelihood, rel=1e-10)
        assert fit["aic"] == pytest.approx(2 * k - 2 * log_likelihood, rel=1e-10)
        assert fit["bic"] == pytest.approx(k * math.log(said["observation_count"]) - 2 * log_likelihood, rel=1e-10)


def test_without_a_server_the_command_starts_one_and_leaves_nothing(afrctl: Any) -> None:
    """A survival server alone: no Redis, no attack server. One exact time a row: the rate is failures by exposure."""
    path = write(afrctl.folder, "duration_lower,duration_upper,kind\n1,1,a\n2,2,b\n3,3,a\n4,4,b\n10,inf,b\n")
    ended = afrctl("fit", path, "--distribution", "exponential", "--format", "json", seconds=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "note: column kind left out: no cell is a number\n"
    said = json.loads(ended.stdout)
    (fit,) = said["fits"]
    (intercept,) = fit["coefficients"]
    assert (said["observation_count"], said["failure_count"]) == (5, 4)
    assert intercept["estimate"] == pytest.approx(math.log(20 / 4), rel=1e-9)
    assert intercept["standard_error"] == pytest.approx(1 / math.sqrt(4), rel=1e-6)
    assert list((afrctl.folder / "tmp").glob("afr-*")) == []


def test_data_that_carry_no_number_get_a_status_and_exit_with_0(afrctl: Any, survival_server: str) -> None:
    path = write(afrctl.folder, "duration_lower,duration_upper\n5,\n6,inf\n7,Inf\n")
    ended = afrctl("fit", path, "--format", "json", "--survival-address", survival_server)
    assert ended.returncode == 0, ended.stderr
    for fit in json.loads(ended.stdout)["fits"]:
        assert fit["status"] == "no-failure"
        assert fit["log_likelihood"] is fit["aic"] is fit["bic"] is fit["scale"] is fit["median"] is None
        assert fit["coefficients"] == []
    shown = afrctl("fit", path, "--survival-address", survival_server).stdout
    assert "3 observations, 0 failures" in shown
    assert "Weibull, log-normal, log-logistic, exponential: no observation failed" in shown


def test_a_group_without_failures_and_fits_with_a_shape_are_shown(afrctl: Any, survival_server: str) -> None:
    cells = [(i, i + 1, 0) for i in (0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6)] * 6 + [(8, "", 0)] * 8 + [(8, "", 1)] * 20
    text = "\n".join(["duration_lower,duration_upper,hard", *(f"{a},{b},{x}" for a, b, x in cells)])
    path = write(afrctl.folder, f"{text}\n")
    chosen = ("--distribution", "generalized-gamma", "--distribution", "weibull", "--distribution", "gamma")
    ended = afrctl("fit", path, *chosen, "--format", "json", "--survival-address", survival_server)
    assert ended.returncode == 0, ended.stderr
    fits = {fit["distribution"]: fit for fit in json.loads(ended.stdout)["fits"]}
    assert set(fits) == {"generalized-gamma", "weibull", "gamma"}
    for fit in fits.values():
        assert fit["status"] == "group-without-failure"
        assert [c["covariate"] for c in fit["coefficients"]] == ["intercept"]
        assert fit["effect_bounds"][0]["lower"] > 1
        assert fit["effect_bounds"][0]["upper"] is None
        assert fit["aicc"] > fit["aic"]
        assert fit["bic_events"] < fit["bic"]
    assert sum(fit["akaike_weight"] for fit in fits.values()) == pytest.approx(1)
    assert (fits["weibull"]["shape"], fits["gamma"]["shape"]) == (None, fits["gamma"]["scale"])
    assert fits["generalized-gamma"]["shape_standard_error"] > 0
    shown = afrctl("fit", path, *chosen, "--survival-address", survival_server).stdout
    assert f"at least {fits['weibull']['effect_bounds'][0]['lower']:.1f}" in shown
    assert " ".join(shown.split()).count("nothing failed in a group that hard tells apart") == 1


def test_weights_are_repetitions_and_the_table_says_what_json_says(afrctl: Any, survival_server: str) -> None:
    header, rows = "duration_lower,duration_upper,x", ["1,1,0", "2,3,1", "0,4,0", "4,4,1", "5,,1", "3,3,0", "9,9,1"]
    weighted = "\n".join([f"{header},weight", *(f"{row},2" for row in rows)])
    repeated = "\n".join([header, *(row for row in rows for _ in range(2))])
    common = ("--distribution", "weibull", "--survival-address", survival_server)
    shown = afrctl("fit", write(afrctl.folder, f"{weighted}\n", "weighted.csv"), *common)
    said = afrctl("fit", write(afrctl.folder, f"{repeated}\n", "repeated.csv"), *common, "--format", "json")
    assert (shown.returncode, said.returncode) == (0, 0), shown.stderr + said.stderr
    (fit,) = json.loads(said.stdout)["fits"]
    assert "14 observations, 12 failures" in shown.stdout
    assert f"{fit['aic']:.2f}" in shown.stdout
    assert f"{fit['scale']:.6g}" in shown.stdout
    (row,) = (line.split() for line in shown.stdout.splitlines() if line.startswith("ln σ"))
    assert row[2:] == [f"{math.log(fit['scale']):.6g}", f"{fit['log_scale_standard_error']:.6g}"]
    for coefficient in fit["coefficients"]:
        assert f"{coefficient['estimate']:.6g}" in shown.stdout
        assert f"{coefficient['standard_error']:.6g}" in shown.stdout


def test_rows_keep_their_values_over_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation_files, "_CELLS_PER_MESSAGE", 10)
    rows = [(i, i + 1 if i % 3 else math.inf, 0.5 * i, f"c{i % 4}", i + 1) for i in range(11)]
    text = "x,duration_upper,weight,cluster,duration_lower\n" + "".join(
        f"{x},{upper},{weight},{cluster},{lower}\n" for lower, upper, x, cluster, weight in rows
    )
    batches = read(write(tmp_path, text))
    assert [len(batch.duration_lower) for batch in batches] == [2, 2, 2, 2, 2, 1]
    assert [value for batch in batches for value in batch.duration_lower] == [row[0] for row in rows]
    assert [value for batch in batches for value in batch.duration_upper] == [row[1] for row in rows]
    assert [value for batch in batches for value in batch.covariates[0].value] == [row[2] for row in rows]
    assert [value for batch in batches for value in batch.cluster] == [row[3] for row in rows]
    assert [value for batch in batches for value in batch.weight] == [row[4] for row in rows]


def test_a_parquet_file_holds_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "duration_lower": [0.0, 1.5, 2.0], "duration_upper": [1.0, None, 2.0], "x": [1, 2, 4], "name": ["a", "b", "c"],
        "cluster": [7, 7, 8],
    }  # fmt: skip
    path = tmp_path / "times.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    csv = "duration_lower,duration_upper,x,name,cluster\n0,1,1,a,7\n1.5,,2,b,7\n2,2,4,c,8\n"
    assert read(path) == read(write(tmp_path, csv))
    columns["duration_lower"][1] = -1.0
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(Problem, match=r"times\.parquet, row 2: duration_lower is '-1\.0'; a duration is not negative"):
        read(path)
    path.write_text("no parquet")
    with pytest.raises(Problem, match="is no Parquet file that can be read"):
        open_data(path)


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Problem, match=r"needs pyarrow: install it with `pip install 'afr-robustness\[parquet\]'`"):
        open_data(write(tmp_path, "", "times.parquet"))


HEAD = "duration_lower,duration_upper,x\n"
WRONG = {
    "": "is empty; its first line must name the columns",
    HEAD: "has no rows below its header",
    "duration_lower,x\n1,2\n": "there is no column duration_upper; the columns are duration_lower, x",
    "duration_lower,duration_upper,x,x\n1,1,1,1\n": "the column 'x' stands there twice",
    "duration_lower,duration_upper,\n1,1,1\n": "column 3 has no name",
    "duration_lower,duration_upper,intercept\n1,1,1\n": "rename the column intercept",
    f"{HEAD}1,1,1\n1,1\n": "line 3: 2 cells under 3 columns",
    f"{HEAD}1,1,1\n\n-1,1,1\n": "line 4: duration_lower is '-1'; a duration is not negative",
    f"{HEAD}1,1,1\n3,2,1\n": "line 3: duration_lower '3' is above duration_upper '2'",
    f"{HEAD}one,1,1\n": "line 2: duration_lower is 'one', which is no finite number",
    f"{HEAD}inf,inf,1\n": "line 2: duration_lower is 'inf', which is no finite number",
    f"{HEAD},1,1\n": "line 2: duration_lower is empty; write 0",
    f"{HEAD}0,soon,1\n": "line 2: duration_upper is 'soon', which is no number; leave it empty",
    f"{HEAD}0,nan,1\n": "line 2: duration_upper is 'nan', which is no number",
    f"{HEAD}0,0,1\n": "line 2: duration_upper is '0'; a failure takes longer than 0",
    f"{HEAD}1,1,1\n2,2,high\n": "line 3: covariate x is 'high', which is no number; recode it, or give --ignore x",
    f"{HEAD}1,1,high\n2,2,1\n": "line 2: covariate x is 'high', which is no number",
    f"{HEAD}1,1,1\n2,2,\n": "line 3: covariate x is empty, which is no number",
    f"{HEAD}1,1,1\n2,2,inf\n": "line 3: covariate x is 'inf', which is no finite number",
    f"{HEAD}1,1,1_0\n2,2,1\n": "line 2: covariate x is '1_0', which is no number",
    "duration_lower,duration_upper,weight\n1,1,0\n": "line 2: weight is '0'; a row counts more than 0 times",
    "duration_lower,duration_upper,cluster\n1,1,a\n2,2, \n": "line 3: cluster is empty; name the cluster of every row",
    f'{HEAD}1,1,"1\n': "this is no CSV",
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=WRONG.values())
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Problem) as problem:
        read(write(tmp_path, text))
    assert said in str(problem.value)
    assert "times.csv" in str(problem.value)


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_bytes(b"duration_lower,duration_upper\n1,\xff\n")
    with pytest.raises(Problem, match="is not text in UTF-8"):
        read(path)


def test_an_ignored_column_is_no_covariate(tmp_path: Path) -> None:
    path = write(tmp_path, "duration_lower,duration_upper,x,batch\n1,1,1,7\n2,2,3,x\n")
    (batch,) = read(path, ("batch",))
    assert [covariate.name for covariate in batch.covariates] == ["x"]
    with pytest.raises(Problem, match="there is no column bach; the columns are duration_lower"):
        read(path, ("bach",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit",), "FILE"),
        (("fit", "no.csv"), "no.csv does not exist"),
        (("fit", "no.txt"), "no.txt is neither a .csv nor a .parquet file"),
        (("fit", "tmp"), "tmp is neither"),
        (("fit", "no.csv", "--distribution", "cauchy"), "cauchy"),
    ],
)
def test_a_misuse_is_one_line(afrctl: Any, arguments: tuple[str, ...], said: str) -> None:
    ended = afrctl(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr
