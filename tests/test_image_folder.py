"""Picture files to bytes: every kind of file, decoded once, kept in a cache that is never out of date."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dcganlib import datasets
from dcganlib.datasets import contact_sheet, decode_cache, image_decoding, image_files
from dcganlib.datasets.decode_cache import DecodeOptions
from dcganlib.datasets.image_decoding import read
from dcganlib.datasets.image_files import Source, find, open_zip

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
RGB = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
VEIL = np.random.default_rng(1).integers(0, 256, (8, 8, 1), dtype=np.uint8)
SIXTEEN = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def colours(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(pixels, veil):
    share = veil / 255
    return pixels * share + 255 * (1 - share)


def stored(array, form, **options):
    buffer = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to show
    return stored(np.ascontiguousarray(np.rot90(RGB)), "PNG", exif=exif)


def palette_with_a_hole():
    """Four colours, of which number 2 is transparent."""
    picture = Image.frombytes("P", (8, 8), bytes(k % 4 for k in range(64)))
    picture.putpalette([200, 0, 0, 0, 200, 0, 9, 9, 9, 0, 0, 200])
    return stored(picture, "PNG", transparency=2)


def huge():
    """The head of a PNG that claims to be 60,000 by 60,000."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def frames(form):
    first, others = Image.fromarray(GREY), [Image.fromarray(255 - GREY)]
    options = {"lossless": True} if form == "WEBP" else {}
    return stored(first, form, save_all=True, append_images=others, **options)


HOLE = np.array([[200, 0, 0], [0, 200, 0], [255, 255, 255], [0, 0, 200]])[np.arange(64).reshape(8, 8) % 4]
CMYK = np.random.default_rng(2).integers(0, 256, (8, 8, 4), dtype=np.uint8)
WIDE = np.zeros((8, 2000, 3), np.uint8)
WIDE[:, 996:1004] = RGB
ODD = np.random.default_rng(3).integers(0, 256, (13, 16, 3), dtype=np.uint8)
MEANS = np.random.default_rng(4).integers(0, 256, (24, 32), dtype=np.uint8)

