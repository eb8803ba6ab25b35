"""Fields of a dataclass, checked by their annotations."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from dcganlib import datasets
from dcganlib.config import DataConfig, Range, check_fields


@dataclass
class Example:
    """One field of each kind."""

    many: Annotated[int, Range(1, below=10)] | None = None
    share: Annotated[float, Range(0, above=True)] = 0.5
    way: Literal["left", "right"] = "left"
    text: str = ""
    free: list | None = None

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize("many", [None, 1, 9])
@pytest.mark.parametrize("share", [5e-324, 1, 1.7e308])
@pytest.mark.parametrize("free", [None, [], "of another type, which is not looked at"])
def test_what_the_annotations_say_is_taken(many, share, free):
    Example(many, share, "right", "words", free)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"many": 0}, "many must be from 1 to below 10, got 0"),
        ({"many": 10}, "many must be from 1 to below 10, got 10"),
        ({"many": 2.0}, "many must be a whole number or None, got 2.0"),
        ({"many": True}, "many must be a whole number or None, got True"),
        ({"share": 0}, "share must be above 0 and finite, got 0"),
        ({"share": float("inf")}, "share must be above 0 and finite, got inf"),
        ({"share": float("nan")}, "share must be above 0 and finite, got nan"),
        ({"share": 10**400}, "share must be above 0 and finite, got 1000"),
        ({"share": "1"}, "share must be a number, got '1'"),
        ({"way": "up"}, r"way must be one of \('left', 'right'\), got 'up'"),
        ({"way": ["left"]}, r"way must be one of .*, got \['left'\]"),
        ({"text": None}, "text must be a text, got None"),
    ],
)
def test_what_they_do_not_say_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        Example(**options)


def test_the_help_of_data_names_every_dataset_in_the_library():
    """The help is written by hand: the config imports neither torch nor the entries."""
    (text,) = re.findall(r"^ +data: (.*?)\n +image_size:", DataConfig.__doc__, re.M | re.S)
    named = re.findall(r"[\w-]+", text)
    missing = {entry.name for entry in datasets.registry.BUILT_IN} - set(named)
    assert not missing
