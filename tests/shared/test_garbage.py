"""What is loaded once is not looked at again and again."""

import gc
import weakref

import pytest

from shared.garbage import YOUNG_OBJECTS, spare_nothing, spare_what_is_here


class CanBeWatched:
    """What can be referred to weakly."""


@pytest.fixture
def as_before():
    thresholds = gc.get_threshold()
    yield
    spare_nothing()
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("as_before")
def test_what_is_here_is_left_alone_and_what_comes_is_not():
    spare_what_is_here()
    frozen = gc.get_freeze_count()
    assert frozen > 1000
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
    circle: list[object] = []
    circle.append(circle)
    del circle
    assert gc.collect() >= 1


@pytest.mark.usefixtures("as_before")
def test_what_was_spared_is_let_go_of_afterwards():
    circle: list[object] = [CanBeWatched()]
    circle.append(circle)
    watch = weakref.ref(circle[0])
    spare_what_is_here()
    del circle
    gc.collect()
    assert watch() is not None
    spare_nothing()
    gc.collect()
    assert watch() is None