# Name: content, and the pixels at a size of 8, or the reason why it cannot be read.
AWKWARD = {
    "1x1.png": (stored(np.full((1, 1, 3), (9, 8, 7), np.uint8), "PNG"), np.full((8, 8, 3), (9, 8, 7))),
    "UPPER.PNG": (stored(RGB, "PNG"), RGB),
    "alpha.png": (stored(np.concatenate([RGB, VEIL], 2), "PNG"), on_white(RGB, VEIL)),
    "animated.gif": (frames("GIF"), colours(GREY)),
    "animated.webp": (frames("WEBP"), colours(GREY)),
    "bilevel.png": (stored(Image.fromarray(GREY > 99), "PNG"), colours(255 * (GREY > 99))),
    "cmyk.tif": (
        stored(Image.frombytes("CMYK", (8, 8), CMYK.tobytes()), "TIFF"),
        (255.0 - CMYK[..., :3]) * (255 - CMYK[..., 3:]) / 255,
    ),
    "empty.png": (b"", "is not an image"),
    "float.tif": (stored(GREY.astype(np.float32), "TIFF"), "floating-point pixels"),
    "grey.png": (stored(GREY, "PNG"), colours(GREY)),
    "huge.png": (huge(), "more than the limit"),
    "integers.tif": (stored(GREY.astype(np.int32) * 1000, "TIFF"), "pixels from 0 to 252000"),
    "la.png": (stored(np.stack([GREY, VEIL[..., 0]], 2), "PNG"), on_white(colours(GREY), VEIL)),
    "palette.png": (stored(Image.fromarray(GREY).convert("P"), "PNG"), colours(GREY)),
    "palette_with_a_hole.png": (palette_with_a_hole(), HOLE),
    "sixteen.png": (stored(SIXTEEN, "PNG"), colours(SIXTEEN / 257)),
    "sixteen_big.tif": (
        stored(Image.frombytes("I;16B", (8, 8), SIXTEEN.astype(">u2").tobytes()), "TIFF"),
        colours(SIXTEEN / 257),
    ),
    "page.jpg": (b"<!DOCTYPE html><html><body>Log in first</body></html>", "is a web page"),
    "text.jpg": (b"this is a letter, not a picture", "is not an image"),
    "truncated.jpg": (stored(np.tile(RGB, (9, 9, 1)), "JPEG")[:-900], "truncated"),
    "turned.png": (turned(), RGB),
    "wide.png": (stored(WIDE, "PNG"), RGB),
    "été à Noël.png": (stored(RGB, "PNG"), RGB),
}


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    folder = tmp_path_factory.mktemp("awkward")
    for name, (content, _) in AWKWARD.items():
        (folder / name).write_bytes(content)
    (folder / ".hidden.png").write_bytes(stored(RGB, "PNG"))
    (folder / "readme.md").write_text("no picture, and not said to be one", encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Five pictures of 8 by 8, the k-th all of the grey 10 k."""
    base = tmp_path / "set"
    base.mkdir()
    for k in range(5):
        (base / f"{k}.png").write_bytes(stored(np.full((8, 8), 10 * k, np.uint8), "PNG"))
    return base


@pytest.fixture
def never_read(monkeypatch):
    """From here on, no picture may be opened: ``never_read()``."""

    def start():
        def refuse(*args):
            raise AssertionError("a picture was opened")

        monkeypatch.setattr(decode_cache, "_decode_chunk", refuse)
        monkeypatch.setattr(image_decoding, "read", refuse)

    return start


@pytest.fixture
def count_reads(monkeypatch):
    """Names of the pictures that were opened since."""
    opened, real = [], image_files.open_image
    monkeypatch.setattr(
        image_files, "open_image", lambda source, name: opened.append(name) or real(source, name)
    )
    return opened


def zipped(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def odd_zip(name, *, flags=0, version=20):
    """A list of one file, where a zip has its list."""
    entry = struct.pack(
        "<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, version, 0, flags, 0, 0, 33, 0, 0, 0, len(name), *[0] * 6
    )
    entry += name
    return b"PK\3\4" + entry + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), 4, 0)


def decode(source, image_size, channels, **options):
    return decode_cache.decode(source, DecodeOptions(image_size, channels, **options))


def greys(decoded):
    return decoded.pixels[:, 0, 0, 0].tolist()


# One picture


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_file_gives_its_pixels_or_its_reason(awkward, name):
    expected = AWKWARD[name][1]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read(awkward / name, 8, 3)
        return
    found = read(awkward / name, 8, 3)
    assert (found.shape, found.dtype) == ((3, 8, 8), np.uint8)
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, rtol=0, atol=1)
    grey = read(awkward / name, 8, 1)
    weights = np.array([0.299, 0.587, 0.114])  # of ITU-R 601, as Pillow documents for "L"
    np.testing.assert_allclose(grey[0], expected @ weights, rtol=0, atol=2)


def test_an_awkward_folder_loads_what_can_be_read_and_lists_the_rest(awkward):
    good = sorted(name for name, (_, expected) in AWKWARD.items() if not isinstance(expected, str))
    bad = sorted(set(AWKWARD) - set(good))
    with pytest.warns(UserWarning, match=f"{len(bad)} of {len(AWKWARD)} images") as caught:
        found = datasets.load(awkward, image_size=8)
    assert len(found) == len(good)
    for image, name in zip(found.images, good, strict=True):
        np.testing.assert_array_equal(image, read(awkward / name, 8, 3), err_msg=name)
    assert [name for name, _ in found.skipped] == bad
    for name, reason in found.skipped:
        assert AWKWARD[name][1] in reason
        assert f"{name}: {reason}" in str(caught[0].message)
    with pytest.raises(ValueError, match=r"cannot read the image .*empty\.png: is not an image"):
        datasets.load(awkward, image_size=8, strict=True)
    with pytest.raises(ValueError, match=r"cannot read the image .*empty\.png: is not an image"):
        datasets.load(awkward, image_size=8, strict=True, cache=False)


def test_the_centre_square_is_kept_and_then_resized():
    whole = Image.fromarray(ODD)  # 16 wide, 13 high
    for crop, box in ((None, (1, 0, 14, 13)), (10, (3, 1, 13, 11)), (13, (1, 0, 14, 13))):
        expected = np.asarray(whole.crop(box).resize((8, 8), Image.Resampling.BILINEAR))
        found = read(io.BytesIO(stored(ODD, "PNG")), 8, 3, crop)
        np.testing.assert_allclose(found.transpose(1, 2, 0), expected, rtol=0, atol=0)
    assert read(io.BytesIO(stored(ODD, "PNG")), 32, 3).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="is 16x13 pixels, smaller than the center_crop 14"):
        read(io.BytesIO(stored(ODD, "PNG")), 8, 3, 14)


def test_shrinking_averages_what_it_leaves_out():
    found = read(io.BytesIO(stored(np.tile([[0, 255], [255, 0]], (32, 32)).astype(np.uint8), "PNG")), 8, 1)
    np.testing.assert_allclose(found, 127.5, rtol=0, atol=4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_file_that_breaks_off_is_refused_wherever_it_does(form):
    content = stored(ODD, form)
    for share in np.linspace(0, 0.9, 12):
        with pytest.raises(ValueError, match=r"\w"):
            read(io.BytesIO(content[: int(share * len(content))]), 8, 3)


@pytest.mark.parametrize(
    "error", [struct.error("bad"), zlib.error("bad"), RuntimeError("bad"), KeyError("bad")]
)
def test_whatever_a_decoder_raises_is_the_reason(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(image_decoding, "_to_mode", fail)
    with pytest.raises(ValueError, match="bad"):
        read(io.BytesIO(stored(RGB, "PNG")), 8, 3)


# Finding them


def test_names_are_sorted_and_hidden_ones_passed_over(tmp_path):
    names = ["b.png", "a/c.JPG", "a/d/e.webp", ".secret/f.png", "a/.g.png", "__MACOSX/a.png", "notes.txt"]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    expected = ("a/c.JPG", "a/d/e.webp", "b.png")
    assert find(tmp_path / "set").names == expected
    archive = zipped(tmp_path / "set.zip", dict.fromkeys(names, b"x"))
    assert find(str(archive)).names == expected


def test_a_folder_that_cannot_be_listed_stops_rather_than_shrinks_the_set(folder, monkeypatch):
    (folder / "closed").mkdir()
    scandir = os.scandir

    def guarded(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="closed"):
        find(folder)


@pytest.mark.posix("links need a privilege")
def test_a_link_that_leads_nowhere_is_listed_as_unreadable(folder):
    (folder / "lost.png").symlink_to(folder / "gone.png")
    found = decode(find(folder), 8, 1)
    assert len(found.pixels) == 5
    ((name, reason),) = found.skipped
    assert name == "lost.png"
    assert "No such file" in reason


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_nothing_to_find_says_what_was_looked_for(tmp_path, kind):
    where = tmp_path if kind == "folder" else zipped(tmp_path / "a.zip", {"a.txt": b"x"})
    with pytest.raises(ValueError, match=r"no images in .*\.jpg.*\.webp.*Pillow reads"):
        find(where)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Quota exceeded", "is a web page.*quota.*browser"),
        (b"<HTML><body>", "is a web page"),
        (b"PK\x03\x04" + bytes(1996), "ends after 2,000 bytes"),
        (b"hello", "is not a zip archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", r"is a \.7z archive"),
        (b"Rar!\x1a\7\1\0", r"is a \.rar archive"),
        (odd_zip(b"\xff.png", flags=0x800), "is not a zip archive, or is damaged"),  # a name that is no text
        (odd_zip(b"a.png", version=99), "is not a zip archive, or is damaged"),  # of a later kind of zip
    ],
)
def test_what_is_no_zip_is_told_apart(tmp_path, content, words):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.zip {words}.*Get it elsewhere\.$"):
        open_zip(tmp_path / "a.zip", about="Get it elsewhere.")
    with pytest.raises(ValueError, match=rf"a\.zip {words}"):
        find(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("kind", "ending"), [("tar", ".tar"), ("gztar", ".gz"), ("bztar", ".bz2"), ("xztar", ".xz")]
)
def test_an_archive_that_is_no_zip_is_to_be_unpacked(folder, tmp_path, kind, ending):
    made = shutil.make_archive(str(tmp_path / "packed"), kind, folder)
    with pytest.raises(ValueError, match=rf"is a \{ending} archive, which is not read: unpack it and give"):
        find(made)


# Zips


def test_a_zip_gives_what_its_folder_gives(folder, tmp_path):
    entries = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    archive = zipped(tmp_path / "set.zip", entries, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(decode(find(archive), 8, 3).pixels, decode(find(folder), 8, 3).pixels)
    assert sorted(os.listdir(tmp_path)) == [".dcganlib", "set", "set.zip"]


def test_odd_names_in_a_zip_are_read_and_nothing_is_unpacked(tmp_path):
    names = ["../up.png", "./here.png", "/root.png", "a\\b.png", "C:\\c.png", "d/été.png"]
    content = {name: stored(np.full((8, 8), 10 * k, np.uint8), "PNG") for k, name in enumerate(names)}
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = zipped(inner / "odd.zip", content)
    found = decode(find(archive), 8, 1, cache=False)
    assert find(archive).names == ("../up.png", "./here.png", "/root.png", "C:/c.png", "a/b.png", "d/été.png")
    assert greys(found) == [0, 10, 20, 40, 30, 50]
    assert os.listdir(tmp_path) == ["inner"]
    assert os.listdir(inner) == ["odd.zip"]


def test_a_name_that_a_zip_has_twice_counts_once_and_the_later_entry_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, on the second
        for grey in (10, 20):
            archive.writestr("a.png", stored(np.full((8, 8), grey, np.uint8), "PNG"))
    assert greys(decode(find(tmp_path / "a.zip"), 8, 1)) == [20]


def test_each_damaged_entry_of_a_zip_is_listed_with_its_reason(tmp_path, monkeypatch):
    picture = stored(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8), "BMP")
    good = stored(np.full((8, 8), 7, np.uint8), "PNG")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checksum.bmp", picture)
        archive.writestr("deflate.bmp", picture, zipfile.ZIP_DEFLATED)
        archive.writestr("good.png", good)
        archive.writestr("lzma.bmp", picture, zipfile.ZIP_LZMA)
        archive.writestr("secret.bmp", picture)
        archive.writestr("bomb.bmp", bytes(20_000), zipfile.ZIP_DEFLATED)
        places = {entry.filename: entry.header_offset for entry in archive.infolist()}
    content = bytearray(path.read_bytes())
    for name in ("checksum.bmp", "deflate.bmp", "lzma.bmp"):
        for k in range(60, 90):
            content[places[name] + k] ^= 255
    listed = content.index(b"PK\x01\x02")
    while content[listed + 46 : listed + 56] != b"secret.bmp":
        listed = content.index(b"PK\x01\x02", listed + 1)
    content[listed + 8] |= 1  # marked as encrypted
    path.write_bytes(content)
    monkeypatch.setattr(image_files, "MAX_UNPACKED_BYTES", 19_999)
    found = decode(find(path), 8, 1)
    assert greys(found) == [7]
    reasons = dict(found.skipped)
    assert reasons.keys() == {"checksum.bmp", "deflate.bmp", "lzma.bmp", "secret.bmp", "bomb.bmp"}
    assert reasons["bomb.bmp"] == "would unpack to 20,000 bytes, more than 19,999"
    assert "Bad CRC-32" in reasons["checksum.bmp"]
    assert "encrypted" in reasons["secret.bmp"]
    assert all(reasons.values())


def test_the_list_of_a_zip_is_read_once_for_all_chunks(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {f"{k}.png": stored(GREY, "PNG") for k in range(9)})
    source, opened, real = find(archive), [], image_files.open_zip
    monkeypatch.setattr(decode_cache, "IMAGES_PER_CHUNK", 2)
    monkeypatch.setattr(image_files, "open_zip", lambda path: opened.append(path) or real(path))
    assert len(decode(source, 8, 1, cache=False).pixels) == 9
    assert opened == [archive]
    zipped(archive, {f"{k}.png": stored(255 - GREY, "PNG") for k in range(9)})
    np.testing.assert_array_equal(decode(source, 8, 1, cache=False).pixels[8, 0], 255 - GREY)


# Decoding


def test_several_processes_give_what_one_gives(awkward, monkeypatch):
    source = find(awkward)
    alone = decode(source, 8, 3, cache=False)
    monkeypatch.setattr(decode_cache, "SINGLE_PROCESS_IMAGES", 3)
    monkeypatch.setattr(decode_cache, "IMAGES_PER_CHUNK", 4)
    monkeypatch.setattr(decode_cache, "processors", lambda: 2)
    together = decode(source, 8, 3, cache=False)
    np.testing.assert_array_equal(together.pixels, alone.pixels)
    assert together.kept == alone.kept
    assert together.skipped == alone.skipped
    with pytest.raises(ValueError, match=r"cannot read the image .*empty\.png"):
        decode(source, 8, 3, cache=False, strict=True)


def test_no_more_than_a_few_chunks_are_ahead_of_the_reader(folder, monkeypatch, count_reads):
    monkeypatch.setattr(decode_cache, "IMAGES_PER_CHUNK", 1)
    chunks = decode_cache._decode_chunks(find(folder), DecodeOptions(8, 1))
    array, failed = next(chunks)
    assert (array.shape, failed) == ((1, 1, 8, 8), [])
    assert len(count_reads) <= 3
    chunks.close()


def test_this_process_may_use_at_least_one_processor(monkeypatch):
    assert 1 <= decode_cache.processors() <= os.cpu_count()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert decode_cache.processors() == 1


def test_the_modules_of_the_workers_import_no_torch(tmp_path):
    code = "from dcganlib.datasets import decode_cache, face_files"
    code += "; import sys; assert not {'torch', 'joblib'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cache", [True, False])
def test_a_set_with_nothing_to_read_says_so_with_the_first_reason(tmp_path, cache):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("words", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"none of the 2 images of .*; the first, a\.png: is not an image"
        ):
            decode(find(tmp_path), 8, 1, cache=cache)
    assert not list(tmp_path.glob(".dcganlib/*"))


# The cache


def test_the_second_start_opens_the_cache_and_no_picture(awkward, never_read):
    first = decode(find(awkward), 8, 3)
    never_read()
    second = decode(find(awkward), 8, 3)
    assert isinstance(second.pixels, np.memmap)
    assert second.pixels.dtype == np.uint8
    np.testing.assert_array_equal(second.pixels, first.pixels)
    assert second.kept == first.kept
    assert second.skipped == first.skipped
    with pytest.raises(ValueError, match=r"cannot read the image .*empty\.png"):
        decode(find(awkward), 8, 3, strict=True)


def test_without_the_cache_nothing_is_written_or_trusted(folder, count_reads):
    decode(find(folder), 8, 1)
    before = len(count_reads)
    found = decode(find(folder), 8, 1, cache=False)
    assert len(count_reads) == 2 * before == 10
    assert not isinstance(found.pixels, np.memmap)
    (folder / ".dcganlib").rename(folder.parent / "away")
    decode(find(folder), 8, 1, cache=False)
    assert not (folder / ".dcganlib").exists()


def rewrite(folder):
    (folder / "3.png").write_bytes(stored(np.full((8, 8), 77, np.uint8), "PNG"))
    return [0, 10, 20, 77, 40]


def touch(folder):
    os.utime(folder / "3.png", ns=(1, 1))
    return [0, 10, 20, 30, 40]


def add(folder):
    (folder / "25.png").write_bytes(stored(np.full((8, 8), 99, np.uint8), "PNG"))
    return [0, 10, 20, 99, 30, 40]


def remove(folder):
    (folder / "3.png").unlink()
    return [0, 10, 20, 40]


def rename(folder):
    (folder / "0.png").rename(folder / "9.png")
    return [10, 20, 30, 40, 0]


@pytest.mark.parametrize("change", [rewrite, touch, add, remove, rename])
def test_a_change_of_the_folder_is_noticed_and_the_stale_cache_removed(folder, count_reads, change):
    decode(find(folder), 8, 1)
    stale = set(os.listdir(folder / ".dcganlib"))
    expected = change(folder)
    count_reads.clear()
    assert greys(decode(find(folder), 8, 1)) == expected
    assert sorted(count_reads) == list(find(folder).names)
    assert len(os.listdir(folder / ".dcganlib")) == 2
    assert not stale & set(os.listdir(folder / ".dcganlib"))


def test_a_file_that_is_no_picture_may_come_and_go(folder, never_read):
    decode(find(folder), 8, 1)
    (folder / "Thumbs.db").write_bytes(b"x")
    never_read()
    assert greys(decode(find(folder), 8, 1)) == [0, 10, 20, 30, 40]


def test_a_changed_zip_is_noticed_and_its_neighbour_keeps_its_cache(tmp_path, never_read):
    first, second = (
        zipped(tmp_path / name, {"a.png": stored(np.full((8, 8), grey, np.uint8), "PNG")})
        for name, grey in (("first.zip", 1), ("second.zip", 2))
    )
    assert [greys(decode(find(path), 8, 1)) for path in (first, second)] == [[1], [2]]
    zipped(first, {"a.png": stored(np.full((8, 8), 30, np.uint8), "PNG")})
    assert greys(decode(find(first), 8, 1)) == [30]
    assert len(os.listdir(tmp_path / ".dcganlib")) == 4
    never_read()
    assert [greys(decode(find(path), 8, 1)) for path in (first, second)] == [[30], [2]]


def test_each_crop_size_choice_and_number_of_channels_has_a_cache_of_its_own(folder, never_read):
    source = find(folder)
    part = Source(folder, source.names[:2])
    asked = [
        (source, 8, 1, None),
        (source, 4, 1, None),
        (source, 8, 3, None),
        (source, 8, 1, 6),
        (part, 8, 1, None),
    ]
    found = [decode(what, size, channels, center_crop=crop).pixels for what, size, channels, crop in asked]
    assert [pixels.shape for pixels in found] == [
        (5, 1, 8, 8),
        (5, 1, 4, 4),
        (5, 3, 8, 8),
        (5, 1, 8, 8),
        (2, 1, 8, 8),
    ]
    assert len(os.listdir(folder / ".dcganlib")) == 10
    never_read()
    for pixels, (what, size, channels, crop) in zip(found, asked, strict=True):
        np.testing.assert_array_equal(decode(what, size, channels, center_crop=crop).pixels, pixels)


def spoil(kind, place):
    (pixels,) = place.glob("*.u8")
    (about,) = place.glob("*.json")
    content = json.loads(about.read_text(encoding="utf-8"))
    match kind:
        case "shorter":
            pixels.write_bytes(pixels.read_bytes()[:-1])
        case "longer":
            pixels.write_bytes(pixels.read_bytes() + b"x")
        case "no pixels":
            pixels.unlink()
        case "no description":
            about.unlink()
        case "half a description":
            about.write_text(about.read_text(encoding="utf-8")[:-20], encoding="utf-8")
        case "a foreign description":
            about.write_text("[1, 2]", encoding="utf-8")
        case "another key":
            about.write_text(json.dumps(content | {"key": "0" * 64}), encoding="utf-8")
        case "a missing entry":
            del content["kept"]
            about.write_text(json.dumps(content), encoding="utf-8")
        case "a name that is no text":
            about.write_text(
                json.dumps(content | {"kept": [0, 1, 2, 3], "skipped": [[0.5, "broken"]]}), encoding="utf-8"
            )
            pixels.write_bytes(pixels.read_bytes()[: 4 * 64])


@pytest.mark.parametrize(
    "kind",
    [
        "shorter",
        "longer",
        "no pixels",
        "no description",
        "half a description",
        "a foreign description",
        "another key",
        "a missing entry",
        "a name that is no text",
    ],
)
def test_a_damaged_cache_is_made_anew(folder, count_reads, kind):
    decode(find(folder), 8, 1)
    spoil(kind, folder / ".dcganlib")
    count_reads.clear()
    assert greys(decode(find(folder), 8, 1)) == [0, 10, 20, 30, 40]
    assert len(count_reads) == 5
    assert greys(decode(find(folder), 8, 1)) == [0, 10, 20, 30, 40]
    assert len(count_reads) == 5


def test_what_is_no_cache_is_left_alone_in_its_folder(folder):
    (folder / ".dcganlib").mkdir()
    for name, content in (("a.json", "[]"), ("b.json", "{}"), ("c.json", "?")):
        (folder / ".dcganlib" / name).write_text(content, encoding="utf-8")
    decode(find(folder), 8, 1)
    assert len(os.listdir(folder / ".dcganlib")) == 5


def test_decoding_that_breaks_off_leaves_no_cache(folder, monkeypatch):
    class PowerCutError(BaseException):
        pass

    real = image_decoding.read

    def broken(file, *args):
        if file.name.endswith("3.png"):
            raise PowerCutError
        return real(file, *args)

    monkeypatch.setattr(image_decoding, "read", broken)
    monkeypatch.setattr(decode_cache, "IMAGES_PER_CHUNK", 1)
    with pytest.raises(PowerCutError):
        decode(find(folder), 8, 1)
    assert os.listdir(folder / ".dcganlib") == []


def test_writing_into_the_pixels_leaves_the_file_alone(folder):
    found = datasets.load(folder, image_size=8, channels=1)
    found.images[:] = 255
    assert found.images.min() == 255
    assert greys(decode(find(folder), 8, 1)) == [0, 10, 20, 30, 40]
    assert datasets.load(folder, image_size=8, channels=1).images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]


def test_where_the_folder_cannot_be_written_the_users_cache_serves(folder, tmp_path, monkeypatch, never_read):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    real = decode_cache.writable
    monkeypatch.setattr(decode_cache, "writable", lambda place: folder not in place.parents and real(place))
    decode(find(folder), 8, 1)
    assert not (folder / ".dcganlib").exists()
    files = [path for path in (tmp_path / "home" / ".cache" / "dcganlib").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".json", ".u8"]
    never_read()
    assert greys(decode(find(folder), 8, 1)) == [0, 10, 20, 30, 40]


def test_where_nothing_can_be_written_the_pixels_stay_in_memory(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(decode_cache, "writable", lambda place: False)
    with pytest.warns(
        UserWarning, match=r"decoded images of .*set are held in memory.*nothing can be written beside"
    ):
        found = decode(find(folder), 8, 1)
    assert greys(found) == [0, 10, 20, 30, 40]
    assert not isinstance(found.pixels, np.memmap)
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize(
    "change",
    [
        {"kept": [0, 1, 2, 3]},
        {"kept": [1, 0, 2, 3, 4]},
        {"kept": [0, 1, 2, 3, 9]},
        {"kept": [0, 1, 2, 3, [4]]},
        {"skipped": [["a", "b"]]},
        {"skipped": 7},
        {"kept": None},
    ],
)
def test_a_cache_that_says_what_cannot_be_is_made_anew(folder, change, count_reads):
    expected = greys(decode(find(folder), 8, 1))
    count_reads.clear()
    (about,) = (folder / ".dcganlib").glob("*.json")
    about.write_text(json.dumps(json.loads(about.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert greys(decode(find(folder), 8, 1)) == expected
    assert len(count_reads) == 5


def test_a_cache_that_nests_too_deep_is_made_anew(folder, count_reads):
    decode(find(folder), 8, 1)
    (about,) = (folder / ".dcganlib").glob("*.json")
    about.write_text("[" * 10**5, encoding="utf-8")
    assert len(greys(decode(find(folder), 8, 1))) == 5
    assert len(count_reads) == 10


def test_a_strict_refusal_names_the_zip_even_where_a_name_in_it_begins_with_a_slash(tmp_path):
    path = zipped(tmp_path / "set.zip", {"/a.png": b"broken"})
    with pytest.raises(ValueError, match=r"cannot read the image .*set\.zip//a\.png: is not an image"):
        decode(find(path), 8, 1, strict=True)


# Every kind of file


def png(depth, kind, pixels, *chunks):
    """A PNG of one row, written by hand: Pillow writes not all that it reads."""
    per_pixel = {0: 1, 2: 3}[kind] * depth
    head = struct.pack(">IIBBBBB", 8 * len(pixels) // per_pixel, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def tiff(bits, zero_is_black, pixels, width):
    """A grey TIFF of one row, written by hand."""
    values = [(256, width), (257, 1), (258, bits), (259, 1), (262, zero_is_black), (273, 122), (277, 1)]
    values += [(278, 1), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + pixels


def row(content):
    """The pixels of a row of grey, unresized."""
    return list(image_decoding._first_frame(io.BytesIO(content), "L", 10**6).tobytes())


@pytest.mark.parametrize(
    ("depth", "kind", "pixels", "hole", "expected"),
    [
        (1, 0, b"\xaa", b"\0\0", [255] * 8),
        (1, 0, b"\xaa", b"\0\1", [255, 0] * 4),  # white already
        (2, 0, b"\x1b", b"\0\1", [0, 255, 170, 255]),
        (4, 0, b"\x05\x5f", b"\0\5", [0, 255, 255, 255]),
        (8, 0, b"\x05\x50", b"\0\5", [255, 80]),
        (16, 0, b"\x05\0\x50\0", b"\5\0", [255, 80]),
        (16, 2, b"\x05\0" * 3 + b"\x50\1" * 3, b"\x50\1" * 3, [5, 255]),
    ],
)
def test_a_transparent_colour_is_white_at_every_depth(depth, kind, pixels, hole, expected):
    assert row(png(depth, kind, pixels, (b"tRNS", hole))) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(12, 1, b"\xff\xf8\0", 2), [255, 128]),
        (tiff(16, 1, struct.pack("<HH", 0, 65535), 2), [0, 255]),
        (tiff(16, 0, struct.pack("<HH", 0, 65535), 2), [255, 0]),
        (tiff(8, 0, bytes([0, 200]), 2), [255, 55]),
        (stored(np.array([[0, 0.5, 1]], np.float32), "TIFF"), [0, 128, 255]),
        (b"P5 2 1 1023\n" + struct.pack(">HH", 1023, 512), [255, 128]),
        (b"P5 2 1 65535\n" + struct.pack(">HH", 65535, 257), [255, 1]),
        (b"P4 8 1\n\xaa", [0, 255] * 4),
    ],
)
def test_grey_of_every_depth_is_scaled_to_bytes(content, expected):
    np.testing.assert_allclose(row(content), expected, rtol=0, atol=1)


@pytest.mark.parametrize("values", [[0, 1.5], [-0.1, 1], [0, np.nan]])
def test_floats_of_an_unknown_range_are_refused_with_it(values):
    content = stored(np.array([values], np.float32), "TIFF")
    with pytest.raises(ValueError, match=r"floating-point pixels from .* to .*, not from 0 to 1"):
        read(io.BytesIO(content), 8, 3)


def with_segment(marker, content):
    jpeg = stored(np.tile(RGB, (2, 2, 1)), "JPEG")
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


WHOLE_PNG = stored(RGB, "PNG")


def with_chunk(name, content, checksum=None):
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    return WHOLE_PNG[:33] + chunk + WHOLE_PNG[33:]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (with_segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), "JPEG"),
        (with_segment(0xE1, b"Exif\0\0" + bytes(3)), "JPEG"),
        (with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orient"), "JPEG"),
        (with_segment(0xE2, b"ICC_PROFILE\0\1\7broken"), "JPEG"),
        (with_segment(0xE2, b"MPF\0II*\0\xff\xff"), "JPEG"),
        (with_segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"), "JPEG"),
        (with_chunk(b"zTXt", b"abcd", checksum=0), "PNG"),
        (with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), "PNG"),  # more than Pillow unpacks
        (with_chunk(b"iCCP", b"a\0\0junk"), "PNG"),
        (with_chunk(b"eXIf", b"II*\0\xff\xff"), "PNG"),
    ],
)
def test_damaged_metadata_cost_no_pixels(content, form):
    expected = stored(np.tile(RGB, (2, 2, 1)), "JPEG") if form == "JPEG" else WHOLE_PNG
    np.testing.assert_array_equal(read(io.BytesIO(content), 8, 3), read(io.BytesIO(expected), 8, 3))


@pytest.mark.parametrize("damage", [(2, b"\xff\xff"), (4, b"\xff" * 4), (8, b"\xff" * 4), (2, bytes(10))])
@pytest.mark.parametrize("tag", [270, 282, 305, 700, 34675])
def test_damaged_tags_of_a_tiff_cost_no_pixels(tag, damage):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    tags = {270: "some text", 274: 6, 282: 72.0, 305: "a program", 700: b"x" * 99, 34675: b"x" * 99}
    file = io.BytesIO()
    picture.save(file, "TIFF", tiffinfo=tags, compression="tiff_lzw")
    content = bytearray(file.getvalue())
    start = int.from_bytes(content[4:8], "little") + 2
    (number,) = struct.unpack_from("<H", content, start - 2)
    entries = {struct.unpack_from("<H", content, start + 12 * i)[0]: start + 12 * i for i in range(number)}
    at, change = entries[tag] + damage[0], damage[1]
    content[at : at + len(change)] = change
    expected = np.asarray(picture.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(io.BytesIO(content), 8, 3), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_once_in_every_format(form, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = 255, (255, 0, 0), (0, 0, 255)
    # What the file holds, by EXIF 2.32, 4.6.4: where its row 0 and column 0 are in the upright picture.
    stored_as = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        **{5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1)},
        **{8: np.rot90(upright, -1)},
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = stored(np.ascontiguousarray(stored_as), form, exif=exif, quality=100)
    found = read(io.BytesIO(content), 16, 3).transpose(1, 2, 0)
    np.testing.assert_allclose(found[2::4, 2::4], upright[2::4, 2::4], rtol=0, atol=80)


def test_a_format_that_pillow_will_drop_is_read_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on writing
        content = stored(RGB, "IM")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(row(content), row(WHOLE_PNG))


def test_every_ending_that_pillow_reads_is_taken_in_any_case(tmp_path):
    endings = {"jfif": "JPEG", "JPE": "JPEG", "ppm": "PPM", "pgm": "PPM", "Tga": "TGA", "jp2": "JPEG2000"}
    endings |= {"pcx": "PCX", "tif": "TIFF", "dds": "DDS", "qoi": "QOI", "ico": "ICO"}
    for ending, form in endings.items():
        picture = Image.fromarray(np.tile(RGB, (2, 2, 1))).convert("L" if ending == "pgm" else "RGB")
        try:
            picture.save(tmp_path / f"a.{ending}", form)
        except (KeyError, OSError):  # an older Pillow writes no QOI
            continue
    there = sorted(os.listdir(tmp_path))
    assert len(there) >= 10
    assert list(find(tmp_path).names) == there
    found = decode(find(tmp_path), 16, 3)
    assert found.skipped == []
    assert len(found.pixels) == len(there)


def test_what_is_no_picture_is_counted_by_its_ending(folder):
    for name in ("a.txt", "b.TXT", "README", "Thumbs.db", ".hidden.txt", "c.eps"):
        (folder / name).write_bytes(b"x")
    found = find(folder)
    assert len(found.names) == 5
    assert dict(found.ignored) == {".txt": 2, "no suffix": 1, ".db": 1, ".eps": 1}
    assert found.ignored[0] == (".txt", 2)
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    reason = dict(decode(find(folder), 8, 1).skipped)["phone.HEIC"]
    assert reason == "is not an image, or of a format that Pillow cannot read"


def test_a_large_picture_is_read_within_the_limit_and_the_variable_raises_it(monkeypatch):
    content = stored(Image.new("L", (100, 100), 7), "PNG")
    for limit in (10_000, 9_999, 4_000):  # Pillow warns of up to twice its limit, and then raises
        monkeypatch.setenv("DCGANLIB_MAX_PIXELS", str(limit))
        if limit >= 10_000:
            assert read(io.BytesIO(content), 8, 1).max() == 7
            continue
        with pytest.raises(
            ValueError, match=rf"has 10,000 pixels, more than the limit of {limit:,}; set .*MAX_PIXELS"
        ):
            read(io.BytesIO(content), 8, 1)
    monkeypatch.delenv("DCGANLIB_MAX_PIXELS")
    assert image_decoding.max_pixels() > 108e6  # the largest cameras of telephones
    before = Image.MAX_IMAGE_PIXELS
    read(io.BytesIO(content), 8, 1)
    assert before == Image.MAX_IMAGE_PIXELS
    for wrong in ("many", "0", "-1", "1e9"):
        monkeypatch.setenv("DCGANLIB_MAX_PIXELS", wrong)
        with pytest.raises(ValueError, match="DCGANLIB_MAX_PIXELS must be a whole number.*got"):
            image_decoding.max_pixels()


def test_a_raised_limit_brings_back_what_was_left_out(folder, monkeypatch):
    (folder / "large.png").write_bytes(stored(Image.new("L", (100, 100), 90), "PNG"))
    monkeypatch.setenv("DCGANLIB_MAX_PIXELS", "5000")
    assert [name for name, _ in decode(find(folder), 8, 1).skipped] == ["large.png"]
    monkeypatch.setenv("DCGANLIB_MAX_PIXELS", "10000")
    assert greys(decode(find(folder), 8, 1)) == [0, 10, 20, 30, 40, 90]


@pytest.mark.posix("links need a privilege")
def test_links_are_followed_as_imagefolder_follows_them_and_circles_end(folder, tmp_path):
    from torchvision.datasets import ImageFolder

    base = tmp_path / "linked"
    (base / "own").mkdir(parents=True)
    (base / "own" / "a.png").write_bytes(stored(RGB, "PNG"))
    (base / "other").symlink_to(folder)
    (base / "own" / "b.png").symlink_to(folder / "1.png")
    theirs = sorted(os.path.relpath(path, base) for path, _ in ImageFolder(base).samples)
    assert list(find(base).names) == theirs
    assert len(theirs) == 7
    (base / "own" / "up").symlink_to(base)
    (base / "own" / "self.png").symlink_to(base / "own" / "self.png")
    found = decode(find(base), 8, 1)
    assert [name for name, _ in found.skipped] == ["own/self.png"]
    assert len(found.pixels) == 7


@pytest.mark.posix("no named pipes among files")
def test_what_is_no_regular_file_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    assert decode(find(folder), 8, 1).skipped == [("pipe.png", "is not a regular file")]


@pytest.mark.posix("names of files are text")
def test_a_name_that_is_no_utf8_is_read_cached_and_can_be_printed(folder, tmp_path):
    for raw in (b"caf\xe9.png", b"bad\xff.png"):
        content = stored(RGB, "PNG") if raw.startswith(b"caf") else b"x"
        with open(os.path.join(os.fsencode(folder), raw), "wb") as file:
            file.write(content)
    inner = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xe9t\xe9"))
    os.rename(folder, inner)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 of 7 images .* left out: bad\\udcff\.png: is not an image"):
            found = datasets.load(inner, image_size=8)
        assert len(found) == 6
        f"{found.name} {found.source} {found.skipped}".encode()


def test_a_run_is_never_data(folder, tmp_path):
    before = find(folder)
    run = folder / "run"
    (run / "samples").mkdir(parents=True)
    for name in ("real.png", "losses.png", "samples/step_000001.png"):
        (run / name).write_bytes(stored(RGB, "PNG"))
    (run / "config.json").write_text("{}", encoding="utf-8")
    assert find(folder).names == before.names
    assert find(folder).ignored == ((image_files.RUN, 1),)
    for place in (run, run / "samples"):
        with pytest.raises(ValueError, match="is the folder of a run, not of images"):
            find(place)
    archive = zipped(
        tmp_path / "a.zip", {f"set/{f.relative_to(folder)}": f.read_bytes() for f in folder.rglob("*.*")}
    )
    assert [name.rpartition("/")[2] for name in find(archive).names] == list(before.names)
    (run / "config.json").unlink()  # now a folder like any other
    assert len(find(folder).names) == 8


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_a_sheet_that_we_wrote_is_no_picture_of_the_set(folder, ending):
    contact_sheet.save(Image.fromarray(RGB), folder / f"sheet.{ending}")
    source = find(folder)
    found = decode(source, 8, 1, strict=True)  # which it does not stop either
    assert greys(found) == [0, 10, 20, 30, 40]
    assert found.skipped == [(f"sheet.{ending}", image_decoding.CONTACT_SHEET)]
    assert contact_sheet.is_in_source(source, f"sheet.{ending}")
    assert not contact_sheet.is_in_source(source, "0.png")


def test_what_systems_leave_in_folders_is_passed_over(folder):
    for name in (
        "@eaDir/0.png",
        ".ipynb_checkpoints/0-checkpoint.png",
        "a/__MACOSX/._0.png",
        "$RECYCLE.BIN/x.png",
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(stored(RGB, "PNG"))
    assert len(find(folder).names) == 5


def test_a_disk_without_room_for_the_cache_costs_the_cache_alone(folder, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode_cache, "write_atomically", full)
    with pytest.warns(UserWarning, match="held in memory and are not cached .*No space left"):
        found = decode(find(folder), 8, 1)
    assert greys(found) == [0, 10, 20, 30, 40]


def test_classes_that_are_numbers_sort_as_numbers():
    names = ["10", "2", "a10", "a9", "1", "01", "b", "", "9" * 5000]
    expected = ["", "01", "1", "2", "10", "9" * 5000, "a9", "a10", "b"]
    assert sorted(names, key=image_files.natural) == expected
