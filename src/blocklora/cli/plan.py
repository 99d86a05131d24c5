"""The command ``blocklora plan``: how a training step fits into memory, before anything is loaded."""

from __future__ import annotations

from os.path import expanduser
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from blocklora.cli.known import CHOICES, check_choice
from blocklora.cli.options import Debug, Json
from blocklora.cli.output import OUT, print_json
from blocklora.core.resources import format_bytes
from blocklora.core.words import count

if TYPE_CHECKING:
    from blocklora.run.step_plan import Peak, StepPlan

__all__ = ["plan"]


def plan(
    model: Annotated[
        str,
        typer.Option(
            help="ViT-B/16, B/32, L/14, L/14@336, a CLIP model's id on the hub, a folder, or tiny.",
            metavar="MODEL",
            parser=expanduser,
        ),
    ] = "ViT-B/16",
    classes: Annotated[int, typer.Option(help="Number of classes.", min=1)] = 100,
    batch_size: Annotated[int, typer.Option(help="Images a step.", min=1)] = 32,
    memory: Annotated[
        str | None, typer.Option(help="The most memory, such as 24GB.", show_default="what is free here")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps; with --memory, this machine need not have it.")
    ] = "auto",
    method: Annotated[
        str, typer.Option(help="Of the adapter.", metavar="block-lora|clip-lora")
    ] = "block-lora",
    r: Annotated[int, typer.Option(help="Total rank of the adapter.")] = 2,
    n_blocks: Annotated[int, typer.Option(help="Blocks that the rank is cut into.")] = 2,
    towers: Annotated[
        str, typer.Option(help="Which of CLIP's towers are adapted.", metavar="|".join(CHOICES["towers"]))
    ] = "both",
    targets: Annotated[str, typer.Option(help="Adapted layers: some of q,k,v,out,fc1,fc2.")] = "q,k,v",
    layers: Annotated[
        str, typer.Option(help="Which of a tower's layers.", metavar="all|top-N|bottom-N")
    ] = "all",
    cached_views: Annotated[
        int | None,
        typer.Option(
            help="With --layers top-N: fixed views of an image whose lower layers run once; 0: as many as make sense."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(help="Processes that share a step, each with the memory; see docs/scaling.md.", min=1),
    ] = 1,
    precision: Annotated[
        str, typer.Option(help="auto is this machine's own.", metavar="|".join(CHOICES["precision"]))
    ] = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how a training step would fit into memory and what it computes; no weights are loaded."""
    check_choice("towers", towers)
    check_choice("precision", precision)
    from blocklora.run.plan import plan_step

    result = plan_step(
        model, classes, method=method, batch_size=batch_size, memory=memory, device=device, precision=precision,
        processes=processes, r=r, n_blocks=n_blocks, towers=towers, layers=layers, cached_views=cached_views,
        targets=tuple(part.strip() for part in targets.split(",")),
    )  # fmt: skip
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def _print(result: StepPlan) -> None:
    """Print the plan, the smaller ones, and what the usual ways would need."""
    OUT.print(
        f"{result.model}, {count(result.classes, 'class')}, "
        f"{count(result.batch_size, 'image')} a step, activations in {8 * result.bytes_a_number} bits, "
        f"{result.trained_numbers:,} trainable parameters; "
        f"limit {format_bytes(result.limit_bytes)} on the device {result.device}."
    )
    table = Table()
    for heading, side in (("", "left"), ("peak memory", "right"), ("GFLOP a step", "right"), ("how", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    if result.processes > 1:
        exchanged = format_bytes(result.exchanged_bytes)
        OUT.print(
            f"Each of {result.processes} processes has at most {count(result.own_images, 'image')} and about "
            f"{count(result.own_classes, 'class')} of a step, and exchanges {exchanged} with "
            "the others; memory and GFLOP are those of one, the limit too. The two usual ways run in one process."
        )
    smaller = result.plans[1:]
    rows = [("this plan", result.chosen)]
    rows += [("if memory runs out", smaller[0])] if smaller else []
    rows += [("smallest", smaller[-1])] if smaller[1:] else []
    for name, row in rows:
        table.add_row(name, *_figures(row), row.plan)
    table.add_row(
        "plain PEFT LoRA", *_figures(result.peft_lora), "prompts padded to the longest; everything kept"
    )
    table.add_row(
        "CLIP-LoRA's code", *_figures(result.clip_lora), "prompts padded to the context; everything kept"
    )
    OUT.print(table)
    if result.views:
        OUT.print(
            f"Lower layers run once over {count(result.views, 'view')} of each image, 16 images a class: "
            f"{format_bytes(result.views_bytes)} of activations."
        )
    weights, before = format_bytes(result.weights_bytes), format_bytes(result.before_bytes)
    host = format_bytes(result.chosen.need.host)
    where = (
        f"tensors on the GPU ({weights} of fp32 weights and the step), beside {host} of host memory for reading "
        "images ahead"
        if result.device == "cuda"
        else f"the whole process ({before} before the first step, {weights} of it fp32 weights; 16 images a class)"
    )
    OUT.print(f"Peak memory is that of {where}. Class names are taken to be as long as ImageNet's.")


def _figures(row: Peak) -> tuple[str, str]:
    """Return peak memory and GFLOP as words."""
    return format_bytes(row.peak_bytes), f"{row.need.flops / 1e9:,.0f}"
