"""The protocol is what tasks follow."""

from attn_jax.core.training import Aux
from attn_jax.train import task as task_lib
from tests import testing
from tests.train import toy


def test_protocol():
    assert isinstance(toy.ToyTask(), task_lib.Task)
    assert not isinstance(object(), task_lib.Task)


def test_aux_is_the_one_of_core():
    assert task_lib.Aux is Aux
    assert Aux().per_sample is None and dict(Aux().metrics) == {}


if __name__ == "__main__":
    testing.main()
