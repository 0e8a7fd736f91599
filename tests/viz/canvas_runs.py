"""A made-up canvas run with the real shapes: a dot that moves by 7 px on 64 x 64 frames."""

import json

import numpy as np

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.record import AttentionRecord
from attn_jax.viz.canvas_run import CanvasRun

GEOMETRY = CanvasGeometry((64, 64))
ACTIONS = ("action=0", "action=1")
MOVE, RADIUS = 7, 5
STRIPES = ((255, 0, 0), (0, 255, 0))


def dot(x, y, brightness=1.0):
    yy, xx = np.mgrid[:64, :64]
    dx, dy = (xx - x + 32) % 64 - 32, (yy - y + 32) % 64 - 32
    frame = np.where(dx**2 + dy**2 <= RADIUS**2, 255 * brightness, 0).astype(np.uint8)
    return np.repeat(frame[..., None], 3, -1)


def guess(frame, rng, wrong):
    """A true frame with the faults of a model; a wrong one is grey where the dot should be."""
    noise = rng.normal(0, 6, frame.shape[:2])[..., None]
    return np.clip(frame * (0.15 if wrong else 0.92) + np.abs(noise), 0, 255).astype(np.uint8)


def canvas(x, y, actions):
    out = np.zeros((*GEOMETRY.canvas_size, 3), np.uint8)
    for slot in range(3):
        start, stop = GEOMETRY.frame_columns(slot)
        out[:, start:stop] = dot(x, y)
        if slot < 2:
            start, stop = GEOMETRY.separator_columns(slot)
            out[:, start:stop] = STRIPES[actions[slot]]
            x += MOVE * actions[slot]
    return out, x


def attention(layout, stream, calls, layers=5, heads=4):
    """Rows that lean to the last frame and the last stripe, each head in its own measure."""
    rng = np.random.default_rng(3)
    queries, keys = len(layout.axis_tokens("query")), len(layout.axis_tokens("key"))
    logits = rng.normal(0, 1.2, (calls, 1, layers, heads, queries, keys))
    for layer in range(layers):
        for head in range(heads):
            logits[:, :, layer, head, :, layout.positions("sep1", "key")] += 0.9 * head - 0.5
            logits[:, :, layer, head, :, layout.positions("frame1", "key")] += 0.4 * layer
    weights = np.exp(logits)
    weights /= weights.sum(-1, keepdims=True)
    return AttentionRecord(
        stream, weights.astype(np.float32), layout, tuple(range(layers)), tuple(range(heads))
    )


def pictures(wrong=False, examples=4):
    rng = np.random.default_rng(0)
    shown = [canvas(10 + 9 * i, 8 + 14 * i, (i % 2, (i + 1) % 2)) for i in range(examples)]
    canvases = np.stack([c for c, _ in shown])
    start = GEOMETRY.frame_columns(2)[0]
    target = canvases[:, :, start:]
    last = [x - MOVE * ((i + 1) % 2) for i, (_, x) in enumerate(shown)]
    truth = np.stack(
        [[dot(last[i] + MOVE * a, 8 + 14 * i) for a in range(2)] for i in range(examples)]
    )
    rollout = np.stack([[dot(5 + MOVE * k, 20 + 9 * r) for k in range(8)] for r in range(2)])
    return {
        "canvas": canvases,
        "prediction": np.stack([guess(f, rng, wrong) for f in target]),
        "target": target,
        "counterfactual/context": canvases[:2],
        "counterfactual/truth": truth[:2],
        "counterfactual/prediction": np.stack(
            [[guess(f, rng, wrong) for f in per_action] for per_action in truth[:2]]
        ),
        "rollout/truth": rollout,
        "rollout/prediction": np.stack([[guess(f, rng, wrong) for f in r] for r in rollout]),
        "attention_canvas": canvases[:3],
    }


