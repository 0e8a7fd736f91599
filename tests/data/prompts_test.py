import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.data.prompts import Prompt, read_prompts, repeat, swap_prompts
from tests import testing

EXAMPLE = testing.ROOT / "configs/analysis/prompts/find_and_pick.yaml"


def test_the_example_has_the_prompts_of_the_original_study():
    objects = {"duck": "duck toy", "banana": "banana", "cat": "cat toy", "bottle": "bottle"}
    found = read_prompts(EXAMPLE)
    assert [prompt.key for prompt in found] == list(objects)
    for prompt in found:
        assert prompt.text == f"find the {objects[prompt.key]} and pick it up"
        assert prompt.method == "object_swap"


def test_code_in_a_file_is_not_run(tmp_path):
    (tmp_path / "prompts.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_prompts(tmp_path / "prompts.yaml")


def test_a_swap_may_hold_the_words_of_the_sample():
    batch = swap_prompts({"task": ["pick", "place"]}, (Prompt("not", "do not {prompt}"),))
    assert batch["task"] == ["do not pick", "do not place"]


def test_prompts_of_a_file(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text(
        "- {key: banana, prompt: find the banana and pick it up, method: object_swap}\n"
        "- {key: not, prompt: 'do not {prompt}', method: negation}\n"
        "- {key: empty, prompt: '', method: empty}\n"
        "- {key: other, prompt: go}\n"
    )
    prompts = read_prompts(path)
    assert [p.key for p in prompts] == ["banana", "not", "empty", "other"]
    assert prompts[1].words("find the duck") == "do not find the duck"
    assert prompts[0].words("find the duck") == "find the banana and pick it up"
    swap = Prompt("swap", "{other}", "object_swap")
    assert swap.words("find the duck", ["find the cup", "find the pan"]) == "find the cup"
    assert not swap.suits([]) and prompts[0].suits([])
    with pytest.raises(ConfigError, match="another instruction"):
        swap.words("find the duck")
    assert (prompts[2].words("x"), prompts[3].method) == ("", "custom")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {key: a, prompt: b, method: swap}", "method 'swap'.*object_swap"),
        ("- {key: ../a, prompt: b}", r"cannot have the key '\.\./a'"),
        ("- {key: noise_1, prompt: b}", "do not begin with noise_"),
        ("- {key: a, prompt: ' '}", "has no words"),
        ("- {key: a, prompt: b}\n- {key: a, prompt: c}", "two prompts have the key 'a'"),
        ("- {key: a, text: b}", "entry 0 is"),
        ("- a", "entry 0 is 'a'"),
        ("a: b", "holds no list"),
        ("[", "cannot be read as YAML"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    (tmp_path / "prompts.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(tmp_path / "prompts.yaml")


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read"):
        read_prompts(tmp_path / "none.yaml")


def test_a_prompt_made_in_code():
    with pytest.raises(ConfigError, match="has no words"):
        Prompt("a", "")


def test_only_the_prompt_is_swapped():
    rng = np.random.default_rng(0)
    observation = {
        "observation.state": rng.random((2, 3)),
        "observation.images.wrist": rng.integers(0, 255, (2, 4, 4, 3), np.uint8),
        "task": ["pick", "place"],
    }
    prompts = (Prompt("a", "one"), Prompt("b", "two"), Prompt("c", "three"))
    batch = swap_prompts(observation, prompts)
    assert batch["task"] == ["one", "one", "two", "two", "three", "three"]
    for key in ("observation.state", "observation.images.wrist"):
        assert batch[key].dtype == observation[key].dtype
        for number in range(3):
            np.testing.assert_array_equal(batch[key][2 * number :][:2], observation[key])
    noise = rng.standard_normal((2, 5, 8))
    np.testing.assert_array_equal(repeat(noise, 3)[[0, 2, 4]], noise[[0, 0, 0]])


def test_observations_that_do_not_fit_are_refused():
    prompts = (Prompt("a", "one"),)
    with pytest.raises(ConfigError, match="no list of texts"):
        swap_prompts({"observation.state": np.zeros((1, 2))}, prompts)
    with pytest.raises(ConfigError, match="has 2 samples"):
        swap_prompts({"observation.state": np.zeros((2, 2)), "task": ["a"]}, prompts)
    with pytest.raises(ConfigError, match="no prompts"):
        swap_prompts({"task": ["a"]}, ())


if __name__ == "__main__":
    testing.main()
