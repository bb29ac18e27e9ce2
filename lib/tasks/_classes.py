"""The class table of a task's networks: from the data while training, from the checkpoint ever after."""

from functools import cached_property
from pathlib import Path
from typing import Any

from datasets.seg.classes import ClassTable, find_table, parse_table, require_same_classes
from lib.base.errors import UserError


class HasClasses:
    """The part of a ``lib.engine.task.Task`` that deals with a table of classes."""

    config: Any

    @cached_property
    def table(self) -> ClassTable:
        """The dataset's classes, or those of the checkpoint that was adopted."""
        return find_table(self.config.data.dataset, self.config.data.root)

    @property
    def texts(self) -> dict[str, str]:
        """The class table, as CSV."""
        return {"classes": self.table.text}

    def compare(self, texts: dict[str, str], path: Path) -> str | None:
        """A line where the checkpoint's table has the classes of the data's own, but not all else of it."""
        if "classes" not in texts:
            return None
        carried = self._carried(texts, path)
        try:
            ours = self.table
        except UserError as error:
            return f"the class table in {path} is used: {error}"
        require_same_classes(carried, ours, path)
        if carried.text.split() == ours.text.split():
            return None
        return f"the class table in {path} is used; that of {ours.dataset} has the same classes, but differs otherwise"

    def adopt(self, texts: dict[str, str], path: Path) -> None:
        """Let ``table`` be the one in the checkpoint, if it has any."""
        if "classes" in texts:
            self.table = self._carried(texts, path)

    def _carried(self, texts: dict[str, str], path: Path) -> ClassTable:
        return parse_table(texts["classes"], self.config.data.dataset, f"the class table in {path}")
