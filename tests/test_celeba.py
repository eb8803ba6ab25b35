"""CelebA's layout: one reader for the real set and the drawn one, from folder, zip or cache."""

import hashlib
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dcganlib import datasets
from dcganlib.datasets import celeba, decode_cache, face_datasets, face_files, synthetic_faces
from dcganlib.datasets.celeba import ATTRIBUTES, IDENTITIES, IMAGES, LANDMARKS, PARTITION
from dcganlib.datasets.download import DownloadError
from dcganlib.datasets.face_files import write_faces

TEXTS = (ATTRIBUTES, IDENTITIES, LANDMARKS, PARTITION)


def pack(images, path):
    """The pictures as one zip, as CelebA has them."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(images.glob("*.png")):
            archive.write(file, f"{IMAGES}/{file.name}")
    return path


@pytest.fixture
def small(tmp_path):
    """Six pictures of 12 by 14 with text files written by hand, as CelebA's are: odd blanks and all."""
    folder = tmp_path / "celeba"
    (folder / IMAGES).mkdir(parents=True)
    names = [f"{k:06d}.jpg" for k in range(1, 7)]
    for k, name in enumerate(names):
        Image.new("RGB", (12, 14), (40 * k, 40 * k, 40 * k)).save(folder / IMAGES / name)
    signs = [("-1", " 1"), (" 1", "-1")] * 3
    (folder / ATTRIBUTES).write_text(
        "6\nSmiling  Bald \n"
        + "".join(f"{name}  {a} {b}\n" for name, (a, b) in zip(names, signs, strict=True)),
        encoding="utf-8",
    )
    (folder / LANDMARKS).write_text(
        "6\nlefteye_x lefteye_y nose_x nose_y\n"
        + "".join(f"{n} {k}   2  {k}  -4\n" for k, n in enumerate(names)),
        encoding="utf-8",
    )
    (folder / IDENTITIES).write_text(
        "".join(f"{name} {2880 + k}\n" for k, name in enumerate(names)), encoding="utf-8"
    )
    (folder / PARTITION).write_text(
        "".join(f"{n} {part}\n" for n, part in zip(names, "000112", strict=True)), encoding="utf-8"
    )
    return folder


@pytest.fixture
def copied(face_set, tmp_path):
    """The drawn set, to be changed."""
    return shutil.copytree(face_set, tmp_path / "set", ignore=shutil.ignore_patterns(".dcganlib"))


