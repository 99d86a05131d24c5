"""Step 12: the model card and the task's README, with every figure taken from results.json and the manifest."""

import csv
import json
from collections import Counter
from typing import Any

from build_task import ALIKE, TASK
from pack import SHIPPED
from paths import RESULTS
from sources import SOURCES, TEST_STYLE


def percent(found: dict[str, Any]) -> str:
    """Write a share with its interval."""
    value = found.get("value", found.get("mean"))
    text = f"{100 * value:.1f}%"
    low, high = found["interval"]
    return f"{text} ({100 * low:.1f} to {100 * high:.1f})"


def source_table() -> str:
    """List the sources of the model."""
    rows = ["| source | version | licence | author | use |", "|---|---|---|---|---|"]
    for s in SOURCES:
        rows.append(f"| {s.package} ({s.registry}) | {s.version} | {s.licence} | {s.author} | {s.role} |")
    return "\n".join(rows)


def task_table(results: dict[str, Any], names: list[str]) -> str:
    """Set zero-shot, linear probe and LoRA side by side."""
    rows = ["| task | test pictures | zero-shot | linear probe | LoRA |", "|---|---|---|---|---|"]
    for name in names:
        entry = results["tasks"][name]
        cells = [percent(entry[k]) for k in ("zero_shot", "linear_probe", "lora")]
        rows.append(f"| {name} | {entry['zero_shot']['n']} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def verdict(results: dict[str, Any], name: str) -> str:
    """Say whether a gain of adaptation is shown."""
    lora = results["tasks"][name]["lora"]
    n_seeds = len(lora["values"])
    seeds = f"{n_seeds} seed" + ("s" if n_seeds > 1 else "")
    if lora["gain_over_zero_shot_shown"]:
        probe = results["tasks"][name]["linear_probe"]
        beside = "and overlaps the linear probe's"
        if lora["interval"][0] > probe["interval"][1]:
            beside = "and above the linear probe's"
        elif lora["interval"][1] < probe["interval"][0]:
            beside = "but below the linear probe's: with these few steps a linear probe is the better choice"
        return f"- `{name}`: LoRA's interval over {seeds} lies above zero-shot's, {beside}."
    why = "fewer than three seeds were run" if n_seeds < 3 else "the intervals overlap or LoRA is worse"
    return f"- `{name}`: a gain of adaptation is NOT shown ({why}; {seeds})."


def model_card(results: dict[str, Any]) -> str:
    """Return the model card."""
    parts, training, settings = results["parts"], results["training"], results["settings"]
    image, text = training["image"], training["text"]
    fidelity = parts["text fidelity"]
    lora = settings["lora"]
    minutes = {k: f"{training[k]['seconds'] / 60:.0f}" for k in ("image", "text")}
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# tiny: a CLIP of 5.4 million parameters, for trying things out without a download

A complete CLIP in transformers' format, made for the demos and tests of this package. It knows emoji-like icons and
little else; for real work take a published CLIP. Images 72 x 72, patches of 12, vision 192 x 6 layers, text 192 x 4
layers, 32 text positions, projection 256, logit scale 25, fp16. Its tokenizer is a CLIP-style BPE of 4030 tokens of
its own.

## How it was made

`tools/pretrain_tiny` in the repository makes it from nothing, on two CPU cores, seeded and counted in steps.

1. Text targets: MiniLM embeddings of emoji names, keywords and WordNet nouns, centred, reduced by PCA to 256.
2. Text tower: distilled to them in {text["step"]} steps of {text["config"]["batch_size"]} phrases
   ({minutes["text"]} minutes on a busy machine; seed {text["config"]["seed"]}).
3. Image tower: contrastive training against the fixed text targets, plus imitation of EfficientNet-Lite0's features,
   in {image["step"]} steps of {image["config"]["batch_size"]} pictures
   ({minutes["image"]} minutes on a busy machine; seed {image["config"]["seed"]}).

The teacher EfficientNet-Lite0 was trained on ImageNet, so its knowledge, and its licence questions, reach this model
indirectly. Twemoji is the style it never saw in training; FxEmoji was held out for validation.

{source_table()}

## Figures

All with 95% intervals: Wilson's over test pictures; for means over seeds the hull of that and of Student's over seeds.

- Retrieval of {settings["n_retrieved"]} pictures of an unseen style (Twemoji) among their {settings["n_retrieved"]}
  names, "{parts["retrieval"]["prompt"]}": r@1 {percent(parts["retrieval"]["r1"])}, r@5
  {percent(parts["retrieval"]["r5"])}. The names, drawn in other styles, were in the training data.
- Text tower against its MiniLM targets, 500 WordNet phrases it never saw: cosine
  {fidelity["held_out_wordnet"]["cosine"]:.3f}, r@1 {100 * fidelity["held_out_wordnet"]["r1"]:.1f}%; 500 emoji phrases
  it was trained on: cosine {fidelity["trained_emoji"]["cosine"]:.3f}, r@1
  {100 * fidelity["trained_emoji"]["r1"]:.1f}%.

Adaptation, {settings["shots"]} pictures a class, seeds {settings["seeds"]}: a linear probe (C = {settings["probe_C"]},
fixed beforehand) and LoRA (r = {lora["r"]}, q, k, v of both towers, {lora["iterations"]} steps of
{lora["batch_size"]}, lr {lora["lr"]}, fixed beforehand).

{task_table(results, list(results["tasks"]))}

{chr(10).join(verdict(results, name) for name in results["tasks"])}

## Limits

Trained on about 10,600 icons on plain ground: photographs are foreign to it. Its text tower knows single words and
short noun phrases, not sentences. Emoji carry the biases of those who chose and drew them. Not for any decision about
people.
"""


def task_card(results: dict[str, Any]) -> str:
    """Return the task's README."""
    with (TASK / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter((r["label"], r["split"]) for r in rows)
    labels = list(dict.fromkeys(r["label"] for r in rows))
    (source,) = (s for s in SOURCES if s.name == TEST_STYLE)
    table = ["| class | train | val | test |", "|---|---|---|---|"]
    table += [
        f"| {n} | " + " | ".join(str(counts[n, s]) for s in ("train", "val", "test")) + " |" for n in labels
    ]
    totals = Counter(r["split"] for r in rows)
    table.append(f"| all | {totals['train']} | {totals['val']} | {totals['test']} |")
    return f"""# twemoji: {len(labels)} kinds of everyday objects, drawn

{len(rows)} pictures of Twemoji, 96 x 96 pixels on white, lossless WebP, made by `tools/pretrain_tiny/build_task.py`.

Licence of the pictures: CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/), Copyright {source.author}.
Source: {source.package} {source.version} (npm), https://github.com/jdecked/twemoji.
Changes: drawn at 96 pixels, laid on white.

## Split

No picture has a sibling on another side. Siblings look alike (correlation above {ALIKE} at 16 x 16 pixels, as they are
or mirrored) or share the head of their name (blue book, open book); siblings of siblings are siblings. The column
`group` of manifest.csv numbers the groups. Classes come from the emoji's Unicode subgroups, so some are broad and some
pictures could stand in two of them.

{chr(10).join(table)}

## What adaptation brings on it

The bundled model `tiny`, {results["settings"]["shots"]} pictures a class; 95% intervals, see its model card. Where
a class has just {results["settings"]["shots"]} training pictures, every seed trains on the same ones.

{task_table(results, [TEST_STYLE])}

{verdict(results, TEST_STYLE)}

The model was not trained on Twemoji, but on other drawings of the same emoji and on their names: zero-shot figures on
this task say nothing about new kinds of objects.
"""


def main() -> None:
    """Write both."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    (SHIPPED / "README.md").write_text(model_card(results), encoding="utf-8")
    (TASK / "README.md").write_text(task_card(results), encoding="utf-8")


if __name__ == "__main__":
    main()
