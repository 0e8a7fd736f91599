"""The store against `torch.save` and HDF5 gzip-4 on the same attention maps.

    python -m benchmarks.store [--small] [--json]

Prints, per format: bytes before compression and on disk; write rate in megabytes of float32 per
second, from arrays in memory until fsync; latency of reading one (call, denoise, layer, head) map
(query, key), warm (file open) and with a fresh open, from the page cache; peak memory while writing
2 GB of float32. Formats take turns, numbers are medians over the rounds. Ratios are against
torch.save with a memory-mapped load, or against HDF5 where torch is not installed.

The maps are synthetic: softmax of normal logits over 706 of 1018 keys, the rest exactly 0. Real
maps are smoother and compress better. Ours encodes inside a compiled program, as in use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import jax
import numpy as np
from absl import flags

from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.probe.capture import to_records
from attn_jax.probe.codecs import encode
from attn_jax.probe.select import Selection, Stream, resolve
from attn_jax.probe.store import RecordReader, RecordWriter
from launch import app

SMALL = flags.DEFINE_bool("small", False, "Small arrays, one round: seconds instead of minutes.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds whose median is printed.", lower_bound=1)
FOLDER = flags.DEFINE_string("folder", None, "Where to write; the default is a temporary folder.")
RSS_OF = flags.DEFINE_string("rss_of", None, "Internal: write in this process, print its memory.")

OURS = {
    "ours float32": "dtype=float32",
    "ours float32, valid keys": "dtype=float32;valid_keys_only",
    "ours float16": "dtype=float16",
    "ours float16, valid keys": "dtype=float16;valid_keys_only",
    "ours u8row": "dtype=u8row",
}
TORCH, TORCH_WHOLE, HDF5 = "torch.save, mmap", "torch.save, whole load", "HDF5 gzip-4"


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a case: a call is (1, denoise, layer, head, query, key) float32."""

    calls: int
    shape: tuple[int, int, int, int, int]
    valid_keys: int
    rss_bytes: int

    @property
    def call_bytes(self) -> int:
        """Bytes of one call as float32."""
        return 4 * int(np.prod(self.shape))


FULL = Size(10, (10, 2, 8, 50, 1018), 706, 2_000_000_000)
TINY = Size(3, (4, 2, 4, 50, 256), 178, 0)


def make_maps(size: Size, seed: int) -> np.ndarray:
    """One call of maps, (1, denoise, layer, head, query, key) float32."""
    logits = np.random.default_rng(seed).normal(0.0, 1.1, size.shape).astype(np.float32)
    weights = np.exp(logits)
    weights[..., size.valid_keys :] = 0
    return (weights / weights.sum(axis=-1, keepdims=True))[None]


# --- Formats: write(folder, calls, size) makes everything durable; open_(folder) yields a reader
# --- (call, denoise, layer, head) -> (query, key) float32.

Reader = Callable[[int, int, int, int], np.ndarray]


@functools.cache
def _encoder(size: Size, text: str):
    denoise, layers, heads, queries, keys = size.shape
    groups = (
        TokenGroup("valid", tuple(range(size.valid_keys))),
        TokenGroup("pad", tuple(range(size.valid_keys, keys)), valid=False),
    )
    layout = TokenLayout(keys, groups, queries=tuple(range(queries)))
    stream = Stream(layout, layers, heads, denoise)
    plan = resolve(Selection.parse(f"layers=all;reduce=full;{text}"), {"suffix": stream})
    return jax.jit(lambda maps: encode({"suffix": {"full": maps}}, plan)), plan


def write_ours(text: str) -> Callable[[pathlib.Path, Iterator[Any], Size], None]:
    """Writer of our store with the codec of a selection text."""

    def write(folder: pathlib.Path, calls: Iterator[Any], size: Size) -> None:
        program, plan = _encoder(size, text)
        with RecordWriter(folder) as writer:
            for number, maps in enumerate(calls):
                writer.append(to_records(program(maps), plan)[0], env_step=number)

    return write


@contextlib.contextmanager
def open_ours(folder: pathlib.Path) -> Iterator[Reader]:
    """Opens our store."""
    values = RecordReader(folder).record("suffix").values
    yield lambda call, step, layer, head: values[call, step, layer, head]


