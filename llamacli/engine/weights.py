"""The weights of a loaded model, exchanged in place: what would the model say if this tensor were another one?

llama.cpp gives no access to them, but it shows each node of a graph that it computes to a callback, and a node points
to the tensors that go into it. Load the model without mmap (what is mapped cannot be written) and without repacking.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection

import numpy as np

from llamacli.engine import native
from llamacli.engine.context import Context
from llamacli.engine.ggml_tensor import Tensor, check_layout
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.types import ContextOptions
from llamacli.errors import EngineError, printable

for _name, _result, _arguments in (
    ("ggml_nbytes", ctypes.c_size_t, [ctypes.c_void_p]),
    ("ggml_backend_tensor_set", None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]),
):
    _function = getattr(native.ggml_base, _name)
    _function.restype, _function.argtypes = _result, _arguments


class Weights:
    """Where the weights of a model lie: found once, while two tokens are evaluated."""

    def __init__(self, model: Model, names: Collection[str], n_threads: int = 0) -> None:
        """Raises EngineError where the library's tensors are laid out in another way than here."""
        check_layout()
        self._places: dict[str, set[int]] = {name: set() for name in names}
        callback = C.ggml_backend_sched_eval_callback(self._on_node)
        with Context(model, ContextOptions(n_ctx=256, n_batch=32, n_threads=n_threads), callback) as context:
            start = max(model.bos, 0)
            context.logits([start, start])

    @property
    def found(self) -> frozenset[str]:
        """Names of those that can be exchanged: experts that are used by no graph, for one, cannot."""
        return frozenset(name for name, places in self._places.items() if places)

    def _on_node(self, address: int, _ask: bool, _: object) -> bool:
        for source in Tensor.from_address(address).src:
            if source:
                # A tied matrix on two devices has two places; a view's or a copy's name is another one.
                places = self._places.get(Tensor.from_address(source).name.decode("utf-8", "backslashreplace"))
                if places is not None:
                    places.add(source)
        return False  # nothing of it needs to be waited for

    def set(self, name: str, data: np.ndarray, offset: int = 0) -> None:
        """Give a tensor these bytes, in the type that it has in the model. Raises EngineError behind its end."""
        data = np.ascontiguousarray(data)
        for place in self._places[name]:
            n_bytes = native.ggml_base.ggml_nbytes(place)
            if offset + data.nbytes > n_bytes:
                raise EngineError(f"{printable(name)} has {n_bytes} bytes, not {offset + data.nbytes}")
            native.ggml_base.ggml_backend_tensor_set(place, data.ctypes.data, offset, data.nbytes)
