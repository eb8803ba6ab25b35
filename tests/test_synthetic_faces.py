"""Drawn faces: the same everywhere, true to what is said about them, and varied."""

import hashlib
import io
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from dcganlib.datasets import synthetic_faces
from dcganlib.datasets.synthetic_faces import (
    ATTRIBUTES,
    HAIR,
    HEIGHT,
    LANDMARKS,
    PEOPLE,
    SKIN,
    WIDTH,
    describe,
    draw,
    to_svg,
)

PLAIN = {
    "hair": "undercut",
    "rearHair": None,
    "beard": None,
    "eyes": "wide",
    "eyebrows": "neutral",
    "mouth": "smile",
    "clothes": "shirt",
}
EYES, MOUTH = (slice(95, 125), slice(45, 135)), (slice(132, 165), slice(62, 116))  # rows and columns


@pytest.fixture(scope="module")
def many():
    """The first 2,000 of seed 0, described."""
    return [describe(index) for index in range(2000)]


@pytest.fixture(scope="module")
def model():
    """A face that looks straight at us, with chosen parts: ``model(beard="chin")``."""
    face = describe(0)
    face = replace(face, turn=0.0, mirrored=False, centre=(89.0, 112.0), scale=0.34, skin_name="fair")
    colours = face.colours | {"skin": SKIN["fair"], "hair": HAIR["Brown_Hair"]}
    return lambda **parts: replace(face, parts=PLAIN | parts, colours=colours, hair_name="Brown_Hair")


@pytest.fixture(scope="module")
def pixels(model):
    """The same, drawn: an array of (218, 178, 3)."""
    drawn = {}

    def make(**parts):
        key = tuple(parts.items())
        if key not in drawn:
            drawn[key] = np.asarray(draw(model(**parts))).astype(int)
        return drawn[key]

    return make


def true_of(face):
    return {name for name, holds in zip(ATTRIBUTES, face.attributes, strict=True) if holds}


def changed(first, second):
    return np.abs(first - second).max(2) > 12


# The same everywhere


@pytest.mark.pinned  # another version of the style may draw otherwise
@pytest.mark.parametrize(
    ("index", "digest"),
    [
        (0, "5e64085cae0484ee25b57c9811c89d9123904ea30bde03d5c8c9b8e3f6c801eb"),
        (1, "7e47a2f97fb54b88b40c5499a6bad98fafa9ea883c1f097d1f6e43a41c96cfb7"),
        (2, "dd396fa1eef48bc659f53a88454260f61bf802b43a1cc586bf31f829e205d50a"),
        (3, "16f7093785fed65350bc7fb664f731497cd250b901e72982db9139a5a274fcce"),
    ],
)
def test_the_drawing_of_a_seed_is_the_same_text_on_every_machine(index, digest):
    assert hashlib.sha256("".join(to_svg(describe(index))).encode()).hexdigest() == digest


def test_a_drawing_is_the_same_each_time_and_its_mean_colours_are_known():
    first = np.asarray(draw(describe(0)))
    assert first.shape == (HEIGHT, WIDTH, 3) == (218, 178, 3)
    np.testing.assert_array_equal(np.asarray(draw(describe(0))), first)
    np.testing.assert_allclose(first.mean((0, 1)), (168.8, 156.4, 114.4), rtol=0, atol=2)


def test_another_seed_or_index_is_another_picture():
    found = {to_svg(describe(index, seed)) for index in range(3) for seed in range(3)}
    assert len(found) == 9


@pytest.mark.parametrize(("index", "seed", "words"), [(-1, 0, "index .* -1"), (0, -2, "seed .* -2")])
def test_a_number_below_zero_is_refused(index, seed, words):
    with pytest.raises(ValueError, match=words):
        describe(index, seed)


@pytest.mark.parametrize("missing", ["dicebear", "dicebear_styles", "resvg_py"])
def test_where_the_extra_is_missing_the_message_says_what_to_install(monkeypatch, missing):
    monkeypatch.setattr(synthetic_faces, "find_spec", lambda name: None if name == missing else "there")
    with pytest.raises(ModuleNotFoundError, match=rf"needs {missing}, .*pip install .*dicebear.*resvg_py"):
        synthetic_faces.check_installed()
    monkeypatch.undo()
    synthetic_faces.check_installed()


# People


def test_a_person_keeps_skin_hair_and_beard_from_picture_to_picture(many):
    people = defaultdict(list)
    for face in many:
        people[face.identity].append(face)
    again = [shown for shown in people.values() if len(shown) > 1]
    assert len(again) > 100  # 178 expected of 2,000 draws from 10,177
    for shown in again:
        kept = {
            (
                *(face.parts["hair"], face.parts["rearHair"], face.parts["beard"]),
                *(face.colours["skin"], face.colours["hair"], face.skin_name, face.hair_name),
            )
            for face in shown
        }
        assert len(kept) == 1
        assert len({face.centre for face in shown}) == len(shown)


