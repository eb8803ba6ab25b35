"""The real models, losses and training loop behind the DCGAN book.

Import the module you need: ``from dcganlib import datasets, models, train``. Nothing is imported here,
so ``import dcganlib`` costs nothing and changes no setting of your process.
"""

__version__ = "0.2.0"
