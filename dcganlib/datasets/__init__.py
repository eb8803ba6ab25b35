"""Datasets by name, folders of images, and the loader that training reads.

A module is imported when one of its names is first used, so that the processes that decode images, and
``dcganlib --help``, import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcganlib.datasets.image_dataset import *  # noqa: F403
    from dcganlib.datasets.loader import *  # noqa: F403
    from dcganlib.datasets.registry import *  # noqa: F403

_PUBLIC = {
    "registry": (
        *("DatasetEntry", "LoadOptions", "data_root", "downloaded", "entries", "find_entry"),
        *("image_shape", "is_named", "load", "names", "register", "title", "unregister"),
    ),
    "image_dataset": ("ImageDataset", "check_tensor", "count_reasons", "sample"),
    "loader": ("Loader", "make_loader", "to_float", "to_uint8"),
}
"""The public names, by the module that they are imported from."""


def __getattr__(name: str) -> Any:
    for module, public in _PUBLIC.items():
        if name in public:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
