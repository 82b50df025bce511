"""What a task says to this package about its items, beside what it says to lm-eval.

A task says it in its metadata, which lm-eval hands on and does not read:

    metadata:
      version: 1
      lpp: {cluster: scene, correct: joint_acc}
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from lpp.store.errors import InputError

KEY: Final = "lpp"
"""Key in a task's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTask:
    """The declaration of one task; by default, of a task that says nothing."""

    source: str | None = None
    """Start of the name of the scores' source: tasks of one name share a source. The version of the
    task then stands for its documents."""
    cluster: str | None = None
    """Field of a document: items with the same value are not independent, such as those of one
    scene. An item without the field is independent of all others."""
    correct: str | None = None
    """Metric that is 1 where an item was answered correctly, for a task without `acc`."""
    group: str | None = None
    """Field of a document that names the item's group, where the user names none."""
    whole: bool = False
    """Refuse prompts that are longer than the context, instead of cutting their beginning off."""


def declared_by(task: Any) -> DeclaredTask:
    """The declaration of lm-eval's `task`. InputError for unknown keys or invalid values."""
    metadata = getattr(getattr(task, "config", None), "metadata", None)
    declaration = metadata.get(KEY, {}) if isinstance(metadata, Mapping) else {}
    kinds = {field.name: bool if field.name == "whole" else str for field in fields(DeclaredTask)}
    if not isinstance(declaration, Mapping) or not all(
        isinstance(value, kinds.get(name, ())) for name, value in declaration.items()
    ):
        raise InputError(
            f"task {task.config.task}: its metadata has `{KEY}: {declaration}`, which may have "
            f"{', '.join(kinds)}; each is text, and `whole` is true or false. Correct the task."
        )
    return DeclaredTask(**declaration)