def raw_bytes(folder: pathlib.Path, size: Size) -> int:
    """Bytes of what our store was given to compress: the codes of the kept keys, and the scales."""
    codes, scale = RecordReader(folder).record("suffix").values.codes(0)
    return size.calls * (codes.nbytes + (0 if scale is None else scale.nbytes))


def write_torch(folder: pathlib.Path, calls: Iterator[Any], size: Size) -> None:
    """One file of nested dicts for the whole episode, one tensor per (call, step, layer)."""
    import torch

    steps = []
    for maps in calls:
        tensors = torch.from_numpy(np.array(maps))
        steps.append(
            {
                step: {layer: tensors[:, step, layer].clone() for layer in range(size.shape[1])}
                for step in range(size.shape[0])
            }
        )
    folder.mkdir()
    torch.save({"rollout_steps": steps}, folder / "maps.pt")
    _sync(folder / "maps.pt")


@contextlib.contextmanager
def open_torch(folder: pathlib.Path, mmap: bool = True) -> Iterator[Reader]:
    """Opens the file memory-mapped, or reads all of it."""
    import torch

    steps = torch.load(folder / "maps.pt", mmap=mmap, weights_only=True)["rollout_steps"]
    yield lambda call, step, layer, head: steps[call][step][layer][0, head].clone().numpy()


def write_hdf5(folder: pathlib.Path, calls: Iterator[Any], size: Size) -> None:
    """One gzip-4 data set, chunked by (denoise, layer) map like ours."""
    folder.mkdir()
    with h5py.File(folder / "maps.h5", "w") as file:
        data = file.create_dataset(
            "maps",
            (0, *size.shape),
            "f4",
            maxshape=(None, *size.shape),
            chunks=(1, 1, 1, *size.shape[2:]),
            compression="gzip",
            compression_opts=4,
        )
        for number, maps in enumerate(calls):
            data.resize(number + 1, axis=0)
            data[number] = np.asarray(maps)[0]
    _sync(folder / "maps.h5")


@contextlib.contextmanager
def open_hdf5(folder: pathlib.Path) -> Iterator[Reader]:
    """Opens the file without a chunk cache, as ours has none."""
    with h5py.File(folder / "maps.h5", "r", rdcc_nbytes=0) as file:
        data = file["maps"]
        yield lambda call, step, layer, head: data[call, step, layer, head]


