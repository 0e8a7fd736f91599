"""What the measures and queries of an analysis are called in words, and in which unit they are.

metric("lift_picture").label           # lift in the picture
metric("mass:image/wrist").unit        # share of attention
metric("overlap", "relevance").unit    # share of the camera's gradient times attention
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """One measure in words.

    Attributes:
      label: its name.
      unit: what the number counts, or its range.
    """

    label: str
    unit: str


_SHARE = "share of attention"
_CAMERA_SHARE = "share of the camera's"
_CHANGE = "probability per patch"

#: By the name in the column `metric`; `metric` knows endings and groups besides.
METRICS: dict[str, Metric] = {
    "overlap": Metric("overlap", f"{_CAMERA_SHARE} attention"),
    "area_fraction": Metric("area of the object", "share of the picture"),
    "lift": Metric("lift", f"{_CAMERA_SHARE} attention over share of area"),
    "concentration": Metric("concentration", "mean of a patch inside over outside the object"),
    "mean_inside": Metric("mean attention inside", _CHANGE),
    "mean_outside": Metric("mean attention outside", _CHANGE),
    "iou": Metric("IoU", "intersection over union of the hottest patches and the object"),
    "topk_precision": Metric("top patches on the object", "share of the top patches"),
    "topk_recall": Metric("object among the top patches", "share of the object"),
    "topk_iou": Metric("IoU of the top patches", "intersection over union"),
    "auroc": Metric("area under the ROC curve", "0.5 is chance"),
    "pointing": Metric("pointing game", "share of maps whose maximum is on the object"),
    "nss": Metric("standardised attention on the object", "standard deviations"),
    "bar_mass": Metric("attention on letterbox bars", _SHARE),
    "camera_mass": Metric("attention on the camera", _SHARE),
    "visible": Metric("frames that show the object", "share of the frames"),
    "fidelity": Metric("fidelity", "squared, attended minus control patches, over the variance"),
    "mse_high": Metric("change without the attended patches", "squared, over the variance"),
    "mse_control": Metric("change without the control patches", "squared, over the variance"),
    "matched_share": Metric("controls of the same shape", "share of the calls"),
    "null_floor": Metric("change by other noise", "squared, over the variance"),
    "mean_diff": Metric("mean change", _CHANGE),
    "mean_abs_diff": Metric("mean absolute change", _CHANGE),
    "max_increase": Metric("largest increase", _CHANGE),
    "max_decrease": Metric("largest decrease", _CHANGE),
    "l2": Metric("Euclidean distance of the maps", "probability"),
    "relative_l2": Metric("relative distance of the maps", "of the norm of the map"),
    "pearson": Metric("correlation of the maps", "-1 to 1"),
    "jsd": Metric("Jensen-Shannon divergence", "0 to 1"),
    "centroid_shift_px": Metric("shift of the centre", "pixels of the model's input"),
    "action_l2_std": Metric("distance of the actions", "standard deviations"),
    "action_abs_std": Metric("distance of one dimension of the actions", "standard deviations"),
    "correct": Metric("right answers", "share of the answers"),
    "roi_mass": Metric("attention on the object", _SHARE),
    "roi_mass_first_action": Metric("attention on the object, first action", _SHARE),
    "roi_mass_last_action": Metric("attention on the object, last action", _SHARE),
    "roi_curve": Metric("attention on the object by action", _SHARE),
    "slope_action": Metric("drift along the chunk", "share of attention per action"),
    "slope_denoise": Metric("drift along denoising", "share of attention per step"),
    "normalised_entropy": Metric("normalised entropy", "0 one patch, 1 all alike"),
    "effective_patches": Metric("effective number of patches", "patches"),
    "gini": Metric("Gini coefficient", "0 all alike, 1 one patch"),
    "topk_mass": Metric("attention on the top patches", "share of that on the camera"),
    "max": Metric("largest patch", "share of that on the camera"),
    "mass": Metric("attention on the camera", _SHARE),
    "effective_rank": Metric("effective rank over frames", "independent maps"),
    "similarity_to_previous_layer": Metric("likeness to the previous layer", "correlation"),
    "stability": Metric("steadiness", "1 - divergence from call to call"),
    "sink_mass": Metric("attention on sink patches", _SHARE),
    "sink_patches": Metric("sink patches", "patches"),
    "bos_mass": Metric("attention on the first token", _SHARE),
    "agreement": Metric("agreement of two cameras", "correlation"),
    "shared_patches": Metric("patches that the other camera sees too", "share of the patches"),
    "camera_share": Metric("share of the camera", "share of attention on all cameras"),
    "centroid_shift_patches": Metric("shift of the centre", "patches"),
    "overlap_drop": Metric("overlap lost", "share of the overlap"),
    "concentration_drop": Metric("concentration lost", "share of the concentration"),
}
_ENDINGS = {"_picture": " in the picture", "_first": ", first prediction"}
#: What stands before the name of a token group -> words and unit.
_GROUPS = {
    "mass:": Metric("attention on", _SHARE),
    "rollout:": Metric("attention through all layers from", "share of the rollout"),
    "flow:": Metric("flow through all layers from", "flow, at most 1"),
    "relevance:": Metric("relevance of", "share of gradient times attention"),
}
#: Hypothesis -> what its maps are made of, where that is not attention.
_MADE_OF = {"rollout": "rollout", "relevance": "gradient times attention"}
#: Measures of objects that those hypotheses share with the ones about attention.
_OF_MAPS = ("overlap", "lift")


def metric(name: str, hypothesis: str = "") -> Metric:
    """A measure in words; one that is not known is called by its name, without a unit.

    Args:
      name: as in the column `metric`.
      hypothesis: as in the column of that name; empty takes the words of maps of attention.
    """
    if name in METRICS:
        found = METRICS[name]
        if name in _OF_MAPS and hypothesis in _MADE_OF:
            unit = found.unit.replace("attention", _MADE_OF[hypothesis])
            return dataclasses.replace(found, unit=unit)
        return found
    for start, words in _GROUPS.items():
        if name.startswith(start):
            return Metric(f"{words.label} {name.removeprefix(start)}", words.unit)
    for ending, words in _ENDINGS.items():
        if name.endswith(ending):
            whole = metric(name.removesuffix(ending))
            return Metric(whole.label + words, whole.unit)
    return Metric(name.replace("_", " "), "")


_QUERIES = {"action": "actions", "text": "words of the prompt"}


def query_words(name: str) -> str:
    """A query group in words; others than actions and text are called by their name."""
    return _QUERIES.get(name, name)
