"""What ``blocklora predict --out`` shows while it fills a table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from blocklora.cli.output import ERR, print_json, write
from blocklora.core.words import count

if TYPE_CHECKING:
    from blocklora.cli.progress import RunProgress
    from blocklora.run.table.blocks import BlockOrder
    from blocklora.run.table.fill import TableSummary
    from blocklora.run.table.work import TableOrder

__all__ = ["predict_blocks", "predict_table"]


def predict_table(order: TableOrder, *, device: str, model: str | None, as_json: bool) -> None:
    """Fill a table, and say what it holds."""
    from blocklora.cli.progress import RunProgress
    from blocklora.run.load import load_run
    from blocklora.run.table.fill import fill_table
    from blocklora.run.table.work import open_work

    try:
        with open_work(order) as work:
            loaded = load_run(order.run, device=device, model=model)
            with RunProgress(ERR) as progress:
                rate = _Rate(progress)
                found = fill_table(work, loaded, on_batch=rate.tell)
    except KeyboardInterrupt:
        ERR.print(f"stopped; the same command goes on from what {order.folder} holds.", soft_wrap=True)
        raise
    if rate.skipped:
        ERR.print(f"went on; {rate.skipped:,} of {found.n_images:,} images were done before.")
    if as_json:
        print_json({"out": str(order.out)} | vars(found))
    else:
        write(_summary(order, found))


def predict_blocks(order: BlockOrder, address: str, *, model: str | None, as_json: bool) -> None:
    """Fill a folder of parts on a Ray cluster."""
    from blocklora.cli.progress import RunProgress
    from blocklora.run.table.on_ray import predict_on_ray

    with RunProgress(ERR) as progress:
        rate = _Rate(progress)
        n_images = predict_on_ray(order, address, model=model, on_block=rate.tell)
    if as_json:
        print_json({"out": str(order.out), "n_images": n_images})
    else:
        write(f"{count(n_images, 'image')}; written to {order.out}\n")


class _Rate:
    """Tells how many images are done, and how many a second since this process began.

    Attributes:
        skipped: How many were done before.
    """

    def __init__(self, progress: RunProgress) -> None:
        self._progress = progress
        self._began = 0.0
        self.skipped = 0

    def tell(self, done: int, total: int) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if not self._began:
            self._began, self.skipped = now, done
        new = done - self.skipped
        self._progress.predicted(done, total, new / (now - self._began) if new else None)


def _summary(order: TableOrder, found: TableSummary) -> str:
    """Say what a table holds, and where it is."""
    parts = []
    if found.n_unreadable:
        parts.append(f"{found.n_unreadable:,} cannot be read (see the column reason)")
    if found.n_abstained:
        parts.append(f"{found.n_abstained:,} got no label, as none reaches {order.abstain_below:g}")
    more = "; ".join(["", *parts])
    return f"{count(found.n_images, 'image')}{more}; written to {order.out}\n"
