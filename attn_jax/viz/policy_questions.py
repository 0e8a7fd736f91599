"""What each family of tests asks, in the words of a reader.

question("target_lift").title        # Does attention lie on the object that the prompt names?
read("prompt_moves_attention", ("noise", "frame"))      # ... that other noise or the next frame ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Question:
    """What a family of tests asks.

    Attributes:
      title: the question.
      effect: what the difference is, with its unit.
      reading: how a row is read; `{floor}` stands for what makes the null floor, see `read`.
    """

    title: str
    effect: str
    reading: str


QUESTIONS: dict[str, Question] = {
    "target_lift": Question(
        "Does attention lie on the object that the prompt names?",
        "lift of the target minus 1",
        "Lift is the share of the camera's attention that is on the object, over its share of the "
        "picture: 1 is what looking everywhere alike would give. The difference is lift - 1.",
    ),
    "objects_by_outcome": Question(
        "Does attention on the target differ between success and failure?",
        "success minus failure",
        "Overlap is the share of the camera's attention that is on the target. Concentration is "
        "the mean attention of a patch of the target over that of a patch outside: 1 is looking "
        "everywhere alike. IoU compares the hottest patches with the target.",
    ),
    "first_look_by_outcome": Question(
        "Does the first prediction already look more at the target in successes?",
        "share of attention, success minus failure",
        "Overlap with the target at the first prediction of every episode. Later on a policy also "
        "looks at what it is about to pick up because it is there; here nothing has moved yet.",
    ),
    "prompt_moves_first_attention": Question(
        "Does another prompt move the attention of the first prediction?",
        "change minus null floor",
        "Of the first prediction of every episode alone: that is where a prompt decides which way "
        "to go. A change counts only where it exceeds the largest change that {floor} makes there.",
    ),
    "prompt_moves_first_actions": Question(
        "Does another prompt change the first actions?",
        "change minus null floor, standard deviations",
        "Distance of the first action chunk, in standard deviations of the actions of the run, "
        "against the largest that {floor} makes.",
    ),
    "prompt_moves_attention": Question(
        "Does another prompt move attention more than other noise or the next frame do?",
        "change minus null floor",
        "A change counts only where it exceeds the largest change that {floor} makes in the same "
        "episode.",
    ),
    "prompt_moves_actions": Question(
        "Does another prompt change the actions more than other noise does?",
        "change minus null floor, standard deviations",
        "Distance of the action chunks, in standard deviations of the actions of the run, mean "
        "over its frames, against the largest that {floor} makes. Once a policy is on its way, "
        "another prompt has less to say: see the first prediction.",
    ),
    "attention_drifts": Question(
        "Does attention on the target drift along the chunk and the denoising steps?",
        "slope of the share per action or step",
        "A positive slope means that later actions, or later denoising steps, look more at it.",
    ),
    "head_focus_by_outcome": Question(
        "Are heads more or less focused in successes?",
        "normalised entropy, success minus failure",
        "Normalised entropy is 0 when one patch has everything and 1 when all have the same.",
    ),
    "nouns_look_at_their_object": Question(
        "Do the words that name an object look at it?",
        "lift minus 1",
        "Attention of the word's tokens in the prefix; 1 is looking everywhere alike.",
    ),
    "budget_by_outcome": Question(
        "Do successes spend more attention on vision or on language?",
        "share of attention, success minus failure",
        "Shares of all attention of the query that cameras and words receive.",
    ),
    "stability_by_outcome": Question(
        "Is attention steadier from frame to frame in successes?",
        "steadiness, success minus failure",
        "1 minus the mean Jensen-Shannon divergence of the maps of consecutive calls: 1 is a map "
        "that never changes.",
    ),
    "fidelity": Question(
        "Do the patches with much attention matter for the actions?",
        "fidelity",
        "Patches with much attention, and a control set of the same shape, are hidden. Fidelity "
        "compares how far the actions move: above 0 the attended patches matter more. The null "
        "floor is how far other noise moves them with nothing hidden, in the same unit.",
    ),
    "turning_loses_objects": Question(
        "Does attention stay on objects when the picture is turned?",
        "overlap lost minus 0.2",
        "A fifth of the overlap may be lost before it counts.",
    ),
    "cameras_by_outcome": Question(
        "Do successes look more at one camera?",
        "share of a camera, success minus failure",
        "Shares of the attention on pictures; they add up to 1 over the cameras.",
    ),
    "cameras_agree": Question(
        "Do the cameras look at the same place?",
        "correlation",
        "The map of one camera is carried into the picture of another, by the distance that it "
        "sees, and compared with that one's map where both see something: 1 is the same map, 0 "
        'nothing in common. "A in B" is the map of camera A in the picture of camera B.',
    ),
    "agreement_by_outcome": Question(
        "Do the cameras agree more in successes?",
        "correlation, success minus failure",
        "The same correlation of two cameras, in episodes that succeed and in those that fail.",
    ),
    "rollout_lies_on_target": Question(
        "Does what reaches the actions through all layers come from the target?",
        "lift minus 1",
        "Attention rollout from the actions to the input, layers multiplied; 1 is an even spread.",
    ),
    "relevance_lies_on_target": Question(
        "Does what moved the actions come from the target?",
        "lift minus 1",
        "Gradient times attention, gathered over layers and denoising steps; 1 is an even spread.",
    ),
    "answers_are_right": Question(
        "Are answers to questions right more often than wrong?",
        "share of right answers minus 0.5",
        "Against the expected answers that the questions name, by question. A question with few "
        "possible answers is right by chance more often than one with many.",
    ),
    "answers_look_at_objects": Question(
        "Do answers look at the object that the question asks about?",
        "lift minus 1",
        "1 is looking everywhere alike.",
    ),
}


#: Kinds of variants that make a null floor, in words.
FLOORS = {"noise": "other noise", "paraphrase": "a paraphrase", "frame": "the next frame"}


def question(family: str) -> Question:
    """The question of a family; one that is not known asks by its name."""
    words = family.replace("_", " ")
    return QUESTIONS.get(family, Question(words.capitalize(), "difference", ""))


def read(family: str, floors: Sequence[str]) -> str:
    """How a row of the family is read, where variants of these kinds made its null floor."""
    named = [FLOORS.get(kind, kind) for kind in floors]
    *first, last = named or ["nothing (no run for a floor was made)"]
    return question(family).reading.format(floor=f"{', '.join(first)} or {last}" if first else last)
