"""How images become the input of an exported model: from a config's test pipeline."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ..data.datasets import check_loading, type_name
from ..utils.errors import UserError

# Steps without effect where all images have one size, to which they are padded.
_WITHOUT_EFFECT = (
    *('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs', 'PackInputs'),
    'Pad',
)
_INTERPOLATIONS = ('bilinear', 'bicubic')
_LIBRARIES = {'cv2': 'opencv', 'pillow': 'pillow'}


def crop_size(cfg: Config) -> tuple[int, int] | None:
    """Height and width of the central crop in a config's test pipeline, if it has one."""
    for step in _pipeline(cfg):
        if type_name(step) == 'CenterCrop':
            side = step['crop_size']
            return (side, side) if isinstance(side, int) else tuple(side)
    return None


def preprocessing_of(cfg: Config, size: tuple[int, int], ignore_exif: bool) -> dict[str, Any]:
    """Describe how an image becomes the input of a file.

    Args:
        cfg: The config; its test pipeline says how images are resized.
        size: Height and width of the file's input.
        ignore_exif: Whether images are not turned as their EXIF data says.

    Returns:
        ``resize``: 'fit' keeps the ratio of the sides and pads at the bottom and right, 'stretch' does not,
        and 'edge' resizes the shorter side to ``edge`` and crops the centre; ``interpolation``, ``library``
        and ``ignore_exif``. With ``multiple``, the sides are then resized to multiples of it.

    Raises:
        UserError: The pipeline has a step that cannot be described in this way, or that the size does not
            fit.
    """
    check_loading(cfg)
    rule: dict[str, Any] = {'resize': 'stretch'}
    uncropped = None
    for step in _pipeline(cfg):
        name = type_name(step)
        if name == 'Resize':
            rule = {'resize': 'fit' if step.get('keep_ratio') else 'stretch', **_method(step)}
        elif name == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            edge = _edge(cfg, step['scale'], size)
            if edge < max(size):  # the image would not fill the crop
                raise _unsupported(step)
            rule, uncropped = {'resize': 'edge', 'edge': edge, **_method(step)}, step
        elif name == 'ResizeToMultiple':
            rule['multiple'] = _divisor(step, size)
        elif name == 'CenterCrop' and uncropped:
            uncropped = None
        elif name not in _WITHOUT_EFFECT:
            raise _unsupported(step)
    if uncropped:
        raise _unsupported(uncropped)
    return {'interpolation': 'bilinear', 'library': 'opencv', **rule, 'ignore_exif': ignore_exif}


def _pipeline(cfg: Config) -> Sequence[Mapping[str, Any]]:
    return cfg.test_dataloader.dataset.pipeline


def _edge(cfg: Config, edge: int, size: tuple[int, int]) -> int:
    """The length of the shorter side that leaves as much outside the crop as in the config."""
    return round(edge * max(size) / max(crop_size(cfg) or size))


def _divisor(step: Mapping[str, Any], size: tuple[int, int]) -> int:
    divisor = step.get('size_divisor', 32)
    if any(side % divisor for side in size):
        given, better = (
            ' '.join(map(str, sides)) for sides in (size, [-(-side // divisor) * divisor for side in size])
        )
        raise UserError(
            f'--size {given}: the config resizes images to multiples of {divisor}, such as {better}'
        )
    return divisor


def _method(step: Mapping[str, Any]) -> dict[str, str]:
    """The interpolation and the library of a step that resizes."""
    interpolation, library = step.get('interpolation', 'bilinear'), step.get('backend', 'cv2')
    if interpolation not in _INTERPOLATIONS or library not in _LIBRARIES:
        raise _unsupported(step)
    return {'interpolation': interpolation, 'library': _LIBRARIES[library]}


def _unsupported(step: Mapping[str, Any]) -> UserError:
    return UserError(
        f'the test pipeline has the step {dict(step)}, which an exported model cannot repeat; supported are'
        ' Resize, ResizeToMultiple, and ResizeEdge of the shorter side with CenterCrop, bilinear or bicubic'
    )
