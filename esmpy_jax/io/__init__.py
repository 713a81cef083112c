"""Reading and writing spectrum images, through RosettaSciIO."""

from ._load import load as load
from ._save import save_image as save_image