def evaluation(**changes):
    skill = {
        "plain_mse": 0.00071, "psnr_db": 31.5, "ssim": 0.981, "hybrid": 0.0021,
        "copy_last_mse": 0.0147, "copy_last_psnr_db": 58.9, "copy_last_ssim": 0.96,
        "black_mse": 0.0198, "best_constant_mse": 0.0194, "canvases": 297,
        "best_constant": 0.02, "best_constant_psnr_db": 17.1, "best_constant_ssim": 0.31,
        "black_psnr_db": 17.0, "black_ssim": 0.94,
        "hit_rate_3px": 0.976, "median_dot_error_px": 0.0, "p95_dot_error_px": 1.41,
        "copy_last_hit_rate_3px": 0.49, "copy_last_median_dot_error_px": 7.0,
        "copy_last_p95_dot_error_px": 7.0,
    }  # fmt: skip
    found = {
        "skill": {**skill, **changes},
        "per_action": {
            name: {"plain_mse": 0.0007, "hit_rate_3px": 0.97, "canvases": 148} for name in ACTIONS
        },
        "counterfactual": {
            "correct_rate": 0.984, "hit_rate_3px": 0.96, "divergence": 4.1, "observations": 64,
            "per_action": {n: {"correct_rate": 0.98, "hit_rate_3px": 0.96} for n in ACTIONS},
        },
        "rollout": {
            "rollouts": 32, "horizon": list(range(1, 9)),
            "plain_mse": [0.0007 + 0.0012 * k for k in range(8)],
            "copy_last_mse": [0.0147 + 0.001 * k for k in range(8)],
            "hit_rate_3px": [0.98 - 0.05 * k for k in range(8)],
            "median_dot_error_px": [0.0, 0.0, 1.0, 1.0, 1.0, 1.4, 2.0, 2.2],
        },
        "geometry": {"frame_size": [64, 64], "history": 3, "separator": 16, "patch": 16},
        "decode": "full", "checkpoint": {"step": 2600, "samples": 10400},
        "trained_on": [],
        "action_names": list(ACTIONS),
        "action_colours": [list(colour) for colour in STRIPES],
    }  # fmt: skip
    return found


def metrics(points=20):
    out = []
    for i in range(points):
        samples = 520 * (i + 1)
        falling = 0.06 * np.exp(-samples / 1800) + 0.0007
        out.append({"step": samples // 4, "samples": samples, "train_s": 5.5 * (i + 1),
                    "train/loss": falling})  # fmt: skip
        out.append({"step": samples // 4, "samples": samples, "train_s": 5.5 * (i + 1),
                    "validation/plain_mse": falling,
                    "validation/hit_rate_3px": 1 - float(np.exp(-samples / 2500))})  # fmt: skip
    return out


def run(*, wrong=False, attention_layers=5, **changes):
    records = {
        "decoder": attention(GEOMETRY.decoder_layout(), "decoder", 3, attention_layers),
        "encoder": attention(GEOMETRY.encoder_layout(), "encoder", 3, attention_layers),
    }
    return CanvasRun(
        evaluation=evaluation(**changes),
        pictures=pictures(wrong),
        records=records,
        metrics=metrics(),
        config={"seed": 0, "task": "canvas", "train": {"batch_size": 4, "optim": {"lr": 3e-4}}},
        provenance={"seed": 0, "git_revision": "0" * 40, "packages": {"jax": "0.12.0"}},
    )


def write(source, evaluation_folder, train_folder):
    """Writes a run the way that launch.evaluate and launch.train do, attention aside."""
    evaluation_folder.mkdir(parents=True)
    train_folder.mkdir(parents=True)
    (evaluation_folder / "evaluation.json").write_text(json.dumps(source.evaluation))
    np.savez(evaluation_folder / "pictures.npz", **source.pictures)
    (train_folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in source.metrics)
    )
    (train_folder / "config.json").write_text(json.dumps(source.config))
    (train_folder / "run.json").write_text(json.dumps(source.provenance))
