"""A small transformer."""

from timm.models.vision_transformer import VisionTransformer


class TinyDino(VisionTransformer):
    """A transformer as DINOv2's with registers: patches of 14, a class token and four registers."""

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__(
            img_size=image_size, patch_size=14, in_chans=channels, embed_dim=32, depth=3, num_heads=2, num_classes=0,
            reg_tokens=4, init_values=1e-5, no_embed_class=True,
        )  # fmt: skip
