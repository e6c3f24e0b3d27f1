"""Worlds: names that no two people share, facts that say nothing of each other."""

import itertools

import numpy as np
import pytest

from braidlm.data.biographies.attributes import ATTRIBUTES, CHANCE
from braidlm.data.biographies.world import MOST, World, full_name, headquarters, name_numbers
from braidlm.errors import InputError

NAMES = [attribute.name for attribute in ATTRIBUTES]


def chi_squared(a: np.ndarray, b: np.ndarray) -> float:
    """How far 8 x 8 cells are from independence; 49 is expected, with a spread of 10."""
    table = np.zeros((8, 8))
    np.add.at(table, (a % 8, b % 8), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float((np.square(table - expected) / np.maximum(expected, 1e-9)).sum())


def test_no_name_is_in_both_halves_of_any_worlds():
    train = np.concatenate([name_numbers(20_000, seed, "train") for seed in (0, 1)])
    held_out = np.concatenate([name_numbers(20_000, seed, "held_out") for seed in (0, 1)])
    assert not set(train.tolist()) & set(held_out.tolist())
    assert all(len(set(name_numbers(20_000, 3, half))) == 20_000 for half in MOST)
    # By construction, too: the halves are two classes of numbers.
    f, m, last = np.unravel_index(held_out, (194, 194, 192))
    assert not ((f + m + last) % 8).any()
    words = {word for number in held_out.tolist() for word in full_name(number).split()}
    assert len(words) == 194 + 192  # a held-out name has no word that training lacks


@pytest.mark.parametrize("half", ["train", "held_out"])
def test_a_smaller_world_is_the_beginning_of_a_larger_one(half):
    small, large = World(50, 4, half), World(5000, 4, half)
    assert [small.person(i) for i in range(50)] == [large.person(i) for i in range(50)]
    assert World(50, 5, half).person(0) != small.person(0)


def test_no_fact_tells_another():
    world = World(40_000)
    columns = dict(zip(NAMES, world.values.T, strict=True))
    columns["pronoun"] = world.is_female.astype(int)
    words = np.unravel_index(world.names, (194, 194, 192))
    columns |= {f"name {i}": column for i, column in enumerate(words)}
    for a, b in itertools.combinations(columns, 2):
        if not (a.startswith("name") and b.startswith("name")):
            assert chi_squared(columns[a], columns[b]) < 110, (a, b)
    for attribute, column in zip(ATTRIBUTES, world.values.T, strict=True):
        assert column.max() < len(attribute.values)
        assert len(set(column.tolist())) > 0.6 * len(attribute.values)


def test_a_town_of_work_follows_from_the_employer_only_where_that_is_declared():
    work, firm = NAMES.index("work_city"), NAMES.index("employer")
    declared = World(3000, 1, work_city="headquarters")
    assert (declared.values[:, work] == headquarters(1)[declared.values[:, firm]]).all()
    plain = World(3000, 1)
    others = [i for i in range(len(NAMES)) if i != work]
    assert (plain.values[:, others] == declared.values[:, others]).all()
    assert (plain.values[:, work] == declared.values[:, work]).mean() < 0.05


def test_values_are_different_and_chance_is_theirs():
    for attribute in ATTRIBUTES:
        assert len(set(attribute.values)) == len(attribute.values)
        assert not any("." in value or "\n" in value for value in attribute.values)
    assert pytest.approx(CHANCE, rel=1e-3) == np.mean(
        [1 / 33600, 1 / 240, 1 / 192, 1 / 96, 1 / 256, 1 / 240]
    )


@pytest.mark.parametrize("n", [0, MOST["held_out"] + 1])
def test_a_world_has_an_end(n):
    with pytest.raises(InputError, match=rf"n_people = {n}: must be from 1 to 428571 \(held_out\)"):
        World(n, half="held_out")
