"""Write the chains of dcganlib.zoo for the pages' size calculator: ``python tools/architectures.py``."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from dcganlib import zoo
from dcganlib.models import Layer

SCRIPT = Path(__file__).resolve().parent.parent / "book" / "_static" / "play" / "architectures.js"
HEAD = """\
// The networks of dcganlib.zoo that are chains of plain layers. A layer has what differs from `defaults`.
// `python tools/architectures.py` writes this file.
"""


def is_chain(architecture: zoo.Architecture) -> bool:
    """Whether an architecture has neither residual blocks nor labels."""
    both = architecture.layers(architecture.image_size, architecture.channels, architecture.base_channels)
    return not architecture.num_classes and all(isinstance(one, Layer) for chain in both for one in chain)


def chains() -> dict[str, dict]:
    """Each chain of the zoo as the script has it, by name."""
    defaults = {field.name: field.default for field in fields(Layer)}

    def short(layer: Layer) -> dict:
        return {name: value for name, value in asdict(layer).items() if value != defaults.get(name)}

    found = {}
    for name, one in zoo.ARCHITECTURES.items():
        if is_chain(one):
            g_layers, d_layers = one.layers(one.image_size, one.channels, one.base_channels)
            found[name] = {
                "summary": one.summary,
                "image_size": one.image_size,
                "channels": one.channels,
                "base_channels": one.base_channels,
                "latent_dim": one.latent_dim,
                "generator": [short(layer) for layer in g_layers],
                "discriminator": [short(layer) for layer in d_layers],
            }
    return found


def text() -> str:
    """The script."""
    defaults = {field.name: field.default for field in fields(Layer) if field.name != "channels"}
    lines = [f"  {json.dumps(name)}: {json.dumps(chain)}," for name, chain in chains().items()]
    return "\n".join(
        [
            HEAD + "play.architectures = {};",
            f"play.architectures.defaults = {json.dumps(defaults)};",
            "play.architectures.chains = {",
            *lines,
            "};",
            "",
        ]
    )


if __name__ == "__main__":
    SCRIPT.write_text(text(), encoding="utf-8")
