"""What is loaded once is not looked at again and again."""

import gc

import pytest

from gateway.garbage import YOUNG_OBJECTS, spare_what_is_here


@pytest.fixture
def as_before():
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
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
