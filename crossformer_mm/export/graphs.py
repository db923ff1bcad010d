"""Which graph a model becomes."""

from mmengine.model import BaseModel
from torch import nn

from ..utils.errors import UserError
from .backbone import BackboneGraph

_SUPPORTED = (
    'RetinaNet, Faster, Mask and Cascade R-CNN, an EncoderDecoder with one decode head, an'
    ' ImageClassifier with a softmax, and with --backbone the backbone of any model'
)


def graph_of(model: BaseModel, backbone_only: bool = False) -> nn.Module:
    """Make the graph of a model, which shares its weights.

    Args:
        model: A model of MMDetection, MMSegmentation or MMPretrain, in evaluation mode.
        backbone_only: Make the graph of its backbone.

    Returns:
        A module with ``task``, the names of its ``outputs``, and a forward method whose arguments are the
        inputs of the graph.

    Raises:
        UserError: Models of its kind cannot be exported.
    """
    if backbone_only:
        return BackboneGraph(model)
    # only the toolbox in use is imported, since the others may not be installed
    toolboxes = {kind.__module__.partition('.')[0] for kind in type(model).__mro__}
    if 'mmdet' in toolboxes:
        from .detection import detector_graph

        return detector_graph(model)
    if 'mmseg' in toolboxes and _is_plain_segmentor(model):
        from .segmentation import SegmentorGraph

        return SegmentorGraph(model)
    if 'mmpretrain' in toolboxes and _is_plain_classifier(model):
        from .classification import ClassifierGraph

        return ClassifierGraph(model)
    head = next((getattr(model, name) for name in ('decode_head', 'head') if hasattr(model, name)), None)
    kind = type(model).__name__ + (f' with a {type(head).__name__}' if head is not None else '')
    raise UserError(f'{kind} cannot be exported; {_SUPPORTED} can')


def _is_plain_segmentor(model: BaseModel) -> bool:
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    return isinstance(model, EncoderDecoder) and isinstance(model.decode_head, BaseDecodeHead)


def _is_plain_classifier(model: BaseModel) -> bool:
    from mmpretrain.models import ClsHead, ImageClassifier

    return isinstance(model, ImageClassifier) and isinstance(getattr(model, 'head', None), ClsHead)
