"""Build a backbone from weights alone, and save one as a folder with weights and settings."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..models.arch import ARCHS
from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from ..utils.files import check_folder
from ..utils.outputs import check_outputs, write_output
from ..utils.text import shorten
from ..version import __version__
from .cache import CONFIG, WEIGHTS, find_weights
from .convert import Conversion, save_conversion, stored
from .load import load_backbone, not_finite, notes_on
from .meta import BACKBONE_NOTES, NOTES, implied_layout, notes_of
from .names import ablation_of, arch_of, describe_arch, tensors_of
from .reader import Checkpoint, error_context, local_path, open_checkpoint

ABOUT = {'architectures': ['CrossFormer'], 'model_type': 'crossformer', 'crossformer_mm_version': __version__}
KNOWN = inspect.signature(CrossFormer).parameters.keys() - {'pretrained', 'init_cfg'}

Network = TypeVar('Network', bound=CrossFormer)


def from_pretrained(network: type[Network], source: str | Path, **arguments: Any) -> Network:
    """Build a network with the weights of a file; see :meth:`CrossFormer.from_pretrained`."""
    path = find_weights(source)
    checkpoint = open_checkpoint(path)
    from_folder = path.name == WEIGHTS and local_path(source) == path.parent
    settings_from = path.with_name(CONFIG) if from_folder else path
    with error_context(settings_from):
        settings = _read_config(settings_from) if from_folder else settings_in(checkpoint)
        if path.name == f'{source}.safetensors':  # in the cache
            settings['arch'] = source
        try:
            model = network(**{**settings, **arguments})
        except ValueError as error:
            raise UserError(str(error)) from error
    load_backbone(model, checkpoint)
    return model.eval()


def save_pretrained(model: CrossFormer, folder: str | Path) -> None:
    """Write a network's weights and settings; see :meth:`CrossFormer.save_pretrained`."""
    weights, config = (local_path(folder) / name for name in (WEIGHTS, CONFIG))
    state = stored(model.state_dict())
    if bad := not_finite(state):
        raise UserError(f'save_pretrained {folder}: NaN or infinite values in {shorten(bad)}')
    check_folder('save_pretrained', weights.parent)
    check_outputs('save_pretrained', [weights, config])
    notes = {'version': __version__, 'kind': 'backbone', **notes_on(model)}
    conversion = Conversion('backbone', state, {NOTES: notes}, [])
    text = json.dumps({**ABOUT, **model.settings}, indent=2)
    config.unlink(missing_ok=True)  # a killed process must not leave it with other weights
    write_output(weights, lambda part: save_conversion(part, weights.suffix, conversion))
    write_output(config, lambda part: part.write_text(f'{text}\n'))


def settings_in(checkpoint: Checkpoint) -> dict[str, Any]:
    """The arguments of the backbone in a file: those that it notes, or what tensors and origin show.

    Raises:
        UserError: It contains no complete CrossFormer.
    """
    noted = notes_of(checkpoint).get(BACKBONE_NOTES)
    if noted is not None:
        return _checked(noted)
    state = tensors_of(checkpoint)
    arch = arch_of(state)
    name = describe_arch(arch)
    settings = {'arch': name if name in ARCHS else dataclasses.asdict(arch), **ablation_of(state, arch)}
    layouts = implied_layout(checkpoint).layouts
    return {**settings, 'long_distance': layouts[0]} if layouts else settings


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f'cannot be read ({error.strerror}); give {WEIGHTS} if there is none') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'is not valid JSON ({error}); copy or download it again') from error
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in ABOUT}
    return _checked(content)


def _checked(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, Mapping) or 'arch' not in settings:
        raise UserError('holds no settings of a CrossFormer: there is no arch')
    if unknown := [str(name) for name in settings if name not in KNOWN]:
        raise UserError(f'unknown settings {shorten(unknown)}; the known ones are {", ".join(sorted(KNOWN))}')
    return dict(settings)