def test_everybody_is_one_of_the_people_and_all_parts_of_the_range_occur(many):
    found = np.array([face.identity for face in many])
    assert found.min() >= 1
    assert found.max() <= PEOPLE == 10_177
    counts = np.histogram(found, bins=10, range=(1, PEOPLE + 1))[0]
    assert counts.min() > 140  # 200 expected, standard deviation 13
    assert counts.max() < 260


def test_every_attribute_is_true_of_some_and_not_of_most_but_no_beard(many):
    shares = dict(zip(ATTRIBUTES, np.mean([face.attributes for face in many], axis=0), strict=True))
    assert 0.7 < shares.pop("No_Beard") < 0.95
    assert all(0.02 < share < 0.65 for share in shares.values()), shares


def test_beards_do_not_come_with_long_hair_and_a_bald_head_has_no_hair_colour(many):
    for face in many:
        found = true_of(face)
        assert face.parts["beard"] is None or face.parts["rearHair"] is None
        assert len(found & set(HAIR)) == ("Bald" not in found)
        assert not {"Full_Beard", "Goatee"} & found or "No_Beard" not in found


def test_backgrounds_places_and_lights_vary(many):
    few = many[:500]
    for varied in ("backdrop", "light", "centre", "turn", "scale"):
        assert len({getattr(face, varied) for face in few}) > 490
    turns = np.array([face.turn for face in many])
    assert abs(turns.mean()) < 0.5
    assert 3.5 < turns.std() < 4.5
    assert 0.45 < np.mean([face.mirrored for face in many]) < 0.55
    ellipses = Counter(face.backdrop.count("<ellipse") for face in many)
    assert set(ellipses) == {0, 1, 2, 3}


def test_backgrounds_vary_in_the_pixels(face_set):
    from PIL import Image

    corners = [np.asarray(Image.open(path))[2, 2] for path in sorted(face_set.glob("*/*.png"))]
    assert np.std(corners, axis=0).min() > 25


def test_colours_are_colours_and_near_their_names(many):
    for face in many[:300]:
        for colour in face.colours.values():
            assert len(colour) == 3
            assert all(0 <= part <= 255 for part in colour)
        distances = {name: np.abs(np.subtract(face.colours["skin"], SKIN[name])).sum() for name in SKIN}
        assert distances[face.skin_name] < 120
    assert synthetic_faces._hex((0, 15, 255)) == "#000fff"


# True to what is said


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, {"Brown_Hair", "No_Beard", "Pale_Skin", "Smiling"}),
        ({"hair": None}, {"Bald", "No_Beard", "Pale_Skin", "Smiling"}),
        ({"beard": "chin"}, {"Brown_Hair", "Goatee", "Pale_Skin", "Smiling"}),
        ({"beard": "chinMoustache"}, {"Brown_Hair", "Goatee", "Mustache", "Pale_Skin", "Smiling"}),
        ({"beard": "fullBeard"}, {"Brown_Hair", "Full_Beard", "Mustache", "Pale_Skin", "Smiling"}),
        ({"beard": "longBeard"}, {"Brown_Hair", "Full_Beard", "Mustache", "Pale_Skin", "Smiling"}),
        ({"beard": "moustacheTwirl"}, {"Brown_Hair", "Mustache", "No_Beard", "Pale_Skin", "Smiling"}),
        ({"eyes": "bow", "mouth": "sad"}, {"Brown_Hair", "Eyes_Closed", "No_Beard", "Pale_Skin"}),
        ({"eyes": "humble", "mouth": "sad"}, {"Brown_Hair", "Eyes_Closed", "No_Beard", "Pale_Skin"}),
        ({"eyes": "wink", "mouth": "sad"}, {"Brown_Hair", "No_Beard", "Pale_Skin", "Winking"}),
        ({"mouth": "laugh"}, {"Brown_Hair", "Mouth_Slightly_Open", "No_Beard", "Pale_Skin", "Smiling"}),
        ({"mouth": "agape"}, {"Brown_Hair", "Mouth_Slightly_Open", "No_Beard", "Pale_Skin"}),
        (
            {"rearHair": "longWavy", "eyebrows": "happy", "mouth": "sad"},
            {"Arched_Eyebrows", "Brown_Hair", "Long_Hair", "No_Beard", "Pale_Skin", "Wavy_Hair"},
        ),
        (
            {"rearHair": "longStraight", "mouth": "sad"},
            {"Brown_Hair", "Long_Hair", "No_Beard", "Pale_Skin", "Straight_Hair"},
        ),
        ({"rearHair": "neckHigh", "mouth": "sad"}, {"Brown_Hair", "No_Beard", "Pale_Skin"}),
    ],
)
def test_attributes_follow_from_the_parts(model, parts, expected):
    assert true_of(model(**parts)) == expected


def test_the_skin_and_the_hair_have_the_colours_that_are_said(model):
    face = model()
    colours = face.colours | {"skin": SKIN["dark"], "hair": HAIR["Gray_Hair"]}
    other = replace(face, colours=colours, hair_name="Gray_Hair", skin_name="dark")
    assert true_of(other) == {"Gray_Hair", "No_Beard", "Smiling"}
    for shown, skin, hair in ((face, "fair", "Brown_Hair"), (other, "dark", "Gray_Hair")):
        unlit = np.asarray(draw(replace(shown, light=""))).astype(int)
        np.testing.assert_allclose(unlit[85, 89], SKIN[skin], atol=3)  # the forehead
        np.testing.assert_allclose(unlit[45, 89], HAIR[hair], atol=3)


