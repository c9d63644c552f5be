"""`rotanext labels check`: everything that can be told of a labelled data set before training on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rotanext.config import Config, load_config
from rotanext.data.dota import CLASS_LISTS, read_class_list
from rotanext.errors import Problems, UserError, counted
from rotanext.labels import dota_text
from rotanext.labels.convert import find_format
from rotanext.labels.coverage import Coverage, advise, cover, needs_cutting
from rotanext.labels.dataset import LabelSet, is_validation
from rotanext.labels.findings import KINDS, Finding, find_all, find_rare
from rotanext.labels.leaks import find_leaks
from rotanext.system.progress import Track, untracked

_LISTED = 200  # findings of one kind in the JSON


@dataclass(frozen=True, eq=False)
class Check:
    """What was found: `findings`, the coverage by the priors, advice, and the data themselves."""

    source: str
    val_source: str | None
    data: LabelSet
    val: LabelSet | None
    findings: list[Finding]
    coverage: Coverage
    advice: list[str]
    recipe: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, in the order of KINDS."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        return sum(finding.serious for finding in self.findings)

    def classes(self) -> list[dict[str, Any]]:
        """A row for each class: objects, images, long and short side, aspect ratio (medians, pixels), share that no prior fits."""
        box = self.coverage.boxes.numpy()
        names, missed = np.array(self.coverage.names), self.coverage.missed.numpy()
        scale = self.coverage.scales.numpy()
        objects, images = Counter[str](), Counter[str]()
        for image in self.data.images:
            objects.update(image.objects.names)
            images.update(set(image.objects.names))
        rows = []
        for name in self.data.class_names:
            mine = names == name
            row: dict[str, Any] = {"class": name, "objects": objects[name], "images": images[name]}
            if mine.any():
                long, short = box[mine, 2] / scale[mine], box[mine, 3] / scale[mine]
                row |= {"long": float(np.median(long)), "short": float(np.median(short))}
                row |= {"aspect": float(np.median(long / np.maximum(short, 1e-6))), "unmatched": float(missed[mine].mean())}
            rows.append(row)
        return rows

    def text(self) -> str:
        """Lines for the terminal: counts, the first finding of each kind, advice."""
        data_counts = (len(self.data.images), "image"), (self.data.count, "object"), (len(self.data.class_names), "class")
        lines = [f"{', '.join(counted(*one) for one in data_counts)}: {counted(self.problems, 'problem')}"]
        for kind, count in self.counts.items():
            first = next(finding for finding in self.findings if finding.kind == kind)
            where = first.path if first.place is None else f"{first.path}:{first.place}"
            word = "problem" if KINDS[kind][0] else "notice"
            lines.append(f"  {word:7} {count:6} {kind}: {where}: {first.text}")
        return "\n".join([*lines, *(f"  advice: {line}" for line in self.advice)])

    def to_json(self) -> dict[str, Any]:
        """Plain data; of each kind at most 200 findings are listed, all are counted."""
        listed: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self.counts}
        for finding in self.findings:
            if len(listed[finding.kind]) < _LISTED:
                listed[finding.kind].append({"path": finding.path, "line": finding.place, "text": finding.text})
        return {
            "source": self.source,
            "clean": self.problems == 0,
            "images": len(self.data.images),
            "objects": self.data.count,
            "problems": self.problems,
            "counts": {kind: {"count": count, "problem": KINDS[kind][0]} for kind, count in self.counts.items()},
            "classes": self.classes(),
            "priors": {
                "recipe": self.recipe,
                "measure": self.coverage.reach.measure,
                "least": self.coverage.reach.least,
                "objects": len(self.coverage.boxes),
                "unmatched": float(self.coverage.missed.float().mean()) if len(self.coverage.boxes) else None,
            },
            "advice": self.advice,
            "findings": listed,
        }


def check_labels(
    source: Path,
    val: Path | None = None,
    *,
    form: str = "dota",
    config: Config | None = None,
    class_names: Sequence[str] | None = None,
    images: Path | None = None,
    pixels: bool = True,
    track: Track = untracked,
) -> Check:
    """Check a data set, and whether a validation set is apart from it; `config` tells head and image size (recipe "small").

    class_names: the only classes that may occur; any where None. pixels, track: see `find_leaks`. Raises
    `UserError` where there is nothing to check.
    """
    reader = partial(dota_text.read, track=track) if form == "dota" else find_format(form, "--from").read
    config = config or load_config("small")
    findings: list[Finding] = []

    def read(root: Path) -> LabelSet:
        problems = Problems(keep=100_000)
        found = reader(root, images, problems)
        for message in problems.first:
            where, _, text = message.partition(": ")
            if "no label file for this image" not in message:
                findings.append(Finding("invalid label", where, None, text))
        return found

    data = read(source)
    other = read(val) if val is not None else None
    for one in (data, other) if other else (data,):
        findings += find_all(one, class_names)
    apart = other
    if other is None:
        data_train, apart = _own_validation(data)
    else:
        data_train = data
    findings += [*find_rare(data_train, apart), *find_leaks(data_train, apart, pixels, track)]
    coverage = cover(data, config)
    cut = needs_cutting(data, config, coverage)
    coverage = cover(data, config, resized=False) if cut else coverage
    order = {kind: at for at, kind in enumerate(KINDS)}
    findings.sort(key=lambda finding: order[finding.kind])
    advice = advise(data, config, coverage, cut)
    return Check(str(source), str(val) if val else None, data, other, findings, coverage, advice, config.name)


def _own_validation(data: LabelSet) -> tuple[LabelSet, LabelSet | None]:
    """The set apart from its own subsets for validation and test, where it has any besides what is trained on."""
    held_out = {subset for subset in data.subsets if is_validation(subset) or subset.lower() in ("test", "testing")}
    if not held_out or len(data.subsets) == len(held_out):
        return data, None
    parts = [[p for p in data.images if (p.subset in held_out) == wanted] for wanted in (False, True)]
    return LabelSet(parts[0], data.class_names), LabelSet(parts[1], data.class_names)


def choose(recipe: str | None, weights: Path | None, classes: str | None) -> tuple[Config, Sequence[str] | None]:
    """Configuration and class names by the options of the command line; raises `UserError` for both a recipe and weights."""
    if recipe and weights:
        raise UserError("give either --recipe or --weights")
    names: Sequence[str] | None = None
    if weights is not None:
        from rotanext.load import read_detector

        detector, _ = read_detector(weights, device="cpu", classes=classes)
        return detector.config, detector.class_names
    config = load_config(recipe or "small")
    if classes is not None:
        names = read_class_list(classes, Problems(strict=True))
    elif recipe and config.data.classes in CLASS_LISTS:
        names = CLASS_LISTS[config.data.classes]
    return config, names
