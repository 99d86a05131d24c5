"""CLIP's image tower with a linear layer on unit features, for transformers.pipeline("image-classification").

transformers' own CLIPForImageClassification would average the patches, and does not normalise: other answers.
"""

import torch
from transformers import CLIPVisionModelWithProjection
from transformers.modeling_outputs import ImageClassifierOutput


class ClipClassifier(CLIPVisionModelWithProjection):
    """Logits are W f / |f| + b, already divided by the temperature."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = torch.nn.Linear(config.projection_dim, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, **_):
        """Return logits (B, N) of pixel values (B, 3, S, S)."""
        features = super().forward(pixel_values).image_embeds
        return ImageClassifierOutput(logits=self.classifier(torch.nn.functional.normalize(features)))
