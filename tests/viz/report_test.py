"""Tests of attn_jax.viz.report."""

import html.parser
import json
import re

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.viz import report
from tests import testing


class Outline(html.parser.HTMLParser):
    """Collects tags with their attributes and checks that they nest."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def noise(side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def example(side=16, **data):
    blocks = (
        report.Text(("first <b>&", "second"), "good"),
        report.Table("numbers", ("name", "x"), (("a", 0.5), ("b", None), ("c", "word")), best=(0,)),
        report.Picture("noise", noise(side), "random pixels", "nothing to see", {"side": side}),
        report.Definitions((("seed", 3), ("none", None))),
    )
    return report.Report(
        "A title", (report.Section("one", "First & only", blocks),), lead="What it is", data=data
    )


def test_the_page_is_whole_and_self_contained():
    page = report.render(example())
    outline = Outline(page)
    assert outline.all("html")[0]["lang"] == "en"
    assert not outline.all("script") and not outline.all("link")
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"data:[^\"]+", "", page))
    (image,) = outline.all("img")
    assert image["src"].startswith("data:image/webp;base64,")
    assert image["alt"] == "random pixels"
    assert [t for t, _ in outline.tags if t in ("h1", "h2")] == ["h1", "h2"]
    assert {a["scope"] for a in outline.all("th")} == {"col", "row"}
    assert outline.all("caption") and outline.all("figcaption") and outline.all("main")
    anchors = {a["href"] for a in outline.all("a")}
    identifiers = {"#" + a["id"] for _, a in outline.tags if "id" in a}
    assert anchors <= identifiers


def test_text_is_escaped():
    page = report.render(example())
    assert "first &lt;b&gt;&amp;" in page and "<b>" not in page


def test_the_twin_holds_every_number():
    out = report.twin(example(skill={"mse": np.float32(0.5), "bad": float("nan")}))
    assert out["skill"] == {"mse": 0.5, "bad": None}
    kinds = [block["kind"] for block in out["sections"][0]["blocks"]]
    assert kinds == ["text", "table", "picture", "definitions"]
    assert out["sections"][0]["blocks"][1]["rows"] == [["a", 0.5], ["b", None], ["c", "word"]]
    assert out["sections"][0]["blocks"][2]["data"] == {"side": 16}
    json.dumps(out, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text", "trimmed"),
    [
        (0.00071, "0.000710", "0.00071"),
        (0.976, "0.976", "0.976"),
        (31.52, "31.5", "31.5"),
        (7.0, "7.00", "7"),
        (110.0, "110", "110"),
        (12345.6, "12346", "12346"),
        (3.2e-7, "3.20e-07", "3.20e-07"),
        (-0.5, "-0.500", "-0.5"),
        (0.0, "0", "0"),
        (12345, "12\u202f345", "12\u202f345"),
        (True, "yes", "yes"),
        (None, "n/a", "n/a"),
        (float("inf"), "n/a", "n/a"),
        (np.float32(0.25), "0.250", "0.25"),
        ("full", "full", "full"),
    ],
)
def test_numbers_for_readers(value, text, trimmed):
    assert report.format_number(value) == text
    assert report.format_number(value, trim=True) == trimmed


def test_pictures_are_lossless_while_there_is_room():
    import base64
    import io

    from PIL import Image

    (image,) = Outline(report.render(example())).all("img")
    stream = io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1]))
    np.testing.assert_array_equal(np.asarray(Image.open(stream)), noise(16))


def test_the_budget_is_kept_by_tighter_pictures():
    shown = example(side=300)
    loose = len(report.render(shown).encode())
    budget = loose // 3
    page = report.render(shown, budget=budget)
    assert len(page.encode()) <= budget
    assert len(Outline(page).all("img")) == 1


def test_an_impossible_budget_names_the_biggest_picture():
    with pytest.raises(report.ReportError, match="biggest picture is 'noise'"):
        report.render(example(side=300), budget=8_000)


def test_writing_makes_both_files_and_no_other(tmp_path):
    page, numbers = report.write_report(example(skill={"mse": 1}), tmp_path / "new" / "r.html")
    assert sorted(p.name for p in page.parent.iterdir()) == ["r.html", "r.json"]
    assert json.loads(numbers.read_text())["skill"] == {"mse": 1}
    assert page.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(report.ReportError, match=r"ending in \.html"):
        report.write_report(example(), tmp_path / "r.htm")


def test_malformed_reports_are_refused():
    picture = report.Picture("p", noise(2), "a", "c")
    with pytest.raises(report.ReportError, match="repeats"):
        report.Report("t", (report.Section("s", "S", (picture, picture)),))
    with pytest.raises(report.ReportError, match="malformed"):
        report.Report("t", (report.Section("a b", "S", ()),))
    with pytest.raises(report.ReportError, match="sections"):
        report.Report("t", (), data={"sections": 1})
    with pytest.raises(ConfigError, match="2 cells"):
        report.Table("c", ("a",), (("x", 1),))
    with pytest.raises(ConfigError, match="emphasis"):
        report.Text("t", "great")
    with pytest.raises(report.ReportError, match="object cannot be written"):
        report.plain({"x": object()})


if __name__ == "__main__":
    testing.main()