def _sync(path: pathlib.Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def formats() -> dict[str, tuple[Callable[..., None], Callable[..., Any]]]:
    """Name -> (write, open), with torch only where it is installed."""
    found = {name: (write_ours(text), open_ours) for name, text in OURS.items()}
    found[HDF5] = (write_hdf5, open_hdf5)
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        return found
    found[TORCH] = (write_torch, open_torch)
    found[TORCH_WHOLE] = (write_torch, functools.partial(open_torch, mmap=False))
    return found


def measure(size: Size, rounds: int, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Times every format in turns.

    Returns:
      Name -> raw_bytes (before compression), bytes, write_mb_s, slice_warm_ms, slice_fresh_ms,
      max_abs_error.
    """
    calls = [jax.numpy.asarray(make_maps(size, seed)) for seed in range(size.calls)]
    whole = size.calls * size.call_bytes
    samples: dict[str, dict[str, list[float]]] = {}
    for round_ in range(rounds + 1):  # the first round compiles and is thrown away
        for name, (write, open_) in formats().items():
            target = folder / f"{name.replace(' ', '_')}"
            started = time.perf_counter()
            write(target, iter(calls), size)
            seconds = time.perf_counter() - started
            sample = {
                "raw_bytes": raw_bytes(target, size) if name in OURS else whole,
                "bytes": sum(f.stat().st_size for f in target.rglob("*") if f.is_file()),
                "write_mb_s": size.call_bytes * size.calls / seconds / 1e6,
                **_read_times(open_, target, size, calls, seed=round_),
            }
            shutil.rmtree(target)
            if round_:
                for key, value in sample.items():
                    samples.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: statistics.median(values) for key, values in sample.items()}
        for name, sample in samples.items()
    }


def _read_times(
    open_: Callable[..., Any], folder: pathlib.Path, size: Size, calls: list[Any], seed: int
) -> dict[str, float]:
    draw = np.random.default_rng(seed)
    limits = (size.calls, *size.shape[:3])
    places = [tuple(int(draw.integers(limit)) for limit in limits) for _ in range(24)]
    warm, fresh, errors = [], [], []
    with open_(folder) as read:
        for call, *rest in places:
            started = time.perf_counter()
            values = read(call, *rest)
            warm.append(time.perf_counter() - started)
            errors.append(np.abs(values - np.asarray(calls[call])[0][tuple(rest)]).max())
    for place in places[:8]:
        started = time.perf_counter()
        with open_(folder) as read:
            read(*place)
        fresh.append(time.perf_counter() - started)
    return {
        "slice_warm_ms": 1e3 * statistics.median(warm),
        "slice_fresh_ms": 1e3 * statistics.median(fresh),
        "max_abs_error": float(max(errors)),
    }


def peak_memory_mb(name: str, folder: pathlib.Path) -> dict[str, float]:
    """Memory of a process that does nothing but write `FULL.rss_bytes`.

    Returns:
      peak_mb: largest resident size; added_peak_mb: by how much it exceeds that after one call.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.store", f"--rss_of={name}", f"--folder={folder}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_and_tell_memory(name: str, size: Size, folder: pathlib.Path) -> None:
    """Body of the child of `peak_memory_mb`: prints one line of JSON."""
    write, _ = formats()[name]
    maps = jax.numpy.asarray(make_maps(size, 0))
    write(folder / "warm_up", iter([maps]), size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = max(1, size.rss_bytes // size.call_bytes)
    write(folder / "rss", (maps + 0 for _ in range(count)), size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shutil.rmtree(folder / "warm_up")
    shutil.rmtree(folder / "rss")
    print(json.dumps({"peak_mb": peak / 1e3, "added_peak_mb": (peak - before) / 1e3}))


def main() -> dict[str, Any] | None:
    """Measures and prints the table; returns it."""
    size, rounds = (TINY, 1) if SMALL.value else (FULL, ROUNDS.value)
    if RSS_OF.value:
        write_and_tell_memory(RSS_OF.value, FULL, pathlib.Path(FOLDER.value))
        return None
    with tempfile.TemporaryDirectory(dir=FOLDER.value) as name:
        folder = pathlib.Path(name)
        table = measure(size, rounds, folder)
        for format_ in [] if SMALL.value else table:
            table[format_] |= peak_memory_mb(format_, folder)
    reference = TORCH if TORCH in table else HDF5
    if reference != TORCH:
        print("torch is not installed (make setup-all): no torch.save rows")
    print(render(table, reference, size))
    return {"reference": reference, "formats": table}


def render(table: dict[str, dict[str, float]], reference: str, size: Size) -> str:
    """The table as text, with ratios above 1 where a format is better than the reference."""
    base = table[reference]
    shape = " x ".join(map(str, (size.calls, *size.shape)))
    head = (
        "format",
        "raw MB",
        "MB",
        "write MB/s",
        "slice ms",
        "fresh ms",
        "max error",
        "peak MB (+)",
    )
    lines = [
        f"{shape} float32; (x) = times better than {reference}; raw MB = before compression",
        f"peak memory while writing {FULL.rss_bytes / 1e6:.0f} MB, (+) above that of one call",
        "{:26}{:>15}{:>15}{:>16}{:>17}{:>17}{:>10}{:>14}".format(*head),
    ]
    for name, row in table.items():
        cells = [
            f"{row['raw_bytes'] / 1e6:.1f} ({base['raw_bytes'] / row['raw_bytes']:.1f}x)",
            f"{row['bytes'] / 1e6:.1f} ({base['bytes'] / row['bytes']:.1f}x)",
            f"{row['write_mb_s']:.0f} ({row['write_mb_s'] / base['write_mb_s']:.1f}x)",
            f"{row['slice_warm_ms']:.2f} ({base['slice_warm_ms'] / row['slice_warm_ms']:.2g}x)",
            f"{row['slice_fresh_ms']:.2f} ({base['slice_fresh_ms'] / row['slice_fresh_ms']:.2g}x)",
        ]
        peak = "not measured"
        if "peak_mb" in row:
            peak = f"{row['peak_mb']:.0f} (+{row['added_peak_mb']:.0f})"
        lines.append(
            "{:26}{:>15}{:>15}{:>16}{:>17}{:>17}".format(name, *cells)
            + f"{row['max_abs_error']:>10.1e}{peak:>14}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
