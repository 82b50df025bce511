# Public names and their modules: `__init__.py` loads each on first use.
from .from_python import capture as capture
from .from_python import demo_model as demo_model
