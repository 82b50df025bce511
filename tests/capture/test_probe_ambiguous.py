"""The ambiguous reasoning items: balance, and nothing that gives the answer away."""

from collections import Counter

import pytest

from lpp.capture.synthetic.ambiguous import AmbiguousItem, ambiguous_items, read_scenes

SEEDS = (0, 1, 7)


@pytest.fixture(scope="module", params=SEEDS)
def dealt(request: pytest.FixtureRequest) -> tuple[list[AmbiguousItem], list[AmbiguousItem]]:
    return ambiguous_items(request.param)


def test_there_are_enough_scenes_of_enough_kinds() -> None:
    scenes = [scene for scene in read_scenes() if scene.use == "test"]
    kinds = Counter(scene.kind for scene in scenes)
    assert len(scenes) == 40
    assert len(kinds) == 10
    assert set(kinds.values()) == {4}


def test_every_cell_of_a_scene_is_there_once(dealt: tuple[list[AmbiguousItem], ...]) -> None:
    _, test = dealt
    scenes = read_scenes()
    cells = Counter((i.scene, i.ambiguous, i.hint == scenes[i.scene].hint_a) for i in test)
    assert len(test) == len(cells) == 160
    assert set(cells.values()) == {1}


@pytest.mark.slow
def test_gold_is_balanced_and_follows_from_nothing_but_the_hint(
    dealt: tuple[list[AmbiguousItem], ...],
) -> None:
    _, test = dealt
    golds = Counter((item.ambiguous, item.answer) for item in test)
    assert set(golds.values()) == {40}
    of_prefix = Counter(
        (item.prefix, item.option_a, item.answer) for item in test if item.ambiguous
    )
    assert set(of_prefix.values()) == {1}  # with one order of options, either answer is right once
    assert len(of_prefix) == 80
    first = Counter(item.option_a == read_scenes()[item.scene].a for item in test)
    assert 50 <= first[True] <= 110  # readings change places


def test_options_and_hint_are_of_one_scene(dealt: tuple[list[AmbiguousItem], ...]) -> None:
    scenes = read_scenes()
    for item in (*dealt[0], *dealt[1]):
        scene = scenes[item.scene]
        assert {item.option_a, item.option_b} == {scene.a, scene.b}
        wanted = scene.a if item.hint == scene.hint_a else scene.b
        assert (item.option_a if item.answer == "A" else item.option_b) == wanted
        plain = scene.plain_a if wanted == scene.a else scene.plain_b
        assert item.prefix == (scene.prefix if item.ambiguous else plain)


@pytest.mark.parametrize("n", [4, 20, 100])
def test_the_first_items_are_balanced_too(dealt: tuple[list[AmbiguousItem], ...], n: int) -> None:
    first = dealt[1][:n]
    assert sum(item.ambiguous for item in first) == n // 2
    assert len({item.scene for item in first}) == min(n, 40)


def test_shots_are_of_other_scenes_and_show_every_answer(
    dealt: tuple[list[AmbiguousItem], ...],
) -> None:
    shots, test = dealt
    assert len(shots) == 10
    assert not {item.scene for item in shots} & {item.scene for item in test}
    seen = Counter((item.ambiguous, item.answer) for item in shots)
    assert sorted(seen.values()) == [2, 2, 3, 3]
    assert {item.ambiguous for item in shots[:2]} == {True, False}
