"""One inference or one training step of a network, ready to be run again and again."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from torch import Tensor

from ...models.crossformer import IMAGE_CHANNELS
from ..flops import flop_counter
from ..mixed_precision import BFloat16OptimWrapper, keep_boxes_in_float32
from .subjects import Subject, build

MODES = ('inference', 'train')
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
OBJECTS = 7  # an image, about as many as COCO has
CLASSES = 80


@dataclass(frozen=True)
class Case:
    """What exactly is run.

    Attributes:
        subject: The network.
        mode: ``'inference'``, or ``'train'`` for a step with forward, backward and AdamW.
        dtype: ``'float32'``, or ``'bfloat16'`` for autocast.
        height: Pixels of each image.
        width: The same.
        batch: Images.
        device: ``'cpu'`` or a CUDA device.
    """

    subject: Subject
    mode: str
    dtype: str
    height: int
    width: int
    batch: int = 1
    device: str = 'cpu'

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Case':
        """Undo :meth:`to_dict`."""
        return cls(**{**values, 'subject': Subject(**values['subject'])})


class Workload:
    """A network with its inputs. Each call runs one case once.

    A backbone takes random images; its training step starts from fixed gradients of its maps. A whole model
    does what MMEngine's loops do after loading: preprocessing, and prediction with all that follows the
    heads, or losses, backward and the optimizer, on random images with random objects.

    Args:
        case: What to run.

    Raises:
        UserError: The subject cannot be built.
    """

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.model = build(case.subject).to(case.device)
        self.model.train(case.mode == 'train')  # mmdet's Swin returns nothing from this
        self.is_whole_model = isinstance(self.model, BaseModel)
        if case.subject.compiled:
            (self.model.backbone if self.is_whole_model else self.model).compile()
        self.inputs = self._whole_inputs() if self.is_whole_model else self.images(case.height, case.width)
        self.optimizer = self._optimizer() if case.mode == 'train' else None
        if self.is_whole_model and case.dtype == 'bfloat16' and case.mode == 'inference':
            keep_boxes_in_float32(self.model)

    def __call__(self, inputs: Any = None) -> None:
        """Run once, on other inputs of the same kind if given."""
        inputs = self.inputs if inputs is None else inputs
        if self.case.mode == 'inference':
            self._infer(inputs)
        elif self.is_whole_model:
            self.model.train_step(inputs, self.optimizer)
        else:
            self._train_backbone(inputs)

    def images(self, height: int, width: int) -> Tensor:
        """Random images of another size, (B, 3, height, width)."""
        return torch.randn(self.case.batch, IMAGE_CHANNELS, height, width, device=self.case.device)

    def count(self) -> int:
        """Run once, without compiled code, and count the multiply-adds of its products."""
        with torch.compiler.set_stance('force_eager'), flop_counter() as counter:
            self()
        return counter.get_total_flops() // 2

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            torch.device(self.case.device).type, torch.bfloat16, enabled=self.case.dtype == 'bfloat16'
        )

    @torch.no_grad()
    def _infer(self, inputs: Any) -> None:
        with self._autocast():
            self.model.test_step(inputs) if self.is_whole_model else self.model(inputs)

    def _train_backbone(self, images: Tensor) -> None:
        with self._autocast():
            maps = self.model(images)
        torch.autograd.backward(maps, [torch.ones_like(x) for x in maps])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _optimizer(self) -> torch.optim.Optimizer | OptimWrapper:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        if not self.is_whole_model:
            return optimizer
        wrapper = (BFloat16OptimWrapper if self.case.dtype == 'bfloat16' else OptimWrapper)(optimizer)
        wrapper.initialize_count_status(self.model, 0, 1)
        return wrapper

    def _whole_inputs(self) -> dict[str, Any]:
        case = self.case
        if hasattr(self.model, 'decode_head'):
            # In training, it would pad every image to the config's crop.
            self.model.data_preprocessor.size = (case.height, case.width)
            return _segmentor_inputs(case)
        from mmdet.testing import demo_mm_inputs  # a segmentor does without MMDetection

        return demo_mm_inputs(
            case.batch,
            [(IMAGE_CHANNELS, case.height, case.width)] * case.batch,
            [OBJECTS] * case.batch,
            num_classes=CLASSES,
            with_mask=getattr(self.model, 'with_mask', False),
        )


def _segmentor_inputs(case: Case) -> dict[str, Any]:
    from mmseg.structures import SegDataSample  # a detector does without MMSegmentation

    size = (case.height, case.width)
    data: dict[str, Any] = {'inputs': [], 'data_samples': []}
    for _ in range(case.batch):
        labels = PixelData(data=torch.randint(CLASSES, (1, *size)))
        meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'flip': False}
        data['inputs'].append(torch.randint(256, (IMAGE_CHANNELS, *size), dtype=torch.uint8))
        data['data_samples'].append(SegDataSample(gt_sem_seg=labels, metainfo=meta))
    return data
