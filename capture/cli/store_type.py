"""`--store` of the commands: a directory, or the URL of a bucket's prefix."""

from typing import TYPE_CHECKING, Any

import click

from lpp.store.objects.place import Place, place

if TYPE_CHECKING:
    _Type = click.ParamType[Place]
else:
    _Type = click.ParamType  # generic since click 8.2


class StoreType(_Type):
    """Reads a directory or a URL. InputError, which never repeats a secret, for a bad URL."""

    name = "store"

    def convert(self, value: Any, param: Any, ctx: Any) -> Place:
        """The place that `value` names; asks nothing of it."""
        return place(value)


STORE = StoreType()
