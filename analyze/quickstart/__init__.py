"""The small store that comes with the package, for a first look without a model."""

from lpp.analyze.quickstart.first_answers import first_answers
from lpp.analyze.quickstart.packed import PACKED, unpack

__all__ = ["PACKED", "first_answers", "unpack"]
