"""What the tests share: seeded sources, tiny networks and sets, and no way out to the network."""

import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from browser import blank, chromium  # noqa: F401
from flat import TINY, run
from PIL import Image

from dcganlib import datasets, zoo
from dcganlib.datasets import face_files, registry
from dcganlib.runtime.files import write_atomically
from dcganlib.viz import plot

mpl.use("Agg")
STYLE = dict(mpl.rcParams)


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("posix"):
            (reason,) = mark.args
            item.add_marker(pytest.mark.skipif(sys.platform == "win32", reason=f"Windows: {reason}"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny networks are fastest on one thread, here and in the commands that tests start.

    Several test processes then share the cores without getting in each other's way.
    """
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _closed_figures():
    """No test sees the charts of another, nor the style that a chapter's code has set."""
    dict.update(mpl.rcParams, STYLE)
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def train_discs(request, image_folder, tmp_path_factory):
    """Train on the discs into a new folder, with the module's CONFIG: ``train_discs(steps=6)``."""

    def make(**options):
        out = tmp_path_factory.mktemp("runs") / "run"
        return run(str(image_folder), out, device="cpu", config=request.module.CONFIG, **(TINY | options))

    return make


@pytest.fixture(scope="module")
def quick_curves():
    """Write a history's numbers as grey values: drawing them takes longer than a tiny run's training."""

    def write(records, path, *, smooth=1):
        values = np.array([[row["d_loss"], row["g_loss"]] for row in records])
        write_atomically(path, lambda file: Image.fromarray(values.view(np.uint8)).save(file, "PNG"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plot, "save_history", write)
        yield


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
        return zoo.build(name, base_channels=4, latent_dim=latent_dim, rng=rng(seed), **(own | options))

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
def face_set(tmp_path_factory):
    """The first 40 faces of seed 0 in CelebA's layout. Not to be changed."""
    return face_files.write_faces(tmp_path_factory.mktemp("faces") / "faces-seed0", 40, workers=1)


@pytest.fixture
def replace_dataset(monkeypatch):
    """Make ``load`` return another dataset for a known name: ``replace_dataset("mnist-mini", found)``."""

    def replace(name, dataset):
        entry = dataclasses.replace(datasets.find_entry(name), read=lambda entry, options: dataset)
        monkeypatch.setitem(registry._ENTRIES, name, entry)

    return replace


@pytest.fixture(scope="session")
def mnist_mini() -> datasets.ImageDataset:
    """The bundled digits, read once."""
    return datasets.load("mnist-mini")


class Host:
    """A host on this machine that gives the listed answers, one for each request.

    Attributes:
        address: Its address.
        answers: Each a dict with "body", "status", "type", "location", "range", "length" (what is told of
            the body; None for nothing) and "hang" (seconds after the body), or a function that makes one of
            the request's headers.
        asked: Paths that were asked for.
        headers: The headers of each request.
    """

    def __init__(self) -> None:
        self.answers, self.asked, self.headers = [], [], []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                host.asked.append(self.path)
                host.headers.append(self.headers)
                answer = host.answers.pop(0)
                answer = answer(self.headers) if callable(answer) else answer
                body = answer.get("body", b"")
                self.send_response(answer.get("status", 200))
                self.send_header("Content-Type", answer.get("type", "application/zip"))
                if "location" in answer:
                    self.send_header("Location", answer["location"])
                if "range" in answer:
                    self.send_header("Content-Range", answer["range"])
                length = answer.get("length", len(body))
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)
                time.sleep(answer.get("hang", 0))

            def handle(self):
                try:
                    super().handle()
                except ConnectionError:
                    host.asked.append("the other side hung up")

            def log_message(self, *words):
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def host(monkeypatch):
    """A host that behaves as told."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Host()
    yield made
    if made.thread.is_alive():
        made.close()
