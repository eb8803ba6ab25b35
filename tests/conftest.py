"""What the tests share: seeded sources, tiny networks and sets, and no way out to the network."""

import socket
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from dcganlib import data, models

mpl.use("Agg")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny networks run faster on one thread, and the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Let this process reach itself alone, as on a machine with no network."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test wanted to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def rng() -> Callable[[int], torch.Generator]:
    """A seeded source of randomness: ``rng(3)``."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def tiny_pair(rng):
    """Make a pair of networks for grey 16-pixel images, a few thousand weights each."""

    def make(name="dcgan", *, seed=0, latent_dim=8, **options):
        own = {"image_size": 16, "channels": 1} if name == "dcgan" else {}
        return models.build(name, base_channels=4, latent_dim=latent_dim, rng=rng(seed), **(own | options))

    return make


@pytest.fixture(scope="session")
def tiny_images() -> torch.Tensor:
    """20 grey 16-pixel images, each a bright disc somewhere on a dark ground."""
    rows, columns = np.mgrid[:16, :16]
    centres = np.random.default_rng(0).uniform(5, 11, (20, 2))
    discs = [255 * ((rows - y) ** 2 + (columns - x) ** 2 < 16) for y, x in centres]
    return torch.tensor(np.array(discs), dtype=torch.uint8)[:, None]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory, tiny_images):
    """The same images as files, as a user's folder."""
    folder = tmp_path_factory.mktemp("discs")
    for index, image in enumerate(tiny_images[:, 0].numpy()):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture(scope="session")
def mnist_mini() -> data.ImageSet:
    """The bundled digits, read once."""
    return data.load("mnist-mini")
