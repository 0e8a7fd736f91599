import numpy as np
import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data.instance_masks import instance_masks
from tests import testing

IDS = {"front": np.array([[[0, 1, 1], [2, 3, 10]], [[3, 3, 3], [0, 0, 2]]], np.int32)}
NAMES = {2: "milk", 1: "basket", 3: "milk", 4: "robot"}


def test_masks_by_hand():
    made = instance_masks(IDS, NAMES)
    assert made.objects == ("basket", "milk", "robot")
    expected = [
        [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]],
        [[[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]],
    ]
    np.testing.assert_array_equal(made.masks["front"], np.array(expected, bool))
    assert made.unknown == {10}


def test_chosen_objects_keep_their_order():
    made = instance_masks(IDS, NAMES, objects=("milk", "basket"))
    full = instance_masks(IDS, NAMES).masks["front"]
    assert made.objects == ("milk", "basket")
    np.testing.assert_array_equal(made.masks["front"], full[:, [1, 0]])


@pytest.mark.parametrize(
    ("objects", "message"), [(("cup",), "'cup'.*Known: basket"), (("milk", "milk"), "repeat")]
)
def test_objects_that_are_not_there(objects, message):
    with pytest.raises(EpisodeError, match=message):
        instance_masks(IDS, NAMES, objects=objects)


if __name__ == "__main__":
    testing.main()
