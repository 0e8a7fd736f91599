"""Writes third_party/licences.md: under which licence each package of the core lock comes.

The table says what the installed packages say of themselves. Usage, after ``make setup``::

    python -m third_party.licences
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
TABLE = ROOT / "third_party" / "licences.md"

_HEADER = """# Licences of the packages that the core installs

Made by `python -m third_party.licences` from what the packages declare. Packages of the `dev` and
`bridge` sets are used for tests and comparisons only and are not listed.

| package | licence |
|---|---|
"""


def main() -> int:
    """Writes the table; returns 1 if a package of the lock declares no licence."""
    rows = {name: licence(name) for name in locked(ROOT / "requirements" / "core.lock")}
    TABLE.write_text(_HEADER + "".join(f"| {name} | {text} |\n" for name, text in rows.items()))
    unknown = [name for name, text in rows.items() if not text]
    if unknown:
        print(f"licences: none declared by {', '.join(unknown)}", file=sys.stderr)
    return int(bool(unknown))


def locked(lock: Path) -> list[str]:
    """Returns the names of the packages in a lock file that are for this platform or for all."""
    lines = re.findall(r"^([\w.-]+)(?:\[.*?\])?==[^;\n]*(;.*)?", lock.read_text(), re.MULTILINE)
    return [name for name, marker in lines if "== 'win32'" not in marker]


def licence(name: str) -> str:
    """Returns the licence that an installed package declares; empty if it declares none.

    Args:
      name: Name of the distribution.

    Returns:
      The SPDX expression if there is one, else the classifiers, else the first line of the licence
      field.

    Raises:
      importlib.metadata.PackageNotFoundError: If the package is not installed.
    """
    metadata = importlib.metadata.metadata(name)
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    ]
    if classifiers:
        return ", ".join(classifiers)
    lines = (metadata.get("License") or "").strip().splitlines()
    return lines[0].strip() if lines else ""


if __name__ == "__main__":
    sys.exit(main())
