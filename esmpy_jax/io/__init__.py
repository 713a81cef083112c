"""Reading and writing spectrum images, through RosettaSciIO."""

from ._batches import FileBatches as FileBatches
from ._batches import load_batches as load_batches
from ._load import load as load
from ._save import save_image as save_image
