"""What is wrong with a file is told so that it can be mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.data_files import open_data
from cli.errors import Misuse, Problem
from cli.observation_files import covariate_names, observation_batches

HEAD = "duration_lower,duration_upper"


def read(folder: Path, text: str, *ignored: str) -> list[object]:
    path = folder / "times.csv"
    path.write_text(text)
    file = open_data(path)
    return list(observation_batches(file, covariate_names(file, ignored)[0], ignored))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("duration_lower;duration_upper\n1,5;1,5\n", "semicolons part its columns; save it with commas"),
        ("duration_lower\tduration_upper\n1\t1\n", "tabs part its columns"),
        ("Duration_Lower,duration_upper\n1,1\n", "no column duration_lower; Duration_Lower is written otherwise"),
        (f'{HEAD}\n"1,5","1,5"\n', "duration_lower is '1,5', which is no finite number; write decimals with a point"),
        (f"{HEAD}\n1\n", "1 cell under 2 columns; repair the line"),
        (f"{HEAD}\n1,2,3\n", "3 cells under 2 columns; a cell with a comma in it needs quotes"),
        (f"{HEAD},Weight\n1,1,3\n", "Weight would be a covariate; rename it weight, or give --ignore Weight"),
        (",".join(f"c{i}" for i in range(1000)) + "\n" + ",".join("1" * 1000) + "\n", "c19 and 980 more"),
    ],
)
def test_the_mistake_is_named_with_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Problem) as problem:
        read(tmp_path, text)
    assert said in str(problem.value)
    assert len(str(problem.value)) < len(str(tmp_path)) + 200


def test_an_ignored_weight_weighs_nothing_and_an_ignored_time_is_refused(tmp_path: Path) -> None:
    text = f"{HEAD},weight,cluster\n1,1,3,a\n2,2,5,b\n"
    (batch,) = read(tmp_path, text, "weight", "cluster")
    assert (list(batch.weight), list(batch.cluster)) == ([], [])  # type: ignore[attr-defined]
    (batch,) = read(tmp_path, text)
    assert (list(batch.weight), list(batch.cluster)) == ([3, 5], ["a", "b"])  # type: ignore[attr-defined]
    with pytest.raises(Misuse, match="nothing to fit without it"):
        read(tmp_path, text, "duration_upper")
