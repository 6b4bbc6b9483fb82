"""The allow-list for torch before 2.6, whose ``weights_only`` reader takes no names but its own.

The rules are those of that reader: what is called, made or given attributes has to be on the list.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar

import numpy as np
from mmengine.logging import HistoryBuffer
from torch import Tensor

# Of which instances a file may set the state.
_WITH_STATE = (OrderedDict, Namespace, HistoryBuffer, np.ndarray, np.dtype, Tensor)
# What pickles of Python's first protocols call modules.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def _encode(text: str, encoding: str) -> bytes:
    """As which these protocols keep bytes."""
    if encoding != "latin1":
        raise UnpicklingError(f"bytes in {encoding!r}: it was not written by torch.save")
    return text.encode(encoding)


def _by_name(allowed: Iterable[Any]) -> dict[str, Any]:
    """torch's own list and ours: objects, or pairs of an object and a name for it."""
    from torch._weights_only_unpickler import _get_allowed_globals

    pairs = [
        entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        for entry in allowed
    ]
    ours = {name: entry for entry, name in pairs}
    return {
        **_get_allowed_globals(),
        **ours,
        "collections.Counter": Counter,  # of MultiStepLR; in torch's list later on
        "_codecs.encode": _encode,
    }


def pickle_module(allowed: Iterable[Any]) -> SimpleNamespace:
    """A ``pickle_module`` for ``torch.load`` that knows what is allowed, and nothing else.

    Args:
        allowed: As ``torch.serialization.safe_globals`` takes it.
    """
    by_name = _by_name(allowed)
    objects = list(by_name.values())

    class Unpickler(pickle._Unpickler):  # in Python, since the one in C cannot be narrowed
        dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

        def find_class(self, module: str, name: str) -> Any:
            full = f"{_RENAMED.get(module, module)}.{name}"
            if full not in by_name:
                raise UnpicklingError(f"Unsupported global: {full}")
            return by_name[full]

        def _check(self, called: object) -> None:
            if not any(called is known for known in objects):
                raise UnpicklingError(f"{called!r} may not be called")

        def load_reduce(self) -> None:
            self._check(self.stack[-2])
            super().load_reduce()

        def load_newobj(self) -> None:
            self._check(self.stack[-2])
            super().load_newobj()

        def load_build(self) -> None:
            if not isinstance(self.stack[-2], _WITH_STATE):
                raise UnpicklingError(f"a {type(self.stack[-2]).__name__} may not be given state")
            super().load_build()

        def refuse(self) -> None:
            raise UnpicklingError("it was not written by torch.save")

        dispatch[pickle.REDUCE[0]] = load_reduce
        dispatch[pickle.NEWOBJ[0]] = load_newobj
        dispatch[pickle.BUILD[0]] = load_build
        for code in (
            pickle.INST,
            pickle.OBJ,
            pickle.NEWOBJ_EX,
            pickle.EXT1,
            pickle.EXT2,
            pickle.EXT4,
            pickle.STACK_GLOBAL,
        ):
            dispatch[code[0]] = refuse

    def load(file: BinaryIO, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(Unpickler=Unpickler, load=load, __name__=__name__)
