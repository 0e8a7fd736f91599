"""The store: attention records of a run on disk, written while a program runs, read lazily.

    RUN/run.json                          schema, selection, provenance
    RUN/episodes/episode_00000/
      meta.json                           layouts, labels, calls; `complete` when closed
      commits.jsonl                       one line per call that is whole on disk
      decoder/                            zarr 3 group of one record, with the arrays `values`,
      decoder.group_mass/                 and `scale` or `key_index` if needed

Axes of `values`: (call, denoise, layer, head, query, key). `docs/file-formats.md` has every field.

    with RecordWriter(run, episode=0) as writer:
        for records in rollout:                       # records = to_records(maps, plan)[0]
            writer.append(records, env_step=step)
    record = RecordReader(run).record("decoder")
    record.values[3, 0, 1]                            # reads one inner chunk
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import pathlib
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from attn_jax.core import files
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenLayout, common
from attn_jax.core.record import RELEVANCES, AttentionRecord
from attn_jax.core.typing import PathLike
from attn_jax.probe import arrays, codecs, schema
from attn_jax.probe.capture import record_name
from attn_jax.probe.commits import NAME as COMMITS
from attn_jax.probe.commits import Commit, CommitLog, read_commits
from attn_jax.probe.select import valid_positions


class RecordWriter:
    """Writes the calls of one episode in a background thread.

    At most `queue_calls` calls are in memory: when the disk is slower than the program, `append`
    waits and `time_blocked_s` says for how long; nothing is dropped. A call counts when its files
    and then its line in the commit log are on disk; a crash loses what was queued and the call
    being written. An episode that was not closed goes on where its last committed call ended.

    Attributes:
      folder: the episode.
      time_blocked_s: seconds that `append` has waited for the disk.
    """

    def __init__(
        self,
        run: PathLike,
        episode: int = 0,
        *,
        codec: str = "float16",
        valid_keys_only: bool = False,
        queue_calls: int = 4,
        info: Mapping[str, Any] | None = None,
    ):
        """Opens an episode for writing.

        Args:
          run: run folder; made, with a bare `run.json`, when missing (see `start_run`).
          episode: number of the episode.
          codec: how maps are encoded that do not arrive encoded (`codecs.encode`).
          valid_keys_only: whether such maps leave out the keys of invalid groups.
          queue_calls: how many calls may wait or be written at a time.
          info: JSON-compatible facts about the episode: prompt, ids, videos, geometry.

        Raises:
          RecordError: the episode is already complete, another process is writing it, or an option
            has no such value.
        """
        if codec not in codecs.CODECS:
            raise RecordError(f"unknown codec {codec!r}", fix=f"Use one of {codecs.CODECS}")
        if queue_calls < 1:
            raise RecordError(f"queue_calls must be at least 1, got {queue_calls}")
        self.folder = schema.episode_folder(schema.start_run(run), episode)
        self.time_blocked_s = 0.0
        self._codec, self._compact, self._episode = codec, valid_keys_only, episode
        self._info = dict(info or {})
        self._meta: dict[str, Any] | None = None
        self._stated: dict[str, float] = {}  # record name -> error that its attributes admit
        self._arrays: dict[str, ts.TensorStore] = {}
        meta = self.folder / schema.META
        if meta.is_file() and arrays.read_json(meta).get("complete"):
            raise RecordError(
                "episode is already complete",
                where=self.folder,
                fix="Write to another run folder, or remove this episode",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._layouts: list[tuple[TokenLayout, dict[str, Any]]] = []
        self._log = CommitLog(self.folder / COMMITS)
        try:
            self._resume()
        except BaseException:
            self._log.close()
            raise
        self._next = self._log.num_calls
        self._last_step = self._log.commits[-1].env_step if self._log.commits else None
        self._room = threading.BoundedSemaphore(queue_calls)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "attention-writer")
        self._pending: collections.deque[concurrent.futures.Future] = collections.deque()

    @property
    def num_calls(self) -> int:
        """Calls accepted so far, with those committed before a resume."""
        return self._next

    @property
    def num_committed(self) -> int:
        """Calls that are whole on disk."""
        return self._log.num_calls

    def append(
        self, records: Mapping[str, AttentionRecord] | Sequence[AttentionRecord], *, env_step: int
    ) -> None:
        """Queues one call; waits while the queue is full.

        Args:
          records: the records of this call, each with a call axis of length 1; every call of an
            episode has the same records with the same labels. Token layouts may differ in what the
            tokens are, not in which tokens were recorded.
          env_step: environment step of the observation that the call used; never decreases.

        Raises:
          RecordError: the records do not fit earlier ones, or an earlier call could not be written
            because its values are no probabilities.
          DiskFullError: an earlier call could not be written.
        """
        self._raise_failures()
        given = list(records.values()) if isinstance(records, Mapping) else list(records)
        named = {record_name(record.stream, record.reduction): record for record in given}
        if not named or len(named) != len(given):
            raise RecordError(
                f"a call needs records with different names, got {sorted(named)}", where=self.folder
            )
        for name, record in named.items():
            if record.shape[0] != 1:
                raise RecordError(f"{record.shape[0]} calls at once instead of 1", where=name)
        if self._last_step is not None and env_step < self._last_step:
            raise RecordError(f"env_step {env_step} follows {self._last_step}", where=self.folder)
        # The caller may reuse host memory; device arrays cannot change.
        values = {
            name: np.array(record.values)
            if isinstance(record.values, np.ndarray)
            else record.values
            for name, record in named.items()
        }
        started = time.monotonic()
        self._room.acquire()
        self.time_blocked_s += time.monotonic() - started
        task = self._thread.submit(self._store, self._next, int(env_step), named, values)
        task.add_done_callback(lambda _: self._room.release())
        self._pending.append(task)
        self._next += 1
        self._last_step = int(env_step)

    def flush(self) -> None:
        """Waits until every queued call is committed; raises what went wrong."""
        concurrent.futures.wait(self._pending)
        self._raise_failures()

    def close(self, info: Mapping[str, Any] | None = None) -> None:
        """Commits what is queued, trims the arrays and marks the episode complete.

        Args:
          info: facts that are known at the end only (outcome), added to those given at the start.

        Raises:
          RecordError, DiskFullError: as `append`; the episode then stays incomplete.
        """
        try:
            self.flush()
            meta = self._meta or schema.new_meta(self._episode, self._info)
            with arrays.disk_errors(self.folder):
                for name in sorted(self._arrays):
                    arrays.resize(self.folder / name, self._arrays[name], self._log.num_calls)
            largest = self._largest_errors()
            for name, entry in meta["arrays"].items():
                entry["codec"][schema.MEASURED] = largest[name]
                schema.write_group(self.folder / name, entry)
            meta["info"] |= dict(info or {})
            meta["env_step"] = [commit.env_step for commit in self._log.commits]
            meta["time_blocked_s"] = round(self.time_blocked_s, 6)
            meta["complete"] = True
            arrays.write_json(self.folder / schema.META, meta)
        finally:
            self.abort()

    def abort(self) -> None:
        """Finishes writing what is queued and stops; the episode stays incomplete and can go on."""
        self._thread.shutdown(wait=True)
        self._log.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _raise_failures(self) -> None:
        while self._pending and self._pending[0].done():
            task = self._pending[0]
            if task.exception() is None:
                self._pending.popleft()
                continue
            self._thread.shutdown(wait=True)
            task.result()

    # --- Below: what the writer thread does, and `_resume` before it starts. ---

    def _resume(self) -> None:
        if not self._log.num_calls:
            for child in self.folder.iterdir():  # of an attempt that committed nothing
                if (child / arrays.METADATA).is_file():
                    shutil.rmtree(child)
            return
        meta = arrays.read_json(self.folder / schema.META)
        meta["info"] |= self._info
        self._meta = meta
        self._stated = self._largest_errors()
        for key in self._log.commits[-1].crc32:
            arrays.discard_from(self.folder / key, self._log.num_calls)
            self._arrays[key] = arrays.open_array(self.folder / key, write=True)

    def _store(
        self,
        call: int,
        env_step: int,
        records: Mapping[str, AttentionRecord],
        values: Mapping[str, Any],
    ) -> None:
        """Writes one call: files, fsync, commit line."""
        if call != self._log.num_calls:
            return  # an earlier call failed; this one must not be committed over the gap
        coded = {name: self._encode(record, values[name]) for name, record in records.items()}
        errors = {
            name: codecs.check(
                coded[name],
                f"{name}, call {call}",
                probability=records[name].reduction != "entropy",
                signed=records[name].reduction in RELEVANCES,
            )
            for name in coded
        }
        layouts, layout = self._describe(records, coded)
        self._state_errors(errors)
        crc32: dict[str, str] = {}
        with arrays.disk_errors(self.folder):
            for name, encoded in coded.items():
                parts = {"values": encoded.data, "scale": encoded.scale}
                for part, data in parts.items():
                    if data is not None:
                        key = f"{name}/{part}"
                        self._arrays[key], crc32[key] = arrays.write_call(
                            self.folder / key, self._arrays[key], call, data[0]
                        )
            self._log.append(Commit(call, env_step, crc32, errors, layouts, layout))

    def _state_errors(self, errors: Mapping[str, float]) -> None:
        """Raises what the attributes say before a call with a larger error is committed.

        So they never say less than what readers may find, closed or not.
        """
        assert self._meta is not None
        for name, error in errors.items():
            if name not in self._stated or error > self._stated[name]:
                entry = self._meta["arrays"][name]
                codec = entry["codec"] | {schema.MEASURED: error}
                schema.write_group(self.folder / name, entry | {"codec": codec})
                self._stated[name] = error

    def _largest_errors(self) -> dict[str, float]:
        """Record name -> largest error of the committed calls."""
        by_call = [commit.max_abs_error for commit in self._log.commits]
        return {name: max(call[name] for call in by_call) for name in by_call[0]} if by_call else {}

    def _encode(self, record: AttentionRecord, values: Any) -> codecs.Encoded:
        if isinstance(values, codecs.Encoded):
            return values.on_host()
        maps = record.reduction in codecs.MAP_REDUCTIONS
        kept = None
        if self._compact and record.reduction in ("full", "head_mean"):
            kept = valid_positions(record.layout, "key")
            kept = kept if 0 < len(kept) < record.shape[-1] else None
        return codecs.encode_array(
            np.asarray(values),
            self._codec if maps else "float32",
            key_index=kept,
            checked_queries=None if kept is None else valid_positions(record.layout, "query"),
            undefined=record.reduction == "entropy",
        )

    def _describe(
        self, records: Mapping[str, AttentionRecord], coded: Mapping[str, codecs.Encoded]
    ) -> tuple[tuple[dict[str, Any], ...], dict[str, int]]:
        """Makes the arrays on the first call; later, refuses records with other labels.

        Returns the layouts of this call that are new, and which record has which of them.
        """
        meta = schema.new_meta(self._episode, self._info)
        known = self._layouts  # the same objects come with every call; their JSON is large
        self._layouts = []
        for name, record in records.items():
            layout = next((data for object_, data in known if object_ is record.layout), None)
            layout = layout or _plain(record.layout.to_json())
            self._layouts.append((record.layout, layout))
            if layout not in meta["layouts"]:
                meta["layouts"].append(layout)
            entry = _plain(schema.entry_of(record, coded[name]))
            meta["arrays"][name] = entry | {"layout": meta["layouts"].index(layout)}
        if self._meta is not None:
            return schema.compare(meta, self._meta, self.folder)
        with arrays.disk_errors(self.folder):
            for name, entry in meta["arrays"].items():
                self._create(name, entry, coded[name])
                arrays.sync_tree(self.folder / name)  # others may write beside it
            files.sync_folder(self.folder)
        arrays.write_json(self.folder / schema.META, meta)
        self._meta = meta
        return (), {}

    def _create(self, name: str, entry: Mapping[str, Any], encoded: codecs.Encoded) -> None:
        if (self.folder / name).exists():  # a kill may leave it without the file that names it
            shutil.rmtree(self.folder / name)
        (self.folder / name).mkdir()
        schema.write_group(self.folder / name, entry)
        parts = {"values": encoded.data, "scale": encoded.scale}
        for part, data in parts.items():
            if data is not None:
                self._arrays[f"{name}/{part}"] = arrays.create(
                    self.folder / name / part,
                    str(data.dtype),
                    data.shape[1:],
                    {"codec": entry["codec"]} if part == "values" else None,
                )
        if encoded.key_index is not None:
            index = np.asarray(encoded.key_index)
            arrays.create_vector(self.folder / name / "key_index", index, "key")


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: tuples become lists."""
    return json.loads(json.dumps(data))


