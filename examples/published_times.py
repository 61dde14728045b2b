"""Times of the published experiments of arXiv 2401.13751, as files that `afrctl fit` takes.

    python published_times.py cifar100_experiments.csv

writes attack.csv, inference.csv and training.csv, seconds a sample, and inferences.csv, an attack's seconds in units of
the same model's inference. Every time is exact; layers, declared epochs, the attack's scaled strength and the attack
(against HopSkipJump) are the covariates. Rows without a strength are left out.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

ATTACKS = ("FGM", "PGD", "Deep", "Pixel", "Thresh")
TIMES: dict[str, Callable[[dict[str, str]], float]] = {
    "attack.csv": lambda row: float(row["adv_fit_time_per_sample"]),
    "inference.csv": lambda row: float(row["predict_time_per_sample"]),
    "inferences.csv": lambda row: float(row["adv_fit_time_per_sample"]) / float(row["predict_time_per_sample"]),
    "training.csv": lambda row: float(row["train_time_per_sample"]),
}


def main(published: Path) -> None:
    """Write the four files into the current folder."""
    with published.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["atk_value"]]
    for name, time in TIMES.items():
        with Path(name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["duration_lower", "duration_upper", "layers", "epochs", "strength", *ATTACKS])
            for row in rows:
                attack = [int(row["atk_gen"] == one) for one in ATTACKS]
                writer.writerow([time(row), time(row), row["model_layers"], row["epochs"], row["atk_value"], *attack])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
