"""What every launcher shares: flags, configuration, work directory, provenance, exit codes.

A launcher is `python -m launch.<verb> --config=configs/<family>.py[:arg,...] --workdir=DIR
[--config.field=value] [--json]`. Exit code 0 means everything asked for was done; 2 means bad
input, with one sentence on stderr; anything else is a defect with its traceback.

    if __name__ == "__main__":
        app.run(main)          # main(config, workdir) -> result dict
"""

from __future__ import annotations

import errno
import functools
import json
import logging as logging_lib
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import absl.app
import ml_collections
import numpy as np
from absl import flags, logging
from ml_collections import config_flags

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.versions import package_versions

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for everything this run writes; made when missing."
)
JSON = flags.DEFINE_bool("json", False, "Print the machine-readable result as the last line.")

# What an operating system answers to a path that cannot be used as it was asked to.
UNUSABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


@functools.cache  # two launchers may be imported into one process, as tests do
def define_config(default: str | None = None) -> flags.FlagHolder:
    """Defines `--config=path.py[:arg]`; fields are overridden by `--config.a.b=value`."""
    return config_flags.DEFINE_config_file(
        "config", default, "Configuration file with get_config(arg)."
    )


# Flags that several launchers have; each is defined once per process, like `--config`.


@functools.cache
def define_checkpoint() -> flags.FlagHolder:
    """Defines `--checkpoint`."""
    return flags.DEFINE_string(
        "checkpoint",
        None,
        "--workdir of a training run; for Pi0.5 also a LeRobot or bridge folder.",
    )


@functools.cache
def define_capture() -> flags.FlagHolder:
    """Defines `--capture`."""
    return flags.DEFINE_string(
        "capture", "", "Attention to keep: all, or field=value;... (see docs/capture.md)."
    )


@functools.cache
def define_episodes() -> flags.FlagHolder:
    """Defines `--episodes`."""
    return flags.DEFINE_string(
        "episodes",
        None,
        "launch.attention overlay: numbers, comma-separated; launch.evaluate: recorded episodes.",
    )


@functools.cache
def define_run() -> flags.FlagHolder:
    """Defines `--run`."""
    return flags.DEFINE_string("run", None, "Run folder that launch.evaluate wrote.")


@functools.cache
def define_prompts() -> flags.FlagHolder:
    """Defines `--prompts`."""
    return flags.DEFINE_string("prompts", None, "Counterfactual prompts, a YAML file.")


@functools.cache
def define_noise_seeds() -> flags.FlagHolder:
    """Defines `--noise_seeds`; None where it is not given, every launcher has its default."""
    return flags.DEFINE_integer(
        "noise_seeds",
        None,
        "Predictions from other noise on every frame; default 0, of launch.study 2.",
        lower_bound=0,
    )


@functools.cache
def define_occlude_fills() -> flags.FlagHolder:
    """Defines `--occlude_fills`; None where it is not given, every launcher has its default."""
    return flags.DEFINE_list(
        "occlude_fills",
        None,
        "What hides patches: black, mean, blur, noise, key_removal; default black,mean, of"
        " launch.study mean.",
    )


@functools.cache
def define_relevance() -> flags.FlagHolder:
    """Defines `--relevance`."""
    return flags.DEFINE_bool(
        "relevance", False, "Record what moved the actions too: gradient times attention."
    )


@functools.cache
def define_fresh() -> flags.FlagHolder:
    """Defines `--fresh`."""
    return flags.DEFINE_bool("fresh", False, "Delete what an earlier attempt left in the folder.")


@functools.cache
def define_env() -> flags.FlagHolder:
    """Defines `--env`."""
    return flags.DEFINE_string("env", None, "libero or tabletop, with arguments of its config.")


@functools.cache
def define_jobs() -> flags.FlagHolder:
    """Defines `--jobs`."""
    return flags.DEFINE_integer("jobs", 1, "Episodes analysed at a time.", lower_bound=1)


@functools.cache
def define_tokenizer() -> flags.FlagHolder:
    """Defines `--tokenizer`."""
    return flags.DEFINE_string(
        "tokenizer", None, "Folder with tokenizer.json, or a name, instead of the checkpoint's."
    )


@functools.cache
def define_seed() -> flags.FlagHolder:
    """Defines `--seed`."""
    return flags.DEFINE_integer("seed", 0, "Seed of everything that is drawn.", lower_bound=0)


