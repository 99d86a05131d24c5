"""Answer the images of a table batch by batch; a process that is killed at any moment goes on where it was.

For each batch, in this order: features and rows reach the disk, then its files are moved or copied. So after a kill
only files of the last batch may be at either place, and moving them is done again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blocklora.core.words import printable
from blocklora.data import Source, Unreadable
from blocklora.run.load import LoadedRun
from blocklora.run.predict import Portion, predict_portions
from blocklora.run.table.class_folders import ClassFolders, folder_names
from blocklora.run.table.columns import UNKNOWN, Columns, Row
from blocklora.run.table.features import FeatureRows
from blocklora.run.table.formats import write_rows
from blocklora.run.table.journal import Journal
from blocklora.run.table.listing import read_listing
from blocklora.run.table.work import TableWork

__all__ = ["TableSummary", "fill_table"]


@dataclass(frozen=True)
class TableSummary:
    """What a table holds.

    Attributes:
        n_images: Rows.
        n_unreadable: Of these, images that cannot be read.
        n_abstained: Of these, images without a label, as none is probable enough.
        labels: How many images have each label, the most frequent first.
    """

    n_images: int
    n_unreadable: int
    n_abstained: int
    labels: Mapping[str, int]


def fill_table(
    work: TableWork, run: LoadedRun, *, on_batch: Callable[[int, int], None] | None = None
) -> TableSummary:
    """Answer the images that are left, and write the table.

    Args:
        work: What ``open_work`` gave.
        run: What ``load_run`` gave.
        on_batch: Called with the number of images that are done, and of all.
    """
    return _Filling(work, run).to_the_end(on_batch)


class _Filling:
    """A table on its way."""

    def __init__(self, work: TableWork, run: LoadedRun) -> None:
        self._work, self._run, order = work, run, work.order
        self._columns = Columns(
            order.asked, len(run.labels), abstain_below=order.abstain_below, moved=order.moved
        )
        self._journal = Journal(work.journal, order.moved)
        target = order.move_to or order.copy_to
        self._folders = ClassFolders(target, "move" if order.move_to else "copy") if target else None
        labels = {UNKNOWN: None} | {printable(str(label)): None for label in run.labels}
        self._names = folder_names(list(labels))
        width = run.classifier.zero_shot_features.shape[1]
        self._features = (
            FeatureRows(order.features, work.n_images, width, self._journal.n_rows)
            if order.features
            else None
        )

    def to_the_end(self, on_batch: Callable[[int, int], None] | None) -> TableSummary:
        """Answer what is left, and write the table."""
        self._move_last_batch_again()
        sources: deque[Path | Unreadable] = deque()
        if on_batch:
            on_batch(self._journal.n_rows, self._work.n_images)
        for portion in predict_portions(self._run, self._left(sources), self._work.order.asked):
            self._keep(portion, [sources.popleft() for _ in portion.answers])
            if on_batch:
                on_batch(self._journal.n_rows, self._work.n_images)
        return self._finish()

    def _left(self, sources: deque[Path | Unreadable]) -> Iterator[tuple[str, Source | Unreadable]]:
        """Yield the images that have no row yet, and add them to ``sources``."""
        for found in read_listing(self._work.listing, self._journal.n_rows):
            sources.append(found)
            yield (printable(str(found)) if isinstance(found, Path) else found.image), found

    def _keep(self, portion: Portion, sources: list[Path | Unreadable]) -> None:
        """Keep what was found of a batch."""
        rows = [self._columns.row(answer) for answer in portion.answers]
        if self._features:
            encoded = portion.encoded
            features = encoded.features if encoded.features.ndim == 2 else encoded.features[:, 0]
            self._features.append(encoded.n_images, encoded.kept, features.numpy())
        for row, source in zip(rows, sources, strict=True):
            if (
                self._folders
                and self._columns.moved
                and row["label"] is not None
                and isinstance(source, Path)
            ):
                target = self._folders.plan(source, self._names[str(row["label"])])
                row[self._columns.moved] = str(target)
        self._journal.append(rows)
        self._move(rows, sources)

    def _move_last_batch_again(self) -> None:
        """Move the files of the last batch that were not moved before the process ended."""
        rows, end = self._journal.last, self._journal.n_rows
        if self._folders and rows:
            self._move(rows, read_listing(self._work.listing, end - len(rows), end), again=True)

    def _move(
        self,
        rows: list[Row],
        sources: Iterator[Path | Unreadable] | list[Path | Unreadable],
        again: bool = False,
    ) -> None:
        """Move the files of a batch to where its rows say; where that is taken by now, to another name."""
        if not self._folders or not self._columns.moved:
            return
        for place, (row, source) in enumerate(zip(list(rows), sources, strict=True)):
            target = row[self._columns.moved]
            while target is not None and isinstance(source, Path):
                try:
                    if self._folders.put(source, Path(str(target)), again=again):
                        break
                    target = str(self._folders.plan(source, self._names[str(row["label"])]))
                except FileNotFoundError:  # somebody else has taken it away
                    target = None
                self._journal.amend(place, target)
        self._folders.planned_are_done()

    def _finish(self) -> TableSummary:
        """Write the table from the journal, and remove the work folder."""
        unreadable = abstained = 0
        labels: Counter[str] = Counter()

        def rows() -> Iterator[Row]:
            nonlocal unreadable, abstained
            for row in self._journal.rows():
                unreadable += row["probability"] is None
                abstained += row["probability"] is not None and row["label"] is None
                if row["label"] is not None:
                    labels[str(row["label"])] += 1
                if self._columns.moved and row[self._columns.moved] is not None:
                    row[self._columns.moved] = printable(str(row[self._columns.moved]))
                yield row

        if self._features:
            self._features.finish()
        write_rows(self._work.order.out, self._columns.kinds, rows())
        self._work.end()
        return TableSummary(self._work.n_images, unreadable, abstained, dict(labels.most_common()))
