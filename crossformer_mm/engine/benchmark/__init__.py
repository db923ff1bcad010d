"""Speed and memory, side by side: backbones, whole models and the input pipeline."""

from .compare import Setting, compare
from .subjects import Subject, build, parse_subject
from .workload import Case, Workload

__all__ = ['Case', 'Setting', 'Subject', 'Workload', 'build', 'compare', 'parse_subject']
