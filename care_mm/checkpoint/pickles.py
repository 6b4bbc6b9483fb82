"""A restricted unpickler for torch < 2.6, whose ``weights_only`` reader has a fixed allow-list.

It follows the rules of that reader: a file may only call functions, create objects and restore
state of types that are on the list.
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

# Types whose instances a file may restore (pickle's BUILD).
_WITH_STATE = (OrderedDict, Namespace, HistoryBuffer, np.ndarray, np.dtype, Tensor)
# Python 2 module names that old pickles still use.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes the way pickle protocols 0 to 2 store them: as latin-1 text."""
    if encoding != "latin1":
        raise UnpicklingError(f"bytes in {encoding!r}: the file was not written by torch.save")
    return text.encode(encoding)


def _by_name(allowed: Iterable[Any]) -> dict[str, Any]:
    """Return name -> object for our list and torch's own.

    Args:
        allowed: Objects, or pairs of an object and its name.
    """
    from torch._weights_only_unpickler import _get_allowed_globals

    pairs = [
        entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        for entry in allowed
    ]
    ours = {name: entry for entry, name in pairs}
    return {
        **_get_allowed_globals(),
        **ours,
        "collections.Counter": Counter,  # for MultiStepLR; newer versions of torch list it
        "_codecs.encode": _encode,
    }


def pickle_module(allowed: Iterable[Any]) -> SimpleNamespace:
    """Return a ``pickle_module`` for ``torch.load`` that accepts allowed objects only.

    Args:
        allowed: As for ``torch.serialization.safe_globals``.
    """
    by_name = _by_name(allowed)
    objects = list(by_name.values())

    class Unpickler(pickle._Unpickler):  # Python's, because the C class has no dispatch table
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
                raise UnpicklingError(f"a {type(self.stack[-2]).__name__} may not be restored")
            super().load_build()

        def refuse(self) -> None:
            raise UnpicklingError("the file was not written by torch.save")

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
