"""Making the attack that a resolved specification asks for."""

from __future__ import annotations

from attack_service.attacks.apgd import APGD
from attack_service.attacks.carlini_wagner import CarliniWagner
from attack_service.attacks.deepfool import DeepFool
from attack_service.attacks.hopskipjump import HopSkipJump
from attack_service.attacks.lockstep import LockstepAttack
from attack_service.attacks.losses import doubt, logit_ratio
from attack_service.attacks.mim import MIM
from attack_service.attacks.pgd import PGD, bim, fgm
from attack_service.attacks.pixel import Pixel
from attack_service.attacks.querying import QueryAttack
from attack_service.attacks.square import Square
from attack_service.attacks.threshold import Threshold
from attack_service.jobs import AttackSpec


def build(spec: AttackSpec, class_count: int) -> LockstepAttack | QueryAttack:
    """The native attack of a specification that `catalog.resolve` has checked, on a model of so many classes."""
    parameters, norm, seed = spec.attack_parameters, spec.norm, spec.seed
    match spec.attack:
        case "fgm":
            return fgm(epsilon=parameters["epsilon"], norm=norm)
        case "pgd":
            return PGD(
                epsilon=parameters["epsilon"],
                step_size=parameters["step_size"],
                iteration_count=int(parameters["max_iterations"]),
                norm=norm,
                random_start=bool(parameters["random_start"]),
                seed=seed,
            )
        case "bim":
            return bim(
                epsilon=parameters["epsilon"],
                step_size=parameters["step_size"],
                iteration_count=int(parameters["max_iterations"]),
            )
        case "mim":
            return MIM(
                epsilon=parameters["epsilon"],
                step_size=parameters["step_size"],
                iteration_count=int(parameters["max_iterations"]),
                norm=norm,
                decay=parameters["decay"],
            )
        case "apgd" | "apgd-dlr":
            return APGD(
                epsilon=parameters["epsilon"],
                iteration_count=int(parameters["max_iterations"]),
                norm=norm,
                loss=doubt if spec.attack == "apgd" else logit_ratio,
                random_start=bool(parameters["random_start"]),
                seed=seed,
            )
        case "deepfool":
            return DeepFool(
                epsilon=parameters["epsilon"],
                norm=norm,
                candidate_count=min(int(parameters["candidate_count"]), class_count - 1),
                overshoot=parameters["overshoot"],
                iteration_count=int(parameters["max_iterations"]),
            )
        case "cw":
            return CarliniWagner(
                search_count=int(parameters["binary_search_steps"]),
                iteration_count=int(parameters["max_iterations"]),
                learning_rate=parameters["learning_rate"],
                initial_constant=parameters["initial_constant"],
                confidence=parameters["confidence"],
            )
        case "square":
            return Square(
                epsilon=parameters["epsilon"],
                norm=norm,
                query_count=int(parameters["max_queries"]),
                initial_share=parameters["initial_share"],
                seed=seed,
            )
        case "hopskipjump":
            return HopSkipJump(
                iteration_count=int(parameters["max_iterations"]),
                initial_evaluation_count=int(parameters["initial_evaluations"]),
                evaluation_limit=int(parameters["max_evaluations"]),
                start_limit=int(parameters["max_starts"]),
                norm=norm,
                seed=seed,
            )
        case "pixel":
            return Pixel(
                population_size=int(parameters["population_size"]),
                generation_count=int(parameters["max_generations"]),
                seed=seed,
                pixel_count=int(parameters["pixel_count"]),
            )
        case "threshold":
            return Threshold(
                population_size=int(parameters["population_size"]),
                generation_count=int(parameters["max_generations"]),
                seed=seed,
                threshold=int(parameters["threshold"]),
            )
    raise ValueError(f"no attack is called {spec.attack!r}")