def provenance(seed: int | None) -> dict[str, Any]:
    """Seed, git revision, package versions and command of this run; holds no host-specific path."""
    return {
        "command": [pathlib.PurePath(sys.argv[0]).name, *map(_without_folder, sys.argv[1:])],
        "git_revision": git_revision(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "seed": seed,
    }


def _without_folder(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    if equals and value.startswith("/"):
        return f"{flag}={pathlib.PurePath(value).name}"
    return argument


def git_revision() -> str | None:
    """Revision of the checkout, with `+changes` when it has uncommitted ones; None outside git."""
    root = pathlib.Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ("git", "-C", str(root), *args), capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    return f"{revision}+changes" if revision and git("status", "--porcelain") else revision


def make_workdir(workdir: str | pathlib.Path) -> pathlib.Path:
    """Makes the folder where it is missing; raises ConfigError when it is a file."""
    folder = pathlib.Path(workdir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--workdir is a file", where=folder, fix="Name a folder")
    with files.disk_errors(folder, what="results"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def prepare_workdir(workdir: str | pathlib.Path, config: ml_collections.ConfigDict) -> pathlib.Path:
    """Makes the folder and writes `config.json` (resolved) and `run.json` (provenance)."""
    folder = make_workdir(workdir)
    write_json(folder / "config.json", config.to_dict())
    write_json(folder / "run.json", provenance(config.get("seed")))
    return folder


def write_json(path: str | pathlib.Path, data: Any) -> None:
    """Writes `jsonable(data)` atomically, with sorted keys; raises DiskFullError."""
    with files.disk_errors(path, what="results"):
        files.write_json(pathlib.Path(path), jsonable(data))


def read_json(path: str | pathlib.Path) -> Any:
    """Reads JSON; raises ConfigError when the file is missing or damaged."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read as JSON: {error}", where=path) from error


def jsonable(value: Any) -> Any:
    """Plain JSON types: arrays become lists or numbers, tuples lists, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return jsonable(np.asarray(value).tolist())


def run(
    main: Callable[..., Mapping[str, Any] | None],
    *,
    config: flags.FlagHolder | None = None,
    field: str | None = None,
    example: str = "configs/canvas.py",
    needs_workdir: bool = False,
    positional: bool = False,
    expand: Callable[[Sequence[str]], list[str]] = list,
) -> None:
    """Parses flags, calls `main` and exits with the documented codes.

    Args:
      main: called as main(config, workdir) when `config` is given, else main(); its result is
        printed as one line of JSON when --json is set.
      config: the holder of `define_config`.
      field: of the configurations that this launcher takes; see `value_of`.
      example: a configuration that it takes.
      needs_workdir: whether --workdir is required.
      positional: call main(arguments) with the words that are no flags, for launchers with verbs.
      expand: what the command line is short for; raises ConfigError.
    """

    def body(argv: list[str]) -> None:
        if len(argv) > 1 and not positional:
            raise ConfigError(f"unexpected arguments {argv[1:]}", fix="Flags are --name=value")
        started = time.monotonic()
        if needs_workdir and not WORKDIR.value:
            raise ConfigError("--workdir is required", fix="Name a folder for the results")
        if positional:
            result = main(argv[1:])
        elif config is None:
            result = main()
        else:
            if config.value is None:
                raise ConfigError("--config is required", fix=f"For example --config={example}")
            workdir = pathlib.Path(WORKDIR.value) if WORKDIR.value else None
            result = main(value_of(config, field, example), workdir)
        logging.info("done in %.1f s", time.monotonic() - started)
        if JSON.value and result is not None:
            print(json.dumps(jsonable(result), sort_keys=True, allow_nan=False), flush=True)

    def guarded(argv: list[str]) -> None:
        try:
            # Whatever a launcher writes, and wherever; most writers say more precisely what it was.
            with files.disk_errors(None, what="results"):
                body(argv)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(2)
        except OSError as error:
            # Rights and names of files are the user's to change, whoever meets them first.
            if error.errno not in UNUSABLE or error.filename is None:
                raise
            text = f"error: {error.filename}: {os.strerror(error.errno).lower()}"
            print(f"{text}. Name another place, or change this one", file=sys.stderr, flush=True)
            sys.exit(2)

    def parse(argv: list[str]) -> list[str]:
        try:
            # config_flags looks for overrides there, whatever is parsed.
            sys.argv[:] = expand(argv)
            return flags.FLAGS(sys.argv)
        except (flags.Error, AttributeError, KeyError, OSError, ConfigError) as error:
            print(f"error: {_flag_problem(error)}", file=sys.stderr, flush=True)
            sys.exit(2)

    logging.set_verbosity(logging.INFO)
    # jax tells of every back end that it does not find.
    logging_lib.getLogger("jax").setLevel(logging_lib.WARNING)
    absl.app.run(guarded, flags_parser=parse)


def value_of(
    config: flags.FlagHolder, field: str | None = None, example: str | None = None
) -> ml_collections.ConfigDict:
    """The configuration that a flag names.

    Args:
      config: holder of the flag.
      field: what every configuration of this kind has, and none of another kind.
      example: a file of this kind.

    Raises:
      ConfigError: there is no such file, or it has no `field`.
    """
    try:
        fields = config.value.keys()
    except OSError as error:  # config_flags tells of a missing file only when it is used
        raise ConfigError(_flag_problem(error), where=f"--{config.name}") from error
    if field is not None and field not in fields:
        raise ConfigError(
            f"is a configuration of another command: it has no {field}",
            where=f"--{config.name}",
            fix=f"For example --{config.name}={example}",
        )
    return config.value


def _flag_problem(error: BaseException) -> str:
    """One sentence about flags that cannot be parsed.

    config_flags replaces the message of a ConfigError from get_config by its traceback, so the
    first error of the chain is the one to show. It answers an unknown field by AttributeError, a
    field below one by KeyError, and a missing configuration file by OSError, once a field of it is
    overridden.
    """
    chain = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(earlier)
    if problems := [link for link in chain if isinstance(link, InputError)]:
        return str(problems[-1])
    if isinstance(error, (AttributeError, KeyError)):
        # Its text is a KeyError, or that of one: the name, and in a second line a guess.
        text = error.args[0]
        lines = str(text.args[0] if isinstance(text, KeyError) else text).splitlines()
        return f"the configuration has no field {'. '.join(lines)}"
    return " ".join(str(chain[-1] if isinstance(error, OSError) else error).split())
