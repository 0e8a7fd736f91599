"""third_party/licences.md lists what the core installs, and nothing in it binds the product."""

from __future__ import annotations

import re

import pytest

from tests import testing
from third_party import licences

#: Permissive licences, as packages spell them.
_PERMISSIVE = re.compile(
    r"Apache([ -]2\.0)?( Software)?( License)?|MIT( License|-CMU)?"
    r"|(3-Clause )?BSD( License|-[23]-Clause)?|PSF-2\.0|Python Software Foundation License"
    r"|AFL-2\.1|ISC|Unlicense|0BSD|CC0-1\.0"
)
#: Files under the MPL 2.0, which asks only that changes of these files are published; they are
#: installed from their own packages, unchanged.
_MPL = {"certifi": "Mozilla Public License 2.0 (MPL 2.0)", "tqdm": "MPL-2.0"}


def test_the_table_is_up_to_date():
    names = licences.locked(testing.ROOT / "requirements" / "core.lock")
    rows = dict(re.findall(r"^\| ([\w.-]+) \| (.+) \|$", licences.TABLE.read_text(), re.MULTILINE))
    rows.pop("package")
    assert list(rows) == names, "run: python -m third_party.licences"
    assert rows == {name: licences.licence(name) for name in names}


def test_every_licence_is_permissive():
    names = licences.locked(testing.ROOT / "requirements" / "core.lock")
    for name in names:
        for part in re.split(r", | AND | OR ", licences.licence(name)):
            assert _PERMISSIVE.fullmatch(part) or part == _MPL.get(name), f"{name}: {part}"


def test_packages_of_other_platforms_are_left_out(tmp_path):
    lock = tmp_path / "a.lock"
    lock.write_text(
        "a==1 \\\n    --hash=x\nb[c]==2 ; sys_platform == 'win32' \\\nd-e==3 ; x != 'win32'\n"
    )
    assert licences.locked(lock) == ["a", "d-e"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("License-Expression: MIT\nLicense: other", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: Apache-2.0\n", "Apache-2.0"),
        ("", ""),
    ],
)
def test_where_a_licence_is_declared(tmp_path, monkeypatch, fields, expected):
    folder = tmp_path / "sample_package-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sample-package\n{fields}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert licences.licence("sample-package") == expected


if __name__ == "__main__":
    testing.main()