class RecordReader:
    """One episode on disk; shows committed calls only, whether the episode was closed or not.

    Attributes:
      folder: the episode.
      meta: contents of `meta.json`.
      commits: the committed calls in order.
      torn: whether the commit log ends in a line that a crash has torn.
    """

    def __init__(self, path: PathLike, episode: int | None = None):
        """Opens an episode.

        Args:
          path: an episode folder, or a run folder.
          episode: which episode of a run; may be left out when there is one.

        Raises:
          RecordError: no record there, a damaged one, or several episodes and no choice.
        """
        found = schema.episodes(path)
        if episode is not None and pathlib.Path(path) not in found:
            wanted = schema.episode_folder(path, episode)
            found = tuple(folder for folder in found if folder == wanted)
        if len(found) != 1:
            raise RecordError(
                f"{len(found)} episodes to choose from", where=path, fix="Name one of them"
            )
        self.folder = found[0]
        committed = read_commits(self.folder / COMMITS)
        self.commits, self.torn = committed.commits, committed.torn
        self.meta = schema.read_meta(self.folder, begun=bool(self.commits))
        self._layouts = [TokenLayout.from_json(data) for data in self.meta["layouts"]]
        self.names = tuple(sorted(self.meta["arrays"]))
        self.complete: bool = self.meta["complete"]
        self.info = dict(self.meta["info"])

    @property
    def num_calls(self) -> int:
        """Committed calls."""
        return len(self.commits)

    @property
    def env_step(self) -> tuple[int, ...]:
        """Environment step of every call."""
        return tuple(commit.env_step for commit in self.commits)

    def record(self, name: str) -> AttentionRecord:
        """A record whose values are read when they are sliced.

        Where calls have different layouts, `call_layouts` has them all.

        Raises:
          RecordError: unknown name, or arrays that do not fit the labels.
        """
        if name not in self.meta["arrays"]:
            raise RecordError(
                f"no record {name!r}", where=self.folder, fix=f"Known: {', '.join(self.names)}"
            )
        entry = self.meta["arrays"][name]
        layout = self._layouts[entry["layout"]]
        record = schema.open_record(self.folder / name, entry, layout, self.num_calls)
        if not any(name in commit.layout for commit in self.commits):
            return record
        layouts = tuple(
            TokenLayout.from_json(commit.layouts[commit.layout[name]])
            if name in commit.layout
            else layout
            for commit in self.commits
        )
        return dataclasses.replace(record, layout=common(layouts), call_layouts=layouts)
