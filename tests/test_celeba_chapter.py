"""The chapter on faces, run on CelebA as a host gives it: first a quota page, then half a file, then all."""

import ast
import hashlib
import shutil
import zipfile

import chapters
import jupytext
import matplotlib
import pytest

from dcganlib import datasets, zoo
from dcganlib.datasets import celeba, face_datasets
from dcganlib.datasets.download import DownloadError
from dcganlib.viz import plot

SHORTER = {
    "loader, 1000), draw, every=250": "loader, 8), draw, every=4",
    "range(250, 1001, 250)": "range(2, 9, 2)",
    'SET = "faces"': 'SET = "celeba"',
    "% 25 == 0": "% 2 == 0",
    "batches, 400": "batches, 2",
    "TrainConfig(batch_size=16": "TrainConfig(batch_size=4",
    "portraits.images, 16,": "portraits.images, 4,",
    "COUNT = 2000": "COUNT = None",
    "sample_z(1000, 100": "sample_z(20, 100",
    "    64, stored.generator": "    4, stored.generator",
}


@pytest.fixture
def published(face_set, host, tmp_path, monkeypatch):
    """A host that publishes forty pictures as CelebA: the content of each file by name."""
    archive = tmp_path / "published.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((face_set / celeba.IMAGES).glob("*.png")):
            packed.write(path, f"{celeba.IMAGES}/{path.name}")
    content = {name: (face_set / name).read_bytes() for name in celeba.FILES if name.endswith(".txt")}
    content = {f"{celeba.IMAGES}.zip": archive.read_bytes()} | content
    monkeypatch.setattr(celeba, "HOST", host.address + "/{id}")
    digests = {name: f"sha256:{hashlib.sha256(body).hexdigest()}" for name, body in content.items()}
    files = {name: (name, digests[name], len(body)) for name, body in content.items()}
    monkeypatch.setattr(celeba, "FILES", files)
    return content


@pytest.fixture
def narrow(monkeypatch):
    """All networks that the chapter builds are four channels wide; the stored ones are as they are."""
    build = zoo.build
    monkeypatch.setattr(zoo, "build", lambda name, **given: build(name, **given | {"base_channels": 4}))


@pytest.fixture
def undrawn():
    """Figures are made and not drawn."""
    matplotlib.use("template")
    yield
    matplotlib.use("Agg")


class WithoutAssertions(ast.NodeTransformer):
    """Leaves out what holds for the full length alone."""

    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)


def cells():
    """The chapter's code cells, made short; their assertions need the full length and are left out."""
    used = set()
    for cell in jupytext.read(chapters.BOOK / "05_celeba_dcgan.md").cells:
        if cell.cell_type != "code" or "google.colab" in cell.source:
            continue
        source = cell.source
        for long, short in SHORTER.items():
            if long in source:
                used.add(long)
                source = source.replace(long, short)
        tree = ast.fix_missing_locations(WithoutAssertions().visit(ast.parse(source)))
        yield compile(tree, "05_celeba_dcgan", "exec")
    assert used == set(SHORTER), "the chapter no longer has all the lines that this test makes short"


@pytest.mark.usefixtures("narrow", "undrawn")
def test_the_chapter_runs_on_celeba_from_a_host_in_three_moods(
    published, host, face_set, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DCGANLIB_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(face_set, tmp_path / "data" / "faces-seed0", symlinks=True)  # for the first exercise
    monkeypatch.setattr(face_datasets, "DEFAULT_FACES", 40)
    monkeypatch.setattr(plot, "live", lambda records, draw, **options: records)  # nothing shows it here
    zipped = published[f"{celeba.IMAGES}.zip"]

    names, waiting, moods = {"__name__": "__main__"}, list(cells()), []
    host.answers = [{"body": b"<html>Quota exceeded</html>", "type": "text/html"}]
    while waiting:
        try:
            exec(waiting[0], names)
            waiting.pop(0)
        except DownloadError as error:
            moods.append(str(error))
            half = {"body": zipped[: len(zipped) // 2], "length": len(zipped)}
            host.answers = [half] * 3
            if len(moods) == 2:
                host.answers = [{"body": body} for body in published.values()]

    assert "web page" in moods[0]
    assert "it ended after" in moods[1]
    assert len(moods) == 2
    assert len(host.asked) == 1 + 3 + len(published)
    assert names["portraits"].name == "celeba"
    drawn = datasets.load("faces", root=tmp_path / "data", max_images=40)
    assert names["portraits"].images.equal(drawn.images)
    assert names["portraits"].attributes.equal(drawn.attributes)
    assert names["trial"].step > 0
