"""What is known of a layout, the names that one toolbox gives to the weights of one family of networks; `layouts.py` lists all."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from rotanext.checkpoints.unpickle import Placeholder
from rotanext.errors import UserError, explain
from rotanext.heads.anchors import Convention

_log = logging.getLogger("rotanext")
StateDict = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]


class Checkpoint(NamedTuple):
    """A file that was read: its weights under the toolbox's own names, and all that lies beside them."""

    path: Path
    weights: StateDict
    content: Mapping[str, Any] = {}

    @property
    def meta(self) -> dict[Any, Any]:
        """What the toolbox says of the training; empty where it says nothing."""
        return mapping_of(self.content.get("meta"))


class Translated(NamedTuple):
    """Weights under our names, and what is to be said of how they became ours."""

    weights: StateDict
    notes: list[str]


class Told(NamedTuple):
    """What a detector's file says of it: the values of a configuration, class names (None: it does not tell), what to say."""

    values: dict[str, Any]
    class_names: tuple[str, ...] | None
    notes: list[str]


def warn_of_anchors(path: Path, asked: Convention, told: Convention, why: str) -> None:
    """Say that anchors were asked for which contradict what a file tells, and why it tells that."""
    _log.warning(
        "%s: anchors %s are asked for, but the file says %s (%s). Unless it is wrong, boxes will be: leave out --anchors.",
        path.name, asked, told, why,
    )  # fmt: skip


def unchanged(checkpoint: Checkpoint) -> Translated:
    """The weights as they are."""
    return Translated(checkpoint.weights, [])


@dataclass(frozen=True)
class Layout:
    """The names and habits of one toolbox for one family.

    A file is of the first layout that has a signature of which all keys are there. `translate` changes what is more than a name,
    while the names are still the toolbox's (it raises UserError for what cannot be carried over); `rules` are regular expressions
    that then rename, in order. `tell` makes the configuration of a whole detector of its file and of the weights under our names,
    with the anchors that are asked for.
    """

    name: str
    holds: Literal["detector", "start", "backbone"]  # start: a whole network, but none that finds rotated boxes
    signatures: tuple[tuple[str, ...], ...]
    rules: Rules = ()
    translate: Callable[[Checkpoint], Translated] = unchanged
    tell: Callable[[Checkpoint, StateDict, Convention | None], Told] | None = field(default=None)

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Whether these keys are in this layout."""
        return any(all(key in keys for key in signature) for signature in self.signatures)

    def apply(self, checkpoint: Checkpoint) -> Translated:
        """The weights under our names; UserError for what cannot be carried over."""
        changed = self.translate(checkpoint)
        return Translated(renamed(changed.weights, self.rules, checkpoint.path), changed.notes)


def renamed(state_dict: Mapping[str, Tensor], rules: Rules, path: Path) -> StateDict:
    """Under our names; 1x1 convolutions become linear layers, and normalisation parameters flat vectors."""
    mapped = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        if ".pwconv" in key and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        elif ".grn." in key:
            value = value.flatten()
        if key in mapped:
            raise UserError(
                explain(path, f"weights that hold {key} twice, under two of its names", "one of them", "Save them again.")
            )
        mapped[key] = value
    return mapped


def mapping_of(value: Any) -> dict[Any, Any]:
    """A dict, or the entries of an object that was a dict in the toolbox that wrote it; empty for anything else."""
    if isinstance(value, Placeholder):
        value = value.mapping
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Whether it is a number that a configuration may hold: finite, and no larger than float32 knows."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -3e38 < value < 3e38


def without(weights: StateDict, *beginnings: str) -> Translated:
    """The weights without those whose names begin so, which a note names."""
    ignored = [key for key in weights if key.startswith(beginnings)]
    kept = {key: value for key, value in weights.items() if not key.startswith(beginnings)}
    return Translated(kept, [f"ignored: {', '.join(ignored[:4])}{' ...' * (len(ignored) > 4)}"] if ignored else [])
