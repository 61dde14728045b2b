"""What is said of data that carry no number, or a doubtful one, by what their times are.

Times under attack change with the attack, distances with the epsilons tried. Of times of any origin, such as those that
patients survived, nothing is known that could be attacked: they are observed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from survival_service.covariates import in_words
from survival_service.observations import Clock


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about data that carry too little, each the end of a sentence, and how the sentence calls them."""

    of_jobs: bool
    one: str
    cluster: str
    time_to_failure: str
    end: str
    nobody_at_risk: str
    for_failures: str
    for_failures_of_group: str
    for_longer: str
    for_earlier_checks: str
    for_more_checks: str
    for_checks_between: str
    for_samples: str
    for_clusters: str
    for_fewer_effects: str

    def setting(self, name: str) -> str:
        """What a covariate is called: that of jobs in words, any other as whoever gave it named it."""
        if not self.of_jobs:
            return name
        words = in_words(name)
        return f"'{words}'" if " " in words else words

    def tells_apart(self, names: Sequence[str]) -> str:
        """That these covariates tell a group apart, as a clause."""
        return f"{' and '.join(map(self.setting, names))} {'tells' if len(names) == 1 else 'tell'} apart"


_OF_ATTACKS = Advice(
    of_jobs=True,
    one="sample",
    cluster="image",
    time_to_failure="time to failure",
    end="when the attack ended",
    nobody_at_risk="no sample is known to have been at risk: there is none, or only such as the model misclassified "
    "before the attack; attack more samples, or train the model longer",
    for_failures="raise epsilon or the number of iterations",
    for_failures_of_group="attack that group harder or longer",
    for_longer="raise the number of iterations",
    for_earlier_checks="attack more gently (a smaller epsilon or step size), with an attack that is checked several "
    "times, such as pgd",
    for_more_checks="use an attack that is checked several times, such as pgd, or raise its iterations",
    for_checks_between="attack more gently (a smaller step size or epsilon) so that failures spread over several "
    "checks",
    for_samples="attack more samples",
    for_clusters="attack more samples",
    for_fewer_effects="report on fewer jobs together",
)
_OF_DISTANCES = Advice(
    of_jobs=True,
    one="sample",
    cluster="image",
    time_to_failure="distance at failure",
    end="at the largest epsilon tried",
    nobody_at_risk=_OF_ATTACKS.nobody_at_risk,
    for_failures="try larger epsilons",
    for_failures_of_group="try larger epsilons on that group",
    for_longer="try larger epsilons",
    for_earlier_checks="try smaller epsilons too",
    for_more_checks="try several epsilons",
    for_checks_between="try more epsilons in between",
    for_samples="attack more samples",
    for_clusters="attack more samples",
    for_fewer_effects="report on fewer jobs together",
)
_OF_ANY_ORIGIN = Advice(
    of_jobs=False,
    one="observation",
    cluster="cluster",
    time_to_failure="time to failure",
    end="when they were last observed",
    nobody_at_risk="there is no observation; give rows with a weight above 0",
    for_failures="observe for longer",
    for_failures_of_group="observe that group for longer",
    for_longer="observe for longer",
    for_earlier_checks="look earlier and more often",
    for_more_checks="look more often than once",
    for_checks_between="look more often",
    for_samples="gather more observations",
    for_clusters="gather observations of more clusters",
    for_fewer_effects="fit fewer covariates",
)


def advice_on(clock: Clock | None) -> Advice:
    """What to say of times on a clock; None is that of times of any origin."""
    if clock is None:
        return _OF_ANY_ORIGIN
    return _OF_DISTANCES if clock is Clock.DISTANCE else _OF_ATTACKS
