"""Training on a long session holds each frame once, and no canvas longer than its batch."""

from __future__ import annotations

import pytest

from tests import testing

# Canvases kept whole would take 473 MB: 998 of 224 x 704 x 3 bytes.
SCRIPT = """
import sys

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.data.pipeline import CanvasSource, load_frames, make_iterator
from attn_jax.data.session_writer import SessionWriter
from robots.record import record
from robots.selectors import random_duration
from robots.toroidal_dot import ToroidalDot


def resident_mb(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1000


robot = ToroidalDot(seed=0)
with SessionWriter(
    sys.argv[1], action_space=robot.action_space, robot_type="ToroidalDot", sync=False
) as writer:
    record(robot, random_duration(1, 3, 0), writer, num_observations=1000)
before = resident_mb("VmRSS:")
store = load_frames(sys.argv[1])
source = CanvasSource(store, CanvasGeometry(store.frame_size))
batches = make_iterator(source, 8, 0, "epoch")
seen = sum(len(next(batches)["canvas"]) for _ in range(125))  # every canvas once
batches.close()
print(len(source), seen, store.frames.nbytes / 1e6, resident_mb("VmHWM:") - before)
"""


@pytest.mark.slow
def test_a_thousand_frames_stay_below_300_mb(tmp_path):
    out = testing.run_script(SCRIPT, str(tmp_path / "s")).splitlines()[-1]
    canvases, seen, frames_mb, used_mb = (float(number) for number in out.split())
    assert (canvases, seen) == (998, 1000)
    assert frames_mb == pytest.approx(150.5, abs=0.1)  # 1000 x 224 x 224 x 3 bytes
    assert frames_mb * 0.9 < used_mb < 300


if __name__ == "__main__":
    testing.main()
