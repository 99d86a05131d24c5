"""Preprocessing as an ONNX graph: what Pillow does, in standard operators.

Pillow resizes one side, rounds to whole levels, resizes the other side, and rounds again. Two ``Resize`` operators with
a rounding after each do the same, to a level or two in a few values of a thousand; one ``Resize`` of both sides would
be wrong by up to nine levels. Pillow 13 begins with the height where that shrinks by more than twice the pixels by
which the width does, else with the width. S = the side of the model's square.
"""

from __future__ import annotations

from typing import Any

from onnx import checker, parser

from blocklora.export.facts import Preprocess

__all__ = ["preprocess_graph"]

_MODES = {
    "bicubic": 'mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1, antialias = 1',
    "bilinear": 'mode = "linear", exclude_outside = 1, antialias = 1',
}

_SHORTEST = """
    all = Shape <start = 0, end = 2> (image)
    short = ReduceMin (all)
    most = Mul (short, longest)
    surplus = Sub (all, most)
    no_less = Max (surplus, zero)
    cut = Div (no_less, two)
    until = Sub (all, cut)
    middle = Slice (image, cut, until, rows_and_columns)
    size = Shape <start = 0, end = 2> (middle)
    scaled = Mul (size, side)
    resized = Div (scaled, short)
"""
_SQUARE = """
    middle = Identity (image)
    size = Shape <start = 0, end = 2> (middle)
    resized = Concat <axis = 0> (side, side)
"""


def preprocess_graph(how: Preprocess, ir_version: int, opset: int) -> Any:
    """Return a model from ``image``, uint8 (height, width, 3), to ``pixel_values``, float32 (1, 3, S, S)."""
    mean, std = (", ".join(f"{value:.9g}" for value in values) for values in (how.mean, how.std))
    resize = f"Resize <{_MODES[how.resample]}>"
    text = f"""
< ir_version: {ir_version}, opset_import: ["" : {opset}] >
preprocess (uint8[height, width, 3] image) => (float[1, 3, {how.side}, {how.side}] pixel_values)
< int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] side = {{{how.side}}},
  int64[1] longest = {{{how.longest}}}, int64[2] rows_and_columns = {{0, 1}}, int64[2] last_two = {{2, 3}},
  int64[2] first_two = {{1, 3}}, float half = {{0.5}}, float black = {{0}}, float white = {{255}},
  float scale = {{{how.scale:.9g}}}, float[3, 1, 1] mean = {{{mean}}}, float[3, 1, 1] std = {{{std}}} >
{{
    {_SHORTEST if how.resize == "shortest" else _SQUARE}
    colours_first = Transpose <perm = [2, 0, 1]> (middle)
    floats = Cast <to = 1> (colours_first)
    whole = Unsqueeze (floats, zero)
    old_height = Slice (size, zero, one)
    height_now = Slice (resized, zero, one)
    width_now = Slice (resized, one, two)
    old_width = Slice (size, one, two)
    shrinks = Sub (size, resized)
    height_shrinks = Slice (shrinks, zero, one)
    width_shrinks = Slice (shrinks, one, two)
    twice = Mul (width_shrinks, two)
    at_least = Max (twice, zero)
    height_first = Greater (height_shrinks, at_least)
    height_1 = Where (height_first, height_now, old_height)
    width_1 = Where (height_first, old_width, width_now)
    size_1 = Concat <axis = 0> (first_two, height_1, width_1)
    size_2 = Concat <axis = 0> (first_two, height_now, width_now)
    one_way = {resize} (whole, , , size_1)
    one_half_up = Add (one_way, half)
    one_floor = Floor (one_half_up)
    one_levels = Clip (one_floor, black, white)
    both_ways = {resize} (one_levels, , , size_2)
    both_half_up = Add (both_ways, half)
    both_floor = Floor (both_half_up)
    both_levels = Clip (both_floor, black, white)
    beside = Sub (resized, side)
    begin = Div (beside, two)
    end = Add (begin, side)
    square = Slice (both_levels, begin, end, last_two)
    shares = Mul (square, scale)
    centred = Sub (shares, mean)
    pixel_values = Div (centred, std)
}}
"""
    model = parser.parse_model(text)
    if how.resize == "square":  # which does not cut a long side
        kept = [
            tensor for tensor in model.graph.initializer if tensor.name not in ("longest", "rows_and_columns")
        ]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    checker.check_model(model, full_check=True)
    return model
