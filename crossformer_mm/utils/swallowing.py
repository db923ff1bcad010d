"""Functions of other packages in which an error that a signal raises would be lost."""

from types import FrameType

# Functions that catch every error, KeyboardInterrupt included, by the names of their modules.
SWALLOWING = (
    ('mmengine.config.config', 'pretty_text'),
    ('mmengine.logging.message_hub', 'state_dict'),
    ('mmengine.logging.message_hub', 'load_state_dict'),
    ('pycocotools.cocoeval', 'accumulate'),
)


def swallows_errors(frame: FrameType | None) -> bool:
    """Whether an error raised in a frame would be caught by code that catches every error."""
    while frame is not None:
        name = frame.f_code.co_name
        if name == '__del__' or (frame.f_globals.get('__name__'), name) in SWALLOWING:
            return True
        frame = frame.f_back
    return False
