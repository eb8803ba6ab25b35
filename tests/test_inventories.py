"""The stored inventories of other projects' documentation."""

import inventories
import pytest
import yaml
from sphinx.util.inventory import InventoryFile

CONFIG = yaml.safe_load((inventories.ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]


@pytest.mark.parametrize("project", inventories.INVENTORIES)
def test_the_stored_inventory_is_the_one_of_the_table_as_sphinx_reads_it(project):
    path = inventories.FOLDER / f"{project}.inv"
    with path.open("rb") as file:
        read = InventoryFile.load(file, "https://example.org", lambda *parts: "/".join(parts))
    found = {name: entry[2] for name, entry in read["py:class"].items()}
    table = inventories.INVENTORIES[project]
    assert found == {name: f"https://example.org/{address}" for name, address in table.items()}


def test_the_build_reads_each_inventory_from_its_file_and_asks_no_server():
    mapping = CONFIG["intersphinx_mapping"]
    assert set(mapping) == set(inventories.INVENTORIES)
    for project, (address, file) in mapping.items():
        assert address.startswith("https://")
        assert address.endswith("/")
        assert (inventories.ROOT / file) == inventories.FOLDER / f"{project}.inv"


def test_an_address_that_a_project_no_longer_has_is_named(monkeypatch):
    kept = {name: dict(table) for name, table in inventories.INVENTORIES.items()}
    removed = kept["torch"].pop("torch.device")
    served = {
        CONFIG["intersphinx_mapping"][name][0] + "objects.inv": inventories.dump(name, kept[name])
        for name in kept
    }

    class Answer:
        def __init__(self, data):
            self.read = lambda: data

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(inventories, "urlopen", lambda request, timeout: Answer(served[request.full_url]))
    assert inventories.check() == [f"torch: {removed}"]