@pytest.mark.parametrize(
    ("beard", "rows"),
    [
        ("chin", (150, 185)),
        ("moustacheTwirl", (128, 150)),
        ("fullBeard", (95, 185)),
        ("longBeard", (95, 215)),
    ],
)
def test_a_beard_changes_the_lower_face_alone(pixels, beard, rows):
    where = np.argwhere(changed(pixels(), pixels(beard=beard)))
    assert len(where) > 50
    assert where[:, 0].min() >= rows[0]
    assert where[:, 0].max() <= rows[1]
    assert where[:, 1].min() > 30
    assert where[:, 1].max() < 148


@pytest.mark.parametrize(
    ("part", "region", "variants"),
    [("eyes", EYES, ("bow", "humble", "wink")), ("mouth", MOUTH, ("laugh", "agape", "sad", "angry"))],
)
def test_eyes_and_mouth_change_where_eyes_and_mouth_are(pixels, part, region, variants):
    for variant in variants:
        difference = changed(pixels(), pixels(**{part: variant}))
        assert difference[region].sum() > 40
        assert difference[region].sum() == difference.sum()


def test_closed_eyes_show_no_white_and_an_open_mouth_is_dark(pixels):
    def white(picture):
        return (picture[EYES].min(2) > 200).sum()

    def dark(picture):
        return (picture[MOUTH].sum(2) < 240).sum()

    assert white(pixels()) > 60
    assert max(white(pixels(eyes="bow")), white(pixels(eyes="humble"))) < 0.1 * white(pixels())
    assert dark(pixels()) < 10 < 25 < min(dark(pixels(mouth=mouth)) for mouth in ("laugh", "agape", "angry"))


def test_long_hair_hangs_below_the_chin_and_a_bald_head_shows_its_skin(pixels, model):
    long = changed(pixels(), pixels(rearHair="longStraight"))
    assert long[180:].sum() > 300
    assert changed(pixels(), pixels(rearHair="neckHigh"))[185:].sum() == 0
    bald = np.asarray(draw(replace(model(hair=None), light="")))
    np.testing.assert_allclose(bald[70, 89], SKIN["fair"], atol=3)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("turn", "scale", "centre"), [(0, 0.34, (89, 112)), (14, 0.3, (80, 120)), (-9, 0.38, (97, 105))]
)
def test_the_landmarks_of_the_eyes_lie_on_the_pupils(model, mirrored, turn, scale, centre):
    face = replace(model(), turn=turn, scale=scale, centre=centre, mirrored=mirrored, light="", backdrop="")
    points = dict(zip(LANDMARKS, face.landmarks, strict=True))
    dark = np.asarray(draw(face)).astype(int).sum(2) < 200
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for name in ("lefteye", "righteye"):
        x, y = points[name]
        near = dark & ((rows - y) ** 2 + (columns - x) ** 2 < 13**2)
        assert near[y, x]
        assert near.sum() > 80
        assert abs(columns[near].mean() - x) < 3.5
        assert abs(rows[near].mean() - y) < 3.5
    assert points["lefteye"][0] < points["righteye"][0]
    assert points["leftmouth"][0] < points["rightmouth"][0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_landmarks_of_mouth_and_nose_turn_with_the_face(model, mirrored):
    for turn in (0, 12):
        face = replace(model(mouth="laugh"), turn=turn, mirrored=mirrored)
        points = dict(zip(LANDMARKS, np.array(face.landmarks), strict=True))
        other = replace(face, parts=face.parts | {"mouth": "sad"})
        difference = changed(*(np.asarray(draw(shown)).astype(int) for shown in (face, other)))
        middle = np.argwhere(difference).mean(0)[::-1]
        assert np.abs(middle - (points["leftmouth"] + points["rightmouth"]) / 2).max() < 7
        eyes = (points["lefteye"] + points["righteye"]) / 2
        down, further = points["nose"] - eyes, middle - points["nose"]
        assert abs(down[0] * further[1] - down[1] * further[0]) < 150  # nearly one line
        assert eyes[1] < points["nose"][1] < middle[1]


def test_all_landmarks_lie_in_the_picture(many):
    points = np.array([face.landmarks for face in many])
    assert points.shape == (2000, 5, 2)
    assert points.min() >= 20
    assert points[..., 0].max() < WIDTH - 20
    assert points[..., 1].max() < HEIGHT - 20


def test_each_layer_is_an_image_of_its_own_in_the_size_of_the_picture(model):
    layers = to_svg(model(beard="longBeard"))
    assert len(layers) == 3
    for layer in layers:
        assert layer.startswith(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">')
        assert layer.endswith("</svg>")
        assert "clip-path=" not in layer
    assert re.search(r'<rect [^>]*fill="#', layers[1])


def test_a_picture_can_be_kept_as_a_file(model):
    buffer = io.BytesIO()
    draw(model()).save(buffer, "PNG")
    assert 5_000 < buffer.tell() < 80_000
