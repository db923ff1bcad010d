"""The division of a dataset: shares, seeds, and what it must not depend on."""

import random
import time
from collections import Counter

import pytest

from crossformer_mm.data.split import classes_by_image, divide, select

SHARES = [0.8, 0.1, 0.1]


def images(count: int, classes: int = 10, most: int = 4) -> dict[str, set[str]]:
    """Images of some classes, of which the first are more frequent; some images have none."""
    rng = random.Random(count)
    names, weights = [f'class {i}' for i in range(classes)], [1 / (i + 1) for i in range(classes)]
    return {
        f'{i:06}.jpg': {*rng.choices(names, weights, k=rng.randint(0, most))}
        if most > 1
        else {names[i % classes]}
        for i in range(count)
    }


def largest_errors(given: dict[str, set[str]], parts: dict[str, int], shares: list[float]) -> list[float]:
    """How many images a class is off its share, and how many a part is off its size."""
    counts = Counter((name, parts[image]) for image in given for name in given[image])
    totals, sizes = Counter(name for names in given.values() for name in names), Counter(parts.values())
    return [
        max(abs(counts[name, i] - share * totals[name]) for name in totals for i, share in enumerate(shares)),
        max(abs(sizes[i] - share * len(given)) for i, share in enumerate(shares)),
    ]


@pytest.mark.parametrize('count', [50, 300, 2000])
@pytest.mark.parametrize('shares', [[0.8, 0.2], SHARES])
def test_shares_of_single_classes_are_within_an_image(count: int, shares: list[float]) -> None:
    given = {name: names for name, names in images(count, most=1).items() if names}
    assert max(largest_errors(given, divide(given, shares), shares)) < 1


@pytest.mark.parametrize('count', [100, 1000, 5000])
@pytest.mark.parametrize('shares', [[0.8, 0.2], SHARES])
def test_shares_of_several_classes_are_close(count: int, shares: list[float]) -> None:
    given = images(count)
    classes, sizes = largest_errors(given, divide(given, shares), shares)
    assert (classes < 2, sizes < 1) == (True, True)


@pytest.mark.parametrize('seed', range(3))
def test_shares_of_few_classes_in_all_combinations(seed: int) -> None:
    kinds = [{'a'}, {'b'}, {'c'}, {'a', 'b'}, {'a', 'c'}, {'b', 'c'}, {'a', 'b', 'c'}]
    given = {f'{i}.jpg': kinds[i % 7] for i in range(1500)}
    assert max(largest_errors(given, divide(given, SHARES, seed), SHARES)) <= 1


def test_errors_of_many_rare_classes_do_not_add_up() -> None:
    given = {f'{i}.jpg': {f'class {i // 3}'} for i in range(300)}
    assert Counter(divide(given, [0.8, 0.2]).values()) == {0: 240, 1: 60}


@pytest.mark.parametrize('share', [0.01, 0.5, 0.99])
def test_every_part_has_an_image_and_every_class_is_trained(share: float) -> None:
    given = {**images(40, 6), 'only.jpg': {'rare'}, 'pair 1.jpg': {'two'}, 'pair 2.jpg': {'two'}}
    for seed in range(20):
        parts = divide(given, [1 - share, share], seed)
        assert {*parts.values()} == {0, 1}
        trained = {name for image, part in parts.items() if part == 0 for name in given[image]}
        assert trained == {name for names in given.values() for name in names}


def test_images_without_objects_are_divided_too() -> None:
    given = {**{f'{i}.jpg': {'nut'} for i in range(40)}, **{f'empty {i}.jpg': set() for i in range(20)}}
    parts = divide(given, [0.75, 0.25])
    assert sum(part for image, part in parts.items() if not given[image]) == 5


def test_seeds() -> None:
    given = images(100)
    first = divide(given, SHARES, seed=1)
    assert first == divide(given, SHARES, seed=1)
    assert len({tuple(divide(given, SHARES, seed).values()) for seed in range(10)}) == 10


def test_the_order_of_images_and_classes_does_not_matter() -> None:
    given = images(200)
    shuffled = random.Random(0).sample(sorted(given), len(given))
    assert divide({name: sorted(given[name]) for name in shuffled}, SHARES) == divide(given, SHARES)


def test_a_division_is_the_same_on_every_machine() -> None:
    """Python's hashes of text, which order sets, differ from process to process."""
    parts = divide({str(i): {f'c{i % 3}', f'd{i % 5}'} for i in range(30)}, [0.8, 0.2], seed=7)
    assert [int(name) for name, part in parts.items() if part] == [10, 11, 24, 12, 4, 23]


def test_the_same_image_is_on_one_side() -> None:
    given = {f'{i}.jpg': {f'class {i % 4}'} for i in range(60)}
    same = {f'{i}.jpg': f'{i - 30}.jpg' for i in range(30, 60)}
    parts = divide(given, [0.8, 0.2], same=same)
    assert all(parts[copy] == parts[image] for copy, image in same.items())
    assert max(largest_errors(given, parts, [0.8, 0.2])) < 2


def test_too_few_images() -> None:
    assert {*divide({'a': {'x'}, 'b': {'y'}}, [0.9, 0.1]).values()} == {0, 1}
    with pytest.raises(ValueError, match='1 different images cannot be divided into 2 parts'):
        divide({'a': {'x'}, 'b': {'x'}}, [0.9, 0.1], same={'b': 'a'})


@pytest.mark.slow
def test_a_hundred_thousand_images_take_seconds() -> None:
    given = images(100_000, classes=80)
    start = time.process_time()
    parts = divide(given, SHARES)
    assert time.process_time() - start < 20
    assert max(largest_errors(given, parts, SHARES)) < 1


def test_parts_of_coco_content() -> None:
    content = {
        'images': [{'id': 5, 'file_name': 'a.jpg'}, {'id': 6, 'file_name': 'b.jpg'}],
        'annotations': [
            {'id': 1, 'image_id': 6, 'category_id': 9},
            {'id': 2, 'image_id': 5, 'category_id': 8},
        ],
        'categories': [{'id': 8, 'name': 'nut'}, {'id': 9, 'name': 'fig'}],
        'info': {'year': 2026},
    }
    assert classes_by_image(content) == {'a.jpg': {'nut'}, 'b.jpg': {'fig'}}
    assert select(content, {'b.jpg'}) == {
        **content,
        'images': content['images'][1:],
        'annotations': content['annotations'][:1],
    }