def same(first, second):
    """Whether two sets are the same, bit for bit."""
    assert torch.equal(first.images, second.images)
    assert first.attribute_names == second.attribute_names
    for name in ("attributes", "landmarks", "identities"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    return True


# Reading


def test_a_split_has_the_pictures_that_the_partition_gives_it(small):
    for split, greys in (
        ("train", [0, 40, 80]),
        ("valid", [120, 160]),
        ("test", [200]),
        ("all", [0, 40, 80, 120, 160, 200]),
    ):
        found = datasets.load("celeba", root=small, split=split, image_size=8)
        np.testing.assert_allclose(found.images[:, 0, 0, 0], greys, atol=2)  # JPEG
        assert (found.identities - 2880).tolist() == [grey // 40 for grey in greys]
    assert len(datasets.load("celeba", root=small)) == 3


def test_what_the_text_files_say_comes_with_the_pictures(small):
    found = celeba.read(small, "all")
    assert found.attribute_names == ("Smiling", "Bald")
    assert found.attributes.dtype == bool
    assert found.attributes.tolist() == [[False, True], [True, False]] * 3
    assert found.landmarks.dtype == found.identities.dtype == np.int64
    assert found.landmarks.tolist() == [[[k, 2], [k, -4]] for k in range(6)]
    assert found.identities.tolist() == list(range(2880, 2886))
    images = datasets.load("celeba", root=small, split="all")
    assert images.has("Smiling").tolist() == [False, True] * 3
    assert images.labels is None
    assert "Liu" in images.source
    assert "non-commercial" in images.licence


@pytest.mark.parametrize("end", ["\r\n", "\n\n", "   \n", "\n"])
def test_line_ends_blanks_and_marks_of_other_systems_do_no_harm(small, end):
    expected = celeba.read(small, "all")
    for name in TEXTS:
        text = (small / name).read_text(encoding="utf-8").replace("\n", "\n" if end == "\n\n" else end)
        (small / name).write_bytes(b"\xef\xbb\xbf" + text.encode() + end.encode() * 3)
    found = celeba.read(small, "all")
    assert found.attribute_names == expected.attribute_names
    for name in ("attributes", "landmarks", "identities"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_order_of_the_lines_does_not_matter(small):
    expected = celeba.read(small, "train").identities.tolist()
    for name in (IDENTITIES, PARTITION):
        lines = (small / name).read_text(encoding="utf-8").splitlines()
        (small / name).write_text("\n".join(lines[::-1]), encoding="utf-8")
    assert celeba.read(small, "train").identities.tolist() == expected


def test_pictures_that_are_listed_and_not_there_are_warned_of(small):
    (small / IMAGES / "000003.jpg").unlink()
    with pytest.warns(UserWarning, match=f"{PARTITION} lists 6 images, .*{IMAGES} has 5: the rest") as caught:
        found = datasets.load("celeba", root=small, image_size=8)
    assert len(found) == 2
    assert caught[0].filename == __file__
    assert found.identities.tolist() == [2880, 2881]
    assert len(celeba.read(small, first_images=5).source.names) == 2  # that many are there


def test_the_count_is_of_the_split_and_among_is_of_the_whole_set(small):
    whole = celeba.read(small, "train").source.names
    for count in (1, 2):
        names = celeba.read(small, "train", count).source.names
        assert len(names) == count
        assert set(names) <= set(whole)
        assert list(names) == sorted(names)
        assert celeba.read(small, "train", count).source.names == names
    assert len({celeba.read(small, "all", 3, seed=seed).source.names for seed in range(9)}) > 4
    assert celeba.read(small, "train", 99).source.names == whole
    parts = [celeba.read(small, "train", first_images=count).source.names for count in (1, 3, 4, 99)]
    assert [len(names) for names in parts] == [1, 3, 3, 3]
    assert parts[0] == whole[:1]
    assert len(celeba.read(small, "train", 2, first_images=3).source.names) == 2
    assert len(celeba.read(small, "train", 2, first_images=1).source.names) == 1
    assert len(celeba.read(small, "valid", first_images=4).source.names) == 1
    assert len(celeba.read(small, "all", 4).attributes) == 4
    with pytest.raises(ValueError, match="no image of .* belongs to the split 'valid'"):
        celeba.read(small, "valid", first_images=3)


def test_what_the_files_say_goes_with_the_pictures_of_a_sample(small):
    found = celeba.read(small, "all", 3, seed=1)
    numbers = [int(name[:6]) for name in found.source.names]
    assert (found.identities - 2879).tolist() == numbers
    assert [row[0][0] + 1 for row in found.landmarks.tolist()] == numbers


def test_pictures_alone_are_enough_for_the_whole(small):
    for name in TEXTS:
        (small / name).unlink()
    found = datasets.load("celeba", root=small, split="all")
    assert len(found) == 6
    assert found.attributes is found.landmarks is found.identities is None
    with pytest.raises(ValueError, match="no attribute 'Smiling'; it has none"):
        found.has("Smiling")
    with pytest.warns(UserWarning, match=f"no {PARTITION} .*all 6 images are used"):
        assert len(datasets.load("celeba", root=small)) == 6
    with pytest.raises(FileNotFoundError, match=rf"no {PARTITION}.*'train'.*'all'.*mmlab"):
        datasets.load("celeba", root=small, split="train")


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (PARTITION, "000002.jpg 0\n", "", "has no line for 000002.jpg: it is damaged, or belongs"),
        (PARTITION, "000002.jpg 0", "000002.jpg 0 1", "is damaged"),
        (IDENTITIES, "\n", " 0\n", "should have 1 columns and has 2"),
        (IDENTITIES, "2881", "anna", "is damaged"),
        (ATTRIBUTES, "000003.jpg  -1  1", "000003.jpg  -1", "is damaged"),
        (ATTRIBUTES, "Smiling", "Smiling Young", "should have 3 columns and has 2"),
        (LANDMARKS, "000003.jpg", "000333.jpg", "has no line for 000003.jpg"),
    ],
)
def test_a_text_file_that_does_not_fit_is_named(small, name, old, new, words):
    text = (small / name).read_text(encoding="utf-8")
    assert old in text
    (small / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name} {words}"):
        celeba.read(small)


def test_a_text_file_that_is_no_text_is_named(small):
    for name in (PARTITION, ATTRIBUTES, LANDMARKS, IDENTITIES):
        content = (small / name).read_bytes()
        (small / name).write_bytes(content[:20] + b"\xff" + content[20:])
        with pytest.raises(ValueError, match=f"{name} is damaged: 'utf-8' codec"):
            celeba.read(small)
        (small / name).write_bytes(content)


def test_an_empty_text_file_is_damaged(small):
    (small / ATTRIBUTES).write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{ATTRIBUTES} has no line for 000001.jpg"):
        celeba.read(small)


def test_two_pictures_of_one_name_are_refused_rather_than_one_dropped(small):
    (small / IMAGES / "more").mkdir()
    shutil.copy(small / IMAGES / "000001.jpg", small / IMAGES / "more")
    with pytest.raises(ValueError, match="two images of one name: 000001.jpg and more/000001.jpg"):
        celeba.read(small)


def test_what_is_said_follows_the_pictures_that_can_be_read(small):
    (small / IMAGES / "000002.jpg").write_bytes(b"gone")
    with pytest.warns(UserWarning, match=r"1 of 6 images .*000002\.jpg: is not an image"):
        found = datasets.load("celeba", root=small, split="all")
    assert found.identities.tolist() == [2880, 2882, 2883, 2884, 2885]
    assert found.has("Bald").tolist() == [True, True, False, True, False]
    assert found.landmarks[:, 0, 0].tolist() == [0, 2, 3, 4, 5]
    assert [name for name, _ in found.skipped] == ["000002.jpg"]
    with pytest.raises(ValueError, match=r"cannot read the image .*000002\.jpg"):
        datasets.load("celeba", root=small, split="all", strict=True)


def test_has_names_the_attributes_that_there_are(small):
    found = datasets.load("celeba", root=small)
    assert found.has("Bald").dtype == torch.bool
    with pytest.raises(ValueError, match="celeba has no attribute 'Young'; it has Smiling, Bald"):
        found.has("Young")


# Other layouts


def as_csv(small):
    """The lists as Kaggle has them: .csv, each with a line of names; there is none of the identities."""
    for name, heading in (
        (PARTITION, "image_id,partition"),
        (ATTRIBUTES, "image_id,Smiling,Bald"),
        (LANDMARKS, "image_id,lefteye_x,lefteye_y,nose_x,nose_y"),
    ):
        lines = (small / name).read_text(encoding="utf-8").splitlines()[0 if name == PARTITION else 2 :]
        rows = [heading, *(",".join(line.split()) for line in lines)]
        (small / name).with_suffix(".csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    for name in TEXTS:
        (small / name).unlink()


def kaggle(small):
    as_csv(small)
    (small / IMAGES).rename(small / "inner")
    (small / IMAGES).mkdir()
    (small / "inner").rename(small / IMAGES / IMAGES)


def kaggle_zip(small):
    kaggle(small)
    with zipfile.ZipFile(small / "archive.zip", "w") as archive:
        for file in sorted([*small.rglob("*.jpg"), *small.glob("*.csv")]):
            archive.write(file, file.relative_to(small))
    for file in small.glob("*.csv"):
        file.unlink()
    shutil.rmtree(small / IMAGES)


def drive(small):
    """The folders in which the authors keep the files."""
    for folder, names in (("Img", [IMAGES]), ("Anno", TEXTS[:3]), ("Eval", [PARTITION])):
        (small / folder).mkdir()
        for name in names:
            (small / name).rename(small / folder / name)


def drive_zip(small):
    drive(small)
    with zipfile.ZipFile(small / "Img" / f"{IMAGES}.zip", "w") as archive:
        for file in sorted((small / "Img" / IMAGES).iterdir()):
            archive.write(file, f"{IMAGES}/{file.name}")
    shutil.rmtree(small / "Img" / IMAGES)


def flat(small):
    for file in (small / IMAGES).iterdir():
        file.rename(small / file.name)
    (small / IMAGES).rmdir()


def empty_folder_beside_the_zip(small):
    drive_zip(small)
    (small / "Img" / IMAGES).mkdir()


def as_png(small):
    for file in sorted((small / IMAGES).iterdir()):
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()


LAYOUTS = [as_csv, kaggle, kaggle_zip, drive, drive_zip, flat, empty_folder_beside_the_zip, as_png]


@pytest.mark.parametrize("arrange", LAYOUTS)
def test_celeba_is_read_as_people_have_it(small, arrange):
    options = {"image_size": 8, "cache": False}
    expected = {
        split: datasets.load("celeba", root=small, split=split, **options) for split in ("train", "valid")
    }
    arrange(small)
    roots = {
        kaggle: [small, small.parent, small / IMAGES / IMAGES],
        kaggle_zip: [small / "archive.zip"],
        as_png: [small],
    }
    for root in roots.get(arrange, [small, small.parent]):
        for split, other in expected.items():
            found = datasets.load("celeba", root=root, split=split, download=False, **options)
            assert torch.equal(found.images, other.images)
            assert torch.equal(found.attributes, other.attributes)
            assert found.attribute_names == other.attribute_names
            assert torch.equal(found.landmarks, other.landmarks)
            if not arrange.__name__.startswith(("kaggle", "as_csv")):
                assert torch.equal(found.identities, other.identities)


@pytest.mark.parametrize("separator", [",", ", ", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_list_of_another_program_is_read(small, separator, quote):
    expected = celeba.read(small, "all")
    as_csv(small)
    path = (small / ATTRIBUTES).with_suffix(".csv")
    rows = [line.split(",") for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-16")
    found = celeba.read(small, "all")
    np.testing.assert_array_equal(found.attributes, expected.attributes)
    assert found.attribute_names == expected.attribute_names


def test_two_lines_that_contradict_each_other_are_refused(small):
    with open(small / PARTITION, "a", encoding="utf-8") as file:
        file.write("000002.jpg 0\n000002.jpg   0 \n")
    celeba.read(small, "all")  # said twice is no contradiction
    with open(small / PARTITION, "a", encoding="utf-8") as file:
        file.write("000002.jpg 1\n")
    with pytest.raises(ValueError, match=f"{PARTITION} is damaged: .* two different lines for 000002.jpg"):
        celeba.read(small, "train")


# Folder, zip and cache


def test_folder_zip_and_cache_give_the_same_bit_for_bit(copied, tmp_path, monkeypatch):
    options = {"split": "all", "image_size": 32, "center_crop": 148}
    first = datasets.load("celeba", root=copied, **options, cache=False)
    assert first.images.shape == (40, 3, 32, 32)
    with_zip = tmp_path / "downloads"
    shutil.copytree(copied, with_zip, ignore=shutil.ignore_patterns(IMAGES, ".dcganlib"))
    archive = pack(copied / IMAGES, with_zip / f"{IMAGES}.zip")
    renamed = archive.rename(with_zip / "img_align_celeba (1).zip")
    assert same(datasets.load("celeba", root=renamed, **options), first)
    renamed.rename(archive)
    for _ in range(2):  # the second time from the cache
        for root in (copied, copied / IMAGES, with_zip, archive):
            assert same(datasets.load("celeba", root=root, **options), first)

        def refuse(*args):
            raise AssertionError("a picture was opened")

        monkeypatch.setattr(decode_cache, "_decode_chunk", refuse)
    assert same(datasets.load("celeba", root=copied, split="all", image_size=32, center_crop=148), first)
    copied.rename(tmp_path / "celeba")
    assert same(datasets.load("celeba", root=tmp_path, **options), first)


def test_the_pixels_are_the_centre_square_of_the_file_resized(face_set):
    found = datasets.load("celeba", root=face_set, split="all", image_size=64, center_crop=128)
    with Image.open(face_set / IMAGES / "000007.png") as picture:
        expected = picture.crop((25, 45, 153, 173)).resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.images[6].permute(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_every_size_of_the_book_can_be_had(small, size):
    assert datasets.load("celeba", root=small, image_size=size).images.shape == (3, 3, size, size)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>Google Drive - Quota exceeded", "is a web page"),
        (b"PK" + bytes(98), "ends after 100"),
    ],
)
def test_what_came_in_place_of_the_zip_is_told_apart_and_what_to_do(tmp_path, content, words):
    (tmp_path / f"{IMAGES}.zip").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        datasets.load("celeba", root=tmp_path)
    for word in (celeba.PAGE, "1,443,490,838 bytes", "md5:00d2c5bc6d35e252742224ab0c1e8fcb", "'faces'"):
        assert word in str(caught.value)


def test_where_there_is_none_and_none_is_to_be_fetched_the_page_is_named(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"neither {IMAGES} nor {IMAGES}.zip .*{celeba.PAGE}"):
            datasets.load("celeba", root=root, download=False)
    assert os.listdir(tmp_path) == []


# Fetching


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("dcganlib.datasets.download.sleep", lambda seconds: None)


@pytest.fixture
def published(small, host, monkeypatch):
    """The small set as a host publishes it; its contents by name."""
    contents = {name: (small / name).read_bytes() for name in TEXTS}
    with zipfile.ZipFile(small / "made.zip", "w") as archive:
        for file in sorted((small / IMAGES).iterdir()):
            archive.write(file, f"{IMAGES}/{file.name}")
    contents = {f"{IMAGES}.zip": (small / "made.zip").read_bytes(), **contents}
    files = {
        name: (f"id-{name}", f"md5:{hashlib.md5(content).hexdigest()}", len(content))
        for name, content in contents.items()
    }
    monkeypatch.setattr(celeba, "FILES", files)
    monkeypatch.setattr(celeba, "HOST", host.address + "/download?id={id}")
    return contents


def test_a_quota_page_then_half_a_file_then_the_whole(published, small, host, tmp_path):
    root = tmp_path / "data"
    page = {"body": b"<html>Quota exceeded</html>", "type": "text/html"}
    archive = published[f"{IMAGES}.zip"]
    half = {"body": archive[: len(archive) // 2], "length": len(archive)}
    host.answers = [page]
    with pytest.raises(DownloadError, match=f"web page, not the file.*{celeba.PAGE}"):
        datasets.load("celeba", root=root)
    assert os.listdir(root / "celeba") == []
    host.answers = [half] * 3
    with pytest.raises(
        DownloadError, match=f"it ended after {len(archive) // 2:,} of {len(archive):,} bytes"
    ):
        datasets.load("celeba", root=root)
    assert os.listdir(root / "celeba") == [f"{IMAGES}.zip.part"]
    host.answers = [half, *({"body": content} for content in published.values())]
    found = datasets.load("celeba", root=root, split="all")
    assert host.asked[-1] == f"/download?id=id-{PARTITION}"
    assert sorted(os.listdir(root / "celeba")) == sorted([*published, ".dcganlib"])
    host.close()
    assert same(datasets.load("celeba", root=root, split="all"), found)
    assert same(found, datasets.load("celeba", root=small, split="all"))


def test_what_is_there_already_is_not_fetched_again(published, host, tmp_path):
    host.answers = [{"body": published[f"{IMAGES}.zip"]}, {"status": 404}]
    with pytest.raises(DownloadError, match=f"{ATTRIBUTES}: .* answered 404"):
        celeba.download(tmp_path / "data")
    host.answers = [{"body": published[name]} for name in list(published)[1:]]
    assert celeba.download(tmp_path / "data", host.address + "/{name}") == tmp_path / "data" / "celeba"
    assert host.asked[2:] == [f"/{name}" for name in list(published)[1:]]


def test_a_download_that_stopped_between_two_files_goes_on_with_the_next(published, host, tmp_path):
    root = tmp_path / "data"
    (root / "celeba").mkdir(parents=True)
    (root / "celeba" / f"{IMAGES}.zip").write_bytes(published[f"{IMAGES}.zip"])
    host.answers = [{"body": published[name]} for name in list(published)[1:]]
    found = datasets.load("celeba", root=root, split="all", image_size=8)
    assert host.asked == [f"/download?id=id-{name}" for name in list(published)[1:]]
    assert found.attribute_names == ("Smiling", "Bald")
    host.close()
    assert len(datasets.load("celeba", root=root, image_size=8)) == 3  # with the partition


def test_pictures_that_lie_there_unpacked_are_not_fetched(published, small, host, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(small / IMAGES, root / "celeba" / IMAGES)
    host.answers = [{"body": published[name]} for name in list(published)[1:]]
    assert len(datasets.load("celeba", root=root, image_size=8)) == 3
    assert host.asked == [f"/download?id=id-{name}" for name in list(published)[1:]]


def test_where_the_lists_cannot_be_fetched_the_pictures_are_used_without(published, small, host, tmp_path):
    shutil.copytree(small / IMAGES, tmp_path / "data" / "celeba" / IMAGES)
    host.answers = [{"status": 404}]
    with (
        pytest.warns(UserWarning, match=f"{LANDMARKS} could not be downloaded, going on without: .* 404"),
        pytest.warns(UserWarning, match="all 6 images are used"),
    ):
        assert len(datasets.load("celeba", root=tmp_path / "data", image_size=8)) == 6


def test_no_list_is_fetched_into_a_folder_of_the_users(published, small, host):
    (small / IDENTITIES).unlink()
    found = datasets.load("celeba", root=small, image_size=8)
    assert found.identities is None
    assert host.asked == []


def test_the_published_files_are_those_of_the_authors():
    """Numbers and checksums as torchvision has them."""
    from torchvision.datasets import CelebA

    known = {name: (number, f"md5:{checksum}") for number, checksum, name in CelebA.file_list}
    assert {name: entry[:2] for name, entry in celeba.FILES.items()}.items() <= known.items()


# Drawn faces in the same layout


def test_the_lists_say_what_was_drawn(face_set):
    found = celeba.read(face_set, "all")
    described = [synthetic_faces.describe(index) for index in range(40)]
    assert found.source.names == tuple(f"{k:06d}.png" for k in range(1, 41))
    assert found.attribute_names == synthetic_faces.ATTRIBUTES
    assert found.attributes.tolist() == [list(face.attributes) for face in described]
    assert found.landmarks.tolist() == [[list(point) for point in face.landmarks] for face in described]
    assert found.identities.tolist() == [face.identity for face in described]
    for index in (0, 39):
        with Image.open(face_set / IMAGES / f"{index + 1:06d}.png") as picture:
            np.testing.assert_array_equal(
                np.asarray(picture), np.asarray(synthetic_faces.draw(described[index]))
            )


def test_torchvision_reads_the_layout_too(face_set, tmp_path):
    from torchvision.datasets import CelebA

    class Unchecked(CelebA):
        def _check_integrity(self):  # by CelebA's own checksums
            return True

    shutil.copytree(face_set, tmp_path / "celeba")
    boxes = "".join(f"{k:06d}.png 0 0 178 218\n" for k in range(1, 41))  # which dcganlib has no use for
    (tmp_path / "celeba" / "list_bbox_celeba.txt").write_text(
        f"40\nimage_id x_1 y_1 width height\n{boxes}", encoding="utf-8"
    )
    theirs = Unchecked(str(tmp_path), split="train", target_type=["attr", "identity", "landmarks"])
    ours = celeba.read(face_set)
    assert theirs.filename == list(ours.source.names)
    assert torch.equal(theirs.attr > 0, torch.from_numpy(ours.attributes))
    assert theirs.identity[:, 0].tolist() == ours.identities.tolist()
    assert theirs.landmarks_align.reshape(-1, 5, 2).tolist() == ours.landmarks.tolist()
    assert tuple(name for name in theirs.attr_names if name) == ours.attribute_names


def test_nobody_is_in_two_splits_and_all_are_in_one(face_set):
    parts = [set(celeba.read(face_set, split).source.names) for split in ("train", "test")]
    assert not parts[0] & parts[1]
    assert 30 < len(parts[0]) < 40
    described = [synthetic_faces.describe(index) for index in range(600)]
    split_of = {}
    for face in described:
        assert split_of.setdefault(face.identity, face_files.partition(face)) == face_files.partition(face)
    shares = np.bincount([face_files.partition(face) for face in described], minlength=3) / 600
    np.testing.assert_allclose(shares, [0.9, 0.05, 0.05], atol=0.03)


def test_a_set_grows_shrinks_and_goes_on_without_drawing_twice(copied, face_set, monkeypatch):
    drawn, real = [], face_files._draw_some
    monkeypatch.setattr(
        face_files,
        "_draw_some",
        lambda folder, wanted, seed: drawn.extend(wanted) or real(folder, wanted, seed),
    )
    texts = {name: (copied / name).read_bytes() for name in TEXTS}
    write_faces(copied, 12)
    assert drawn == []
    assert {name: (copied / name).read_bytes() for name in TEXTS} == texts
    assert len(celeba.read(copied, "all").attributes) == 40
    datasets.load("celeba", root=copied, split="all", image_size=8)  # leaves its cache among the pictures
    (copied / IMAGES / ".000041.png.77.tmp.png").write_bytes(b"of a call that was killed")
    (copied / IMAGES / "000002.png").unlink()
    assert write_faces(str(copied), 41) == copied
    assert drawn == [("000002.png", 1), ("000041.png", 40)]
    assert (copied / IMAGES / "000002.png").read_bytes() == (face_set / IMAGES / "000002.png").read_bytes()
    found = celeba.read(copied, "all")
    assert found.identities.tolist() == [synthetic_faces.describe(index).identity for index in range(41)]
    for name in TEXTS:  # what was there is the beginning of what is there
        old, new = texts[name].splitlines()[1:], (copied / name).read_bytes().splitlines()[1:]
        assert new[: len(old)] == old


def test_a_set_whose_lists_were_lost_gets_them_again(copied, face_set):
    for name in TEXTS:
        (copied / name).unlink()
    write_faces(copied, 40)
    for name in TEXTS:
        assert (copied / name).read_bytes() == (face_set / name).read_bytes()


def test_the_same_seed_gives_the_same_files_and_another_seed_others(face_set, tmp_path):
    write_faces(tmp_path / "same", 2)
    write_faces(tmp_path / "other", 2, seed=1)
    for name in ("000001.png", "000002.png"):
        content = (face_set / IMAGES / name).read_bytes()
        assert (tmp_path / "same" / IMAGES / name).read_bytes() == content
        assert (tmp_path / "other" / IMAGES / name).read_bytes() != content


def test_faces_of_two_seeds_are_not_mixed(copied):
    before = sorted(path.name for path in copied.rglob("*"))
    with pytest.raises(ValueError, match="holds the faces of another seed than 5"):
        write_faces(copied, 50, seed=5)
    assert sorted(path.name for path in copied.rglob("*")) == before


@pytest.mark.parametrize(("count", "seed", "words"), [(0, 0, "count .* got 0"), (3, -1, "seed .* got -1")])
def test_a_bad_number_is_refused_before_anything_is_written(tmp_path, count, seed, words):
    with pytest.raises(ValueError, match=words):
        write_faces(tmp_path / "set", count, seed)
    assert os.listdir(tmp_path) == []


def test_without_the_extra_nothing_is_begun_and_a_drawn_set_still_serves(face_set, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_faces, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        datasets.load("faces", root=tmp_path, max_images=3)
    assert os.listdir(tmp_path) == []
    assert len(datasets.load("faces", root=face_set.parent, max_images=40, split="all", image_size=8)) == 40


def test_faces_load_as_celeba_does(face_set, tmp_path):
    found = datasets.load(
        "faces", root=face_set.parent, max_images=40, split="all", image_size=32, center_crop=148
    )
    assert same(found, datasets.load("celeba", root=face_set, split="all", image_size=32, center_crop=148))
    assert found.name == "faces"
    assert "ToonHead" in found.source
    assert found.licence == "CC BY 4.0"
    assert found.images.shape == (40, 3, 32, 32)
    few = datasets.load(
        "faces", root=face_set.parent, max_images=15, split="all", image_size=32, center_crop=148
    )
    assert torch.equal(few.images, found.images[:15])
    parts = [
        datasets.load("faces", root=face_set.parent, max_images=40, split=name, image_size=8)
        for name in ("train", "test")
    ]
    assert len(parts[0]) > 30
    assert not set(parts[0].identities.tolist()) & set(parts[1].identities.tolist())


def test_faces_are_twenty_thousand_if_not_told_otherwise(face_set, monkeypatch):
    assert face_datasets.DEFAULT_FACES == 20_000
    monkeypatch.setattr(face_datasets, "DEFAULT_FACES", 40)
    assert len(datasets.load("faces", root=face_set.parent, split="all", image_size=8)) == 40
