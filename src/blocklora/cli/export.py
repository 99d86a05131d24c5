"""The command ``blocklora export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blocklora.cli.known import check_choice, check_run
from blocklora.cli.options import Debug, Json, Moved, Run
from blocklora.cli.output import OUT, print_json
from blocklora.core.files import user_path

__all__ = ["export"]


def export(
    run: Run,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="lora: an adapter for PEFT; hf: a checkpoint for transformers; onnx: models for any ONNX runtime; "
            "numpy: arrays, and a forward pass in numpy.",
            metavar="lora|hf|onnx|numpy",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="FOLDER", parser=user_path)],
    precision: Annotated[
        str, typer.Option(help="Of the weights; fp16 and int8 are for onnx.", metavar="fp32|fp16|int8")
    ] = "fp32",
    model: Moved = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a finished run as a folder that works without blocklora, and check that it answers alike."""
    check_run(run)
    check_choice("export_format", format_)
    check_choice("export_precision", precision)
    from blocklora.export.run import export_run

    exported = export_run(run, out, format_, precision=precision, model=model)  # type: ignore[arg-type]  # checked
    facts = exported.facts
    if as_json:
        print_json({"folder": str(out), **facts.to_json(), "notes": exported.notes})
        return
    check = facts.check
    OUT.print(
        f"Compared with the run on {check['images']} {check['source']} images: {check['top_1']:.1%} keep their class; "
        f"no probability changes by more than {check['largest_difference']:.2g}.",
        markup=False,
        soft_wrap=True,
    )
    for note in exported.notes:
        OUT.print(f"note: {note}", markup=False, soft_wrap=True)
    OUT.print(f"written to {out}; try: python {out / 'predict.py'} IMAGE...", markup=False, soft_wrap=True)
