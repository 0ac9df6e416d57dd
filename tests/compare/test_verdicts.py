"""The statistics of claims: against scipy and statsmodels, and by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from anomaly_zoo.compare.verdicts import Bound, Difference, difference, needed, smallest_found, verdicts

RNG = np.random.default_rng(0)
Simulated = list[list[np.ndarray]]


def of(*means: float, seeds: int = 1) -> Difference:
    return difference([np.full(seeds, mean) for mean in means])


def test_the_interval_is_students_over_the_means_of_categories() -> None:
    categories = [RNG.normal(size=seeds) for seeds in (3, 3, 2, 1, 3)]
    found, means = difference(categories), [seeds.mean() for seeds in categories]
    expected = stats.ttest_1samp(means, 0).confidence_interval()
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert (found.categories, found.seeds) == (5, 2.4)
    assert found.mean == pytest.approx(np.mean(means))
    assert found.of_seeds == pytest.approx(np.mean([x.var(ddof=1) / len(x) for x in categories if len(x) > 1]))
    assert of(0.1).interval == (-np.inf, np.inf)


def test_p_values_are_those_of_t_tests() -> None:
    means = [0.02, 0.05, 0.01, -0.02, 0.04]
    bound = Bound(of(*means), 0.005)
    assert bound.p_value(holds=True) == pytest.approx(stats.ttest_1samp(means, 0.005, alternative="greater").pvalue)
    assert bound.p_value(holds=False) == pytest.approx(stats.ttest_1samp(means, 0.005, alternative="less").pvalue)


def test_equality_is_two_one_sided_tests() -> None:
    means = np.array([0.004, -0.008, 0.01, 0.003, -0.002, 0.006])
    both = [Bound(of(*means), -0.02), Bound(of(*-means), -0.02)]
    expected, *_ = DescrStatsW(means).ttost_mean(-0.02, 0.02)
    assert max(bound.p_value(holds=True) for bound in both) == pytest.approx(expected)
    assert verdicts([both]) == ["holds"]
    assert verdicts([[Bound(of(*means + 0.1), -0.02), Bound(of(*-means - 0.1), -0.02)]]) == ["does not hold"]


def test_the_claims_of_a_paper_share_holms_correction() -> None:
    claims = [[Bound(of(*RNG.normal(shift, 0.02, size=6)), 0.005)] for shift in (0.05, 0.035, 0.03, 0.0, -0.05)]
    p_values = [bound.p_value(holds=True) for (bound,) in claims]
    expected = multipletests(p_values, alpha=0.025, method="holm")[0]
    assert [verdict == "holds" for verdict in verdicts(claims)] == expected.tolist()
    assert verdicts(claims)[-1] == "does not hold"
    assert verdicts([]) == []


def test_a_claim_with_two_comparisons_holds_only_if_both_do() -> None:
    good, open_, bad = (
        Bound(of(*means), 0.005) for means in ((0.1, 0.11, 0.12), (0.1, -0.1, 0.2), (-0.1, -0.11, -0.12))
    )
    pairs = [[good, good], [good, open_], [good, bad], [open_, bad]]
    assert [verdicts([pair])[0] for pair in pairs] == ["holds", "cannot tell", "does not hold", "does not hold"]


def test_where_nothing_varies_the_number_of_categories_decides() -> None:
    assert verdicts([[Bound(of(*[0.0] * 5), 0.005)]]) == ["cannot tell"]
    assert verdicts([[Bound(of(*[0.0] * 6), 0.005)]]) == ["does not hold"]  # 1 of 64 patterns
    assert verdicts([[Bound(of(*[0.0] * 6), -0.02)]]) == ["holds"]
    assert verdicts([[Bound(of(0.5), 0.005)]]) == ["cannot tell"]
    assert needed([Bound(of(0.0, 0.0), 0.005)]) == (6, None)


def test_the_smallest_difference_that_is_found_has_a_power_of_80_percent() -> None:
    for categories, num_tests in ((3, 1), (7, 5)):
        smallest = smallest_found(Difference(0.0, 0.03, 0.0, categories, 3.0), num_tests)
        samples = RNG.normal(smallest, 0.03, size=(20_000, categories))
        found = stats.ttest_1samp(samples, 0, axis=1, alternative="greater").pvalue <= 0.025 / num_tests
        assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert smallest_found(of(0.5)) == np.inf


def test_what_is_needed_would_be_found() -> None:
    seen = Difference(0.02, 0.04, 0.00157, 6, 3.0)
    categories, seeds = needed([Bound(seen, 0.005)], 3)
    assert categories is not None
    assert seeds is not None
    for count, enough in ((categories, True), (categories - 1, False)):
        assert (smallest_found(Difference(0.0, 0.04, 0.0, count, 3.0), 3) <= 0.015) == enough
    for count, enough in ((seeds, True), (seeds - 1, False)):
        spread = (0.04**2 - 0.00157 + 0.00157 * 3 / count) ** 0.5
        assert (smallest_found(Difference(0.0, spread, 0.0, 6, 3.0), 3) <= 0.015) == enough
    assert needed([Bound(seen, 0.0201)]) == (None, None)
    assert needed([Bound(Difference(0.02, 0.04, 0.0, 6, 1.0), 0.005)])[1] is None  # one seed says nothing of seeds
    one = difference([np.array([0.0, 0.1, 0.2])])
    assert needed([Bound(one, 0.005)])[0] is not None
    high = Bound(Difference(0.1, 0.04, 0.0, 6, 3.0), 0.005)
    assert needed([high, Bound(seen, 0.005)], 3)[0] == categories  # both have to be shown


def simulate(count: int, categories: int, seeds: int, true: float, at_ceiling: int = 0) -> Simulated:
    """With the spreads that our results have: .03 between categories, .05 between seeds; 0 at the ceiling."""
    rng = np.random.default_rng(categories)
    effects = rng.normal(true, 0.03, size=(count, categories, 1)) + rng.normal(0, 0.05, (count, categories, seeds))
    effects[:, :at_ceiling] = 0
    return [list(moved) for moved in effects]


@pytest.mark.parametrize(("categories", "seeds", "at_ceiling"), [(6, 3, 0), (6, 3, 2), (7, 3, 2), (3, 3, 0), (6, 1, 0)])
def test_coverage_by_simulation(categories: int, seeds: int, at_ceiling: int) -> None:
    """Also: a true difference at the border is said to hold in less than 3 %."""
    true = 0.02
    mean = true * (categories - at_ceiling) / categories
    found = [difference(effects) for effects in simulate(4000, categories, seeds, true, at_ceiling)]
    covered = [d.interval[0] <= mean <= d.interval[1] for d in found]
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.mean([verdicts([[Bound(d, mean)]]) == ["holds"] for d in found]) < 0.03
