"""Recording a whole LIBERO-sized episode holds memory flat."""

from __future__ import annotations

import pytest

from tests import testing

# 145 environment steps, a prediction every tenth: 15 calls of 2 layers at 10 denoising steps.
SCRIPT = """
import sys

import numpy as np

from attn_jax.core.record import AttentionRecord
from attn_jax.models.pi05 import Pi05Config
from attn_jax.models.pi05.layout import layouts
from attn_jax.probe.store import RecordReader, RecordWriter

config = Pi05Config(cameras=("base", "wrist", "spare"))
mask = np.arange(200) < 144
layout = layouts(config, config.cameras, np.array([True, True, False]), mask * 5, mask)["suffix"]
rows = np.random.default_rng(0).random((1, 1, 1, 8, 50, 1018), np.float32)
rows[..., 512:768] = rows[..., 912:968] = 0  # the dummy camera and the padding
rows = (rows / rows.sum(-1, keepdims=True)).astype(np.float16)
rows = np.tile(rows, (1, 10, 2, 1, 1, 1))


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


found = []
with RecordWriter(sys.argv[1], queue_calls=2) as writer:
    for call in range(15):
        record = AttentionRecord(
            stream="suffix",
            values=np.roll(rows, call, axis=-2),  # a new array at every call, as in a rollout
            layout=layout,
            layers=(16, 17),
            heads=tuple(range(8)),
            denoise=tuple(range(10)),
            reduction="full",
            complete_rows=True,
        )
        writer.append({"suffix": record}, env_step=10 * call)
        del record
        found.append(resident_mb())
reader = RecordReader(sys.argv[1])
assert reader.num_calls == 15 and reader.env_step[-1] == 140
print(max(found[:5]), max(found[5:]), rows.nbytes / 2**20)
"""


@pytest.mark.slow
def test_fifteen_predictions_hold_memory_flat(tmp_path):
    done = testing.run_script(SCRIPT, str(tmp_path / "run"))
    early, late, call = (float(number) for number in done.split()[-3:])
    assert 15 < call < 16  # MiB of one call
    # Ten more calls are 155 MiB; the queue may hold 4 of them, and one is being written.
    assert late - early < 5 * call


if __name__ == "__main__":
    testing.main()
